# SPDX-License-Identifier: GPL-2.0-only
"""Two judges of one run agree: the oracle inside the model while it runs, and the check of the log afterwards.

They share no code: the oracle looks at the model's memory, the check at the log alone.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from stress.check import CheckResult, check_run
from stress.config import load_config
from stress.log.schema import Kind
from stress.verdict import Verdict
from tests.engine import command as cmd

CONFIGS = cmd.ROOT / "configs"
BUSTED = sorted((CONFIGS / "busted").glob("*.toml"))
CORRECT = sorted([*(CONFIGS / "masked").glob("*.toml"), *(CONFIGS / "scenarios").glob("*.toml")])
ALWAYS = {"quick", "zap-only"}  # of the correct ones: in every test run; the others under -m slow
SEEDS = 20
DETECTED_MIN = 19  # of SEEDS; what is not found in time must be a PASS for both
LIMIT = {"busted": "20s", "masked": "1s", "scenarios": "1s"}
DERIVED_MIN = 15  # of SEEDS; see UNSEEN
FINDINGS_MAX = 64  # that a run keeps for its verdict.json
# A reader logs that it leaves kvm->srcu just before it does. If it is held up in between, the oracle sees it inside, and the log
# outside; an event behind the step would in turn accuse readers that had left.
UNSEEN = {"I27"}
# What a run looks at with check.level = "use"; a check applies all rules whatever the level was.
SEEN_BY_USE = {"I1", "I2", "I3", "I7", "I23"}

# What the model's oracle judges on the spot: the event that it logs just before its finding, and the bits that say stale.
TOUCHES = {1: ("stale-use", Kind.GUEST_ACCESS, 2 | 8), 2: ("stale-writeback", Kind.WRITEBACK, 1 | 2)}


class Judged(NamedTuple):
    """One run, and both judgements of it."""

    run: cmd.Outcome
    check: CheckResult


def judge(scenario, out, seed, *sets):
    """Run a scenario with all events logged and check its log; thresholds that a short run cannot reach are off."""
    evidence = msgspec.structs.asdict(load_config(scenario, (), 1, None).evidence)
    off = [f"evidence.{name}=0" for name, wanted in evidence.items() if wanted]
    options = ("--seed", str(seed), "--duration", LIMIT[scenario.parent.name])
    ended = cmd.run(scenario, out, *options, sets=("log.policy=all", *off, *sets))
    assert ended.code in {0, 1, 3}, ended.told()
    return Judged(ended, check_run(ended.folder))


def stale_by_run(folder):
    """(kind, actor, seq) of every event that the oracle called stale, out of the files as pyarrow reads them."""
    stale = set()
    for actor, table in cmd.logs_of(folder).items():
        kind, arg0, arg1, seq = (table[name].to_numpy() for name in ("kind", "arg0", "arg1", "seq"))
        for row in np.flatnonzero((kind == Kind.FINDING) & np.isin(arg0, list(TOUCHES))).tolist():
            name, touch, bits = TOUCHES[int(arg0[row])]
            assert kind[row - 1] == touch, (actor, row)
            assert arg1[row - 1] & bits, (actor, row)
            stale.add((name, actor, int(seq[row - 1])))
    return stale


def stale_by_check(result):
    """(kind, actor, seq) of every event that the check calls stale for what it carries."""
    names = {name for name, _, _ in TOUCHES.values()}
    return {(f.kind, f.actor, f.seq) for f in result.findings if f.kind in names and f.judged_by != "time"}


def recorded_by_run(ended):
    """How often the run reports which finding."""
    return Counter((finding["kind"], finding["invariant"], finding["actor"]) for finding in ended.result["findings"])


def level_of(folder):
    """The check level of the run."""
    return tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))["check"]["level"]


def assert_agreed(judged):
    """Verdict, stale events and recorded findings are the same; nothing at all is found in a run that found nothing."""
    run, result = judged
    told = "\n".join([run.told(), *map(str, [*result.findings[:3], *result.problems[:3]]), *result.disagreements])
    assert result.problems == [], told
    if run.result["verdict"] == Verdict.PASS.value and level_of(run.folder) == "use":
        # Such as a vCPU that nobody asks to reload and that comes to no access: harmless, and against the protocol.
        assert not SEEN_BY_USE & result.nr_findings.keys(), told
        assert result.verdict is (Verdict.VIOLATION if result.nr_findings else Verdict.PASS), told
    else:
        assert result.verdict.value == run.result["verdict"], told
    # The check's own findings, not those that the run wrote into its log.
    if result.verdict is not Verdict.VIOLATION or not {finding.rule for finding in result.recorded} <= UNSEEN:
        assert bool(result.nr_findings) == (result.verdict is Verdict.VIOLATION), told
    assert stale_by_check(result) == stale_by_run(run.folder), told
    recorded = Counter((finding.kind, finding.rule, finding.actor) for finding in result.recorded)
    if recorded.total() <= FINDINGS_MAX:
        assert recorded == recorded_by_run(run), told
    else:
        assert recorded_by_run(run) <= recorded, told


@pytest.fixture(scope="session")
def judged_once(tmp_path_factory):
    """One run of each scenario for all tests."""
    out = tmp_path_factory.mktemp("agreement")
    known = {}

    def judged(scenario):
        if scenario not in known:
            known[scenario] = judge(scenario, out, 1)
        return known[scenario]

    return judged


@pytest.mark.parametrize("scenario", BUSTED, ids=lambda path: path.stem)
def test_a_planted_bug_is_found_in_the_log_alone(scenario, judged_once):
    """VIOLATION for both, by findings of the check's own; the same stale events; the same findings recorded."""
    judged = judged_once(scenario)
    assert_agreed(judged)
    assert judged.check.verdict is Verdict.VIOLATION


@pytest.mark.parametrize(
    "scenario",
    [path if path.stem in ALWAYS else pytest.param(path, marks=pytest.mark.slow) for path in CORRECT],
    ids=lambda path: path.stem,
)
def test_a_correct_run_passes_by_its_log_alone(scenario, judged_once):
    """PASS for both, no finding, no problem, and every event judged."""
    judged = judged_once(scenario)
    assert_agreed(judged)
    assert judged.check.verdict is Verdict.PASS
    assert judged.check.events == sum(len(table) for table in cmd.logs_of(judged.run.folder).values())


def test_a_run_that_raced_too_little_is_inconclusive_for_both(tmp_path):
    """A threshold that was not reached is not reached in the log either, and the counter is named."""
    judged = judge(CONFIGS / "scenarios" / "quick.toml", tmp_path, 1, "evidence.deletes=1000000")
    assert_agreed(judged)
    assert judged.check.verdict is Verdict.INCONCLUSIVE
    assert "evidence.deletes" in judged.check.reason


def test_the_comparison_notices_a_stale_use_that_only_one_judge_saw(judged_once):
    """A check that drops one of its stale events, or a run that found nothing, is told from one that agrees."""
    run, result = judged_once(CONFIGS / "busted" / "request-without-ack.toml")
    assert stale_by_check(result)
    kept = [finding for finding in result.findings if finding.kind != "stale-use"]
    with pytest.raises(AssertionError, match="stale-use"):
        assert_agreed(Judged(run, CheckResult(**(vars(result) | {"findings": kept}))))
    with pytest.raises(AssertionError):
        assert_agreed(Judged(run, CheckResult(**(vars(result) | {"verdict": Verdict.PASS, "nr_findings": {}}))))


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [*BUSTED, *CORRECT], ids=lambda path: path.stem)
def test_both_judges_agree_on_many_seeds(scenario, tmp_path):
    """The same for 20 seeds each."""
    verdicts = []
    derived = 0
    for seed in range(100, 100 + SEEDS):
        judged = judge(scenario, tmp_path / str(seed), seed)
        assert_agreed(judged)
        verdicts.append(judged.check.verdict)
        derived += bool(judged.check.nr_findings)
    expected, count = (Verdict.VIOLATION, DETECTED_MIN) if scenario in BUSTED else (Verdict.PASS, SEEDS)
    assert verdicts.count(expected) >= count, verdicts
    if scenario in BUSTED:
        assert derived >= DERIVED_MIN
