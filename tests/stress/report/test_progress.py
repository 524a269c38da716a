# SPDX-License-Identifier: GPL-2.0-only
"""Live progress, and output that nobody reads any more."""

from __future__ import annotations

import io
import os
import threading
from types import SimpleNamespace
from typing import Any

from stress.report.progress import Display, progress_text


def at(elapsed_s: float, remaining_s: float = 0.0) -> Any:
    return SimpleNamespace(
        elapsed_s=elapsed_s,
        remaining_s=remaining_s,
        accesses_per_s=12_345_678.9,
        faults_per_s=1234.4,
        deletes_per_s=56.0,
        stale_uses=0,
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_line_has_rates_stale_uses_and_time_left() -> None:
    """In the order that people look for them."""
    text = progress_text(at(61.2, 3725))
    assert text == "61 s: 12.3 M accesses/s, 1,234 faults/s, 56 deletes/s, 0 stale uses, 1:02:05 left"


def test_piped_progress_is_plain_and_thins_out() -> None:
    """A line a second at first, a line a minute in a soak."""
    stream = io.StringIO()
    with Display(stream) as display:
        for step in range(4 * 3600):
            display.progress(at(step / 4))
    seconds = [int(line.split()[0]) for line in stream.getvalue().splitlines()]
    assert "\x1b" not in stream.getvalue()
    assert seconds[:4] == [1, 2, 3, 4]
    assert seconds[-1] - seconds[-2] == 60
    assert len(seconds) < 100


def test_a_terminal_gets_one_line_redrawn_without_a_thread(monkeypatch) -> None:
    """Workers are forked while the display exists: a thread would be lost in them, with its locks held."""
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    threads = threading.active_count()
    with Display(stream) as display:
        display.progress(at(1))
        display.message("compiling")
        display.progress(at(2))
        assert threading.active_count() == threads
        display.stop_live()
        display.message("PASS")
    output = stream.getvalue()
    assert "1 s: 12.3 M" in output
    assert "compiling" in output
    assert "\x1b[?25l" in output  # cursor hidden ...
    assert output.index("\x1b[?25h") > output.index("2 s: 12.3 M")  # ... and back
    assert output.endswith("PASS\n")


def test_a_dumb_terminal_gets_plain_lines(monkeypatch) -> None:
    """It could not redraw a line."""
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Display(stream) as display:
        display.progress(at(1))
    assert stream.getvalue().startswith("1 s: 12.3 M")
    assert "\x1b" not in stream.getvalue()


def test_a_reader_that_left_ends_the_output_not_the_run() -> None:
    """Neither a message nor progress raises, and the closing of the stream stays quiet."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "w", encoding="utf-8") as stream, Display(stream) as display:
        display.message("first")
        display.message("second")
        display.progress(at(1))
        stream.write("what another part of the program still had in the buffer")


def test_a_full_disk_is_said_once_on_standard_error(capsys) -> None:
    """Lost output is no reason to lose the run, but a reason to say so."""
    with open("/dev/full", "w", encoding="utf-8") as stream, Display(stream) as display:
        display.message("first")
        display.message("second")
    assert capsys.readouterr().err == "output lost: No space left on device\n"


def test_a_closed_stream_shows_nothing() -> None:
    """Python gives None for a descriptor that was closed before the start."""
    with Display(None) as display:
        display.message("first")
        display.progress(at(1))
