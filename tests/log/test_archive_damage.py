# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/log/archive.py on logs that are damaged: every problem is told once, nothing is misread, nothing raises."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest

from stress.log import events as log_events
from stress.log.archive import ACTORS_MAX, PROBLEMS, Archive
from stress.log.problems import LISTED_MAX
from stress.log.schema import Kind

from . import run_folder as rf

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "log.md"
VCPU0 = "events/vcpu0-00000.parquet"
SECOND = "events/vcpu0-00001.parquet"


def write(path, *, records=None, **options):
    """A run of two actors, two row groups a file, five files for vcpu0."""
    defaults = {"row_group_rows": 10, "file_rows": 20}
    return rf.write_run(path, records or {"vcpu0": rf.numbered(100), "ctl": rf.numbered(30, 3)}, **{**defaults, **options})


def read_all(path):
    """Everything that a reader can ask for: the archive, and each actor's events by seq."""
    archive = Archive.open(path)
    events = {}
    for actor, name in enumerate(archive.actors):
        found = {}
        for batch in archive.batches(actor):
            for row, values in enumerate(zip(*(column.tolist() for column in batch.columns.values()), strict=True)):
                assert batch.first_seq + row not in found
                found[batch.first_seq + row] = values
        assert list(found) == sorted(found)
        events[name] = found
    last_ns = -(2**63)
    for part in archive.merged(("time_ns", "kind")):
        times = part.columns["time_ns"]
        assert times[0] >= last_ns
        assert (np.diff(times) >= 0).all()
        last_ns = times[-1]
    assert all(isinstance(event["event"], str) for event in archive.control_events())
    assert len(set(archive.problems)) == len(archive.problems)
    assert all(problem.code in PROBLEMS and str(problem).isprintable() for problem in archive.problems)
    return archive, events


def codes(archive):
    return {problem.code for problem in archive.problems}


def change_manifest(folder, **keys):
    folder.manifest.write_text(json.dumps({**json.loads(folder.manifest.read_text()), **keys}))


def other_version(path):
    with mock.patch.object(log_events, "SCHEMA_VERSION", 3):
        write(path)


def flip_page(path):
    """Change a byte of the last page of the first row group of vcpu0's second file."""
    file = write(path).path / SECOND
    data = bytearray(file.read_bytes())
    data[pq.read_metadata(file).row_group(1).column(0).data_page_offset - 1] ^= 1
    file.write_bytes(data)


def swap_actors(path):
    folder = write(path)
    shutil.copy(folder.path / VCPU0, folder.events / "ctl-00009.parquet")


def without_ctl(path):
    for file in write(path).events.glob("ctl-*"):
        file.unlink()


def unreadable_line(path):
    control = write(path).control
    first, rest = control.read_bytes().split(b"\n", 1)
    control.write_bytes(first + b"\n" + b"\x00\xff" * 100 + b"\n" + rest)


# For every problem one way to get it and no other.
DAMAGE = {
    "policy-window": lambda path: write(path, policy="window", first_seq={"vcpu0": 7}),
    "policy-sampled": lambda path: write(path, policy="sampled"),
    "not-closed": lambda path: write(path, complete=False),
    "lost-events": lambda path: write(path, lost={"vcpu0": range(95, 100)}),
    "actor-missing": without_ctl,
    "file-damaged": flip_page,
    "gap": lambda path: (write(path).path / SECOND).unlink(),
    "torn-file": lambda path: (write(path).events / "vcpu0-00005.parquet.part").write_bytes(b"PAR1"),
    "duplicate-events": lambda path: shutil.copy(write(path).path / SECOND, path / "events/vcpu0-00009.parquet"),
    "foreign-file": swap_actors,
    "schema-version": other_version,
    "unknown-kind": lambda path: write(path, records={"vcpu0": [rf.event(1, 77)], "ctl": rf.numbered(3)}),
    "clock-backwards": lambda path: write(path, records={"vcpu0": [rf.event(9), rf.event(8)], "ctl": []}),
    "control-damaged": unreadable_line,
    "manifest-damaged": lambda path: write(path).manifest.write_text("[]"),
    "config-missing": lambda path: write(path).config.unlink(),
}
# Problems after which every event is there.
WHOLE = {"torn-file", "duplicate-events", "foreign-file", "unknown-kind", "clock-backwards", "config-missing", "control-damaged"}


def test_an_intact_log_has_no_problem(tmp_path):
    """Nothing is claimed where nothing is wrong."""
    write(tmp_path / "run")
    archive, events = read_all(tmp_path / "run")
    assert (archive.problems, archive.complete) == ([], True)
    assert {name: len(found) for name, found in events.items()} == {"vcpu0": 100, "ctl": 30}


def test_the_reference_names_every_problem():
    """docs/reference/log.md lists the codes with their meanings, and no others."""
    listed = re.findall(r"^- `([a-z-]+)`: (.*)$", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)
    assert dict(listed) == PROBLEMS


@pytest.mark.parametrize("code", PROBLEMS)
def test_every_problem_is_told(tmp_path, code):
    """Each code has a way to get it, and it is told once; nothing else is told. A log that lost events is not complete."""
    DAMAGE[code](tmp_path / "run")
    archive, _ = read_all(tmp_path / "run")
    assert [problem.code for problem in archive.problems] == [code]
    assert archive.complete == (code in WHOLE)


def test_a_damaged_page_costs_its_row_group_only(tmp_path):
    """The other row groups are read; the rows that are gone are named; the jump of the seq is no further problem."""
    flip_page(tmp_path / "run")
    archive, events = read_all(tmp_path / "run")
    assert list(events["vcpu0"]) == [*range(20), *range(30, 100)]
    (problem,) = archive.problems
    assert str(problem).startswith(f"{SECOND}: rows 0 to 9: ")


def test_a_damaged_footer_costs_its_file_only(tmp_path):
    """The gap that it leaves is explained by it; the number of rows and `complete` tell of the loss."""
    file = write(tmp_path / "run").path / SECOND
    file.write_bytes(file.read_bytes()[:-1])
    archive, events = read_all(tmp_path / "run")
    assert list(events["vcpu0"]) == [*range(20), *range(40, 100)]
    assert [str(problem) for problem in archive.problems] == [f"{SECOND}: cut off, or no Parquet file"]
    assert archive.rows["vcpu0"] == 80


@pytest.mark.parametrize(
    ("lost", "where"),
    [
        (range(5), "events 0 to 4 are not there, before events/vcpu0-00000.parquet"),
        (range(20, 40), "events 20 to 39 are not there, before events/vcpu0-00001.parquet"),
        ([44], "1 of the events 40 to 60 are not there, in events/vcpu0-00002.parquet"),
        ([44, 50, 51], "3 of the events 40 to 62 are not there, in events/vcpu0-00002.parquet"),
    ],
)
def test_a_jump_of_the_seq_ends_a_batch(tmp_path, lost, where):
    """Every batch is contiguous, so that its first seq and its length say which events it has."""
    write(tmp_path / "run", lost={"vcpu0": lost})
    archive, events = read_all(tmp_path / "run")
    assert list(events["vcpu0"]) == [seq for seq in range(100) if seq not in lost]
    for batch in archive.batches(0, ("arg0",)):
        assert batch.columns["arg0"].tolist() == list(range(batch.first_seq, batch.first_seq + len(batch.columns["arg0"])))
    for seq in (0, 4, 5, 43, 44, 45, 60, 99):
        assert next(archive.batches(0, ("arg0",), from_seq=seq)).first_seq == min(n for n in events["vcpu0"] if n >= seq)
    assert codes(archive) == {"gap", "lost-events"}
    assert f"vcpu0: {where}" in map(str, archive.problems)


def test_missing_files_at_the_end_are_told(tmp_path):
    """No seq jumps there; the control log's count tells."""
    (write(tmp_path / "run").events / "vcpu0-00004.parquet").unlink()
    archive, _ = read_all(tmp_path / "run")
    assert [str(problem) for problem in archive.problems] == ["vcpu0: 20 of the 100 events that were written are not there"]
    assert not archive.complete


def test_events_of_two_files_that_overlap_are_given_once(tmp_path):
    """The file that begins earlier counts; of the other the rest is read."""
    folder = write(tmp_path / "run", row_group_rows=7, file_rows=7)
    again = rf.write_run(tmp_path / "again", {"vcpu0": rf.numbered(40)[15:]}, first_seq={"vcpu0": 15}, row_group_rows=25)
    shutil.copy(again.path / VCPU0, folder.events / "vcpu0-00077.parquet")
    archive, events = read_all(folder.path)
    assert {seq: row[-2] for seq, row in events["vcpu0"].items()} == {seq: seq for seq in range(100)}
    assert codes(archive) == {"duplicate-events"}
    assert archive.rows["vcpu0"] == 100


def test_two_actors_of_one_name_are_refused(tmp_path):
    """A manifest that names an actor twice is no manifest; the files tell the actors then, vCPUs first."""
    records = {"ctl": rf.numbered(3), "rcu": rf.numbered(3), "vcpu10": rf.numbered(3), "vcpu2": rf.numbered(3)}
    folder = write(tmp_path / "run", records=records)
    change_manifest(folder, actors=["ctl", "ctl"])
    archive, events = read_all(folder.path)
    assert archive.actors == ("vcpu2", "vcpu10", "ctl", "rcu")
    assert all(len(found) == 3 for found in events.values())
    assert codes(archive) == {"manifest-damaged"}
    assert not archive.complete


@pytest.mark.parametrize(
    "keys",
    [
        {"actors": None},
        {"actors": ["vcpu0", 7]},
        {"actors": [""]},
        {"actors": [f"vcpu{n}" for n in range(ACTORS_MAX + 1)]},
        {"clock": []},
        {"clock": {"skew_ns": -1}},
        {"clock": {"skew_ns": 10**30}},
        {"clock": {"skew_ns": "16"}},
        {"schema_version": 0},
        {"schema_version": "2"},
        {"schema_version": True},
    ],
)
def test_a_manifest_of_wrong_types_is_damaged(tmp_path, keys):
    """A part of it that is relied on and cannot be makes it worthless; the events are read all the same."""
    folder = write(tmp_path / "run")
    change_manifest(folder, **keys)
    archive, events = read_all(folder.path)
    assert (archive.manifest, archive.skew_ns, archive.actors) == ({}, 0, ("vcpu0", "ctl"))
    assert len(events["vcpu0"]) == 100
    (problem,) = archive.problems
    assert str(problem).startswith(f"manifest.json: {next(iter(keys))}")


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 50_000, "null", "7", '"\xff"', "{}", '{"actors": ' + "9" * 5000 + "}", " " * (1 << 23)]
)
def test_a_manifest_or_config_of_garbage_is_damaged(tmp_path, text):
    """Whatever stands in them."""
    folder = write(tmp_path / "run")
    folder.manifest.write_text(text, encoding="latin-1")
    folder.config.write_text(text or "=", encoding="latin-1")
    archive, events = read_all(folder.path)
    assert codes(archive) == {"manifest-damaged", "config-missing"}
    assert len(events["vcpu0"]) == 100


def test_a_clock_that_goes_backwards_is_held(tmp_path):
    """Times are the latest so far, within a batch, between row groups and between files; seq orders the events; told once."""
    times = [5, 9, 7, 8, 3, 10, 10, 6, 2, 12]
    path = write(tmp_path / "run", records={"vcpu0": [rf.event(time) for time in times]}, row_group_rows=2, file_rows=4).path
    archive, events = read_all(path)
    highest = [5, 9, 9, 9, 9, 10, 10, 10, 10, 12]
    assert [row[0] for row in events["vcpu0"].values()] == highest
    assert [problem.where for problem in archive.problems] == ["vcpu0"]
    for seq in range(len(times)):
        found = [time for batch in archive.batches(0, ("time_ns",), from_seq=seq) for time in batch.columns["time_ns"].tolist()]
        assert found == highest[seq:]
    for since_ns in range(14):
        found = [
            time for batch in archive.batches(0, ("time_ns",), since_ns=since_ns) for time in batch.columns["time_ns"].tolist()
        ]
        assert [time for time in found if time >= since_ns] == [time for time in highest if time >= since_ns]
    assert not next(archive.batches(0, ("time_ns",))).columns["time_ns"].flags.writeable


def test_unknown_kinds_are_given_out_and_told(tmp_path):
    """Each number once; a reader decides what to do with them."""
    records = {"vcpu0": [rf.event(time, kind) for time, kind in enumerate([4, 77, -3, 77, int(max(Kind)), 0])]}
    archive, events = read_all(write(tmp_path / "run", records=records).path)
    assert [row[1] for row in events["vcpu0"].values()] == [4, 77, -3, 77, int(max(Kind)), 0]
    assert sorted(problem.what.split(";")[0] for problem in archive.problems) == [
        "events of kind -3",
        "events of kind 0",
        "events of kind 77",
    ]


def test_a_newer_format_is_not_guessed_at(tmp_path):
    """What a newer version's columns mean is unknown: no event is given out, and the line says what to do."""
    other_version(tmp_path / "run")
    archive, events = read_all(tmp_path / "run")
    assert events == {"vcpu0": {}, "ctl": {}}
    assert archive.schema_version == 3
    (problem,) = archive.problems
    assert problem.what == "format version 3: this program reads 1 to 2; use one that is as new as the log"


def test_counts_that_contradict_the_files_are_told(tmp_path):
    """The control log may count other actors, or fewer events than there are."""
    folder = write(tmp_path / "run")
    text = folder.control.read_text()
    folder.control.write_text(text.replace('"recorded":100', '"recorded":9').replace('"actor":"ctl"', '"actor":"clt"'))
    archive, _ = read_all(folder.path)
    assert {problem.what for problem in archive.problems} == {
        "it counts 9 events of vcpu0, its files hold 100",
        "it counts events of clt, which is no actor of this run",
        "no actor_log line of ctl",
    }
    assert codes(archive) == {"control-damaged"}


def directory(path):
    path.mkdir()


def loop(path):
    path.symlink_to(path.name)


def endless(path):
    path.symlink_to("/dev/zero")


def forbidden(path):
    path.touch()  # the tests may run as root, who may read everything


@pytest.mark.parametrize("make", [directory, loop, endless, forbidden, os.mkfifo, lambda path: path.touch()])
@pytest.mark.parametrize("name", ["manifest.json", "config.toml", "control.jsonl", VCPU0])
def test_something_else_in_place_of_a_file(tmp_path, monkeypatch, name, make):
    """A folder, pipe, device or link to itself is told under the file's name, and nothing waits for it."""
    path = write(tmp_path / "run").path / name
    path.unlink()
    make(path)
    if make is forbidden:
        opened = os.open

        def refuse(file, *args, **kwargs):
            if str(file) == str(path):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return opened(file, *args, **kwargs)

        monkeypatch.setattr(os, "open", refuse)
    archive, _ = read_all(tmp_path / "run")
    assert name in {problem.where for problem in archive.problems}
    assert not archive.complete or name == "config.toml"


@pytest.mark.parametrize("make", [directory, loop, os.mkfifo, lambda path: path.touch(), lambda path: None])
def test_something_else_in_place_of_the_events(tmp_path, make):
    """Without its folder of events a run is still a run."""
    folder = write(tmp_path / "run")
    shutil.rmtree(folder.events)
    make(folder.events)
    archive, events = read_all(folder.path)
    assert events == {"vcpu0": {}, "ctl": {}}
    assert "actor-missing" in codes(archive)
    assert ("file-damaged" in codes(archive)) == (make is not directory)


def test_other_things_among_the_events_are_foreign(tmp_path):
    """Names are shown so that they cannot break a line, and nothing of them is read."""
    folder = write(tmp_path / "run")
    names = [
        "x.parquet",
        "vcpu0-0.parquet",
        "rcu-00000.parquet",
        "-00000.parquet",
        "vcpu0-00000.parquet.bak",
        "a\nb\x1b[2J",
        "\udcff",
    ]
    for name in names:
        os.close(os.open(os.fsencode(folder.events) + b"/" + os.fsencode(name), os.O_CREAT | os.O_WRONLY))
    (folder.events / "folder.parquet").mkdir()
    archive, events = read_all(folder.path)
    assert [problem.code for problem in archive.problems] == ["foreign-file"] * (len(names) + 1)
    assert len(events["vcpu0"]) == 100
    assert archive.complete


def test_damage_cannot_fill_the_memory(tmp_path):
    """Of each kind of problem a limited number is listed."""
    folder = write(tmp_path / "run")
    for number in range(200):
        (folder.events / f"x{number}").touch()
    folder.control.write_bytes(folder.control.read_bytes() + b"x\n" * 10_000)
    archive, _ = read_all(folder.path)
    assert len(archive.problems) == 2 * (LISTED_MAX + 1)
    assert archive.problems[-1].what == "and more of the same, which are not listed"


def test_a_file_that_changes_while_it_is_read_is_told(tmp_path):
    """Its footer was checked when the archive was opened; another one is not trusted."""
    folder = write(tmp_path / "run")
    archive = Archive.open(folder.path)
    shutil.copy(folder.events / "ctl-00000.parquet", folder.path / SECOND)
    (folder.events / "vcpu0-00002.parquet").unlink()
    assert sum(len(batch.columns["kind"]) for batch in archive.batches(0)) == 60
    assert [str(problem) for problem in archive.problems] == [
        f"{SECOND}: it was changed while it was read",
        "events/vcpu0-00002.parquet: No such file or directory",
    ]


def test_every_cut_of_a_file_is_told(tmp_path):
    """A file of events that ends too early, at any byte of its tail or before, is one problem; the other files are read."""
    file = write(tmp_path / "run").path / SECOND
    data = file.read_bytes()
    for size in [*range(0, len(data), 37), *range(len(data) - 100, len(data))]:
        file.write_bytes(data[:size])
        archive, events = read_all(tmp_path / "run")
        assert [(problem.code, problem.where) for problem in archive.problems] == [("file-damaged", SECOND)]
        assert len(events["vcpu0"]) == 80


def test_every_cut_of_the_control_log_is_told(tmp_path):
    """Wherever it ends before its last line, that is a problem, and the lines before the cut are read."""
    folder = write(tmp_path / "run", records={"vcpu0": rf.numbered(3)})
    data = folder.control.read_bytes()
    for size in range(len(data)):
        folder.control.write_bytes(data[:size])
        archive, events = read_all(folder.path)
        assert len(list(archive.control_events())) == data[:size].count(b"\n")
        assert len(events["vcpu0"]) == 3
        ends_whole = size == 0 or data[size - 1 : size] == b"\n"
        assert ("control-damaged" in codes(archive)) == (not ends_whole or size == 0)
        assert ("not-closed" in codes(archive)) == (b"log_closed" not in data[:size][: data[:size].rfind(b"\n") + 1])


def mutated(random_, data):
    """One of the ways in which files get damaged."""
    data = bytearray(data)
    at = random_.randrange(len(data))
    size = random_.choice([1, 4, 64, 512])
    match random_.randrange(6):
        case 0:
            data[at] ^= 1 << random_.randrange(8)
        case 1:
            data[at] = random_.choice([0, 127, 128, 255, random_.randrange(256)])
        case 2:
            data[at : at + size] = bytes(len(data[at : at + size]))
        case 3:
            data[at : at + size] = random_.randbytes(len(data[at : at + size]))
        case 4:
            start = random_.randrange(len(data))
            data[at : at + size] = data[start : start + size]
        case 5:
            del data[at : at + size]
    return bytes(data)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", [VCPU0, "events/*.parquet", "control.jsonl", "manifest.json", "config.toml"])
def test_random_damage_is_told_and_never_misread(tmp_path, name, seed):
    """After any damage every event that is given out is the one that was written, and one that is missing has its problem."""
    folder = write(tmp_path / "run")
    _, whole = read_all(folder.path)
    files = [(path, path.read_bytes()) for path in sorted(folder.path.glob(name))]
    random_ = random.Random(f"{name}-{seed}")
    for _ in range(40):
        for path, data in files:
            changed = data
            for _ in range(random_.choice([1, 1, 2, 5])):
                changed = mutated(random_, changed or b"\0")
            path.write_bytes(changed)
        archive, events = read_all(folder.path)
        for actor, found in events.items():
            assert found.items() <= whole.get(actor, found).items()
            if len(found) < len(whole.get(actor, found)):
                assert archive.problems
                assert not archive.complete


def test_any_flipped_bit_of_a_file_is_told_or_harmless(tmp_path):
    """A bit that is flipped anywhere in a file of events is a problem, or changes nothing of what is read."""
    folder = write(tmp_path / "run", records={"vcpu0": rf.numbered(12)}, row_group_rows=6)
    _, whole = read_all(folder.path)
    path = folder.path / VCPU0
    data = path.read_bytes()
    told = 0
    for bit in range(0, 8 * len(data), 29):
        flipped = bytearray(data)
        flipped[bit >> 3] ^= 1 << (bit & 7)
        path.write_bytes(flipped)
        archive, events = read_all(folder.path)
        told += bool(archive.problems)
        assert archive.problems or events == whole
        assert events["vcpu0"].items() <= whole["vcpu0"].items()
    assert told > 100
