# SPDX-License-Identifier: GPL-2.0-only
"""Tests of model/rng.py."""

from __future__ import annotations

import numba
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.rng import rng_bits, rng_next, rng_seed

states = st.integers(1, (1 << 63) - 1)


@numba.njit
def _sequence(state, length):
    out = np.empty((length, 2), np.int64)
    for n in range(length):
        state = rng_next(state)
        out[n, 0] = state
        out[n, 1] = rng_bits(state)
    return out


@given(state=states)
def test_interpreted_and_compiled_give_the_same_numbers(state):
    """From any state both bodies produce the same sequence, although one computes without bounds and one modulo 2**64."""
    compiled = _sequence(state, 16)
    for following, bits in compiled:
        state = rng_next(state)
        assert (state, rng_bits(state)) == (following, bits)


@given(state=states, limit=st.integers(1, 1 << 20))
def test_draws_stay_in_range(state, limit):
    """(bits * n) >> 32 is in range(n), for any state and any n that the model uses."""
    assert 0 <= rng_next(state) < 1 << 63
    assert 0 <= (rng_bits(state) * limit) >> 32 < limit


@given(seed=st.integers(0, (1 << 63) - 1))
def test_streams_of_a_seed_differ(seed):
    """The actors of one run draw from different sequences, whatever the run's seed."""
    assert len({rng_seed(seed, stream) for stream in range(67)}) == 67


def test_draws_are_spread_evenly():
    """Every value of a small range comes up about as often as any other."""
    counts = [0] * 8
    state = rng_seed(1, 0)
    for _ in range(8000):
        state = rng_next(state)
        counts[(rng_bits(state) * 8) >> 32] += 1
    assert min(counts) > 800
    assert max(counts) < 1200
