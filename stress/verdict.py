# SPDX-License-Identifier: GPL-2.0-only
"""The verdict of a run: one enum, one severity order, the exit codes derived from it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["USAGE_EXIT_CODE", "Verdict", "worst"]

USAGE_EXIT_CODE = 2  # no verdict: the command line or a config was wrong, nothing ran


class Verdict(enum.Enum):
    """What a run showed. Members stand in order of severity, the mildest first."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    INCONCLUSIVE = "INCONCLUSIVE"
    HARNESS_ERROR = "HARNESS_ERROR"
    VIOLATION = "VIOLATION"

    @property
    def exit_code(self) -> int:
        """The exit code of a command that ends with this verdict."""
        return _EXIT_CODES[self]

    @property
    def severity(self) -> int:
        """Rank in the severity order, 0 for PASS."""
        return _SEVERITIES[self]


_EXIT_CODES = {Verdict.PASS: 0, Verdict.VIOLATION: 1, Verdict.INCONCLUSIVE: 3, Verdict.HARNESS_ERROR: 4}
_SEVERITIES = {verdict: rank for rank, verdict in enumerate(Verdict)}


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The most severe of one or more verdicts.

    A caught violation outranks a harness error: what was seen before the harness broke stays true.

    Raises:
        ValueError: there is no verdict to choose from.
    """
    return max(verdicts, key=lambda verdict: verdict.severity)
