# SPDX-License-Identifier: GPL-2.0-only
"""The checker against the model, interleaving by interleaving: silent where the model's oracle is, loud where a bug is planted.

The logs are the model's own. On a real machine an actor may be held up between what it does and its note of it, and its clock may
differ from another's; both are done to the logs here.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from model.layout import MAX_FINDINGS
from stress.log.schema import Kind
from stress.verdict import Verdict
from tests.executions import Execution, interleave, late_logging
from tests.explore.test_planted_bugs import FIRST_FINDINGS

from . import sample as sm

if TYPE_CHECKING:
    from stress.check import CheckResult

CHUNK = 40  # logs in one test
GUEST_STALE, WRITEBACK_STALE = 2 | 8, 1 | 2

# The oracle compares its own words before it logs that the wait is over, or before the entry is set: a reader that leaves in
# between, or an exchange that fails, leaves no trace in the log.
UNSEEN_WHEN_PROMPT = {"I27"}
UNSEEN_WHEN_LATE = {"I27", "I6"}


def assert_silent(log: sm.Log, path, **options) -> None:
    """Nothing is found, nothing is doubtful, nothing is missing."""
    result = log.check(path, **options)
    assert (result.findings, result.ambiguous, result.problems) == ([], [], []), f"{log}\n{sm.told(result)}"
    assert result.verdict is Verdict.PASS, f"{log}: {result.reason}"
    assert result.events == len(log.events)


def layout(seed: int) -> dict[str, int]:
    """Some way to cut the events into row groups and files; the order of judgement must not depend on it."""
    choose = random.Random(seed).choice
    return {"row_group_rows": choose((50, 1 << 16, 1 << 16)), "file_rows": choose((200, 1 << 20))}


def correct_logs(first: int, path) -> None:
    for seed in range(first, first + CHUNK):
        assert_silent(sm.any_log(seed), path, **layout(seed))


def correct_late_logs(first: int, path) -> None:
    for seed in range(first, first + CHUNK):
        with late_logging():
            log = sm.any_log(seed)
        assert_silent(log, path, **layout(seed))


def skewed(log: sm.Log, seed: int) -> tuple[sm.Log, int]:
    """The log with closer events and with a clock for each actor, and how far two of these are apart at most."""
    rng = random.Random(seed)
    tick_ns, skew_ns = rng.choice((60, 100, 300)), rng.choice((200, 1000, 3000))
    # The last thousand ns of the window are for what a processor moves a clock reading.
    offsets = {actor: rng.randrange(skew_ns + 1) for actor in log.actors}
    for event in log.events:
        event.time_ns = event.time_ns // sm.TICK_NS * tick_ns + offsets[event.actor]
    return log, skew_ns


def correct_skewed_logs(first: int, path) -> Counter[str]:
    """Check that nothing is certain; returns how many of which rule are ambiguous."""
    seen: Counter[str] = Counter()
    for seed in range(first, first + CHUNK):
        with late_logging():
            log, skew_ns = skewed(sm.any_log(seed), seed)
        clock = {"kind": "test", "ticks_per_s": 10**9, "t0_ticks": 0, "skew_ns": skew_ns, "reason": "test"}
        result = log.check(path, manifest={"clock": clock})
        assert (result.findings, result.problems) == ([], []), f"{log}\n{sm.told(result)}"
        assert result.verdict is Verdict.PASS
        assert all(0 < finding.margin_ns <= result.window_ns == skew_ns + 1000 for finding in result.ambiguous)
        seen.update(finding.rule for finding in result.ambiguous)
    return seen


# --- correct runs


@pytest.mark.parametrize("first", [0, CHUNK])
def test_correct_logs_are_clean(first, tmp_path):
    """Nothing is found in the log of a correct interleaving, whatever the scenario and however the files are cut."""
    correct_logs(first, tmp_path / "run")


@pytest.mark.parametrize("first", range(1000, 1000 + 6 * CHUNK, CHUNK))
def test_correct_logs_are_clean_when_events_are_logged_late(first, tmp_path):
    """Nothing is found either if others come in between what an actor does and its note of it."""
    correct_late_logs(first, tmp_path / "run")


@pytest.mark.parametrize("first", range(2000, 2000 + 3 * CHUNK, CHUNK))
def test_clocks_that_differ_within_the_window_prove_nothing(first, tmp_path):
    """Late notes by clocks that are as far apart as the run measured: the wrong orders are ambiguous, none is certain."""
    assert correct_skewed_logs(first, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("first", range(10_000, 10_000 + 25 * CHUNK, CHUNK))
def test_correct_logs_are_clean_many(first, tmp_path):
    """The same as the three above, thousands of times."""
    correct_logs(first, tmp_path / "run")
    correct_late_logs(first + 10_000, tmp_path / "run")
    correct_late_logs(first + 20_000, tmp_path / "run")
    correct_skewed_logs(first + 30_000, tmp_path / "run")


def test_late_logging_changes_the_order_of_events():
    """The events of one actor are logged between an action of another and its event: else the tests above would show nothing."""
    settings = replace(sm.BASE, seed=1)
    prompt = sm.correct(settings, 1).events
    with late_logging():
        late = sm.correct(settings, 1).events
    assert [event[1:] for event in prompt] != [event[1:] for event in late]
    assert [event[0] for event in late] == sorted(event[0] for event in late)


def test_a_reference_taken_before_its_root_was_logged(tmp_path):
    """A vCPU finds a root, and logs it, before the vCPU that made the root has logged that: their sum is right."""
    log = next(log.copy() for log in sm.samples() if log.name == "split")
    alloc, get = next(
        (alloc, get)
        for alloc in log.of(Kind.ROOT_ALLOC)
        if (get := log.after(alloc, Kind.ROOT_GET, root=alloc.root)) and get.actor in log.vcpus and get.actor != alloc.actor
    )
    # Nobody but the two has logged anything about the root in between.
    following = log.after(get, *Kind, actor=alloc.actor)
    for event in log.own(alloc.actor):
        if alloc.time_ns <= event.time_ns < get.time_ns:
            event.time_ns = get.time_ns + 1 + (event.time_ns - alloc.time_ns) // 1000
            assert event.time_ns < following.time_ns
    result = log.check(tmp_path / "run")
    assert [finding for finding in result.findings if finding.rule == "I8"] == [], sm.told(result)


# --- planted bugs


def stale_events(log: sm.Log) -> set[tuple[str, str, int]]:
    """(kind, actor, seq) of every event that says of itself that it is stale."""
    stale = set()
    for actor in log.actors:
        for seq, event in enumerate(log.own(actor)):
            if event.kind == Kind.GUEST_ACCESS and event.arg1 & GUEST_STALE:
                stale.add(("stale-use", actor, seq))
            if event.kind == Kind.WRITEBACK and event.arg1 & WRITEBACK_STALE:
                stale.add(("stale-writeback", actor, seq))
    return stale


def assert_agreed(log: sm.Log, execution: Execution, result: CheckResult, unseen: set[str]) -> None:
    """What the oracle found is found in the log; the stale events are the same; what the run logged of it is read."""
    told = f"{log}: {execution.findings[:3]}\n{sm.told(result)}"
    judged = {(f.kind, f.actor, f.seq) for f in result.findings if f.kind.startswith("stale-") and f.judged_by != "time"}
    assert judged == stale_events(log), told
    recorded = Counter((finding.kind, finding.rule) for finding in result.recorded)
    assert recorded == Counter(execution.findings) or recorded.total() > MAX_FINDINGS, told
    if execution.findings:
        assert result.verdict is Verdict.VIOLATION, told
        assert result.nr_findings or {rule for _, rule in execution.findings} <= unseen, told
        if not result.nr_findings:
            assert "none of which the log shows" in " ".join(result.disagreements), told


def check_bug(row, count: int, path, unseen: set[str]) -> int:
    """Check up to `count` interleavings of a row of tests/explore/test_planted_bugs.py; in how many the oracle found something."""
    bugs, level, settings, prepare, most, _ = row
    shown = 0
    for seed in range(min(count, most)):
        planted = replace(settings, bugs=tuple(bugs), check_level=level, seed=seed)
        execution = interleave(planted, seed, prepare=prepare)
        log = sm.log_of(f"{'+'.join(bugs)} seed {seed}", planted, execution)
        assert_agreed(log, execution, log.check(path), unseen)
        shown += bool(execution.findings)
    return shown


def names_of(row) -> str:
    return "+".join(row[0]) + "-" + row[1]


@pytest.mark.parametrize("row", FIRST_FINDINGS, ids=names_of)
def test_what_the_oracle_finds_the_log_shows(row, tmp_path):
    """Planted bugs: every execution with a finding is a VIOLATION by its log alone, with the same stale events."""
    check_bug(row, 16, tmp_path / "run", UNSEEN_WHEN_PROMPT)


@pytest.mark.parametrize("row", FIRST_FINDINGS, ids=names_of)
def test_what_the_oracle_finds_a_late_log_shows(row, tmp_path):
    """The same with events that are logged late."""
    with late_logging():
        check_bug(row, 8, tmp_path / "run", UNSEEN_WHEN_LATE)


@pytest.mark.slow
@pytest.mark.parametrize("row", FIRST_FINDINGS, ids=names_of)
def test_what_the_oracle_finds_the_log_shows_many(row, tmp_path):
    """The same until every bug has shown itself to the oracle."""
    assert check_bug(row, 300, tmp_path / "run", UNSEEN_WHEN_PROMPT)


def test_a_planted_bug_shows_in_the_log_before_it_hurts(tmp_path):
    """no-request breaks the protocol every time; the oracle at level `use` sees only what goes stale, the log shows the cause."""
    row = next(row for row in FIRST_FINDINGS if (row[0], row[1]) == (["no-request"], "use"))
    settings = replace(row[2], bugs=("no-request",), check_level="use")
    silent = found = 0
    for seed in range(24):
        execution = interleave(replace(settings, seed=seed), seed)
        result = sm.log_of(f"seed {seed}", settings, execution).check(tmp_path / "run")
        silent += not execution.findings
        found += "I5" in result.nr_findings
    assert found == 24
    assert silent > 6
