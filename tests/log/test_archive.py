# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/log/archive.py on logs that are whole, of each policy, and of runs that go on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stress.errors import UsageError
from stress.log.archive import EVENT_COLUMNS, PROBLEMS, Archive
from stress.log.schema import COLUMNS, METADATA_KEY, NULL, Kind, arrow_schema

from . import run_folder as rf


def rows_of(archive, actor, **options):
    """An actor's events as (seq, row of values) in the order of the batches."""
    rows = []
    for batch in archive.batches(actor, **options):
        values = zip(*(column.tolist() for column in batch.columns.values()), strict=True)
        rows += [(batch.first_seq + i, row) for i, row in enumerate(values)]
    return rows


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def codes(archive):
    return {problem.code for problem in archive.problems}


RECORDS = st.lists(
    st.tuples(st.integers(0, 50), st.sampled_from(Kind), *[st.integers(-1, 2**63 - 1)] * 6),
    max_size=40,
)


@given(vcpu0=RECORDS, ctl=RECORDS, row_group_rows=st.integers(1, 12), groups=st.integers(1, 3))
def test_a_whole_log_comes_back(tmp_path_factory, vcpu0, ctl, row_group_rows, groups):
    """However the events are cut into files and row groups: every one is there once, in order, with file and row, no problem."""
    records = {"vcpu0": sorted(vcpu0), "ctl": sorted(ctl)}
    path = tmp_path_factory.mktemp("archive") / "run"
    rf.write_run(path, records, row_group_rows=row_group_rows, file_rows=groups * row_group_rows)
    archive = Archive.open(path)
    assert (archive.actors, archive.policy, archive.schema_version) == (("vcpu0", "ctl"), "all", 2)
    for actor, name in enumerate(archive.actors):
        assert rows_of(archive, actor) == [(seq, tuple(map(int, record))) for seq, record in enumerate(records[name])]
        assert archive.rows[name] == archive.recorded[name] == len(records[name])
        if records[name]:
            assert (archive.first_ns[name], archive.last_ns[name]) == (records[name][0][0], records[name][-1][0])
        for batch in archive.batches(actor):
            file = pq.read_table(path / batch.file, use_threads=False)
            assert file["seq"][batch.row].as_py() == batch.first_seq
    merged = [
        (time_ns, actor, seq)
        for part in archive.merged(("time_ns",))
        for time_ns, actor, seq in zip(part.columns["time_ns"].tolist(), part.actor.tolist(), part.seq.tolist(), strict=True)
    ]
    assert merged == sorted((r[0], actor, seq) for actor, name in enumerate(archive.actors) for seq, r in enumerate(records[name]))
    assert archive.complete
    assert archive.problems == []


def test_columns_are_bare_memory(tmp_path):
    """Columns are the decoder's memory, not copies; they cannot be written and outlive batch, reader and archive."""
    path = rf.write_run(tmp_path / "run", {"vcpu0": rf.numbered(100)}).path
    archive = Archive.open(path)
    (batch,) = archive.batches(0)
    assert {name: column.dtype.name for name, column in batch.columns.items()} == {
        name: "int16" if name == "kind" else "int64" for name in EVENT_COLUMNS
    }
    assert all(column.flags.c_contiguous and not column.flags.writeable for column in batch.columns.values())
    column = batch.columns["arg0"]
    assert column.base is not None
    del batch, archive
    pa.array(np.zeros(10_000))  # something that would take the memory's place
    assert column.tolist() == list(range(100))


def test_only_the_columns_asked_for_are_read(tmp_path):
    """Columns come in the order asked for; one that does not exist, or none, is a mistake of the caller."""
    archive = Archive.open(rf.write_run(tmp_path / "run", {"vcpu0": rf.numbered(3)}).path)
    (batch,) = archive.batches(0, ("arg0", "kind"))
    assert {name: column.tolist() for name, column in batch.columns.items()} == {"arg0": [0, 1, 2], "kind": [4, 4, 4]}
    assert [part.columns["arg0"].tolist() for part in archive.merged(("arg0",))] == [[0, 1, 2]]
    assert [list(part.columns) for part in archive.merged(("arg0",))] == [["arg0"]]
    for columns in ((), ("seq",), ("gfn", "gnf")):
        with pytest.raises(ValueError, match="expected one or more of time_ns"):
            archive.batches(0, columns)


def test_reading_begins_where_it_is_asked_to(tmp_path):
    """from_seq is exact; since_ns passes over whole row groups, and never over an event that is late enough."""
    path = rf.write_run(tmp_path / "run", {"vcpu0": rf.numbered(100, 0, 10)}, row_group_rows=7, file_rows=21).path
    archive = Archive.open(path)
    for seq in (0, 1, 6, 7, 20, 21, 50, 98, 99, 100, 10**12):
        assert [found for found, _ in rows_of(archive, 0, columns=("kind",), from_seq=seq)] == list(range(seq, 100))
    for since_ns in (-5, 0, 1, 69, 70, 200, 201, 777, 990, 991):
        seqs = [found for found, _ in rows_of(archive, 0, columns=("kind",), since_ns=since_ns)]
        first = max(0, -(-since_ns // 10))
        assert seqs == list(range(min(100, first // 7 * 7 if first < 100 else 100), 100))
    assert archive.problems == []


def test_merging_can_leave_actors_out(tmp_path):
    """Indices stay those of the archive; since_ns holds for each actor."""
    records = {"vcpu0": rf.numbered(4), "vcpu1": rf.numbered(4), "ctl": rf.numbered(4, 1000)}
    archive = Archive.open(rf.write_run(tmp_path / "run", records).path)
    assert {int(actor) for part in archive.merged(("kind",), [2, 0]) for actor in part.actor} == {0, 2}
    assert {int(actor) for part in archive.merged(("kind",), since_ns=500) for actor in part.actor} == {2}


def test_a_log_without_events_is_complete(tmp_path):
    """Actors that recorded nothing have no file and lack none."""
    archive = Archive.open(rf.write_run(tmp_path / "run", {"vcpu0": [], "ctl": []}).path)
    assert archive.complete
    assert (archive.problems, archive.first_ns, archive.rows) == ([], {}, {"vcpu0": 0, "ctl": 0})
    assert list(archive.batches(0)) == list(archive.merged()) == []


def test_what_the_folder_tells(tmp_path):
    """Manifest, config and control log come as they are."""
    control = [(5, "heartbeat", {"load": 1.5}), (9, "warmup_done", {})]
    clock = {"kind": "tsc", "ticks_per_s": 1, "t0_ticks": 0, "skew_ns": 16}
    archive = Archive.open(rf.write_run(tmp_path / "run", {"vcpu0": []}, control=control, manifest={"clock": clock}).path)
    assert (archive.skew_ns, archive.manifest["scenario"], archive.config["log"]["policy"]) == (16, "test", "all")
    events = list(archive.control_events())
    assert [(event["t_ns"], event["event"]) for event in events[1:3]] == [(5, "heartbeat"), (9, "warmup_done")]
    assert [event["event"] for event in events] == ["run_start", "heartbeat", "warmup_done", "actor_log", "log_closed", "verdict"]


@pytest.mark.parametrize(("kept", "complete"), [(100, True), (60, False)])
def test_a_window_is_complete_if_nothing_was_overwritten(tmp_path, kept, complete):
    """Under `window` the first events may be missing: no gap, but the log says that it is a window."""
    path = tmp_path / "run"
    rf.write_run(path, {"vcpu0": rf.numbered(kept)}, policy="window", first_seq={"vcpu0": 100 - kept})
    archive = Archive.open(path)
    assert [seq for seq, _ in rows_of(archive, 0)] == list(range(100 - kept, 100))
    assert (archive.complete, archive.recorded, archive.rows) == (complete, {"vcpu0": 100}, {"vcpu0": kept})
    assert codes(archive) == (set() if complete else {"policy-window"})


def test_a_sampled_log_is_never_complete(tmp_path):
    """Even if every recorded event is there."""
    archive = Archive.open(rf.write_run(tmp_path / "run", {"vcpu0": rf.numbered(9)}, policy="sampled").path)
    assert not archive.complete
    assert codes(archive) == {"policy-sampled"}


def test_format_version_1_is_read(tmp_path):
    """Its nulls become -1; that it lacks what version 2 has is said once, for the log."""
    folder = rf.write_run(tmp_path / "run", {"vcpu0": [], "ctl": []}, manifest={"schema_version": 1}, complete=False)
    for actor in ("vcpu0", "ctl"):
        about = b'{"schema_version": 1, "actor": "%s", "first_seq": 0}' % actor.encode()
        nullable = [field.with_nullable(field.name not in ("seq", "time_ns", "kind")) for field in arrow_schema()]
        schema = pa.schema(nullable).with_metadata({METADATA_KEY: about})
        columns = [[0, 1], [5, 6], [4, 4], *[[None, 7]] * 5, [8, 9]]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
        name = folder.events / f"{actor}-00000.parquet"
        pq.write_table(pa.table(arrays, schema=schema), name, write_statistics=["seq", "time_ns"], write_page_checksum=True)
    archive = Archive.open(folder.path)
    assert archive.schema_version == 1
    for actor in (0, 1):
        assert rows_of(archive, actor) == [(0, (5, 4, *[NULL] * 5, 8)), (1, (6, 4, *[7] * 5, 9))]
    assert [problem.where for problem in archive.problems if problem.code == "schema-version"] == ["events/ctl-00000.parquet"]


def test_a_live_run_is_followed(tmp_path):
    """reload() sees new files and lines, and what was missing only because the run went on is no problem any more."""
    whole = rf.write_run(tmp_path / "whole", {"vcpu0": rf.numbered(60), "ctl": rf.numbered(20)}, row_group_rows=10, file_rows=20)
    lines = whole.control.read_bytes().splitlines(keepends=True)
    path = tmp_path / "live"
    (path / "events").mkdir(parents=True)
    archive = Archive.open(path)
    assert {"manifest-damaged", "config-missing", "control-damaged", "not-closed"} == codes(archive)
    assert not archive.reload()

    shutil.copy(whole.config, path)
    shutil.copy(whole.manifest, path)
    (path / "control.jsonl").write_bytes(lines[0] + lines[1][:10])
    part = path / "events" / "vcpu0-00000.parquet.part"
    part.write_bytes(b"PAR1")
    assert archive.reload()
    assert not archive.reload()
    assert archive.actors == ("vcpu0", "ctl")
    assert codes(archive) == {"actor-missing", "control-damaged", "not-closed", "torn-file"}
    assert [event["event"] for event in archive.control_events()] == ["run_start"]

    (path / "control.jsonl").write_bytes(b"".join(lines[:1]))
    part.unlink()
    for name in ("vcpu0-00000.parquet", "ctl-00000.parquet"):
        shutil.copy(whole.events / name, path / "events")
    assert archive.reload()
    assert (archive.rows, codes(archive), archive.closed) == ({"vcpu0": 20, "ctl": 20}, {"not-closed"}, False)
    assert [seq for seq, _ in rows_of(archive, 0, from_seq=5)] == list(range(5, 20))

    for file in whole.events.iterdir():
        shutil.copy(file, path / "events")
    assert archive.reload()
    assert [seq for seq, _ in rows_of(archive, 0, from_seq=20)] == list(range(20, 60))
    (path / "control.jsonl").write_bytes(b"".join(lines))
    assert archive.reload()
    assert not archive.reload()
    assert archive.problems == []
    assert archive.complete
    assert archive.closed


def test_files_are_read_while_new_ones_come(tmp_path):
    """A reading that is under way ends with the files that it began with."""
    whole = rf.write_run(tmp_path / "whole", {"vcpu0": rf.numbered(40)}, row_group_rows=10, file_rows=10)
    path = tmp_path / "live"
    shutil.copytree(whole.path, path)
    (path / "events" / "vcpu0-00003.parquet").unlink()
    archive = Archive.open(path)
    batches = archive.batches(0)
    first = next(batches)
    shutil.copy(whole.events / "vcpu0-00003.parquet", path / "events")
    assert archive.reload()
    assert [batch.first_seq for batch in (first, *batches)] == [0, 10, 20]
    assert [batch.first_seq for batch in archive.batches(0)] == [0, 10, 20, 30]


def test_files_are_closed(tmp_path):
    """No descriptor stays open behind a reading that ended or was given up, however many files there are."""
    path = rf.write_run(tmp_path / "run", {"vcpu0": rf.numbered(60)}, row_group_rows=2, file_rows=2).path
    archive = Archive.open(path)
    before = open_files()
    assert sum(len(batch.columns["kind"]) for batch in archive.batches(0)) == 60
    given_up = archive.batches(0)
    next(given_up)
    assert open_files() == before + 1
    given_up.close()
    assert open_files() == before


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.write_text("x"), "Not a directory"),
        (lambda path: path.mkdir(), "not a run: no manifest.json, control.jsonl or events in it. Name the folder of a run."),
        (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
        (os.mkfifo, "Not a directory"),
        (lambda path: rf.write_run(path / "2026-a", {"vcpu0": []}), "It holds runs, such as "),
    ],
)
def test_a_path_that_is_no_run_is_refused(tmp_path, make, what):
    """One line with the path, what was found and what to do."""
    path = tmp_path / "run"
    make(path)
    with pytest.raises(UsageError) as raised:
        Archive.open(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert what in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_part_of_a_run_leads_to_the_run(tmp_path):
    """Who names events/ means the run."""
    folder = rf.write_run(tmp_path / "run", {"vcpu0": rf.numbered(1)})
    with pytest.raises(UsageError, match=f"not a run: .* Did you mean {folder.path}"):
        Archive.open(folder.events)


def test_names_that_no_file_can_have_are_refused(tmp_path):
    """A path with a zero byte, or one that is too long, is no traceback."""
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(UsageError, match="Name the folder of a run"):
            Archive.open(tmp_path / name)


def test_opening_starts_no_thread(tmp_path):
    """Opening needs footers only, which are read without pyarrow: a caller may still fork."""
    path = rf.write_run(tmp_path / "run", {"vcpu0": rf.numbered(1)}).path
    script = f"import sys, pathlib; from stress.log.archive import Archive; Archive.open(pathlib.Path({str(path)!r})); "
    subprocess.run([sys.executable, "-c", script + "sys.exit('pyarrow' in sys.modules)"], check=True)


def test_memory_is_bounded_by_row_groups(tmp_path):
    """Reading sixty row groups takes hardly more memory than reading three."""
    pool = pa.default_memory_pool()

    def peak(groups):
        path = tmp_path / f"run{groups}"
        rf.write_run(path, {"vcpu0": rf.numbered(groups * 5000), "ctl": rf.numbered(groups * 5000)}, row_group_rows=5000)
        archive = Archive.open(path)
        most = 0
        for part in archive.merged():
            assert len(part.seq) > 0
            most = max(most, pool.bytes_allocated())
        return most

    assert peak(60) < 1.5 * peak(3)


def test_every_column_has_its_place():
    """What the API calls a column is what the format calls it."""
    assert ("seq", *EVENT_COLUMNS) == tuple(COLUMNS)
    assert all(code == code.lower() and meaning for code, meaning in PROBLEMS.items())
