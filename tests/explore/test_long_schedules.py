# SPDX-License-Identifier: GPL-2.0-only
"""A schedule may have a million decisions."""

from __future__ import annotations

import numpy as np
import pytest

from model.vm import SlotSettings, VmSettings
from stress.explore.board import STEPS_MAX, board_views, make_board
from stress.explore.native import is_available
from stress.explore.opening import Opening
from stress.explore.schedule import context_switches, give, runs_of
from stress.explore.search import follow
from stress.explore.story import tell

TWO = (SlotSettings(0, 2, can_delete=True), SlotSettings(2, 2, can_delete=True))
# Round and round until the scripts of a whole run are over.
LONG = VmSettings(
    nr_vcpus=2,
    levels=2,
    bits_per_level=1,
    slots=TWO,
    nr_pages=40,
    seed=3,
    operations_max=2800,
    entries_max=14_000,
    accesses_per_entry_max=3,
    tlb_entries=4,
)
TURNS = [(name, 7) for _ in range(60_000) for name in ("vcpu0", "ctl", "vcpu1", "rcu")]


@pytest.mark.slow
@pytest.mark.skipif(not is_available(), reason="the native engine needs x86-64")
def test_a_million_decisions_are_the_same_in_both_engines():
    """Every step, result and event of an execution of a million steps."""
    opening = Opening(LONG, steps_max=STEPS_MAX - 1)
    story = tell(opening, TURNS, exactly=False)
    assert len(story.steps) > 1_000_000
    assert story.ending.end == "complete"
    followed = follow(opening, story.runs)
    assert (followed.end, followed.digest, followed.events_digest) == ("complete", story.digest, story.events_digest)


def test_runs_and_choices_are_the_same_schedule():
    """Names and counts there and back, a million of them; draining a store is no context switch."""
    choices = np.repeat(np.array([0, 1, 12, 0, 2], np.int8), 200_001)
    actors = (0, 64, 65)
    runs = runs_of(choices, actors)
    assert runs == [("vcpu0", 200_001), ("ctl", 200_001), ("vcpu0.drain", 200_001), ("vcpu0", 200_001), ("rcu", 200_001)]
    assert context_switches(runs) == 3
    board = board_views(make_board())
    give(board, runs, actors)
    assert np.array_equal(board.choice[: len(choices)], choices)
    assert board.prefix[0] == len(choices)


def test_a_schedule_must_fit_and_name_who_plays():
    """Too long, or somebody else's: a ValueError that says so."""
    board = board_views(make_board())
    with pytest.raises(ValueError, match='"vcpu9" does not play here'):
        give(board, [("vcpu9", 1)], (0, 64))
    with pytest.raises(ValueError, match="more than"):
        give(board, [("ctl", STEPS_MAX)], (0, 64))
