# SPDX-License-Identifier: GPL-2.0-only
"""DPOR misses nothing: small random programs over all primitives, compared with the search that prunes nothing."""

from __future__ import annotations

import functools
import itertools
import math
import random

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from .programs import Bench, X, Y, Z, listed

NAIVE_MAX = 1500  # interleavings of one program, about
NAIVE_MAX_SLOW = 3000
MEMORIES = ("sc", "tso")


@functools.cache
def bench(memory):
    return Bench(memory)


# --- random programs

words = st.sampled_from([X, Y, Z])
values = st.integers(0, 2)
masks = st.sampled_from([0, 1, 3, 4, -1])
plain = st.one_of(
    st.tuples(st.just("load"), words),
    st.tuples(st.just("store"), words, values),
    st.tuples(st.just("load_acquire"), words),
    st.tuples(st.just("store_release"), words, values),
    st.tuples(st.just("say_into"), words),
    st.tuples(st.just("xchg"), words, values),
    st.tuples(st.just("cmpxchg"), words, values, values),
    st.tuples(st.just("fetch_add"), words, values),
    st.tuples(st.just("fetch_or"), words, values),
    st.tuples(st.just("fetch_and"), words, values),
    st.tuples(st.just("atomic_add"), words, st.sampled_from([1, 2, 4, -1, -4])),
    st.tuples(st.just("add_test"), words, st.sampled_from([1, 2, 4, -4]), masks),
    st.tuples(st.just("block"), words, values, words, values),
    st.just(("retry_pause",)),
    st.just(("attempt",)),
    st.just(("smp_mb",)),
)
items = plain | st.builds(lambda item: ("unless", *item), plain)
# An attempt that fails where a program says so, more often than chance would have it.
attempts = st.builds(lambda reads: [("attempt",), *reads, ("retry_pause",)], st.lists(items, min_size=1, max_size=2))
programs = st.one_of(st.lists(items, min_size=1, max_size=5), attempts)
LOCAL = {"attempt"}
STORES = {"store", "store_release", "say_into"}


def name_of(item):
    return item[1] if item[0] == "unless" else item[0]


def interleavings(parts, memory):
    """How many there are at the most: of the steps of all actors and, under tso, of all their buffers."""
    counts = []
    for program in parts:
        names = [name_of(item) for item in program]
        stores = sum(name in STORES for name in names)
        local = sum(name in LOCAL for name in names) + (stores if memory == "tso" else names.count("smp_mb"))
        counts.append(len(names) - local)
        if memory == "tso":
            # A drain comes behind its store.
            counts.append(stores)
    return math.factorial(sum(counts)) // math.prod(math.factorial(count) for count in counts)


def cut(parts, memory, most):
    """The same programs, made shorter until they have few enough interleavings."""
    parts = [list(program) for program in parts]
    while interleavings(parts, memory) > most:
        max(parts, key=len).pop()
    return parts


# --- the comparison


def compared(memory, parts, **more):
    """What the naive search and DPOR see: final states and traces of each, and all executions of DPOR."""
    play = [listed(program) for program in parts]
    naive = list(bench(memory).executions(*play))
    reduced = list(bench(memory).executions(*play, strategy="dpor", **more))
    return naive, reduced


def missed(memory, parts, **more):
    """Final states that DPOR does not reach."""
    naive, reduced = compared(memory, parts, **more)
    return {seen.state for seen in naive} - {seen.state for seen in reduced if seen.end != "pruned"}


def check(memory, parts):
    naive, reduced = compared(memory, parts)
    states = {seen.state for seen in naive}
    whole = [seen for seen in reduced if seen.end != "pruned"]
    assert {seen.state for seen in whole} == states
    assert len({seen.order for seen in whole}) == len(whole), "one trace was made twice"
    assert {seen.order for seen in whole} == {seen.order for seen in naive}
    assert len({(seen.order, seen.trace) for seen in naive}) == len({seen.order for seen in naive}), "two sums for one trace"
    if not any(name_of(item) == "add_test" for program in parts for item in program):
        # Two orders of a sum and a test with the same result have the same sum.
        assert len({seen.trace for seen in whole}) == len(whole), "one sum for two traces"
    assert len(reduced) <= len(naive)
    assert len({seen.schedule for seen in naive}) == len(naive)
    assert {seen.end for seen in naive} <= {"complete", "deadlock", "lost-wakeup", "livelock"}


# Each of these was missed once.
MISSED_ONCE = {
    "a load that its own store buffer answers may also come late": [[("store", X, 1), ("load", Y), ("load", X)], [("store", X, 2)]],
    "a waiter is in conflict on its second word too": [[("store", Y, 0)], [("attempt",), ("block", X, 0, Y, 1), ("retry_pause",)]],
    "a retry is in conflict on all that it has read": [
        [("attempt",), ("load", X), ("retry_pause",), ("load", Y), ("retry_pause",)],
        [("store", X, 1), ("store", X, 2), ("store", Y, 1)],
    ],
    "a sum beside what was tested wakes nobody": [
        [("atomic_add", X, 1)],
        [("attempt",), ("add_test", X, 1, 0), ("retry_pause",)],
    ],
    "a sum wakes who has tested its bits": [[("atomic_add", X, 1)], [("attempt",), ("add_test", X, 4, 3), ("retry_pause",)]],
    "a waiter that was stopped could have run before": [
        [("xchg", X, 1), ("store", Y, 1), ("store", X, 2)],
        [("block", X, 1, X, 1), ("load", Y)],
    ],
    "a load out of the own buffer says nothing about what a cmpxchg will find": [
        [("cmpxchg", X, 0, 0)],
        [("attempt",), ("store", X, 1), ("load", X), ("retry_pause",)],
    ],
    "a cmpxchg that fails behind a load out of a buffer": [[("cmpxchg", X, 1, 0)], [("store", X, 1), ("load", X)]],
    "a waiter that was stopped before it began to wait": [
        [("xchg", Y, 1), ("store", X, 0)],
        [("load", X), ("block", X, 0, Y, 1)],
    ],
    "a waiter that a third actor stopped": [
        [("load", X), ("block", Y, 1, X, 0)],
        [("load", X), ("store", Y, 0)],
        [("store", X, 0), ("store", Y, 1)],
    ],
    "a waiter that was stopped for ever could have run before": [[("xchg", Y, 1), ("store", X, 0)], [("block", X, 0, Y, 1)]],
    "a test with a negative mask sees every sum": [[("add_test", X, 4, -1)], [("add_test", X, 2, -1)]],
}


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("parts", MISSED_ONCE.values(), ids=list(MISSED_ONCE))
def test_what_was_missed_once(memory, parts):
    """Programs of which DPOR, or the scheduler's idea of a conflict, once lost a state."""
    check(memory, parts)


@pytest.mark.parametrize("memory", MEMORIES)
@given(parts=st.lists(programs, min_size=2, max_size=3))
@settings(max_examples=150)
def test_no_state_is_missed(memory, parts):
    """DPOR reaches every final state, with every result, makes no trace twice, and never more executions than the naive search."""
    check(memory, cut(parts, memory, NAIVE_MAX))


@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("part", range(4))
def test_no_state_is_missed_many(memory, part):
    """The same for thousands of larger programs."""

    @seed(part)
    @settings(max_examples=500, database=None)
    @given(parts=st.lists(programs, min_size=2, max_size=4))
    def all_of(parts):
        check(memory, cut(parts, memory, NAIVE_MAX_SLOW))

    all_of()


# --- the comparison itself


@pytest.mark.parametrize("memory", MEMORIES)
def test_the_comparison_notices_what_is_missed(memory):
    """A search that may not change its first step loses states, and the comparison says which."""
    parts = [[("store", X, 1), ("smp_mb",), ("load", Y)], [("store", Y, 1), ("smp_mb",), ("load", X)]]
    assert missed(memory, parts) == set()
    assert missed(memory, parts, floor=2)
    assert missed(memory, parts, count=1)


def test_the_programs_mean_something():
    """Random programs end in all ways that there are, reorder, wait and retry; and DPOR saves most of the work."""
    ends, naive_executions, reduced_executions = set(), 0, 0
    chance = random.Random(1)
    pool = [[("load", X)], [("store", X, 1)], [("load", Y)], [("store", Y, 1)], [("fetch_add", X, 1)], [("block", X, 0, Y, 0)]]
    pool += [[("attempt",), ("load", X), ("retry_pause",)], [("atomic_add", Y, 1)], [("store", X, 0)]]
    for _ in range(30):
        parts = [list(itertools.chain(*chance.choices(pool, k=3))) for _ in range(3)]
        naive, reduced = compared("sc", cut(parts, "sc", NAIVE_MAX))
        ends |= {seen.end for seen in naive}
        naive_executions += len(naive)
        reduced_executions += len(reduced)
    assert ends == {"complete", "deadlock", "lost-wakeup", "livelock"}
    assert reduced_executions * 4 < naive_executions


def test_independent_actors_make_one_execution():
    """Actors that touch different words have one trace, and DPOR makes one execution of it."""
    parts = [[("fetch_add", word, 1)] * 4 for word in (X, Y, Z)]
    (seen,) = bench("sc").executions(*map(listed, parts), strategy="dpor")
    assert seen.end == "complete"


def test_sums_that_nobody_looks_at_make_one_execution():
    """Readers who come and go by sums are in no conflict; with sums that are looked at there are 6! / (2! 2! 2!) orders."""
    commuting = listed([("atomic_add", X, 4), ("add_test", X, -4, 3)])
    assert len(list(bench("sc").executions(commuting, commuting, commuting, strategy="dpor"))) == 1
    fetching = listed([("fetch_add", X, 4), ("fetch_add", X, -4)])
    assert len(list(bench("sc").executions(fetching, fetching, fetching, strategy="dpor"))) == 90
