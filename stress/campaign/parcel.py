# SPDX-License-Identifier: GPL-2.0-only
"""A run folder as bytes, for a worker that does not see the campaign's folder."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from pathlib import Path

import msgspec

from stress.campaign.disk import THINNED_FILE, size_of
from stress.campaign.row import verdict_in
from stress.errors import HarnessError
from stress.log.folder import write_atomic
from stress.verdict import Verdict

__all__ = ["PARCEL_BYTES_MAX", "pack", "unpack"]

MIB = 1 << 20
# A parcel is held in memory by the worker, the scheduler and the campaign's process.
PARCEL_BYTES_MAX = 256 * MIB
EVENTS = "events"


def pack(folder: Path, bytes_max: int = PARCEL_BYTES_MAX) -> bytes:
    """Pack a run folder; one without a finding that takes more than `bytes_max` goes without its event log.

    Its `thinned.json` says so then. Evidence is sent whole, whatever its size.
    """
    if size_of(folder) > bytes_max and verdict_in(folder) != Verdict.VIOLATION.value:
        why = f"the run folder takes more than the {bytes_max // MIB} MiB that are sent from a worker"
        write_atomic(folder / THINNED_FILE, msgspec.json.encode({"removed": [EVENTS], "why": why}))
        shutil.rmtree(folder / EVENTS)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        tar.add(folder, arcname=".")
    return buffer.getvalue()


def unpack(parcel: bytes, target: Path, beside: Path) -> None:
    """Unpack a run folder: `target` is there whole or not at all.

    Args:
        parcel: what pack() made.
        target: the run folder to make.
        beside: folder on the same file system to unpack in.

    Raises:
        HarnessError: the parcel is damaged or holds what is no part of a run folder, or the system refuses.
    """
    try:
        with tempfile.TemporaryDirectory(dir=beside) as part:
            inner = Path(part) / target.name
            with tarfile.open(fileobj=io.BytesIO(parcel), mode="r:gz") as tar:
                tar.extractall(inner, filter="data")
            inner.rename(target)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise HarnessError(f"{target}: cannot be unpacked: {error}.") from error
