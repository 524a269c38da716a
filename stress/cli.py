# SPDX-License-Identifier: GPL-2.0-only
"""The command line: `zaptorture run CONFIG`."""

from __future__ import annotations

import json
import sys
import tomllib
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stress import __version__
from stress.config import config_hash, load_config, resolved_toml
from stress.errors import HarnessError, UsageError, one_line
from stress.report.plan import plan_lines
from stress.report.progress import Display
from stress.report.text import finding_lines, verdict_line
from stress.verdict import Verdict

if TYPE_CHECKING:
    from stress.config import Config

__all__ = ["app", "main"]

INTERRUPTED_EXIT_CODE = 130  # what a shell reports for SIGINT; only before a run has taken over the signal
FINDINGS_SHOWN = 3  # in full; the verdict file has all

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the `zaptorture` script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name need not be printable in the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="zaptorture")
    except OSError as error:  # from printing a help text; everything else is caught by the commands
        raise SystemExit(_harness_error("help", f"output lost: {error.strerror}", as_json=False)) from None


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer's call
    if wanted:
        Display(sys.stdout).message(f"zaptorture {__version__}")
        raise typer.Exit


# A callback keeps `run` a subcommand while it is the only one.
@app.callback()
def _zaptorture(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Stress KVM's MMU zap protocol and find stale mappings."""


@app.command()
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
    name = scenario.stem
    try:
        config = load_config(scenario, overrides or (), seed, duration)
        name = config.scenario
        code = _plan(config, as_json=as_json) if dry_run else _run(config, out, as_json=as_json)
    except UsageError as error:
        Display(sys.stderr).message(str(error))
        code = error.exit_code
    except HarnessError as error:
        code = _harness_error(name, str(error), as_json=as_json)
    except KeyboardInterrupt:
        code = INTERRUPTED_EXIT_CODE
    except Exception as error:  # noqa: BLE001 - Python's own exit code for it is 1, which would claim a violation
        Display(sys.stderr).message(traceback.format_exc().rstrip())
        code = _harness_error(name, f"internal error: {type(error).__name__}: {error}", as_json=as_json)
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
        _print_json(plan)
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
        _print_json(result.to_dict())
    return result.verdict.exit_code


def _harness_error(name: str, reason: str, *, as_json: bool) -> int:
    verdict = Verdict.HARNESS_ERROR
    Display(sys.stderr if as_json else sys.stdout).message(one_line(f"{verdict.value} {name}: {reason}"))
    if as_json:
        _print_json({"verdict": verdict.value, "reason": reason, "findings": []})
    return verdict.exit_code


def _print_json(data: dict[str, Any]) -> None:
    Display(sys.stdout).message(json.dumps(data))


if __name__ == "__main__":
    main()
