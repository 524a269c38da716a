# SPDX-License-Identifier: GPL-2.0-only
"""The results of a campaign as one wide table, `results.parquet`: a row a run that counts, built from the journal.

The table says of itself up to which byte of the journal it reaches, and how the first line and the last line that it knows begin:
each line begins with its own checksum, so a journal in which both still stand there has only grown, and its tail alone is read.
Any other journal is read whole; rows whose runs it no longer tells of are kept.

Every campaign has the columns of `COLUMNS`; the others are those that its records have. A record that lacks one has NULL there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from typing import TYPE_CHECKING, Any, Self

import msgspec
from msgspec import Struct, field

from stress.campaign.journal import read_journal
from stress.errors import HarnessError, UsageError, did_you_mean
from stress.log.folder import cannot_write
from stress.log.query_guard import check_sql

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from duckdb import DuckDBPyConnection

__all__ = ["COLUMNS", "RESULTS_FILE", "Results", "open_results", "update_results"]

RESULTS_FILE = "results.parquet"
JOURNAL_FILE = "journal.jsonl"
METADATA_KEY = b"zaptorture"
HEAD_BYTES = len('{"crc":"00000000",')
BATCH_ROWS = 4096

# Columns that every campaign has, with their types in Arrow's words. Of kind "run" is what a run is and came to, of kind
# "config" what it was given; all columns beside these are of the kind of the record's table that they come from.
COLUMNS: dict[str, dict[str, str]] = {
    "run": {
        "run": "string",
        "index": "int64",
        "attempt": "int64",
        "role": "string",
        "rotation": "int64",
        "seed": "int64",
        "verdict": "string",
        "run_verdict": "string",
        "reason": "string",
        "nr_findings": "int64",
        "signature": "string",
        "elapsed_s": "double",
        "config_hash": "string",
        "model_hash": "string",
        "version": "string",
        "time": "string",
        "folder": "string",
    },
    "config": {
        "scenario": "string",
        "variant": "string",
        "vcpus": "int64",
        "slots": "int64",
        "pages": "int64",
        "bugs": "string",
        "duration_s": "double",
        "check": "string",
        "policy": "string",
        "perturb": "double",
    },
    "log": {"log_complete": "bool"},
}
# Tables inside of a record, and what their columns' names begin with.
TABLES = {"counters": "", "rates": "", "quantiles": "", "resources": "", "log": "log_", "host": "host_", "nemesis": "nemesis_"}
ALL = "true"  # a condition that every row meets
_CLOSED: dict[str, Any] = {
    "allow_community_extensions": False,
    "allow_persistent_secrets": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    "temp_directory": "",
}
_FIXED = {name: kind for kind, names in COLUMNS.items() for name in names}
_NOT_SHOWN = frozenset({"event", "up_s"})
_SCALARS = (str, int, float, type(None))
_NO_COLUMN = re.compile(r'Referenced column "(.*?)" (?:was )?not found')
_NEAR = re.compile(r'syntax error at or near "(\w+)"')
_ERROR_CLASS = re.compile(r"^[A-Z][A-Za-z ]* Error: ")


class _Reach(Struct):
    """How much of the journal a table holds.

    Attributes:
        offset: behind the last line that was read.
        first: how the first line begins, its checksum included.
        last: how the last one begins.
        last_at: where.
        kinds: kind of each column.
    """

    offset: int = 0
    first: str = ""
    last: str = ""
    last_at: int = 0
    kinds: dict[str, str] = field(default_factory=lambda: dict(_FIXED))

    def is_of(self, journal: Path) -> bool:
        """Whether the journal has only grown since."""
        return self.offset > 0 and _head(journal, 0) == self.first and _head(journal, self.last_at) == self.last


class Results:
    """The table of one campaign, open for reading; leaving the `with` block closes it.

    Attributes:
        folder: of the campaign.
        connection: a DuckDB that sees nothing but the view `results`.
        columns: all of them with their types, as DuckDB writes them.
        kinds: kind of each column: run, config, log, counters, rates, quantiles, resources or host.
    """

    def __init__(self, folder: Path, connection: DuckDBPyConnection, kinds: dict[str, str], end: contextlib.ExitStack) -> None:
        """Take over a connection; `end` is closed with it."""
        self.folder = folder
        self.connection = connection
        self.columns = {str(name): str(kind) for name, kind, *_ in connection.execute("describe results").fetchall()}
        self.kinds = {name: kinds[name] for name in self.columns}
        self._condition = ALL
        self._end = end
        self.filter(ALL)

    def __enter__(self) -> Self:
        """All is prepared."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the connection."""
        self._end.close()

    def filter(self, condition: str) -> None:
        """Let the view `selected` hold the rows of which an SQL condition is true.

        Raises:
            UsageError: it is no condition over the columns.
        """
        self._condition = condition
        if not condition.strip():
            raise UsageError('--filter "": expected a condition over the columns, such as "vcpus >= 4".')
        with self._errors_explained():
            check_sql(self.connection.cursor(), f"select 1 from results where (\n{condition}\n)")  # noqa: S608 - nothing is executed
            self.connection.table("results").filter(condition).create_view("selected")

    def of_kind(self, *kinds: str) -> list[str]:
        """The columns of some kinds, in the table's order."""
        return [name for name, kind in self.kinds.items() if kind in kinds]

    def known(self, option: str, names: Iterable[str]) -> list[str]:
        """The names of columns as they are written in the table.

        Raises:
            UsageError: there is no such column.
        """
        written = {name.lower(): name for name in self.columns}
        for name in names:
            if name.lower() not in written:
                raise UsageError(f"{option} {name}: {self._no_column(name)}")
        return [written[name.lower()] for name in names]

    def rows(self, sql: str) -> Iterator[list[tuple[Any, ...]]]:
        """Batches of the rows of a SELECT over `results` and `selected`.

        Raises:
            UsageError: the condition fails on a value.
        """
        with self._errors_explained():
            cursor = self.connection.cursor().execute(sql)
            while batch := cursor.fetchmany(BATCH_ROWS):
                yield batch

    def all_rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The same in one list."""
        return list(itertools.chain.from_iterable(self.rows(sql)))

    def arrays(self, sql: str) -> dict[str, Any]:
        """The same as NumPy's masked arrays, by column."""
        with self._errors_explained():
            return self.connection.cursor().execute(sql).fetchnumpy()

    def _no_column(self, name: str) -> str:
        hint = did_you_mean(name, self.columns)
        return f"no such column; {hint or '--json shows all of them.'}"

    @contextlib.contextmanager
    def _errors_explained(self) -> Iterator[None]:
        import duckdb  # noqa: PLC0415 - it is loaded

        where = f'--filter "{self._condition}"'
        try:
            yield
        except UsageError as error:
            raise UsageError(f"{where}: {str(error).removeprefix('SQL: ')}") from None
        except duckdb.Error as error:
            if isinstance(error, duckdb.OutOfMemoryException):
                raise HarnessError(f"{where}: {_message(error)}") from error
            if self._condition == ALL or isinstance(error, (duckdb.IOException, duckdb.InternalException)):
                raise _damaged(self.folder / RESULTS_FILE, error) from error
            raise UsageError(f"{where}: {self._explained(_message(error))}") from None

    def _explained(self, message: str) -> str:
        missing, word = _NO_COLUMN.search(message), _NEAR.search(message)
        if missing:
            hint = did_you_mean(missing[1], self.columns) or "expected a column; a text stands in single quotes."
            return f'no column "{missing[1]}"; {hint}'
        if word and word[1] in self.columns:
            return f'{word[1]} is a word of SQL too: write the column as "{word[1]}".'
        return message


def open_results(folder: Path) -> Results:
    """The table of a campaign, as of now; in memory where the folder cannot be written.

    Args:
        folder: of the campaign, whether it is running or not.

    Raises:
        UsageError: it is no campaign.
        HarnessError: the journal is damaged or cannot be read.

    Context: starts threads; do not fork afterwards.
    """
    import duckdb  # noqa: PLC0415 - slow to load, and it starts threads

    path = folder / RESULTS_FILE
    table, kinds = _new_table(folder)
    if table is not None:
        with contextlib.suppress(HarnessError):
            _write(path, table)
            table = None
    end = contextlib.ExitStack()
    try:
        connection = end.enter_context(duckdb.connect(":memory:", config=_CLOSED))
        execute = connection.execute
        if table is None:
            # By its descriptor: a name may hold what DuckDB takes for wildcards, and another process may replace the file.
            file = end.enter_context(_opened(path))
            source = f"'/proc/self/fd/{file.fileno()}'"
            execute(f"create view results as select * from read_parquet({source})")  # noqa: S608 - our own name
            execute(f"set allowed_paths = [{source}]")
        else:
            connection.register("table_in_memory", table)
            execute("create table results as select * from table_in_memory")
            connection.unregister("table_in_memory")
        execute("set enable_external_access = false")
        execute("set lock_configuration = true")
        return Results(folder, connection, kinds, end)
    except duckdb.Error as error:
        end.close()
        raise _damaged(path, error) from error
    except BaseException:
        end.close()
        raise


def update_results(folder: Path) -> Path:
    """Bring `results.parquet` up to date; the path of it.

    Raises:
        UsageError: it is no campaign.
        HarnessError: the journal is damaged, or the system refuses.

    Context: starts threads; do not fork afterwards.
    """
    path = folder / RESULTS_FILE
    table, _ = _new_table(folder)
    if table is not None:
        _write(path, table)
    return path


# --- from the journal to a table


def _new_table(folder: Path) -> tuple[Any, dict[str, str]]:
    """The table as it should be, or None if the file is up to date, and the kinds of its columns."""
    path, journal = folder / RESULTS_FILE, folder / JOURNAL_FILE
    reach = _reach_of(path)
    if not journal.is_file():
        if reach is None:
            raise UsageError(f"{folder}: no campaign: it has no {JOURNAL_FILE}. Name the folder of a campaign.")
        return None, reach.kinds
    grown = reach is not None and reach.is_of(journal)
    now = reach if reach is not None and grown else _Reach()
    batches = _batches(journal, now)
    first = next(batches, None)
    if first is None and grown:
        return None, now.kinds

    import pyarrow as pa  # noqa: PLC0415 - slow to load, and mostly there is nothing new
    import pyarrow.parquet as pq  # noqa: PLC0415

    old = pa.schema([(name, kind) for columns in COLUMNS.values() for name, kind in columns.items()]).empty_table()
    new = [_table(batch) for batch in itertools.chain([first] if first else [], batches)]
    if reach is not None:
        old = pq.read_table(path)
        if not grown:
            told = pa.chunked_array([table["run"] for table in new], pa.string())
            old = old.filter(pa.compute.invert(pa.compute.is_in(old["run"], told)))
            now.kinds = reach.kinds | now.kinds
    table = _joined([old, *new])
    return table.replace_schema_metadata({METADATA_KEY: msgspec.json.encode(now)}), now.kinds


def _batches(journal: Path, reach: _Reach) -> Iterator[list[dict[str, Any]]]:
    """Flat rows from where a table ends; `reach` grows with them."""
    rows: list[dict[str, Any]] = []
    for record, offset in read_journal(journal, reach.offset):
        reach.last_at, reach.offset = reach.offset, offset
        if record["event"] == "end":
            rows.append(_flat(record, reach.kinds))
            if len(rows) == BATCH_ROWS:
                yield rows
                rows = []
    reach.first, reach.last = _head(journal, 0), _head(journal, reach.last_at)
    if rows:
        yield rows


def _flat(record: dict[str, Any], kinds: dict[str, str]) -> dict[str, Any]:
    """A record as a row."""
    row: dict[str, Any] = {}
    for name, value in record.items():
        if name in TABLES:
            for inner, part in value.items():
                if isinstance(part, _SCALARS):
                    row[_column(kinds, name, TABLES[name] + inner)] = part
        elif isinstance(value, _SCALARS) and name not in _NOT_SHOWN:
            row[_column(kinds, _FIXED.get(name, "config"), name)] = value
    row["nr_findings"] = len(record["findings"])
    row["signature"] = next((signature for signature, _ in record.get("folded", ())), None)
    row["folder"] = f"runs/{record['run']}"
    return row


def _column(kinds: dict[str, str], kind: str, name: str) -> str:
    """The name of a column: with its kind before it where another kind has the name already."""
    if kinds.setdefault(name, kind) == kind:
        return name
    kinds[f"{kind}_{name}"] = kind
    return f"{kind}_{name}"


def _table(rows: Sequence[dict[str, Any]]) -> Any:
    import pyarrow as pa  # noqa: PLC0415 - it is loaded

    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _array([row.get(name) for row in rows]) for name in names})


def _array(values: list[Any]) -> Any:
    """A column; of text, if its values are of several kinds."""
    import pyarrow as pa  # noqa: PLC0415 - it is loaded

    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        texts = [value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode() for value in values]
        return pa.array(texts, pa.string())


def _joined(tables: Sequence[Any]) -> Any:
    """Tables one under the other; a column that is text in one of them is text in all."""
    import pyarrow as pa  # noqa: PLC0415 - it is loaded

    types: dict[str, set[Any]] = {}
    for column in itertools.chain.from_iterable(table.schema for table in tables):
        types.setdefault(column.name, set()).add(column.type)
    numbers = {pa.null(), pa.int64(), pa.float64()}
    mixed = {name for name, found in types.items() if len(found - {pa.null()}) > 1 and not found <= numbers}
    agreed = [
        table.cast(pa.schema([column.with_type(pa.string()) if column.name in mixed else column for column in table.schema]))
        for table in tables
    ]
    return pa.concat_tables(agreed, promote_options="permissive")


# --- files


def _reach_of(path: Path) -> _Reach | None:
    """What a table says of itself; None if there is none, or none that can be read."""
    import duckdb  # noqa: PLC0415 - slow to load, and it starts threads

    try:
        with path.open("rb") as file, duckdb.connect(":memory:", config={"threads": 1}) as connection:
            sql = "select value from parquet_kv_metadata(?) where key = ?"
            found = connection.execute(sql, [f"/proc/self/fd/{file.fileno()}", METADATA_KEY]).fetchone()
        return msgspec.json.decode(found[0], type=_Reach) if found else None
    except (OSError, duckdb.Error, msgspec.MsgspecError):
        return None


def _head(journal: Path, at: int) -> str:
    """How the line at an offset begins."""
    try:
        with journal.open("rb") as file:
            file.seek(at)
            return file.read(HEAD_BYTES).decode(errors="replace")
    except OSError as error:
        raise HarnessError(f"{journal}: cannot be read: {error.strerror}.") from error


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read: {error.strerror}.") from error


def _damaged(path: Path, error: Exception) -> HarnessError:
    return HarnessError(f"{path}: {_message(error)}. Once it is removed, it is built anew from the journal.")


def _write(path: Path, table: Any) -> None:
    """Write it whole or not at all; several processes may do so at once, each with a file of its own until it is whole."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - it is loaded

    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise cannot_write(path, error) from error


def _message(error: Exception) -> str:
    """DuckDB's message, as one line without its excerpt."""
    return " ".join(_ERROR_CLASS.sub("", str(error)).partition("\n\nLINE ")[0].split())
