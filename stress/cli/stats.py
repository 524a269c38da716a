# SPDX-License-Identifier: GPL-2.0-only
"""`zaptorture stats RUN`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from stress.cli.outcome import errors_become_lines, print_json
from stress.log.archive import Archive
from stress.report.progress import Display
from stress.report.tables import stats_text

__all__ = ["stats"]

PIPED_WIDTH = 80


def stats(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; times are in nanoseconds.")] = False,
) -> None:
    """Show rates, latencies, lock holds and overlaps of a run, from its log alone.

    Exit codes: 0, 2 wrong use, 4 HARNESS_ERROR.
    """
    with errors_become_lines(str(run), as_json=as_json):
        archive = Archive.open(run)
        # Imported here: it brings the compiler along, which --help and errors of use need not wait for.
        from stress.check.compiled import is_kept  # noqa: PLC0415
        from stress.check.stats import collect_stats  # noqa: PLC0415

        if not is_kept("fill"):
            Display(sys.stderr).message("compiling the statistics, once for this version; later calls start at once")
        collected = collect_stats(archive)
        if as_json:
            print_json(collected.to_dict())
            return
        on_terminal = sys.stdout is not None and sys.stdout.isatty()
        width = shutil.get_terminal_size((PIPED_WIDTH, 24)).columns if on_terminal else PIPED_WIDTH
        Display(sys.stdout).message(stats_text(collected, width, styled=on_terminal))
