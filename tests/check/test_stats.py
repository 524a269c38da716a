# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/check/stats.py: what is collected from whole and from partial logs, against plain Python and NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stress.check import stats as module
from stress.check.series import SERIES
from stress.check.stats import collect_stats
from stress.log.schema import Kind

DELETE, FAULTED, FIXED, RETRY_STALE = 2, 2, 2, 1
DTYPES = {"kind": np.int16}


class Log:
    """Stands in for an archive: each actor's events, (time, kind, arg0, arg1), cut into batches of a given size."""

    def __init__(self, events, *, size=1 << 16, first_seq=None, lost=(), killed=False, policy="all", sample=64):
        self.path = Path("/runs/some-run-1")
        self.actors = tuple(events)
        self.policy = policy
        self.config = {"log": {"sample": sample}}
        self.problems = []
        self.complete = not (lost or killed or first_seq or policy != "all")
        self.asked = []
        self._first_seq = first_seq or {}
        self._events = events
        self._size = size
        self._lost = set(lost)  # (actor, seq)
        self.recorded = {} if killed else {actor: self._first(actor) + len(own) for actor, own in events.items()}

    def _first(self, actor):
        return self._first_seq.get(actor, 0)

    def batches(self, index, columns):
        assert set(columns) == {"time_ns", "kind", "arg0", "arg1"}
        actor = self.actors[index]
        stretch, first = [], self._first(actor)
        for seq, event in enumerate([*self._events[actor], None], start=self._first(actor)):
            if event is None or (actor, seq) in self._lost or len(stretch) == self._size:
                if stretch:
                    yield self._batch(index, first, stretch)
                stretch, first = [], seq
            if event is not None and (actor, seq) not in self._lost:
                first = seq if not stretch else first
                stretch.append((*event, -1, -1)[:4])

    def _batch(self, index, first_seq, stretch):
        self.asked.append((self.actors[index], stretch[0][0], stretch[-1][0]))
        names = ("time_ns", "kind", "arg0", "arg1")
        columns = {
            name: np.array(column, DTYPES.get(name, np.int64))
            for name, column in zip(names, zip(*stretch, strict=True), strict=True)
        }
        for column in columns.values():
            column.flags.writeable = False
        return SimpleNamespace(actor=index, first_seq=first_seq, columns=columns)


def collect(events, **options):
    return collect_stats(Log(events, **options))


def durations(stats, table=None):
    return {(d.name, d.role): d for d in stats.durations if table in (None, d.table)}


def unpaired(stats):
    return {(u.name, u.role): (u.begins, u.ends) for u in stats.unpaired}


def fault(begin_ns, end_ns, result=FIXED):
    """A vCPU's events around one page fault."""
    return [(begin_ns, Kind.KVM_EXIT, FAULTED), (end_ns, Kind.KVM_PAGE_FAULT, result), (end_ns, Kind.KVM_ENTRY)]


def zap(begin_ns, end_ns):
    """A flush without halves."""
    return [(begin_ns, Kind.FLUSH_SHADOW_BEGIN), (end_ns, Kind.FLUSH_SHADOW_END)]


# --- durations


@given(st.lists(st.one_of(st.integers(0, 100), st.integers(0, 10**6), st.integers(0, 2**55)), min_size=1, max_size=300))
def test_quantiles_are_within_a_32nd_of_the_true_ones(values):
    """Beside NumPy's, which sorts all values; count, total and extremes are exact."""
    events, now_ns = [], 0
    for value in values:
        events += [(now_ns, Kind.SRCU_LOCK), (now_ns + value, Kind.SRCU_UNLOCK)]
        now_ns += value
    (srcu,) = collect({"vcpu0": events}).durations
    assert (srcu.count, srcu.total_ns, srcu.min_ns, srcu.max_ns) == (len(values), sum(values), min(values), max(values))
    for found, q in ((srcu.median_ns, 0.5), (srcu.p90_ns, 0.9), (srcu.p99_ns, 0.99), (srcu.p999_ns, 0.999)):
        true = int(np.quantile(np.array(values), q, method="inverted_cdf"))
        assert abs(found - true) * 32 <= true


def test_actors_of_one_role_share_their_durations():
    """All vCPUs together, the controller for itself."""
    stats = collect(
        {
            "vcpu0": [(0, Kind.SRCU_LOCK), (5, Kind.SRCU_UNLOCK)],
            "vcpu11": [(1, Kind.SRCU_LOCK), (9, Kind.SRCU_UNLOCK)],
            "ctl": [(2, Kind.SRCU_LOCK), (4, Kind.SRCU_UNLOCK)],
        }
    )
    found = durations(stats, "holds")
    assert set(found) == {("srcu", "vcpu"), ("srcu", "ctl")}
    assert (found["srcu", "vcpu"].count, found["srcu", "vcpu"].total_ns) == (2, 13)


def test_only_what_was_seen_is_there():
    """A series without a value is no row."""
    assert collect({"vcpu0": [(0, Kind.GUEST_ACCESS, 1, 0)]}).durations == ()


# --- rates


def test_rates_are_over_the_actors_own_span():
    """From its first event to its last; the run's rates are the sums."""
    second = 10**9
    stats = collect(
        {
            "vcpu0": [(second, Kind.GUEST_ACCESS, 1, 4), (2 * second, Kind.GUEST_ACCESS, 1, 0), (3 * second, Kind.TLB_FILL)],
            "vcpu1": [(0, Kind.GUEST_ACCESS, 1, 0), (4 * second, Kind.GUEST_ACCESS, 1, 0)],
            "ctl": [],
        }
    )
    first, second_vcpu, ctl = stats.actors
    assert (first.events.count, first.events.per_s) == (3, 1.5)
    assert first.kinds["guest_access"].per_s == 1.0
    assert second_vcpu.kinds["guest_access"].per_s == 0.5
    assert (ctl.events.count, ctl.events.per_s, ctl.first_ns, ctl.last_ns, ctl.kinds) == (0, None, None, None, {})
    assert (stats.totals.guest_accesses.count, stats.totals.guest_accesses.per_s) == (4, 1.5)
    assert stats.totals.tlb_hit_ratio == 0.25
    assert stats.span_ns == 4 * second


@pytest.mark.parametrize("events", [{}, {"vcpu0": []}, {"vcpu0": [], "ctl": [], "rcu": []}])
def test_a_log_without_events_has_no_rates(events):
    """And no division by zero."""
    stats = collect(events)
    assert stats.totals.events.count == stats.span_ns == 0
    assert stats.totals.events.per_s is None
    assert stats.totals.tlb_hit_ratio is None
    assert (stats.durations, stats.unpaired, stats.overlaps.in_guest) == ((), (), {})
    assert [actor.actor for actor in stats.actors] == list(events)


def test_one_event_is_no_rate():
    """It has no span; neither have several at the same time."""
    stats = collect({"vcpu0": [(7, Kind.HALT)], "vcpu1": [(7, Kind.HALT), (7, Kind.HALT)]})
    assert [actor.events.per_s for actor in stats.actors] == [None, None]
    assert stats.totals.events.count == 3


def test_operations_and_results_are_counted_without_their_begin():
    """A delete that ended was a delete, though nobody knows how long it took."""
    stats = collect(
        {
            "vcpu0": [(0, Kind.KVM_PAGE_FAULT, RETRY_STALE), *fault(1, 2, RETRY_STALE)],
            "ctl": [(0, Kind.SLOT_OP_END, DELETE), (5, Kind.SLOT_OP_BEGIN, DELETE), (10**9, Kind.SLOT_OP_END, DELETE)],
        },
        first_seq={"vcpu0": 5, "ctl": 5},
    )
    assert stats.totals.operations["delete"] == module.Rate(2, 2.0)
    assert stats.totals.results["retry_stale"].count == 2
    assert durations(stats)["delete", "ctl"].count == 1
    assert unpaired(stats)["delete", "ctl"] == (0, 1)


def test_the_part_of_the_time_in_the_guest():
    """Of the span, and only of a vCPU."""
    events = [(0, Kind.KVM_ENTRY), (30, Kind.KVM_EXIT, 1), (90, Kind.KVM_ENTRY), (100, Kind.KVM_EXIT, 1)]
    stats = collect({"vcpu0": events, "ctl": [(0, Kind.SLOT_SWAP), (9, Kind.SLOT_SWAP)]})
    assert [actor.in_guest for actor in stats.actors] == [0.4, None]


def test_kinds_and_codes_of_another_version_are_counted():
    """They are in no table, and the reader is told."""
    stats = collect({"vcpu0": [(0, 49), (1, 1000), (2, -1), (3, Kind.KVM_PAGE_FAULT, 99), (4, Kind.HALT)]})
    (vcpu,) = stats.actors
    assert (vcpu.unknown_kinds, vcpu.unknown_codes, vcpu.events.count) == (3, 1, 5)
    assert {kind: rate.count for kind, rate in vcpu.kinds.items()} == {"kvm_page_fault": 1, "halt": 1}


# --- overlaps


def test_faults_beside_the_controllers_zaps():
    """Latencies of those that overlapped stand beside those of the others."""
    ctl = [
        (100, Kind.FLUSH_SHADOW_BEGIN),
        (110, Kind.ZAP_FRONT_BEGIN),
        (120, Kind.ZAP_FRONT_END),
        (130, Kind.ZAP_BACK_BEGIN),
        (140, Kind.ZAP_YIELD, 2),
        (150, Kind.ZAP_BACK_END),
        (160, Kind.FLUSH_SHADOW_END),
    ]
    vcpu = [(1, Kind.KVM_ENTRY), *fault(10, 20), *fault(90, 115), *fault(125, 165), *fault(170, 171)]
    stats = collect({"vcpu0": vcpu, "ctl": ctl})
    found = {name: (d.count, d.total_ns) for (name, _), d in durations(stats, "overlaps").items()}
    assert found == {"zap_front": (1, 25), "zap_back": (1, 40), "flush_shadow": (2, 65), "none of these": (2, 11)}
    assert stats.overlaps.in_guest == {0: 1}
    assert stats.overlaps.yields[1] == module.Yields("back", 1, 1)


@pytest.mark.parametrize("size", [1, 100])
def test_front_halves_by_the_number_of_guests(size):
    """Each front half counts the vCPUs that are in the guest when it begins."""
    fronts = [
        (time_ns + step, kind)
        for time_ns in (10, 20, 30, 40)
        for step, kind in enumerate((Kind.ZAP_FRONT_BEGIN, Kind.ZAP_FRONT_END))
    ]
    events = {
        "vcpu0": [(15, Kind.KVM_ENTRY), (35, Kind.KVM_EXIT, 1)],
        "vcpu1": [(25, Kind.KVM_ENTRY), (32, Kind.KVM_EXIT, 1)],
        "ctl": fronts,
    }
    assert collect(events, size=size).overlaps.in_guest == {0: 2, 1: 1, 2: 1}


def test_without_a_controller_no_fault_is_called_quiet():
    """Its file is missing, or the manifest does not name it."""
    events = {"vcpu0": [(1, Kind.KVM_ENTRY), *fault(2, 3)], "ctl": zap(5, 6)}
    lost = [("ctl", 0), ("ctl", 1)]
    assert set(durations(collect(events, lost=lost), "overlaps")) == {("not known", "vcpu")}
    assert set(durations(collect({"vcpu0": events["vcpu0"]}), "overlaps")) == {("not known", "vcpu")}
    assert set(durations(collect({**events, "ctl": []}), "overlaps")) == {("none of these", "vcpu")}


@st.composite
def logs(draw):
    """Two vCPUs with faults and a controller with flushes, their times never falling, in any order of the actors."""

    def times(count):
        return np.cumsum(draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))).tolist()

    events = {}
    for actor in draw(st.permutations(["vcpu0", "vcpu1", "ctl"])):
        count = draw(st.integers(0, 12))
        at = times(2 * count)
        pairs = list(zip(at[::2], at[1::2], strict=True))
        if actor == "ctl":
            events[actor] = [event for pair in pairs for event in zap(*pair)]
        else:
            events[actor] = [event for pair in pairs for event in fault(*pair)]
    return events


@given(events=logs(), size=st.integers(1, 9), edges=st.integers(2, 5))
def test_overlaps_are_those_of_the_intervals(events, size, edges):
    """Reading side by side gives what comparing all with all gives, whatever the batches and the stretches of edges."""
    actors = list(events)

    def before(first, actor, second, other):
        return (first, actors.index(actor)) < (second, actors.index(other))

    flushes = [(b[0], e[0]) for b, e in zip(events["ctl"][::2], events["ctl"][1::2], strict=True)]
    overlapping, quiet = 0, 0
    for actor in ("vcpu0", "vcpu1"):
        for (begin, *_), (end, *_) in zip(events[actor][::3], events[actor][1::3], strict=True):
            touches = any(before(b, "ctl", end, actor) and before(begin, actor, e, "ctl") for b, e in flushes)
            overlapping, quiet = overlapping + touches, quiet + (not touches)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_EDGES", edges)
        found = {name: d.count for (name, _), d in durations(collect(events, size=size), "overlaps").items()}
    assert found.get("flush_shadow", 0) == overlapping
    assert found.get("none of these", 0) == quiet


@given(events=logs(), size=st.integers(1, 9))
def test_where_a_batch_ends_means_nothing(events, size):
    """Row groups are the writer's business."""
    assert collect(events, size=size) == collect(events)


def test_the_streams_are_read_side_by_side():
    """No actor is read ahead by more than a batch, or a week's log would have to fit into memory."""
    events = {
        "vcpu0": [(time_ns, Kind.GUEST_ACCESS, 1, 0) for time_ns in range(1000)],
        "ctl": [(time_ns, Kind.SLOT_SWAP) for time_ns in range(1000)],
    }
    log = Log(events, size=10)
    collect_stats(log)
    reached = {"vcpu0": 0, "ctl": 0}
    for actor, _, last_ns in log.asked:
        reached[actor] = last_ns
        assert abs(reached["vcpu0"] - reached["ctl"]) <= 20


# --- partial logs


def test_a_windows_log_begins_in_the_middle():
    """What its first events end is unpaired; what nobody can know is not counted as nothing."""
    stats = collect(
        {
            "vcpu0": [(5, Kind.KVM_PAGE_FAULT, FIXED), (6, Kind.KVM_ENTRY), *fault(7, 8), *fault(12, 14), *fault(21, 25)],
            "vcpu1": [(18, Kind.KVM_ENTRY)],
            "ctl": [(10, Kind.ZAP_FRONT_BEGIN), (11, Kind.ZAP_FRONT_END), (13, Kind.FLUSH_SHADOW_END), (19, Kind.ZAP_FRONT_BEGIN)],
        },
        first_seq={"vcpu0": 100, "vcpu1": 100, "ctl": 100},
        policy="window",
    )
    assert unpaired(stats) == {
        ("page fault", "vcpu"): (0, 1),
        ("flush_shadow", "ctl"): (0, 1),
        ("zap_front", "ctl"): (1, 0),
        ("in guest", "vcpu"): (2, 0),
    }
    assert {name: d.count for (name, _), d in durations(stats, "overlaps").items()} == {
        "not known": 1,
        "flush_shadow": 1,
        "zap_front": 1,
    }
    assert (stats.overlaps.in_guest, stats.overlaps.not_known) == ({2: 1}, 1)


def test_a_killed_run_ends_in_the_middle():
    """What its last events began is unpaired, and behind the controller's last event nothing is known."""
    events = {
        "vcpu0": [(1, Kind.KVM_ENTRY), *fault(2, 3), *fault(30, 40), (50, Kind.KVM_EXIT, FAULTED)],
        "vcpu1": [(1, Kind.KVM_ENTRY)],
        "ctl": [(10, Kind.ZAP_FRONT_BEGIN), (20, Kind.ZAP_FRONT_END)],
    }
    stats = collect(events, killed=True)
    assert unpaired(stats) == {("in guest", "vcpu"): (1, 0), ("outside", "vcpu"): (1, 0), ("page fault", "vcpu"): (1, 0)}
    assert {name: d.count for (name, _), d in durations(stats, "overlaps").items()} == {"none of these": 1, "not known": 1}
    assert (stats.overlaps.in_guest, stats.overlaps.not_known) == ({}, 1)
    whole = collect(events)
    assert {name: d.count for (name, _), d in durations(whole, "overlaps").items()} == {"none of these": 2}
    assert (whole.overlaps.in_guest, whole.overlaps.not_known) == ({2: 1}, 0)


def test_nothing_is_paired_across_a_gap():
    """Where a damaged file's events are missing."""
    vcpu = [
        (0, Kind.SRCU_LOCK),
        (1, Kind.SRCU_UNLOCK),
        (2, Kind.SRCU_LOCK),
        (3, Kind.SRCU_UNLOCK),
        (4, Kind.SRCU_LOCK),
        (5, Kind.SRCU_UNLOCK),
    ]
    stats = collect({"vcpu0": vcpu}, lost=[("vcpu0", 1), ("vcpu0", 2)])
    assert (durations(stats)["srcu", "vcpu"].count, unpaired(stats)) == (1, {("srcu", "vcpu"): (1, 1)})


@pytest.mark.parametrize("size", [1, 100])
def test_a_gap_of_the_controller_hides_zaps(size):
    """From its last event before the gap until it says again what it does."""
    events = {
        "vcpu0": [(1, Kind.KVM_ENTRY), *fault(2, 3), *fault(15, 16), *fault(45, 46), *fault(60, 61)],
        "ctl": [(4, Kind.SLOT_SWAP), *zap(10, 20), (40, Kind.SLOT_SWAP), *zap(50, 55), (58, Kind.SLOT_SWAP)],
    }
    stats = collect(events, size=size, lost=[("ctl", 1), ("ctl", 2)])
    found = {name: d.count for (name, _), d in durations(stats, "overlaps").items()}
    assert found == {"none of these": 2, "not known": 2}


def test_a_gap_of_a_vcpu_hides_whether_it_is_in_the_guest():
    """Of a front half that began in the gap nobody can say; of one before it one can."""
    events = {
        "vcpu0": [(1, Kind.KVM_ENTRY), (10, Kind.HALT), (30, Kind.KVM_EXIT, 1), (50, Kind.KVM_ENTRY), (60, Kind.HALT)],
        "ctl": [(time_ns, Kind.ZAP_FRONT_BEGIN) for time_ns in (5, 20, 55)],
    }
    stats = collect(events, lost=[("vcpu0", 2)])
    assert (stats.overlaps.in_guest, stats.overlaps.not_known) == ({1: 2}, 1)


def test_a_sample_is_never_scaled():
    """The counts are those of the events that are there; how many were left out is said beside them."""
    stats = collect({"vcpu0": [(0, Kind.GUEST_ACCESS, 1, 4), (10**9, Kind.GUEST_ACCESS, 1, 0)]}, policy="sampled", sample=64)
    assert (stats.totals.guest_accesses.count, stats.totals.guest_accesses.per_s, stats.sample) == (2, 2.0, 64)


@pytest.mark.parametrize("config", [{}, {"log": 5}, {"log": {}}, {"log": {"sample": "x"}}])
def test_a_lost_config_leaves_the_sample_unknown(config):
    """It is a file like any other."""
    log = Log({"vcpu0": []}, policy="sampled")
    log.config = config
    assert collect_stats(log).sample is None


def test_statistics_become_one_json_object():
    """Plain values all the way down."""
    stats = collect({"vcpu0": [(1, Kind.KVM_ENTRY), *fault(2, 3)], "ctl": zap(1, 5)})
    data = json.loads(json.dumps(stats.to_dict()))
    assert data["run"] == "some-run-1"
    assert data["durations"][0].keys() >= {"table", "name", "role", "count", "min_ns", "p999_ns", "total_ns"}
    assert data["totals"]["page_faults"]["count"] == 1


def test_every_row_is_documented():
    """The reference page names each series, and says from which events it is taken."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "stats.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    for series in SERIES:
        if series.name not in {"", "rcu"}:
            assert any(f"`{series.name}`" in row for row in rows), series
