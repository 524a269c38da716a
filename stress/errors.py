# SPDX-License-Identifier: GPL-2.0-only
"""Errors of use and of the harness. A violation of the protocol is a result, never an exception."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, ClassVar

from stress.verdict import USAGE_EXIT_CODE, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["HarnessError", "StressError", "UsageError", "did_you_mean", "one_line"]


def did_you_mean(found: str, accepted: Iterable[str], suffix: str = "") -> str:
    """A question that names the nearest accepted word and its suffix, or nothing if none is near."""
    near = difflib.get_close_matches(found, accepted, n=1)
    return f'did you mean "{near[0]}{suffix}"?' if near else ""


def one_line(text: str) -> str:
    """Escape whatever would break a line or move the cursor, so that one message stays one line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class StressError(Exception):
    """An error that ends the command with one line and an exit code of its own."""

    exit_code: ClassVar[int]

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class UsageError(StressError):
    """The user asked for something impossible: nothing ran and nothing was created."""

    exit_code = USAGE_EXIT_CODE


class HarnessError(StressError):
    """The harness could not start or finish its work: nothing is known about the protocol."""

    exit_code = Verdict.HARNESS_ERROR.exit_code
