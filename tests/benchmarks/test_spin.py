# SPDX-License-Identifier: GPL-2.0-only
"""The Promela twin: the smallest correct one passes, planted bugs are found; no figure is checked."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.spin import run
from model.mutations import MUTATIONS

ROOT = Path(__file__).parents[2]

needs_spin = pytest.mark.skipif(bool(run.missing()), reason=f"{run.missing()} is not installed")


def case(name):
    return next(case for case in run.CASES if case.name == name)


@needs_spin
def test_the_correct_twin_passes_completely():
    """One vCPU and one gfn: every state is searched, none has a finding."""
    result = run.search(case("correct"), "depth-first", vcpus=1, gfns=1)
    assert (result.verdict, result.finding, result.steps) == ("PASS", "", None)
    assert result.states > 1000


@needs_spin
@pytest.mark.parametrize(
    ("name", "level", "finding"),
    [
        ("request-without-ack", "protocol", "invariant [I26]"),
        ("request-without-ack", "use", "stale-use [I3]"),
        ("return-before-back-half", "use", "leftover-mapping [I2]"),
    ],
)
def test_planted_bugs_are_found_with_a_trail(name, level, finding):
    """The shortest trail ends in what docs/reference/planted-bugs.md says of that check level."""
    result = run.search(case(name), "breadth-first", vcpus=1, gfns=1, level=level)
    assert (result.verdict, result.finding) == ("VIOLATION", finding)
    assert result.steps > result.context_switches >= 0


@needs_spin
def test_a_limit_is_no_pass():
    """A search that is stopped says INCONCLUSIVE and how far it came."""
    result = run.search(case("correct"), "depth-first", vcpus=4, gfns=2, limit_s=1)
    assert result.verdict == "INCONCLUSIVE"
    assert result.states > 0


@needs_spin
@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_json(tmp_path):
    """In the quick mode: three cases depth first, the two planted ones also breadth first."""
    command = [sys.executable, "-m", "benchmarks.spin", "--quick", "--json", str(tmp_path / "spin.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "- machine: " in done.stdout
    searches = json.loads((tmp_path / "spin.json").read_text(encoding="utf-8"))
    assert [(entry["case"], entry["strategy"]) for entry in searches] == [
        ("correct", "depth-first"),
        ("request-without-ack", "depth-first"),
        ("no-gift", "depth-first"),
        ("request-without-ack", "breadth-first"),
        ("no-gift", "breadth-first"),
    ]


def test_without_the_tools_it_says_so(monkeypatch, capsys):
    """One line and no failure."""
    monkeypatch.setattr(run.shutil, "which", lambda tool: None)
    assert run.main([]) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_every_planted_bug_has_its_macro():
    """A macro for each of model/mutations.py but no-entry-barrier, which needs store buffers."""
    used = set(re.findall(r"[A-Z_]{4,}", " ".join(macro for case in run.CASES for macro in case.macros)))
    named = {name.upper().replace("-", "_") for name in MUTATIONS}
    assert named - used == {"NO_ENTRY_BARRIER"}
    twin = (ROOT / "benchmarks" / "spin" / "zap.pml").read_text(encoding="utf-8")
    assert [macro for macro in sorted(used) if not re.search(rf"(?:ifn?def |defined\(){macro}\b", twin)] == []
