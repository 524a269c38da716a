# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/log/merge.py."""

from __future__ import annotations

from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stress.log import merge as merging
from stress.log.merge import merge
from stress.log.parquet import Batch

# Times of one actor, cut into batches. Few different times, so that many are equal.
LANES = st.lists(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=5), max_size=5), max_size=4)


def lanes_of(cut_times):
    """Each actor's batches, with times that never fall and a column that tells where an event was."""
    lanes = {}
    for actor, cuts in enumerate(cut_times):
        times = np.sort(np.array([time for cut in cuts for time in cut], np.int64))
        batches, done = [], 0
        for cut in cuts:
            part = times[done : done + len(cut)]
            columns = {"time_ns": part, "arg0": np.arange(done, done + len(cut)) + 1000 * actor}
            batches.append(Batch(actor, "", 0, done, columns))
            done += len(cut)
        lanes[actor] = batches
    return lanes


@given(LANES, st.integers(1, 30))
def test_the_order_is_time_then_actor_then_seq(cut_times, step_events):
    """However the events are cut into batches and steps, the merge equals a sort of them all; no event is lost or doubled."""
    lanes = lanes_of(cut_times)
    expected = sorted(
        (int(time), actor, batch.first_seq + row)
        for actor, batches in lanes.items()
        for batch in batches
        for row, time in enumerate(batch.columns["time_ns"])
    )
    found = []
    with mock.patch.object(merging, "STEP_EVENTS", step_events):
        parts = list(merge({actor: iter(batches) for actor, batches in lanes.items()}, ("arg0", "time_ns")))
    for part in parts:
        assert part.actor.dtype == np.int16
        assert list(part.columns) == ["arg0", "time_ns"]
        assert (part.columns["arg0"] == part.seq + 1000 * part.actor).all()
        found += list(zip(part.columns["time_ns"].tolist(), part.actor.tolist(), part.seq.tolist(), strict=True))
    assert found == expected


def test_one_batch_of_each_actor_is_held():
    """A batch is fetched when the one before it is used up, not earlier: this bounds the memory."""
    fetched = [0, 0]

    def lane(actor):
        for first in range(0, 1000, 10):
            fetched[actor] += 1
            yield Batch(actor, "", 0, first, {"time_ns": np.arange(first, first + 10)})

    given_out = 0
    for part in merge({0: lane(0), 1: lane(1)}, ("time_ns",)):
        given_out += len(part.actor)
        assert 10 * sum(fetched) <= given_out + 20
    assert given_out == 2000


def test_a_step_of_many_actors_is_small():
    """What is copied at once does not grow with the number of actors, if their times differ."""
    lanes = {actor: iter([Batch(actor, "", 0, 0, {"time_ns": 64 * np.arange(1000) + actor})]) for actor in range(64)}
    with mock.patch.object(merging, "STEP_EVENTS", 640):
        sizes = [len(part.actor) for part in merge(lanes, ("time_ns",))]
    assert sum(sizes) == 64_000
    assert max(sizes) <= 640
