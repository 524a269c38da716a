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


@pytest.fixture
def tiny(checkout):
    """The same with a part for every actor that compiles at once: a model function decides a counter, then the actor ends."""
    actors = checkout / "model" / "actors.py"
    text = actors.read_text(encoding="utf-8")
    call = "    actor_main(vm, me)\n"
    assert text.count(call) == 1
    part = "    vm.counter[me, C_DELETES] += spte_to_pfn(make_spte(7, 16, True))\n    store(vm.actor.phase, me, PHASE_DONE)\n"
    imports = (
        "from model.atomics import store\n"
        "from model.constants import C_DELETES, PHASE_DONE\n"
        "from model.jit import entry, kernel\n"
        "from model.spte import make_spte, spte_to_pfn\n"
    )
    text = text.replace(call, part).replace("from model.jit import entry, kernel\n", imports)
    actors.write_text(text, encoding="utf-8")
    return checkout


def test_a_changed_model_function_is_obeyed(tiny, scenario, tmp_path):
    """The same cache, another source in a file that is not the entry point's: the next run does what the source says."""
    env = cmd.environment(XDG_CACHE_HOME=str(tmp_path / "cache"), PYTHONPATH=str(tiny))

    def run():
        ended = cmd.run(scenario, tmp_path / "runs", env=env, cwd=tmp_path)
        assert ended.code == 3, ended.told()  # nobody entered the guest
        return ended.result["counters"]["deletes"], COMPILING in "".join(ended.lines)

    actors = 4
    assert run() == (actors * 7, True)
    source = tiny / "model" / "spte.py"
    original = source.read_text(encoding="utf-8")
    before, after = "return (spte >> PFN_SHIFT) & PFN_MASK\n\n\n@", "return ((spte >> PFN_SHIFT) & PFN_MASK) + 1000\n\n\n@"
    assert original.count(before) > 0
    source.write_text(original.replace(before, after), encoding="utf-8")
    assert run() == (actors * 1007, True)
    assert run() == (actors * 1007, False)
    source.write_text(original, encoding="utf-8")
    assert run() == (actors * 7, False)


def test_without_a_place_for_a_cache(tiny, scenario, tmp_path):
    """An unwritable cache folder costs time, no more: the run is the same, and no file is left."""
    (tmp_path / "tmp").mkdir()
    env = cmd.environment(XDG_CACHE_HOME="/dev/null", TMPDIR=str(tmp_path / "tmp"), PYTHONPATH=str(tiny))
    ended = cmd.run(scenario, tmp_path / "runs", env=env, cwd=tmp_path)
    assert (ended.code, ended.result["counters"]["deletes"]) == (3, 4 * 7), ended.told()
    assert ended.lines[1].startswith(COMPILING)
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["cache", "/dev/null"])
def test_the_whole_model_is_obeyed(cache, checkout, scenario, tmp_path):
    """The same with nothing cut out, with a cache and without one."""
    (tmp_path / "tmp").mkdir()
    env = cmd.environment(XDG_CACHE_HOME=str(tmp_path / cache), TMPDIR=str(tmp_path / "tmp"), PYTHONPATH=str(checkout))

    def deletes():
        ended = cmd.run(scenario, tmp_path / "runs", "--duration", "500ms", env=env, cwd=tmp_path)
        assert ended.code == 0, ended.told()
        return ended.result["counters"]["deletes"]

    assert 0 < deletes() < 1000003
    source = checkout / "model" / "userspace.py"
    original = source.read_text(encoding="utf-8")
    before, after = "vm.counter[me, C_DELETES] += 1\n", "vm.counter[me, C_DELETES] += 1000003\n"
    assert original.count(before) == 1
    source.write_text(original.replace(before, after), encoding="utf-8")
    assert deletes() % 1000003 == 0
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
