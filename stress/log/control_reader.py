# SPDX-License-Identifier: GPL-2.0-only
"""Reading the control log in bounded memory, whatever is in it.

The writer appends whole lines of plain JSON objects. A line that is anything else is named and passed over; what stands
behind it is read. A line without its end is the mark of a cut file, or of a writer that is just at work: it is never
given out, and a later read starts with it again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import msgspec

from stress.log.control import CONTROL_EVENTS
from stress.log.reading import open_regular, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["LINE_BYTES_MAX", "Position", "control_lines"]

LINE_BYTES_MAX = 1 << 20
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

# Fields by which the log itself is judged, and what they must be; counts are never negative. Of the other fields only the
# presence is asked for.
_TYPES: dict[tuple[str, str], type] = {
    ("run_start", "policy"): str,
    ("run_start", "schema_version"): int,
    ("actor_log", "actor"): str,
    ("actor_log", "recorded"): int,
    ("actor_log", "logged"): int,
    ("log_closed", "policy"): str,
    ("log_closed", "complete"): bool,
    ("log_closed", "logged"): int,
    ("log_closed", "lost"): int,
    ("evidence", "counter"): str,
    ("verdict", "verdict"): str,
    ("verdict", "reason"): str,
}

_DECODER = msgspec.json.Decoder(dict)


class Position(NamedTuple):
    """A place in the control log between two lines."""

    offset_bytes: int = 0
    line: int = 1  # number of the line that follows


def control_lines(path: Path, start: Position, report: Callable[[int, str], None]) -> Iterator[tuple[dict[str, Any], Position]]:
    """The events of a control log, each with the place behind it.

    Args:
        path: the file.
        start: where to begin.
        report: takes the number of a damaged line and what is wrong with it; number 0 is the unfinished last line.

    Raises:
        OSError: the file cannot be read.
    """
    offset_bytes, number = start
    with open_regular(path) as file:
        file.seek(offset_bytes)
        while line := file.readline(LINE_BYTES_MAX + 1):
            size_bytes = len(line)
            ended = line.endswith(b"\n")
            event, wrong = None, f"longer than {LINE_BYTES_MAX:,} bytes"
            if ended:
                event, wrong = _decoded(line)
            elif size_bytes > LINE_BYTES_MAX:
                skipped_bytes, ended = _skip_line(file)
                size_bytes += skipped_bytes
            if not ended:
                report(0, "its last line is cut off")
                return
            offset_bytes += size_bytes
            number += 1
            if event is None:
                report(number - 1, wrong)
            else:
                yield event, Position(offset_bytes, number)


def _skip_line(file: BinaryIO) -> tuple[int, bool]:
    """Go to the end of the line or of the file: the bytes up to there, and whether the line has an end."""
    skipped_bytes = 0
    while data := file.read(LINE_BYTES_MAX):
        end = data.find(b"\n")
        if end >= 0:
            file.seek(end + 1 - len(data), os.SEEK_CUR)
            return skipped_bytes + end + 1, True
        skipped_bytes += len(data)
    return skipped_bytes, False


def _decoded(line: bytes) -> tuple[dict[str, Any] | None, str]:
    """The event, or None and what is wrong with the line."""
    try:
        event: dict[str, Any] = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        return None, f"not a JSON object: {reason(error)}"
    t_ns, name = event.get("t_ns"), event.get("event")
    if type(t_ns) is not int or not INT64_MIN <= t_ns <= INT64_MAX:
        return None, "no t_ns that is a 64-bit number"
    if type(name) is not str:
        return None, "no event that is a name"
    for field in CONTROL_EVENTS.get(name, ()):
        wanted = _TYPES.get((name, field))
        if field not in event or (wanted and (type(event[field]) is not wanted or (wanted is int and event[field] < 0))):
            return None, f"{name} without {field}, or with one that cannot be"
    if any(type(value) is int and not INT64_MIN <= value <= INT64_MAX for value in event.values()):
        return None, "a number beyond 64 bits"
    return event, ""
