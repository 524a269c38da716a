# SPDX-License-Identifier: GPL-2.0-only
"""Runs the command line as a user would, and reads the JSON that it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["zaptorture"]


def zaptorture(
    scenario: Path, overrides: Mapping[str, object], *, seed: int, duration: str, cache: Path | None = None
) -> dict[str, Any]:
    """One run; its run folder is thrown away.

    Args:
        scenario: the scenario file.
        overrides: keys and values for --set.
        seed: the run's seed.
        duration: as --duration takes it.
        cache: folder for the compile cache instead of the user's.

    Returns:
        The content of verdict.json.
    """
    environment = dict(os.environ)
    if cache is not None:
        environment["XDG_CACHE_HOME"] = str(cache)
    with tempfile.TemporaryDirectory(prefix="zaptorture-runs-") as out:
        command = [sys.executable, "-m", "stress.cli", "run", str(scenario), "--json", "--out", out]
        command += ["--seed", str(seed), "--duration", duration]
        for key, value in overrides.items():
            command += ["--set", f"{key}={str(value).lower() if isinstance(value, bool) else value}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise RuntimeError(f"{' '.join(command[1:])}: exit code {done.returncode}: {done.stderr.strip()[-500:]}") from None
    return result
