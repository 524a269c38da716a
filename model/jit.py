# SPDX-License-Identifier: GPL-2.0-only
"""The one place that says how model code is compiled.

`kernel` marks a function of the model: plain Python when called from Python, compiled when compiled code calls it.
`entry` compiles a function that the engine calls; its code is kept in the compile cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba.extending import register_jitable

__all__ = ["entry", "kernel"]

_F = TypeVar("_F", bound=Callable[..., Any])


def kernel(function: _F) -> _F:
    """Mark a model function: interpreted as it stands, compiled when compiled code calls it."""
    marked: _F = register_jitable(function)
    return marked


def entry(function: _F) -> _F:
    """Compile an entry point of the native engine; it holds no GIL while it runs."""
    compiled: _F = numba.njit(cache=True, nogil=True)(function)
    return compiled
