# SPDX-License-Identifier: GPL-2.0-only
"""What can be missing or wrong in a run folder, and the list of what is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stress.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["PROBLEMS", "Problem", "Problems"]

# Code of every problem and what it means.
PROBLEMS: dict[str, str] = {
    "policy-window": "only the last events of each actor were logged",
    "policy-sampled": "guest_access and tlb_fill were thinned out",
    "not-closed": "the run was killed, or goes on: its last events are not there",
    "lost-events": "events that were recorded were never written",
    "actor-missing": "an actor of the run has no file",
    "file-damaged": "a file of events, or a part of it, cannot be read",
    "gap": "events that were written are not there",
    "torn-file": "a file of events was never finished",
    "duplicate-events": "events are there twice; the first ones count",
    "foreign-file": "a file does not belong to this run's log and is passed over",
    "schema-version": "the log is of another format version",
    "unknown-kind": "there are events of a kind that this program does not know",
    "clock-backwards": "an actor's clock went backwards",
    "control-damaged": "the control log, or a line of it, cannot be read or contradicts the files",
    "manifest-damaged": "manifest.json is missing or cannot be read",
    "config-missing": "config.toml is missing or cannot be read",
}

# A damaged log must not fill the memory with its damage.
LISTED_MAX = 50
# Once per place, whatever else there is to say about it.
_ONCE_PER_PLACE = frozenset({"file-damaged", "clock-backwards"})


@dataclass(frozen=True)
class Problem:
    """Something missing or wrong in a run folder.

    Attributes:
        code: one of `PROBLEMS`.
        where: a file, relative to the run folder, or an actor.
        what: what is wrong there.
    """

    code: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Problems:
    """Fills a list of problems: those of the last judgement first, then those that were met while reading.

    Attributes:
        codes: codes of all problems, also of those that are too many to be listed.
    """

    def __init__(self, listed: list[Problem]) -> None:
        """Begin with none.

        Args:
            listed: the list to fill; it stays the same object.
        """
        self.codes: set[str] = set()
        self._listed = listed
        self._judged = _Limited()
        self._met = _Limited()

    def report(self, code: str, where: str, what: str) -> None:
        """Add a problem that stays; the same one is added once."""
        if self._met.add(code, where, what):
            self._publish()

    def judge(self, problems: Iterable[tuple[str, str, str]]) -> None:
        """Replace those of the last judgement."""
        self._judged = _Limited()
        for problem in problems:
            self._judged.add(*problem)
        self._publish()

    def clear(self) -> None:
        """Forget all."""
        self._met = _Limited()
        self.judge([])

    def _publish(self) -> None:
        self._listed[:] = [*self._judged.problems, *self._met.problems]
        self.codes = {problem.code for problem in self._listed}


class _Limited:
    """Distinct problems, a limited number for each code."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._known: set[tuple[str, ...]] = set()
        self._listed: Counter[str] = Counter()

    def add(self, code: str, where: str, what: str) -> bool:
        """Add one; says whether the list is another now."""
        key = (code, where) if code in _ONCE_PER_PLACE else (code, where, what)
        if self._listed[code] > LISTED_MAX or key in self._known:
            return False
        self._known.add(key)
        self._listed[code] += 1
        if self._listed[code] > LISTED_MAX:
            what = "and more of the same, which are not listed"
        self.problems.append(Problem(code, one_line(where), one_line(what)))
        return True
