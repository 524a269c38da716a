# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/log/ring.py."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stress.log.events import Clock
from stress.log.ring import Rings, decode
from stress.log.schema import NULL, RECORD_WORDS, Kind

from . import shared_rings as sr

SLOTS = 8


@given(steps=st.lists(st.tuples(st.integers(0, SLOTS), st.integers(0, 2 * SLOTS)), max_size=40))
def test_reads_give_every_record_once_and_in_order(steps):
    """Whatever the sizes of writes and reads, and however often the ring wraps, nothing is skipped or repeated."""
    rings = sr.shared_rings(SLOTS)
    written = read = 0
    for size, limit in steps:
        n = min(size, SLOTS - (written - read))
        sr.record(rings, 0, sr.numbered_records(written, n))
        written += n
        records, first_seq = rings.read_new(0, limit)
        assert first_seq == read
        assert len(records) == min(limit, written - read)
        assert np.array_equal(records, sr.numbered_records(read, len(records)))
        read += len(records)
        rings.take(0, read)


def test_a_read_is_a_copy_and_takes_nothing():
    """The records stay in the ring until they are taken, and the copy does not follow the ring."""
    rings = sr.shared_rings(SLOTS)
    sr.record(rings, 0, sr.numbered_records(0, 3))
    records, _ = rings.read_new(0, SLOTS)
    rings.ring[:] = 0
    assert np.array_equal(records, sr.numbered_records(0, 3))
    assert rings.read_new(0, SLOTS)[1] == 0


def test_a_full_ring_is_read_whole():
    """A writer that waits at a full ring loses nothing: no record is taken for torn."""
    rings = sr.shared_rings(SLOTS)
    sr.record(rings, 0, sr.numbered_records(0, SLOTS))
    assert len(rings.read_new(0, SLOTS)[0]) == SLOTS


def test_an_overwritten_ring_shows_as_a_gap():
    """A writer that did not wait: the read starts behind the tail, at the oldest record that is surely whole."""
    rings = sr.shared_rings(SLOTS)
    sr.record(rings, 0, sr.numbered_records(0, SLOTS + 3))
    records, first_seq = rings.read_new(0, 2 * SLOTS)
    assert first_seq == 4
    assert np.array_equal(records, sr.numbered_records(4, SLOTS - 1))


@given(written=st.integers(0, 5 * SLOTS), n=st.integers(0, 2 * SLOTS))
def test_last_gives_the_newest_records(written, n):
    """The newest n, or as many as there are; from a full ring all but the slot that may be in the writer's hands."""
    rings = sr.shared_rings(SLOTS)
    sr.record(rings, 0, sr.numbered_records(0, written))
    records, first_seq = rings.last(0, n)
    expected = min(n, written, SLOTS - 1 if written >= SLOTS else SLOTS)
    assert first_seq == written - expected
    assert np.array_equal(records, sr.numbered_records(first_seq, expected))


def test_last_beside_a_running_writer_gives_no_torn_record():
    """Every record copied while another process overwrites the ring is whole and carries its own seq."""
    rings = sr.shared_rings(64)

    def overwrite() -> None:
        first = 0
        while True:
            for one in sr.numbered_records(first, 64):
                rings.ring[0, first & 63] = one
                first += 1
                rings.head[0] = first

    pid = sr.fork(overwrite)
    try:
        sr.wait_until(lambda: rings.recorded(0) > 0)
        for _ in range(2000):
            records, first_seq = rings.last(0, 64)
            assert np.array_equal(records, sr.numbered_records(first_seq, len(records)))
    finally:
        os.kill(pid, signal.SIGKILL)
        sr.exit_code(pid)


def test_rows_select_the_actors_of_a_larger_array():
    """An actor's index is its place among the names; the arrays may have rows that nobody uses."""
    all_rows = sr.shared_rings(SLOTS, 5)
    rings = Rings(all_rows.ring, all_rows.head, all_rows.tail, ("vcpu0", "ctl"), SLOTS, rows=(0, 3))
    sr.record(all_rows, 3, sr.numbered_records(0, 2))
    assert len(rings.read_new(1, SLOTS)[0]) == 2
    rings.take(1, 2)
    assert all_rows.tail.tolist() == [0, 0, 0, 2, 0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            [5, Kind.GUEST_ACCESS, 1, 2, 3, 4, 4, 0b101],
            {
                "kind": "guest_access",
                "gfn": 1,
                "root": 2,
                "pfn": 3,
                "incarnation": 4,
                "observed_tag": 4,
                "access": "write|tlb_hit",
            },
        ),
        ([5, Kind.KVM_EXIT, NULL, NULL, NULL, NULL, 2, NULL], {"kind": "kvm_exit", "reason": "fault"}),
        ([5, Kind.KVM_EXIT, NULL, NULL, NULL, NULL, 77, NULL], {"kind": "kvm_exit", "reason": 77}),
        ([5, Kind.SRCU_LOCK, NULL, 9, NULL, NULL, NULL, NULL], {"kind": "srcu_lock", "root": 9}),
        ([5, 1000, NULL, NULL, NULL, NULL, 6, NULL], {"kind": "unknown_1000", "arg0": 6}),
    ],
)
def test_decode_names_fields_and_codes(words, expected):
    """Codes and masks get names; unknown codes, undefined columns and unknown kinds are shown as they are."""
    assert decode(np.array(words)) == {"time_ticks": 5} | expected


def test_decode_converts_the_time():
    words = np.full(RECORD_WORDS, NULL)
    words[:2] = 2_000_000_003, Kind.HALT
    assert decode(words, Clock("tsc", 2_000_000_000, 1)) == {"time_ns": 1_000_000_001, "kind": "halt"}
