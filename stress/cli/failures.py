# SPDX-License-Identifier: GPL-2.0-only
"""`zaptorture replay`, `shrink` and `reproduce`: what becomes of a failure."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stress.cli.outcome import errors_become_lines, print_json
from stress.config import parse_duration
from stress.errors import HarnessError, UsageError
from stress.log.folder import write_atomic
from stress.report.progress import Display
from stress.verdict import Verdict

if TYPE_CHECKING:
    from stress.explore.failure import Failure
    from stress.explore.story import Story

__all__ = ["replay", "reproduce", "shrink"]

_File = Annotated[Path, typer.Argument(metavar="FAILURE", help="Failure file, as explore writes it.")]
_Engine = Annotated[str, typer.Option(metavar="NAME", help="native or interpreted.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object; messages go to stderr.")]


def replay(
    file: _File,
    *,
    diagram: Annotated[bool, typer.Option("--diagram", help="Draw the execution, a column for each actor.")] = False,
    width: Annotated[int, typer.Option(min=72, max=400, metavar="N", help="Columns of the diagram.")] = 100,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the diagram as SVG.")] = None,
    engine: _Engine = "interpreted",
    force: Annotated[bool, typer.Option("--force", help="Try although the model has changed since.")] = False,
    as_json: _Json = False,
) -> None:
    """Replay a failure; it must end as it did, bit for bit.

    Exit codes: 1 it fails as it did, 2 wrong use, 4 it does not.
    """
    with errors_become_lines(file.stem, as_json=as_json):
        from stress.explore.failure import read_failure  # noqa: PLC0415 - brings the compiler along
        from stress.explore.replay import replay_failure  # noqa: PLC0415

        failure = read_failure(file)
        _check_engine(engine)
        with Display(sys.stderr if as_json else sys.stdout) as display:
            _check_model(failure, file, display, force=force)
            story, differs = replay_failure(failure, engine)
            if diagram or svg:
                _draw(failure, story, display if diagram else None, width, svg)
            if differs:
                raise HarnessError(f"{file}: the replay differs: {differs}.")
            display.message(
                f"{Verdict.VIOLATION.value} {failure.ending.sentence()} (replayed: {failure.steps:,} steps, bit for bit)"
            )
        if as_json:
            print_json({"verdict": Verdict.VIOLATION.value, "ending": asdict(failure.ending), "steps": failure.steps})
        raise typer.Exit(Verdict.VIOLATION.exit_code)


def shrink(
    file: _File,
    *,
    budget: Annotated[str, typer.Option(metavar="TIME", help="Take the smallest so far after this time.")] = "30s",
    engine: Annotated[str | None, typer.Option(metavar="NAME", help="native or interpreted.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write it; beside the failure when absent.")] = None,
    diagram: Annotated[bool, typer.Option("--diagram", help="Draw the result.")] = False,
    width: Annotated[int, typer.Option(min=72, max=400, metavar="N", help="Columns of the diagram.")] = 100,
    force: Annotated[bool, typer.Option("--force", help="Try although the model has changed since.")] = False,
    as_json: _Json = False,
) -> None:
    """Make a failure small: fewer actors, operations, accesses and context switches, the same kind and rule.

    Exit codes: 1 done, 2 wrong use, 4 HARNESS_ERROR.
    """
    with errors_become_lines(file.stem, as_json=as_json):
        from stress.explore.failure import read_failure, write_failure  # noqa: PLC0415 - brings the compiler along
        from stress.explore.replay import shrink_failure  # noqa: PLC0415

        failure = read_failure(file)
        try:
            seconds = parse_duration(budget)
        except ValueError:
            raise UsageError(f'--budget "{budget}": expected a time such as "30s".') from None
        _check_engine(engine or "native")
        with Display(sys.stderr if as_json else sys.stdout) as display:
            _check_model(failure, file, display, force=force)
            smaller, story, how = shrink_failure(failure, engine, seconds, display.message)
            target = out or file.with_name(f"{file.stem}-small.json")
            write_atomic(target, write_failure(smaller))
            if diagram:
                _draw(smaller, story, display, width, None)
            display.message(how)
            display.message(f"    zaptorture replay {target} --diagram")
            display.message(f"{Verdict.VIOLATION.value} {smaller.ending.sentence()} ({smaller.switches} context switches)")
        if as_json:
            print_json({"file": str(target), "steps": smaller.steps, "context_switches": smaller.switches})
        raise typer.Exit(Verdict.VIOLATION.exit_code)


def reproduce(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder with a finding.")],
    *,
    budget: Annotated[str, typer.Option(metavar="TIME", help="Give up after this time.")] = "60s",
    jobs: Annotated[int | None, typer.Option(metavar="N", min=1, max=256, help="Workers; one for each CPU when absent.")] = None,
    engine: Annotated[str | None, typer.Option(metavar="NAME", help="native or interpreted.")] = None,
    width: Annotated[int, typer.Option(min=72, max=400, metavar="N", help="Columns of the diagram.")] = 100,
    as_json: _Json = False,
) -> None:
    """From a run's finding to a minimal schedule, written into the run's folder.

    Exit codes: 1 reproduced, 2 wrong use, 3 not within the budget, 4 HARNESS_ERROR.
    """
    with errors_become_lines(run.name, as_json=as_json):
        from stress.explore.failure import write_failure  # noqa: PLC0415 - brings the compiler along
        from stress.explore.reproduce import reproduce_run  # noqa: PLC0415

        try:
            seconds = parse_duration(budget)
        except ValueError:
            raise UsageError(f'--budget "{budget}": expected a time such as "60s".') from None
        _check_engine(engine or "native")
        with Display(sys.stderr if as_json else sys.stdout) as display:
            found = reproduce_run(run, seconds, jobs, engine, display.message)
            if found.failure is None or found.story is None:
                display.message(f"{Verdict.INCONCLUSIVE.value} {run.name}: not reproduced within {budget}; tried {found.tried}")
                code = Verdict.INCONCLUSIVE.exit_code
            else:
                write_atomic(run / "failure.json", write_failure(found.failure))
                _write_diagrams(found.failure, found.story, run)
                _draw(found.failure, found.story, display, width, None)
                display.message(f"    zaptorture replay {run / 'failure.json'} --diagram")
                display.message(f"{Verdict.VIOLATION.value} {found.failure.ending.sentence()} (reproduced; tried {found.tried})")
                code = Verdict.VIOLATION.exit_code
        if as_json:
            print_json({"reproduced": found.failure is not None, "tried": found.tried})
        raise typer.Exit(code)


def _check_engine(engine: str) -> None:
    from stress.explore.native import is_available  # noqa: PLC0415 - brings the compiler along

    if engine not in {"native", "interpreted"}:
        raise UsageError(f'--engine "{engine}": expected native or interpreted.')
    if engine == "native" and not is_available():
        raise UsageError("--engine native: switches stacks on x86-64 alone; use --engine interpreted.")


def _check_model(failure: Failure, file: Path, display: Display, *, force: bool) -> None:
    from stress.explore.failure import model_hash  # noqa: PLC0415 - brings the compiler along

    now = model_hash()
    if failure.model_hash == now:
        return
    message = f"{file}: made with model {failure.model_hash}, this is {now}"
    if not force:
        raise UsageError(f"{message}: the schedule may mean something else; --force tries anyway.")
    display.message(message)


def _draw(failure: Failure, story: Story, display: Display | None, width: int, svg: Path | None) -> None:
    from stress.report.diagram import text_diagram  # noqa: PLC0415
    from stress.report.diagram_svg import svg_diagram  # noqa: PLC0415
    from stress.report.explore import heading_lines  # noqa: PLC0415

    if display is not None:
        for line in [*heading_lines(failure, width), *text_diagram(story, width=width)]:
            display.message(line)
    if svg is not None:
        write_atomic(svg, svg_diagram(story).encode())


def _write_diagrams(failure: Failure, story: Story, folder: Path) -> None:
    from stress.report.diagram import text_diagram  # noqa: PLC0415
    from stress.report.diagram_svg import svg_diagram  # noqa: PLC0415
    from stress.report.explore import heading_lines  # noqa: PLC0415

    lines = [*heading_lines(failure, 72), *text_diagram(story, width=72)]
    write_atomic(folder / "failure.txt", "".join(f"{line}\n" for line in lines).encode())
    write_atomic(folder / "failure.svg", svg_diagram(story).encode())
