# SPDX-License-Identifier: GPL-2.0-only
"""`zaptorture run CONFIG`."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stress import __version__
from stress.cli.outcome import errors_become_lines, print_json
from stress.config import config_hash, load_config, resolved_toml
from stress.report.plan import plan_lines
from stress.report.progress import Display
from stress.report.text import finding_lines, verdict_line

if TYPE_CHECKING:
    from stress.config import Config

__all__ = ["run"]

FINDINGS_SHOWN = 3  # in full; the verdict file has all


def run(
    scenario: Annotated[Path, typer.Argument(metavar="CONFIG", help="Scenario file (TOML).")],
    *,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a key, such as vm.nr_vcpus=8.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers.", metavar="N")] = None,
    duration: Annotated[str | None, typer.Option(help="Such as 500ms, 10s, 2m or 72h.", metavar="TIME")] = None,
    out: Annotated[Path, typer.Option(help="Folder for run folders.", metavar="DIR")] = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, run nothing, create nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; messages go to stderr.")] = False,
) -> None:
    """Run one scenario; the last line of output is the verdict.

    Exit codes: 0 PASS, 1 VIOLATION, 2 wrong use, 3 INCONCLUSIVE, 4 HARNESS_ERROR.
    """
    with errors_become_lines(scenario.stem, as_json=as_json):
        config = load_config(scenario, overrides or (), seed, duration)
        with errors_become_lines(config.scenario, as_json=as_json):
            code = _plan(config, as_json=as_json) if dry_run else _run(config, out, as_json=as_json)
            raise typer.Exit(code)


def _plan(config: Config, *, as_json: bool) -> int:
    display = Display(sys.stdout)
    if as_json:
        plan = {
            "version": __version__,
            "scenario": config.scenario,
            "seed": config.run.seed,
            "config_hash": config_hash(config),
            "config": tomllib.loads(resolved_toml(config)),
            "plan": plan_lines(config),
        }
        print_json(plan)
        return 0
    display.message(f"zaptorture {__version__} seed {config.run.seed} config {config_hash(config)} dry run")
    for line in plan_lines(config):
        display.message(line)
    return 0


def _run(config: Config, out: Path, *, as_json: bool) -> int:
    # Imported here: it brings the compiler along, which --help and errors of use need not wait for.
    from stress.engine.run import run_scenario  # noqa: PLC0415

    with Display(sys.stderr if as_json else sys.stdout) as display:
        result = run_scenario(config, out, display.progress, display.message)
        display.stop_live()
        for number, finding in enumerate(result.findings[:FINDINGS_SHOWN], start=1):
            for line in finding_lines(number, finding):
                display.message(line)
        display.message(verdict_line(config.scenario, result))
    if as_json:
        print_json(result.to_dict())
    return result.verdict.exit_code
