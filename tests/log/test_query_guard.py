# SPDX-License-Identifier: GPL-2.0-only
"""What a user's SQL may be, and everything that it may not: attempts to write, to read elsewhere, to get out."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import duckdb
import pytest

from stress.errors import UsageError
from stress.log.archive import Archive
from stress.log.query import Query
from stress.log.query_guard import check_sql
from stress.log.schema import Kind

from . import run_folder as rf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PARQUET = "{events}/vcpu0-00000.parquet"
OVERWRITE = f"copy control to '{PARQUET}' (format parquet, use_tmp_file false)"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small run and with files that are none of its business."""
    home = tmp_path_factory.mktemp("home")
    events = {"vcpu0": [rf.event(1, Kind.KVM_ENTRY, arg0=1), rf.event(2, Kind.KVM_EXIT, arg0=1)]}
    (home / "secret.csv").write_text("a,b\nsecret,2\n", encoding="utf-8")
    other = rf.write_run(home / "other", events)
    (other.events / "vcpu0-00000.parquet").rename(home / "secret.parquet")
    run = rf.write_run(home / "run", events)
    (run.events / "link.parquet").symlink_to("../../secret.parquet")
    (home / "link.parquet").symlink_to("secret.parquet")
    return home


@pytest.fixture(scope="module")
def opened(home: Path) -> Iterator[Query]:
    with Query(Archive.open(home / "run")) as opened:
        yield opened


@pytest.fixture
def query(opened: Query, home: Path, monkeypatch: pytest.MonkeyPatch) -> Query:
    """The run, with its surroundings as the current folder."""
    monkeypatch.chdir(home)
    return opened


def fingerprint(folder: Path) -> dict[str, str]:
    """Every file below a folder and what is in it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def filled(sql: str, query: Query, home: Path) -> str:
    """Put this test's paths into a statement; {events} is as DuckDB knows it, {spill} is where it may write."""
    return sql.format(
        events=query._folder / "events",
        spill=query._folder / "spill",
        here=home,
        up="/".join([".."] * 20),
    )


@pytest.mark.parametrize(
    "sql",
    [
        "select 1",
        "select count(*) from events;",
        "-- a comment\nselect 1 /* and one more */",
        "(select 1)",
        "with a as (select 1) from a",
        "with recursive a as (select 1 as n union all select n + 1 from a where n < 3) from a",
        "from events",
        "table events",
        "values (1), (2)",
        "describe events",
        "describe select 1",
        "summarize events",
        "show tables",
        "select * from (describe events) where column_name = 'gfn'",
        "select 1 union all select 2 order by 1",
        "select (select max(seq) from events), exists (select 1)",
        "from events a join events b using (seq) asof join events c on a.time_ns >= c.time_ns",
        "pivot events on kind in ('kvm_entry', 'kvm_exit') using count(*) group by actor",
        "unpivot (select seq, time_ns from events) on seq, time_ns",
        "from range(3), generate_series(1, 2), unnest([1, 2])",
        "from control, json_each(fields)",
        "from histogram(events, seq)",
        "select function_name from duckdb_functions() limit 1",
        "select {'type': 'COPY_QUERY_NODE', 'node': 'INSERT_NODE'}",
        "select 'copy events to ''x'''",
    ],
)
def test_what_reads_runs(sql: str, query: Query) -> None:
    """In all the forms that DuckDB knows."""
    assert [row for rows in query.run(sql) for row in rows]


@pytest.mark.parametrize(
    ("sql", "line"),
    [
        ("", "SQL: no statements: expected one SELECT"),
        ("-- nothing", "SQL: no statements: expected one SELECT"),
        ("select 1; select 2", "SQL: 2 statements: expected one SELECT"),
        ("select 1; copy control to 'x.csv'", "SQL: 2 statements: expected one SELECT"),
        ("copy control to 'x.csv'", "SQL: COPY statement: expected one SELECT"),
        ("copy control to '/dev/stdout'", "SQL: COPY statement: expected one SELECT"),
        (OVERWRITE, "SQL: COPY statement: expected one SELECT"),
        ("copy control from 'secret.csv'", "SQL: COPY statement: expected one SELECT"),
        ("export database 'x'", "SQL: EXPORT statement: expected one SELECT"),
        ("import database 'x'", "SQL: PRAGMA statement: expected one SELECT"),
        ("attach 'x.db'", "SQL: ATTACH statement: expected one SELECT"),
        ("attach ':memory:' as x", "SQL: ATTACH statement: expected one SELECT"),
        ("detach memory", "SQL: DETACH statement: expected one SELECT"),
        ("install httpfs", "SQL: LOAD statement: expected one SELECT"),
        ("load httpfs", "SQL: LOAD statement: expected one SELECT"),
        ("load '{here}/x.duckdb_extension'", "SQL: LOAD statement: expected one SELECT"),
        ("pragma database_list", "SQL: PRAGMA statement: expected one SELECT"),
        ("set lock_configuration = false", "SQL: SET statement: expected one SELECT"),
        ("set temp_directory = '{here}'", "SQL: SET statement: expected one SELECT"),
        ("reset threads", "SQL: SET statement: expected one SELECT"),
        ("set variable x = 1", "SQL: SET statement: expected one SELECT"),
        ("use memory", "SQL: SET statement: expected one SELECT"),
        ("call enable_logging()", "SQL: CALL statement: expected one SELECT"),
        ("checkpoint", "SQL: CALL statement: expected one SELECT"),
        ("create table x (a int)", "SQL: CREATE statement: expected one SELECT"),
        ("create macro x() as 1", "SQL: CREATE statement: expected one SELECT"),
        ("create secret (type s3)", "SQL: CREATE statement: expected one SELECT"),
        ("drop view events", "SQL: DROP statement: expected one SELECT"),
        ("alter table control add column x int", "SQL: ALTER statement: expected one SELECT"),
        ("insert into control values (1, null, null, null)", "SQL: INSERT statement: expected one SELECT"),
        ("update control set t_ns = 1", "SQL: UPDATE statement: expected one SELECT"),
        ("delete from control", "SQL: DELETE statement: expected one SELECT"),
        ("begin", "SQL: TRANSACTION statement: expected one SELECT"),
        ("rollback", "SQL: TRANSACTION statement: expected one SELECT"),
        ("prepare x as select 1", "SQL: PREPARE statement: expected one SELECT"),
        ("execute x", "SQL: EXECUTE statement: expected one SELECT"),
        ("vacuum", "SQL: VACUUM statement: expected one SELECT"),
        ("explain select 1", "SQL: EXPLAIN statement: expected one SELECT"),
        ("explain analyze copy control to 'x.csv'", "SQL: EXPLAIN statement: expected one SELECT"),
        ("pivot events on kind using count(*)", "SQL: a PIVOT without its values"),
        ("with a as (pivot events on kind using count(*)) from a", "SQL: a PIVOT without its values"),
        ("select ?", "SQL: a parameter"),
        ("select $x", "SQL: a parameter"),
        # A WITH may write, and is a SELECT all the same.
        (f"with a as ({OVERWRITE}) from a", "SQL: COPY inside of a SELECT"),
        ("with a as (copy control to '{spill}/x.csv') select 1", "SQL: COPY inside of a SELECT"),
        ("with a as (copy control to 'x.csv') select 1", "SQL: COPY inside of a SELECT"),
        ("with a as (insert into control values (1, null, null, null) returning *) from a", "SQL: INSERT inside of a SELECT"),
        ("with a as (update control set t_ns = 1 returning *) from a", "SQL: UPDATE inside of a SELECT"),
        ("with a as (delete from control returning *) from a", "SQL: DELETE inside of a SELECT"),
        ("from (with a as (delete from control returning *) from a)", "SQL: DELETE inside of a SELECT"),
        ("summarize (with a as (delete from control returning *) from a)", "SQL: DELETE inside of a SELECT"),
        ("with a as (with b as (delete from control returning *) from b) from a", "SQL: DELETE inside of a SELECT"),
        ("select (with a as (delete from control returning *) select count(*) from a)", "SQL: DELETE inside of a SELECT"),
        # Functions that read files, run text as SQL or change something.
        ("from read_text('/etc/passwd')", "SQL: read_text() in FROM"),
        ("from READ_TEXT('/etc/passwd')", "SQL: read_text() in FROM"),
        ("from system.main.read_text('/etc/passwd')", "SQL: read_text() in FROM"),
        ("select * from events, lateral (from read_blob('/etc/passwd'))", "SQL: read_blob() in FROM"),
        ("from read_csv('secret.csv')", "SQL: read_csv() in FROM"),
        ("from read_json('secret.csv')", "SQL: read_json() in FROM"),
        ("from read_parquet('secret.parquet')", "SQL: read_parquet() in FROM"),
        ("from parquet_metadata('secret.parquet')", "SQL: parquet_metadata() in FROM"),
        ("from sniff_csv('secret.csv')", "SQL: sniff_csv() in FROM"),
        ("from read_duckdb('x.db')", "SQL: read_duckdb() in FROM"),
        ("from glob('/etc/*')", "SQL: glob() in FROM"),
        ("from query('copy control to ''x.csv''')", "SQL: query() in FROM"),
        ("from query('select 1')", "SQL: query() in FROM"),
        ("from query_table('control')", "SQL: query_table() in FROM"),
        ("from json_execute_serialized_sql(json_serialize_sql('select 1'))", "SQL: json_execute_serialized_sql() in FROM"),
        ("from enable_logging(storage = 'file', storage_path = 'x')", "SQL: enable_logging() in FROM"),
        ("from enable_profiling(save_location = 'x')", "SQL: enable_profiling() in FROM"),
        ("from checkpoint()", "SQL: checkpoint() in FROM"),
        ("from arrow_scan(1, 2, 3)", "SQL: arrow_scan() in FROM"),
        ("from duckdb_secrets()", "SQL: duckdb_secrets() in FROM"),
        # Files as tables.
        ("from 'secret.csv'", 'SQL: Cannot access file "secret.csv"'),
        ("from 'secret.parquet'", 'SQL: Cannot access file "secret.parquet"'),
        ("from 'link.parquet'", 'SQL: Cannot access file "link.parquet"'),
        ("from '{up}{here}/secret.parquet'", "SQL: Cannot access file"),
        ("from '{events}/link.parquet'", "SQL: Cannot access file"),
        ("from '{events}/../secret.parquet'", "SQL: Cannot access file"),
        ("from '{events}/*.parquet'", "SQL: Cannot access file"),
        ("from '{events}/../events/vcpu0-00000.parquet.csv'", "SQL: Cannot access file"),
        ("from '/etc/passwd'", "SQL: Table with name /etc/passwd does not exist!"),
        ("from 'http://127.0.0.1/x.csv'", 'SQL: Cannot access file "http://127.0.0.1/x.csv"'),
        ("from 's3://x/x.parquet'", 'SQL: Cannot access file "s3://x/x.parquet"'),
        ("select getenv('HOME')", "SQL: Scalar Function with name getenv does not exist!"),
        # Variables of the program.
        ("from rf", "SQL: Table with name rf does not exist!"),
        ("from statements", "SQL: Table with name statements does not exist!"),
        ("select '\ud800'", "SQL: expected text in UTF-8."),
        ("select " + "(" * 20000 + "1" + ")" * 20000, "SQL: "),
        ("select " + "-" * 2000 + "1", "SQL: "),
        ("select " + "not " * 2000 + "true", "SQL: "),
    ],
)
def test_nothing_else_does(sql: str, line: str, query: Query, home: Path) -> None:
    """One line that names what was refused; no file has changed or come to be."""
    before = fingerprint(home)
    with pytest.raises(UsageError) as caught:
        list(query.run(filled(sql, query, home)))
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)
    assert fingerprint(home) == before
    assert [path.name for path in query._folder.iterdir()] == ["events"]
    assert [row for rows in query.run("select count(*) from events") for row in rows] == [(2,)]


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("from read_text('/etc/passwd')", duckdb.PermissionException),
        ("from read_csv('{here}/secret.csv')", duckdb.PermissionException),
        ("from read_text('{here}/run/config.toml')", duckdb.PermissionException),
        ("from read_text('{events}/../secret.csv')", duckdb.PermissionException),
        ("from read_parquet('{here}/secret.parquet')", duckdb.PermissionException),
        ("from glob('/etc/*')", duckdb.PermissionException),
        ("copy control to '{here}/x.csv'", duckdb.PermissionException),
        ("export database '{here}/x'", duckdb.PermissionException),
        ("attach '{here}/x.db'", duckdb.PermissionException),
        ("install httpfs", duckdb.PermissionException),
        ("load httpfs", duckdb.PermissionException),
        ("set enable_external_access = true", duckdb.InvalidInputException),
        ("set allowed_directories = ['/']", duckdb.InvalidInputException),
        ("set lock_configuration = false", duckdb.InvalidInputException),
        ("set memory_limit = '1TB'", duckdb.InvalidInputException),
        ("from enable_logging(storage = 'file', storage_path = '{here}/x')", duckdb.InvalidInputException),
        ("from enable_profiling(save_location = '{here}/x')", duckdb.InvalidInputException),
        ("insert into control values (1, null, null, null)", duckdb.TransactionException),
        ("with a as (delete from control returning *) from a", duckdb.TransactionException),
        ("drop view events", duckdb.TransactionException),
        ("from rf", duckdb.CatalogException),
    ],
)
def test_the_walls_behind_hold_alone(sql: str, error: type[Exception], query: Query, home: Path) -> None:
    """Were a statement let through, DuckDB's own settings would stop most of what it can do."""
    before = fingerprint(home)
    query.run("select 1")
    with pytest.raises(error):
        query._connection.execute(filled(sql, query, home)).fetchall()
    assert fingerprint(home) == before


@pytest.mark.parametrize("tree", [{"error": True, "error_message": "What?"}, {"error": False, "statements": [{}, {}]}])
def test_what_cannot_be_judged_is_not_run(tree: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later DuckDB may know statements that it calls SELECT and does not describe."""

    class Connection:
        def extract_statements(self, sql: str) -> list[duckdb.Statement]:
            return duckdb.extract_statements(sql)

        def execute(self, sql: str, parameters: list[str]) -> Connection:
            assert parameters == ["select 1"]
            return self

        def fetchone(self) -> tuple[str]:
            return (json.dumps(tree),)

    with pytest.raises(UsageError, match=r"^SQL: .*: expected one SELECT"):
        check_sql(Connection(), "select 1")


def test_why_the_parse_tree_is_looked_at(tmp_path: Path) -> None:
    """What no setting stops: DuckDB overwrites a file that it may read."""
    rf.write_run(tmp_path / "run", {"vcpu0": rf.numbered(2)})
    before = fingerprint(tmp_path)
    with Query(Archive.open(tmp_path / "run")) as query:
        query.run("select 1")
        try:
            query._connection.execute(filled(f"with a as ({OVERWRITE}) from a", query, tmp_path)).fetchall()
        except duckdb.Error:
            pytest.skip("this DuckDB does stop it")
    assert fingerprint(tmp_path) != before


@pytest.mark.parametrize(
    ("condition", "hint"),
    [
        ("kind = 'kvm_pagefault'", 'no kind is called "kvm_pagefault"; did you mean "kvm_page_fault"?'),
        ("'kvm_exi' = e.kind", 'no kind is called "kvm_exi"; did you mean "kvm_exit"?'),
        ("kind in ('kvm_entry', 'zzz')", 'no kind is called "zzz"'),
        ("kind <> 'Halt'", 'no kind is called "Halt"; did you mean "halt"?'),
        ("kind in ('kvm_entry', 'unknown_60') or kind = 'stale-use' or actor = 'x' or kind is null or kind = actor", ""),
    ],
)
def test_a_kind_that_does_not_exist_is_pointed_out(condition: str, hint: str, query: Query) -> None:
    """It finds nothing, and finding nothing looks like good news."""
    assert query.run(f"select count(*) from events e where {condition}").hint == hint
