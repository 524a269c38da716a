# SPDX-License-Identifier: GPL-2.0-only
"""Which steps commute: what a partial order reduction may rest on."""

from __future__ import annotations

from model.atomics import ADD_TEST, ATOMIC_ADD, BLOCK, LOAD, LOAD_ACQUIRE, RETRY_PAUSE
from stress.explore.compiled import kernel

__all__ = ["EFFECT_ADD", "EFFECT_READ", "EFFECT_WRITE", "commute", "effect_of", "unseen"]

EFFECT_READ = 0
EFFECT_ADD = 1
EFFECT_WRITE = 2


@kernel
def commute(effect1: int, primitive1: int, a1: int, b1: int, effect2: int, primitive2: int, a2: int, b2: int) -> bool:
    """May two steps on one word be swapped, with the same results and the same value in the end?

    Reads commute. So do two sums of which each looks only at bits that the other cannot change.
    """
    if effect1 == EFFECT_READ and effect2 == EFFECT_READ:
        return True
    if effect1 == EFFECT_ADD and effect2 == EFFECT_ADD:
        return (primitive1 == ATOMIC_ADD or unseen(b1, a2)) and (primitive2 == ATOMIC_ADD or unseen(b2, a1))
    return False


@kernel
def unseen(mask: int, addend: int) -> bool:
    """Does a sum change none of these bits? None below its addend's lowest one; a negative mask has the highest."""
    return 0 <= mask < (addend & -addend)


@kernel
def effect_of(primitive: int) -> int:
    """What a primitive may do to its word, before it is done."""
    if primitive in (LOAD, LOAD_ACQUIRE, BLOCK, RETRY_PAUSE):
        return EFFECT_READ
    if primitive in (ATOMIC_ADD, ADD_TEST):
        return EFFECT_ADD
    return EFFECT_WRITE
