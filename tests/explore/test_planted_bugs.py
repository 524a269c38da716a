# SPDX-License-Identifier: GPL-2.0-only
"""Random interleavings of the model on 2x2 entries: the correct variants pass, every planted bug is found.

These are the model's own functions, whole runs of them, interpreted (tests/executions.py). A planted bug is given the scenario
in which random scheduling meets it soon; what counts as its first finding is fixed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from model import atomics
from model.constants import (
    C_BACK_HALF_YIELDS,
    C_DELETES,
    C_GUEST_ACCESSES,
    C_HALVES_DISAGREED,
    C_LEAFS_YIELDS,
    C_MOVES,
    KVM_X86_QUIRK_SLOT_ZAP_ALL,
)
from model.layout import ACTOR_CTL
from model.mutations import MUTATIONS
from model.trace import tracer
from model.vm import SlotSettings, VmSettings
from model.wait import wait_while
from tests.executions import interleave

ONE = (SlotSettings(0, 2, can_delete=True),)
TWO = (SlotSettings(0, 2, can_delete=True), SlotSettings(2, 2, can_delete=True))
MOVING = (SlotSettings(0, 1, can_delete=True, move_to=1), SlotSettings(2, 2, can_delete=True))
# The second slot is never deleted: its faults go on while the first one's roots are zapped.
LIVE = (SlotSettings(0, 2, can_delete=True), SlotSettings(2, 2))

BASE = VmSettings(
    nr_vcpus=2,
    levels=2,
    bits_per_level=1,
    slots=TWO,
    nr_pages=40,
    seed=0,
    operations_max=6,
    entries_max=12,
    accesses_per_entry_max=3,
    tlb_entries=4,
)
# One vCPU against the controller: it can fall behind by a whole slot operation.
ALONE = replace(BASE, nr_vcpus=1, slots=ONE, operations_max=12, entries_max=40, accesses_per_entry_max=8)
VARIANTS = ("split", "split-once", "unsplit", "held")


def resched(vm):
    """Everybody is asked to reschedule once, at the first lock break."""
    vm.actor.need_resched[:] = 1


class Always:
    """A need_resched word that never clears: a lock break wherever one may be."""

    def __getitem__(self, actor):
        return 1

    def __setitem__(self, actor, value):
        pass


def always_resched(vm):
    vm.actor.need_resched = Always()


def first_findings(settings, count, prepare=None, first=0):
    """The first finding of each of `count` interleavings, None where there is none; and none may be stuck."""
    seen = Counter()
    for seed in range(first, first + count):
        execution = interleave(replace(settings, seed=seed), seed, prepare=prepare)
        assert execution.stuck is None, f"seed {seed}: {execution.stuck}"
        seen[execution.findings[0] if execution.findings else None] += 1
    return seen


# --- correct variants


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("quirk", [True, False])
@pytest.mark.parametrize("prepare", [None, resched, always_resched])
def test_correct_variants_pass(variant, quirk, prepare):
    """No variant has a finding or gets stuck in any of these interleavings, with MOVE, and with lock breaks."""
    for slots in (TWO, MOVING):
        settings = replace(BASE, variant=variant, quirk_slot_zap_all=quirk, slots=slots)
        assert set(first_findings(settings, 40, prepare)) == {None}


@pytest.mark.parametrize("level", ["use", "paranoid"])
def test_every_check_level_passes(level):
    """The other two check levels have no finding of their own on a correct protocol."""
    assert set(first_findings(replace(BASE, slots=MOVING, check_level=level), 60, resched)) == {None}


def test_correct_on_more_vcpus_entries_and_levels():
    """Three vCPUs, three levels, four entries a table, holes, halts and no lock break on contention change nothing."""
    for changes in (
        {"nr_vcpus": 3, "halt_ratio": 0.2, "halt_us_max": 300},
        {"levels": 3, "hole_ratio": 0.2},
        {"bits_per_level": 2, "lock_break_on_contention": False, "slots": (SlotSettings(0, 10, True), SlotSettings(12, 2, True))},
    ):
        assert set(first_findings(replace(BASE, nr_pages=80, **changes), 40, always_resched)) == {None}


def test_the_interleavings_mean_something():
    """The passes above were no empty runs: slots were deleted and moved, guests hit memory, zaps yielded."""
    sums = Counter()
    for quirk in (True, False):
        for seed in range(20):
            settings = replace(BASE, slots=MOVING, quirk_slot_zap_all=quirk, seed=seed)
            counters = interleave(settings, seed, prepare=always_resched).vm.counter.sum(axis=0)
            for counter in (C_BACK_HALF_YIELDS, C_DELETES, C_GUEST_ACCESSES, C_LEAFS_YIELDS, C_MOVES):
                sums[counter] += int(counters[counter])
    assert min(sums.values()) > 10, sums
    assert len(sums) == 5


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_correct_variants_pass_many(variant):
    """The same, tens of thousands of times."""
    for quirk in (True, False):
        for slots in (TWO, MOVING):
            for prepare in (None, resched, always_resched):
                settings = replace(BASE, variant=variant, quirk_slot_zap_all=quirk, slots=slots)
                assert set(first_findings(settings, 1500, prepare, first=1000)) == {None}


# --- planted bugs: (names, level, settings, prepare, runs, first findings allowed, of which the last must have been seen)

STALE = ("stale-use", "I3")
LEFTOVER = "leftover-mapping"


def inv(number):
    return ("invariant", f"I{number}")


FOUR = replace(ALONE, bits_per_level=2, slots=(SlotSettings(0, 16, can_delete=True),), nr_pages=80, accesses_per_entry_max=16)
FIRST_FINDINGS = [
    (["request-without-ack"], "use", replace(ALONE, operations_max=24, entries_max=60), None, 300, {STALE}),
    (["request-without-ack"], "protocol", BASE, None, 40, {inv(26), inv(4)}),
    (["no-request"], "use", BASE, None, 60, {STALE}),
    (["no-request"], "protocol", BASE, None, 40, {inv(4), inv(5), STALE}),
    (["request-before-invalidate"], "use", BASE, None, 300, {STALE}),
    (["request-before-invalidate"], "protocol", BASE, None, 60, {inv(4), inv(5), STALE}),
    (["no-flush-on-load"], "use", ALONE, None, 40, {STALE}),
    (["no-flush-on-load"], "protocol", BASE, None, 10, {inv(21)}),
    (
        ["no-srcu-wait"],
        "use",
        replace(ALONE, quirk_slot_zap_all=False),
        None,
        300,
        {STALE, ("stale-writeback", "I2"), (LEFTOVER, "I1"), (LEFTOVER, "I2")},
    ),
    (["no-srcu-wait"], "protocol", BASE, None, 20, {inv(27)}),
    (["zap-only-without-flush"], "use", replace(BASE, quirk_slot_zap_all=False), None, 60, {STALE}),
    (["zap-only-without-flush"], "protocol", replace(BASE, quirk_slot_zap_all=False), None, 20, {inv(16)}),
    (["fault-into-invalidated-root"], "use", replace(ALONE, slots=LIVE), None, 300, {(LEFTOVER, "I7")}),
    (["fault-into-invalidated-root"], "protocol", replace(ALONE, slots=LIVE), None, 150, {inv(6)}),
    (["return-before-back-half"], "use", BASE, None, 20, {(LEFTOVER, "I2")}),
    (["back-half-after-commit"], "use", BASE, None, 20, {(LEFTOVER, "I2")}),
    (["advance-after-yield"], "use", FOUR, always_resched, 30, {(LEFTOVER, "I7")}),
    (["no-gift"], "protocol", BASE, None, 30, {inv(8), inv(9)}),
    (["no-gift"], "use", BASE, None, 30, {(LEFTOVER, "I7")}),
    (["put-before-zap", "iterator-without-reference"], "protocol", ALONE, None, 20, {inv(10)}),
    (["put-before-zap", "iterator-without-reference"], "use", ALONE, None, 20, {(LEFTOVER, "I7")}),
]


@pytest.mark.parametrize(
    ("bugs", "level", "settings", "prepare", "count", "expected"),
    FIRST_FINDINGS,
    ids=["+".join(row[0]) + "-" + row[1] for row in FIRST_FINDINGS],
)
def test_planted_bugs_are_found(bugs, level, settings, prepare, count, expected):
    """Each planted bug has a first finding of the right kind and rule, and no other, at the check level where it shows."""
    seen = first_findings_of_bug(replace(settings, bugs=tuple(bugs), check_level=level), count, prepare)
    assert seen - {None}
    assert seen <= expected | {None}


def first_findings_of_bug(settings, count, prepare):
    """Up to `count` interleavings, but no more once the bug has shown five times."""
    seen = Counter()
    for seed in range(count):
        execution = interleave(replace(settings, seed=seed), seed, prepare=prepare)
        seen[execution.findings[0] if execution.findings else None] += 1
        if seen.total() - seen[None] >= 5:
            break
    return set(seen)


def test_every_planted_bug_is_in_the_table():
    """A new switch in model/mutations.py needs its row here; the one that only store buffers show is in test_memory_model.py."""
    assert {bug for row in FIRST_FINDINGS for bug in row[0]} == set(MUTATIONS) - {"no-entry-barrier"}


@pytest.mark.parametrize("bug", ["put-before-zap", "iterator-without-reference"])
def test_each_of_the_reference_bugs_alone_is_masked(bug):
    """The iterator's reference hides the early put, the gifted reference the missing one: alone neither has a finding."""
    for settings in (BASE, ALONE, replace(BASE, slots=MOVING)):
        for prepare in (None, always_resched):
            assert set(first_findings(replace(settings, bugs=(bug,)), 40, prepare)) == {None}


def test_no_srcu_wait_is_masked_by_the_stale_check_where_everything_is_zapped():
    """The fault that kept the old slot finds its root obsolete; only the zap-only branch, which keeps the roots, is hurt."""
    settings = replace(ALONE, bugs=("no-srcu-wait",), check_level="use")
    assert set(first_findings(settings, 80)) == {None}
    pair = replace(settings, bugs=("no-srcu-wait", "fault-into-invalidated-root"))
    assert first_findings_of_bug(pair, 300, None) - {None}


# --- B41: the quirk moves between the two evaluations of the predicate

TOGGLED = replace(BASE, toggler_mode="flip", toggler_period_us_max=1)


def runs_with_toggler(variant, mode, quirk, count):
    seen, disagreed = Counter(), 0
    for seed in range(count):
        settings = replace(TOGGLED, variant=variant, toggler_mode=mode, quirk_slot_zap_all=quirk, seed=seed)
        execution = interleave(settings, seed)
        assert execution.stuck is None
        seen[execution.findings[0] if execution.findings else None] += 1
        disagreed += int(execution.vm.counter[ACTOR_CTL, C_HALVES_DISAGREED])
    return seen, disagreed


def test_the_split_predicate_is_found_out():
    """Evaluated twice while another thread switches the quirk off, the front half has no back half (B41, I23)."""
    seen, disagreed = runs_with_toggler("split", "flip", quirk=True, count=150)
    assert disagreed > 0
    assert set(seen) == {None, (LEFTOVER, "I23")}


class SwitchedOnInBetween:
    """disabled_quirks of a quirk that is off at the first look of every flush and on at the second."""

    def __init__(self):
        self.looks = 0

    def __getitem__(self, index):
        self.looks += 1
        return KVM_X86_QUIRK_SLOT_ZAP_ALL if self.looks % 2 == 1 else 0


def switched_on_in_between(vm):
    vm.kvm.disabled_quirks = SwitchedOnInBetween()


def test_the_split_predicate_is_harmless_the_other_way():
    """Switched on in between, a back half has nothing to do: the halves disagree every time and nothing is found."""
    for slots in (TWO, MOVING):
        for seed in range(40):
            settings = replace(BASE, variant="split", slots=slots, seed=seed)
            execution = interleave(settings, seed, prepare=switched_on_in_between)
            assert (execution.findings, execution.stuck) == ((), None)
            counters = execution.vm.counter[ACTOR_CTL]
            assert counters[C_HALVES_DISAGREED] == counters[C_DELETES] + counters[C_MOVES] > 0


@pytest.mark.parametrize("variant", ["split-once", "unsplit", "held"])
def test_one_evaluation_is_silent_under_the_toggler(variant):
    """Resolved once, the predicate may change as it likes."""
    seen, disagreed = runs_with_toggler(variant, "flip", quirk=True, count=60)
    assert (set(seen), disagreed) == ({None}, 0)


# --- the scheduler itself


@pytest.mark.parametrize("seed", [3, 17])
def test_the_same_seed_gives_the_same_execution(seed):
    """Ten times the same events, word for word, and the same number of scheduling points."""
    first = interleave(replace(BASE, slots=MOVING), seed)
    for _ in range(9):
        again = interleave(replace(BASE, slots=MOVING), seed)
        assert again.events == first.events
        assert (again.steps, again.findings, again.stuck) == (first.steps, first.findings, first.stuck)
    assert interleave(replace(BASE, slots=MOVING), seed + 1).events != first.events


def only(function, steps_max=20_000):
    """One interleaving in which every vCPU and the controller run this instead of their own part."""
    return interleave(BASE, 1, steps_max, main=lambda vm, me: function(vm, me) if me <= ACTOR_CTL else None)


def test_a_deadlock_is_reported():
    """Two actors that wait for each other: nobody is enabled, and the report names both."""

    def embrace(vm, me):
        if me < 2:
            wait_while(vm, me, vm.vcpu.requests, 1 - me, 0)

    stuck = only(embrace).stuck
    assert stuck.startswith("deadlock")
    assert "vcpu0 waits in embrace" in stuck
    assert "vcpu1 waits in embrace" in stuck


def test_a_livelock_is_reported():
    """An actor that retries although nobody will ever write what it reads is not run for ever."""

    def spin(vm, me):
        while me == 0 and atomics.load(vm.vcpu.requests, 0) == 0:
            atomics.retry_pause()

    execution = only(spin)
    assert execution.stuck.startswith("livelock")
    assert "vcpu0 retries in spin" in execution.stuck
    assert execution.steps < 100


def test_a_retry_that_was_overtaken_is_made_again():
    """Whoever writes the word before the reader pauses, or while it decides to, has still woken it: no false livelock."""

    def wait_for_flag(vm, me):
        if me == 0:
            atomics.attempt()
            while atomics.load(vm.vcpu.requests, 0) == 0:
                atomics.retry_pause()
        elif me == 1:
            atomics.store(vm.vcpu.requests, 0, 1)

    for seed in range(200):
        execution = interleave(BASE, seed, main=lambda vm, me: wait_for_flag(vm, me) if me <= ACTOR_CTL else None)
        assert execution.stuck is None


def test_an_endless_execution_is_cut_off():
    """Beyond its limit of steps, half of them scheduled fairly, an execution is a livelock."""

    def forever(vm, me):
        while me == 0:
            atomics.fetch_add(vm.vcpu.requests, 0, 1)

    execution = only(forever, steps_max=500)
    assert execution.stuck.startswith("livelock")
    assert execution.steps == 1000


def test_nothing_is_left_behind():
    """After an execution, stuck or not, primitives outside have no scheduler, and nobody collects events."""
    interleave(BASE, 1)
    assert atomics.engine.scheduler is None
    assert tracer.sink is None
    assert tracer.events is None
