# SPDX-License-Identifier: GPL-2.0-only
"""The control log: a run's low-rate events as JSON Lines, `control.jsonl`.

Each line is a flat object with `timestamp` (ISO 8601, UTC, for people), `t_ns` (since the start of the run, on the same
clock as the events' `time_ns`), `event`, and the event's own fields. Lines are appended by the parent process alone,
each with one write and never in part, so that a reader may follow a live run and a killed run ends with a whole line.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import structlog

from stress.log.folder import cannot_write

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from pathlib import Path

    from stress.log.drain import LogReport

__all__ = ["CONTROL_EVENTS", "ControlLog"]

# Every event and the fields that a reader may rely on; a writer may add others.
CONTROL_EVENTS: dict[str, dict[str, str]] = {
    "run_start": {
        "scenario": "file stem of the scenario",
        "seed": "seed of the run",
        "config_hash": "hash of the resolved config",
        "schema_version": "version of the event log's format",
        "policy": "log.policy",
    },
    "process_start": {"actor": "name of the actor or helper process", "pid": "its process id"},
    "process_exit": {
        "actor": "name of the actor or helper process",
        "pid": "its process id",
        "exitcode": "exit code; -n: killed by signal n",
    },
    "nemesis": {
        "act": "which act",
        "done": "false: it was not possible",
        "target": "whom it hit, names with commas between; empty: nobody in particular",
    },
    "nemesis_end": {"act": "which act", "outcome": "what came of it, in words; mostly empty"},
    "warmup_done": {},
    "slot_ops": {"creates": "slots created so far", "deletes": "slots deleted", "moves": "slots moved"},
    "heartbeat": {},
    "finding": {
        "kind": "stale-use, stale-writeback, leftover-mapping or invariant",
        "invariant": "id of the invariant that is broken",
        "actor": "actor that met it",
    },
    "actor_log": {
        "actor": "name of the actor",
        "recorded": "events that it recorded",
        "logged": "events of it that are in closed files",
    },
    "log_closed": {
        "policy": "log.policy",
        "complete": "true: the files hold every event of every actor",
        "logged": "events in closed files, all actors",
        "lost": "events that should be in the files and are not",
    },
    "counters": {},
    "evidence": {
        "counter": "name of the counter",
        "counted": "what the run counted",
        "wanted": "what evidence.<counter> asks for",
    },
    "verdict": {"verdict": "the run's verdict", "reason": "one line that says why"},
}


class ControlLog:
    """Appends events to the control log.

    Context:
        One process only, the parent: a second one would not see lines that the first takes back.
    """

    def __init__(self, path: Path, now_ns: Callable[[], int]) -> None:
        """Open the file for appending.

        Args:
            path: the run folder's `control.jsonl`.
            now_ns: nanoseconds since the start of the run.

        Raises:
            HarnessError: the file cannot be opened.
        """
        self._lines = _Lines(path)
        self._log = structlog.wrap_logger(
            self._lines,
            processors=[
                lambda _logger, _method, fields: {"t_ns": now_ns(), **fields},
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _ordered,
                structlog.processors.JSONRenderer(serializer=_to_json),
            ],
            wrapper_class=structlog.BoundLogger,
        )

    def emit(self, event: str, **fields: Any) -> None:
        """Append one event.

        Args:
            event: one of `CONTROL_EVENTS`.
            fields: its fields, flat; numbers, strings, booleans or None.

        Raises:
            HarnessError: the system refused the write; no part of the line is in the file.
        """
        missing = CONTROL_EVENTS[event].keys() - fields.keys()
        if missing:
            raise ValueError(f"{event} without {', '.join(sorted(missing))}")
        self._log.msg(event, **fields)

    def log_closed(self, report: LogReport) -> None:
        """Append what became of every actor's events, and last the whole log's line."""
        for actor, recorded in report.recorded.items():
            self.emit("actor_log", actor=actor, recorded=recorded, logged=report.logged[actor])
        self.emit(
            "log_closed",
            policy=report.policy,
            complete=report.complete,
            logged=sum(report.logged.values()),
            lost=report.lost,
        )

    def close(self) -> None:
        """Close the file; further events are an error."""
        self._lines.close()


class _Lines:
    """An append-only file of whole lines, unbuffered."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._size_bytes = os.fstat(self._fd).st_size
        except OSError as error:
            raise cannot_write(path, error) from error

    def msg(self, line: bytes) -> None:
        data = line + b"\n"
        try:
            written = os.write(self._fd, data)
            while written < len(data):  # a nearly full disk takes a part first and refuses then
                written += os.write(self._fd, data[written:])
        except OSError as error:
            os.ftruncate(self._fd, self._size_bytes)
            raise cannot_write(self._path, error) from error
        self._size_bytes += len(data)

    def close(self) -> None:
        os.close(self._fd)


def _ordered(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> dict[str, Any]:
    # The common fields first: these lines are also read by eye.
    return {key: fields.pop(key) for key in ("timestamp", "t_ns", "event")} | dict(fields)


def _to_json(fields: dict[str, Any], **_kwargs: Any) -> bytes:
    return msgspec.json.encode(fields, enc_hook=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} in a control event: expected a plain value")
