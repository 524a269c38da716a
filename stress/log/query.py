# SPDX-License-Identifier: GPL-2.0-only
"""SQL over a run folder: an in-memory DuckDB with the views of `stress/log/query_views.py`, which can only read.

    with Query(Archive.open(path)) as query:
        for rows in query.run("select actor, count(*) from events group by actor"):
            ...

**What a user's SQL cannot do**, and what stops it:

- It is one statement that reads, by its parse tree (`stress/log/query_guard.py`). That matters most: a SELECT may hold a
  COPY, and what DuckDB may read, it may overwrite, the log included.
- External access is off, but for the run's event files and for the folder to which sorts spill.
- Settings are locked, extensions are not loaded, names of Python variables are no tables, the transaction is read-only.

**Memory** is limited. What a sort, join or window needs beyond that goes to a temporary folder (in `TMPDIR`), which is
removed with the query: otherwise a question about a long soak could not be asked at all. It takes at most half of the space
there. Results are streamed, some thousand rows at a time.

**Threads.** DuckDB works in a thread of its own, since it looks for no signals meanwhile: the caller's thread only waits, so
that Ctrl-C reaches it, and stops the other.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import msgspec

from stress.errors import HarnessError, StressError, UsageError
from stress.log.query_guard import check_sql, unknown_kinds
from stress.log.query_views import MACROS, VIEWS, events_sql, literal, view_sql
from stress.log.schema import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stress.log.archive import Archive

__all__ = ["Query", "Rows"]

MEMORY_BYTES_MAX = 2 << 30
BATCH_ROWS = 4096
CONTROL_BATCH_LINES = 1000
INTERRUPT_AGAIN_S = 0.05
TOKEN_SHOWN_MAX = 40

_FILE_NAME = re.compile(r"(?P<actor>[\w.+-]+)-(?P<number>[0-9]{5,9})\.parquet", re.ASCII)
_NAMED_FILE = re.compile(r"/(events/[\w.+-]+\.parquet)", re.ASCII)
_ERROR_CLASS = re.compile(r"^[A-Z][A-Za-z ]* Error: ")

Result = TypeVar("Result")


class Rows:
    """A result, as it comes.

    Attributes:
        columns: their names.
        types: their types, as DuckDB writes them.
        hint: what may be wrong with a query that finds nothing, or "".
    """

    def __init__(self, columns: Sequence[tuple[str, str]], hint: str, fetch: Callable[[], list[tuple[Any, ...]]]) -> None:
        """Rows that `fetch` gives, until it gives none."""
        self.columns = tuple(name for name, _ in columns)
        self.types = tuple(kind for _, kind in columns)
        self.hint = hint
        self._fetch = fetch

    def __iter__(self) -> Iterator[list[tuple[Any, ...]]]:
        """Batches of rows, none of them empty; once.

        Raises:
            UsageError: see `Query.run`.
            HarnessError: see `Query.run`.
        """
        while rows := self._fetch():
            yield rows


class Query:
    """A run folder as tables. Leaving the `with` block leaves no temporary files."""

    def __init__(self, archive: Archive, without: Sequence[str] = ()) -> None:
        """Read the control log and make the views.

        Args:
            archive: the run.
            without: names of event files to leave out, relative to the run folder; may have wildcards.

        Raises:
            UsageError: a file is damaged, or `without` names none.
            HarnessError: there is no temporary folder.
        """
        files = _event_files(archive, without)
        self._end = contextlib.ExitStack()
        try:
            self._files = self._linked(archive, files)
            self._thread = ThreadPoolExecutor(max_workers=1)
            self._end.callback(self._thread.shutdown)
            self._connection = self._connect()
            self._end.callback(self._connection.close)
            self._end.callback(self._stop)
            self._fill_control(archive)
            self._call(self._make_views, archive.schema_version)
        except BaseException:
            self._end.close()
            raise

    def __enter__(self) -> Self:
        """All is prepared."""
        return self

    def __exit__(self, *error: object) -> None:
        """See `close`."""
        self.close()

    def close(self) -> None:
        """Stop what still runs and remove the temporary folder."""
        self._end.close()

    def run(self, sql: str) -> Rows:
        """Run one statement. The result of the one before is gone then.

        Args:
            sql: a SELECT.

        Raises:
            UsageError: it is wrong, it is none, or it meets a damaged file.
            HarnessError: it needs too much memory or space.
            KeyboardInterrupt: Ctrl-C; the statement was stopped.
        """
        try:
            sql.encode()
        except UnicodeEncodeError:
            raise UsageError("SQL: expected text in UTF-8.") from None
        tree = self._call(self._begin, sql)
        cursor = self._call(self._connection.execute, sql)
        columns = [(str(column[0]), str(column[1])) for column in cursor.description or []]
        return Rows(columns, unknown_kinds(tree), lambda: self._call(cursor.fetchmany, BATCH_ROWS))

    # --- preparation, and DuckDB's own thread

    def _linked(self, archive: Archive, files: Sequence[str]) -> list[str]:
        """Paths of the files without any character that means something to DuckDB, which would expand wildcards."""
        try:
            self._folder = Path(self._end.enter_context(tempfile.TemporaryDirectory(prefix="zaptorture-query-")))
            (self._folder / "events").symlink_to(archive.folder.events.resolve())
            self._spill_bytes_max = shutil.disk_usage(self._folder).free // 2
        except OSError as error:
            raise HarnessError(f"{tempfile.gettempdir()}: no temporary folder: {error.strerror or error}.") from error
        return [str(self._folder / file) for file in files]

    def _connect(self) -> Any:
        import duckdb  # noqa: PLC0415 - slow to load, and it starts threads

        connection = duckdb.connect(
            ":memory:",
            config={
                "allow_community_extensions": False,
                "allow_persistent_secrets": False,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "enable_external_file_cache": False,  # the system's page cache does as well, and gives way
                "python_enable_replacements": False,
                "temp_directory": str(self._folder / "spill"),
                "threads": len(os.sched_getaffinity(0)),
            },
        )
        # DuckDB's own limit knows the machine and its control group.
        row = connection.execute("select parse_formatted_bytes(current_setting('memory_limit'))").fetchone()
        self._memory_bytes_max = min(MEMORY_BYTES_MAX, int(row[0]) if row else MEMORY_BYTES_MAX)
        connection.execute(f"set memory_limit = '{self._memory_bytes_max}B'")
        connection.execute(f"set max_temp_directory_size = '{self._spill_bytes_max}B'")  # not heeded above
        connection.execute("set enable_progress_bar = false")
        connection.execute("set TimeZone = 'UTC'")
        return connection

    def _make_views(self, version: int) -> None:
        execute = self._connection.execute
        for macro in MACROS.values():
            execute(macro)
        execute(f"create view events as {events_sql(self._files)}")
        for name, view in VIEWS.items():
            if view.sql:
                execute(f"create view {name} as {view_sql(name, version)}")
        execute(f"set allowed_paths = [{', '.join(map(literal, self._files))}]")
        execute("set enable_external_access = false")
        execute("set lock_configuration = true")

    def _fill_control(self, archive: Archive) -> None:
        self._call(self._connection.execute, "create table control (t_ns bigint, timestamp timestamp, event varchar, fields json)")
        lines: list[_Line] = []
        for event in archive.control_events():
            lines.append(_line(event))
            if len(lines) == CONTROL_BATCH_LINES:
                self._insert_control(lines)
                lines = []
        self._insert_control(lines)

    def _insert_control(self, lines: list[_Line]) -> None:
        if lines:
            sql = """
                insert into control
                select t_ns, try_cast(timestamp as timestamp), event, try_cast(fields as json)
                from (select unnest(?) as t_ns, unnest(?) as timestamp, unnest(?) as event, unnest(?) as fields)
            """
            self._call(self._connection.execute, sql, [list(column) for column in zip(*lines, strict=True)])

    def _begin(self, sql: str) -> Any:
        import duckdb  # noqa: PLC0415 - it is loaded

        with contextlib.suppress(duckdb.Error):  # there is none the first time
            self._connection.rollback()
        tree = check_sql(self._connection, sql)
        self._connection.execute("begin transaction read only")
        return tree

    def _call(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Do it in DuckDB's thread; an exception out of a signal's handler stops it."""
        try:
            return self._thread.submit(work, *arguments).result()
        except StressError:
            raise
        except Exception as error:
            raise self._explained(error) from error
        except BaseException:  # out of a signal's handler
            self._stop()
            raise

    def _stop(self) -> None:
        """End what DuckDB's thread does."""
        idle = self._thread.submit(int)
        # A query may be about to begin, and an interrupt that comes before is forgotten.
        while not wait([idle], INTERRUPT_AGAIN_S).done:
            self._connection.interrupt()

    # --- errors

    def _explained(self, error: Exception) -> Exception:
        """What to tell the user of an error out of DuckDB."""
        import duckdb  # noqa: PLC0415 - it is loaded

        text = str(error)
        if isinstance(error, duckdb.OutOfMemoryException):
            memory, disk = self._memory_bytes_max >> 20, self._spill_bytes_max >> 20
            return HarnessError(
                f"SQL: it needs more than {memory} MiB of memory and {disk} MiB of disk in {self._folder.parent}. "
                "Ask for less at a time, or set TMPDIR to a larger disk."
            )
        wrong_sql = (
            duckdb.BinderException,
            duckdb.CatalogException,
            duckdb.ConversionException,
            duckdb.OutOfRangeException,
            duckdb.ParserException,
            duckdb.PermissionException,
            duckdb.SyntaxException,
            duckdb.TransactionException,
            duckdb.TypeMismatchException,
        )
        if not isinstance(error, (duckdb.Error, UnicodeDecodeError)):
            return error
        if not isinstance(error, wrong_sql):
            damaged = self._damaged_file(error)
            if damaged:
                return UsageError(f'{damaged}: damaged: {_short(text)}. To do without it: --without "{damaged}".')
            if isinstance(error, (duckdb.IOException, duckdb.InternalException, UnicodeDecodeError)):
                return HarnessError(f"SQL: {_message(text)}")
        return UsageError(f"SQL: {_message(text)}")

    def _damaged_file(self, error: Exception) -> str:
        """The file that an error is about: DuckDB names it, or reading the files one by one shows it."""
        import duckdb  # noqa: PLC0415 - it is loaded

        named = _NAMED_FILE.search(str(error))
        if named:
            return named[1]
        # Errors out of the decoder have no class of their own.
        suspect = type(error) in (duckdb.Error, duckdb.IOException, duckdb.InternalException, UnicodeDecodeError)
        if not suspect and "corrupt" not in str(error):
            return ""
        counts = ", ".join(f"count({name})" for name in COLUMNS)
        for file in self._files:
            with duckdb.connect(":memory:", config={"threads": 1}) as connection:
                try:
                    connection.execute(f"select {counts} from read_parquet([{literal(file)}])").fetchall()  # noqa: S608 - own names
                except (duckdb.Error, UnicodeDecodeError):
                    return f"events/{Path(file).name}"
        return ""


class _Line(NamedTuple):
    t_ns: int
    timestamp: str | None
    event: str
    fields: str


def _line(event: dict[str, Any]) -> _Line:
    fields = {name: value for name, value in event.items() if name not in ("t_ns", "timestamp", "event")}
    timestamp = event.get("timestamp")
    return _Line(
        event["t_ns"], timestamp if isinstance(timestamp, str) else None, event["event"], msgspec.json.encode(fields).decode()
    )


def _event_files(archive: Archive, without: Sequence[str]) -> list[str]:
    """The run's files of events, relative to its folder, in the order of actors and numbers."""
    folder = archive.folder.events
    try:
        with os.scandir(folder) as entries:
            found = sorted(f"{folder.name}/{entry.name}" for entry in entries)
    except OSError:
        found = []  # a problem of the archive, which tells
    for pattern in without:
        if not fnmatch.filter(found, pattern):
            raise UsageError(f'--without "{pattern}": no such file in the run; expected one such as events/vcpu0-00000.parquet.')
    left_out = {name for pattern in without for name in fnmatch.filter(found, pattern)}
    for problem in archive.problems:
        if problem.code == "foreign-file":
            left_out.add(problem.where)
        elif problem.code == "file-damaged" and problem.where in set(found) - left_out:
            raise UsageError(f'{problem}. To do without it: --without "{problem.where}".')
    files = []
    for name in found:
        match = _FILE_NAME.fullmatch(name.partition("/")[2])
        if match is None or match["actor"] not in archive.actors or name in left_out:
            continue
        if (archive.path / name).is_symlink():
            raise UsageError(f'{name}: a link; expected a file. To do without it: --without "{name}".')
        files.append((archive.actors.index(match["actor"]), int(match["number"]), name))
    return [name for _, _, name in sorted(files)]


def _message(text: str) -> str:
    """DuckDB's message as one line: what is wrong, what it suggests, and at which word."""
    head, _, place = _ERROR_CLASS.sub("", text).partition("\n\nLINE ")
    message = " ".join(head.split())
    number, _, source = place.partition(": ")
    lines = source.split("\n")
    if len(lines) < 2 or "^" not in lines[1]:
        return message
    # The line is shown behind "LINE n: ", and carets below mark the word.
    start = lines[1].index("^") - len(f"LINE {number}: ")
    word = lines[0][start : start + max(1, lines[1].count("^"))] if start >= 0 else ""
    return f"{message} (line {number}, at {word[:TOKEN_SHOWN_MAX]})" if word else message


def _short(text: str) -> str:
    line = _ERROR_CLASS.sub("", text).splitlines()[0] if text else "unreadable"
    return re.sub(r"""\s*['"]?/[^'"\s]*/events/[\w.+-]+\.parquet['"]?:?""", "", line).rstrip(".")
