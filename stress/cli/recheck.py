# SPDX-License-Identifier: GPL-2.0-only
"""`zaptorture recheck DIR`."""

from __future__ import annotations

import sys
import time
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import msgspec
import typer

from stress.cli.outcome import errors_become_lines, print_json
from stress.errors import HarnessError
from stress.report.progress import Display
from stress.verdict import Verdict

__all__ = ["recheck"]

EXIT_CODES = {Verdict.VIOLATION: Verdict.VIOLATION.exit_code, Verdict.HARNESS_ERROR: Verdict.HARNESS_ERROR.exit_code}


def recheck(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a campaign, or one of run folders.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; messages go to stderr.")] = False,
) -> None:
    """Judge the runs of old folders again with today's checker; the last line of output is the worst verdict.

    What it comes to is written to DIR/recheck.json as well. Exit codes: 0, 1 a VIOLATION in any folder, 2 wrong use,
    4 a folder that cannot be read.
    """
    with errors_become_lines(str(folder), as_json=as_json):
        # Imported here: it brings the compiler along, which --help and errors of use need not wait for.
        from stress import __version__  # noqa: PLC0415
        from stress.campaign.recheck import RECHECK_FILE, recheck_run, run_folders, verdict_of  # noqa: PLC0415
        from stress.check.compiled import is_kept  # noqa: PLC0415
        from stress.log.folder import write_atomic  # noqa: PLC0415
        from stress.report.recheck import recheck_lines, recheck_progress  # noqa: PLC0415

        runs = run_folders(folder)
        started = time.monotonic()
        rechecked, found = [], 0
        with Display(sys.stderr if as_json else sys.stdout) as display:
            if not is_kept("advance"):
                display.message("compiling the checker, once for this version; later checks start at once")
            for run in runs:
                rechecked.append(recheck_run(run))
                found += rechecked[-1].outcome == Verdict.VIOLATION.value
                display.show(recheck_progress(len(rechecked), len(runs), found), time.monotonic() - started)
        verdict = verdict_of(rechecked)
        kept = {"version": __version__, "verdict": verdict.value, "runs": msgspec.to_builtins(rechecked)}
        try:
            write_atomic(folder / RECHECK_FILE, msgspec.json.encode(kept))
        except HarnessError as error:  # what was found counts all the same
            Display(sys.stderr).message(str(error))
        if as_json:
            print_json(kept)
        for line in recheck_lines(folder, rechecked):
            display.message(line)
        raise typer.Exit(EXIT_CODES.get(verdict, 0))
