# SPDX-License-Identifier: GPL-2.0-only
"""Live progress: one line that is redrawn on a terminal, a plain line now and then when piped.

Nothing here starts a thread, since the engine forks its workers after the first messages: the line is redrawn when the
engine reports, never by a timer. A reader that went away (`| head`) ends the output, not the run.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from stress.report.text import amount

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stress.engine.result import Progress

__all__ = ["Display", "progress_text"]

PLAIN_INTERVAL_S_MIN = 1.0
PLAIN_INTERVAL_S_MAX = 60.0
PLAIN_INTERVAL_GROWTH = 0.25  # a soak of days shall not fill its log with progress


def progress_text(progress: Progress) -> str:
    """Rates, stale uses and time left in one line."""
    return (
        f"{progress.elapsed_s:.0f} s: {amount(round(progress.accesses_per_s))} accesses/s, "
        f"{amount(round(progress.faults_per_s))} faults/s, {amount(round(progress.deletes_per_s))} deletes/s, "
        f"{progress.stale_uses:,} stale uses, {_time_left(progress.remaining_s)} left"
    )


class Display:
    """Where the lines of one run go. Leaving the `with` block leaves the terminal as it was."""

    def __init__(self, stream: TextIO | None) -> None:
        """Write to `stream`; None, which Python gives for a closed descriptor, shows nothing."""
        self._stream = stream
        self._on_terminal = stream is not None and stream.isatty() and not Console(file=stream).is_dumb_terminal
        self._live: Live | None = None
        self._next_plain_s = PLAIN_INTERVAL_S_MIN

    def __enter__(self) -> Self:
        """Nothing to prepare: the live line appears with the first report."""
        return self

    def __exit__(self, *error: object) -> None:
        """Take the live line away."""
        self.stop_live()

    def message(self, line: str) -> None:
        """Print a line, above the live one if there is one."""
        with self._writing():
            if self._live is not None:
                self._live.console.print(Text(line), soft_wrap=True)
            elif self._stream is not None:
                print(line, file=self._stream, flush=True)

    def progress(self, progress: Progress) -> None:
        """Show the latest report of a run."""
        self.show(progress_text(progress), progress.elapsed_s)

    def show(self, text: str, elapsed_s: float) -> None:
        """Show how far something has come, so many seconds after its start."""
        if self._on_terminal:
            with self._writing():
                self._show_live(text)
        elif elapsed_s >= self._next_plain_s:
            growth_s = elapsed_s * PLAIN_INTERVAL_GROWTH
            interval_s = min(max(PLAIN_INTERVAL_S_MIN, growth_s), PLAIN_INTERVAL_S_MAX)
            self._next_plain_s = elapsed_s + interval_s
            self.message(text)

    def stop_live(self) -> None:
        """Take the live line away; what follows is plain text."""
        live, self._live = self._live, None
        if live is not None:
            with self._writing():
                live.stop()

    def _show_live(self, text: str) -> None:
        if self._live is None:
            # Redirection would replace sys.stdout under the engine, whose processes inherit it.
            self._live = Live(
                console=Console(file=self._stream, highlight=False),
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        self._live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            stream, self._stream = self._stream, None
            self._on_terminal, self._live = False, None
            if stream is not None:
                _abandon(stream)
            if not isinstance(error, BrokenPipeError) and stream is not sys.stderr:
                Display(sys.stderr).message(f"output lost: {error.strerror}")


def _abandon(stream: TextIO) -> None:
    # What is still buffered would fail again, and loudly, when the interpreter flushes it at its end.
    with contextlib.suppress(OSError), Path(os.devnull).open("wb") as devnull:
        os.dup2(devnull.fileno(), stream.fileno())


def _time_left(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
