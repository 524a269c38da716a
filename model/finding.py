# SPDX-License-Identifier: GPL-2.0-only
"""Findings: what an actor saw that the protocol rules out, written into the shared record. Never filtered, never an exception."""

from __future__ import annotations

from model.atomics import fetch_add, load, store, store_release
from model.constants import EV_FINDING
from model.freeze import freeze_state
from model.jit import kernel
from model.layout import MAX_FINDINGS, MAX_PLACES, Vm
from model.trace import now, trace

__all__ = ["report"]


@kernel
def report(
    vm: Vm,
    me: int,
    kind: int,
    invariant: int,
    gfn: int,
    pfn: int,
    incarnation: int,
    root: int,
    other: int,
    detail: int,
    observed: int,
) -> None:
    """Record a finding and ask every actor to stop.

    Args:
        vm: the shared record.
        me: the actor that saw it.
        kind: STALE_USE and so on (model/constants.py).
        invariant: n of In, or LOCKDEP.
        gfn: guest frame that it is about; -1 where that does not apply, as for all that follow.
        pfn: backing frame.
        incarnation: of the slot object that the mapping was made for.
        root: page of the root or table.
        other: a second actor, or -1.
        detail: code of the sentence that explains it (stress/engine/outcome.py), with `observed` as its number.
        observed: the value that was seen.

    The first MAX_FINDINGS are kept in full, later ones are counted. The very first keeps the state that it was seen in.
    """
    n = fetch_add(vm.run.nr_findings, 0, 1)
    if n < MAX_FINDINGS:
        vm.finding.kind[n] = kind
        vm.finding.invariant[n] = invariant
        vm.finding.actor[n] = me
        vm.finding.other[n] = other
        vm.finding.time[n] = now()
        vm.finding.other_time[n] = -1
        vm.finding.slot[n] = -1
        if incarnation >= 0:
            # The other event of the story: when the incarnation's DELETE or MOVE returned.
            place = incarnation & (MAX_PLACES - 1)
            vm.finding.slot[n] = place >> 1
            if load(vm.live.retired, place) == incarnation:
                vm.finding.other_time[n] = load(vm.live.retired_time, place)
        vm.finding.gfn[n] = gfn
        vm.finding.pfn[n] = pfn
        vm.finding.incarnation[n] = incarnation
        vm.finding.root[n] = root
        vm.finding.detail[n] = detail
        vm.finding.observed[n] = observed
        if n == 0:
            # Now: once `stop` is seen, every actor leaves and unloads its root.
            freeze_state(vm, me)
            vm.frozen.until[0] = now()
        # Pairs with the harness's read of `ready` before the other fields, and before the frozen state.
        store_release(vm.finding.ready, n, 1)
    trace(vm, me, EV_FINDING, gfn, root, pfn, incarnation, kind, invariant)
    # What led here is kept: windows of the last events are not overwritten by what comes now.
    store(vm.run.frozen, 0, 1)
    store(vm.run.stop, 0, 1)
