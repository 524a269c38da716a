# SPDX-License-Identifier: GPL-2.0-only
"""Putting a finding down, in compiled code: a row of numbers that `stress/check/rules.py` turns into words."""

from __future__ import annotations

from typing import Any

from stress.check.compiled import kernel
from stress.check.state import FOREVER

__all__ = [
    "BY_BOTH",
    "BY_EVENT",
    "BY_TIME",
    "EXACT",
    "FOUND_A",
    "FOUND_DETAIL",
    "FOUND_EVENT",
    "FOUND_GFN",
    "FOUND_INCARNATION",
    "FOUND_JUDGED_BY",
    "FOUND_MARGIN_NS",
    "FOUND_NS",
    "FOUND_OTHER_EVENT",
    "FOUND_OTHER_NS",
    "FOUND_PFN",
    "FOUND_ROOT",
    "found",
    "found_about",
    "found_before",
    "whole",
]

FOUND_DETAIL = 0
FOUND_EVENT = 1
FOUND_NS = 2
FOUND_OTHER_EVENT = 3
FOUND_OTHER_NS = 4
FOUND_MARGIN_NS = 5
FOUND_JUDGED_BY = 6
FOUND_GFN = 7
FOUND_ROOT = 8
FOUND_PFN = 9
FOUND_INCARNATION = 10
FOUND_A = 11

# A margin that no clock can turn round: the events are of one actor, or one event says it all.
EXACT = FOREVER

BY_EVENT = 1
BY_TIME = 2
BY_BOTH = 3


@kernel
def whole(s: Any) -> bool:
    """Are the events of every actor there at this moment, so that what is not in the log did not happen?"""
    return bool(s.whole_from_ns <= s.now_ns <= s.whole_to_ns)


@kernel
def found_about(
    s: Any, detail: int, margin_ns: int, other_event: int, other_ns: int, gfn: int, root: int, pfn: int, incarnation: int, a: int
) -> None:
    """Put down a finding at the event at hand.

    Args:
        s: the state.
        detail: code of what is wrong (stress/check/rules.py).
        margin_ns: how far apart the two moments are that prove it; EXACT if no clock is involved.
        other_event: the event that it collides with, or NO_EVENT.
        other_ns: its time, or NEVER.
        gfn: what it is about; -1 where that does not apply, as for the next three.
        root: page of the root or table.
        pfn: backing frame.
        incarnation: of the slot object.
        a: the number in the sentence.
    """
    row = s.nr_found
    s.found[row, FOUND_DETAIL] = detail
    s.found[row, FOUND_EVENT] = s.event
    s.found[row, FOUND_NS] = s.now_ns
    s.found[row, FOUND_OTHER_EVENT] = other_event
    s.found[row, FOUND_OTHER_NS] = other_ns
    s.found[row, FOUND_MARGIN_NS] = margin_ns
    s.found[row, FOUND_JUDGED_BY] = BY_EVENT
    s.found[row, FOUND_GFN] = gfn
    s.found[row, FOUND_ROOT] = root
    s.found[row, FOUND_PFN] = pfn
    s.found[row, FOUND_INCARNATION] = incarnation
    s.found[row, FOUND_A] = a
    s.nr_found = row + 1


@kernel
def found_before(
    s: Any, detail: int, margin_ns: int, event: int, event_ns: int, other_event: int, other_ns: int, root: int, a: int
) -> None:
    """As found(), at an event that has gone by: only what came later, or did not come, shows that a rule was broken there.

    Where the log ends within the clock's window, what is missing may be in the part that is not there.
    """
    if s.whole_from_ns <= event_ns <= s.whole_to_ns - s.window_ns:
        row = s.nr_found
        # Behind the last event no clock is involved.
        margin = EXACT if margin_ns > FOREVER // 2 else margin_ns
        found(s, detail, margin, other_event, other_ns, root, a)
        s.found[row, FOUND_EVENT] = event
        s.found[row, FOUND_NS] = event_ns


@kernel
def found(s: Any, detail: int, margin_ns: int, other_event: int, other_ns: int, root: int, a: int) -> None:
    """As found_about(), for what concerns no translation."""
    found_about(s, detail, margin_ns, other_event, other_ns, -1, root, -1, -1, a)
