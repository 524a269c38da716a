# SPDX-License-Identifier: GPL-2.0-only
"""The compile cache: keyed by every source that code can come from, never in the way, nothing left behind."""

from __future__ import annotations

import shutil

import pytest

from stress.engine import compiled

from . import command as cmd

COMPILING = "compiling the model"


@pytest.fixture
def checkout(tmp_path):
    """A copy of the sources that may be changed."""
    folder = tmp_path / "checkout"
    for package in ("model", "stress"):
        shutil.copytree(cmd.ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def scenario(tmp_path):
    return cmd.small(tmp_path)


def test_a_changed_model_function_is_obeyed(checkout, scenario, tmp_path):
    """The same cache, another source in a file that is not the entry point's: the next run does what the source says."""
    env = cmd.environment(XDG_CACHE_HOME=str(tmp_path / "cache"), PYTHONPATH=str(checkout))

    def run():
        ended = cmd.run(scenario, tmp_path / "runs", "--duration", "500ms", env=env, cwd=tmp_path)
        assert ended.code == 0, ended.told()
        deletes = ended.result["counters"]["deletes"]
        assert deletes > 0
        return deletes, COMPILING in "".join(ended.lines)

    source = checkout / "model" / "userspace.py"
    original = source.read_text(encoding="utf-8")
    before, after = "vm.counter[me, C_DELETES] += 1\n", "vm.counter[me, C_DELETES] += 1000003\n"
    assert original.count(before) == 1
    assert run()[1]
    source.write_text(original.replace(before, after), encoding="utf-8")
    deletes, compiled_it = run()
    assert (deletes % 1000003, compiled_it) == (0, True)
    source.write_text(original, encoding="utf-8")
    deletes, compiled_it = run()
    assert (deletes < 1000003, compiled_it) == (True, False)


def test_without_a_place_for_a_cache(scenario, tmp_path):
    """An unwritable cache folder costs time, no more: the run passes, and no file is left."""
    (tmp_path / "tmp").mkdir()
    env = cmd.environment(XDG_CACHE_HOME="/dev/null", TMPDIR=str(tmp_path / "tmp"))
    ended = cmd.run(scenario, tmp_path / "runs", "--duration", "200ms", env=env)
    assert ended.code == 0, ended.told()
    assert ended.lines[1].startswith(COMPILING)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_every_source_file_counts(checkout, monkeypatch):
    """One changed byte in any module of the model or of the engines gives another hash; so does a new file."""
    monkeypatch.setattr(compiled.model, "__path__", [str(checkout / "model")])
    monkeypatch.setattr(compiled.stress.engine, "__path__", [str(checkout / "stress" / "engine")])
    seen = {compiled.source_hash()}
    files = [*(checkout / "model").glob("*.py"), *(checkout / "stress" / "engine").glob("*.py")]
    for path in files:
        path.write_bytes(path.read_bytes() + b"#")
        seen.add(compiled.source_hash())
    (checkout / "model" / "new.py").write_bytes(b"")
    seen.add(compiled.source_hash())
    assert len(seen) == len(files) + 2 > 30


def test_builds_have_folders_of_their_own(tmp_path, monkeypatch):
    """Switches, sources and the place of the sources each make another folder: Numba's index names the files it came from."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = {compiled._cache_folder("a", instrumented=noisy) for noisy in (False, True)}
    folders.add(compiled._cache_folder("b", instrumented=False))
    monkeypatch.setattr(compiled.model, "__path__", [str(tmp_path / "elsewhere")])
    folders.add(compiled._cache_folder("a", instrumented=False))
    assert len(folders) == 4


def test_old_builds_are_forgotten(tmp_path, monkeypatch):
    """The cache does not grow for ever: the newest builds stay, the one in use among them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for age in range(2 * compiled.BUILDS_KEPT):
        old = tmp_path / "zaptorture" / f"old{age}"
        old.mkdir(parents=True)
        cmd.os.utime(old, (1000 - age, 1000 - age))
    folder = compiled._cache_folder("a", instrumented=False)
    left = {path.name for path in (tmp_path / "zaptorture").iterdir()}
    assert left == {folder.name, *(f"old{age}" for age in range(compiled.BUILDS_KEPT - 1))}
