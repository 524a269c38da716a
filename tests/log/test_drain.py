# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/log/drain.py."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess

import pytest

from stress.log import drain as drain_module
from stress.log.drain import (
    DRAIN_CLOSED,
    DRAIN_EXIT_FAILED,
    DRAIN_FAILED,
    DRAIN_RUNNING,
    STATUS_ERRNO,
    STATUS_HEARTBEAT,
    STATUS_LOST,
    STATUS_ROWS,
    STATUS_STATE,
    drain_main,
    log_report,
)
from stress.log.events import ROW_GROUP_ROWS

from . import shared_rings as sr


def drain(rings, folder, status, stop=lambda: True, *, policy="all", window_events=0):
    return drain_main(rings, folder, policy=policy, window_events=window_events, clock=sr.NS_CLOCK, status=status, stop=stop)


def test_everything_recorded_before_the_stop_is_written(tmp_path):
    """The rings are emptied after the stop was heard, and the report calls the log complete."""
    rings = sr.shared_rings(64, 3)
    status = sr.shared_status(rings)
    sr.record(rings, 0, sr.numbered_records(0, 64))
    sr.record(rings, 2, sr.numbered_records(0, 5))
    assert drain(rings, tmp_path, status) == 0
    sr.assert_numbered(sr.read_rows(tmp_path, "vcpu0"), 0, 64)
    sr.assert_numbered(sr.read_rows(tmp_path, "vcpu2"), 0, 5)
    report = log_report(rings, "all", status)
    assert (report.complete, report.lost) == (True, 0)
    assert report.logged == {"vcpu0": 64, "vcpu1": 0, "vcpu2": 5}
    assert (status[STATUS_STATE], status[STATUS_ROWS]) == (DRAIN_CLOSED, 69)


def test_a_full_ring_makes_its_writer_wait_and_nothing_is_lost(tmp_path):
    """Two processes write far more than their rings hold beside the drain; every record arrives, whole and in order."""
    n = 3 * ROW_GROUP_ROWS
    rings = sr.shared_rings(256, 2)
    status, stop = sr.shared_status(rings), sr.shared_words(1)
    drainer = sr.fork(lambda: drain(rings, tmp_path, status, lambda: bool(stop[0])))
    writers = [sr.fork(lambda actor=actor: sr.record_waiting(rings, actor, n)) for actor in range(2)]
    assert [sr.exit_code(pid) for pid in writers] == [0, 0]
    stop[0] = 1
    assert sr.exit_code(drainer) == 0
    for actor in range(2):
        sr.assert_numbered(sr.read_rows(tmp_path, f"vcpu{actor}"), 0, n)
    assert log_report(rings, "all", status).complete
    assert status[STATUS_HEARTBEAT] > 0


def test_a_running_writer_cannot_keep_the_drain_from_ending(tmp_path):
    """The drain writes what was recorded when it heard the stop; the rest makes the log incomplete."""
    rings = sr.shared_rings(64)
    status = sr.shared_status(rings)
    recorded = iter([10, 10])  # the heads that the drain sees; another record comes after each look

    def stop() -> bool:
        sr.record(rings, 0, sr.numbered_records(rings.recorded(0), 10))
        return next(recorded, None) is None

    assert drain(rings, tmp_path, status, stop) == 0
    sr.record(rings, 0, sr.numbered_records(30, 1))
    report = log_report(rings, "all", status)
    assert (report.complete, report.lost) == (False, 1)


def test_a_gap_is_counted_as_lost(tmp_path):
    """Records that were overwritten unread are counted, and the seq column shows where they are missing."""
    rings = sr.shared_rings(8)
    status = sr.shared_status(rings)
    sr.record(rings, 0, sr.numbered_records(0, 12))
    assert drain(rings, tmp_path, status) == 0
    sr.assert_numbered(sr.read_rows(tmp_path, "vcpu0"), 5, 7)
    assert status[STATUS_LOST] == 5
    report = log_report(rings, "all", status)
    assert (report.complete, report.lost) == (False, 5)


def test_a_sampled_log_is_never_complete(tmp_path):
    rings = sr.shared_rings(8)
    status = sr.shared_status(rings)
    sr.record(rings, 0, sr.numbered_records(0, 3))
    assert drain(rings, tmp_path, status, policy="sampled") == 0
    report = log_report(rings, "sampled", status)
    assert (report.complete, report.lost) == (False, 0)


def test_a_window_holds_the_last_events_of_each_actor(tmp_path):
    """Nothing is written before the stop, then the newest of each ring; what a window leaves out is not lost."""
    rings = sr.shared_rings(64, 3)
    status = sr.shared_status(rings)
    sr.record(rings, 0, sr.numbered_records(0, 1000))
    sr.record(rings, 1, sr.numbered_records(0, 5))
    files_at_stop = []

    def stop() -> bool:
        files_at_stop.append(list(tmp_path.iterdir()))
        return len(files_at_stop) == 2

    assert drain(rings, tmp_path, status, stop, policy="window", window_events=32) == 0
    assert files_at_stop == [[], []]
    sr.assert_numbered(sr.read_rows(tmp_path, "vcpu0"), 968, 32)
    sr.assert_numbered(sr.read_rows(tmp_path, "vcpu1"), 0, 5)
    report = log_report(rings, "window", status)
    assert (report.complete, report.lost) == (False, 0)


def test_a_window_that_holds_everything_is_complete(tmp_path):
    rings = sr.shared_rings(64)
    status = sr.shared_status(rings)
    sr.record(rings, 0, sr.numbered_records(0, 30))
    assert drain(rings, tmp_path, status, policy="window", window_events=32) == 0
    assert log_report(rings, "window", status).complete


def test_old_files_are_closed_during_the_run(tmp_path, monkeypatch):
    """A slow actor's rows do not wait for a full file: its file is closed by age."""
    monkeypatch.setattr(drain_module, "FILE_AGE_S_MIN", 0.0)
    monkeypatch.setattr(drain_module, "FILE_AGE_PART_OF_RUN", 0.0)
    rings = sr.shared_rings(64)
    status = sr.shared_status(rings)
    passes = []

    def stop() -> bool:
        sr.record(rings, 0, sr.numbered_records(len(passes), 1))
        passes.append(int(status[STATUS_ROWS]))
        return len(passes) == 4

    assert drain(rings, tmp_path, status, stop) == 0
    assert passes == [0, 1, 2, 3]
    sr.assert_numbered(sr.read_rows(tmp_path, "vcpu0"), 0, 4)


def test_a_killed_drain_leaves_closed_files_valid_and_the_loss_named(tmp_path, monkeypatch):
    """After SIGKILL in the middle of the writing every final name is readable, and the report knows their rows."""
    monkeypatch.setattr(drain_module.ActorFile.__init__, "__defaults__", (ROW_GROUP_ROWS,))
    rings = sr.shared_rings(1 << 12)
    status = sr.shared_status(rings)
    drainer = sr.fork(lambda: drain(rings, tmp_path, status, lambda: False))
    writer = sr.fork(lambda: sr.record_waiting(rings, 0, 1 << 40))
    try:
        sr.wait_until(lambda: status[STATUS_ROWS] >= 2 * ROW_GROUP_ROWS)
        os.kill(drainer, signal.SIGKILL)
        assert sr.exit_code(drainer) == -signal.SIGKILL
    finally:
        os.kill(writer, signal.SIGKILL)
        sr.exit_code(writer)
    assert status[STATUS_STATE] == DRAIN_RUNNING
    report = log_report(rings, "all", status)
    rows = sr.read_rows(tmp_path, "vcpu0")
    assert report.logged["vcpu0"] >= 2 * ROW_GROUP_ROWS
    assert len(rows["seq"]) - report.logged["vcpu0"] in (0, ROW_GROUP_ROWS)  # killed before it could report the last
    sr.assert_numbered(rows, 0, len(rows["seq"]))
    assert not report.complete
    assert report.lost == rings.recorded(0) - report.logged["vcpu0"]


def limited_drain(rings, folder, status, size_bytes):
    """The drain with a limit on the size of files, which refuses a write as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))
    return drain(rings, folder, status)


def test_a_refused_write_ends_the_drain_with_its_errno(tmp_path, capfd):
    """The exit code and the status tell the parent, nothing is printed, and small files of other actors are kept."""
    n = ROW_GROUP_ROWS
    rings = sr.shared_rings(n, 2)
    status = sr.shared_status(rings)
    sr.record(rings, 0, sr.numbered_records(0, 10))
    rings.ring[1] = sr.random_records(n)
    rings.head[1] = n
    assert sr.exit_code(sr.fork(lambda: limited_drain(rings, tmp_path, status, 20_000))) == DRAIN_EXIT_FAILED
    assert (status[STATUS_STATE], status[STATUS_ERRNO]) == (DRAIN_FAILED, errno.EFBIG)
    assert [path.name for path in tmp_path.iterdir()] == ["vcpu0-00000.parquet"]
    sr.assert_numbered(sr.read_rows(tmp_path, "vcpu0"), 0, 10)
    report = log_report(rings, "all", status)
    assert (report.complete, report.lost) == (False, n)
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if mount is None or subprocess.run([mount, *options], check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_ends_the_drain_with_enospc_and_gets_its_space_back(tiny_disk):
    """The half-written file is removed, so that the run can still write its verdict."""
    n = 2 * ROW_GROUP_ROWS
    rings = sr.shared_rings(n)
    status = sr.shared_status(rings)
    rings.ring[0] = sr.random_records(n)
    rings.head[0] = n
    assert sr.exit_code(sr.fork(lambda: drain(rings, tiny_disk, status))) == DRAIN_EXIT_FAILED
    assert (status[STATUS_STATE], status[STATUS_ERRNO]) == (DRAIN_FAILED, errno.ENOSPC)
    assert not list(tiny_disk.iterdir())
    (tiny_disk / "verdict.json").write_bytes(b"x" * 32_768)


def test_too_little_memory_is_reported_like_a_full_disk(tmp_path, monkeypatch):
    def refuse(*_args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(drain_module, "ActorFile", refuse)
    rings = sr.shared_rings(8)
    status = sr.shared_status(rings)
    assert drain(rings, tmp_path, status) == DRAIN_EXIT_FAILED
    assert status[STATUS_ERRNO] == errno.ENOMEM


def test_another_drain_goes_on_behind_a_killed_one(tmp_path, monkeypatch):
    """Its files follow those that are there, no row comes twice, and what the dead one had in memory is all that is missing."""
    monkeypatch.setattr(drain_module.ActorFile.__init__, "__defaults__", (ROW_GROUP_ROWS,))
    monkeypatch.setattr(drain_module, "FILE_AGE_S_MIN", 3600.0)
    rings = sr.shared_rings(1 << 12)
    status, stop = sr.shared_status(rings), sr.shared_words(1)
    n = 5 * ROW_GROUP_ROWS // 2
    drainer = sr.fork(lambda: drain(rings, tmp_path, status, lambda: False))
    assert sr.exit_code(sr.fork(lambda: sr.record_waiting(rings, 0, n))) == 0
    sr.wait_until(lambda: rings.taken(0) == n)
    os.kill(drainer, signal.SIGKILL)
    sr.exit_code(drainer)
    sr.record(rings, 0, sr.numbered_records(n, 10))
    (tmp_path / "vcpu0-00002.parquet.part").write_bytes(b"torn")
    drainer = sr.fork(lambda: drain(rings, tmp_path, status, lambda: bool(stop[0])))
    sr.wait_until(lambda: rings.taken(0) == n + 10)
    stop[0] = 1
    assert sr.exit_code(drainer) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"vcpu0-0000{number}.parquet" for number in range(3)]
    seq = sr.read_rows(tmp_path, "vcpu0")["seq"].tolist()
    assert seq == [*range(2 * ROW_GROUP_ROWS), *range(n, n + 10)]
    report = log_report(rings, "all", status)
    assert (report.complete, report.logged["vcpu0"], report.lost) == (False, len(seq), n - 2 * ROW_GROUP_ROWS)


def test_a_drain_that_died_between_its_file_and_the_ring(tmp_path):
    """Closed, but the slots not given back and the rows not reported: they are not written twice."""
    rings = sr.shared_rings(64)
    status = sr.shared_status(rings)
    sr.record(rings, 0, sr.numbered_records(0, 20))
    assert drain(rings, tmp_path, status) == 0
    rings.take(0, 5)
    status[:] = 0
    sr.record(rings, 0, sr.numbered_records(20, 10))
    assert drain(rings, tmp_path, status) == 0
    sr.assert_numbered(sr.read_rows(tmp_path, "vcpu0"), 0, 30)
    assert log_report(rings, "all", status).complete
