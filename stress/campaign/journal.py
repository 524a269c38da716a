# SPDX-License-Identifier: GPL-2.0-only
"""The journal: one JSON object a line, appended and synced before anything is done on the strength of it.

```
{"crc":"9f1c03ab","time":"2026-12-01T10:00:00.125Z","up_s":12.5,"event":"start","index":3,...}
```

`crc` is the CRC-32 of the rest of the object as it stands in the line, `time` is for people, `up_s` counts the seconds that
this process was at work (CLOCK_MONOTONIC). What counts is the order of the lines, never their times.

A machine that dies leaves a tail that is no line, or a line whose CRC is wrong: it is cut off, kept beside the journal, and the
campaign goes on from the last whole line. A damaged line before whole ones was not left by a dying machine, so nobody goes on
from there. Whoever renames or removes the file under a running campaign (log rotation does) finds it again in its place.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
import zlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from stress.errors import HarnessError, UsageError
from stress.log.folder import cannot_write, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["Journal", "JournalLock", "read_journal"]

_CRC_CHARS = len('{"crc":"00000000",')
COPY_BYTES = 1 << 20


def _line(body: bytes) -> bytes:
    rest = body[1:]
    return b'{"crc":"%08x",%s\n' % (zlib.crc32(rest), rest)


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of a line without its end, or None if the line is damaged."""
    rest = line[_CRC_CHARS:]
    if line[:_CRC_CHARS] != b'{"crc":"%08x",' % zlib.crc32(rest):
        return None
    record: dict[str, Any] = msgspec.json.decode(b"{" + rest)
    return record


def read_journal(path: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """The records from a byte offset on, each with the offset behind its line; ends at a torn tail.

    Raises:
        HarnessError: a damaged line stands before whole ones, or the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            for line in file:
                offset += len(line)
                record = _record(line[:-1]) if line.endswith(b"\n") else None
                if record is None:
                    if any(_record(later.rstrip(b"\n")) is not None for later in file):
                        raise HarnessError(
                            f"{path}: the line that ends at byte {offset} is damaged, and whole lines follow: "
                            "it was changed or its disk is bad. Put back a copy."
                        )
                    return
                yield record, offset
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read: {error.strerror}.") from error


class JournalLock:
    """Held by the one process that runs a campaign; gone with it, however it ends."""

    def __init__(self, path: Path) -> None:
        """Take it.

        Raises:
            UsageError: another process has it.
            HarnessError: the file cannot be made.
        """
        try:
            self._file = path.open("a")
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UsageError(f"{path.parent}: another process runs this campaign. Wait for it, or stop it.") from None

    def release(self) -> None:
        """Let it go."""
        self._file.close()


class Journal:
    """The journal of the process that runs the campaign."""

    def __init__(self, path: Path, checkpoint: Callable[[], dict[str, Any]]) -> None:
        """Open for appending; what a dying machine left behind the last whole line is moved to `journal.torn`.

        Args:
            path: of the file, which is made when absent.
            checkpoint: the state as fields of a record, for a journal whose lines somebody took away.

        Raises:
            HarnessError: the journal is damaged, or the system refuses.
        """
        self.path = path
        self._checkpoint = checkpoint
        self._started = time.monotonic()
        end = max((offset for _, offset in read_journal(path)), default=0) if path.exists() else 0
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            self.torn_bytes = os.fstat(self._fd).st_size - end
            if self.torn_bytes:
                self._cut_tail(end)
            _sync_folder(path.parent)
        except OSError as error:
            raise cannot_write(path, error) from error
        self._size = end

    def _cut_tail(self, end: int) -> None:
        tail = os.pread(self._fd, self.torn_bytes, end)
        with self.path.with_name("journal.torn").open("ab") as file:
            file.write(tail)
            file.flush()
            os.fsync(file.fileno())
        os.ftruncate(self._fd, end)
        os.fsync(self._fd)

    @property
    def up_s(self) -> float:
        """Seconds since this process opened the journal."""
        return time.monotonic() - self._started

    def append(self, event: str, **fields: Any) -> dict[str, Any]:
        """Write one record; it is on the disk when this returns.

        Raises:
            HarnessError: the system refuses; the record is not in the journal then, not even in part.
        """
        self._mend()
        return self._write(event, fields)

    def _write(self, event: str, fields: dict[str, Any]) -> dict[str, Any]:
        time_text = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        record = {"time": time_text, "up_s": round(self.up_s, 3), "event": event, **fields}
        line = _line(msgspec.json.encode(record))
        try:
            written = os.write(self._fd, line)
            if written == len(line):
                os.fsync(self._fd)
            else:  # no room for all of it: take the part back
                os.ftruncate(self._fd, self._size)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        if written < len(line):
            raise cannot_write(self.path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        self._size += len(line)
        return record

    def _mend(self) -> None:
        """See that the file is still the one that this process wrote."""
        try:
            here = self.path.stat()
        except FileNotFoundError:
            here = None
        except OSError as error:
            raise cannot_write(self.path, error) from error
        own = os.fstat(self._fd)
        if own.st_size < self._size:  # truncated in place: the lines are gone, what they meant is not
            whole = os.pread(self._fd, own.st_size, 0).rfind(b"\n") + 1
            os.ftruncate(self._fd, whole)
            self._size = whole
            self._write("checkpoint", self._checkpoint())
        if here is None or (here.st_dev, here.st_ino) != (own.st_dev, own.st_ino):
            content = b"".join(iter(_chunks(self._fd, self._size), b""))
            write_atomic(self.path, content)
            os.close(self._fd)
            self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            _sync_folder(self.path.parent)
            self._write("note", {"about": "journal", "text": "the file had been renamed or removed and was put back"})

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _chunks(fd: int, size: int) -> Callable[[], bytes]:
    at = 0

    def chunk() -> bytes:
        nonlocal at
        data = os.pread(fd, min(COPY_BYTES, size - at), at)
        at += len(data)
        return data

    return chunk


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
