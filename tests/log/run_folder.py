# SPDX-License-Identifier: GPL-2.0-only
"""Synthetic run folders for tests of what reads them, made with the project's own writer.

    from . import run_folder as rf   # from another folder of tests: see `tests/log/` on the path

    folder = rf.write_run(tmp_path / "run", {"vcpu0": [rf.event(5, Kind.KVM_ENTRY, root=7, arg0=1)], "ctl": []})

Times are nanoseconds since the start of the run, since the clock's rate is 10**9 and its start is 0.
"""

from __future__ import annotations

import itertools
import tomllib
from typing import TYPE_CHECKING, Any
from unittest import mock

import msgspec
import numpy as np
import tomli_w

from stress.log import events as log_events
from stress.log.control import ControlLog
from stress.log.drain import LogReport
from stress.log.events import FILE_ROWS_MAX, ROW_GROUP_ROWS, ActorFile, Clock
from stress.log.folder import RunFolder
from stress.log.schema import NULL, SCHEMA_VERSION, Kind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

CLOCK = Clock("CLOCK_MONOTONIC", 10**9, 0)
CONFIG = '[vm]\nnr_vcpus = 2\n\n[log]\npolicy = "all"\nsample = 64\nwindow_events = 4096\n'


def event(
    time_ns: int,
    kind: int = Kind.KVM_ENTRY,
    *,
    gfn: int = NULL,
    root: int = NULL,
    pfn: int = NULL,
    incarnation: int = NULL,
    arg0: int = NULL,
    arg1: int = NULL,
) -> tuple[int, ...]:
    """One record, in the order of the ring's words."""
    return (time_ns, int(kind), gfn, root, pfn, incarnation, arg0, arg1)


def numbered(n: int, start_ns: int = 0, step_ns: int = 10) -> list[tuple[int, ...]]:
    """`n` entries, `step_ns` apart, each with its index in arg0."""
    return [event(start_ns + step_ns * i, arg0=i) for i in range(n)]


def write_run(
    path: Path,
    events: Mapping[str, Sequence[Sequence[int]]],
    *,
    policy: str = "all",
    complete: bool = True,
    lost: Mapping[str, Collection[int]] | None = None,
    first_seq: Mapping[str, int] | None = None,
    manifest: Mapping[str, Any] | None = None,
    config: str = CONFIG,
    control: Iterable[tuple[int, str, Mapping[str, Any]]] = (),
    row_group_rows: int = ROW_GROUP_ROWS,
    file_rows: int = FILE_ROWS_MAX,
) -> RunFolder:
    """Write a run folder as a run does.

    Args:
        path: the folder, which must not exist.
        events: each actor's records, 8 ints each; their seqs count up from `first_seq`. The order of the actors is the
            manifest's.
        policy: the log's policy, in config and control log.
        complete: False: as after a kill, the control log has no actor_log, log_closed or verdict.
        lost: seqs of each actor that the actor recorded and that are in no file.
        first_seq: seq of each actor's first record, 0 by default; the events before it count as recorded.
        manifest: keys that replace those of the manifest.
        config: config.toml, without `log.policy`.
        control: further control events, in between: time in ns, name, fields.
        row_group_rows: rows of a row group.
        file_rows: rows after which a file is closed, rounded up to row groups.
    """
    folder = RunFolder(path)
    folder.events.mkdir(parents=True)
    settings = tomllib.loads(config)
    settings.setdefault("log", {})["policy"] = policy
    folder.config.write_text(tomli_w.dumps(settings))
    folder.manifest.write_bytes(msgspec.json.encode({**_manifest(list(events)), **(manifest or {})}))
    recorded, logged = {}, {}
    for actor, records in events.items():
        first = (first_seq or {}).get(actor, 0)
        recorded[actor] = first + len(records)
        gone = (lost or {}).get(actor, ())
        logged[actor] = write_events(folder, actor, records, first, gone, row_group_rows, file_rows)
    _write_control(folder, policy, control, LogReport(policy, recorded, logged) if complete else None)
    return folder


def write_events(
    folder: RunFolder,
    actor: str,
    records: Sequence[Sequence[int]],
    first_seq: int = 0,
    lost: Collection[int] = (),
    row_group_rows: int = ROW_GROUP_ROWS,
    file_rows: int = FILE_ROWS_MAX,
) -> int:
    """Write one actor's files, from number 0 on; returns the number of rows in them."""
    kept = [seq for seq in range(first_seq, first_seq + len(records)) if seq not in lost]
    words = np.array([records[seq - first_seq] for seq in kept], np.int64).reshape(-1, 8)
    with mock.patch.object(log_events, "ROW_GROUP_ROWS", row_group_rows):
        file = ActorFile(folder.events, actor, CLOCK, file_rows)
        done = 0
        for _, stretch in itertools.groupby(enumerate(kept), lambda pair: pair[1] - pair[0]):
            seqs = [seq for _, seq in stretch]
            file.append(words[done : done + len(seqs)], seqs[0])
            done += len(seqs)
        file.close()
    return done


def _manifest(actors: list[str]) -> dict[str, Any]:
    return {
        "version": "0",
        "schema_version": SCHEMA_VERSION,
        "model_hash": "0",
        "config_hash": "0",
        "seed": 1,
        "scenario": "test",
        "actors": actors,
        "host": {"cpu": "none", "cpus": 1, "memory_bytes": 0, "kernel": "0", "machine": "none", "python": "3"},
        "clock": {"kind": CLOCK.kind, "ticks_per_s": CLOCK.ticks_per_s, "t0_ticks": 0, "skew_ns": 0, "reason": "test"},
    }


def _write_control(
    folder: RunFolder, policy: str, between: Iterable[tuple[int, str, Mapping[str, Any]]], report: LogReport | None
) -> None:
    now = [0]
    log = ControlLog(folder.control, lambda: now[0])
    log.emit("run_start", scenario="test", seed=1, config_hash="0", schema_version=SCHEMA_VERSION, policy=policy)
    for now[0], name, fields in between:
        log.emit(name, **fields)
    if report is not None:
        log.log_closed(report)
        log.emit("verdict", verdict="PASS", reason="test")
    log.close()
