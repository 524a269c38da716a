# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/check/durations.py: every pairing rule, exact on hand-made events, and the histograms against NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stress.check.durations import bucket_index, cross_edges, fill
from stress.check.series import (
    ACTOR,
    BUCKETS,
    EDGE_CODES,
    EDGE_LOST,
    EDGES,
    HISTOGRAMS,
    INT64_MAX,
    MAX_EDGES,
    NR_KINDS,
    PLACES,
    SERIES,
    Series,
    bucket_bounds,
    drop_open,
    new_actor,
)
from stress.log.schema import FIELDS, Kind

MMU_READ, MMU_WRITE, POOL = 3, 4, 7
VOLUNTARY, IPI, FAULTED, CANCELLED, HALTED = 0, 1, 2, 3, 4
FIXED, MMIO = 2, 3
CREATE, DELETE, MOVE = 1, 2, 3


class Stage:
    """One actor, its events and what came of them."""

    def __init__(self, edges=(), *, edges_first=False):
        self.state = new_actor(edges_first=edges_first)
        self.histograms = np.zeros(1, HISTOGRAMS)
        self.edges = np.zeros(1, EDGES)
        for row, (time_ns, kind) in enumerate(edges):
            self.edges["ns"][0, row] = time_ns
            self.edges["code"][0, row] = EDGE_LOST if kind is None else EDGE_CODES[kind]
        self.edges["count"] = len(edges)

    def play(self, *events):
        """Each event: time, kind, then arg0 and arg1 if there are any."""
        words = np.array([(*event, -1, -1)[:4] for event in events], np.int64).reshape(-1, 4)
        columns = [np.ascontiguousarray(words[:, 0]), words[:, 1].astype(np.int16), *map(np.ascontiguousarray, words[:, 2:].T)]
        for column in columns:
            column.flags.writeable = False
        fill(self.state, self.histograms, self.edges, *columns)
        return self

    def seen(self):
        """Count and total of every series that has something."""
        held = self.histograms[0]
        return {
            (series.table, series.name): (int(held["count"][index]), int(held["total"][index]))
            for index, series in enumerate(SERIES)
            if held["count"][index]
        }

    def unpaired(self):
        """Begins and ends of every place that has something."""
        state = self.state[0]
        return {
            name: (int(state["unpaired_begins"][place]), int(state["unpaired_ends"][place]))
            for place, name in enumerate(PLACES)
            if state["unpaired_begins"][place] or state["unpaired_ends"][place]
        }


def values_of(kind, name):
    return next(field.values for field in FIELDS[kind] if field.name == name)


# --- histograms


@given(st.integers(0, INT64_MAX))
def test_a_bucket_holds_its_values(value):
    """Every value lies within its bucket's bounds, whose middle is within 1/64 of it."""
    index = bucket_index(value)
    low, high = bucket_bounds(index)
    assert 0 <= index < BUCKETS
    assert low <= value <= high
    assert abs((low + (high - low) // 2) - value) * 64 <= value


def test_buckets_leave_no_gap():
    """Each bucket begins behind the one before; the last one ends with the largest int64."""
    bounds = [bucket_bounds(index) for index in range(BUCKETS)]
    assert bounds[0] == (0, 0)
    assert all(low == high + 1 for (_, high), (low, _) in itertools.pairwise(bounds))
    assert bounds[-1][1] == INT64_MAX
    assert all(bucket_index(low) == bucket_index(high) == index for index, (low, high) in enumerate(bounds))


@given(st.lists(st.one_of(st.integers(0, 200), st.integers(0, 2**40), st.integers(0, INT64_MAX)), min_size=1, max_size=50))
def test_count_total_and_extremes_are_exact(values):
    """Whatever the buckets round; a total that leaves an int64 stays at its highest."""
    stage = Stage()
    for value in values:
        stage.play((0, Kind.SRCU_LOCK), (value, Kind.SRCU_UNLOCK))
    held, series = stage.histograms[0], SERIES.index(Series("holds", "srcu"))
    assert (held["count"][series], held["min"][series], held["max"][series]) == (len(values), min(values), max(values))
    assert held["total"][series] == min(sum(values), INT64_MAX)
    assert held["buckets"].sum() == len(values)


def test_a_duration_that_cannot_be_counts_as_the_longest():
    """The difference of two times of a damaged log may leave an int64; it must not index below the buckets."""
    stage = Stage().play((-(2**63) + 1, Kind.SRCU_LOCK), (2**63 - 1, Kind.SRCU_UNLOCK))
    assert stage.seen() == {("holds", "srcu"): (1, INT64_MAX)}


# --- series


def test_the_schemas_codes_are_all_there():
    """Each lock, operation, request, exit reason and fault result has its series, and each series one place."""
    assert len(set(SERIES) - {series for series in SERIES if not series.name}) == sum(1 for series in SERIES if series.name)
    for table, kind, field in (
        ("holds", Kind.LOCK_ACQUIRE, "lock"),
        ("waits", Kind.CONTENTION_BEGIN, "lock"),
        ("slots", Kind.SLOT_OP_BEGIN, "op"),
        ("requests", Kind.REQUEST_DONE, "request"),
        ("faults", Kind.KVM_PAGE_FAULT, "result"),
    ):
        assert {Series(table, name) for name in values_of(kind, field).values()} <= set(SERIES)
    assert max(Kind) < NR_KINDS


# --- pairs of one actor


@pytest.mark.parametrize("lock", [0, 2, MMU_READ, MMU_WRITE, 6, POOL])
def test_a_hold_lasts_from_acquire_to_release(lock):
    """For each lock of its own."""
    stage = Stage().play((10, Kind.LOCK_ACQUIRE, lock), (25, Kind.LOCK_RELEASE, lock), (30, Kind.LOCK_ACQUIRE, lock))
    stage.play((31, Kind.LOCK_RELEASE, lock))
    assert stage.seen() == {("holds", values_of(Kind.LOCK_ACQUIRE, "lock")[lock]): (2, 16)}


def test_holds_of_different_locks_nest():
    """The outer one is not ended by the inner one's release."""
    stage = Stage().play(
        (0, Kind.LOCK_ACQUIRE, MMU_READ),
        (5, Kind.LOCK_ACQUIRE, POOL),
        (7, Kind.LOCK_RELEASE, POOL),
        (10, Kind.LOCK_RELEASE, MMU_READ),
    )
    assert stage.seen() == {("holds", "mmu_lock (read)"): (1, 10), ("holds", "pool_lock"): (1, 2)}
    assert stage.unpaired() == {}


def test_a_wait_lasts_from_contention_to_acquire():
    """Of the same lock; an acquire without contention is no wait."""
    stage = Stage().play(
        (0, Kind.LOCK_ACQUIRE, POOL),
        (1, Kind.LOCK_RELEASE, POOL),
        (2, Kind.CONTENTION_BEGIN, POOL),
        (3, Kind.LOCK_ACQUIRE, MMU_READ),
        (4, Kind.LOCK_RELEASE, MMU_READ),
        (9, Kind.LOCK_ACQUIRE, POOL),
        (12, Kind.LOCK_RELEASE, POOL),
    )
    assert stage.seen()[("waits", "pool_lock")] == (1, 7)
    assert ("waits", "mmu_lock (read)") not in stage.seen()
    assert stage.unpaired() == {}


def test_an_srcu_section_is_a_hold():
    """From srcu_lock to srcu_unlock."""
    assert Stage().play((3, Kind.SRCU_LOCK), (8, Kind.SRCU_UNLOCK)).seen() == {("holds", "srcu"): (1, 5)}


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("slots", "flush_shadow"),
        ("slots", "srcu_sync"),
        ("zaps", "zap_front"),
        ("zaps", "zap_back"),
        ("zaps", "zap_leafs"),
        ("zaps", "root_zap"),
        ("zaps", "rcu_gp"),
    ],
)
def test_a_pair_of_begin_and_end(table, name):
    """A kind called *_begin and the one called *_end after it."""
    begin, end = Kind[f"{name}_BEGIN".upper()], Kind[f"{name}_END".upper()]
    stage = Stage().play((1, begin, 2), (5, end, 3), (6, begin), (6, end), (9, end), (10, begin), (11, begin))
    assert stage.seen() == {(table, name): (2, 4)}
    assert stage.unpaired() == {name: (1, 1)}
    drop_open(stage.state, lost=False)
    assert stage.unpaired() == {name: (2, 1)}


@pytest.mark.parametrize(("operation", "name"), [(CREATE, "create"), (DELETE, "delete"), (MOVE, "move")])
def test_slot_operations_are_told_apart(operation, name):
    """An end belongs to a begin of the same operation."""
    other = operation % 3 + 1
    stage = Stage().play((0, Kind.SLOT_OP_BEGIN, operation), (4, Kind.SLOT_OP_END, other), (9, Kind.SLOT_OP_END, operation))
    assert stage.seen() == {("slots", name): (1, 9)}
    assert [count for _, count in stage.unpaired().values()] == [1]
    assert stage.state["operations"][0].tolist() == [int(code in (operation, other)) for code in range(4)]


def test_a_broadcast_lasts_from_its_first_request():
    """Of the same request; a target that is not higher than the last one begins another broadcast."""
    stage = Stage().play(
        (0, Kind.REQUEST_SET, 0, 0),
        (1, Kind.REQUEST_SET, 1, 0),
        (2, Kind.REQUEST_SET, 0, 1),
        (3, Kind.REQUEST_SET, 0, 2),
        (10, Kind.REQUEST_DONE, 0),
        (20, Kind.REQUEST_DONE, 1),
        (30, Kind.REQUEST_SET, 1, 0),
        (31, Kind.REQUEST_SET, 1, 1),
        (40, Kind.REQUEST_SET, 1, 0),
        (42, Kind.REQUEST_DONE, 1),
    )
    assert stage.seen() == {("requests", "mmu_free_obsolete_roots"): (1, 10), ("requests", "tlb_flush"): (2, 21)}
    assert stage.unpaired() == {"tlb_flush": (1, 0)}


def test_a_halt_lasts_until_srcu_is_taken_again():
    """An srcu_lock that no halt came before is no end of one."""
    stage = Stage().play(
        (0, Kind.SRCU_LOCK), (5, Kind.HALT, 7), (6, Kind.SRCU_UNLOCK), (50, Kind.SRCU_LOCK), (60, Kind.SRCU_UNLOCK)
    )
    assert stage.seen() == {("guest", "halt"): (1, 45), ("holds", "srcu"): (2, 16)}
    assert stage.unpaired() == {}


@pytest.mark.parametrize(
    ("reason", "name"), [(VOLUNTARY, "voluntary"), (IPI, "ipi"), (FAULTED, "fault"), (HALTED, "halt")], ids=str
)
def test_a_stay_in_the_guest_by_the_reason_of_its_exit(reason, name):
    """And the time outside from there to the next entry; the first entry has nothing before it."""
    stage = Stage().play((2, Kind.KVM_ENTRY), (12, Kind.KVM_EXIT, reason), (15, Kind.KVM_ENTRY))
    assert stage.seen() == {("guest", f"in guest, {name}"): (1, 10), ("guest", "outside"): (1, 3)}
    assert stage.state["guest_ns"] == 10
    assert stage.unpaired() == {}


def test_a_cancelled_entry_is_time_outside():
    """It has no kvm_entry, so its kvm_exit ends nothing and begins nothing."""
    stage = Stage().play((0, Kind.KVM_ENTRY), (5, Kind.KVM_EXIT, IPI), (8, Kind.KVM_EXIT, CANCELLED), (11, Kind.KVM_ENTRY))
    assert stage.seen() == {("guest", "in guest, ipi"): (1, 5), ("guest", "outside"): (1, 6)}
    assert stage.unpaired() == {}


def test_a_vcpu_that_is_destroyed_is_not_outside():
    """Its last exit waits for no entry."""
    stage = Stage().play((0, Kind.KVM_ENTRY), (5, Kind.KVM_EXIT, IPI), (8, Kind.VCPU_DESTROY))
    drop_open(stage.state, lost=False)
    assert stage.unpaired() == {}


def test_a_fault_lasts_from_the_exit_to_its_result():
    """An exit for another reason begins none."""
    stage = Stage().play(
        (0, Kind.KVM_ENTRY),
        (1, Kind.KVM_EXIT, FAULTED),
        (2, Kind.SRCU_LOCK),
        (9, Kind.KVM_PAGE_FAULT, FIXED),
        (10, Kind.KVM_ENTRY),
        (11, Kind.KVM_EXIT, IPI),
        (12, Kind.KVM_PAGE_FAULT, MMIO),
    )
    assert stage.seen()[("faults", "fixed")] == (1, 8)
    assert ("faults", "mmio") not in stage.seen()
    assert stage.unpaired() == {"page fault": (0, 1)}
    assert stage.state["results"][0].tolist() == [0, 0, 1, 1, 0, 0]


def test_yields_are_counted_for_each_half():
    """Together, and the most in one."""
    stage = Stage()
    for yields in (2, 5, 1):
        stage.play((0, Kind.ZAP_BACK_BEGIN), *[(1, Kind.ZAP_YIELD, 2)] * yields, (2, Kind.ZAP_BACK_END))
    stage.play((3, Kind.ZAP_LEAFS_BEGIN), (4, Kind.ZAP_YIELD, 3), (5, Kind.ZAP_LEAFS_END))
    assert stage.state["yields"][0].tolist() == [0, 0, 8, 1]
    assert stage.state["yields_max"][0].tolist() == [0, 0, 5, 1]


def test_tlb_hits_are_a_bit_of_the_access():
    """Whatever the other bits say."""
    stage = Stage().play(*[(0, Kind.GUEST_ACCESS, 9, bits) for bits in range(16)])
    assert stage.state["tlb_hits"] == 8
    assert stage.state["kinds"][0, Kind.GUEST_ACCESS] == 16


def test_a_begin_is_carried_into_the_next_batch():
    """Where a row group ends means nothing."""
    stage = Stage().play((1, Kind.ZAP_BACK_BEGIN)).play().play((8, Kind.ZAP_BACK_END))
    assert stage.seen() == {("zaps", "zap_back"): (1, 7)}


# --- what is not as it should be

PAIRED = {
    Kind.LOCK_ACQUIRE: MMU_READ,
    Kind.LOCK_RELEASE: MMU_READ,
    Kind.CONTENTION_BEGIN: MMU_READ,
    Kind.SLOT_OP_BEGIN: MOVE,
    Kind.SLOT_OP_END: MOVE,
    Kind.REQUEST_SET: 0,
    Kind.REQUEST_DONE: 0,
    Kind.KVM_EXIT: IPI,
    Kind.KVM_PAGE_FAULT: FIXED,
}
# They may stand alone: most locks are had at once, every first entry and every srcu_lock but a halted vCPU's.
ENDS = [
    kind
    for kind in Kind
    if kind.name.endswith(("_END", "_DONE", "_UNLOCK", "_RELEASE")) or kind in {Kind.KVM_EXIT, Kind.KVM_PAGE_FAULT}
]
BEGINS = [
    kind for kind in Kind if (kind.name.endswith(("_BEGIN", "_SET", "_LOCK", "_ACQUIRE"))) or kind in {Kind.KVM_ENTRY, Kind.HALT}
]


@pytest.mark.parametrize("kind", ENDS, ids=lambda kind: kind.label)
def test_an_end_without_a_begin_is_counted(kind):
    """A window's log begins in the middle of things."""
    stage = Stage().play((5, kind, PAIRED.get(kind, -1)))
    assert stage.seen() == {}
    assert [ends for _, ends in stage.unpaired().values()] == [1]


@pytest.mark.parametrize("kind", BEGINS, ids=lambda kind: kind.label)
def test_a_begin_without_an_end_is_counted(kind):
    """When another begin comes, and when the events end."""
    stage = Stage().play((5, kind, PAIRED.get(kind, -1), 0), (6, kind, PAIRED.get(kind, -1), 0))
    assert [begins for begins, _ in stage.unpaired().values()] == [1]
    drop_open(stage.state, lost=True)
    assert [begins for begins, _ in stage.unpaired().values()] == [2]
    assert stage.seen() == {}


def test_nothing_is_paired_across_a_gap():
    """Between two events that do not follow each other anything may have happened."""
    stage = Stage().play((0, Kind.LOCK_ACQUIRE, POOL), (1, Kind.ZAP_BACK_BEGIN), (2, Kind.ZAP_YIELD, 2))
    drop_open(stage.state, lost=True)
    stage.play((8, Kind.ZAP_YIELD, 2), (9, Kind.ZAP_BACK_END), (9, Kind.LOCK_RELEASE, POOL))
    assert stage.seen() == {}
    assert stage.unpaired() == {"pool_lock": (1, 1), "zap_back": (1, 1)}
    assert stage.state["yields_max"][0].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("kind", [-1, NR_KINDS, 32767, -32768])
def test_a_kind_that_no_table_has_is_counted(kind):
    """And nothing else happens."""
    stage = Stage().play((0, kind, 1, 1))
    assert stage.state["unknown_kinds"] == 1
    assert stage.seen() == stage.unpaired() == {}


@pytest.mark.parametrize("code", [-1, 64, -(2**63), 2**63 - 1])
@pytest.mark.parametrize(
    "kind",
    [
        Kind.LOCK_ACQUIRE,
        Kind.LOCK_RELEASE,
        Kind.CONTENTION_BEGIN,
        Kind.SLOT_OP_BEGIN,
        Kind.SLOT_OP_END,
        Kind.REQUEST_SET,
        Kind.REQUEST_DONE,
        Kind.KVM_EXIT,
        Kind.KVM_PAGE_FAULT,
        Kind.ZAP_YIELD,
    ],
    ids=lambda kind: kind.label,
)
def test_a_code_that_no_table_has_is_counted(kind, code):
    """It must not index anything."""
    stage = Stage().play((0, kind, code, 1))
    assert stage.state["unknown_codes"] == 1
    assert stage.seen() == stage.unpaired() == {}


@given(
    st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1),
            st.integers(-(2**15), 2**15 - 1) | st.sampled_from(Kind),
            st.integers(-1, 9) | st.integers(-(2**63), 2**63 - 1),
            st.integers(-(2**63), 2**63 - 1),
        ),
        max_size=60,
    )
)
def test_every_event_is_counted_once(events):
    """Whatever a damaged log holds: each event is of a kind or of an unknown one, and nothing else is touched."""
    stage = Stage().play(*events)
    state = stage.state[0]
    assert int(state["kinds"].sum() + state["unknown_kinds"]) == len(events)
    assert stage.histograms["buckets"].sum() == stage.histograms["count"].sum()


# --- overlaps

EXIT, FAULT = (Kind.KVM_EXIT, FAULTED), (Kind.KVM_PAGE_FAULT, FIXED)
FLUSH = (Kind.FLUSH_SHADOW_BEGIN, Kind.FLUSH_SHADOW_END)
FRONT = (Kind.ZAP_FRONT_BEGIN, Kind.ZAP_FRONT_END)
BACK = (Kind.ZAP_BACK_BEGIN, Kind.ZAP_BACK_END)


def overlapped(stage, *faults):
    """Play faults from one time to another; which zaps they overlapped."""
    stage.play((faults[0][0], Kind.KVM_ENTRY))
    for begin_ns, end_ns in faults:
        stage.play((begin_ns, *EXIT), (end_ns, *FAULT), (end_ns, Kind.KVM_ENTRY))
    return {name: count for (table, name), (count, _) in stage.seen().items() if table == "overlaps"}


WHOLE = [(10, FLUSH[0]), (12, FRONT[0]), (20, FRONT[1]), (22, BACK[0]), (30, BACK[1]), (32, FLUSH[1])]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ((1, 9), {"none of these"}),
        ((1, 11), {"flush_shadow"}),
        ((10, 11), {"flush_shadow"}),
        ((11, 12), {"flush_shadow"}),
        ((11, 13), {"flush_shadow", "zap_front"}),
        ((13, 14), {"flush_shadow", "zap_front"}),
        ((21, 22), {"flush_shadow"}),
        ((19, 23), {"flush_shadow", "zap_front", "zap_back"}),
        ((25, 28), {"flush_shadow", "zap_back"}),
        ((31, 40), {"flush_shadow"}),
        ((33, 40), {"none of these"}),
        ((1, 40), {"flush_shadow", "zap_front", "zap_back"}),
    ],
)
def test_a_fault_overlaps_what_ran_between_its_ends(fault, expected):
    """Begun before, within or around a zap; a zap that only began before its begin and ended there is none of it."""
    assert overlapped(Stage(WHOLE), fault) == dict.fromkeys(expected, 1)


@pytest.mark.parametrize(("edges_first", "expected"), [(True, {"flush_shadow"}), (False, {"none of these"})])
def test_equal_times_go_by_the_order_of_the_actors(edges_first, expected):
    """Who stands first in the manifest comes first."""
    edges = [(10, FLUSH[0]), (20, FLUSH[1])]
    assert set(overlapped(Stage(edges, edges_first=edges_first), (1, 10))) == expected
    assert set(overlapped(Stage(edges, edges_first=not edges_first), (20, 25))) == expected


def test_a_fault_may_span_several_stretches():
    """The edges come a stretch at a time; a fault remembers those that have passed."""
    stage = Stage([(10, FLUSH[0])]).play((1, Kind.KVM_ENTRY), (2, *EXIT))
    cross_edges(stage.state, stage.edges, INT64_MAX)
    stage.state["cursor"] = 0
    stage.edges["ns"][0, 0], stage.edges["code"][0, 0] = 20, EDGE_CODES[FLUSH[1]]
    stage.play((30, *FAULT), (31, Kind.KVM_ENTRY))
    assert stage.seen()[("overlaps", "flush_shadow")] == (1, 28)


def test_without_the_controllers_events_nothing_is_called_quiet():
    """A fault beside a gap of the controller may have met anything; a zap that was seen is certain all the same."""
    edges = [(10, FLUSH[0]), (20, None), (40, FRONT[0]), (50, FRONT[1]), (60, FLUSH[1])]
    assert overlapped(Stage(edges), (21, 25)) == {"not known": 1}
    assert overlapped(Stage(edges), (15, 25)) == {"flush_shadow": 1}
    assert overlapped(Stage([(20, None)]), (15, 25)) == {"not known": 1}
    assert overlapped(Stage(edges), (1, 5), (19, 21), (45, 48), (51, 55), (55, 65), (65, 70)) == {
        "none of these": 2,
        "flush_shadow": 2,
        "zap_front": 1,
        "not known": 1,
    }


def test_the_front_half_counts_the_guests():
    """A vCPU is in the guest from entry to exit, and nobody knows before the first event of a log that is cut."""
    fronts = [(time_ns, FRONT[0]) for time_ns in (5, 15, 25, 35)]
    stage = Stage(fronts).play((10, Kind.KVM_ENTRY), (20, Kind.KVM_EXIT, IPI), (30, Kind.KVM_EXIT, CANCELLED), (32, Kind.KVM_ENTRY))
    drop_open(stage.state, lost=True)
    cross_edges(stage.state, stage.edges, INT64_MAX)
    assert stage.edges["in_guest"][0, :4].tolist() == [0, 1, 0, 0]
    assert stage.edges["unknown"][0, :4].tolist() == [0, 0, 0, 1]


@given(
    zaps=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 20)), max_size=8),
    faults=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 20)), max_size=8),
    cuts=st.lists(st.integers(0, 400), max_size=4),
)
def test_overlaps_are_those_of_the_intervals(zaps, faults, cuts):
    """Passing edges gives what comparing every fault with every flush gives, however the events are cut into batches."""

    def intervals(pairs):
        at = 0
        for gap, length in pairs:
            yield at + gap + 1, at + gap + 1 + length
            at += gap + 1 + length

    flushes, faulted = list(intervals(zaps)), list(intervals(faults))
    edges = [edge for begin, end in flushes for edge in ((begin, FLUSH[0]), (end, FLUSH[1]))]
    events = [event for begin, end in faulted for event in ((begin, *EXIT), (end, *FAULT))]
    stage = Stage(edges)
    for low, high in zip([-1, *sorted(cuts)], [*sorted(cuts), 10**6], strict=True):
        stage.play(*(event for event in events if low < event[0] <= high))
    # At equal times the vCPU's event comes first.
    touching = sum(any(begin < last and first <= end for begin, end in flushes) for first, last in faulted)
    overlaps = {name: count for (table, name), (count, _) in stage.seen().items() if table == "overlaps"}
    assert overlaps.get("flush_shadow", 0) == touching
    assert overlaps.get("none of these", 0) == len(faulted) - touching


def test_the_records_fit_the_tables():
    """The sizes that the kernels index with."""
    assert ACTOR["open_ns"].shape == (len(PLACES),)
    assert HISTOGRAMS["buckets"].shape == (len(SERIES), BUCKETS)
    assert EDGES["ns"].shape == (MAX_EDGES,)
