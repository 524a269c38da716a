# SPDX-License-Identifier: GPL-2.0-only
"""Hashes of 61 bits for digests, traces and seeds, out of steps that never leave 63 bits (see model/rng.py)."""

from __future__ import annotations

from model.rng import rng_bits, rng_next
from stress.explore.compiled import kernel

__all__ = ["draw", "mix", "start_of"]

_MASK = (1 << 61) - 1


@kernel
def mix(state: int, a: int, b: int) -> int:
    """Stir two numbers into a state."""
    state = rng_next((state ^ a) & _MASK)
    state = rng_next((state ^ b ^ (state >> 29)) & _MASK)
    return (state ^ (state >> 31)) & _MASK


@kernel
def start_of(seed: int, index: int) -> int:
    """Where the random numbers of one execution begin."""
    return mix(mix(seed & _MASK, index, 0x5EED), index, seed) | 1


@kernel
def draw(state: int, limit: int) -> int:
    """A number below limit out of a state; the caller goes on with rng_next(state)."""
    return (rng_bits(state) * limit) >> 32
