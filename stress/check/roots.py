# SPDX-License-Identifier: GPL-2.0-only
"""Roots as the log shows them: allocated, shared, invalidated, zapped, put for the last time; and who holds references of which.

A reference count in an event was read in the atomic operation itself, so it is exact; the order in which two actors log their
gets and puts is not. Counts are summed up from all events and compared where no get or put can be under way: under the write
lock, and at the very end.
"""

from __future__ import annotations

from typing import Any

from stress.check.compiled import kernel
from stress.check.finding import EXACT, found, found_before, whole
from stress.check.rules import (
    LAST_PUT_BEFORE_ZAP,
    LAST_PUT_ON_VALID_ROOT,
    REFCOUNT_AT_ALLOC,
    REFCOUNT_BELOW_ZERO,
    REFCOUNT_SUM,
    ROOT_NOT_EMPTY,
    ROOT_STILL_SCHEDULED,
    ROOT_TAKEN_AFTER_LAST_PUT,
)
from stress.check.state import EVENT_SHIFT, FIRST_OTHER, MAX_LIVE_ROOTS, MAX_PAGES, NEVER, NO_EVENT
from stress.check.tables import FREED_FIRST, unlink_page

__all__ = [
    "check_invalid_roots",
    "root_alloc",
    "root_freed",
    "root_get",
    "root_invalidate",
    "root_put",
    "root_zap_begin",
    "root_zap_end",
    "settle_root",
]

REFS_AT_ALLOC = 2  # the vCPU's, and the TDP MMU's own, which the back half puts


@kernel
def root_alloc(s: Any, actor: int, root: int, refs: int) -> None:
    """A vCPU made a new root, with a reference of its own and one of the TDP MMU's (I8)."""
    if not 0 < root < MAX_PAGES:
        return
    if refs != REFS_AT_ALLOC:
        found(s, REFCOUNT_AT_ALLOC, EXACT, NO_EVENT, NEVER, root, refs)
    _loaded(s, actor, root)
    if not whole(s):
        return
    s.page_top = max(s.page_top, root)
    s.page_seen[root] = 1
    s.page_parent[root] = 0
    s.root_known[root] = 1
    s.root_invalid[root] = 0
    s.root_final[root] = 0
    s.root_scheduled[root] = 0
    s.root_zapping[root] = 0
    # Others may have found the root, and logged that, before this.
    s.root_refs[root] += refs
    s.root_asked_ns[root] = NEVER
    if s.nr_roots < MAX_LIVE_ROOTS:
        s.roots[s.nr_roots] = root
        s.nr_roots += 1


@kernel
def _loaded(s: Any, actor: int, root: int) -> None:
    if actor < FIRST_OTHER:
        s.root[actor] = root
        s.loaded_ns[actor] = s.now_ns
        s.root_flushed[actor] = 0


@kernel
def root_get(s: Any, actor: int, root: int) -> None:
    """A reference was taken: by a vCPU that shares the root, or by an iterator."""
    if not 0 < root < MAX_PAGES:
        return
    if whole(s):
        s.root_refs[root] += 1
        if s.root_known[root] != 0 and s.root_final[root] != 0:
            margin = s.now_ns - s.root_put_ns[root]
            if margin > 0:
                found(s, ROOT_TAKEN_AFTER_LAST_PUT, margin, s.root_put_event[root], s.root_put_ns[root], root, 0)
    _loaded(s, actor, root)


@kernel
def root_put(s: Any, actor: int, root: int, refs: int) -> None:
    """A reference was dropped; the last one only of an invalid root (I9) whose zap has ended (I10), and never twice (I8)."""
    if not 0 < root < MAX_PAGES:
        return
    if actor < FIRST_OTHER and s.root[actor] == root:
        s.root[actor] = 0
    if refs < 0:
        found(s, REFCOUNT_BELOW_ZERO, EXACT, NO_EVENT, NEVER, root, refs)
    if not whole(s):
        return
    s.root_refs[root] -= 1
    if refs != 0:
        return
    if s.root_known[root] == 0:
        if s.page_unlinked[root] == FREED_FIRST:
            unlink_page(s, root)
        return
    s.root_final[root] = 1
    s.root_put_ns[root] = s.now_ns
    s.root_put_event[root] = s.event
    unlink_page(s, root)


@kernel
def settle_root(s: Any, root: int) -> None:
    """The last reference was put of a root that is valid (I9), or whose zap has not ended (I10), until this moment."""
    if s.root_known[root] == 0 or s.root_final[root] == 0:
        return
    event, ns = (s.root_put_event[root], s.root_put_ns[root])
    margin = EXACT if event >> EVENT_SHIFT == s.event >> EVENT_SHIFT else s.now_ns - ns
    if s.root_invalid[root] == 0:
        found_before(s, LAST_PUT_ON_VALID_ROOT, margin, event, ns, NO_EVENT, NEVER, root, 0)
    elif s.root_scheduled[root] != 0 or s.root_zapping[root] != 0:
        other, other_ns = (s.root_invalid_event[root], s.root_invalid_ns[root])
        found_before(s, LAST_PUT_BEFORE_ZAP, margin, event, ns, other, other_ns, root, 0)


@kernel
def root_freed(s: Any, page: int) -> None:
    """The page of a root goes back to the pool."""
    if not 0 < page < MAX_PAGES or s.root_known[page] == 0:
        return
    settle_root(s, page)
    s.root_known[page] = 0
    s.root_invalid[page] = 0
    for i in range(s.nr_roots):
        if s.roots[i] == page:
            s.nr_roots -= 1
            s.roots[i] = s.roots[s.nr_roots]
            break


@kernel
def root_invalidate(s: Any, root: int) -> None:
    """role.invalid was set: under the write lock, so all gets and puts so far have been logged (I8)."""
    if not 0 < root < MAX_PAGES or not whole(s):
        return
    settle_root(s, root)
    s.root_invalid[root] = 1
    s.root_scheduled[root] = 1
    s.root_invalid_ns[root] = s.now_ns
    s.root_invalid_event[root] = s.event
    s.root_asked_ns[root] = NEVER
    if s.root_known[root] == 0:
        return
    expected = 1
    for vcpu in range(s.nr_vcpus):
        if s.root[vcpu] == root:
            expected += 1
    # Where the log begins in the middle, references may be dropped that were not seen taken, until they were compared once.
    if s.root_refs[root] != expected and (s.from_start != 0 or s.root_summed[root] != 0):
        found(s, REFCOUNT_SUM, EXACT, NO_EVENT, NEVER, root, s.root_refs[root] - expected)
    s.root_refs[root] = expected
    s.root_summed[root] = 1


@kernel
def root_zap_begin(s: Any, root: int) -> None:
    """K2: no longer scheduled, the zap begins."""
    if 0 < root < MAX_PAGES and whole(s):
        s.root_scheduled[root] = 0
        s.root_zapping[root] = 1


@kernel
def root_zap_end(s: Any, root: int) -> None:
    """K3 is over."""
    if 0 < root < MAX_PAGES and whole(s):
        settle_root(s, root)
        s.root_zapping[root] = 0


@kernel
def check_invalid_roots(s: Any, begin_event: int) -> None:
    """Behind the back half every invalid root is empty and none is scheduled (I7)."""
    if not whole(s):
        return
    for i in range(s.nr_roots):
        root = s.roots[i]
        if s.root_invalid[root] == 0:
            continue
        if s.root_scheduled[root] != 0:
            found(s, ROOT_STILL_SCHEDULED, EXACT, s.root_invalid_event[root], s.root_invalid_ns[root], root, 0)
        elif s.page_present[root] > 0:
            found(s, ROOT_NOT_EMPTY, EXACT, begin_event, NEVER, root, s.page_present[root])
