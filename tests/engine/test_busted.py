# SPDX-License-Identifier: GPL-2.0-only
"""Every scenario with a planted bug ends in the finding that its comment names, and is silent without the bug."""

from __future__ import annotations

import re

import pytest

from stress.config import load_config

from . import command as cmd

CONFIGS = cmd.ROOT / "configs"
BUSTED = sorted((CONFIGS / "busted").glob("*.toml"))
MASKED = sorted((CONFIGS / "masked").glob("*.toml"))
EXPECTED = re.compile(r"^# Expected: VIOLATION (\S+) \[(\w+)\]\. Lowest check level that sees it: (\w+)", re.MULTILINE)
SEEDS = 20
DETECTED_MIN = 19  # of SEEDS, within the scenario's 60 s
ALWAYS = {"request-without-ack", "quirk-toctou"}  # silent without their bug, in every test run; the others under -m slow


def expected(scenario):
    kind, invariant, level = EXPECTED.search(scenario.read_text(encoding="utf-8")).groups()
    assert load_config(scenario, (), 1, None).check.level == level
    return kind, invariant


def first_finding(scenario, out, seed):
    ended = cmd.run(scenario, out, "--seed", str(seed))
    if ended.code != 1:
        return None, ended
    first = ended.result["findings"][0]
    assert ended.lines[-1].startswith(f"VIOLATION {first['kind']} [{first['invariant']}]: "), ended.told()
    return (first["kind"], first["invariant"]), ended


@pytest.mark.parametrize("scenario", BUSTED, ids=lambda path: path.stem)
def test_a_planted_bug_is_found(scenario, tmp_path):
    """VIOLATION of the kind and invariant in the comment, exit code 1, with the facts of the story."""
    seen, ended = first_finding(scenario, tmp_path / "runs", 1)
    assert seen == expected(scenario), ended.told()
    first = ended.result["findings"][0]
    assert first["actor"]
    assert first["detail"]
    assert first["time_ns"] > 0
    assert {"vcpu0", "vcpu1", "ctl"} <= first["last_events"].keys()
    cmd.assert_valid(ended.folder)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", BUSTED, ids=lambda path: path.stem)
def test_a_planted_bug_is_found_with_many_seeds(scenario, tmp_path):
    """The same within 60 s in at least 19 of 20 seeds, and never anything else."""
    seen = [first_finding(scenario, tmp_path / "runs", seed)[0] for seed in range(100, 100 + SEEDS)]
    assert set(seen) <= {expected(scenario), None}, seen
    assert seen.count(expected(scenario)) >= DETECTED_MIN, seen


@pytest.mark.parametrize(
    "scenario",
    [path if path.stem in ALWAYS else pytest.param(path, marks=pytest.mark.slow) for path in BUSTED],
    ids=lambda path: path.stem,
)
def test_silent_without_the_bug(scenario, tmp_path):
    """The same scenario with the bug switched off, for the split as posted with one evaluation, passes."""
    off = ('variant="split-once"',) if scenario.stem == "quirk-toctou" else ("bugs=[]",)
    ended = cmd.run(scenario, tmp_path / "runs", "--duration", "2s", sets=off)
    assert ended.code == 0, ended.told()
    assert ended.result["counters"]["deletes"] > 0


@pytest.mark.parametrize("scenario", MASKED, ids=lambda path: path.stem)
def test_a_masked_bug_stays_silent(scenario, tmp_path):
    """The comment says by what it is masked."""
    assert "# Expected: PASS" in scenario.read_text(encoding="utf-8")
    ended = cmd.run(scenario, tmp_path / "runs", "--duration", "3s")
    assert ended.code == 0, ended.told()
    assert ended.result["counters"]["deletes"] > 0
