# SPDX-License-Identifier: GPL-2.0-only
"""LLVM building blocks for the compiled bodies of the primitives: atomic moves, fences, the context, raw addresses.

Only model/atomics.py, model/perturb.py and model/trace.py use these; they exist in compiled code alone.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from model.context import CONTEXT_SYMBOL, CONTEXT_WORDS

__all__ = [
    "address",
    "clock_gettime",
    "context_address",
    "context_get",
    "context_set",
    "cpu_relax",
    "cycle_counter",
    "explore_event",
    "explore_now",
    "explore_point",
    "fence_compiler",
    "fence_full",
    "native_cmpxchg",
    "native_fetch_add",
    "native_fetch_and",
    "native_fetch_or",
    "native_load",
    "native_load_acquire",
    "native_store",
    "native_store_release",
    "native_xchg",
    "nothing",
    "peek",
    "peek16",
    "poke",
    "sched_yield",
    "usleep",
]

_I64 = ir.IntType(64)
_I16 = ir.IntType(16)

# The exploring engine's own, bound to these symbols before an explored build is loaded (stress/explore).
explore_point = types.ExternalFunction("zaptorture_explore_point", types.int64(*[types.int64] * 6))
explore_event = types.ExternalFunction("zaptorture_explore_event", types.void(*[types.int64] * 8))
explore_now = types.ExternalFunction("zaptorture_explore_now", types.int64())

usleep = types.ExternalFunction("usleep", types.int32(types.uint32))
sched_yield = types.ExternalFunction("sched_yield", types.int32())
clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))


def _pointer(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    array_type, index_type = signature.args[0], signature.args[1]
    array = context.make_array(array_type)(context, builder, args[0])
    if isinstance(index_type, types.BaseTuple):
        indices = cgutils.unpack_tuple(builder, args[1], index_type.count)
    else:
        indices = [args[1]]
    return cgutils.get_item_pointer(context, builder, array_type, array, indices, wraparound=False)


def _context_word(builder: Any, index: Any) -> Any:
    module = builder.module
    block = module.globals.get(CONTEXT_SYMBOL)
    if block is None:
        block = ir.GlobalVariable(module, ir.ArrayType(_I64, CONTEXT_WORDS), CONTEXT_SYMBOL)
        block.linkage = "external"
    return builder.gep(block, [ir.Constant(_I64, 0), index], inbounds=True)


@intrinsic
def context_get(typing: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_context_word(builder, args[0]))

    return types.int64(types.int64), generate


@intrinsic
def context_set(typing: Any, index: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], _context_word(builder, args[0]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def context_address(typing: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(_context_word(builder, args[0]), _I64)

    return types.int64(types.int64), generate


@intrinsic
def address(typing: Any, array: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(_pointer(context, builder, signature, args), _I64)

    return types.int64(array, index), generate


@intrinsic
def peek(typing: Any, where: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], _I64.as_pointer()))

    return types.int64(types.int64), generate


@intrinsic
def peek16(typing: Any, where: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.zext(builder.load(builder.inttoptr(args[0], _I16.as_pointer())), _I64)

    return types.int64(types.int64), generate


@intrinsic
def poke(typing: Any, where: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], _I64.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


def _load_with(ordering: str) -> Any:
    @intrinsic
    def load(typing: Any, array: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load_atomic(_pointer(context, builder, signature, args), ordering, 8)

        return types.int64(array, index), generate

    return load


def _store_with(ordering: str) -> Any:
    @intrinsic
    def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.store_atomic(args[2], _pointer(context, builder, signature, args), ordering, 8)
            return context.get_dummy_value()

        return types.void(array, index, types.int64), generate

    return store


def _rmw_with(operation: str) -> Any:
    @intrinsic
    def rmw(typing: Any, array: Any, index: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.atomic_rmw(operation, _pointer(context, builder, signature, args), args[2], "seq_cst")

        return types.int64(array, index, types.int64), generate

    return rmw


# READ_ONCE and WRITE_ONCE: single plain moves, never torn or repeated by the compiler, no order promised.
native_load = _load_with("monotonic")
native_store = _store_with("monotonic")
native_load_acquire = _load_with("acquire")
native_store_release = _store_with("release")
native_xchg = _rmw_with("xchg")
native_fetch_add = _rmw_with("add")
native_fetch_or = _rmw_with("or")
native_fetch_and = _rmw_with("and")


@intrinsic
def native_cmpxchg(typing: Any, array: Any, index: Any, old: Any, new: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where = _pointer(context, builder, signature, args)
        return builder.extract_value(builder.cmpxchg(where, args[2], args[3], "seq_cst", "seq_cst"), 0)

    return types.int64(array, index, types.int64, types.int64), generate


@intrinsic
def fence_full(typing: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def fence_compiler(typing: Any) -> Any:
    """An acquire-release fence: orders the compiler everywhere, and the CPU where it reorders loads or stores."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("acq_rel")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def nothing(typing: Any) -> Any:
    """No instruction at all."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def cycle_counter(typing: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_I64, []), "llvm.readcyclecounter")
        return builder.call(function, [])

    return types.int64(), generate


@intrinsic
def cpu_relax(typing: Any) -> Any:
    """The CPU's hint that a loop waits: pause on x86-64, nothing elsewhere."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if "x86_64" in builder.module.triple:
            name = "llvm.x86.sse2.pause"
            builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), []), name), [])
        return context.get_dummy_value()

    return types.void(), generate
