# SPDX-License-Identifier: GPL-2.0-only
"""`zaptorture log RUN`."""

from __future__ import annotations

import dataclasses
import re
import sys
from decimal import Decimal
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from stress.cli.outcome import errors_become_lines
from stress.cli.stream import pause, write
from stress.errors import HarnessError, UsageError, did_you_mean
from stress.log.archive import Archive
from stress.log.control import CONTROL_EVENTS
from stress.log.folder import RunFolder
from stress.log.follow import POLL_S, Follower
from stress.log.ftrace import FtraceLayout, trace_header
from stress.log.lines import JsonLayout, Lines
from stress.log.naming import kind_number
from stress.log.schema import NULL, Kind
from stress.log.view import CONTROL, Selection, View
from stress.report.progress import Display

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["log"]

FORMATS = ("json", "trace")
NS_PER_S = 10**9
# Those of --duration, and smaller ones, so that a time_ns can be given as it was shown.
NS_PER_UNIT = {"ns": 1, "us": 10**3, "ms": 10**6, "s": NS_PER_S, "m": 60 * NS_PER_S, "h": 3600 * NS_PER_S}
GFN_MAX = 2**63 - 1
# A run that compiles the model first has no manifest yet.
START_POLLS_MAX = 1200
# What is said of every live run, and settles when it ends.
_OF_A_LIVE_RUN = frozenset({"not-closed", "torn-file", "actor-missing"})


def log(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    *,
    gfn: Annotated[str | None, typer.Option(metavar="GFN", help="Only events about this guest frame, such as 0x1f2.")] = None,
    actors: Annotated[
        list[str] | None, typer.Option("--actor", metavar="NAME", help='Only of this actor, or "control"; may be repeated.')
    ] = None,
    kinds: Annotated[list[str] | None, typer.Option("--kind", metavar="KIND", help="Only of this kind; may be repeated.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Nothing before, from the run's start; such as 12.5s.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Nothing after.")] = None,
    around: Annotated[int | None, typer.Option(metavar="N", help="Only what is around finding N, which is marked.")] = None,
    window: Annotated[str, typer.Option(metavar="TIME", help="How far around, before and after.")] = "1ms",
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the run has ended.")] = False,
    layout: Annotated[str, typer.Option("--format", metavar="json|trace", help="JSON Lines, or the kernel's trace text.")] = "json",
) -> None:
    """Show the events of a run, those of all actors and of the control log in one time order.

    What is wrong with the log goes to standard error. Exit codes: 0, 2 wrong use, 4 the output cannot be written.
    """
    with errors_become_lines(str(run), as_json=False):
        selection = Selection(
            gfn=_gfn(gfn),
            actors=frozenset(actors) if actors else None,
            kinds=_kinds(kinds),
            since_ns=_duration_ns("--since", since),
            until_ns=_duration_ns("--until", until),
        )
        if selection.since_ns is not None and selection.until_ns is not None and selection.since_ns > selection.until_ns:
            raise UsageError(f"--since {since} is after --until {until}.")
        if layout not in FORMATS:
            raise UsageError(f'--format = "{layout}": expected json or trace{_hint(layout, FORMATS)}.')
        if around is not None and follow:
            raise UsageError("--around: is for a run that has ended; leave --follow out.")
        window_ns = _duration_ns("--window", window) or 0
        try:
            archive = _opened(run, live=follow)
            _check_actors(archive, selection)
            if around is not None:
                selection = _around(archive, selection, around, window_ns)
            _show(archive, selection, layout, f"finding {around}", follow=follow)
        except HarnessError as error:  # standard output is for events
            Display(sys.stderr).message(str(error))
            raise typer.Exit(error.exit_code) from None


def moment_of_finding(archive: Archive, number: int) -> tuple[int, str]:
    """When a finding was met, and by whom.

    Args:
        archive: the run.
        number: of the finding, as `zaptorture check` numbers them.

    Raises:
        UsageError: there are not so many.
    """
    # Imported here: it brings the compiler along, which everything else need not wait for.
    from stress.check import check_run  # noqa: PLC0415

    findings = check_run(archive.path).findings
    if number > len(findings):
        has = {0: "no finding", 1: "1 finding"}.get(len(findings), f"{len(findings)} findings")
        raise UsageError(f"--around = {number}: the log of this run has {has}.")
    return findings[number - 1].time_ns, findings[number - 1].actor


def _show(archive: Archive, selection: Selection, layout: str, mark: str, *, follow: bool) -> None:
    stderr = Display(sys.stderr)
    trace = FtraceLayout(archive.actors, mark) if layout == "trace" else None
    follower = Follower(archive, selection, lambda: pause(POLL_S), stderr.message) if follow else None
    said = _say_problems(archive, set(), live=follow)
    if follower:
        stderr.message("following; events become readable when their file is closed, every couple of seconds")
    pids = follower.pids if follower else _pids(archive) if trace else {}
    if trace:
        logged = sum(archive.rows.values())
        write(trace_header(archive.actors, logged, sum(archive.recorded.values()) or logged))
    lines = Lines(trace or JsonLayout(archive.actors))
    shown = False
    for page in follower.pages() if follower else View(archive, selection).pages():
        if trace:
            trace.name_processes(pids)
        write(lines.text(page))
        shown = True
    _say_problems(archive, said, live=follower is not None and not follower.ended)
    if not shown:
        last_ns = max(archive.last_ns.values(), default=0)
        stderr.message(f"no event is selected; the log's last one is at {last_ns / NS_PER_S:.6f} s")


def _opened(run: Path, *, live: bool) -> Archive:
    """The run; one that only begins is waited for, since before its manifest not even the actors are known."""
    written = RunFolder(run).manifest.exists()
    archive = Archive.open(run)
    polls = 0
    while live and not (archive.manifest and archive.folder.control.exists()):
        if written and not archive.manifest:  # it is written as a whole
            raise UsageError(f"{run}: its manifest.json cannot be read; leave --follow out.")
        if polls == START_POLLS_MAX:
            raise HarnessError(f"{run}: no manifest.json and control.jsonl after {POLL_S * polls:.0f} s; the run did not start.")
        polls += 1
        pause(POLL_S)
        written = archive.folder.manifest.exists()
        archive.reload()
    return archive


def _say_problems(archive: Archive, said: set[str], *, live: bool) -> set[str]:
    lines = {str(problem): None for problem in archive.problems if not (live and problem.code in _OF_A_LIVE_RUN)}
    for line in lines:
        if line not in said:
            Display(sys.stderr).message(line)
    return said | lines.keys()


def _pids(archive: Archive) -> dict[str, int]:
    pids: dict[str, int] = {}
    for event in archive.control_events():
        if event.get("event") == "process_start" and isinstance(event.get("pid"), int):
            pids[str(event.get("actor"))] = event["pid"]
            if pids.keys() >= set(archive.actors):
                break
    return pids


def _around(archive: Archive, selection: Selection, number: int, window_ns: int) -> Selection:
    if number < 1:
        raise UsageError(f"--around = {number}: findings are numbered from 1.")
    time_ns, actor = moment_of_finding(archive, number)
    since_ns, until_ns = time_ns - window_ns, time_ns + window_ns
    return dataclasses.replace(
        selection,
        since_ns=since_ns if selection.since_ns is None else max(since_ns, selection.since_ns),
        until_ns=until_ns if selection.until_ns is None else min(until_ns, selection.until_ns),
        here=(actor, time_ns),
    )


def _gfn(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        gfn = int(text, 0)
    except ValueError:
        gfn = NULL
    if not 0 <= gfn <= GFN_MAX:
        raise UsageError(f'--gfn = "{text}": expected a guest frame number, such as 0x1f2 or 498.')
    return gfn


def _duration_ns(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)([a-z]*)", text)
    unit = match and NS_PER_UNIT.get(match[2] or "s")
    if match is None or unit is None:
        raise UsageError(f'{option} = "{text}": expected a time such as "12.5s", with unit {", ".join(NS_PER_UNIT)}.')
    return int(Decimal(match[1]) * unit)


def _kinds(labels: list[str] | None) -> frozenset[str] | None:
    if not labels:
        return None
    accepted = [kind.label for kind in Kind] + [event for event in CONTROL_EVENTS if event != Kind.FINDING.label]
    for label in labels:
        if label not in accepted and kind_number(label) is None:
            raise UsageError(f'--kind = "{label}": no such kind{_hint(label, accepted)}; there are {", ".join(accepted)}.')
    return frozenset(labels)


def _check_actors(archive: Archive, selection: Selection) -> None:
    accepted = [*archive.actors, CONTROL]
    for name in sorted((selection.actors or frozenset()) - set(accepted)):
        raise UsageError(f'--actor = "{name}": not in this run{_hint(name, accepted)}; there are {", ".join(accepted)}.')


def _hint(found: str, accepted: Iterable[str]) -> str:
    question = did_you_mean(found, accepted)
    return f" ({question})" if question else ""
