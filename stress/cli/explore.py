# SPDX-License-Identifier: GPL-2.0-only
"""`zaptorture explore CONFIG`: every interleaving, or as many as the budget allows."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stress import __version__
from stress.cli.outcome import errors_become_lines, print_json
from stress.config import bug_overrides, config_hash, load_config, parse_duration
from stress.errors import StressError, UsageError
from stress.log.folder import write_atomic
from stress.report.progress import Display

if TYPE_CHECKING:
    from stress.config import Config
    from stress.explore.failure import Failure
    from stress.explore.search import Exploration, Failing
    from stress.explore.worker import Job

__all__ = ["explore"]


def explore(
    scenario: Annotated[Path, typer.Argument(metavar="CONFIG", help="Scenario file (TOML) with a [script].")],
    *,
    bugs: Annotated[
        list[str] | None, typer.Option("--bug", metavar="NAME", help="Plant a bug: its name or id, such as B01.")
    ] = None,
    strategy: Annotated[str | None, typer.Option(metavar="NAME", help="random, pct, depth-first, dpor or states.")] = None,
    memory: Annotated[str | None, typer.Option(metavar="MODEL", help="sc or tso.")] = None,
    budget: Annotated[str, typer.Option(metavar="TIME|N", help="Such as 10s or 5000 (executions).")] = "60s",
    jobs: Annotated[int | None, typer.Option(metavar="N", min=1, max=256, help="Workers; one for each CPU when absent.")] = None,
    engine: Annotated[str | None, typer.Option(metavar="NAME", help="native or interpreted.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers.", metavar="N")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a key, such as explore.depth=4.")
    ] = None,
    twice: Annotated[bool, typer.Option("--twice", help="Make every execution twice; fail if one differs from itself.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Print what was covered and what was not.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for failure files.", metavar="DIR")] = Path("failures"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; messages go to stderr.")] = False,
) -> None:
    """Explore a scenario's interleavings; a failure becomes a file that replays.

    Exit codes: 0 PASS, 1 VIOLATION, 2 wrong use, 3 INCONCLUSIVE, 4 HARNESS_ERROR.
    """
    with errors_become_lines(scenario.stem, as_json=as_json):
        given = [*(overrides or ()), *bug_overrides(bugs or ())]
        given += [f"explore.{key}={json.dumps(value)}" for key, value in (("strategy", strategy), ("memory", memory)) if value]
        config = load_config(scenario, given, seed, scripted=True)
        wanted = _budget(budget)
        with errors_become_lines(config.scenario, as_json=as_json):
            raise typer.Exit(_explore(config, wanted, jobs, _engine(engine), out, twice=twice, report=report, as_json=as_json))


def _budget(text: str) -> tuple[float | None, int | None]:
    if text.isdigit() and int(text) > 0:
        return None, int(text)
    try:
        seconds = parse_duration(text) if not text.isdigit() else 0.0
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise UsageError(f'--budget "{text}": expected a time such as "10s", or a number of executions such as 5000.')
    return seconds, None


def _engine(name: str | None) -> str:
    if name not in {None, "native", "interpreted"}:
        raise UsageError(f'--engine "{name}": expected native or interpreted.')
    return name or ""


def _explore(
    config: Config,
    wanted: tuple[float | None, int | None],
    jobs: int | None,
    engine: str,
    out: Path,
    *,
    twice: bool,
    report: bool,
    as_json: bool,
) -> int:
    # Imported here: they bring the compiler along, which --help and errors of use need not wait for.
    from stress.explore.native import is_available  # noqa: PLC0415
    from stress.explore.scenario import opening_of  # noqa: PLC0415
    from stress.explore.search import Budget  # noqa: PLC0415
    from stress.explore.search import explore as search  # noqa: PLC0415
    from stress.explore.worker import Job  # noqa: PLC0415
    from stress.report.explore import (  # noqa: PLC0415
        coverage_lines,
        look_text,
        plan_lines,
        summary_lines,
        verdict_of,
        verdict_text,
    )

    settings = config.explore
    with Display(sys.stderr if as_json else sys.stdout) as display:
        display.message(f"zaptorture {__version__} explore {config.scenario} seed {config.run.seed} config {config_hash(config)}")
        if engine == "native" and not is_available():
            raise UsageError("--engine native: switches stacks on x86-64 alone; use --engine interpreted.")
        if not engine:
            engine = "native" if is_available() else "interpreted"
            if engine == "interpreted":
                display.message("this machine is no x86-64: the interpreted engine serves")
        if settings.strategy == "states" and engine != "native":
            raise UsageError('explore.strategy = "states": it needs the native engine; use dpor.')
        job = Job(
            opening_of(config), engine, settings.strategy, config.run.seed or 0, settings.depth, settings.preemptions_max, twice
        )
        workers = 1 if settings.strategy == "states" else jobs or len(os.sched_getaffinity(0))
        budget = Budget(*wanted)
        for line in plan_lines(config, job, str(budget), workers):
            display.message(line)
        result = search(job, budget, workers, lambda look: display.show(look_text(look), look.elapsed_s), display.message)
        display.stop_live()
        for line in summary_lines(job, result, len(job.opening.actors)):
            display.message(line)
        if report:
            for line in coverage_lines(result, job.opening.names):
                display.message(line)
        failure, file = _failure(config, job, result, result.failing, out, display) if result.failing else (None, None)
        display.message(verdict_text(config, job, result, str(budget), failure.ending if failure else None))
        verdict = verdict_of(job, result)
    if as_json:
        print_json(_as_json(config, job, result, verdict.value, failure, file))
    return verdict.exit_code


def _failure(config: Config, job: Job, result: Exploration, failing: Failing, out: Path, display: Display) -> tuple[Failure, Path]:
    """Replay what was found, say what it is, write it down."""
    from stress.explore.failure import failure_of, write_failure  # noqa: PLC0415
    from stress.explore.story import told  # noqa: PLC0415
    from stress.report.explore import ending_lines  # noqa: PLC0415

    story, ending = told(job.opening, failing)
    found = {
        "engine": job.engine,
        "strategy": job.strategy,
        "seed": job.seed,
        "execution": failing.number,
        "executions": result.executions,
        "seconds": round(result.seconds, 3),
    }
    failure = failure_of(config, story, found, ending)
    for line in ending_lines(ending, story.switches, len(story.steps), story.positions):
        display.message(line)
    try:
        file = failure_path(out, config)
        write_atomic(file, write_failure(failure))
    except StressError:
        # The failure outlives its file: seed and number find it again.
        display.message(f"    not written; found by --strategy {job.strategy} --seed {job.seed} as execution {failing.number}")
        raise
    display.message(f"    zaptorture replay {file} --diagram")
    return failure, file


def failure_path(out: Path, config: Config) -> Path:
    """Where a new failure file goes; names sort by time.

    Raises:
        UsageError: `out` is no folder that may be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out = {out}: expected a folder that may be written: {error.strerror}.") from None
    stem = f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}-{config.scenario}-{config.run.seed}"
    for number in range(1, 1000):
        path = out / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
        if not path.exists():
            return path
    raise UsageError(f"{out}: holds a thousand failures of this second already. Choose another --out.")


def _as_json(
    config: Config, job: Job, result: Exploration, verdict: str, failure: Failure | None, file: Path | None
) -> dict[str, Any]:
    coverage = result.coverage
    return {
        "verdict": verdict,
        "scenario": config.scenario,
        "seed": job.seed,
        "strategy": job.strategy,
        "memory": config.explore.memory,
        "engine": job.engine,
        "complete": result.complete,
        "why_not": result.why_not,
        "executions": result.executions,
        "traces": result.traces,
        "pruned": result.pruned,
        "states": result.states,
        "transitions": result.transitions,
        "steps": result.steps,
        "steps_max": result.steps_max,
        "seconds": result.seconds,
        "ending": asdict(failure.ending) if failure else None,
        "failure": str(file) if file else None,
        "pairs_in_both_orders": len(coverage.both_orders()),
        "windows_entered": sorted({window for window, actor in coverage.entered if actor != "ctl"}),
    }
