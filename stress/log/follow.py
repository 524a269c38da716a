# SPDX-License-Identifier: GPL-2.0-only
"""The view of a run that goes on, page by page as it is written.

Event files become readable when they are closed, every couple of seconds for each actor (`stress/log/drain.py`), so the
actors' events are known up to different times. The one order of the view is kept by showing nothing that is later than
what is known of the slowest actor. An actor that had nothing to write for much longer than files stay open does not
hold the others up; should something older of it come after all, it is shown late, and that is said.

Under the policy `window` events are written when the run ends: control events are shown at once, the events after them.

The end is the control log's `verdict`, behind which nothing comes. A run that was killed never writes it: its end is that
none of its processes is left and nothing new has come for a while, since the parent, whose process id the log does not
have, may still be at work when its children are gone.
"""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import TYPE_CHECKING, Any

import psutil

from stress.log.control_reader import Position, control_lines
from stress.log.drain import FILE_AGE_PART_OF_RUN, FILE_AGE_S_MIN
from stress.log.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stress.log.archive import Archive
    from stress.log.view import Page, Selection

__all__ = ["POLL_S", "Follower", "is_running"]

POLL_S = 0.5
QUIET_POLLS_MAX = 20  # with no process left and nothing new
NS_PER_S = 1_000_000_000
# How long an actor may be behind, in terms of the time that its files stay open.
_PATIENCE = 3
_START_SLACK_S = 2.0


def is_running(pid: int, start_s: float) -> bool:
    """Whether a process runs that is no younger than this moment.

    A younger one got the number of one that has ended, and a zombie has ended too: it may stay as long as nobody asks
    for its exit code.

    Args:
        pid: process id.
        start_s: when the process was known to run, in seconds since 1970.
    """
    try:
        process = psutil.Process(pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= start_s + _START_SLACK_S)
    except psutil.AccessDenied:
        return True
    except (psutil.Error, ValueError, OverflowError):
        return False


class Follower:
    """Gives the pages of a run until it has ended; `ended` tells whether it has."""

    def __init__(
        self,
        archive: Archive,
        selection: Selection,
        pause: Callable[[], None],
        say: Callable[[str], None],
        runs: Callable[[int, float], bool] = is_running,
    ) -> None:
        """Nothing is read yet.

        Args:
            archive: the run, opened when its manifest and control log existed.
            selection: what to show.
            pause: waits between two looks.
            say: takes a line for the user.
            runs: whether a process that ran at a time (seconds since 1970) still does.
        """
        self.pids: dict[str, int] = {}  # of actors and helpers
        self.ended = False
        self._archive = archive
        self._selection = selection
        self._pause = pause
        self._say = say
        self._runs = runs
        self._processes: dict[int, float] = {}  # pid, and when it was seen to start
        self._newest_ns = 0  # of the control log
        self._window = False
        self._verdict = False
        self._shown_ns = 0
        self._late: set[str] = set()

    def pages(self) -> Iterator[Page]:
        """All pages up to the run's end, with a pause where nothing is to be shown yet."""
        view = View(self._archive, self._selection)
        seen, shown = _ControlTail(self._archive.folder.control), _ControlTail(self._archive.folder.control)
        quiet_polls = 0
        while True:
            # In this order: what a process wrote before it ended, and files that were closed before a line, are seen.
            running = any(self._runs(pid, start_s) for pid, start_s in self._processes.items())
            lines = sum(1 for _ in map(self._note, seen.events()))
            news = self._archive.reload() or lines > 0
            quiet_polls = 0 if news or running else quiet_polls + 1
            self.ended = self._verdict or quiet_polls > QUIET_POLLS_MAX
            control_ns, events_ns = self._ends_ns()
            for page in view.pages(shown.events(control_ns), events_ns):
                self._note_late(page)
                yield page
            self._shown_ns = max(self._shown_ns, events_ns or 0)
            if self.ended and not self._verdict:
                self._say("the run ended without a verdict: none of its processes is left")
            if self.ended or self._is_past_until(control_ns, events_ns):
                return
            self._pause()

    def _note(self, event: dict[str, Any]) -> None:
        self._newest_ns = max(self._newest_ns, event["t_ns"])
        match event:
            case {"event": "run_start", "policy": "window"}:
                self._window = True
                self._say('log.policy is "window": events are written when the run ends')
            case {"event": "process_start", "actor": str(actor), "pid": int(pid)}:
                self._processes[pid] = _seconds(event.get("timestamp"))
                self.pids[actor] = pid
            case {"event": "verdict"}:
                self._verdict = True

    def _ends_ns(self) -> tuple[int | None, int | None]:
        """Up to when control events and events may be shown; None: all that there are."""
        if self.ended:
            return None, None
        if self._window:
            return None, -1
        last_ns = [self._archive.last_ns.get(name, -1) for name in self._archive.actors if self._selection.has_actor(name)]
        if not last_ns:
            return None, None
        newest_ns = max(self._newest_ns, *last_ns)
        age_s = max(FILE_AGE_S_MIN, newest_ns / NS_PER_S * FILE_AGE_PART_OF_RUN)
        oldest_ns = newest_ns - int(_PATIENCE * age_s * NS_PER_S)
        end_ns = min(max(last, oldest_ns) for last in last_ns)
        return end_ns, end_ns

    def _is_past_until(self, control_ns: int | None, events_ns: int | None) -> bool:
        until_ns = self._selection.until_ns
        if until_ns is None:
            return False
        ends = [self._newest_ns if end is None else end for end in (control_ns, events_ns)]
        return min(ends) > until_ns

    def _note_late(self, page: Page) -> None:
        if not page.rows or page.columns["time_ns"][0] >= self._shown_ns:
            return
        late = page.columns["time_ns"] < self._shown_ns
        for actor in sorted({self._archive.actors[actor] for actor in page.actor[late].tolist()} - self._late):
            self._late.add(actor)
            self._say(f"{actor}: its files were closed late; events of it stand behind later ones of other actors")


class _ControlTail:
    """The control log, read on from where the last reading ended; the archive says what is wrong with it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = Position()

    def events(self, until_ns: int | None = None) -> Iterator[dict[str, Any]]:
        """Up to the first one that is later than `until_ns`, which is left for the next time."""
        with contextlib.suppress(OSError):
            for event, position in control_lines(self._path, self._position, lambda _number, _what: None):
                if until_ns is not None and event["t_ns"] > until_ns:
                    return
                self._position = position
                yield event


def _seconds(timestamp: Any) -> float:
    try:
        return datetime.fromisoformat(str(timestamp)).timestamp()
    except (ValueError, OverflowError):
        return 0.0
