# SPDX-License-Identifier: GPL-2.0-only
"""`zaptorture query RUN SQL`."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import signal
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import msgspec
import typer

from stress.cli.outcome import errors_become_lines
from stress.cli.stream import write
from stress.errors import HarnessError, UsageError, did_you_mean, one_line
from stress.log.archive import Archive
from stress.log.query import Query
from stress.report.progress import Display

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stress.log.query import Rows

__all__ = ["query"]

PROBLEMS_SHOWN = 3
SIGNALLED = 128  # what a shell adds to the signal's number
CELL_WIDTH_MAX = 120
NUMBERS = ("BIGINT", "DECIMAL", "DOUBLE", "FLOAT", "HUGEINT", "INTEGER", "SMALLINT", "TINYINT", "UBIGINT", "UHUGEINT", "UINTEGER")
EXACT_BELOW = 1e15
SMALL_BELOW = 1e-3


def query(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    sql: Annotated[str, typer.Argument(metavar="SQL", help='A SELECT, such as "select actor, count(*) from events group by 1".')],
    *,
    layout: Annotated[
        str, typer.Option("--format", metavar="table|csv|json", help="For people, CSV, or one JSON object a row.")
    ] = "table",
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Leave out a damaged file of events, such as events/vcpu0-00003.parquet."),
    ] = None,
) -> None:
    """Ask a run's log in SQL (DuckDB). Views: events, control, findings, slots, roots, counters, locks, halves, faults, ...

    "show tables" lists the views, "describe events" the columns of one. Nothing can be written. What is wrong with the log
    goes to standard error. Exit codes: 0, 2 wrong use, wrong SQL or a damaged file, 4 too little memory or disk.
    """
    with errors_become_lines(str(run), as_json=False), _termination_is_orderly():
        if layout not in _LAYOUTS:
            hint = did_you_mean(layout, _LAYOUTS)
            raise UsageError(f'--format = "{layout}": expected {", ".join(_LAYOUTS)}{f" ({hint})" if hint else ""}.')
        try:
            archive = Archive.open(run)
            _say_problems(archive)
            with Query(archive, without or ()) as asked:
                _show(asked.run(sql), layout)
        except HarnessError as error:  # standard output is for rows
            Display(sys.stderr).message(str(error))
            raise typer.Exit(error.exit_code) from None


@contextlib.contextmanager
def _termination_is_orderly() -> Iterator[None]:
    """Have SIGTERM unwind the stack too: what was spilled to disk may be much."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(SIGNALLED + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show(rows: Rows, layout: str) -> None:
    if rows.hint:
        Display(sys.stderr).message(rows.hint)
    text = _LAYOUTS[layout](rows)
    write(text.head())
    for batch in rows:
        write(text.rows(batch))
    write(text.foot())


def _say_problems(archive: Archive) -> None:
    for problem in archive.problems[:PROBLEMS_SHOWN]:
        Display(sys.stderr).message(str(problem))
    more = len(archive.problems) - PROBLEMS_SHOWN
    if more > 0:
        Display(sys.stderr).message(f"and {more} more problems of this log")


class _Layout(Protocol):
    def head(self) -> str: ...

    def rows(self, batch: Sequence[Sequence[Any]]) -> str: ...

    def foot(self) -> str: ...


class _Json:
    """One object a row. Columns of one name are numbered, as nothing may be lost; JSON is not quoted once more."""

    def __init__(self, rows: Rows) -> None:
        self._names: list[str] = []
        for name in rows.columns:
            number = 1
            unique = name
            while unique in self._names:
                unique = f"{name}_{number}"
                number += 1
            self._names.append(unique)
        self._nested = [number for number, kind in enumerate(rows.types) if kind == "JSON"]

    def head(self) -> str:
        return ""

    def rows(self, batch: Sequence[Sequence[Any]]) -> str:
        objects = [dict(zip(self._names, row, strict=True)) for row in batch]
        for name in (self._names[number] for number in self._nested):
            for row in objects:
                row[name] = None if row[name] is None else msgspec.Raw(row[name].encode())
        return _ENCODER.encode_lines(objects).decode()

    def foot(self) -> str:
        return ""


class _Csv:
    """RFC 4180 with a header; null is an empty field, lists and structs are JSON."""

    def __init__(self, rows: Rows) -> None:
        self._columns = rows.columns

    def head(self) -> str:
        return self.rows([self._columns])

    def rows(self, batch: Sequence[Sequence[Any]]) -> str:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(
            [value if type(value) in _CSV_AS_IS else _plain(value) for value in row] for row in batch
        )
        return text.getvalue()

    def foot(self) -> str:
        return ""


class _Table:
    """Columns as wide as the first batch needs: nothing is wrapped or left out, however wide, and it begins at once."""

    def __init__(self, rows: Rows) -> None:
        self._columns = rows.columns
        self._is_number = [kind.partition("(")[0] in NUMBERS for kind in rows.types]
        self._widths: list[int] = []
        self._count = 0

    def head(self) -> str:
        return ""

    def rows(self, batch: Sequence[Sequence[Any]]) -> str:
        cells = [[_cell(value) for value in row] for row in batch]
        self._count += len(cells)
        return self._begun(cells) + "".join(map(self._line, cells))

    def foot(self) -> str:
        return f"{self._begun([])}({self._count:,} row{'' if self._count == 1 else 's'})\n"

    def _begun(self, cells: list[list[str]]) -> str:
        if self._widths:
            return ""
        header = [_cell(name) for name in self._columns]
        self._widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
        return self._line(header) + self._line(["-" * width for width in self._widths])

    def _line(self, cells: list[str]) -> str:
        padded = (
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(cells, self._widths, self._is_number, strict=True)
        )
        return "  ".join(padded).rstrip() + "\n"


_LAYOUTS: dict[str, Callable[[Rows], _Layout]] = {"table": _Table, "csv": _Csv, "json": _Json}
_ENCODER = msgspec.json.Encoder(enc_hook=str, decimal_format="number")
_CSV_AS_IS = frozenset({str, int, type(None)})


def _cell(value: object) -> str:
    if isinstance(value, float) and math.isfinite(value):
        small = 0 < abs(value) < SMALL_BELOW or abs(value) >= EXACT_BELOW
        return f"{value:.4g}" if small else f"{value:.3f}".rstrip("0").rstrip(".")
    text = one_line(_plain(value))
    return text if len(text) <= CELL_WIDTH_MAX else text[: CELL_WIDTH_MAX - 3] + "..."


def _plain(value: object) -> str:
    """A value as text, for a table or for CSV."""
    if value is None:
        return ""
    if isinstance(value, bool | list | tuple | dict | bytes):
        return _ENCODER.encode(value).decode()
    return str(value)
