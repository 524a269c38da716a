# SPDX-License-Identifier: GPL-2.0-only
"""Rules between keys."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.layout import MAX_PAGES
from stress.config import Config, Evidence, Log, Nemesis, Perturb, Run, Slot, Vm, Workload, gfn_ranges, pages_needed
from stress.config.check import GENERATIONS, check_config
from stress.config.tables import BadValueError

SMALL = Vm(levels=2, bits_per_level=3)  # 64 gfns


def slots(*ranges: tuple[int, int]) -> tuple[Slot, ...]:
    return tuple(Slot(base_gfn=base, npages=npages) for base, npages in ranges)


def refusal(**keys) -> tuple[str, str]:
    with pytest.raises(BadValueError) as caught:
        check_config(Config(**keys))
    return ".".join(map(str, caught.value.path)), caught.value.expected


def test_the_defaults_are_a_scenario() -> None:
    """What is not written can be run."""
    check_config(Config())


def test_a_planted_bug_must_exist_and_stand_once() -> None:
    """A slip in its name gets the name that was meant."""
    check_config(Config(bugs=("request-without-ack",)))
    assert refusal(bugs=("request-without-akc",)) == ("bugs.0", 'a planted bug; did you mean "request-without-ack"?')
    assert refusal(bugs=("qqq",))[1].startswith("a planted bug; one of ")
    assert refusal(bugs=("request-without-ack",) * 2) == ("bugs.1", "each planted bug at most once")


def test_an_act_can_be_done() -> None:
    """Each once; the controller rests in its warm-up alone, and a window writes nothing before the end."""
    check_config(Config(nemesis=Nemesis(acts=("kill-ctl", "full-disk")), log=Log(policy="all")))
    assert refusal(nemesis=Nemesis(acts=("hog", "memory", "hog"))) == ("nemesis.acts.2", "each act at most once")
    never = Workload(warmup_accesses=0)
    key, expected = refusal(nemesis=Nemesis(acts=("kill-ctl",)), workload=never)
    assert (key, expected.partition(" beside")[0]) == ("nemesis.acts.0", "workload.warmup_accesses above 0")
    for act in ("slow-disk", "full-disk"):
        assert refusal(nemesis=Nemesis(acts=(act,)))[0] == "nemesis.acts.0"


def test_slots_lie_inside_the_geometry() -> None:
    """The last gfn counts, of both places of a moving slot."""
    check_config(Config(vm=SMALL, slots=slots((0, 64))))
    assert refusal(vm=SMALL, slots=slots((1, 64)))[0] == "slots.0.base_gfn"
    moving = Slot(base_gfn=0, npages=8, ops=("move",), move_to=57)
    assert refusal(vm=SMALL, slots=(moving,))[0] == "slots.0.move_to"


def test_slots_are_disjoint() -> None:
    """Side by side is fine; one shared gfn is not, nor is moving onto oneself."""
    check_config(Config(vm=SMALL, slots=slots((8, 8), (0, 8))))
    key, expected = refusal(vm=SMALL, slots=slots((7, 8), (0, 8)))
    assert (key, expected) == ("slots.0.base_gfn", "8 or more, or 8 pages that end before slots.1.base_gfn begins")
    assert refusal(slots=(Slot(base_gfn=4, npages=4, ops=("move",), move_to=5),))[0] == "slots.0.move_to"


def test_a_move_has_a_place_to_go() -> None:
    """And a place to go has a move."""
    assert refusal(slots=(Slot(base_gfn=0, npages=1, ops=("move",)),))[0] == "slots.0.ops"
    assert refusal(slots=(Slot(base_gfn=0, npages=1, move_to=5),))[0] == "slots.0.move_to"
    assert refusal(slots=(Slot(base_gfn=0, npages=1, ops=("delete", "delete")),))[0] == "slots.0.ops"


def test_frames_and_page_tables_fit_into_their_pools() -> None:
    """The message names the slot to shrink, or the level size to raise."""
    key, expected = refusal(slots=slots((0, 60000), (60000, 5537)))
    assert (key, expected) == ("slots.0.npages", "32768 at most, an equal share of 65536 frames for each of 2 slots")
    narrow = Vm(levels=4, bits_per_level=4)
    key, expected = refusal(vm=narrow, slots=slots((0, 65536)))
    assert key == "vm.bits_per_level"
    assert expected.startswith(f"{MAX_PAGES} page-table pages at most, not ")


def test_a_hole_needs_a_gfn_without_a_slot() -> None:
    """An MMIO access has nowhere to go if slots cover everything."""
    hole = Workload(hole_ratio=0.1)
    check_config(Config(vm=SMALL, slots=slots((0, 63)), workload=hole))
    assert refusal(vm=SMALL, slots=slots((0, 64)), workload=hole)[0] == "workload.hole_ratio"


def test_noise_that_would_do_nothing_is_refused() -> None:
    """Weights of 0 with noise on, or stalls with noise off."""
    no_weights = Perturb(probability=0.1, yield_weight=0, spin_weight=0, sleep_weight=0)
    assert refusal(perturb=no_weights)[0] == "perturb.sleep_weight"
    assert refusal(perturb=Perturb(stall_probability=0.1))[0] == "perturb.stall_probability"
    assert refusal(perturb=Perturb(resched_probability=0.1))[0] == "perturb.resched_probability"


@pytest.mark.parametrize("counter", ["moves", "mmio_exits"])
def test_a_threshold_out_of_reach_is_refused(counter: str) -> None:
    """It would make every run inconclusive."""
    assert refusal(evidence=Evidence(**{counter: 1}))[0] == f"evidence.{counter}"


def test_a_threshold_in_reach_is_accepted() -> None:
    """The default slot is deleted."""
    check_config(Config(evidence=Evidence(deletes=5, guest_accesses=1)))
    assert refusal(evidence=Evidence(deletes=5), slots=slots((0, 1)))[0] == "evidence.deletes"


def test_a_pause_is_shorter_than_a_hang() -> None:
    """Otherwise the watchdog would report the tester's own stall."""
    perturb = Perturb(probability=0.1, stall_ms_max=3000)
    assert refusal(perturb=perturb)[0] == "perturb.stall_ms_max"
    assert refusal(nemesis=Nemesis(stop_ms_max=3000))[0] == "nemesis.stop_ms_max"
    assert refusal(nemesis=Nemesis(dead_ms_max=3000))[0] == "nemesis.dead_ms_max"
    check_config(Config(perturb=perturb, run=Run(hang_s=6)))


@pytest.mark.parametrize("duration", ["9ms", "721h", "0s", 0.0, 1e300, float("nan"), -1.0])
def test_a_duration_out_of_range_is_refused(duration: str | float) -> None:
    """As a string or as a number."""
    assert refusal(run=Run(duration=duration))[0] == "run.duration"


@given(
    bits=st.integers(1, 4),
    levels=st.integers(2, 4),
    ranges=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 40)), min_size=1, max_size=4),
)
def test_page_tables_are_counted_like_a_walk_of_every_gfn(bits: int, levels: int, ranges: list[tuple[int, int]]) -> None:
    """The estimate equals the tables that mapping each gfn one by one would need, shared ones counted once."""
    base, disjoint = 0, []
    for gap, npages in ranges:
        disjoint.append((base + gap, npages))
        base += gap + npages
    config = Config(vm=Vm(levels=levels, bits_per_level=bits, nr_vcpus=1), slots=slots(*disjoint))
    walked = {
        (level, gfn >> (bits * level))
        for first, npages, _ in gfn_ranges(config)
        for gfn in range(first, first + npages)
        for level in range(1, levels + 1)
    }
    assert pages_needed(config) == len(walked) * GENERATIONS + levels + 2


def test_configs_are_values() -> None:
    """They compare by content and cannot be changed."""
    config = Config()
    assert config == Config()
    with pytest.raises(AttributeError):
        config.variant = "held"
    assert msgspec.structs.replace(config, variant="held") != config
