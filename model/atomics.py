# SPDX-License-Identifier: GPL-2.0-only
"""The only way to touch words that actors share, and the only places where another actor may come in.

Every primitive has two bodies. Interpreted, it is a scheduling point: it calls the scheduler that the exploring engine has
put into `engine`, then acts on the array. Compiled, it is the machine's own instruction; in an instrumented build a call of
model/perturb.py:passed stands in front of it.

    load, store                      READ_ONCE, WRITE_ONCE: plain moves, no order promised
    load_acquire, store_release      smp_load_acquire, smp_store_release
    xchg, cmpxchg, fetch_*           atomic read-modify-write with full order, as the kernel's value-returning forms
    smp_mb, smp_rmb, smp_wmb         barriers; the last two only keep the compiler (and weak CPUs) from reordering
    block                            wait until one of two words changes (model/wait.py builds on it)
    retry_pause                      a failed attempt that will be made again: RET_PF_RETRY
    might_sleep                      a place where the kernel may schedule, without a word of its own
    nap_us                           stay away for a while

Words are addressed as array and index, `load(vm.vcpu.mode, v)`; the index may be a pair.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numba.extending import overload

from model.context import CTX_WAIT
from model.jit import JIT_OPTIONS
from model.native import (
    address,
    context_get,
    cpu_relax,
    fence_compiler,
    fence_full,
    native_cmpxchg,
    native_fetch_add,
    native_fetch_and,
    native_fetch_or,
    native_load,
    native_load_acquire,
    native_store,
    native_store_release,
    native_xchg,
    poke,
    sched_yield,
    usleep,
)
from model.perturb import passed

__all__ = [
    "PRIMITIVES",
    "READS",
    "Scheduler",
    "block",
    "cmpxchg",
    "engine",
    "fetch_add",
    "fetch_and",
    "fetch_or",
    "load",
    "load_acquire",
    "might_sleep",
    "nap_us",
    "retry_pause",
    "smp_mb",
    "smp_rmb",
    "smp_wmb",
    "store",
    "store_release",
    "xchg",
]

Index = int | tuple[int, int]

PRIMITIVES = (
    "load",
    "store",
    "load_acquire",
    "store_release",
    "xchg",
    "cmpxchg",
    "fetch_add",
    "fetch_or",
    "fetch_and",
    "smp_mb",
    "smp_rmb",
    "smp_wmb",
    "block",
    "retry_pause",
    "might_sleep",
    "nap_us",
)
(
    LOAD,
    STORE,
    LOAD_ACQUIRE,
    STORE_RELEASE,
    XCHG,
    CMPXCHG,
    FETCH_ADD,
    FETCH_OR,
    FETCH_AND,
    SMP_MB,
    SMP_RMB,
    SMP_WMB,
    BLOCK,
    RETRY_PAUSE,
    MIGHT_SLEEP,
    NAP_US,
) = range(len(PRIMITIVES))

READS = frozenset({LOAD, LOAD_ACQUIRE, SMP_MB, SMP_RMB, SMP_WMB, MIGHT_SLEEP, NAP_US})


class Scheduler(Protocol):
    """What an exploring engine offers to the interpreted bodies."""

    def point(self, primitive: int, array: Any, index: Any) -> None:
        """Another actor may run here; returns when this one goes on."""

    def block(self, array: Any, index: Any, value: int, array2: Any, index2: Any, value2: int) -> None:
        """Return once array[index] != value or array2[index2] != value2."""

    def retry(self) -> None:
        """Return once another actor has written a word that this actor's failed attempt read."""


class _Engine:
    """Holds what the interpreted bodies use; `scheduler` is None outside an exploration."""

    scheduler: Scheduler | None = None
    # Chosen before anything compiles: primitives count their sites and disturb their actor.
    instrumented: bool = False


engine = _Engine()


def _point(primitive: int, array: Any = None, index: Any = 0) -> None:
    if engine.scheduler is not None:
        engine.scheduler.point(primitive, array, index)


def load(array: Any, index: Index) -> int:
    """READ_ONCE(array[index])."""
    _point(LOAD, array, index)
    return int(array[index])


def load_acquire(array: Any, index: Index) -> int:
    """smp_load_acquire(): nothing that follows moves before it."""
    _point(LOAD_ACQUIRE, array, index)
    return int(array[index])


def store(array: Any, index: Index, value: int) -> None:
    """WRITE_ONCE(array[index], value)."""
    _point(STORE, array, index)
    array[index] = value


def store_release(array: Any, index: Index, value: int) -> None:
    """smp_store_release(): nothing before it moves behind it."""
    _point(STORE_RELEASE, array, index)
    array[index] = value


def xchg(array: Any, index: Index, value: int) -> int:
    """Store value, return what was there."""
    _point(XCHG, array, index)
    old = int(array[index])
    array[index] = value
    return old


def cmpxchg(array: Any, index: Index, old: int, new: int) -> int:
    """Store new if old is there; return what was there."""
    _point(CMPXCHG, array, index)
    current = int(array[index])
    if current == old:
        array[index] = new
    return current


def fetch_add(array: Any, index: Index, value: int) -> int:
    """Add, return what was there before."""
    _point(FETCH_ADD, array, index)
    old = int(array[index])
    array[index] = old + value
    return old


def fetch_or(array: Any, index: Index, value: int) -> int:
    """Set bits, return what was there before."""
    _point(FETCH_OR, array, index)
    old = int(array[index])
    array[index] = old | value
    return old


def fetch_and(array: Any, index: Index, value: int) -> int:
    """Keep only the given bits, return what was there before."""
    _point(FETCH_AND, array, index)
    old = int(array[index])
    array[index] = old & value
    return old


def smp_mb() -> None:
    """Full barrier: earlier stores are visible before later loads are made."""
    _point(SMP_MB)


def smp_rmb() -> None:
    """Read barrier: earlier loads are made before later ones."""
    _point(SMP_RMB)


def smp_wmb() -> None:
    """Write barrier: earlier stores are visible before later ones."""
    _point(SMP_WMB)


def block(array: Any, index: Index, value: int, array2: Any, index2: Index, value2: int) -> None:
    """Wait until array[index] != value or array2[index2] != value2; natively spin, then yield, then sleep."""
    if engine.scheduler is not None:
        engine.scheduler.block(array, index, value, array2, index2, value2)
    elif int(array[index]) == value and int(array2[index2]) == value2:
        raise RuntimeError(f"a lone actor waits for a word to leave the value {value}: nobody is there to write it")


def retry_pause() -> None:
    """A failed attempt will be repeated; it can only do better once another actor has written something it read."""
    if engine.scheduler is not None:
        engine.scheduler.retry()


def might_sleep() -> None:
    """The kernel may schedule here: pfn resolution, allocation."""
    _point(MIGHT_SLEEP)


def nap_us(duration_us: int) -> None:
    """Stay away for so many microseconds; in exploration just a scheduling point."""
    _point(NAP_US)


_SPINS = 128
_YIELDS = 32
_SLEEP_US_FIRST = 20
_SLEEP_US_MAX = 500


@overload(load, jit_options=JIT_OPTIONS)
def _load(array: Any, index: Any) -> Any:
    if engine.instrumented:

        def noisy(array: Any, index: Any) -> Any:
            passed(LOAD, address(array, index))
            return native_load(array, index)

        return noisy

    def plain(array: Any, index: Any) -> Any:
        return native_load(array, index)

    return plain


@overload(load_acquire, jit_options=JIT_OPTIONS)
def _load_acquire(array: Any, index: Any) -> Any:
    if engine.instrumented:

        def noisy(array: Any, index: Any) -> Any:
            passed(LOAD_ACQUIRE, address(array, index))
            return native_load_acquire(array, index)

        return noisy

    def plain(array: Any, index: Any) -> Any:
        return native_load_acquire(array, index)

    return plain


@overload(store, jit_options=JIT_OPTIONS)
def _store(array: Any, index: Any, value: Any) -> Any:
    if engine.instrumented:

        def noisy(array: Any, index: Any, value: Any) -> Any:
            passed(STORE, address(array, index))
            native_store(array, index, value)

        return noisy

    def plain(array: Any, index: Any, value: Any) -> Any:
        return native_store(array, index, value)

    return plain


@overload(store_release, jit_options=JIT_OPTIONS)
def _store_release(array: Any, index: Any, value: Any) -> Any:
    if engine.instrumented:

        def noisy(array: Any, index: Any, value: Any) -> Any:
            passed(STORE_RELEASE, address(array, index))
            native_store_release(array, index, value)

        return noisy

    def plain(array: Any, index: Any, value: Any) -> Any:
        return native_store_release(array, index, value)

    return plain


def _overload_rmw(primitive: Any, number: int, native: Any) -> None:
    @overload(primitive, jit_options=JIT_OPTIONS)
    def body(array: Any, index: Any, value: Any) -> Any:
        if engine.instrumented:

            def noisy(array: Any, index: Any, value: Any) -> Any:
                passed(number, address(array, index))
                return native(array, index, value)

            return noisy

        def plain(array: Any, index: Any, value: Any) -> Any:
            return native(array, index, value)

        return plain


_overload_rmw(xchg, XCHG, native_xchg)
_overload_rmw(fetch_add, FETCH_ADD, native_fetch_add)
_overload_rmw(fetch_or, FETCH_OR, native_fetch_or)
_overload_rmw(fetch_and, FETCH_AND, native_fetch_and)


@overload(cmpxchg, jit_options=JIT_OPTIONS)
def _cmpxchg(array: Any, index: Any, old: Any, new: Any) -> Any:
    if engine.instrumented:

        def noisy(array: Any, index: Any, old: Any, new: Any) -> Any:
            passed(CMPXCHG, address(array, index))
            return native_cmpxchg(array, index, old, new)

        return noisy

    def plain(array: Any, index: Any, old: Any, new: Any) -> Any:
        return native_cmpxchg(array, index, old, new)

    return plain


def _overload_fence(primitive: Any, number: int, native: Any) -> None:
    @overload(primitive, jit_options=JIT_OPTIONS)
    def body() -> Any:
        if engine.instrumented:

            def noisy() -> Any:
                passed(number, 0)
                native()

            return noisy

        def plain() -> Any:
            return native()

        return plain


_overload_fence(smp_mb, SMP_MB, fence_full)
_overload_fence(smp_rmb, SMP_RMB, fence_compiler)
_overload_fence(smp_wmb, SMP_WMB, fence_compiler)


@overload(block, jit_options=JIT_OPTIONS)
def _block(array: Any, index: Any, value: Any, array2: Any, index2: Any, value2: Any) -> Any:
    instrumented = engine.instrumented

    def native(array: Any, index: Any, value: Any, array2: Any, index2: Any, value2: Any) -> Any:
        if instrumented:
            passed(BLOCK, address(array, index))
        tries = 0
        sleep_us = _SLEEP_US_FIRST
        while native_load_acquire(array, index) == value and native_load_acquire(array2, index2) == value2:
            tries += 1
            if tries < _SPINS:
                cpu_relax()
            elif tries < _SPINS + _YIELDS:
                sched_yield()
            else:
                # Tell the watchdog which word this actor waits for, and sleep: never burn a core for long.
                if context_get(CTX_WAIT) != 0:
                    poke(context_get(CTX_WAIT), address(array, index))
                usleep(np.uint32(sleep_us))
                if sleep_us < _SLEEP_US_MAX:
                    sleep_us = sleep_us * 2
        if tries >= _SPINS + _YIELDS and context_get(CTX_WAIT) != 0:
            poke(context_get(CTX_WAIT), 0)

    return native


@overload(retry_pause, jit_options=JIT_OPTIONS)
def _retry_pause() -> Any:
    instrumented = engine.instrumented

    def native() -> Any:
        if instrumented:
            passed(RETRY_PAUSE, 0)
        sched_yield()

    return native


@overload(might_sleep, jit_options=JIT_OPTIONS)
def _might_sleep() -> Any:
    instrumented = engine.instrumented

    def native() -> Any:
        if instrumented:
            passed(MIGHT_SLEEP, 0)

    return native


@overload(nap_us, jit_options=JIT_OPTIONS)
def _nap_us(duration_us: Any) -> Any:
    instrumented = engine.instrumented

    def native(duration_us: Any) -> Any:
        if instrumented:
            passed(NAP_US, 0)
        usleep(np.uint32(duration_us))

    return native
