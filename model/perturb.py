# SPDX-License-Identifier: GPL-2.0-only
"""Perturbation of the native engine: at every primitive, now and then, an actor yields, spins, sleeps or stalls.

Most races need one actor to be late at one place; left alone, two cores rarely produce that. Each process draws from its own
seeded generator, whose state lives in the context. `passed` stands in front of every primitive in instrumented builds and
counts by site: the primitive and the field of the record that it touches.
"""

from __future__ import annotations

import numpy as np

from model.context import (
    CTX_BASE,
    CTX_COUNTDOWN,
    CTX_FIELD_FRAME,
    CTX_FIELD_PT,
    CTX_FIELDS,
    CTX_HEAD_BYTES,
    CTX_NEED_RESCHED,
    CTX_OFFSET_FRAME,
    CTX_PERIOD,
    CTX_RESCHED,
    CTX_RNG,
    CTX_SITES,
    CTX_SLEEP_US,
    CTX_SPIN_LOOPS,
    CTX_STALL,
    CTX_STALL_US,
    CTX_WEIGHT_SPIN,
    CTX_WEIGHT_TOTAL,
    CTX_WEIGHT_YIELD,
)
from model.jit import kernel
from model.layout import NR_FIELDS_MAX
from model.native import context_get, context_set, cpu_relax, peek, peek16, poke, sched_yield, usleep
from model.rng import rng_bits, rng_next

__all__ = ["passed"]

# A site's two counters lie side by side: times passed, times disturbed.
_SITE_BYTES = 16


@kernel
def _draw(limit: int) -> int:
    state = rng_next(context_get(CTX_RNG))
    context_set(CTX_RNG, state)
    return (rng_bits(state) * limit) >> 32


@kernel
def _chance(threshold: int) -> bool:
    # Probabilities are scaled to 2**32.
    state = rng_next(context_get(CTX_RNG))
    context_set(CTX_RNG, state)
    return rng_bits(state) < threshold


@kernel
def _disturb(site: int) -> None:
    poke(site + 8, peek(site + 8) + 1)
    context_set(CTX_COUNTDOWN, 1 + _draw(context_get(CTX_PERIOD)))
    if context_get(CTX_NEED_RESCHED) != 0 and _chance(context_get(CTX_RESCHED)):
        poke(context_get(CTX_NEED_RESCHED), 1)
    if _chance(context_get(CTX_STALL)):
        # Like a low-priority thread of PCT: everyone else runs ahead of this actor for a long while.
        usleep(np.uint32(1 + _draw(context_get(CTX_STALL_US))))
        return
    kind = _draw(context_get(CTX_WEIGHT_TOTAL))
    if kind < context_get(CTX_WEIGHT_YIELD):
        sched_yield()
    elif kind < context_get(CTX_WEIGHT_YIELD) + context_get(CTX_WEIGHT_SPIN):
        for _ in range(_draw(context_get(CTX_SPIN_LOOPS)) + 1):
            cpu_relax()
    else:
        usleep(np.uint32(1 + _draw(context_get(CTX_SLEEP_US))))


@kernel
def passed(primitive: int, where: int) -> None:
    """Count one pass through a primitive and disturb its actor when the time has come.

    Args:
        primitive: id from model/atomics.py.
        where: address of the word, or 0 for primitives without one.
    """
    field = 0
    if where != 0:
        offset = where - context_get(CTX_BASE)
        if offset < context_get(CTX_HEAD_BYTES):
            field = peek16(context_get(CTX_FIELDS) + ((offset >> 3) << 1))
        elif offset < context_get(CTX_OFFSET_FRAME):
            field = context_get(CTX_FIELD_PT)
        else:
            field = context_get(CTX_FIELD_FRAME)
    site = context_get(CTX_SITES) + (primitive * NR_FIELDS_MAX + field) * _SITE_BYTES
    poke(site, peek(site) + 1)
    countdown = context_get(CTX_COUNTDOWN) - 1
    context_set(CTX_COUNTDOWN, countdown)
    if countdown <= 0 and context_get(CTX_PERIOD) > 0:
        _disturb(site)
