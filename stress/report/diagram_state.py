# SPDX-License-Identifier: GPL-2.0-only
"""What stands beside the rows of a diagram: who holds which lock, which roots there are, and the life of the stale mapping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.constants import (
    EV_FINDING,
    EV_FRAME_RETIRE,
    EV_GUEST_ACCESS,
    EV_KVM_ENTRY,
    EV_LOCK_ACQUIRE,
    EV_LOCK_RELEASE,
    EV_ROOT_ALLOC,
    EV_ROOT_GET,
    EV_ROOT_INVALIDATE,
    EV_ROOT_PUT,
    EV_ROOT_ZAP_BEGIN,
    EV_SLOT_OP_END,
    EV_SPTE_CHANGE,
    EV_TLB_FILL,
    EV_WRITEBACK,
)
from model.layout import actor_name
from stress.report.diagram_words import MMU_LOCK_READ, MMU_LOCK_WRITE, SLOTS_LOCK, TLB_HIT, Event, spte_part

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stress.explore.ending import Ending

__all__ = ["Life", "State", "Tracker", "life_of"]

# A root that one of these names before it is allocated was there at the start.
NAME_A_ROOT = frozenset(
    {EV_GUEST_ACCESS, EV_KVM_ENTRY, EV_ROOT_GET, EV_ROOT_INVALIDATE, EV_ROOT_PUT, EV_ROOT_ZAP_BEGIN, EV_TLB_FILL}
)

ABOUT_A_MAPPING = frozenset({"stale-use", "stale-writeback", "leftover-mapping"})


@dataclass(frozen=True)
class State:
    """Who holds what, and which roots there are: (page, is valid), in the order of their pages."""

    readers: tuple[str, ...] = ()
    writer: str = ""
    slots_lock: str = ""
    roots: tuple[tuple[int, bool], ...] = ()

    @property
    def mmu_lock(self) -> str:
        """`W:name` of a writer, `R:n` of readers, or ""."""
        if self.writer:
            return f"W:{self.writer}"
        return f"R:{len(self.readers)}" if self.readers else ""


class Tracker:
    """Follows locks and roots from event to event."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._readers: list[str] = []
        self._writer = ""
        self._slots_lock = ""
        self._roots: dict[int, bool] = {}
        allocated: set[int] = set()
        for event in events:
            if event.kind == EV_ROOT_ALLOC:
                allocated.add(event.root)
            elif event.kind in NAME_A_ROOT and event.root > 0 and event.root not in allocated:
                self._roots[event.root] = True

    @property
    def state(self) -> State:
        """As it is now."""
        return State(tuple(self._readers), self._writer, self._slots_lock, tuple(sorted(self._roots.items())))

    def take(self, event: Event) -> None:
        """Go one event further."""
        if event.kind in {EV_LOCK_ACQUIRE, EV_LOCK_RELEASE}:
            self._lock(event.arg0, actor_name(event.actor), takes=event.kind == EV_LOCK_ACQUIRE)
        elif event.kind == EV_ROOT_ALLOC:
            self._roots[event.root] = True
        elif event.kind == EV_ROOT_INVALIDATE:
            self._roots[event.root] = False
        elif event.kind == EV_ROOT_PUT and event.arg0 <= 0:
            self._roots.pop(event.root, None)

    def _lock(self, lock: int, name: str, *, takes: bool) -> None:
        if lock == SLOTS_LOCK:
            self._slots_lock = name if takes else ""
        elif lock == MMU_LOCK_WRITE:
            self._writer = name if takes else ""
        elif lock == MMU_LOCK_READ and takes:
            self._readers.append(name)
        elif lock == MMU_LOCK_READ and name in self._readers:
            self._readers.remove(name)


@dataclass(frozen=True)
class Life:
    """Of the mapping that a finding is about, as indices of events.

    `made` is -1 if it was there before the first event, `in_tlb` tells a TLB's entry from an SPTE, `returned` is the return of the
    DELETE or MOVE, -1 if there is none; `used` is what should not have happened.
    """

    made: int
    in_tlb: bool
    returned: int
    used: int


def life_of(ending: Ending, events: Sequence[Event]) -> Life | None:
    """The life of the mapping that a story's finding is about, or None if it is about none."""
    found = next((at for at, event in enumerate(events) if event.kind == EV_FINDING), -1)
    if found < 0 or ending.gfn is None or ending.kind not in ABOUT_A_MAPPING:
        return None
    finding = events[found]
    if ending.incarnation is None:
        # An SPTE left behind in a root: the finding names its place, not what it maps.
        made = _last(events, found, lambda event: _sets(event, ending.gfn) and event.root == finding.root)
        return Life(made, in_tlb=False, returned=-1, used=found)

    def is_it(event: Event) -> bool:
        return (event.gfn, event.incarnation) == (finding.gfn, finding.incarnation)

    retired = _last(events, found, lambda event: (event.kind, event.incarnation) == (EV_FRAME_RETIRE, finding.incarnation))
    returned = _last(events, retired, lambda event: event.kind == EV_SLOT_OP_END) if retired >= 0 else -1
    kind = {"stale-use": EV_GUEST_ACCESS, "stale-writeback": EV_WRITEBACK}.get(ending.kind)
    used = found if kind is None else _last(events, found, lambda event: event.kind == kind and is_it(event))
    set_at = _last(
        events,
        used,
        lambda event: _sets(event, ending.gfn) and spte_part(event.arg1, "incarnation") == finding.incarnation,
    )
    if ending.kind != "stale-use":
        return Life(set_at, in_tlb=False, returned=returned, used=used)
    filled = _last(events, used, lambda event: event.kind == EV_TLB_FILL and event.actor == finding.actor and is_it(event))
    hit = events[used].arg1 & TLB_HIT != 0
    if filled > returned >= 0:
        # Read from an SPTE that was stale already.
        return Life(set_at, in_tlb=False, returned=returned, used=used)
    return Life(filled, in_tlb=filled >= 0 or hit, returned=returned, used=used)


def _sets(event: Event, gfn: int | None) -> bool:
    return event.kind == EV_SPTE_CHANGE and event.gfn == gfn and spte_part(event.arg1, "present") == 1


def _last(events: Sequence[Event], before: int, holds: Callable[[Event], bool]) -> int:
    return next((at for at in range(before - 1, -1, -1) if holds(events[at])), -1)
