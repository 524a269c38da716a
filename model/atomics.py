# SPDX-License-Identifier: GPL-2.0-only
"""The only way to touch words that actors share, and the only places where another actor may come in.

Every primitive has two bodies. Interpreted, it asks the scheduler that the exploring engine has put into `engine` to do it when
its turn has come. Compiled, it is one of three, a build each: the machine's own instruction; the same behind a call of
model/perturb.py:passed (instrumented); a call of the exploring engine (explored).

    load, store                      READ_ONCE, WRITE_ONCE: plain moves, no order promised
    load_acquire, store_release      smp_load_acquire, smp_store_release
    xchg, cmpxchg, fetch_*           atomic read-modify-write with full order, as the kernel's value-returning forms
    atomic_add, add_test             the same for sums of which nobody wants all bits; these commute with each other
    smp_mb, smp_rmb, smp_wmb         barriers; the last two only keep the compiler (and weak CPUs) from reordering
    block                            wait until one of two words changes (model/wait.py builds on it)
    attempt, retry_pause             an attempt begins; it has failed and will be made again: RET_PF_RETRY
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
    explore_point,
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
    nothing,
    poke,
    sched_yield,
    usleep,
)
from model.perturb import passed

__all__ = [
    "EXPLORED",
    "INSTRUMENTED",
    "PLAIN",
    "PRIMITIVES",
    "Scheduler",
    "add_test",
    "apply",
    "atomic_add",
    "attempt",
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
    "atomic_add",
    "add_test",
    "attempt",
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
    ATOMIC_ADD,
    ADD_TEST,
    ATTEMPT,
) = range(len(PRIMITIVES))

# The builds of compiled primitives.
PLAIN = "plain"
INSTRUMENTED = "noisy"
EXPLORED = "explored"


class Scheduler(Protocol):
    """What an exploring engine offers to the interpreted bodies."""

    def operate(self, primitive: int, array: Any, index: Any, a: int, b: int) -> int:
        """Let other actors run as the schedule says, then do the primitive (as `apply()` would) and return its result."""

    def block(self, array: Any, index: Any, value: int, array2: Any, index2: Any, value2: int) -> None:
        """Return once array[index] != value or array2[index2] != value2."""

    def retry(self) -> None:
        """Return once another actor has written a word that this actor's failed attempt read."""


class _Engine:
    """Holds what the bodies use; `scheduler` is None outside an exploration."""

    scheduler: Scheduler | None = None
    # Chosen before anything compiles: what stands in front of a compiled primitive.
    build: str = PLAIN


engine = _Engine()


def _operate(primitive: int, array: Any = None, index: Any = 0, a: int = 0, b: int = 0) -> int:
    if engine.scheduler is not None:
        return engine.scheduler.operate(primitive, array, index, a, b)
    return apply(primitive, array, index, a, b)


def apply(primitive: int, array: Any, index: Any, a: int, b: int) -> int:
    """What a primitive does to its word, and what it returns; 0 for those without a word or a result."""
    if array is None:
        return 0
    old = int(array[index])
    if primitive in {STORE, STORE_RELEASE, XCHG}:
        array[index] = a
    elif primitive == CMPXCHG:
        if old == a:
            array[index] = b
    elif primitive in {FETCH_ADD, ATOMIC_ADD, ADD_TEST}:
        array[index] = old + a
    elif primitive == FETCH_OR:
        array[index] = old | a
    elif primitive == FETCH_AND:
        array[index] = old & a
    return (old + a) & b if primitive == ADD_TEST else old


def load(array: Any, index: Index) -> int:
    """READ_ONCE(array[index])."""
    return _operate(LOAD, array, index)


def load_acquire(array: Any, index: Index) -> int:
    """smp_load_acquire(): nothing that follows moves before it."""
    return _operate(LOAD_ACQUIRE, array, index)


def store(array: Any, index: Index, value: int) -> None:
    """WRITE_ONCE(array[index], value)."""
    _operate(STORE, array, index, value)


def store_release(array: Any, index: Index, value: int) -> None:
    """smp_store_release(): nothing before it moves behind it."""
    _operate(STORE_RELEASE, array, index, value)


def xchg(array: Any, index: Index, value: int) -> int:
    """Store value, return what was there."""
    return _operate(XCHG, array, index, value)


def cmpxchg(array: Any, index: Index, old: int, new: int) -> int:
    """Store new if old is there; return what was there."""
    return _operate(CMPXCHG, array, index, old, new)


def fetch_add(array: Any, index: Index, value: int) -> int:
    """Add, return what was there before."""
    return _operate(FETCH_ADD, array, index, value)


def fetch_or(array: Any, index: Index, value: int) -> int:
    """Set bits, return what was there before."""
    return _operate(FETCH_OR, array, index, value)


def fetch_and(array: Any, index: Index, value: int) -> int:
    """Keep only the given bits, return what was there before."""
    return _operate(FETCH_AND, array, index, value)


def atomic_add(array: Any, index: Index, value: int) -> None:
    """Add; nobody asks what was there, so two of these commute."""
    _operate(ATOMIC_ADD, array, index, value)


def add_test(array: Any, index: Index, value: int, mask: int) -> int:
    """Add, return the bits of the sum that `mask` names: atomic_add_return() & mask."""
    return _operate(ADD_TEST, array, index, value, mask)


def smp_mb() -> None:
    """Full barrier: earlier stores are visible before later loads are made."""
    _operate(SMP_MB)


def smp_rmb() -> None:
    """Read barrier: earlier loads are made before later ones."""
    _operate(SMP_RMB)


def smp_wmb() -> None:
    """Write barrier: earlier stores are visible before later ones."""
    _operate(SMP_WMB)


def block(array: Any, index: Index, value: int, array2: Any, index2: Index, value2: int) -> None:
    """Wait until array[index] != value or array2[index2] != value2; natively spin, then yield, then sleep."""
    if engine.scheduler is not None:
        engine.scheduler.block(array, index, value, array2, index2, value2)
    elif int(array[index]) == value and int(array2[index2]) == value2:
        raise RuntimeError(f"a lone actor waits for a word to leave the value {value}: nobody is there to write it")


def attempt() -> None:
    """An attempt begins: what it reads from here on is what retry_pause() will wait for."""
    _operate(ATTEMPT)


def retry_pause() -> None:
    """A failed attempt will be repeated; it can only do better once another actor has written something it read."""
    if engine.scheduler is not None:
        engine.scheduler.retry()


def might_sleep() -> None:
    """The kernel may schedule here: pfn resolution, allocation."""
    _operate(MIGHT_SLEEP)


def nap_us(duration_us: int) -> None:
    """Stay away for so many microseconds; in exploration no time passes."""
    _operate(NAP_US)


_SPINS = 128
_YIELDS = 32
_SLEEP_US_FIRST = 20
_SLEEP_US_MAX = 500


# --- compiled bodies
#
# In the explored build a primitive is a call of the engine, which does it when its turn has come. In the other two it is the
# machine's own instruction; instrumented, it is counted and may be disturbed first. `engine.build` is read while an overload is
# being compiled, so what does not belong to the build is not there.


def _overload_word(primitive: Any, number: int, native: Any) -> None:
    """A primitive on one word without further arguments: the loads."""

    @overload(primitive, jit_options=JIT_OPTIONS)
    def body(array: Any, index: Any) -> Any:
        instrumented = engine.build == INSTRUMENTED

        def explored(array: Any, index: Any) -> Any:
            return explore_point(number, address(array, index), 0, 0, 0, 0)

        def direct(array: Any, index: Any) -> Any:
            if instrumented:
                passed(number, address(array, index))
            return native(array, index)

        return explored if engine.build == EXPLORED else direct


def _overload_value(primitive: Any, number: int, native: Any) -> None:
    """A primitive on one word with a value: stores and read-modify-writes."""

    @overload(primitive, jit_options=JIT_OPTIONS)
    def body(array: Any, index: Any, value: Any) -> Any:
        instrumented = engine.build == INSTRUMENTED

        def explored(array: Any, index: Any, value: Any) -> Any:
            return explore_point(number, address(array, index), value, 0, 0, 0)

        def direct(array: Any, index: Any, value: Any) -> Any:
            if instrumented:
                passed(number, address(array, index))
            return native(array, index, value)

        return explored if engine.build == EXPLORED else direct


def _overload_fence(primitive: Any, number: int, native: Any) -> None:
    @overload(primitive, jit_options=JIT_OPTIONS)
    def body() -> Any:
        instrumented = engine.build == INSTRUMENTED

        def explored() -> Any:
            explore_point(number, 0, 0, 0, 0, 0)

        def direct() -> Any:
            if instrumented:
                passed(number, 0)
            native()

        return explored if engine.build == EXPLORED else direct


_overload_word(load, LOAD, native_load)
_overload_word(load_acquire, LOAD_ACQUIRE, native_load_acquire)
_overload_value(store, STORE, native_store)
_overload_value(store_release, STORE_RELEASE, native_store_release)
_overload_value(xchg, XCHG, native_xchg)
_overload_value(fetch_add, FETCH_ADD, native_fetch_add)
_overload_value(fetch_or, FETCH_OR, native_fetch_or)
_overload_value(fetch_and, FETCH_AND, native_fetch_and)
_overload_value(atomic_add, ATOMIC_ADD, native_fetch_add)
_overload_fence(smp_mb, SMP_MB, fence_full)
_overload_fence(smp_rmb, SMP_RMB, fence_compiler)
_overload_fence(smp_wmb, SMP_WMB, fence_compiler)
_overload_fence(retry_pause, RETRY_PAUSE, sched_yield)
_overload_fence(might_sleep, MIGHT_SLEEP, nothing)
_overload_fence(attempt, ATTEMPT, nothing)


@overload(cmpxchg, jit_options=JIT_OPTIONS)
def _cmpxchg(array: Any, index: Any, old: Any, new: Any) -> Any:
    instrumented = engine.build == INSTRUMENTED

    def explored(array: Any, index: Any, old: Any, new: Any) -> Any:
        return explore_point(CMPXCHG, address(array, index), old, new, 0, 0)

    def direct(array: Any, index: Any, old: Any, new: Any) -> Any:
        if instrumented:
            passed(CMPXCHG, address(array, index))
        return native_cmpxchg(array, index, old, new)

    return explored if engine.build == EXPLORED else direct


@overload(add_test, jit_options=JIT_OPTIONS)
def _add_test(array: Any, index: Any, value: Any, mask: Any) -> Any:
    instrumented = engine.build == INSTRUMENTED

    def explored(array: Any, index: Any, value: Any, mask: Any) -> Any:
        return explore_point(ADD_TEST, address(array, index), value, mask, 0, 0)

    def direct(array: Any, index: Any, value: Any, mask: Any) -> Any:
        if instrumented:
            passed(ADD_TEST, address(array, index))
        return (native_fetch_add(array, index, value) + value) & mask

    return explored if engine.build == EXPLORED else direct


@overload(block, jit_options=JIT_OPTIONS)
def _block(array: Any, index: Any, value: Any, array2: Any, index2: Any, value2: Any) -> Any:
    instrumented = engine.build == INSTRUMENTED

    def explored(array: Any, index: Any, value: Any, array2: Any, index2: Any, value2: Any) -> Any:
        explore_point(BLOCK, address(array, index), value, 0, address(array2, index2), value2)

    def direct(array: Any, index: Any, value: Any, array2: Any, index2: Any, value2: Any) -> Any:
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

    return explored if engine.build == EXPLORED else direct


@overload(nap_us, jit_options=JIT_OPTIONS)
def _nap_us(duration_us: Any) -> Any:
    instrumented = engine.build == INSTRUMENTED

    def explored(duration_us: Any) -> Any:
        explore_point(NAP_US, 0, 0, 0, 0, 0)

    def direct(duration_us: Any) -> Any:
        if instrumented:
            passed(NAP_US, 0)
        usleep(np.uint32(duration_us))

    return explored if engine.build == EXPLORED else direct
