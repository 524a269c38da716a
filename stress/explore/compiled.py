# SPDX-License-Identifier: GPL-2.0-only
"""How the exploring engine is compiled, and the few things that only compiled code can do: raw memory, stacks, calls by address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.numpy_support import from_dtype

import model
from model.context import context
from model.native import context_get, peek, poke
from stress.explore.board import BOARD
from stress.jit import Jit

__all__ = [
    "CTX_BOARD",
    "bind_board",
    "call",
    "callback",
    "entry",
    "is_kept",
    "kernel",
    "peek",
    "poke",
    "record_at",
    "switch_stack",
    "the_board",
]

CTX_BOARD = 40  # word of model.context that holds the board's address

_HERE = Path(__file__).parent
_JIT = Jit("explore", [_HERE, _HERE / "strategies", Path(next(iter(model.__path__)))], Path(__file__))
kernel = _JIT.kernel
entry = _JIT.entry
callback = _JIT.callback
is_kept = _JIT.is_kept

_I64 = ir.IntType(64)


def bind_board(board: Any) -> None:
    """Compiled code of this process finds this board from now on."""
    context[CTX_BOARD] = board.ctypes.data


def record_at(dtype: Any) -> Any:
    """A compiled function from an address to the record of this dtype that lies there."""
    record_type = from_dtype(dtype)

    @intrinsic
    def at(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return record_type(types.int64), generate

    return at


_board_at = record_at(BOARD)


@kernel
def the_board() -> Any:
    """The board of this process."""
    return _board_at(context_get(CTX_BOARD))


@intrinsic
def call(typing: Any, address: Any) -> Any:
    """Call a C function without arguments by its address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = ir.FunctionType(ir.VoidType(), []).as_pointer()
        builder.call(builder.inttoptr(args[0], function), [])
        return context.get_dummy_value()

    return types.void(types.int64), generate


# Saves what a function must preserve, swaps stacks, restores it: as a call of another function that happens to return late.
_SWITCH = """
push %rbp
push %rbx
push %r12
push %r13
push %r14
push %r15
mov %rsp,(%rdi)
mov (%rsi),%rsp
pop %r15
pop %r14
pop %r13
pop %r12
pop %rbx
pop %rbp
ret
"""
STACK_FRAME_WORDS = 8  # six registers, the return address, and one word of padding above


@intrinsic
def switch_stack(typing: Any, save_to: Any, load_from: Any) -> Any:
    """Store this stack's pointer at one address and go on with the stack whose pointer lies at the other; x86-64 only."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = builder.module.globals.get("zaptorture_switch_stack")
        if function is None:
            kind = ir.FunctionType(ir.VoidType(), [_I64, _I64])
            function = ir.Function(builder.module, kind, "zaptorture_switch_stack")
            function.linkage = "internal"
            function.attributes.add("naked")
            function.attributes.add("noinline")
            body = ir.IRBuilder(function.append_basic_block())
            code = ir.InlineAsm(
                ir.FunctionType(ir.VoidType(), []), _SWITCH.strip().replace("\n", "\n\t"), "~{memory}", side_effect=True
            )
            body.call(code, [])
            body.unreachable()
        builder.call(function, args)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate
