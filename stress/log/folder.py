# SPDX-License-Identifier: GPL-2.0-only
"""The run folder: one run, everything that is needed to judge and to repeat it.

```
OUT/2026-12-01T10-00-00-quick-7/    UTC start, scenario, seed: sorts by time, no colons, which some systems refuse
    config.toml                     the resolved config
    manifest.json                   versions, host facts, clock
    control.jsonl                   the control log
    events/<actor>-<n>.parquet      the event log
    state.json                      the state at the first finding; only where there is one
    verdict.json                    the result
```
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from stress.errors import HarnessError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["RunFolder", "cannot_write", "create_run_folder", "write_atomic"]


@dataclass(frozen=True)
class RunFolder:
    """Where the parts of one run lie."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.toml"

    @property
    def manifest(self) -> Path:
        """Versions, host facts and the clock."""
        return self.path / "manifest.json"

    @property
    def control(self) -> Path:
        """The control log."""
        return self.path / "control.jsonl"

    @property
    def events(self) -> Path:
        """The folder of the event log."""
        return self.path / "events"

    @property
    def state(self) -> Path:
        """The state at the first finding; only a run with a finding has it."""
        return self.path / "state.json"

    @property
    def verdict(self) -> Path:
        """The result."""
        return self.path / "verdict.json"


def create_run_folder(out: Path, scenario: str, seed: int, now: datetime, name: str = "") -> RunFolder:
    """Create the folder of a new run, with an empty `events` in it.

    Args:
        out: folder of all runs; created when missing.
        scenario: file stem of the scenario.
        seed: seed of the run.
        now: start of the run, with its time zone.
        name: of the folder, in place of one made of the other arguments.

    Raises:
        UsageError: the folder exists, or `out` is no folder that may be written.
        HarnessError: the system refused space. Nothing of the run folder is left then.
    """
    if now.tzinfo is None:
        raise ValueError("a time without zone could mean another hour")
    path = out / (name or f"{now.astimezone(UTC):%Y-%m-%dT%H-%M-%S}-{scenario}-{seed}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(out, error) from error
    try:
        path.mkdir()
    except FileExistsError as error:
        raise UsageError(f"{path}: already holds a run. Choose another --out.") from error
    except OSError as error:
        raise _refused(out, error) from error
    folder = RunFolder(path)
    try:
        folder.events.mkdir()
    except OSError as error:
        path.rmdir()
        raise _refused(out, error) from error
    return folder


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a reader, or a kill at any moment, sees the old content or the new.

    Raises:
        HarnessError: the system refused; the old content, if any, is untouched and nothing else is left.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> HarnessError:
    """The error to raise when the system refuses a file of the run."""
    return HarnessError(f"{path}: cannot write: {_why(error)}.")


def _refused(out: Path, error: OSError) -> HarnessError | UsageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return HarnessError(f"{out}: cannot create a run folder: {_why(error)}.")
    return UsageError(f"--out = {out}: expected a folder that may be written: {_why(error)}.")


def _why(error: OSError) -> str:
    return f"{error.strerror} [{errno.errorcode.get(error.errno or 0, 'no errno')}]"
