# SPDX-License-Identifier: GPL-2.0-only
"""Standard output for commands that write data: large writes, and an orderly end when nobody takes them.

A reader that went away (`| head`) ends the command quietly with 0; output that cannot be written ends it with one line
and the exit code of a harness error.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from pathlib import Path

import typer

from stress.report.progress import Display
from stress.verdict import Verdict

__all__ = ["pause", "write"]


def write(text: str) -> None:
    """Write and hand over to the system. A closed standard output takes everything.

    Raises:
        typer.Exit: nobody takes it, or nobody can.
    """
    if not text or sys.stdout is None:
        return
    try:
        # A name in a damaged file may be no text at all; as an escape it stays valid JSON.
        sys.stdout.buffer.write(text.encode(errors="backslashreplace"))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise _reader_left() from None
    except OSError as error:
        _abandon()
        Display(sys.stderr).message(f"output lost: {error.strerror or error}")
        raise typer.Exit(Verdict.HARNESS_ERROR.exit_code) from None


def pause(seconds: float) -> None:
    """Wait, but only as long as there is a reader.

    Raises:
        typer.Exit: the reader has gone.
    """
    poll = select.poll()
    with contextlib.suppress(AttributeError, OSError, ValueError):  # there may be no file behind it
        poll.register(sys.stdout.fileno(), 0)
    if any(state & (select.POLLERR | select.POLLHUP) for _, state in poll.poll(seconds * 1000)):
        raise _reader_left()


def _reader_left() -> typer.Exit:
    _abandon()
    return typer.Exit(0)


def _abandon() -> None:
    # What is still buffered would fail again, and loudly, when the interpreter flushes it at its end.
    with contextlib.suppress(OSError, AttributeError, ValueError), Path(os.devnull).open("wb") as devnull:
        os.dup2(devnull.fileno(), sys.stdout.fileno())
