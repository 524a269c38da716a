# SPDX-License-Identifier: GPL-2.0-only
"""How the checker's code is compiled (stress/jit.py), and the raw reads that only compiled code can do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from stress.jit import Jit

__all__ = ["entry", "is_kept", "kernel", "peek", "peek16"]

_I64 = ir.IntType(64)
_I16 = ir.IntType(16)

_HERE = Path(__file__).parent
# The log's format goes into the code as constants.
_JIT = Jit("check", [_HERE, _HERE.parent / "log"], Path(__file__))
kernel = _JIT.kernel
entry = _JIT.entry
is_kept = _JIT.is_kept


@intrinsic
def peek(typing: Any, where: Any) -> Any:
    """The int64 at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], _I64.as_pointer()))

    return types.int64(types.int64), generate


@intrinsic
def peek16(typing: Any, where: Any) -> Any:
    """The int16 at an address, none of which is negative here."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.zext(builder.load(builder.inttoptr(args[0], _I16.as_pointer())), _I64)

    return types.int64(types.int64), generate
