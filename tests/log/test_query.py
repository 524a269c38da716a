# SPDX-License-Identifier: GPL-2.0-only
"""The connection behind a query: what it costs, what it leaves, what it says of wrong SQL and of damaged files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from stress.errors import HarnessError, UsageError
from stress.log import query as query_module
from stress.log.archive import Archive
from stress.log.query import BATCH_ROWS, Query
from stress.log.schema import Kind

from . import run_folder as rf

ROOT = Path(__file__).parents[2]
# Needs some 200 MB, and cannot be had for less.
SORT = "select count(*), sum(r * n % 7) from (select n, row_number() over (order by hash(n)) as r from range(10000000) t(n))"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two actors with two files each, and a place for temporary folders."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    events = {"vcpu0": rf.numbered(1000), "ctl": rf.numbered(1000)}
    return rf.write_run(tmp_path / "run", events, row_group_rows=500, file_rows=500).path


def found(query: Query, sql: str) -> list[tuple]:
    return [row for rows in query.run(sql) for row in rows]


def temporary() -> list[Path]:
    return list(Path(tempfile.gettempdir()).iterdir())


def refused(run: Path, sql: str = "select sum(arg0) from events", without: tuple[str, ...] = ()) -> str:
    """What the user is told."""
    with pytest.raises(UsageError) as caught, Query(Archive.open(run), without) as query:
        found(query, sql)
    return str(caught.value)


# --- what it leaves


def test_nothing_is_left(run: Path) -> None:
    """Neither a folder nor a thread, also after an error, a result that nobody fetched, or a spill."""
    threads = threading.active_count()
    with Query(Archive.open(run)) as query:
        assert temporary()
        assert next(iter(query.run("from range(10000000)")))
        with pytest.raises(UsageError):
            query.run("selec")
        query.run("from range(10000000) order by hash(range)")
    with pytest.raises(UsageError):
        Query(Archive.open(run), ["none"])
    assert temporary() == []
    assert threading.active_count() == threads


def test_queries_follow_each_other(run: Path) -> None:
    """An error or an unfinished result does not spoil the next one."""
    with Query(Archive.open(run)) as query:
        for _ in range(3):
            with pytest.raises(UsageError):
                found(query, "select error('no')")
            query.run("from range(10000000)")
            assert found(query, "select count(*) from events") == [(2000,)]


def test_no_temporary_folder_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of the run then, and the user has done nothing wrong."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(HarnessError, match=r"^/nowhere: no temporary folder: No such file or directory\.$"):
        Query(Archive.open(run))


def test_paths_may_have_any_characters(tmp_path: Path) -> None:
    """DuckDB expands wildcards in file names; the user's folders are none of its business."""
    path = tmp_path / "it's a [run] {x} *?"
    rf.write_run(path, {"vcpu0": rf.numbered(3)})
    with Query(Archive.open(path)) as query:
        assert found(query, "select file, count(*) from events group by 1") == [("events/vcpu0-00000.parquet", 3)]


# --- memory


def test_a_large_result_comes_in_batches(run: Path) -> None:
    """In order, none of them empty, none larger than it should be."""
    with Query(Archive.open(run)) as query:
        rows = query.run("select seq, actor from events order by actor, seq")
        batches = list(rows)
    assert (rows.columns, rows.types) == (("seq", "actor"), ("BIGINT", "VARCHAR"))
    assert [row for batch in batches for row in batch] == [(seq, actor) for actor in ("ctl", "vcpu0") for seq in range(1000)]
    assert all(0 < len(batch) <= BATCH_ROWS for batch in batches)


def test_memory_does_not_grow_with_the_result(run: Path) -> None:
    """A million wide rows take no more than a few batches."""
    script = f"""
import resource, sys
from pathlib import Path
from stress.log.archive import Archive
from stress.log.query import Query
with Query(Archive.open(Path({str(run)!r}))) as query:
    next(iter(query.run("from events")))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    n = sum(map(len, query.run("select range, 'a long text ' || range, [range] from range(1000000)")))
    print(n, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    rows, mib = map(int, done.stdout.split())
    assert rows == 1_000_000
    assert mib < 150


def test_what_exceeds_the_memory_goes_to_disk(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sort that is larger than the limit still has a result."""
    monkeypatch.setattr(query_module, "MEMORY_BYTES_MAX", 64 << 20)
    with Query(Archive.open(run)) as query:
        assert found(query, SORT)[0][0] == 10_000_000


def test_what_exceeds_memory_and_disk_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how much there is and what to do."""
    monkeypatch.setattr(query_module, "MEMORY_BYTES_MAX", 64 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2 << 20))
    with Query(Archive.open(run)) as query:
        with pytest.raises(HarnessError) as caught:
            found(query, SORT)
        assert str(caught.value).startswith("SQL: it needs more than 64 MiB of memory and 1 MiB of disk in ")
        assert found(query, "select 1") == [(1,)]


def test_the_machines_own_limit_counts(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is less memory, less is taken."""
    monkeypatch.setattr(query_module, "MEMORY_BYTES_MAX", 1 << 60)
    with Query(Archive.open(run)) as query:
        assert query._memory_bytes_max < 1 << 60


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("allow_community_extensions", False),
        ("allow_persistent_secrets", False),
        ("autoinstall_known_extensions", False),
        ("autoload_known_extensions", False),
        ("enable_external_access", False),
        ("enable_external_file_cache", False),
        ("enable_progress_bar", False),
        ("lock_configuration", True),
        ("memory_limit", "2.0 GiB"),
        ("max_temp_directory_size", "1.5 GiB"),
        ("python_enable_replacements", False),
        ("threads", len(os.sched_getaffinity(0))),
        ("TimeZone", "UTC"),
    ],
)
def test_a_setting_is_in_force(name: str, value: object, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB takes some of them at the wrong moment without a word, and ignores them."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 << 30))
    with Query(Archive.open(run)) as query:
        assert found(query, f"select current_setting('{name}')") == [(value,)]


# --- wrong SQL


@pytest.mark.parametrize(
    ("sql", "line"),
    [
        ("selec 1", 'SQL: syntax error at or near "selec" (line 1, at selec)'),
        (
            "select actor,\n  kindd\nfrom events",
            'SQL: Referenced column "kindd" not found in FROM clause! Candidate bindings: "kind", ',
        ),
        ("from event", 'SQL: Table with name event does not exist! Did you mean "events"? (line 1, at event)'),
        (
            "select countt(*) from events",
            'SQL: Scalar Function with name countt does not exist! Did you mean "count"? (line 1, at ',
        ),
        ("select cast('x' as int)", "SQL: Could not convert string 'x' to INT32 (line 1, at cast('x' as int))"),
        ("select error('one\ntwo')", "SQL: one two"),
        ("select arg0 + 9223372036854775807 from events", "SQL: Overflow in addition of INT64 ("),
    ],
)
def test_wrong_sql_is_one_line(sql: str, line: str, run: Path) -> None:
    """What is wrong, what was meant, and where."""
    told = refused(run, sql)
    assert told.startswith(line)
    assert told.isprintable()


def test_a_time_with_its_zone_can_be_asked_for(run: Path) -> None:
    """DuckDB knows zones by itself since 2.0.1; before, it needed another package."""
    with Query(Archive.open(run)) as query:
        ((now,),) = found(query, "select now()")
    assert now.tzinfo is not None


def test_the_place_of_an_error_is_named(run: Path) -> None:
    """Line and word, also far behind in a long line."""
    assert refused(run, "select actor,\n  kindd\nfrom events").endswith("(line 2, at kindd)")
    assert refused(run, f"select {'1, ' * 500} kindd from events").endswith("(line 1, at kindd)")


# --- damaged files


def test_a_torn_file_is_named(run: Path) -> None:
    """And so is the way to do without it."""
    path = run / "events" / "vcpu0-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    told = refused(run)
    assert told.startswith("events/vcpu0-00001.parquet: ")
    assert told.endswith(' To do without it: --without "events/vcpu0-00001.parquet".')
    with Query(Archive.open(run), ["events/vcpu0-00001.parquet"]) as query:
        assert found(query, "select actor, count(*) from events group by 1 order by 1") == [("ctl", 1000), ("vcpu0", 500)]
    with Query(Archive.open(run), ["events/vcpu*"]) as query:
        assert found(query, "select distinct actor from events") == [("ctl",)]


def damage(path: Path, column: str, header: bytes) -> None:
    """Overwrite the beginning of the first page of a column."""
    metadata = pq.read_metadata(path).row_group(0)
    (chunk,) = [metadata.column(n) for n in range(metadata.num_columns) if metadata.column(n).path_in_schema == column]
    data = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + len(header)] = header
    path.write_bytes(data)


@pytest.mark.parametrize("header", [b"\x00" * 200, b"\xff" * 4, b"\x0e\x0e\x0e\x0e", os.urandom(64)])
def test_a_damaged_page_is_found(header: bytes, run: Path) -> None:
    """The footer is good; DuckDB notices while it reads, and does not always say where."""
    damage(run / "events" / "vcpu0-00001.parquet", "arg0", header)
    told = refused(run)
    assert told.startswith("events/vcpu0-00001.parquet: damaged: ")
    assert told.endswith('. To do without it: --without "events/vcpu0-00001.parquet".')
    assert told.isprintable()
    assert "zaptorture-query" not in told
    with Query(Archive.open(run)) as query:  # other columns and files are still to be had
        assert found(query, "select count(time_ns) from events where file <> 'events/vcpu0-00001.parquet'") == [(1500,)]


def test_foreign_files_are_left_out(run: Path) -> None:
    """Files of other actors, torn files and notes are not events of this run."""
    shutil.copy(run / "events" / "vcpu0-00000.parquet", run / "events" / "vcpu7-00000.parquet")
    shutil.copy(run / "events" / "vcpu0-00000.parquet", run / "events" / "copy of vcpu0-00000.parquet")
    (run / "events" / "vcpu0-00002.parquet.part").write_bytes(b"PAR1")
    (run / "events" / "notes.txt").write_text("x", encoding="utf-8")
    with Query(Archive.open(run)) as query:
        assert found(query, "select count(*) from events") == [(2000,)]


def test_a_link_is_no_file_of_the_run(run: Path, tmp_path: Path) -> None:
    """It could lead anywhere."""
    shutil.move(run / "events" / "ctl-00001.parquet", tmp_path / "elsewhere.parquet")
    (run / "events" / "ctl-00001.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    assert refused(run) == (
        'events/ctl-00001.parquet: a link; expected a file. To do without it: --without "events/ctl-00001.parquet".'
    )


def test_a_pattern_without_a_file_is_refused(run: Path) -> None:
    """A misspelt name would leave in what should be left out."""
    told = refused(run, without=("vcpu0-00001.parquet",))
    assert told == ('--without "vcpu0-00001.parquet": no such file in the run; expected one such as events/vcpu0-00000.parquet.')


def test_actors_are_in_the_manifests_order(tmp_path: Path) -> None:
    """As everywhere else, and files by number, not by text."""
    events = {"vcpu2": rf.numbered(30), "vcpu10": rf.numbered(3), "ctl": rf.numbered(3)}
    run = rf.write_run(tmp_path / "run", events, row_group_rows=10, file_rows=10).path
    for old, new in (("vcpu2-00002", "vcpu2-100000"),):
        (run / "events" / f"{old}.parquet").rename(run / "events" / f"{new}.parquet")
    files = query_module._event_files(Archive.open(run), ())
    assert [Path(file).stem for file in files] == ["vcpu2-00000", "vcpu2-00001", "vcpu2-100000", "vcpu10-00000", "ctl-00000"]


def test_a_kind_of_a_later_version_is_shown(tmp_path: Path) -> None:
    """Rather than passed over: here the user asks."""
    run = rf.write_run(tmp_path / "run", {"vcpu0": [rf.event(1, max(Kind) + 1)]}).path
    with Query(Archive.open(run)) as query:
        assert found(query, "select kind from events") == [(f"unknown_{max(Kind) + 1}",)]


def test_duckdb_waits_for_its_turn() -> None:
    """Importing the module costs no DuckDB and no Arrow; other commands import it too."""
    script = "import sys, json, stress.log.query, stress.cli; print(json.dumps([n in sys.modules for n in ('duckdb', 'pyarrow')]))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [False, False]
