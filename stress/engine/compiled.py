# SPDX-License-Identifier: GPL-2.0-only
"""The compiled model: which build a process gets, and a compile cache that never serves stale code.

Numba's own cache watches the file of the entry point alone. Here the cache is a folder per hash of everything that goes into
the code: all sources of the model and of the engines, the build's switches, Numba's version and the CPU.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import multiprocess
import numba
from llvmlite import binding

import model
import stress.engine
from stress.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CompiledModel", "load_model", "source_hash"]

# Builds that are kept beside the current one; older ones are removed.
BUILDS_KEPT = 8


@dataclass(frozen=True)
class CompiledModel:
    """The entry points of one build."""

    run_actor: Callable[[Any, int], None]
    read_clock: Callable[[], int]
    source_hash: str


def source_hash() -> str:
    """A hash over every source file that compiled code can come from; 16 hex digits."""
    digest = hashlib.sha256()
    for package in (model, stress.engine):
        for path in sorted(Path(next(iter(package.__path__))).glob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def load_model(record: NDArray[np.void], *, instrumented: bool, on_message: Callable[[str], None]) -> CompiledModel:
    """Compile the model, or load it from the cache.

    Args:
        record: the shared record; its type is what the entry points are compiled for.
        instrumented: primitives count their sites and disturb their actor.
        on_message: told before a compilation that will take a while.

    Context: before any worker is forked, so that all share the code; once a process, for one build.
    """
    sources = source_hash()
    folder = _cache_folder(sources, instrumented=instrumented)
    numba.config.CACHE_DIR = str(folder)
    from model import atomics  # noqa: PLC0415 - the cache folder must be set first

    atomics.engine.instrumented = instrumented
    from model.actors import read_clock, run_actor  # noqa: PLC0415

    entry: Any = run_actor
    clock: Any = read_clock

    def compile_or_load() -> None:
        clock.compile(())
        entry.compile((numba.typeof(record[0]), numba.int64))

    if not any(folder.rglob("*.nbi")):
        on_message("compiling the model, once for this version and build; later runs start at once")
        # In a process of its own: every run executes code that came out of the cache, and workers do not inherit what the
        # compiler leaves behind in memory.
        compiler = multiprocess.get_context("fork").Process(target=compile_or_load, name="compiler", daemon=True)
        compiler.start()
        compiler.join()
        if compiler.exitcode != 0:
            raise HarnessError(f"the model did not compile: the compiler's process ended with exit code {compiler.exitcode}.")
    compile_or_load()
    return CompiledModel(run_actor, read_clock, sources)


def _cache_folder(sources: str, *, instrumented: bool) -> Path:
    key = f"{sources}-{'noisy' if instrumented else 'plain'}-{_toolchain()}"
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zaptorture"
    try:
        folder = base / key
        folder.mkdir(parents=True, exist_ok=True)
        folder.touch()
        if os.access(folder, os.W_OK):
            _forget_old_builds(base)
            return folder
    except OSError:
        pass
    # Nowhere to keep it: compile for this process alone.
    return Path(tempfile.mkdtemp(prefix="zaptorture-cache-"))


def _toolchain() -> str:
    parts = (numba.__version__, platform.machine(), binding.get_host_cpu_name(), sys.version.split()[0])
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def _forget_old_builds(base: Path) -> None:
    builds = sorted((path for path in base.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for path in builds[:-BUILDS_KEPT]:
        shutil.rmtree(path, ignore_errors=True)
