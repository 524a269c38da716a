# SPDX-License-Identifier: GPL-2.0-only
"""The one place that says how model code is compiled.

`kernel` marks a function of the model: plain Python when called from Python, compiled when compiled code calls it.
`entry` compiles a function that the engine calls; its code is kept in the compile cache.

Left alone, Numba optimises every function together with all that it calls, and makes machine code of it, before its caller's
turn comes: what lies deep in the call tree goes through LLVM dozens of times. Here a model function stays a part, linked once
into the entry point and optimised there, which takes half the time (a quarter in instrumented builds). That rests on
internals of numba.core.codegen; without JIT_OPTIONS everything still works, only slower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
from numba.core.compiler import Compiler
from numba.extending import register_jitable

__all__ = ["JIT_OPTIONS", "entry", "kernel"]

_F = TypeVar("_F", bound=Callable[..., Any])


class _Part(JITCodeLibrary):
    """The code of one function that only compiled callers use: linked into them, never run by itself."""

    _shared_module: Any

    def finalize(self) -> None:
        self._raise_if_finalized()
        for library in self._linking_libraries:
            self._reload_init.update(library._reload_init)
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return 0

    def _get_module_for_linking(self) -> Any:
        """This function and, once each, all that it calls."""
        self._ensure_finalized()
        if self._shared_module is None:
            self._shared_module = self._own_module()
            for library in self._callees({}):
                if isinstance(library, _Part):
                    self._shared_module.link_in(library._own_module())
                else:
                    self._shared_module.link_in(library._get_module_for_linking(), preserve=True)
            own = {function.name for function in self._final_module.functions if not function.is_declaration}
            for function in self._shared_module.functions:
                # Nobody else calls it, so calls and callee may be optimised together.
                if not function.is_declaration and function.name not in own:
                    function.linkage = "internal"
        return self._shared_module

    def _callees(self, found: dict[Any, None]) -> dict[Any, None]:
        for library in self._linking_libraries:
            if library not in found:
                found[library] = None
                if isinstance(library, _Part):
                    library._callees(found)
        return found

    def _own_module(self) -> Any:
        module = self._final_module.clone()
        for function in module.functions:
            if not function.is_declaration and function.linkage.name == "external":
                function.linkage = "linkonce_odr"
        return module


class _PartCodegen(JITCPUCodegen):
    _library_class = _Part

    def set_env(self, env_name: str, env: Any) -> None:
        """Parts are not loaded, so there is no environment to point to."""


_codegen = _PartCodegen("zaptorture.parts")


class _PartCompiler(Compiler):
    def __init__(self, typing: Any, target: Any, _library: Any, args: Any, return_type: Any, flags: Any, variables: Any) -> None:
        flags.no_cfunc_wrapper = True
        library = _codegen.create_library("part")
        library.enable_object_caching()
        super().__init__(typing, target, library, args, return_type, flags, variables)


# error_model: no division here is by zero, and code that cannot raise needs no status returned.
JIT_OPTIONS: dict[str, Any] = {"pipeline_class": _PartCompiler, "error_model": "numpy"}


def kernel(function: _F) -> _F:
    """Mark a model function: interpreted as it stands, compiled when compiled code calls it."""
    marked: _F = register_jitable(**JIT_OPTIONS)(function)
    return marked


def entry(function: _F) -> _F:
    """Compile an entry point of the native engine; it holds no GIL while it runs."""
    compiled: _F = numba.njit(cache=True, nogil=True)(function)
    return compiled
