# SPDX-License-Identifier: GPL-2.0-only
"""The journal keeps what it was told, whatever happens to the machine or to the file."""

from __future__ import annotations

import os
import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stress.campaign.journal import Journal, JournalLock, read_journal
from stress.errors import HarnessError, UsageError


def journal_at(path, checkpoint=dict):
    return Journal(path, checkpoint)


def events(path):
    return [record["event"] for record, _ in read_journal(path)]


def test_what_is_appended_is_read(tmp_path):
    """Every record comes back in order, with its fields, its time and its place."""
    path = tmp_path / "journal.jsonl"
    journal = journal_at(path)
    for number in range(5):
        journal.append("start", index=number, text='quotes " and \n line ends ü')
    journal.close()
    found = list(read_journal(path))
    assert [record["index"] for record, _ in found] == list(range(5))
    assert found[0][0]["text"] == 'quotes " and \n line ends ü'
    assert [offset for _, offset in found][-1] == path.stat().st_size
    assert [record["index"] for record, _ in read_journal(path, found[2][1])] == [3, 4]


@given(cut=st.integers(min_value=0, max_value=400), garbage=st.binary(max_size=40))
def test_a_power_cut_costs_the_torn_record_alone(tmp_path_factory, cut, garbage):
    """Cut at any byte, with anything behind it, the whole lines before are read and the journal goes on behind them."""
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    journal = journal_at(path)
    for number in range(6):
        journal.append("start", index=number)
    journal.close()
    data = path.read_bytes()
    cut = min(cut, len(data))
    path.write_bytes(data[:cut] + garbage)
    whole = data[:cut].count(b"\n")
    assert len(list(read_journal(path))) == whole
    journal = journal_at(path)
    assert journal.torn_bytes == len(garbage) + len(data[:cut].rpartition(b"\n")[2])
    journal.append("end", index=whole)
    journal.close()
    assert events(path) == ["start"] * whole + ["end"]
    if journal.torn_bytes:
        assert (path.parent / "journal.torn").stat().st_size == journal.torn_bytes


def test_damage_before_whole_lines_is_refused(tmp_path):
    """A line that changed in the middle was not left by a dying machine."""
    path = tmp_path / "journal.jsonl"
    journal = journal_at(path)
    for number in range(3):
        journal.append("start", index=number)
    journal.close()
    path.write_bytes(path.read_bytes().replace(b'"index":1', b'"index":7'))
    with pytest.raises(HarnessError, match="damaged, and whole lines follow"):
        list(read_journal(path))
    with pytest.raises(HarnessError, match="damaged"):
        journal_at(path)


def test_a_renamed_journal_is_put_back(tmp_path):
    """Log rotation takes the file away; the next record goes to its old place, behind all that was there."""
    path = tmp_path / "journal.jsonl"
    journal = journal_at(path)
    journal.append("start", index=0)
    path.rename(tmp_path / "journal.jsonl.1")
    journal.append("start", index=1)
    journal.append("start", index=2)
    path.unlink()
    journal.append("start", index=3)
    journal.close()
    assert [record["index"] for record, _ in read_journal(path) if record["event"] == "start"] == [0, 1, 2, 3]
    assert events(path).count("note") == 2


def test_a_truncated_journal_starts_with_the_sum_of_what_was_lost(tmp_path):
    """Rotation by copying and truncating leaves nothing to put back: the state goes first."""
    path = tmp_path / "journal.jsonl"
    journal = journal_at(path, lambda: {"state": {"ended": 2}})
    journal.append("start", index=0)
    os.truncate(path, 0)
    journal.append("start", index=1)
    journal.close()
    found = [record for record, _ in read_journal(path)]
    assert [record["event"] for record in found] == ["checkpoint", "start"]
    assert found[0]["state"] == {"ended": 2}


def test_a_journal_that_was_truncated_in_the_middle_of_a_line(tmp_path):
    """What is left of the line is cut off, or the sum behind it would be read by nobody."""
    path = tmp_path / "journal.jsonl"
    journal = journal_at(path, lambda: {"state": {}})
    journal.append("start", index=0)
    size = path.stat().st_size
    journal.append("start", index=1)
    os.truncate(path, size + 20)
    journal.append("start", index=2)
    journal.close()
    assert events(path) == ["start", "checkpoint", "start"]


def test_a_record_is_written_whole_or_not_at_all(tmp_path):
    """When the disk takes only a part of a line, the part is taken back and the caller told."""
    path = tmp_path / "journal.jsonl"
    journal = journal_at(path)
    journal.append("start", index=0)
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        with pytest.raises(HarnessError, match=r"journal\.jsonl: cannot write"):
            journal.append("end", index=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.stat().st_size == size
    journal.append("end", index=0)
    journal.close()
    assert events(path) == ["start", "end"]


def test_one_process_at_a_time(tmp_path):
    """A campaign that is run by one process is not run by another."""
    lock = JournalLock(tmp_path / "lock")
    with pytest.raises(UsageError, match="another process runs this campaign"):
        JournalLock(tmp_path / "lock")
    lock.release()
    JournalLock(tmp_path / "lock").release()
