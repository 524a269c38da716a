# SPDX-License-Identifier: GPL-2.0-only
"""How a package outside the model compiles its inner loops, and where the code is kept.

`kernel` marks a function of the package: plain Python when called from Python, compiled when compiled code calls it. `entry` and
`callback` compile what Python, or C, calls; that code is kept in a folder named after all sources that go into it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numba
from numba.extending import register_jitable

from stress.buildcache import build_folder, sources_hash

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Jit"]

_F = TypeVar("_F", bound=Callable[..., Any])


class Jit:
    """The compiled code of one package."""

    def __init__(self, build: str, packages: list[Path], entry_file: Path) -> None:
        """Name the build.

        Args:
            build: what it is: a few letters.
            packages: folders of all sources that go into it.
            entry_file: the file by which the cache knows this checkout.
        """
        self._folder = build_folder(build, sources_hash(packages), entry_file)

    @staticmethod
    def kernel(function: _F) -> _F:
        """Mark a function of the package."""
        marked: _F = register_jitable(error_model="numpy")(function)
        return marked

    def entry(self, function: _F) -> _F:
        """Compile an entry point; it holds no GIL while it runs."""
        with self._cache() as cache:
            compiled: _F = numba.njit(cache=cache, nogil=True, error_model="numpy")(function)
        return compiled

    def callback(self, signature: Any) -> Callable[[Callable[..., Any]], Any]:
        """Compile a C function of this signature, at once; its address is in the attribute `address`."""

        def compile_it(function: Callable[..., Any]) -> Any:
            with self._cache() as cache:
                return numba.cfunc(signature, cache=cache)(function)

        return compile_it

    def is_kept(self, name: str) -> bool:
        """Is the code of this name in the cache, so that its first call will not compile it?"""
        return self._folder is not None and any(self._folder.rglob(f"*.{name}-*.nbc"))

    @contextmanager
    def _cache(self) -> Iterator[bool]:
        before = numba.config.CACHE_DIR
        if self._folder is not None:
            numba.config.CACHE_DIR = str(self._folder)
        try:
            yield self._folder is not None
        finally:
            numba.config.CACHE_DIR = before
