# SPDX-License-Identifier: GPL-2.0-only
"""Proof that a search finds what is there, and says nothing where nothing is: planted bugs by PCT, correct variants completely."""

from __future__ import annotations

import pytest

from benchmarks.explore import BUGS
from model.mutations import MUTATIONS
from stress.config import bug_overrides, load_config
from stress.explore.native import is_available
from stress.explore.scenario import opening_of
from stress.explore.search import Budget, explore, follow
from stress.explore.shrink import shrink
from stress.explore.story import tell, told
from stress.explore.worker import Job

pytestmark = pytest.mark.skipif(not is_available(), reason="the native engine needs x86-64")

EXECUTIONS = 10_000
VARIANTS = ("split", "split-once", "unsplit", "held")


def config_of(name, *sets):
    return load_config(f"configs/explore/{name}.toml", sets, seed=1, scripted=True)


def config_with(bug):
    return config_of(bug.scenario, *bug.sets, *bug_overrides(bug.names))


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.label)
def test_a_planted_bug_is_found_by_pct_and_becomes_small(bug):
    """Within 10,000 executions; told by the other engine, followed by both; then at most three context switches."""
    config = config_with(bug)
    opening = opening_of(config)
    result = explore(Job(opening, "native", "pct", seed=1), Budget(executions=EXECUTIONS))
    assert result.failing is not None
    story, ending = told(opening, result.failing)
    assert ending.is_failure
    followed = follow(opening, story.runs)
    assert (followed.end, followed.digest, followed.events_digest) == (ending.end, story.digest, story.events_digest)
    small = shrink(config, story.runs, ending.signature, "native", 60)
    after = tell(opening_of(small.config), small.runs)
    assert after.ending.signature == ending.signature
    assert after.switches <= min(3, story.switches)


def test_every_planted_bug_is_looked_for():
    """A new switch in model/mutations.py needs its row in benchmarks/explore.py; store buffers are in test_cli_explore.py."""
    assert {name for bug in BUGS for name in bug.names} - {"B41"} == set(MUTATIONS) - {"no-entry-barrier"}


@pytest.mark.parametrize("bug", [bug for bug in BUGS if len(bug.names) == 1 and not bug.sets][:4], ids=lambda bug: bug.label)
def test_without_its_bug_a_scenario_is_silent(bug):
    """The same search of the same scenario, nothing planted."""
    result = explore(Job(opening_of(config_of(bug.scenario)), "native", "pct", seed=1), Budget(executions=EXECUTIONS))
    assert result.failing is None
    assert result.executions == EXECUTIONS


@pytest.mark.parametrize(
    ("variant", "memory"),
    [*((variant, "sc") for variant in VARIANTS), ("split-once", "tso")]
    + [pytest.param(variant, "tso", marks=pytest.mark.slow) for variant in VARIANTS if variant != "split-once"],
)
@pytest.mark.parametrize("quirk", ["true", "false"])
def test_correct_variants_are_silent_in_a_complete_search(variant, quirk, memory):
    """Every interleaving of one vCPU, one gfn and one DELETE, zap-all and zap-only, with and without store buffers."""
    sets = (f"variant='{variant}'", f"vm.quirk_slot_zap_all={quirk}", f"explore.memory='{memory}'")
    result = explore(Job(opening_of(config_of("entry-barrier", *sets)), "native", "states", seed=1), Budget())
    assert result.failing is None
    assert result.complete
    assert result.states > 1000


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_correct_variants_are_silent_at_level_protocol(variant):
    """The same with every check on, two gfns, and RCU callbacks between the steps."""
    sets = (f"variant='{variant}'", "check.level='protocol'", "slots.0.npages=2", "script.vcpus=[['w0','w1']]")
    result = explore(Job(opening_of(config_of("entry-barrier", *sets)), "native", "states", seed=1), Budget(memory_bytes=4 << 30))
    assert (result.failing, result.complete) == (None, True)


def test_the_search_over_states_finds_a_bug_of_every_kind():
    """A complete search that is silent on correct variants is not silent by itself."""
    for bug in ("no-request", "request-without-ack", "fault-into-invalidated-root", "return-before-back-half"):
        sets = ["vm.nr_vcpus=1", "script.vcpus=[['w0','w2']]", "script.ctl=['delete 0']", "script.rcu=false"]
        opening = opening_of(config_of("split-zap", *sets, *bug_overrides([bug])))
        if bug == "fault-into-invalidated-root":
            opening = opening_of(config_of("split-zap", *sets, "script.warm=false", *bug_overrides([bug])))
        result = explore(Job(opening, "native", "states", seed=1), Budget())
        assert result.failing is not None, bug
        assert told(opening, result.failing)[1].is_failure
