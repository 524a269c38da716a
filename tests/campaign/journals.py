# SPDX-License-Identifier: GPL-2.0-only
"""Synthetic campaign folders for tests of what reads them: the journal is written by the project's own writer's code.

    folder = campaign(tmp_path / "c", [record(0), record(1, vcpus=8, verdict="VIOLATION")])

`append` writes records to a journal that is there, as the campaign's process does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from stress.campaign import journal as journals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

TIME = "2026-12-01T10:00:00.125Z"


def record(
    index: int,
    *,
    verdict: str = "PASS",
    counters: Mapping[str, int] | None = None,
    rates: Mapping[str, float] | None = None,
    quantiles: Mapping[str, float] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """The fields of an `end` record: those of a run that passed, but for those that are given."""
    run = {
        "index": index,
        "attempt": 1,
        "run": f"{index:06}-quick-{index + 100}",
        "role": "test",
        "rotation": 0,
        "seed": index + 100,
        "scenario": "quick",
        "variant": "split",
        "vcpus": 4,
        "slots": 3,
        "pages": 512,
        "bugs": "",
        "duration_s": 10.0,
        "check": "protocol",
        "policy": "window",
        "perturb": 0.001,
    }
    result = {
        "run_verdict": verdict,
        "reason": "" if verdict == "PASS" else f"a reason for {verdict}",
        "findings": [{"kind": "stale-use", "invariant": "I3"}] if verdict == "VIOLATION" else [],
        "elapsed_s": 10.0,
        "counters": {"guest_accesses": 10_000_000, "deletes": 1000, "lock_waits": 50} if counters is None else counters,
        "rates": {"guest_accesses_per_s": 1e6, "deletes_per_s": 100.0} if rates is None else rates,
        "resources": {"compile_s": 0.5, "reserved_mb": 3.5},
        "log": {"policy": "window", "complete": False, "lost": 0, "logged": 100},
        "config_hash": "0123456789ab",
        "model_hash": "0123456789abcdef",
        "version": "0.1.0",
        "host": {"cpu": "none", "kernel": "0"},
        "quantiles": {} if quantiles is None else quantiles,
        "verdict": verdict,
    }
    return run | fields | result | fields


def campaign(folder: Path, records: Iterable[Mapping[str, Any]], event: str = "end") -> Path:
    """A campaign's folder with a journal of these records."""
    (folder / "runs").mkdir(parents=True)
    _append(folder, [("campaign", {"seed": 1, "version": "0.1.0"}), ("session", {})])
    append(folder, records, event)
    return folder


def append(folder: Path, records: Iterable[Mapping[str, Any]], event: str = "end") -> None:
    """Further records."""
    _append(folder, ((event, fields) for fields in records))


def _append(folder: Path, records: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    # Not through Journal.append, which syncs every line to the disk.
    with (folder / "journal.jsonl").open("ab") as file:
        for event, fields in records:
            file.write(journals._line(msgspec.json.encode({"time": TIME, "up_s": 1.5, "event": event, **fields})))
