# SPDX-License-Identifier: GPL-2.0-only
"""`zaptorture campaign results DIR`."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import shutil
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from stress.cli.outcome import errors_become_lines
from stress.cli.stream import write
from stress.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from stress.campaign.results import Results

__all__ = ["results"]

PIPED_WIDTH = 80
ROWS_SHOWN = 40


def results(
    campaign: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a campaign.")],
    *,
    condition: Annotated[
        str, typer.Option("--filter", metavar="EXPR", help='Only runs of which this SQL is true, such as "vcpus >= 4".')
    ] = "true",
    group: Annotated[str, typer.Option(metavar="KEY,KEY", help="A line per group of runs with the same values.")] = "",
    columns: Annotated[str, typer.Option(metavar="A,B", help="The columns to print.")] = "",
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=0, help=f"At most so many of the last runs; {ROWS_SHOWN} in a table.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="DIR", help="What became worse or better than in this other campaign.")
    ] = None,
    compare: Annotated[
        str, typer.Option(metavar="KEY=VALUE", help="What is worse or better in runs with other values of KEY than with this one.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with all runs and columns.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, with all runs and columns.")] = False,
) -> None:
    """Show the runs of a campaign: all or some, one by one or in groups, or against others.

    Exit codes: 0 also for runs that failed and for what became worse, 2 wrong use, 4 HARNESS_ERROR.
    """
    with errors_become_lines(str(campaign), as_json=as_json):
        comparing = against is not None or bool(compare)
        for wrong, text in (
            (as_json and as_csv, "--csv: not with --json; choose one."),
            (against is not None and bool(compare), "--compare: not with --against; choose one."),
            (comparing and as_csv, "--csv: not with a comparison; --json has all of it."),
            (comparing and bool(columns), "--columns: not with a comparison; --json has all of it."),
            (bool(group) and bool(columns), "--columns: not with --group; --json has all of it."),
            ((comparing or bool(group)) and limit is not None, "--limit: only where runs are printed one by one."),
        ):
            if wrong:
                raise UsageError(text)
        from stress.campaign.results import open_results  # noqa: PLC0415 - commands beside this one need none of it

        with contextlib.ExitStack() as end:
            opened = end.enter_context(open_results(campaign))
            opened.filter(condition)
            keys = opened.known("--group", _words(group))
            if against is not None:
                base = end.enter_context(open_results(against))
                base.filter(condition)
                _against(opened, base, keys, as_json=as_json)
            elif compare:
                _compare(opened, compare, keys, as_json=as_json)
            elif group:
                _groups(opened, keys, as_json=as_json, as_csv=as_csv)
            else:
                shown = opened.known("--columns", _words(columns))
                _runs(opened, shown, limit, as_json=as_json, as_csv=as_csv)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _runs(results: Results, columns: Sequence[str], limit: int | None, *, as_json: bool, as_csv: bool) -> None:
    from stress.campaign.groups import quoted, verdict_counts  # noqa: PLC0415 - see above
    from stress.report.campaign_results import COMPACT, runs_text  # noqa: PLC0415 - see above

    verdicts = verdict_counts(results)
    total = sum(verdicts.values())
    in_table = not as_json and not as_csv
    shown = min(total, limit if limit is not None else ROWS_SHOWN if in_table else total)
    names = columns or ([name for name in COMPACT if name in results.columns] if in_table else list(results.columns))
    sql = f"select {', '.join(map(quoted, names))} from selected limit {shown} offset {total - shown}"  # noqa: S608 - columns
    batches = results.rows(sql)
    if as_json:
        write(f'{{"campaign":{_json(str(results.folder))},"runs":{total},"verdicts":{_json(verdicts)},"rows":[')
        for number, batch in enumerate(batches):
            text = ",".join(_json(dict(zip(names, row, strict=True))) for row in batch)
            write(f",{text}" if number else text)
        write("]}\n")
    elif as_csv:
        _write_csv(names, batches)
    else:
        write(
            runs_text(
                names, list(itertools.chain.from_iterable(batches)), verdicts, _width(), cut=not columns, styled=_on_terminal()
            )
        )


def _groups(results: Results, keys: Sequence[str], *, as_json: bool, as_csv: bool) -> None:
    from stress.campaign.groups import grouped, verdict_counts  # noqa: PLC0415 - see above
    from stress.report.campaign_results import groups_text  # noqa: PLC0415 - see above

    verdicts = verdict_counts(results)
    groups = grouped(results, keys)
    rows = [group.to_dict() for group in groups]
    if as_json:
        found = {"campaign": str(results.folder), "runs": sum(verdicts.values()), "verdicts": verdicts, "groups": rows}
        write(_json(found) + "\n")
    elif as_csv:
        names = list(dict.fromkeys(name for row in rows for name in row))
        _write_csv(names, [[[row.get(name) for name in names] for row in rows]])
    else:
        write(groups_text(groups, verdicts, _width(), styled=_on_terminal()))


def _against(now: Results, base: Results, keys: Sequence[str], *, as_json: bool) -> None:
    from stress.campaign.compare import compare_campaigns  # noqa: PLC0415 - it brings scipy along
    from stress.report.campaign_results import comparison_text  # noqa: PLC0415 - see above

    compared = compare_campaigns(base, now, keys)
    write(_json(compared) + "\n" if as_json else comparison_text(compared, _width(), styled=_on_terminal()))


def _compare(results: Results, choice: str, keys: Sequence[str], *, as_json: bool) -> None:
    from stress.campaign.compare import compare_values  # noqa: PLC0415 - it brings scipy along
    from stress.report.campaign_results import comparison_text  # noqa: PLC0415 - see above

    key, separator, value = choice.partition("=")
    if not separator or not key:
        raise UsageError(f"--compare {choice}: expected a column and a value, such as variant=split-once.")
    (name,) = results.known("--compare", [key.strip()])
    compared = compare_values(results, name, value.strip(), keys)
    write(_json(compared) + "\n" if as_json else comparison_text(compared, _width(), styled=_on_terminal()))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _write_csv(names: Sequence[str], batches: Iterable[Sequence[Sequence[Any]]]) -> None:
    for batch in _with_header(names, batches):
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(
            [_json(value) if isinstance(value, bool) else value for value in row] for row in batch
        )
        write(text.getvalue())


def _with_header(names: Sequence[str], batches: Iterable[Sequence[Sequence[Any]]]) -> Iterator[Sequence[Sequence[Any]]]:
    yield [names]
    yield from batches


def _on_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def _width() -> int:
    return shutil.get_terminal_size((PIPED_WIDTH, 24)).columns if _on_terminal() else PIPED_WIDTH
