# SPDX-License-Identifier: GPL-2.0-only
"""The compiled model: which build a process gets, and a compile cache that never serves stale code.

Numba's own cache watches the file of the entry point alone. Here the cache is a folder per hash of everything that goes into
the code: all sources of the model and of the engines, the build's switches, Numba's version and the CPU.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import multiprocess
import numba

import model
import stress.engine
from stress.buildcache import build_folder, sources_hash
from stress.engine.liveness import ending, is_stopped
from stress.engine.process import enter_child
from stress.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CompiledModel", "load_model", "source_hash"]

LOOK_S = 0.05


@dataclass(frozen=True)
class CompiledModel:
    """The entry points of one build."""

    run_actor: Callable[[Any, int], None]
    read_clock: Callable[[], int]
    source_hash: str


def source_hash() -> str:
    """A hash over every source file that compiled code can come from; 16 hex digits."""
    return sources_hash([_folder(model), _folder(stress.engine)])


def _folder(package: ModuleType) -> Path:
    return Path(next(iter(package.__path__)))


def load_model(
    record: NDArray[np.void],
    *,
    instrumented: bool,
    on_message: Callable[[str], None],
    interrupted: Callable[[], bool],
) -> CompiledModel:
    """Compile the model, or load it from the cache.

    Args:
        record: the shared record; its type is what the entry points are compiled for.
        instrumented: primitives count their sites and disturb their actor.
        on_message: told before a compilation that will take a while.
        interrupted: asked again and again while the model compiles.

    Raises:
        HarnessError: it did not compile.
        InterruptedError: `interrupted` said so.

    Context: before any worker is forked, so that all share the code; once a process, for one build.
    """
    sources = source_hash()
    folder = build_folder("noisy" if instrumented else "plain", sources, _folder(model) / "actors.py")
    if folder is not None:
        return _load_from(folder, record, sources, instrumented, on_message, interrupted)
    # Nowhere to keep it: compile for this process alone.
    with tempfile.TemporaryDirectory(prefix="zaptorture-cache-") as temporary:
        return _load_from(Path(temporary), record, sources, instrumented, on_message, interrupted)


def _load_from(
    folder: Path,
    record: NDArray[np.void],
    sources: str,
    instrumented: bool,  # noqa: FBT001 - from one place
    on_message: Callable[[str], None],
    interrupted: Callable[[], bool],
) -> CompiledModel:
    numba.config.CACHE_DIR = str(folder)
    from model import atomics  # noqa: PLC0415 - the cache folder must be set first

    atomics.engine.build = atomics.INSTRUMENTED if instrumented else atomics.PLAIN
    from model.actors import read_clock, run_actor  # noqa: PLC0415

    entry: Any = run_actor
    clock: Any = read_clock

    def compile_or_load() -> None:
        clock.compile(())
        entry.compile((numba.typeof(record[0]), numba.int64))

    # The entry point's code is written last: a compiler that was killed has left nothing that would pass for a build.
    if not any(folder.rglob("*run_actor*.nbc")):
        on_message("compiling the model, once for this version and build; later runs start at once")
        _in_a_process_of_its_own(compile_or_load, interrupted)
    compile_or_load()
    return CompiledModel(run_actor, read_clock, sources)


def _in_a_process_of_its_own(compile_or_load: Callable[[], None], interrupted: Callable[[], bool]) -> None:
    """Every run executes code that came out of the cache, and workers do not inherit what the compiler leaves in memory."""
    parent = os.getpid()

    def main() -> None:
        enter_child(parent)
        compile_or_load()

    compiler = multiprocess.get_context("fork").Process(target=main, name="compiler", daemon=True)
    compiler.start()
    trouble = ""
    while compiler.is_alive() and not trouble and not interrupted():
        compiler.join(LOOK_S)
        trouble = "was stopped by a signal" if is_stopped(compiler.pid) else ""
    if compiler.is_alive():
        compiler.kill()
    compiler.join()
    if interrupted():
        raise InterruptedError
    if trouble or compiler.exitcode != 0:
        how = trouble or ending(compiler.exitcode)
        raise HarnessError(f"the model did not compile: compiler (pid {compiler.pid}) {how}.")
