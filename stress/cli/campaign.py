# SPDX-License-Identifier: GPL-2.0-only
"""`zaptorture campaign FILE`, `campaign resume DIR`, `campaign status DIR` and `zaptorture soak FILE --for TIME`."""

from __future__ import annotations

import contextlib
import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from stress.cli.outcome import errors_become_lines, print_json
from stress.cli.results import results
from stress.config import parse_duration
from stress.errors import UsageError, one_line
from stress.report.progress import Display

if TYPE_CHECKING:
    from stress.campaign.executor import Executor
    from stress.campaign.folder import CampaignFolder, Kept
    from stress.campaign.schema import Campaign

__all__ = ["campaign_app", "resume", "soak", "start", "status"]

SEED_BITS = 32

_Jobs = Annotated[int | None, typer.Option(metavar="N", min=1, max=4096, help="Runs at once; as many as fit when absent.")]
_Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the campaign; made of time and name when absent.")]
_Scheduler = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Run on a dask.distributed cluster, such as tcp://host:8786.")
]
_Filter = Annotated[str | None, typer.Option("--filter", metavar="SQL", help="Only the planned runs that are such: 'vcpus>=4'.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object; messages go to stderr.")]
_File = Annotated[Path, typer.Argument(metavar="FILE", help="Campaign file (TOML).")]
_Dir = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a campaign.")]


class _FileOrCommand(TyperGroup):
    """`campaign FILE` starts the campaign of a file; what names no command is the file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in front of what names none."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["start", *args]
        return super().parse_args(ctx, args)


campaign_app = typer.Typer(cls=_FileOrCommand, add_completion=False, no_args_is_help=True, rich_markup_mode=None)


@campaign_app.callback()
def _campaign() -> None:
    """Run many scenarios from one file: campaign FILE. Take one up again, look at it, ask for its results."""


@campaign_app.command(name="start")
def start(
    file: _File,
    *,
    out: _Out = None,
    jobs: _Jobs = None,
    scheduler: _Scheduler = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan with its time, run nothing, create nothing.")] = False,
    condition: _Filter = None,
    as_json: _Json = False,
) -> None:
    """Run the campaign of a file; the last line of output is the verdict.

    Exit codes: 0 PASS, 1 VIOLATION, 2 wrong use, 3 INCONCLUSIVE, 4 HARNESS_ERROR.
    """
    with errors_become_lines(file.stem, as_json=as_json):
        raise typer.Exit(_new(file, out, jobs, condition, scheduler, None, dry_run=dry_run, as_json=as_json))


def soak(
    file: _File,
    *,
    duration: Annotated[str, typer.Option("--for", metavar="TIME", help="Such as 30m or 72h.")],
    out: _Out = None,
    jobs: _Jobs = None,
    scheduler: _Scheduler = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print one rotation of the plan, run nothing.")] = False,
    condition: _Filter = None,
    as_json: _Json = False,
) -> None:
    """Rotate through the scenarios of a campaign file with fresh seeds until the time is over.

    Exit codes: 0 PASS, 1 VIOLATION, 2 wrong use, 3 INCONCLUSIVE, 4 HARNESS_ERROR.
    """
    with errors_become_lines(file.stem, as_json=as_json):
        try:
            seconds = parse_duration(duration)
        except ValueError:
            seconds = 0.0
        if seconds <= 0:
            raise UsageError(f'--for "{duration}": expected a time such as "30m" or "72h".')
        raise typer.Exit(_new(file, out, jobs, condition, scheduler, seconds, dry_run=dry_run, as_json=as_json))


@campaign_app.command(name="resume")
def resume(folder: _Dir, *, jobs: _Jobs = None, scheduler: _Scheduler = None, as_json: _Json = False) -> None:
    """Go on with a campaign or a soak that was stopped or died; nothing is lost, nothing is counted twice.

    Exit codes: 0 PASS, 1 VIOLATION, 2 wrong use, 3 INCONCLUSIVE, 4 HARNESS_ERROR.
    """
    with errors_become_lines(folder.name, as_json=as_json):
        from stress.campaign.folder import check_unchanged, open_campaign  # noqa: PLC0415 - DuckDB takes its time
        from stress.campaign.load import Loaded  # noqa: PLC0415

        opened, kept = open_campaign(folder)
        note = check_unchanged(kept)
        if note:
            Display(sys.stderr).message(f"note: {note}")
        executor = _executor(Loaded.from_content(kept.where, kept.content).campaign, opened, jobs, scheduler)
        raise typer.Exit(_run(opened, kept, executor, as_json=as_json))


@campaign_app.command(name="status")
def status(folder: _Dir, *, as_json: _Json = False) -> None:
    """Say how far a campaign has come and what it has proven so far, also while it runs.

    Exit codes: 0, 2 wrong use, 4 HARNESS_ERROR.
    """
    with errors_become_lines(folder.name, as_json=as_json):
        from stress.campaign.status import status_of  # noqa: PLC0415
        from stress.report.campaign import status_lines  # noqa: PLC0415

        found = status_of(folder)
        if as_json:
            print_json(found.to_dict())
            return
        for line in status_lines(found):
            Display(sys.stdout).message(line)


campaign_app.command(name="results")(results)


def _new(
    file: Path,
    out: Path | None,
    jobs: int | None,
    condition: str | None,
    scheduler: str | None,
    soak_s: float | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> int:
    from stress.campaign.folder import CampaignFolder, Kept, create_campaign  # noqa: PLC0415 - DuckDB takes its time
    from stress.campaign.load import load_campaign  # noqa: PLC0415
    from stress.report.campaign import plan_lines  # noqa: PLC0415

    loaded = load_campaign(file)
    seed = loaded.campaign.seed if loaded.campaign.seed is not None else secrets.randbits(SEED_BITS)
    kept = Kept(str(file), str(file.resolve()), loaded.content(), seed, soak_s, condition or "")
    plan = kept.plan()
    if dry_run:
        display = Display(sys.stderr if as_json else sys.stdout)
        for line in plan_lines(plan, loaded.campaign, seed, soak_s, None if scheduler else len(_places(loaded.campaign, jobs))):
            display.message(line)
        if as_json:
            print_json({"seed": seed, "total": plan.total, "runs": [item.facts for item in plan.tests]})
        return 0
    name = f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}-{loaded.campaign.campaign}"
    path = out or Path("campaigns") / name
    executor = _executor(loaded.campaign, CampaignFolder(path), jobs, scheduler)  # first: what cannot be had creates nothing
    return _run(create_campaign(path, kept), kept, executor, as_json=as_json)


def _places(campaign: Campaign, jobs: int | None) -> list[tuple[int, ...]]:
    from stress.campaign.cores import cores_of_machine, places  # noqa: PLC0415

    cores = cores_of_machine()
    if campaign.limits.share_cpus:
        return [()] * (jobs or max(1, sum(map(len, cores)) // campaign.limits.cpus))
    return places(cores, campaign.limits.cpus, jobs)


def _executor(campaign: Campaign, folder: CampaignFolder, jobs: int | None, scheduler: str | None) -> Executor:
    if scheduler:
        from stress.campaign.cluster import ClusterExecutor  # noqa: PLC0415 - an extra

        return ClusterExecutor(scheduler, folder.path, str(folder.output), jobs)
    from stress.campaign.local import LocalExecutor  # noqa: PLC0415

    return LocalExecutor(_places(campaign, jobs), str(folder.output))


def _run(folder: CampaignFolder, kept: Kept, executor: Executor, *, as_json: bool) -> int:
    from stress.campaign.load import Loaded  # noqa: PLC0415
    from stress.campaign.results import update_results  # noqa: PLC0415
    from stress.campaign.supervise import Supervisor  # noqa: PLC0415
    from stress.report.campaign import summary_lines  # noqa: PLC0415

    campaign = Loaded.from_content(kept.where, kept.content).campaign
    with Display(sys.stderr if as_json else sys.stdout) as display:
        display.message(f"campaign {campaign.campaign} seed {kept.seed} folder {folder.path}")
        supervisor = Supervisor(
            folder, campaign, kept.plan(), executor, kept.soak_s, lambda line: display.message(one_line(line)), display.show
        )
        verdict, reason = supervisor.run()
        display.stop_live()
        with contextlib.suppress(Exception):  # whatever it is, the verdict counts; the table is made anew whenever somebody asks
            update_results(folder.path)
        for line in summary_lines(supervisor.state, folder.path):
            display.message(line)
        display.message(one_line(f"{verdict.value} {campaign.campaign}{': ' if reason else ''}{reason} ({folder.path})"))
    if as_json:
        print_json({"verdict": verdict.value, "reason": reason, "folder": str(folder.path)})
    return verdict.exit_code
