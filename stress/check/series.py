# SPDX-License-Identifier: GPL-2.0-only
"""What the statistics measure: the series, and the records that an actor's events are gathered in.

**Histograms** are log-linear: exact below 64, from there on 32 buckets for each power of two, so that the middle of a bucket is
within 1/64 of every value in it. Count, total, minimum and maximum are exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from stress.log.schema import FIELDS, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ACTOR",
    "ALL",
    "BEGIN_OF",
    "BOTH_HALVES",
    "BUCKETS",
    "CANCELLED",
    "EDGES",
    "EDGE_CODES",
    "EDGE_LOST",
    "END_OF",
    "FAULT",
    "FAULTED",
    "FRONT_BEGINS",
    "HALF_OF",
    "HALT",
    "HALVES",
    "HISTOGRAMS",
    "HOLD",
    "INT64_MAX",
    "MAX_EDGES",
    "NEVER",
    "NR_HALVES",
    "NR_KINDS",
    "NR_LOCKS",
    "NR_OPERATIONS",
    "NR_REASONS",
    "NR_REQUESTS",
    "NR_RESULTS",
    "NR_ZAPS",
    "OPEN_FAULT",
    "OPEN_STAY",
    "OPERATIONS",
    "OUTSIDE",
    "OVERLAP",
    "PLACES",
    "REQUEST",
    "RESULTS",
    "SERIES",
    "SLOT_OP",
    "SRCU",
    "STAY",
    "SUB_BUCKET_BITS",
    "TLB_HIT",
    "UNJUDGED",
    "UNTOUCHED",
    "WAIT",
    "ZAP_FLUSH",
    "Records",
    "Series",
    "bucket_bounds",
    "drop_open",
    "new_actor",
]

Records = npt.NDArray[np.void]

SUB_BUCKET_BITS = 5
BUCKETS = (64 - SUB_BUCKET_BITS) << SUB_BUCKET_BITS
INT64_MAX = 2**63 - 1

# --- codes of the schema


def _codes(kind: Kind, name: str) -> Mapping[int, str]:
    return next(field.values for field in FIELDS[kind] if field.name == name)


def _code(codes: Mapping[int, str], wanted: str) -> int:
    return next(code for code, name in codes.items() if name == wanted)


LOCKS = _codes(Kind.LOCK_ACQUIRE, "lock")
OPERATIONS = _codes(Kind.SLOT_OP_BEGIN, "op")
REQUESTS = _codes(Kind.REQUEST_SET, "request")
REASONS = _codes(Kind.KVM_EXIT, "reason")
RESULTS = _codes(Kind.KVM_PAGE_FAULT, "result")
HALVES = _codes(Kind.ZAP_YIELD, "half")

SRCU = _code(LOCKS, "srcu")
FAULTED = _code(REASONS, "fault")
CANCELLED = _code(REASONS, "cancelled_entry")
TLB_HIT = next(field.flags.index("tlb_hit") for field in FIELDS[Kind.GUEST_ACCESS] if field.flags)

NR_LOCKS = max(LOCKS) + 1
NR_OPERATIONS = max(OPERATIONS) + 1
NR_REQUESTS = max(REQUESTS) + 1
NR_REASONS = max(REASONS) + 1
NR_RESULTS = max(RESULTS) + 1
NR_HALVES = max(HALVES) + 1

NR_KINDS = 64  # more than there are

# --- series


class Series(NamedTuple):
    """One row of the statistics; the name is empty where the schema has no such code."""

    table: str
    name: str


# Where a code tells series apart, base + code is the index.
SERIES: list[Series] = []


def _series(table: str, names: Mapping[int, str]) -> int:
    base = len(SERIES)
    SERIES.extend(Series(table, names.get(code, "")) for code in range(max(names) + 1))
    return base


HOLD = _series("holds", LOCKS)
WAIT = _series("waits", LOCKS)
SLOT_OP = _series("slots", OPERATIONS)
FLUSH = _series("slots", {0: "flush_shadow"})
SRCU_SYNC = _series("slots", {0: "srcu_sync"})
FRONT = _series("zaps", {0: "zap_front"})
BACK = _series("zaps", {0: "zap_back"})
LEAFS = _series("zaps", {0: "zap_leafs"})
ROOT_ZAP = _series("zaps", {0: "root_zap"})
RCU_GP = _series("zaps", {0: "rcu_gp"})
REQUEST = _series("requests", REQUESTS)
HALT = _series("guest", {0: "halt"})
OUTSIDE = _series("guest", {0: "outside"})
# The end's code tells the next two apart, so what is open has one place, not one for each series.
STAY = _series("guest", {code: f"in guest, {name}" for code, name in REASONS.items() if code != CANCELLED})
FAULT = _series("faults", RESULTS)
# Page faults once more, by what they overlapped: a zap, in the order of their bits; nothing; not known.
OVERLAP = _series("overlaps", dict(enumerate(("zap_front", "zap_back", "flush_shadow", "none of these", "not known"))))

OPEN_STAY = STAY
OPEN_FAULT = STAY + 1
# Names of what can be open.
PLACES = (*(series.name for series in SERIES[:STAY]), "in guest", "page fault")

NEVER = -(2**63)  # nothing is open


def _by_kind(places: Mapping[Kind, int]) -> npt.NDArray[np.int64]:
    table = np.full(NR_KINDS, -1, np.int64)
    for kind, place in places.items():
        table[kind] = place
    return table


# Pairs without a code, by the kind of their begin and of their end.
BEGIN_OF = _by_kind(
    {
        Kind.FLUSH_SHADOW_BEGIN: FLUSH,
        Kind.SRCU_SYNC_BEGIN: SRCU_SYNC,
        Kind.ZAP_FRONT_BEGIN: FRONT,
        Kind.ZAP_BACK_BEGIN: BACK,
        Kind.ZAP_LEAFS_BEGIN: LEAFS,
        Kind.ROOT_ZAP_BEGIN: ROOT_ZAP,
        Kind.RCU_GP_BEGIN: RCU_GP,
        Kind.HALT: HALT,
    }
)
END_OF = _by_kind(
    {
        Kind.FLUSH_SHADOW_END: FLUSH,
        Kind.SRCU_SYNC_END: SRCU_SYNC,
        Kind.ZAP_FRONT_END: FRONT,
        Kind.ZAP_BACK_END: BACK,
        Kind.ZAP_LEAFS_END: LEAFS,
        Kind.ROOT_ZAP_END: ROOT_ZAP,
        Kind.RCU_GP_END: RCU_GP,
    }
)
HALF_OF = _by_kind(
    {
        Kind.ZAP_FRONT_END: _code(HALVES, "front"),
        Kind.ZAP_BACK_END: _code(HALVES, "back"),
        Kind.ZAP_LEAFS_END: _code(HALVES, "leafs"),
    }
)

# --- overlaps

ZAP_FRONT = 0
ZAP_BACK = 1
ZAP_FLUSH = 2
NR_ZAPS = 3
UNTOUCHED = OVERLAP + NR_ZAPS
UNJUDGED = OVERLAP + NR_ZAPS + 1
ALL = (1 << NR_ZAPS) - 1
BOTH_HALVES = 1 << ZAP_FRONT | 1 << ZAP_BACK

# Codes of edges: twice the zap, plus 1 for its end; or that the controller's next events are missing.
FRONT_BEGINS = 2 * ZAP_FRONT
EDGE_CODES: dict[Kind, int] = {
    Kind.ZAP_FRONT_BEGIN: FRONT_BEGINS,
    Kind.ZAP_FRONT_END: 2 * ZAP_FRONT + 1,
    Kind.ZAP_BACK_BEGIN: 2 * ZAP_BACK,
    Kind.ZAP_BACK_END: 2 * ZAP_BACK + 1,
    Kind.FLUSH_SHADOW_BEGIN: 2 * ZAP_FLUSH,
    Kind.FLUSH_SHADOW_END: 2 * ZAP_FLUSH + 1,
}
EDGE_LOST = 2 * NR_ZAPS

# As many edges as are looked at together.
MAX_EDGES = 4096

EDGES = np.dtype(
    [
        ("count", np.int64),
        ("ns", np.int64, (MAX_EDGES,)),
        ("code", np.int64, (MAX_EDGES,)),
        # Of a front half's begin: how many vCPUs were in the guest, and of how many nobody can tell.
        ("in_guest", np.int64, (MAX_EDGES,)),
        ("unknown", np.int64, (MAX_EDGES,)),
    ],
    align=True,
)

# --- records: passed as one pointer each, where an array would be counted as referenced at every call

ACTOR = np.dtype(
    [
        ("open_ns", np.int64, (len(PLACES),)),  # since when it is open, or NEVER
        ("unpaired_begins", np.int64, (len(PLACES),)),
        ("unpaired_ends", np.int64, (len(PLACES),)),
        ("last_target", np.int64, (NR_REQUESTS,)),  # of an open broadcast
        ("kinds", np.int64, (NR_KINDS,)),  # events of each kind
        ("operations", np.int64, (NR_OPERATIONS,)),  # slot operations that ended, paired or not
        ("results", np.int64, (NR_RESULTS,)),  # page faults by result, paired or not
        ("unknown_kinds", np.int64),
        ("unknown_codes", np.int64),  # events whose code this version does not know
        ("tlb_hits", np.int64),
        ("guest_ns", np.int64),
        ("yields", np.int64, (NR_HALVES,)),  # in each half
        ("yields_now", np.int64, (NR_HALVES,)),  # in the one that runs
        ("yields_max", np.int64, (NR_HALVES,)),
        # The vCPU's place among the edges. The masks have a bit for each zap.
        ("edges_first", np.int64),  # 1: at equal times the edge comes before the event
        ("cursor", np.int64),
        ("in_guest", np.int64),  # 0, 1, or -1: its events are missing here
        ("known", np.int64),
        ("active", np.int64),
        ("touched", np.int64),  # by the open fault
        ("unjudged", np.int64),  # not known during a part of the open fault
    ],
    align=True,
)

HISTOGRAMS = np.dtype(
    [
        ("count", np.int64, (len(SERIES),)),
        ("total", np.int64, (len(SERIES),)),
        ("min", np.int64, (len(SERIES),)),
        ("max", np.int64, (len(SERIES),)),
        ("buckets", np.int64, (len(SERIES), BUCKETS)),
    ],
    align=True,
)


def new_actor(*, edges_first: bool) -> Records:
    """The state of an actor of which no event was read, one ACTOR.

    Args:
        edges_first: at equal times the controller's event comes before the actor's.
    """
    actor = np.zeros(1, ACTOR)
    actor["open_ns"] = NEVER
    actor["edges_first"] = int(edges_first)
    actor["known"] = ALL
    return actor


def drop_open(actor: Records, *, lost: bool) -> None:
    """Nothing that is open will be paired.

    Args:
        actor: one ACTOR.
        lost: its next events are missing; otherwise there are none.
    """
    actor["unpaired_begins"] += actor["open_ns"] != NEVER
    actor["open_ns"] = NEVER
    actor["yields_now"] = 0
    if lost:
        actor["in_guest"] = -1


def bucket_bounds(index: int) -> tuple[int, int]:
    """The lowest and the highest value of a bucket."""
    shift = max(0, (index >> SUB_BUCKET_BITS) - 1)
    low = (index - (shift << SUB_BUCKET_BITS)) << shift
    return low, low + (1 << shift) - 1
