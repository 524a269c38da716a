# SPDX-License-Identifier: GPL-2.0-only
"""Folders for compiled code, one for each build: what a build is made of goes into its folder's name, so none is ever stale.

Numba's own cache watches only the file of a compiled entry point, not the files of the functions that it calls.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import sys
from pathlib import Path

import numba
from llvmlite import binding

__all__ = ["build_folder", "sources_hash"]

# Builds that are kept beside the current one; older ones are removed.
BUILDS_KEPT = 24


def sources_hash(packages: list[Path]) -> str:
    """A hash over every source file of some packages; 16 hex digits.

    Args:
        packages: their folders; subpackages are not included.
    """
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted(package.glob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def build_folder(build: str, sources: str, entry: Path) -> Path | None:
    """The folder of a build, or None where nothing can be kept.

    Args:
        build: what it is: a few letters.
        sources: hash of all that goes into it.
        entry: file of its entry point. Numba's index knows that by path and time, so another checkout of the same sources is
            another build.
    """
    place = hashlib.sha256(f"{entry.resolve()}\0{entry.stat().st_mtime_ns}".encode()).hexdigest()[:8]
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zaptorture"
        folder = base / f"{sources}-{build}-{_toolchain()}-{place}"
        folder.mkdir(parents=True, exist_ok=True)
        folder.touch()
        if os.access(folder, os.W_OK):
            _forget_old_builds(base)
            return folder
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        pass
    return None


def _toolchain() -> str:
    parts = (numba.__version__, platform.machine(), binding.get_host_cpu_name(), sys.version.split()[0])
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def _forget_old_builds(base: Path) -> None:
    ages = []
    for path in base.iterdir():
        with contextlib.suppress(OSError):  # another run removes old builds too
            ages.append((path.stat().st_mtime, path))
    for _, path in sorted(ages)[:-BUILDS_KEPT]:
        shutil.rmtree(path, ignore_errors=True)
