# SPDX-License-Identifier: GPL-2.0-only
"""A small generator that gives the same numbers interpreted and compiled: multiply with carry.

A state is carry * 2**32 + x; the next one is x * A + carry, and x is the number drawn. A * 2**32 - 1 and A * 2**31 - 1 are
primes, so the period is about 2**62. No step leaves 63 bits: Numba's products promise the compiler not to overflow, so a
generator that wraps may come out as anything.
"""

from __future__ import annotations

from model.jit import kernel

__all__ = ["rng_bits", "rng_next", "rng_seed"]

_A = 1791398085
_X_MASK = (1 << 32) - 1
_STATE_MASK = (1 << 62) - 1


def rng_seed(seed: int, stream: int) -> int:
    """Spread a run's seed over its actors: one starting state for each stream."""
    state = seed * 0x9E3779B97F4A7C15 + stream * 0xBF58476D1CE4E5B9
    for _ in range(8):
        state = (state * 6364136223846793005 + 1442695040888963407) & _STATE_MASK
        state ^= state >> 29
    # 0 is the one state of this range that nothing follows.
    return state | 1


@kernel
def rng_next(state: int) -> int:
    """Return the state that follows; 63 bits, never negative."""
    return (int(state) & _X_MASK) * _A + (int(state) >> 32)


@kernel
def rng_bits(state: int) -> int:
    """Return the 32 bits that a state stands for, so that (bits * n) >> 32 draws from range(n)."""
    return int(state) & _X_MASK
