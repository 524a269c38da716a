# SPDX-License-Identifier: GPL-2.0-only
"""Groups of runs: how many ended how, medians of what was measured, and how often they fail at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stress.campaign.bounds import share_upper
from stress.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stress.campaign.results import Results

__all__ = ["JUDGED", "Group", "grouped", "quoted", "verdict_counts"]

# Runs that say something about the protocol as it is meant to be: a planted bug is there to be found.
JUDGED = f"role <> 'planted' and verdict <> '{Verdict.HARNESS_ERROR.value}'"
# Of them those that bound how often the protocol fails: who saw too little would have seen no failure either.
TELLING = f"{JUDGED} and verdict <> '{Verdict.INCONCLUSIVE.value}'"
MEASURED = ("rates", "quantiles")


@dataclass(frozen=True)
class Group:
    """Runs that have the same values of the keys.

    Attributes:
        key: these values by name.
        runs: all of them.
        verdicts: how many ended in each verdict, the mildest first.
        guest_s: seconds of guest time in all of them.
        judged: runs that the bound is made of: no planted ones, no errors of the harness, none that saw too little.
        failed: of them with a finding that was not expected.
        failure_bound: upper bound of the probability that a run fails; None without judged runs.
        medians: of each rate and quantile that a run of the group has.
    """

    key: dict[str, Any]
    runs: int
    verdicts: dict[str, int]
    guest_s: float
    judged: int
    failed: int
    failure_bound: float | None
    medians: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As one flat row."""
        counts = {"runs": self.runs, **self.verdicts, "guest_s": self.guest_s, "judged": self.judged, "failed": self.failed}
        return {**self.key, **counts, "failure_bound": self.failure_bound, **self.medians}


def verdict_counts(results: Results) -> dict[str, int]:
    """How many of the selected runs ended in each verdict, the mildest first; all four of them."""
    found = dict(results.all_rows("select verdict, count(*) from selected group by verdict"))
    return {verdict.value: found.get(verdict.value, 0) for verdict in Verdict}


def grouped(results: Results, keys: Sequence[str]) -> list[Group]:
    """The selected runs by the values of some columns, in their order."""
    measured = results.of_kind(*MEASURED)
    verdicts = [verdict.value for verdict in Verdict]
    columns = [
        *map(quoted, keys),
        "count(*)",
        *(f"count(*) filter (verdict = '{verdict}')" for verdict in verdicts),
        "coalesce(sum(elapsed_s), 0)",
        f"count(*) filter ({TELLING})",
        f"count(*) filter ({TELLING} and verdict = '{Verdict.VIOLATION.value}')",
        *(f"median({quoted(name)})" for name in measured),
    ]
    by = ", ".join(map(quoted, keys))
    rows = results.all_rows(f"select {', '.join(columns)} from selected group by {by} order by {by}")  # noqa: S608 - names of columns
    return [_group(row, keys, verdicts, measured) for row in rows]


def quoted(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _group(row: Sequence[Any], keys: Sequence[str], verdicts: Sequence[str], measured: Sequence[str]) -> Group:
    values = iter(row)
    key = {name: next(values) for name in keys}
    runs = next(values)
    counts = {verdict: next(values) for verdict in verdicts}
    guest_s, judged, failed = next(values), next(values), next(values)
    medians = {name: value for name, value in zip(measured, values, strict=True) if value is not None}
    return Group(key, runs, counts, guest_s, judged, failed, share_upper(failed, judged) if judged else None, medians)
