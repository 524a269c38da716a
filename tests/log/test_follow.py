# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/log/follow.py: a run that is written between two looks at it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil

from stress.log.archive import Archive
from stress.log.control import ControlLog
from stress.log.events import ActorFile
from stress.log.follow import QUIET_POLLS_MAX, Follower, is_running
from stress.log.view import Selection, View, event_dicts

from . import run_folder as rf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

S = 1_000_000_000
OLD_S = 1.0  # long before any process of today


class LiveRun:
    """A run folder that grows, and a follower of it whose pauses are the steps of a test."""

    def __init__(self, path: Path, *actors: str, policy: str = "all", **selection: Any) -> None:
        self.folder = rf.write_run(path, {actor: [] for actor in actors}, complete=False, policy=policy)
        self.now_ns = 0
        self.control = ControlLog(self.folder.control, lambda: self.now_ns)
        self.files = {actor: ActorFile(self.folder.events, actor, rf.CLOCK) for actor in actors}
        self.seqs = dict.fromkeys(actors, 0)
        self.running = True
        self.said: list[str] = []
        self.selection = Selection(**selection)
        for pid, actor in enumerate(actors, start=100):
            self.emit(0, "process_start", actor=actor, pid=pid)

    def emit(self, now_ns: int, event: str, **fields: Any) -> None:
        self.now_ns = now_ns
        self.control.emit(event, **fields)

    def close_file(self, actor: str, *times: int) -> None:
        """One more file of the actor, closed."""
        records = rf.np.array([rf.event(time) for time in times], rf.np.int64)
        self.files[actor].append(records, self.seqs[actor])
        self.files[actor].close()
        self.seqs[actor] += len(times)

    def end(self, now_ns: int) -> None:
        self.emit(now_ns, "verdict", verdict="PASS", reason="")

    def looks(self, *steps: Callable[[], None]) -> list[list[tuple[Any, ...]]]:
        """What each look shows: before the first step, between two, and after the last."""
        shown: list[list[tuple[Any, ...]]] = [[]]
        todo = iter(steps)

        def pause() -> None:
            shown.append([])
            next(todo)()

        archive = Archive.open(self.folder.path)
        self.follower = Follower(archive, self.selection, pause, self.said.append, lambda _pid, _start: self.running)
        for page in self.follower.pages():
            shown[-1] += [
                (event["time_ns"] / S, event["actor"] if event["actor"] != "control" else event["kind"])
                for event in event_dicts(page, archive.actors)
                if event["kind"] != "run_start" and event["kind"] != "process_start"
            ]
        assert next(todo, None) is None
        return shown


def test_nothing_overtakes_the_slowest_actor(tmp_path: Path) -> None:
    """Events and control events are shown up to where all actors are known, the rest with the next file or at the end."""
    run = LiveRun(tmp_path / "run", "vcpu0", "vcpu1")
    run.emit(S, "heartbeat")
    looks = run.looks(
        lambda: run.close_file("vcpu0", 1 * S, 3 * S),
        lambda: run.close_file("vcpu1", 1 * S, 2 * S),
        lambda: run.close_file("vcpu1", 2 * S, 4 * S),
        lambda: run.end(5 * S),
    )
    assert looks == [
        [],
        [],
        [(1, "vcpu0"), (1, "vcpu1"), (1, "heartbeat"), (2, "vcpu1")],
        [(2, "vcpu1"), (3, "vcpu0")],
        [(4, "vcpu1"), (5, "verdict")],
    ]
    assert run.said == []
    assert run.follower.ended


def test_what_is_shown_is_the_view_of_the_run_that_has_ended(tmp_path: Path) -> None:
    """Every event once and in the same order, however the files were closed."""
    run = LiveRun(tmp_path / "run", "vcpu0", "vcpu1", "ctl")
    steps: list[Callable[[], None]] = []
    for second in range(1, 8):
        steps += [
            lambda second=second: run.close_file("vcpu0", *range(second * S, second * S + 50)),
            lambda second=second: run.emit(second * S + 7, "heartbeat"),
            lambda second=second: run.close_file("ctl", second * S + 10, second * S + 10),
            lambda second=second: run.close_file("vcpu1", *range(second * S + 5, second * S + 60, 5)),
        ]
    looks = run.looks(*steps, lambda: run.end(9 * S))
    archive = Archive.open(run.folder.path)
    whole = [event for event in View(archive, Selection()).events() if event["kind"] not in {"run_start", "process_start"}]
    assert [event for look in looks for event in look] == [
        (event["time_ns"] / S, event["actor"] if event["actor"] != "control" else event["kind"]) for event in whole
    ]
    assert sum(1 for look in looks[:-1] if look) > 5


def test_an_idle_actor_does_not_hold_the_others_up(tmp_path: Path) -> None:
    """Should one that was silent for much longer than files stay open write older things, they come late, as is said once."""
    run = LiveRun(tmp_path / "run", "vcpu0", "ctl")
    looks = run.looks(
        lambda: run.close_file("vcpu0", 1 * S, 5 * S),
        lambda: run.close_file("vcpu0", 11 * S),
        lambda: run.close_file("ctl", 2 * S, 3 * S),
        lambda: run.close_file("ctl", 4 * S, 9 * S),
        lambda: run.end(12 * S),
    )
    assert looks == [
        [],
        [],
        [(1, "vcpu0"), (5, "vcpu0")],
        [(2, "ctl"), (3, "ctl")],
        [(4, "ctl"), (9, "ctl")],
        [(11, "vcpu0"), (12, "verdict")],
    ]
    assert run.said == ["ctl: its files were closed late; events of it stand behind later ones of other actors"]


def test_under_window_control_events_come_at_once(tmp_path: Path) -> None:
    """The events are written when the run ends, one file after the other, and are shown when all are there."""
    run = LiveRun(tmp_path / "run", "vcpu0", "vcpu1", policy="window")
    looks = run.looks(
        lambda: run.emit(3 * S, "heartbeat"),
        lambda: run.close_file("vcpu1", 4 * S),
        lambda: run.close_file("vcpu0", 2 * S),
        lambda: run.end(5 * S),
    )
    assert looks == [[], [(3, "heartbeat")], [], [], [(2, "vcpu0"), (4, "vcpu1"), (5, "verdict")]]
    assert run.said == ['log.policy is "window": events are written when the run ends']


def test_only_the_actors_that_are_shown_are_waited_for(tmp_path: Path) -> None:
    """Nobody for the control log alone."""
    run = LiveRun(tmp_path / "run", "vcpu0", "vcpu1", actors=frozenset({"vcpu1", "control"}))
    looks = run.looks(lambda: run.close_file("vcpu1", 1 * S), lambda: run.end(2 * S))
    assert looks == [[], [(1, "vcpu1")], [(2, "verdict")]]
    run = LiveRun(tmp_path / "other", "vcpu0", actors=frozenset({"control"}))
    looks = run.looks(lambda: run.emit(1 * S, "heartbeat"), lambda: run.end(2 * S))
    assert looks == [[], [(1, "heartbeat")], [(2, "verdict")]]


def test_it_ends_behind_until(tmp_path: Path) -> None:
    """The run goes on."""
    run = LiveRun(tmp_path / "run", "vcpu0", until_ns=2 * S)
    assert run.looks(lambda: run.close_file("vcpu0", 1 * S, 2 * S), lambda: run.close_file("vcpu0", 3 * S)) == [
        *([], [(1, "vcpu0"), (2, "vcpu0")], [])
    ]
    assert not run.follower.ended


def test_a_killed_run_ends_when_none_of_its_processes_is_left(tmp_path: Path) -> None:
    """And nothing new has come for a while; what was held back is shown then."""
    run = LiveRun(tmp_path / "run", "vcpu0", "vcpu1")

    def kill() -> None:
        run.running = False

    def nothing() -> None:
        pass

    alive = [nothing] * (2 * QUIET_POLLS_MAX)
    looks = run.looks(*alive, lambda: run.close_file("vcpu0", 1 * S), kill, *[nothing] * QUIET_POLLS_MAX)
    assert [look for look in looks if look] == [[(1, "vcpu0")]]
    assert looks[-1]
    assert run.said == ["the run ended without a verdict: none of its processes is left"]
    assert run.follower.ended


def test_a_parent_that_is_still_at_work_is_waited_for(tmp_path: Path) -> None:
    """Its children are gone before it writes the verdict."""
    run = LiveRun(tmp_path / "run", "vcpu0")
    run.running = False

    def nothing() -> None:
        pass

    looks = run.looks(
        *[nothing] * (QUIET_POLLS_MAX - 1),
        lambda: run.emit(S, "heartbeat"),
        *[nothing] * (QUIET_POLLS_MAX - 1),
        lambda: run.end(2 * S),
    )
    assert looks[-1] == [(1, "heartbeat"), (2, "verdict")]
    assert run.said == []


def test_a_line_is_shown_when_it_is_whole(tmp_path: Path) -> None:
    """A damaged one is passed over."""
    run = LiveRun(tmp_path / "run", actors=frozenset({"control"}))

    def write(data: bytes) -> None:
        with run.folder.control.open("ab") as file:
            file.write(data)

    looks = run.looks(
        lambda: write(b'{"t_ns":1000000000,"event":"heart'),
        lambda: write(b'beat"}\n{"t_ns":\n'),
        lambda: run.end(2 * S),
    )
    assert looks == [[], [], [(1, "heartbeat")], [(2, "verdict")]]


def test_a_process_is_known_by_pid_and_time() -> None:
    """A number that another process has got since, a zombie and a number that nobody can have do not count."""
    assert is_running(os.getpid(), time.time())
    assert not is_running(os.getpid(), OLD_S)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert is_running(child.pid, time.time())
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
        assert not is_running(child.pid, time.time())
    finally:
        child.kill()
        child.communicate()
    assert not is_running(child.pid, time.time())
    assert not is_running(-1, time.time())
    assert not is_running(2**70, time.time())
