# SPDX-License-Identifier: GPL-2.0-only
"""Page tables as the log shows them: pages taken and given back, SPTEs set and cleared, which table hangs below which root.

Two actors that fault side by side may log their changes in another order than they made them. So nothing here depends on the
order of such changes: links are remembered, present SPTEs are counted, and counts are looked at where every change has been logged,
because a lock or a grace period stands in between.
"""

from __future__ import annotations

from typing import Any

from stress.check.compiled import kernel
from stress.check.finding import EXACT, found, found_about, whole
from stress.check.rules import (
    FREED_IN_GRACE_PERIOD,
    FREED_TOO_EARLY,
    FREED_WHILE_LINKED,
    FROZEN_OVERWRITTEN,
    LEAF_TO_LEAF,
    LINKED_TWICE,
    PAGE_FREED_TWICE,
    PAGE_TAKEN_TWICE,
    UNLINKED_ELSEWHERE,
)
from stress.check.state import MAX_PAGES, NEVER, NO_EVENT, PLACES
from stress.log.schema import FROZEN_SPTE, SPTE_BITS

__all__ = ["free_page", "get_page", "root_of", "spte_change", "table_with_leaf", "unlink_page"]

PRESENT_BIT, _ = SPTE_BITS["present"]
LEAF_BIT, _ = SPTE_BITS["leaf"]
PFN_SHIFT, PFN_WIDTH = SPTE_BITS["pfn"]
PFN_MASK = (1 << PFN_WIDTH) - 1
INCARNATION_SHIFT, INCARNATION_WIDTH = SPTE_BITS["incarnation"]
INCARNATION_MASK = (1 << INCARNATION_WIDTH) - 1
LEVEL_4K = 1
MAX_DEPTH = 8


@kernel
def _present(spte: int) -> bool:
    return spte != FROZEN_SPTE and spte >> PRESENT_BIT & 1 != 0


@kernel
def _leaf(spte: int) -> bool:
    return _present(spte) and spte >> LEAF_BIT & 1 != 0


@kernel
def _pfn(spte: int) -> int:
    return spte >> PFN_SHIFT & PFN_MASK


@kernel
def _incarnation(spte: int) -> int:
    return spte >> INCARNATION_SHIFT & INCARNATION_MASK


@kernel
def root_of(s: Any, table: int) -> int:
    """The root that a table hangs below, itself for a root; 0 if that is not known."""
    for _ in range(MAX_DEPTH):
        if s.root_known[table] != 0:
            return table
        table = s.page_parent[table]
        if table == 0:
            break
    return 0


@kernel
def table_with_leaf(s: Any, place: int, valid_only: bool) -> int:
    """A table with a present leaf of the incarnation that has the place, or 0."""
    for table in range(s.page_top + 1):
        if s.leafs[table, place] > 0:
            root = root_of(s, table)
            if not valid_only or (root != 0 and s.root_invalid[root] == 0):
                return table
    return 0


# --- pages


@kernel
def get_page(s: Any, page: int) -> None:
    """A page was taken from the pool (I11)."""
    if not 0 < page < MAX_PAGES or not whole(s):
        return
    if s.page_live[page] != 0:
        found(s, PAGE_TAKEN_TWICE, EXACT, s.page_event[page], NEVER, page, 0)
    else:
        s.live_pages += 1
    s.page_top = max(s.page_top, page)
    s.page_live[page] = 1
    s.page_event[page] = s.event
    s.page_seen[page] = 0
    s.page_parent[page] = 0
    s.page_present[page] = 0
    s.page_unlinked[page] = 0
    for place in range(PLACES):
        s.leafs[page, place] = 0


@kernel
def free_page(s: Any, actor: int, page: int) -> None:
    """A page goes back to the pool (I11); if others may have seen it, after a grace period that began later (I12)."""
    if not 0 < page < MAX_PAGES or not whole(s):
        return
    if s.page_live[page] == 0:
        if s.from_start != 0:
            found(s, PAGE_FREED_TWICE, EXACT, NO_EVENT, NEVER, page, 0)
        return
    s.live_pages -= 1
    s.page_live[page] = 0
    s.page_event[page] = s.event
    s.page_freed_ns[page] = s.now_ns
    if s.page_seen[page] == 0:
        return
    if s.page_unlinked[page] == 0:
        found(s, FREED_WHILE_LINKED, EXACT, NO_EVENT, NEVER, page, 0)
    elif s.grace_ns[actor] > s.grace_done_ns[actor]:
        found(s, FREED_IN_GRACE_PERIOD, EXACT, s.page_unlinked_event[page], s.page_unlinked_ns[page], page, 0)
    else:
        # No grace period at all is as good as one from before.
        margin = s.page_unlinked_ns[page] - s.grace_ns[actor]
        if margin > 0:
            found(s, FREED_TOO_EARLY, margin, s.page_unlinked_event[page], s.page_unlinked_ns[page], page, 0)


@kernel
def unlink_page(s: Any, page: int) -> None:
    """Nobody who does not stand on the page already can reach it any more."""
    s.page_unlinked[page] = 1
    s.page_unlinked_ns[page] = s.now_ns
    s.page_unlinked_event[page] = s.event


# --- SPTEs


@kernel
def spte_change(s: Any, gfn: int, table: int, level: int, old: int, new: int) -> bool:
    """An SPTE changed: not from FROZEN (I13), not from leaf to leaf of another frame (I14), tables in one place only (I11).

    Returns:
        True if a present leaf went.
    """
    if old == FROZEN_SPTE:
        found_about(s, FROZEN_OVERWRITTEN, EXACT, NO_EVENT, NEVER, gfn, table, -1, -1, new)
    if level == LEVEL_4K and _leaf(old) and _leaf(new) and _pfn(old) != _pfn(new):
        found_about(s, LEAF_TO_LEAF, EXACT, NO_EVENT, NEVER, gfn, table, _pfn(new), _incarnation(new), _pfn(old))
    if not 0 < table < MAX_PAGES or not whole(s):
        return False
    s.page_top = max(s.page_top, table)
    was = _present(old)
    now = _present(new)
    if was != now:
        change = 1 if now else -1
        s.page_present[table] += change
        s.present_sptes += change
    if level == LEVEL_4K:
        _leaf_change(s, table, old, new)
        return _leaf(old) and not _leaf(new)
    if was and not _leaf(old):
        _unlink_child(s, gfn, table, _pfn(old))
    if now and not _leaf(new):
        _link_child(s, gfn, table, _pfn(new))
    return False


@kernel
def _leaf_change(s: Any, table: int, old: int, new: int) -> None:
    if _leaf(old):
        place = _incarnation(old) % PLACES
        if s.incarnation[place] == _incarnation(old):
            s.leafs[table, place] -= 1
            s.place_leafs[place] -= 1
    if _leaf(new):
        place = _incarnation(new) % PLACES
        if s.incarnation[place] == _incarnation(new):
            s.leafs[table, place] += 1
            s.place_leafs[place] += 1


@kernel
def _link_child(s: Any, gfn: int, table: int, child: int) -> None:
    if child == 0:
        return
    s.page_top = max(s.page_top, child)
    if s.page_seen[child] != 0 and s.page_live[child] != 0:
        found_about(s, LINKED_TWICE, EXACT, s.page_event[child], NEVER, gfn, child, -1, -1, s.page_parent[child])
    s.page_seen[child] = 1
    s.page_parent[child] = table


@kernel
def _unlink_child(s: Any, gfn: int, table: int, child: int) -> None:
    if child == 0:
        return
    if s.page_live[child] != 0 and s.page_parent[child] != table:
        found_about(s, UNLINKED_ELSEWHERE, EXACT, NO_EVENT, NEVER, gfn, child, -1, -1, s.page_parent[child])
    # Its parent stays noted: what hangs below is torn down next and belongs to the same root.
    unlink_page(s, child)
