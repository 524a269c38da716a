# SPDX-License-Identifier: GPL-2.0-only
"""Tracing as a primitive: one call, two bodies.

Interpreted, an event is appended to the list in `tracer`, or handed to the exploring engine. Compiled, it is handed to that engine
too in an explored build; otherwise it is a record of eight words in the actor's ring in shared
memory: time, kind, gfn, root, pfn, incarnation, two arguments; -1 where a field does not apply. Under the policy `all` or
`sampled` a full ring makes the actor wait for the drain; under `window` the oldest record is overwritten, until a
finding freezes the window.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numba.extending import overload

from model.atomics import EXPLORED, engine
from model.constants import LOG_SAMPLED, LOG_WINDOW
from model.context import CTX_CLOCK, CTX_TIMESPEC
from model.jit import JIT_OPTIONS
from model.layout import Vm
from model.native import (
    clock_gettime,
    context_address,
    context_get,
    cycle_counter,
    explore_event,
    explore_now,
    native_load,
    native_load_acquire,
    native_store_release,
    peek,
    usleep,
)

__all__ = ["Sink", "now", "trace", "trace_access", "tracer"]

_NS_PER_S = 1_000_000_000
_CLOCK_MONOTONIC = 1


class Sink(Protocol):
    """What an exploring engine offers to the interpreted bodies: its own clock, and a place for events."""

    def now(self) -> int:
        """Steps of the execution so far."""

    def event(self, me: int, kind: int, gfn: int, root: int, pfn: int, incarnation: int, arg0: int, arg1: int) -> None:
        """Take one event."""


class _Tracer:
    """Holds the interpreted events, and the interpreted clock: one tick a call; `sink` replaces both."""

    events: list[tuple[int, ...]] | None = None
    ticks: int = 0
    sink: Sink | None = None


tracer = _Tracer()


def now() -> int:
    """The time in ticks of the run's clock (manifest.json says which); interpreted, a logical clock."""
    if tracer.sink is not None:
        return tracer.sink.now()
    tracer.ticks += 1
    return tracer.ticks


def trace(vm: Vm, me: int, kind: int, gfn: int, root: int, pfn: int, incarnation: int, arg0: int, arg1: int) -> None:
    """Record one event of this actor."""
    if tracer.sink is not None:
        tracer.sink.event(me, kind, gfn, root, pfn, incarnation, arg0, arg1)
    elif tracer.events is not None:
        tracer.events.append((now(), me, kind, gfn, root, pfn, incarnation, arg0, arg1))


@overload(now, jit_options=JIT_OPTIONS)
def _now() -> Any:
    def native() -> Any:
        if context_get(CTX_CLOCK) == 0:
            return cycle_counter()
        # Not into an array of its own: an allocation may fail, and then every caller up to the entry point would have to
        # pass the failure on.
        spec = context_address(CTX_TIMESPEC)
        clock_gettime(np.int32(_CLOCK_MONOTONIC), spec)
        return peek(spec) * _NS_PER_S + peek(spec + 8)

    def explored() -> Any:
        return explore_now()

    return explored if engine.build == EXPLORED else native


@overload(trace, jit_options=JIT_OPTIONS)
def _trace(vm: Any, me: Any, kind: Any, gfn: Any, root: Any, pfn: Any, incarnation: Any, arg0: Any, arg1: Any) -> Any:
    def native(vm: Any, me: Any, kind: Any, gfn: Any, root: Any, pfn: Any, incarnation: Any, arg0: Any, arg1: Any) -> Any:
        head = vm.actor.ring_head[me]
        slots = vm.cfg.ring_slots[0]
        if vm.cfg.log_policy[0] == LOG_WINDOW:
            if native_load(vm.run.frozen, 0) != 0:
                return
        else:
            while head - native_load_acquire(vm.actor.ring_tail, me) >= slots:
                usleep(np.uint32(50))
        at = head & (slots - 1)
        vm.ring[me, at, 0] = now()
        vm.ring[me, at, 1] = kind
        vm.ring[me, at, 2] = gfn
        vm.ring[me, at, 3] = root
        vm.ring[me, at, 4] = pfn
        vm.ring[me, at, 5] = incarnation
        vm.ring[me, at, 6] = arg0
        vm.ring[me, at, 7] = arg1
        # Pairs with the drain's read of the head before the records.
        native_store_release(vm.actor.ring_head, me, head + 1)

    def explored(vm: Any, me: Any, kind: Any, gfn: Any, root: Any, pfn: Any, incarnation: Any, arg0: Any, arg1: Any) -> Any:
        explore_event(me, kind, gfn, root, pfn, incarnation, arg0, arg1)

    return explored if engine.build == EXPLORED else native


def trace_access(vm: Vm, me: int, kind: int, gfn: int, root: int, pfn: int, incarnation: int, arg0: int, arg1: int) -> None:
    """Record one event of the hot path; under the policy `sampled` only one in `log.sample` of them."""
    trace(vm, me, kind, gfn, root, pfn, incarnation, arg0, arg1)


@overload(trace_access, jit_options=JIT_OPTIONS)
def _trace_access(vm: Any, me: Any, kind: Any, gfn: Any, root: Any, pfn: Any, incarnation: Any, arg0: Any, arg1: Any) -> Any:
    def native(vm: Any, me: Any, kind: Any, gfn: Any, root: Any, pfn: Any, incarnation: Any, arg0: Any, arg1: Any) -> Any:
        if vm.cfg.log_policy[0] == LOG_SAMPLED:
            vm.actor.sample[me] -= 1
            if vm.actor.sample[me] > 0:
                return
            vm.actor.sample[me] = vm.cfg.log_sample[0]
        trace(vm, me, kind, gfn, root, pfn, incarnation, arg0, arg1)

    def explored(vm: Any, me: Any, kind: Any, gfn: Any, root: Any, pfn: Any, incarnation: Any, arg0: Any, arg1: Any) -> Any:
        explore_event(me, kind, gfn, root, pfn, incarnation, arg0, arg1)

    return explored if engine.build == EXPLORED else native
