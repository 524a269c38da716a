# SPDX-License-Identifier: GPL-2.0-only
"""Which steps commute: the table, and that it says the truth about words and results."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.atomics import (
    ADD_TEST,
    ATOMIC_ADD,
    BLOCK,
    CMPXCHG,
    FETCH_ADD,
    FETCH_AND,
    FETCH_OR,
    LOAD,
    LOAD_ACQUIRE,
    PRIMITIVES,
    RETRY_PAUSE,
    STORE,
    STORE_RELEASE,
    XCHG,
)
from stress.explore.commuting import EFFECT_ADD, EFFECT_READ, EFFECT_WRITE, commute, effect_of
from stress.explore.steps import operate

_operate = numba.njit(operate)

WORD_PRIMITIVES = (LOAD, STORE, LOAD_ACQUIRE, STORE_RELEASE, XCHG, CMPXCHG, FETCH_ADD, FETCH_OR, FETCH_AND, ATOMIC_ADD, ADD_TEST)

READ = (EFFECT_READ, LOAD, 0, 0)
FAILED = (EFFECT_READ, CMPXCHG, 5, 6)
WAIT = (EFFECT_READ, BLOCK, 0, 0)
WRITE = (EFFECT_WRITE, STORE, 1, 0)
SWAP = (EFFECT_WRITE, XCHG, 1, 0)
FETCHED = (EFFECT_WRITE, FETCH_ADD, 4, 0)


def add(addend):
    return (EFFECT_ADD, ATOMIC_ADD, addend, 0)


def test_of(addend, mask):
    return (EFFECT_ADD, ADD_TEST, addend, mask)


test_of.__test__ = False

COMMUTING = [
    (READ, READ, True),
    (READ, FAILED, True),
    (FAILED, WAIT, True),
    (READ, WRITE, False),
    (READ, add(4), False),
    (WAIT, add(4), False),
    (WRITE, WRITE, False),
    (SWAP, READ, False),
    (FETCHED, FETCHED, False),
    (FETCHED, add(4), False),
    (add(1), add(-1), True),
    (add(4), test_of(4, 3), True),
    (add(-4), test_of(4, 3), True),
    (add(2), test_of(4, 3), False),
    (add(4), test_of(4, 4), False),
    (add(4), test_of(4, 8), False),  # a carry
    (add(4), test_of(4, -1), False),
    (add(4), test_of(4, -8), False),
    (add(-4), test_of(-4, 7), False),
    (add(0), test_of(4, 3), False),  # it would, but who adds nothing?
    (test_of(4, 3), test_of(4, 3), True),
    (test_of(4, 3), test_of(-4, 3), True),
    (test_of(4, 3), test_of(2, 1), False),
    (test_of(4, 1), test_of(2, 1), True),
    (test_of(4, 3), test_of(4, 7), False),
    (test_of(4, 3), WRITE, False),
    (test_of(4, 3), READ, False),
]


@pytest.mark.parametrize(("one", "other", "commuting"), COMMUTING)
def test_who_commutes_with_whom(one, other, commuting):
    """Reads do, and sums that do not look at what the other one changes; in whatever order one asks."""
    assert commute(*one, *other) is commuting
    assert commute(*other, *one) is commuting


_steps = st.tuples(
    st.sampled_from(WORD_PRIMITIVES),
    st.integers(-9, 9),
    st.integers(-2, 9),
)


@given(_steps, _steps, st.integers(-20, 20))
def test_what_commutes_can_be_swapped(one, other, value):
    """Done in either order on any word, two steps that commute have the same results and leave the same value."""

    def done(*steps):
        word = np.full(1, value)
        results, effects = {}, {}
        for primitive, a, b in steps:
            changes = word[0] == a
            results[primitive, a, b] = _operate(word.ctypes.data, primitive, a, b)
            effects[primitive, a, b] = EFFECT_READ if primitive == CMPXCHG and not changes else effect_of(primitive)
        return int(word[0]), results, effects

    forward, effects = done(one, other)[:2], done(one, other)[2]
    if commute(effects[one], *one, effects[other], *other):
        assert forward == done(other, one)[:2]


def test_every_primitive_has_an_effect():
    """What is not known to read or to add is taken to write."""
    effects = {PRIMITIVES[primitive]: effect_of(primitive) for primitive in (*WORD_PRIMITIVES, BLOCK, RETRY_PAUSE)}
    assert {name for name, effect in effects.items() if effect == EFFECT_READ} == {"load", "load_acquire", "block", "retry_pause"}
    assert {name for name, effect in effects.items() if effect == EFFECT_ADD} == {"atomic_add", "add_test"}
    assert sum(effect == EFFECT_WRITE for effect in effects.values()) == len(effects) - 6
