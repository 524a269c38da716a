# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/log/events.py."""

from __future__ import annotations

import errno
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stress.log.events import ROW_GROUP_ROWS, TICKS_PER_S_MAX, ActorFile, Clock
from stress.log.schema import (
    COLUMNS,
    METADATA_KEY,
    RECORD_WORDS,
    SCHEMA_VERSION,
    WORD_GFN,
    WORD_KIND,
    WORD_TIME,
    arrow_schema,
)

from . import shared_rings as sr

WEEKS_12_S = 12 * 7 * 24 * 3600
# Any int64 in the nullable words, -1 included; the ticks' limit keeps the difference to t0 within an int64.
WORDS = arrays(np.int64, st.tuples(st.integers(0, 50), st.just(RECORD_WORDS)), elements=st.integers(-(2**63), 2**63 - 1))


@given(records=WORDS, first_seq=st.integers(0, 2**40), cut=st.integers(0, 50))
def test_random_records_come_back(records, first_seq, cut):
    """What was appended is read back word for word, from one file or from two."""
    records[:, WORD_KIND] &= 0x7FFF
    with tempfile.TemporaryDirectory() as folder:
        file = ActorFile(Path(folder), "vcpu0", sr.NS_CLOCK)
        file.append(records[:cut], first_seq)
        file.close()
        file.append(records[cut:], first_seq + min(cut, len(records)))
        file.close()
        rows = sr.read_rows(Path(folder), "vcpu0")
    assert rows["seq"].tolist() == list(range(first_seq, first_seq + len(records)))
    assert np.array_equal(rows["time_ns"], records[:, WORD_TIME])
    assert np.array_equal(rows["kind"], records[:, WORD_KIND])
    for word, name in enumerate(tuple(COLUMNS)[3:], WORD_GFN):
        assert np.array_equal(rows[name], records[:, word])


@given(
    ticks_per_s=st.integers(1, TICKS_PER_S_MAX),
    t0_ticks=st.integers(0, 2**55),
    elapsed=st.lists(st.floats(0, WEEKS_12_S), min_size=1, max_size=20),
)
def test_clock_is_exact_for_weeks(ticks_per_s, t0_ticks, elapsed):
    """Conversion equals unbounded integer arithmetic, rounded down, at any rate; so it never reverses an order."""
    limit = 2**62 // ticks_per_s
    ticks = [t0_ticks + int(min(seconds, limit) * ticks_per_s) for seconds in elapsed]
    expected = [(tick - t0_ticks) * 10**9 // ticks_per_s for tick in ticks]
    assert Clock("tsc", ticks_per_s, t0_ticks).to_ns(np.array(ticks)).tolist() == expected


def test_clock_rounds_down_before_the_start_too():
    """An event read just before the start of the run gets a negative time, not a wrapped one."""
    assert Clock("tsc", 3_000_000_000, 100).to_ns(np.array([99, 100, 103])).tolist() == [-1, 0, 1]


def test_files_rotate_by_rows():
    """A file is closed with exactly its limit of rows; the rest follows in the next, numbered on."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = ActorFile(folder, "vcpu0", sr.NS_CLOCK, file_rows_max=2 * ROW_GROUP_ROWS)
        n = 3 * ROW_GROUP_ROWS + 5
        for first in range(0, n, 50_000):
            file.append(sr.numbered_records(first, min(50_000, n - first)), first)
        assert (file.rows_closed, file.rows_open) == (2 * ROW_GROUP_ROWS, ROW_GROUP_ROWS + 5)
        file.close()
        rows = [pq.read_metadata(path).num_rows for path in sorted(folder.iterdir())]
        assert [path.name for path in sorted(folder.iterdir())] == ["vcpu0-00000.parquet", "vcpu0-00001.parquet"]
        assert rows == [2 * ROW_GROUP_ROWS, ROW_GROUP_ROWS + 5]
        sr.assert_numbered(sr.read_rows(folder, "vcpu0"), 0, n)


def test_a_file_tells_its_version_actor_and_clock(tmp_path):
    """The metadata of a single file is enough to place it in its log."""
    file = ActorFile(tmp_path, "ctl", Clock("tsc", 7, 3))
    file.append(sr.numbered_records(40, 2), 40)
    file.close()
    schema = pq.read_schema(tmp_path / "ctl-00000.parquet")
    assert schema.equals(arrow_schema())
    assert json.loads(schema.metadata[METADATA_KEY]) == {
        "schema_version": SCHEMA_VERSION,
        "actor": "ctl",
        "first_seq": 40,
        "clock": {"kind": "tsc", "ticks_per_s": 7, "t0_ticks": 3},
    }


def test_an_open_file_has_no_final_name(tmp_path):
    """Until it is closed a file is a `.part`, so that every final name can be read."""
    file = ActorFile(tmp_path, "vcpu0", sr.NS_CLOCK)
    file.append(sr.numbered_records(0, ROW_GROUP_ROWS), 0)
    assert [path.name for path in tmp_path.iterdir()] == ["vcpu0-00000.parquet.part"]
    file.close()
    assert [path.name for path in tmp_path.iterdir()] == ["vcpu0-00000.parquet"]


def test_no_events_no_file(tmp_path):
    ActorFile(tmp_path, "vcpu0", sr.NS_CLOCK).close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["open", "write", "close"])
def test_a_failed_write_drops_the_open_file_only(tmp_path, monkeypatch, where):
    """A full disk takes the open file and its rows, never a closed one, and the writer says which rows are safe."""
    file = ActorFile(tmp_path, "vcpu0", sr.NS_CLOCK)
    file.append(sr.numbered_records(0, 10), 0)
    file.close()

    def refuse(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "open":
        monkeypatch.setattr(ActorFile, "_open", refuse)
    else:
        monkeypatch.setattr(pq.ParquetWriter, {"write": "write_batch", "close": "close"}[where], refuse)
    file.append(sr.numbered_records(10, 10), 10)
    with pytest.raises(OSError, match="No space"):
        file.close()
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["vcpu0-00000.parquet"]
    assert (file.rows_closed, file.rows_open) == (10, 0)
    sr.assert_numbered(sr.read_rows(tmp_path, "vcpu0"), 0, 10)
