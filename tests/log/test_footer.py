# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/log/footer.py."""

from __future__ import annotations

import re

import pyarrow.parquet as pq
import pytest

from stress.log.footer import FOOTER_BYTES_MAX, DamageError, Group, footer_checksum, read_footer
from stress.log.schema import COLUMNS

from . import run_folder as rf


@pytest.fixture
def path(tmp_path):
    """A file of 250 events in three row groups."""
    folder = rf.write_run(tmp_path / "run", {"vcpu0": rf.numbered(250, 5)}, row_group_rows=100)
    return folder.events / "vcpu0-00000.parquet"


def test_a_footer_says_what_pyarrow_says(path):
    """Rows and ranges of every row group equal those of pyarrow's own metadata."""
    footer = read_footer(path)
    metadata = pq.read_metadata(path)
    assert (footer.actor, footer.version, footer.checksum) == ("vcpu0", 2, footer_checksum(path))
    assert len(footer.groups) == metadata.num_row_groups == 3
    for number, group in enumerate(footer.groups):
        theirs = metadata.row_group(number)
        seq, time = (theirs.column(list(COLUMNS).index(name)).statistics for name in ("seq", "time_ns"))
        assert group == Group(theirs.num_rows, seq.min, seq.max, time.min, time.max)


def test_negative_times_are_read(tmp_path):
    """An event may be older than the start of the run."""
    folder = rf.write_run(tmp_path / "run", {"vcpu0": [rf.event(-7), rf.event(3)]})
    assert read_footer(folder.events / "vcpu0-00000.parquet").groups == (Group(2, 0, 1, -7, 3),)


def replaced(old, new):
    def change(data):
        assert data.count(old) >= 1
        return data.replace(old, new)

    return change


def claims(footer_bytes):
    def change(data):
        return data[:-8] + footer_bytes.to_bytes(4, "little") + data[-4:]

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda _: b"", "0 bytes are too few"),
        (lambda data: data[:-1], "cut off, or no Parquet file"),
        (lambda _: b"PAR1" + b"x" * 100, "cut off"),
        (claims(0), "its footer is damaged"),
        (claims(10**5), "its footer would be 100000 bytes long"),
        (claims(2**32 - 1), "its footer would be 4294967295 bytes long"),
        (replaced(b"zaptorture", b"zaptortune"), "its metadata is not that of an event log"),
        (replaced(b'"schema_version": 2', b'"schema_version": 9'), "format version 9: this program reads 1 to 2"),
        (replaced(b'"schema_version": 2', b'"schema_version":"2'), "its metadata is not that of an event log"),
        (replaced(b'"first_seq": 0', b'"first_seq": 1'), "name different first events"),
        (replaced(b"incarnation", b"reincarnate"), "its columns are not those of format version 2"),
    ],
)
def test_damage_is_told(path, change, what):
    """Each check of the footer fires, with one line that says what was found."""
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DamageError, match=re.escape(what)):
        read_footer(path)


def test_an_absurd_footer_is_not_decoded(path):
    """The time that a footer takes is bounded, however large the file."""
    with path.open("r+b") as file:
        file.truncate(2 * FOOTER_BYTES_MAX)
        file.seek(0, 2)
        file.write((FOOTER_BYTES_MAX + 1).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(DamageError, match=f"its footer would be {FOOTER_BYTES_MAX + 1} bytes long"):
        read_footer(path)


def test_any_flipped_bit_is_told_or_harmless(path):
    """With any bit of the footer flipped it is refused, or says the same; nothing else is raised."""
    data = path.read_bytes()
    footer = read_footer(path)
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    refused = 0
    for bit in range(8 * start, 8 * len(data), 23):
        flipped = bytearray(data)
        flipped[bit >> 3] ^= 1 << (bit & 7)
        path.write_bytes(flipped)
        try:
            assert read_footer(path)[1:3] == footer[1:3]  # the actor is held against the name
        except DamageError:
            refused += 1
    assert refused > 0
