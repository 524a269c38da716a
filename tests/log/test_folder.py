# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/log/folder.py."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from stress.errors import HarnessError, UsageError
from stress.log.folder import create_run_folder, write_atomic

NOW = datetime(2026, 12, 1, 10, 0, 0, 999_999, tzinfo=UTC)


def no_space(*_args: object, **_kwargs: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_folder_is_named_after_start_scenario_and_seed(tmp_path):
    """Names sort by time, wherever the run was started: the time is UTC."""
    folder = create_run_folder(tmp_path / "a" / "runs", "quick", 7, NOW.astimezone(timezone(timedelta(hours=5))))
    assert folder.path == tmp_path / "a" / "runs" / "2026-12-01T10-00-00-quick-7"
    assert [path.name for path in folder.path.iterdir()] == ["events"]
    parts = (folder.config, folder.manifest, folder.control, folder.state, folder.verdict)
    assert [path.name for path in parts] == ["config.toml", "manifest.json", "control.jsonl", "state.json", "verdict.json"]


def test_a_run_is_never_overwritten(tmp_path):
    """A second run of the same second, scenario and seed is refused, and the first stays as it was."""
    folder = create_run_folder(tmp_path, "quick", 7, NOW)
    folder.verdict.write_text("{}")
    with pytest.raises(UsageError, match=r"quick-7: already holds a run\. Choose another --out\.$"):
        create_run_folder(tmp_path, "quick", 7, NOW)
    assert folder.verdict.read_text() == "{}"


def test_out_must_be_a_folder(tmp_path):
    """The message names the option and the value."""
    out = tmp_path / "runs"
    out.write_text("")
    with pytest.raises(UsageError, match=rf"^--out = {out}: expected a folder that may be written: .*\[EEXIST\]\.$"):
        create_run_folder(out, "quick", 7, NOW)


def test_a_full_disk_is_no_error_of_use_and_leaves_no_folder(tmp_path, monkeypatch):
    mkdir = Path.mkdir
    monkeypatch.setattr(Path, "mkdir", lambda path, **kw: no_space() if path.name == "events" else mkdir(path, **kw))
    with pytest.raises(HarnessError, match=r"cannot create a run folder: No space left on device \[ENOSPC\]\.$"):
        create_run_folder(tmp_path, "quick", 7, NOW)
    assert not list(tmp_path.iterdir())


def test_write_atomic_replaces_the_content(tmp_path):
    path = tmp_path / "verdict.json"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch, where):
    """Whichever step the system refuses, a reader sees the old file and no half-written one."""
    path = tmp_path / "verdict.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[where], no_space)
    with pytest.raises(HarnessError, match=r"verdict.json: cannot write: No space left on device \[ENOSPC\]\.$"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
