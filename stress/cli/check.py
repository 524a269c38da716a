# SPDX-License-Identifier: GPL-2.0-only
"""`zaptorture check RUN [RUN ...]`."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import TYPE_CHECKING, Annotated

import typer

from stress.cli.outcome import errors_become_lines, print_json
from stress.errors import UsageError
from stress.report.check import check_lines, check_verdict_line, timeline_lines
from stress.report.progress import Display
from stress.verdict import worst

if TYPE_CHECKING:
    from stress.check import CheckResult

__all__ = ["check"]

FINDINGS_SHOWN = 3  # in full; --json has more


def check(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    *,
    explain: Annotated[
        int | None, typer.Option(metavar="FINDING", min=1, help="Print what happened around the finding of this number.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a run; messages go to stderr.")] = False,
) -> None:
    """Judge runs from their logs alone, without the model; the last line of output is the verdict.

    Exit codes: 0 PASS, 1 VIOLATION, 2 wrong use, 3 INCONCLUSIVE; of several runs the most severe.
    """
    with errors_become_lines("check", as_json=as_json):
        # Imported here: it brings the compiler along, which --help and errors of use need not wait for.
        from stress.check.compiled import is_kept  # noqa: PLC0415
        from stress.check.judge import check_run  # noqa: PLC0415

        if explain is not None and len(runs) > 1:
            raise UsageError(f"--explain {explain}: names a finding of one run, and {len(runs)} were given.")
        display = Display(sys.stderr if as_json else sys.stdout)
        for run in runs:
            if not run.is_dir():
                raise UsageError(f"{run}: no such folder. Name the folder of a run.")
        if not is_kept("advance"):
            display.message("compiling the checker, once for this version; later checks start at once")
        results = []
        for run in runs:
            result = check_run(run)
            results.append(result)
            for line in _explanation(result, explain) if explain is not None else check_lines(result, FINDINGS_SHOWN):
                display.message(line)
            display.message(check_verdict_line(result))
            if as_json:
                print_json(result.to_dict())
        raise typer.Exit(worst(result.verdict for result in results).exit_code)


def _explanation(result: CheckResult, number: int) -> list[str]:
    from stress.check.timeline import timeline_of  # noqa: PLC0415
    from stress.log.archive import Archive  # noqa: PLC0415

    if number > len(result.findings):
        raise UsageError(f"--explain {number}: {result.folder} has {len(result.findings)} findings.")
    finding = result.findings[number - 1]
    return timeline_lines(finding, timeline_of(Archive.open(result.folder), finding))
