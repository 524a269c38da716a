# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/log/frame.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stress.log.frame import FrameFilter
from stress.log.schema import FIELDS, Kind

from . import run_folder as rf

GFN = 0x1F2
CONFIG = {"vm": {"bits_per_level": 4}, "slots": [{"npages": 8}, {"npages": 0x20}]}
COLUMNS = ("kind", "gfn", "root", "pfn", "incarnation", "arg0", "arg1")


def about(*events: tuple[int, ...], gfn: int = GFN, config: dict[str, Any] | None = None) -> list[bool]:
    columns = dict(zip(COLUMNS, np.array(events, np.int64)[:, 1:].T, strict=True))
    frame = FrameFilter(gfn, CONFIG if config is None else config)
    whole = frame.about(columns).tolist()
    # What it knows, it knows across batches.
    frame = FrameFilter(gfn, CONFIG if config is None else config)
    single = [frame.about({name: column[row : row + 1] for name, column in columns.items()})[0] for row in range(len(events))]
    assert whole == single
    return whole


@pytest.mark.parametrize("kind", [kind for kind in Kind if any(field.name == "gfn" for field in FIELDS[kind])])
def test_an_event_with_a_gfn_is_about_that_frame(kind: Kind) -> None:
    """And about no other."""
    events = [rf.event(0, kind, gfn=gfn, pfn=1) for gfn in (GFN - 1, GFN, GFN + 1, -1)]
    assert about(*events) == [False, True, False, False]


def test_an_entry_above_level_1_covers_a_range() -> None:
    """A level multiplies the range by the entries of a table."""
    events = [rf.event(0, Kind.SPTE_CHANGE, gfn=gfn, pfn=level) for level in (1, 2, 3) for gfn in (0, 0x100, 0x1E0, 0x1F0, 0x1F2)]
    assert about(*events) == [
        *(False, False, False, False, True),
        *(False, False, False, True, True),
        *(False, True, True, True, True),
    ]


@pytest.mark.parametrize("level", [0, -1, 63, 2**62])
def test_a_level_out_of_range_does_no_harm(level: int) -> None:
    """A damaged event is about its frame at least."""
    assert about(rf.event(0, Kind.SPTE_CHANGE, gfn=GFN, pfn=level)) == [True]


def test_a_slot_operation_is_about_all_frames_of_the_slot() -> None:
    """The length is that of the config, by the slot's id."""
    events = [rf.event(0, Kind.SLOT_OP_BEGIN, gfn=0x1E0, incarnation=5, arg0=1, arg1=slot) for slot in (0, 1, 2)]
    assert about(*events) == [False, True, False]
    assert about(*events, gfn=0x1E0) == [True, True, True]
    assert about(*events, gfn=0x1FF) == [False, True, False]
    assert about(*events, gfn=0x200) == [False, False, False]
    assert about(*events, gfn=0x1DF) == [False, False, False]


def test_a_flush_knows_its_length_itself() -> None:
    """And the zap of leafs within it is about the same frames."""
    events = [
        rf.event(0, Kind.ZAP_LEAFS_BEGIN, gfn=0x1E0),
        *(
            rf.event(0, kind, gfn=gfn, incarnation=5, arg0=npages, arg1=7)
            for npages in (0x12, 0x13)
            for kind, gfn in (
                (Kind.FLUSH_SHADOW_BEGIN, 0x1E0),
                (Kind.ZAP_LEAFS_BEGIN, 0x1E0),
                (Kind.ZAP_LEAFS_END, 0x1F2),
                (Kind.FLUSH_SHADOW_END, 0x1E0),
            )
        ),
        rf.event(0, Kind.ZAP_LEAFS_END, gfn=0x1F2),
    ]
    assert about(*events) == [False, *[False] * 4, *[True] * 4, False]


def test_a_retirement_is_about_the_frames_of_the_slot_object() -> None:
    """Once: the incarnation is not used again."""
    retire = rf.event(0, Kind.FRAME_RETIRE, incarnation=5)
    delete = rf.event(0, Kind.SLOT_OP_BEGIN, gfn=0x1E0, incarnation=5, arg0=2, arg1=1)
    other = rf.event(0, Kind.SLOT_OP_BEGIN, gfn=0x200, incarnation=6, arg0=2, arg1=1)
    assert about(retire, delete, other, retire, retire, rf.event(0, Kind.FRAME_RETIRE, incarnation=6)) == [
        *(False, True, False, True, False, False)
    ]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"vm": 1, "slots": 2},
        {"vm": {"bits_per_level": "x"}, "slots": [1, {}, {"npages": "x"}]},
        {"vm": {"bits_per_level": 1000}, "slots": []},
    ],
)
def test_without_a_config_first_frames_count(config: dict[str, Any]) -> None:
    """A damaged config costs ranges, not the command."""
    assert about(
        rf.event(0, Kind.SPTE_CHANGE, gfn=0x1F0, pfn=2), rf.event(0, Kind.SLOT_OP_END, gfn=0x1E0, arg1=1), config=config
    ) == [*(False, False)]
    assert about(rf.event(0, Kind.SPTE_CHANGE, gfn=GFN, pfn=2), rf.event(0, Kind.SLOT_OP_END, gfn=GFN, arg1=1), config=config) == [
        *(True, True)
    ]
