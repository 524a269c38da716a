# SPDX-License-Identifier: GPL-2.0-only
"""The one place that says how the checker's code is compiled, and where its code is kept.

`kernel` marks a function of the checker: plain Python when called from Python, compiled when compiled code calls it. `entry`
compiles a function that Python calls; its code is kept in a folder that is named after all sources of the checker.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from stress.buildcache import build_folder, sources_hash

__all__ = ["entry", "is_kept", "kernel", "peek", "peek16"]

_F = TypeVar("_F", bound=Callable[..., Any])
_I64 = ir.IntType(64)
_I16 = ir.IntType(16)

_HERE = Path(__file__).parent
# The log's format goes into the code as constants.
_FOLDER = build_folder("check", sources_hash([_HERE, _HERE.parent / "log"]), Path(__file__))


def kernel(function: _F) -> _F:
    """Mark a function of the checker."""
    marked: _F = register_jitable(error_model="numpy")(function)
    return marked


def entry(function: _F) -> _F:
    """Compile an entry point; it holds no GIL while it runs."""
    if _FOLDER is None:
        compiled: _F = numba.njit(nogil=True, error_model="numpy")(function)
        return compiled
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(_FOLDER)
    try:
        compiled = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    finally:
        numba.config.CACHE_DIR = before
    return compiled


def is_kept(name: str) -> bool:
    """Is the entry point of this name in the cache, so that its first call will not compile it?"""
    return _FOLDER is not None and any(_FOLDER.rglob(f"*.{name}-*.nbc"))


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
