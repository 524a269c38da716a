# SPDX-License-Identifier: GPL-2.0-only
"""Old run folders, judged again by today's checker: what did the verdicts of then miss, and what would be missed now?

A run that kept only a part of its events by choice (policies "window" and "sampled") cannot pass the checker. If that is all
that it has to say, the run is clean as far as its log goes: its outcome is `CLEAN` here, and counts as PASS if it passed then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from stress.check.judge import check_run
from stress.check.rules import DETAILS
from stress.errors import StressError, UsageError
from stress.verdict import Verdict, worst

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from stress.check import CheckResult

__all__ = [
    "CLEAN",
    "NO_VERDICT",
    "OUTCOMES",
    "RECHECK_FILE",
    "THINNED",
    "UNREADABLE",
    "Rechecked",
    "recheck_run",
    "run_folders",
    "verdict_of",
]

RECHECK_FILE = "recheck.json"
THINNED_FILE = "thinned.json"
CLEAN = "CLEAN"
THINNED = "THINNED"
UNREADABLE = "UNREADABLE"
NO_VERDICT = "none"
OUTCOMES = (Verdict.PASS.value, CLEAN, Verdict.INCONCLUSIVE.value, Verdict.VIOLATION.value, UNREADABLE, THINNED)
PARTS = ("manifest.json", "control.jsonl", "verdict.json", THINNED_FILE)
BY_CHOICE = frozenset({"policy-window", "policy-sampled"})
RULES = frozenset(detail.rule for detail in DETAILS.values())


class Rechecked(Struct):
    """One run folder.

    Attributes:
        run: its name.
        recorded: the verdict in the folder, or "none".
        outcome: today's: a verdict; CLEAN; UNREADABLE; THINNED, whose events are gone.
        reason: of today's.
        new: rules that today's checker finds broken and of which the folder's verdict has no finding, with their number.
        missed: rules of the recorded findings that the checker has and does not find broken.
        log_complete: whether the log holds what `missed` would need.
    """

    run: str
    recorded: str
    outcome: str
    reason: str
    new: dict[str, int]
    missed: list[str]
    log_complete: bool


def run_folders(folder: Path) -> list[Path]:
    """The run folders in a campaign's folder or in any other, by name.

    Raises:
        UsageError: there is none.
    """
    base = folder / "runs" if (folder / "runs").is_dir() else folder
    try:
        found = sorted(path for path in base.iterdir() if path.is_dir() and any((path / part).exists() for part in PARTS))
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be read: {error.strerror}. Name the folder of a campaign, or one of run folders."
        ) from None
    if not found:
        raise UsageError(f"{base}: no run folders. Name the folder of a campaign, or one of run folders.")
    return found


def recheck_run(run: Path) -> Rechecked:
    """Judge one.

    Context: reads through pyarrow, which starts threads; do not fork afterwards.
    """
    recorded, rules = _recorded(run)
    if (run / THINNED_FILE).exists():
        return Rechecked(run.name, recorded, THINNED, "its events were removed to save space", {}, [], log_complete=False)
    try:
        result = check_run(run)
    except (StressError, OSError) as error:
        return Rechecked(run.name, recorded, UNREADABLE, str(error), {}, [], log_complete=False)
    return Rechecked(
        run=run.name,
        recorded=recorded,
        outcome=_outcome(result),
        reason=result.reason,
        new={rule: count for rule, count in result.nr_findings.items() if rule not in rules},
        missed=[rule for rule in dict.fromkeys(rules) if rule in RULES and rule not in result.nr_findings],
        log_complete=not result.problems,
    )


def verdict_of(rechecked: Iterable[Rechecked]) -> Verdict:
    """The worst of today's verdicts; INCONCLUSIVE if nothing could be judged."""
    return worst([_counted(run) for run in rechecked if run.outcome != THINNED] or [Verdict.INCONCLUSIVE])


def _counted(run: Rechecked) -> Verdict:
    if run.outcome == UNREADABLE:
        return Verdict.HARNESS_ERROR
    if run.outcome == CLEAN:
        return Verdict.PASS if run.recorded == Verdict.PASS.value else Verdict.INCONCLUSIVE
    return Verdict(run.outcome)


def _outcome(result: CheckResult) -> str:
    partly = result.problems and all(problem.code in BY_CHOICE for problem in result.problems)
    return CLEAN if result.verdict is Verdict.INCONCLUSIVE and partly and result.events else result.verdict.value


def _recorded(run: Path) -> tuple[str, Sequence[str]]:
    """The folder's own verdict, and the rules that its findings break."""
    try:
        verdict = msgspec.json.decode((run / "verdict.json").read_bytes())
        return Verdict(verdict["verdict"]).value, [finding["invariant"] for finding in verdict["findings"]]
    except (OSError, msgspec.DecodeError, KeyError, TypeError, ValueError):
        return NO_VERDICT, []
