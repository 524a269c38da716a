# SPDX-License-Identifier: GPL-2.0-only
"""A small generator that gives the same numbers interpreted and compiled: x -> x * A + C modulo 2**63.

Full period for any state (A = 1 modulo 4, C odd). Only the upper bits are used, since the lower ones of such a generator
are weak.
"""

from __future__ import annotations

from model.jit import kernel

__all__ = ["rng_bits", "rng_next", "rng_seed"]

_MASK = (1 << 63) - 1
_A = 6364136223846793005
_C = 1442695040888963407


def rng_seed(seed: int, stream: int) -> int:
    """Spread a run's seed over its actors: one starting state for each stream."""
    state = (seed * 0x9E3779B97F4A7C15 + stream * 0xBF58476D1CE4E5B9 + _C) & _MASK
    for _ in range(8):
        state = (state * _A + _C) & _MASK
        state ^= state >> 29
    return state


@kernel
def rng_next(state: int) -> int:
    """Return the state that follows; 63 bits, never negative."""
    return (int(state) * _A + _C) & _MASK


@kernel
def rng_bits(state: int) -> int:
    """Return the 31 strongest bits of a state, shifted to 32, so that (bits * n) >> 32 draws from range(n)."""
    return (int(state) >> 32) << 1
