# SPDX-License-Identifier: GPL-2.0-only
"""The disk budget: the oldest runs without a finding are thinned to their summaries, then removed; evidence never is.

A thinned run keeps its config, manifest and verdict, and a `thinned.json` that says so. Its row in the results stays in any case.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

import msgspec

from stress.campaign.row import last_object, verdict_in
from stress.log.folder import write_atomic
from stress.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["SALVAGE_FILE", "THINNED_FILE", "DiskBudget", "size_of", "sync_tree"]

THINNED_FILE = "thinned.json"
SALVAGE_FILE = "salvage.txt"  # what the checker said of the log of a run that left no verdict
LOG_PARTS = ("events", "control.jsonl", "quantiles.json")
LOW_WATER = 0.9  # of the budget: thinning happens in batches


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder, as they take room on the disk."""
    total = 0
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):  # whoever works in it may remove files
                if entry.is_dir(follow_symlinks=False):
                    total += size_of(folder / entry.name)
                else:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def sync_tree(folder: Path) -> None:
    """Wait until a run's evidence is on the disk, the folder's own entry included."""
    for path in [*folder.rglob("*"), folder, folder.parent]:
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


class DiskBudget:
    """Keeps a campaign's folder within its budget."""

    def __init__(self, folder: Path, bytes_max: int, is_planted: Callable[[str], bool]) -> None:
        """Measure what is there.

        Args:
            folder: of the campaign; its runs lie in `runs`.
            bytes_max: 0 is no limit.
            is_planted: of a run by its name: a planted bug's finding is no evidence against the protocol.
        """
        self._folder = folder
        self._runs = folder / "runs"
        self._bytes_max = bytes_max
        self._is_planted = is_planted
        self.used = size_of(folder)
        self.thinning = False

    def added(self, run: str) -> None:
        """A run has ended."""
        self.used += size_of(self._runs / run)

    def thin(self, busy: set[str]) -> tuple[list[str], bool]:
        """Make room if there is too little.

        Args:
            busy: runs that are being written, or that nobody has looked at yet.

        Returns:
            The runs that were thinned or removed, and whether the budget holds.
        """
        if not self._bytes_max or self.used <= self._bytes_max:
            return [], True
        self.used = size_of(self._folder)
        self.thinning = True
        target = int(self._bytes_max * LOW_WATER)
        touched: list[str] = []
        for act in (self._summarise, self._remove):
            for run in self._oldest_clean(busy):
                if self.used <= target:
                    return touched, True
                if act(run):
                    touched.append(run.name)
        return touched, self.used <= self._bytes_max

    def _oldest_clean(self, busy: set[str]) -> Iterator[Path]:
        for name in sorted(os.listdir(self._runs)):  # noqa: PTH208 - names alone, there may be many
            if name not in busy and self._may_go(name):
                yield self._runs / name

    def _may_go(self, name: str) -> bool:
        if self._is_planted(name):
            return True
        verdict = verdict_in(self._runs / name)
        if verdict is None:  # it died; since it is not busy, its log has been judged, if it left one
            judged = last_object(self._runs / name / SALVAGE_FILE).get("verdict")
            verdict = judged or ("" if any((self._runs / name).glob("events/*.parquet")) else Verdict.HARNESS_ERROR.value)
        return verdict not in {"", Verdict.VIOLATION.value}

    def _summarise(self, run: Path) -> bool:
        marker = run / THINNED_FILE
        if marker.exists():
            return False
        before = size_of(run)
        write_atomic(marker, msgspec.json.encode({"removed": LOG_PARTS, "why": "limits.disk_mb"}))
        for part in LOG_PARTS:
            path = run / part
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        self.used -= before - size_of(run)
        return True

    def _remove(self, run: Path) -> bool:
        before = size_of(run)
        shutil.rmtree(run, ignore_errors=True)
        self.used -= before
        return True
