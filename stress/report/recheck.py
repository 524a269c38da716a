# SPDX-License-Identifier: GPL-2.0-only
"""Old runs judged again as text: a table of verdicts then and today, a line for each run that differs, the worst verdict last."""

from __future__ import annotations

import io
from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from stress.campaign.recheck import CLEAN, NO_VERDICT, OUTCOMES, THINNED, UNREADABLE, verdict_of
from stress.errors import one_line
from stress.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stress.campaign.recheck import Rechecked

__all__ = ["recheck_lines", "recheck_progress"]

TABLE_WIDTH = 80
RECORDED = (*(verdict.value for verdict in Verdict), NO_VERDICT)


def recheck_progress(done: int, total: int, found: int) -> str:
    """How far it has come, in one line."""
    return f"{done:,} of {total:,} runs judged again, {found:,} with findings"


def recheck_lines(folder: Path, rechecked: Sequence[Rechecked]) -> list[str]:
    """All of the report; the last line starts with the verdict, for grep."""
    lines = _table(rechecked)
    for run in rechecked:
        if run.outcome == UNREADABLE:
            lines.append(f"not read: {run.run}: {run.reason}")
        if run.new:
            rules = ", ".join(f"{rule} ({count:,})" for rule, count in run.new.items())
            lines.append(f"new: {run.run}: today's checker finds {rules}; recorded was {run.recorded}")
        if run.missed and run.log_complete:
            lines.append(f"missed: {run.run}: recorded was {', '.join(run.missed)}, which today's checker does not find")
    partly = sum(bool(run.missed) and not run.log_complete for run in rechecked)
    if partly:
        lines.append(f"{_runs(partly)} recorded findings that a log which is not complete does not show")
    outcomes = Counter(run.outcome for run in rechecked)
    verdict = verdict_of(rechecked)
    parts = [f"{_runs(len(rechecked) - outcomes[THINNED] - outcomes[UNREADABLE])} judged"]
    if outcomes[CLEAN]:
        parts.append(f"{outcomes[CLEAN]:,} of them clean as far as the log goes")
    if outcomes[UNREADABLE]:
        parts.append(f"{outcomes[UNREADABLE]:,} not readable")
    if outcomes[THINNED]:
        parts.append(f"{outcomes[THINNED]:,} thinned and not judged")
    lines.append(f"{verdict.value} {folder}: {', '.join(parts)}")
    return [one_line(line) for line in lines]


def _table(rechecked: Sequence[Rechecked]) -> list[str]:
    counts = Counter((run.recorded, run.outcome) for run in rechecked)
    outcomes = [outcome for outcome in OUTCOMES if any(run.outcome == outcome for run in rechecked)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("recorded", no_wrap=True)
    for outcome in outcomes:
        table.add_column(outcome, justify="right", no_wrap=True)
    for recorded in RECORDED:
        row = [counts[recorded, outcome] for outcome in outcomes]
        if any(row):
            table.add_row(recorded, *(f"{count:,}" if count else "" for count in row))
    stream = io.StringIO()
    Console(file=stream, width=TABLE_WIDTH, highlight=False, legacy_windows=False).print(table)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def _runs(count: int) -> str:
    return f"{count:,} run{'' if count == 1 else 's'}"
