# SPDX-License-Identifier: GPL-2.0-only
"""The native and the interpreted engine make the same executions, bit for bit: step by step, result by result, event by event."""

from __future__ import annotations

from dataclasses import replace

import pytest

from model.vm import SlotSettings, VmSettings
from stress.config import load_config
from stress.explore.native import is_available
from stress.explore.opening import Opening
from stress.explore.scenario import opening_of

from .native_side import ROOT, Task, interpreted, natively

pytestmark = pytest.mark.skipif(not is_available(), reason="the native engine needs x86-64")

SCRIPTED = {
    "split-zap": ([], ["no-request"], ["request-without-ack"], ["no-flush-on-load"], ["no-gift"], ["no-srcu-wait"]),
    "zap-only": ([], ["zap-only-without-flush"]),
    "entry-barrier": ([], ["no-entry-barrier"]),
}
STRATEGIES = ("random", "pct", "depth-first", "dpor")
MEMORIES = ("sc", "tso")
COUNT = 40

WHOLE = VmSettings(
    nr_vcpus=2,
    levels=2,
    bits_per_level=1,
    slots=(SlotSettings(0, 1, can_delete=True, move_to=1), SlotSettings(2, 2, can_delete=True)),
    nr_pages=40,
    seed=5,
    operations_max=6,
    entries_max=12,
    accesses_per_entry_max=3,
    tlb_entries=4,
    halt_ratio=0.1,
    toggler_mode="flip",
    toggler_period_us_max=1,
)


def scripted(name, bugs, memory):
    opening = opening_of(load_config(ROOT / "configs" / "explore" / f"{name}.toml", scripted=True))
    return replace(opening, memory=memory, settings=opening.settings.with_bugs(*bugs))


def tasks():
    """Every scenario under every strategy and memory model, and whole runs."""
    named = {}
    for name, variants in SCRIPTED.items():
        for bugs in variants:
            for memory in MEMORIES:
                for strategy in STRATEGIES:
                    named[" ".join([name, *bugs, memory, strategy])] = Task(scripted(name, bugs, memory), strategy, COUNT)
    for memory in MEMORIES:
        for variant in ("split", "held"):
            opening = Opening(replace(WHOLE, variant=variant), memory=memory, steps_max=100_000)
            named[f"whole run {variant} {memory}"] = Task(opening, "random", 10)
    return named


TASKS = tasks()


@pytest.fixture(scope="module")
def native_side():
    return dict(zip(TASKS, natively(list(TASKS.values())), strict=True))


@pytest.mark.parametrize("name", TASKS)
def test_the_engines_agree(native_side, name):
    """The same schedule has the same steps, results, events, trace and end in both engines."""
    task = TASKS[name]
    rows = interpreted(task)
    assert rows == native_side[name]
    # DPOR takes an execution that ends at a finding for all there is: whoever wants the first one needs no second.
    assert len(rows) == task.count or (task.strategy == "dpor" and rows[-1][0] == "finding")


def test_the_executions_mean_something(native_side):
    """Thousands of different executions were compared; many were clean, and every planted bug that shows under sc was found."""
    rows = [row for found in native_side.values() for row in found]
    assert len({row[3] for row in rows}) > 2000
    ends = {name: {row[0] for row in found} for name, found in native_side.items()}
    assert set().union(*ends.values()) <= {"complete", "finding", "pruned", "livelock", "deadlock"}
    assert sum(row[0] == "complete" for row in rows) > 1000
    for name, variants in SCRIPTED.items():
        for bugs in variants:
            if bugs and name != "entry-barrier":
                assert any("finding" in ends[" ".join([name, *bugs, "sc", strategy])] for strategy in STRATEGIES), bugs


def test_a_repeated_execution_agrees_too():
    """With each execution made twice, both engines see that it was the same, and go on as if it had been made once."""
    once = Task(scripted("split-zap", [], "sc"), "pct", 20)
    twice = replace(once, twice=True)
    assert interpreted(twice) == natively([twice])[0]
    assert [row[:1] + row[2:] for row in interpreted(twice)] == [row[:1] + row[2:] for row in interpreted(once)]


def test_the_comparison_notices_a_difference(native_side):
    """Another seed, another bug, another memory model: other rows."""
    name = "split-zap sc random"
    other = [
        replace(TASKS[name], seed=2),
        replace(TASKS[name], opening=scripted("split-zap", ["no-request"], "sc")),
        replace(TASKS[name], opening=scripted("split-zap", [], "tso")),
    ]
    for task in other:
        assert interpreted(task) != native_side[name]
