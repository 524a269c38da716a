# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/log/control_reader.py."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stress.log.control_reader import LINE_BYTES_MAX, Position, control_lines

GOOD = b'{"t_ns":5,"event":"heartbeat"}\n'


START = Position()


def read(path, start=START):
    """The events, the damaged lines, and where the reading ended."""
    damaged, events, end = [], [], start
    for event, position in control_lines(path, start, lambda number, what: damaged.append((number, what))):
        events.append(event)
        end = position
    return events, damaged, end


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"", "not a JSON object"),
        (b"\x00\xff\x1b[2J", "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
        (b"[1]", "not a JSON object"),
        (b'{"t_ns":5,"event":"heartbeat"', "not a JSON object"),
        (b'{"t_ns":1e400,"event":"heartbeat"}', "not a JSON object"),
        (b'{"event":"heartbeat"}', "no t_ns"),
        (b'{"t_ns":true,"event":"heartbeat"}', "no t_ns"),
        (b'{"t_ns":"5","event":"heartbeat"}', "no t_ns"),
        (b'{"t_ns":9223372036854775808,"event":"heartbeat"}', "no t_ns"),
        (b'{"t_ns":' + b"9" * 10_000 + b',"event":"heartbeat"}', "not a JSON object"),
        (b'{"t_ns":5}', "no event"),
        (b'{"t_ns":5,"event":["heartbeat"]}', "no event"),
        (b'{"t_ns":5,"event":"heartbeat","x":123456789012345678901234567890}', "beyond 64 bits"),
        (b'{"t_ns":5,"event":"actor_log","actor":"vcpu0","recorded":1}', "actor_log without logged"),
        (b'{"t_ns":5,"event":"actor_log","actor":"vcpu0","recorded":"1","logged":1}', "actor_log without recorded, or"),
        (b'{"t_ns":5,"event":"actor_log","actor":"vcpu0","recorded":-1,"logged":1}', "actor_log without recorded, or"),
        (b'{"t_ns":5,"event":"x","y":"' + b"z" * LINE_BYTES_MAX + b'"}', "longer than"),
    ],
)
def test_a_damaged_line_is_named_and_passed_over(tmp_path, line, what):
    """The lines before and behind it are read, and its number and what is wrong with it are told in one line."""
    path = tmp_path / "control.jsonl"
    path.write_bytes(GOOD + line + b"\n" + GOOD)
    events, ((number, found),), end = read(path)
    assert [event["t_ns"] for event in events] == [5, 5]
    assert (number, end) == (2, Position(path.stat().st_size, 4))
    assert what in found
    assert found.isprintable()
    assert len(found) < 300


def test_an_unknown_event_is_given_out(tmp_path):
    """A newer writer may have events and fields of its own."""
    path = tmp_path / "control.jsonl"
    path.write_bytes(b'{"t_ns":5,"event":"news","of":null}\n')
    assert read(path)[:2] == ([{"t_ns": 5, "event": "news", "of": None}], [])


def test_a_line_without_end_waits_for_its_end(tmp_path):
    """A line that is being written is not given out in part; the next reading begins with it."""
    path = tmp_path / "control.jsonl"
    path.write_bytes(GOOD + GOOD[:-1])
    events, damaged, end = read(path)
    assert (len(events), damaged, end) == (1, [(0, "its last line is cut off")], Position(len(GOOD), 2))
    path.write_bytes(GOOD + GOOD)
    events, damaged, end = read(path, end)
    assert (len(events), damaged, end) == (1, [], Position(2 * len(GOOD), 3))


def test_a_huge_line_is_never_in_memory(tmp_path):
    """A line of a gigabyte costs what the longest allowed line costs, and what stands behind it is read."""
    path = tmp_path / "control.jsonl"
    with path.open("wb") as file:
        file.write(GOOD)
        file.truncate(1 << 30)  # zeros that take no space
        file.seek(0, 2)
        file.write(b"\n" + GOOD)
    tracemalloc.start()
    try:
        events, damaged, _ = read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(events) == 2
    assert damaged == [(2, f"longer than {LINE_BYTES_MAX:,} bytes")]
    assert peak < 8 * LINE_BYTES_MAX


@given(st.binary(max_size=300), st.integers(0, 60))
def test_any_bytes_are_read_to_their_end(tmp_path_factory, garbage, cut):
    """Whatever stands in the file, reading ends without an exception, and what stands behind the garbage's last line is read."""
    path = tmp_path_factory.mktemp("control") / "control.jsonl"
    path.write_bytes((GOOD * 2)[:cut] + garbage + b"\n" + GOOD)
    events, _, _ = read(path)
    assert events[-1] == {"t_ns": 5, "event": "heartbeat"}
