# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/log/control.py."""

from __future__ import annotations

import errno
import json
import os
from datetime import datetime, timedelta

import numpy as np
import pytest

from stress.errors import HarnessError
from stress.log.control import ControlLog
from stress.log.drain import LogReport


@pytest.fixture
def path(tmp_path):
    return tmp_path / "control.jsonl"


@pytest.fixture
def control(path):
    times = iter(range(1000, 2000))
    log = ControlLog(path, lambda: next(times))
    yield log
    log.close()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_is_one_flat_line_with_both_times(control, path):
    """The common fields come first, whatever Python type the numbers have; the line is there at once."""
    control.emit("warmup_done", accesses=np.int64(7), rate=float("nan"), note="two\nlines")
    (line,) = lines(path)
    assert list(line) == ["timestamp", "t_ns", "event", "accesses", "rate", "note"]
    assert (line["t_ns"], line["event"], line["accesses"], line["rate"]) == (1000, "warmup_done", 7, None)
    assert line["note"] == "two\nlines"
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)


def test_events_are_appended(control, path):
    """A line that another run of the process left stays; each event gets its own time."""
    path.write_text('{"event": "earlier"}\n')
    ControlLog(path, lambda: 0).emit("warmup_done")
    control.emit("heartbeat", rss_mb=1.5)
    assert [line["event"] for line in lines(path)] == ["earlier", "warmup_done", "heartbeat"]


@pytest.mark.parametrize("fields", [{}, {"actor": "vcpu0"}])
def test_an_event_without_its_fields_is_a_mistake_of_the_caller(control, fields):
    with pytest.raises(ValueError, match="process_start without"):
        control.emit("process_start", **fields)


def test_an_event_that_is_not_documented_is_a_mistake_of_the_caller(control):
    with pytest.raises(KeyError):
        control.emit("surprise")


def test_the_closed_log_is_told_actor_by_actor(control, path):
    """A reader learns from the control log how many events each actor's files must hold."""
    control.log_closed(LogReport("all", {"vcpu0": 10, "ctl": 3}, {"vcpu0": 8, "ctl": 3}))
    vcpu0, ctl, closed = lines(path)
    assert (vcpu0["event"], vcpu0["actor"], vcpu0["recorded"], vcpu0["logged"]) == ("actor_log", "vcpu0", 10, 8)
    assert (ctl["actor"], ctl["recorded"], ctl["logged"]) == ("ctl", 3, 3)
    assert (closed["policy"], closed["complete"], closed["logged"], closed["lost"]) == ("all", False, 11, 2)


def test_a_full_disk_is_one_line_and_leaves_whole_lines(control, path, monkeypatch):
    """A line that only fits in part is taken back; the next one is written when there is space again."""
    control.emit("warmup_done")
    write = os.write
    refusals = iter([lambda fd, data: write(fd, data[:5]), None])

    def nearly_full(fd: int, data: bytes) -> int:
        partial = next(refusals)
        if partial is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return partial(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", nearly_full)
        with pytest.raises(HarnessError, match=r"control.jsonl: cannot write: No space left on device \[ENOSPC\]\.$"):
            control.emit("heartbeat")
    control.emit("verdict", verdict="PASS", reason="")
    assert [line["event"] for line in lines(path)] == ["warmup_done", "verdict"]


def test_a_file_that_cannot_be_opened_is_one_line(tmp_path):
    with pytest.raises(HarnessError, match=r"control.jsonl: cannot write: No such file or directory \[ENOENT\]\.$"):
        ControlLog(tmp_path / "missing" / "control.jsonl", lambda: 0)
