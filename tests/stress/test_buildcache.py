# SPDX-License-Identifier: GPL-2.0-only
"""Folders for compiled code: one a build, the old ones forgotten."""

from __future__ import annotations

import os

import pytest

from stress import buildcache


@pytest.fixture
def entry(tmp_path, monkeypatch):
    """The file of an entry point, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "entry.py"
    path.write_text("")
    return path


def test_builds_have_folders_of_their_own(entry, tmp_path):
    """Switches, sources and the place of the sources each make another folder: Numba's index names the files it came from."""
    other = tmp_path / "copy.py"
    other.write_text("")
    builds = [("plain", "a", entry), ("noisy", "a", entry), ("plain", "b", entry), ("plain", "a", other)]
    folders = {buildcache.build_folder(*build) for build in builds}
    assert len(folders) == len(builds)
    assert all(folder is not None and folder.is_dir() for folder in folders)


def test_an_edited_entry_point_is_another_build(entry):
    """Numba's index holds the file's time."""
    before = buildcache.build_folder("plain", "a", entry)
    os.utime(entry, (1, 1))
    assert buildcache.build_folder("plain", "a", entry) != before


def test_old_builds_are_forgotten(entry, tmp_path):
    """The cache does not grow for ever: the newest builds stay, the one in use among them."""
    base = tmp_path / "cache" / "zaptorture"
    for age in range(2 * buildcache.BUILDS_KEPT):
        old = base / f"old{age}"
        old.mkdir(parents=True)
        os.utime(old, (1000 - age, 1000 - age))
    folder = buildcache.build_folder("plain", "a", entry)
    assert {path.name for path in base.iterdir()} == {folder.name, *(f"old{age}" for age in range(buildcache.BUILDS_KEPT - 1))}


def test_without_a_place_to_keep_it_there_is_no_folder(entry, monkeypatch):
    """A cache that cannot be written is no error: the caller compiles for its own process."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert buildcache.build_folder("plain", "a", entry) is None


def test_every_source_counts(tmp_path):
    """One changed byte, or a new file, gives another hash."""
    (tmp_path / "a.py").write_text("1")
    seen = {buildcache.sources_hash([tmp_path])}
    (tmp_path / "a.py").write_text("2")
    seen.add(buildcache.sources_hash([tmp_path]))
    (tmp_path / "b.py").write_text("")
    seen.add(buildcache.sources_hash([tmp_path]))
    assert len(seen) == 3
