# SPDX-License-Identifier: GPL-2.0-only
"""Opening files that anybody may have put there: nothing here waits for a pipe or reads more than it was allowed."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from stress.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["open_regular", "read_whole", "reason"]

REASON_CHARS_MAX = 200


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading.

    Raises:
        OSError: it cannot be opened, or is a folder, pipe or device.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a name that no file can have
        raise OSError(None, str(error)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(None, "not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        yield file


def read_whole(path: Path, size_bytes_max: int) -> bytes:
    """The content of a small regular file.

    Raises:
        OSError: it cannot be read, is no regular file or is larger than `size_bytes_max`.
    """
    with open_regular(path) as file:
        data = file.read(size_bytes_max + 1)
    if len(data) > size_bytes_max:
        raise OSError(None, f"larger than {size_bytes_max:,} bytes")
    return data


def reason(error: BaseException) -> str:
    """What an error says, without the path, as one line."""
    if isinstance(error, OSError) and error.strerror:
        return one_line(os.strerror(error.errno) if error.errno else error.strerror)
    lines = str(error).splitlines()
    return one_line(lines[0][:REASON_CHARS_MAX]) if lines else type(error).__name__
