# SPDX-License-Identifier: GPL-2.0-only
"""Page tables as the log shows them: pages taken and given back, SPTEs set and cleared, which table hangs below which root.

Two actors that fault side by side may log their changes in another order than they made them. So nothing here depends on the
order of such changes: links are remembered, present SPTEs are counted, and counts are looked at where every change has been logged,
because a lock or a grace period stands in between.
"""

from __future__ import annotations

from typing import Any

from stress.check.compiled import kernel
from stress.check.finding import EXACT, found, found_about, found_before, whole
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
from stress.check.state import EVENT_SHIFT, MAX_PAGES, NEVER, NO_EVENT, PLACES
from stress.log.schema import FROZEN_SPTE, SPTE_BITS

__all__ = ["FREED_FIRST", "free_page", "get_page", "root_of", "settle_page", "spte_change", "table_with_leaf", "unlink_page"]

PRESENT_BIT, _ = SPTE_BITS["present"]
LEAF_BIT, _ = SPTE_BITS["leaf"]
PFN_SHIFT, PFN_WIDTH = SPTE_BITS["pfn"]
PFN_MASK = (1 << PFN_WIDTH) - 1
INCARNATION_SHIFT, INCARNATION_WIDTH = SPTE_BITS["incarnation"]
INCARNATION_MASK = (1 << INCARNATION_WIDTH) - 1
LEVEL_4K = 1
FREED_FIRST = -1
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
        if table <= 0:
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
    settle_page(s, page)
    s.page_top = max(s.page_top, page)
    s.live_pages += 1
    s.page_live[page] += 1
    if s.page_live[page] <= 0:
        # It was given back already.
        return
    s.page_event[page] = s.event
    s.page_ns[page] = s.now_ns
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
    if s.page_live[page] == 0 and s.from_start == 0:
        return
    settle_page(s, page)
    s.live_pages -= 1
    s.page_live[page] -= 1
    if s.page_live[page] > 0:
        # Somebody has taken it again already.
        return
    s.page_event[page] = s.event
    s.page_ns[page] = s.now_ns
    if s.page_live[page] < 0 or s.page_seen[page] == 0:
        return
    if s.page_parent[page] < 0:
        _settle_parent(s, page)
    if s.page_unlinked[page] == 0:
        s.page_unlinked[page] = FREED_FIRST
    elif s.grace_ns[actor] > s.grace_done_ns[actor]:
        found(s, FREED_IN_GRACE_PERIOD, EXACT, s.page_unlinked_event[page], s.page_unlinked_ns[page], page, 0)
    else:
        # No grace period at all is as good as one from before.
        margin = s.page_unlinked_ns[page] - s.grace_ns[actor]
        if margin > 0:
            found(s, FREED_TOO_EARLY, margin, s.page_unlinked_event[page], s.page_unlinked_ns[page], page, 0)


@kernel
def settle_page(s: Any, page: int) -> None:
    """What the page's last change of hands left open is not explained by any event before this moment.

    Two actors whose clocks differ may log giving back and taking, or unlinking and giving back, the wrong way round: then
    the other event comes within the window.
    """
    event, ns = (s.page_event[page], s.page_ns[page])
    margin = s.now_ns - ns
    if s.page_live[page] > 1:
        found_before(s, PAGE_TAKEN_TWICE, margin, event, ns, NO_EVENT, NEVER, page, 0)
    elif s.page_live[page] < 0:
        found_before(s, PAGE_FREED_TWICE, margin, event, ns, NO_EVENT, NEVER, page, 0)
    elif s.page_unlinked[page] == FREED_FIRST:
        found_before(s, FREED_WHILE_LINKED, margin, event, ns, NO_EVENT, NEVER, page, 0)
        s.page_unlinked[page] = 1


@kernel
def _settle_parent(s: Any, page: int) -> None:
    """As settle_page(), for a table that was unlinked and not seen linked before."""
    event, ns = (s.page_unlinked_event[page], s.page_unlinked_ns[page])
    found_before(s, UNLINKED_ELSEWHERE, s.now_ns - ns, event, ns, NO_EVENT, NEVER, page, 0)


@kernel
def unlink_page(s: Any, page: int) -> None:
    """Nobody who does not stand on the page already can reach it any more."""
    if s.page_unlinked[page] == FREED_FIRST:
        settle_page(s, page)
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
    taken_by_another = s.page_event[child] >> EVENT_SHIFT != s.event >> EVENT_SHIFT
    if s.page_live[child] > 0 and taken_by_another and s.now_ns - s.page_ns[child] <= s.window_ns:
        # Perhaps of the page's life before.
        return
    if s.page_parent[child] < 0:
        _settle_parent(s, child)
    elif s.page_seen[child] != 0 and s.page_live[child] > 0:
        found_about(s, LINKED_TWICE, EXACT, s.page_event[child], NEVER, gfn, child, -1, -1, s.page_parent[child])
    s.page_seen[child] = 1
    s.page_parent[child] = table


@kernel
def _unlink_child(s: Any, gfn: int, table: int, child: int) -> None:
    if child == 0:
        return
    # Its parent stays noted: what hangs below is torn down next and belongs to the same root.
    unlink_page(s, child)
    if s.page_live[child] <= 0 or s.page_parent[child] == table:
        return
    if s.page_parent[child] == 0:
        # By a clock that is ahead it may have been linked in time: then the event comes within the window.
        s.page_parent[child] = -table
        s.page_seen[child] = 1
        return
    margin = s.now_ns - s.page_ns[child]
    found_about(s, UNLINKED_ELSEWHERE, margin, NO_EVENT, NEVER, gfn, child, -1, -1, abs(s.page_parent[child]))
