# SPDX-License-Identifier: GPL-2.0-only
"""Store buffers: what x86 may reorder can be explored, what it never reorders cannot be.

The litmus tests are the usual ones; of each all executions are made, by both complete strategies, which must agree. A name such as
r0 stands for what the actor's first load gave.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.atomics import (
    add_test,
    atomic_add,
    attempt,
    block,
    cmpxchg,
    fetch_add,
    fetch_and,
    fetch_or,
    load,
    load_acquire,
    retry_pause,
    smp_mb,
    smp_rmb,
    smp_wmb,
    store,
    store_release,
    xchg,
)
from model.constants import FINDING_KINDS
from stress.config import load_config
from stress.explore.board import BUFFER_MAX, END_COMPLETE, END_FINDING, MAX_PLAYERS
from stress.explore.interpreted import Interpreted
from stress.explore.opening import set_up
from stress.explore.scenario import opening_of
from stress.explore.schedule import give_runs
from stress.explore.strategies import RUNS

from .programs import Bench, X, Y, Z

CONFIGS = Path(__file__).parents[2] / "configs"
MEMORIES = ("sc", "tso")
DRAIN = MAX_PLAYERS  # of player 0's buffer


@pytest.fixture
def tso():
    return Bench("tso")


def both(*parts):
    """What can be said under sc and under tso."""
    return tuple(Bench(memory).said(*parts) for memory in MEMORIES)


def nothing():
    pass


# --- store buffering


def buffering(mine, other, fence=nothing, put=store, get=load):
    def part(w, say):
        put(w, mine, 1)
        fence()
        say(get(w, other))

    return part


EVERY = {((a,), (b,)) for a in (0, 1) for b in (0, 1)}
NOT_BOTH_OLD = EVERY - {((0,), (0,))}


def test_store_buffering():
    """Two actors store and then load the other's word: both may see the old value, but only with store buffers."""
    assert both(buffering(X, Y), buffering(Y, X)) == (NOT_BOTH_OLD, EVERY)


@pytest.mark.parametrize("fence", [smp_rmb, smp_wmb, nothing])
@pytest.mark.parametrize(("put", "get"), [(store, load), (store_release, load_acquire)])
def test_weaker_barriers_do_not_forbid_store_buffering(fence, put, get):
    """Release, acquire, smp_rmb() and smp_wmb() order nothing between a store and a later load."""
    assert both(buffering(X, Y, fence, put, get), buffering(Y, X, fence, put, get)) == (NOT_BOTH_OLD, EVERY)


def test_a_full_barrier_on_both_sides_forbids_store_buffering():
    """With smp_mb() between store and load, on both sides, one of the two sees the other's store; on one side is not enough."""
    fenced = buffering(X, Y, smp_mb), buffering(Y, X, smp_mb)
    assert both(*fenced) == (NOT_BOTH_OLD, NOT_BOTH_OLD)
    assert both(fenced[0], buffering(Y, X)) == (NOT_BOTH_OLD, EVERY)


ATOMICS = {
    "xchg": lambda w: xchg(w, Z, 1),
    "cmpxchg": lambda w: cmpxchg(w, Z, 0, 1),
    "cmpxchg that fails": lambda w: cmpxchg(w, Z, 5, 1),
    "fetch_add": lambda w: fetch_add(w, Z, 1),
    "fetch_or": lambda w: fetch_or(w, Z, 1),
    "fetch_and": lambda w: fetch_and(w, Z, 1),
    "atomic_add": lambda w: atomic_add(w, Z, 1),
    "add_test": lambda w: add_test(w, Z, 2, 1),
}


@pytest.mark.parametrize("atomic", ATOMICS.values(), ids=list(ATOMICS))
def test_an_atomic_operation_empties_the_store_buffer(atomic):
    """A locked instruction orders like a full barrier, on whatever word, whether it succeeds or not."""

    def part(mine, other):
        def act(w, say):
            store(w, mine, 1)
            atomic(w)
            say(load(w, other))

        return act

    assert both(part(X, Y), part(Y, X)) == (NOT_BOTH_OLD, NOT_BOTH_OLD)


@pytest.mark.parametrize("atomic", ["xchg", "fetch_or"])
def test_an_atomic_store_needs_no_barrier(atomic):
    """Stored by a locked instruction, a value is visible before the next load is made."""
    operation = {"xchg": xchg, "fetch_or": fetch_or}[atomic]
    assert both(buffering(X, Y, put=operation), buffering(Y, X, put=operation)) == (NOT_BOTH_OLD, NOT_BOTH_OLD)


# --- what x86 never reorders


def test_message_passing():
    """Stores become visible in program order, loads are made in it: who sees the flag sees the message."""

    def sender(w, say):
        store(w, X, 1)
        store(w, Y, 1)

    def receiver(w, say):
        say(load(w, Y))
        say(load(w, X))

    seen = {((), said) for said in ((0, 0), (0, 1), (1, 1))}
    assert both(sender, receiver) == (seen, seen)


def test_load_buffering():
    """A store never becomes visible before an earlier load is made: not both loads see the other's store."""

    def part(mine, other):
        def act(w, say):
            say(load(w, other))
            store(w, mine, 1)

        return act

    expected = EVERY - {((1,), (1,))}
    assert both(part(X, Y), part(Y, X)) == (expected, expected)


def test_independent_reads_of_independent_writes():
    """Two readers never disagree about the order of two writers' stores."""

    def writer(word):
        return lambda w, say: store(w, word, 1)

    def reader(first, second):
        def part(w, say):
            say(load(w, first))
            say(load(w, second))

        return part

    parts = writer(X), writer(Y), reader(X, Y), reader(Y, X)
    pairs = {(a, b) for a in (0, 1) for b in (0, 1)}
    expected = {((), (), a, b) for a in pairs for b in pairs} - {((), (), (1, 0), (1, 0))}
    assert both(*parts) == (expected, expected)


def test_two_writes_each():
    """2+2W: two actors who store to both words, crosswise: not both first stores can be the last ones."""

    def part(first, second, value):
        def act(w, say):
            store(w, first, value)
            store(w, second, value + 1)

        return act

    for memory in MEMORIES:
        left = {words[:2] for _, words, _ in Bench(memory).outcomes(part(X, Y, 1), part(Y, X, 3))}
        assert left == {(1, 2), (4, 3), (4, 2)}


def test_coherence():
    """Two loads of one word never see two stores of one actor in the wrong order."""

    def writer(w, say):
        store(w, X, 1)
        store(w, X, 2)

    def reader(w, say):
        say(load(w, X))
        say(load(w, X))

    expected = {((), (a, b)) for a in (0, 1, 2) for b in (0, 1, 2) if a <= b}
    assert both(writer, reader) == (expected, expected)


def test_write_to_read_causality():
    """Who has seen a store and tells of it is believed: a store is visible to everybody at once."""

    def writer(w, say):
        store(w, X, 1)

    def teller(w, say):
        say(load(w, X))
        store(w, Y, 1)

    def listener(w, say):
        say(load(w, Y))
        say(load(w, X))

    expected = {((), (a,), (b, c)) for a in (0, 1) for b in (0, 1) for c in (0, 1)} - {((), (1,), (1, 0))}
    assert both(writer, teller, listener) == (expected, expected)


# --- an actor and its own stores


def test_an_actor_sees_its_own_stores_first():
    """Forwarding: both see their own store and not yet the other's, which no order of the stores explains."""

    def part(mine, other):
        def act(w, say):
            store(w, mine, 1)
            say(load(w, mine))
            say(load(w, other))

        return act

    sc, tso = both(part(X, Y), part(Y, X))
    assert sc == {((1, a), (1, b)) for ((a,), (b,)) in NOT_BOTH_OLD}
    assert tso == {((1, a), (1, b)) for ((a,), (b,)) in EVERY}


def test_a_forwarded_load_may_also_come_late():
    """Once its own store has drained, an actor sees what others have stored since, also behind a load of another word."""

    def part(w, say):
        store(w, X, 1)
        say(load(w, Y))
        say(load(w, X))

    def other(w, say):
        store(w, X, 2)

    assert both(part, other) == ({((0, 1), ()), ((0, 2), ())},) * 2


def test_the_newest_of_several_stores_is_seen(tso):
    """Of its stores to one word an actor sees the last one, others each of them in turn."""

    def part(w, say):
        store(w, X, 1)
        store(w, X, 2)
        say(load(w, X))

    def other(w, say):
        say(load(w, X))

    assert tso.said(part, other) == {((2,), (0,)), ((2,), (1,)), ((2,), (2,))}


def test_plain_accesses_see_the_own_stores_only(tso):
    """A plain read of the record between primitives sees the actor's buffered stores, and nobody else's."""

    def part(mine, other):
        def act(w, say):
            store(w, mine, 1)
            say(int(w[mine]))
            load(w, Z)
            say(int(w[mine]))
            say(int(w[other]))

        return act

    # Depth first alone: a plain access is nothing that DPOR knows of.
    said = {seen.said for seen in tso.executions(part(X, Y), part(Y, X))}
    assert {(a[:2], b[:2]) for a, b in said} == {((1, 1), (1, 1))}
    assert {(a[2], b[2]) for a, b in said} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_an_actor_in_wait_sees_its_own_stores(tso):
    """block() on a word that the actor itself has changed returns, drained or not."""

    def part(w, say):
        store(w, X, 1)
        block(w, X, 0, w, X, 0)
        say(load(w, Y))

    assert tso.said(part, buffering(Y, X)) == EVERY


def test_a_waiter_is_woken_by_what_has_drained(tso):
    """A store that is still in its buffer wakes nobody; when it drains, what was stored before it is there."""

    def sender(w, say):
        store(w, Y, 7)
        store(w, X, 1)

    def waiter(w, say):
        block(w, X, 0, w, X, 0)
        say(load(w, Y))

    assert tso.said(sender, waiter) == {((), (7,))}


def test_a_retry_is_woken_by_what_has_drained(tso):
    """The store that makes another attempt worth while is one that everybody can see, also where the own one hid it before."""

    def sender(w, say):
        store(w, X, 1)

    def reader(w, say):
        attempt()
        while load(w, X) != 1:
            retry_pause()

    assert tso.ends(sender, reader) == {"complete"}

    def own_store_first(w, say):
        store(w, X, 5)
        reader(w, say)

    assert {end for end, _, _ in tso.outcomes(sender, own_store_first)} == {"complete", "livelock"}


# --- the buffer itself


def test_stores_leave_in_order(tso):
    """First in, first out: of all that others can see at one moment, each store is there if the one behind it is."""

    def part(w, say):
        for word in (X, Y, Z):
            store(w, word, 1)

    def other(w, say):
        for word in (Z, Y, X):
            say(load(w, word))

    assert tso.said(part, other) == {((), said) for said in ((0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 1, 1))}


def test_a_store_may_stay_until_the_end(tso):
    """Nothing forces a store out but a barrier, a full buffer, and the end of the actors."""

    def part(w, say):
        store(w, X, 1)
        for _ in range(3):
            load(w, Y)

    seen = {(seen.schedule, seen.words) for seen in tso.executions(part)}
    orders = {(DRAIN, 0, 0, 0), (0, DRAIN, 0, 0), (0, 0, DRAIN, 0), (0, 0, 0, DRAIN)}
    assert seen == {(order, (1, 0, 0)) for order in orders}


def test_a_full_buffer_makes_an_actor_wait(tso):
    """A buffer holds BUFFER_MAX stores; the next one waits for room, and all of them arrive in order."""

    def part(w, say):
        for value in range(1, BUFFER_MAX + 3):
            store(w, X, value)
        say(load(w, X))

    for seen in tso.executions(part, count=200):
        assert seen.end == "complete"
        assert seen.words[X] == BUFFER_MAX + 2
        assert seen.said == ((BUFFER_MAX + 2,),)
        # Two stores had to wait for a drain first.
        assert seen.schedule[0] == DRAIN


def test_a_barrier_with_nothing_to_wait_for_is_no_step(tso):
    """smp_mb() is a place to switch only where stores are waiting to leave."""

    def part(w, say):
        smp_mb()
        load(w, X)
        smp_mb()

    (seen,) = tso.executions(part)
    assert seen.steps == 1


# --- the barrier at guest entry


def entry_barrier(memory, *bugs):
    """Findings of the scenario that is made for it, with every two interruptions in the first steps of both actors."""
    opening = opening_of(load_config(CONFIGS / "explore" / "entry-barrier.toml"))
    opening = replace(opening, memory=memory, settings=opening.settings.with_bugs(*bugs))
    table = set_up(opening)
    engine = Interpreted(table)
    board = table.board
    board.strategy[0] = RUNS
    found = set()
    sums = np.zeros(1, np.int64)
    rest = [("ctl", 1000), ("vcpu0.drain", BUFFER_MAX), ("ctl", 1000), ("ctl.drain", BUFFER_MAX), ("vcpu0", 1000)]
    for by_ctl in range(25):
        for by_vcpu in range(15):
            give_runs(board, [("ctl", by_ctl), ("vcpu0", by_vcpu), *rest], opening.actors)
            engine.search(0, 1, 0, sums, False)
            assert board.end[0] in {END_COMPLETE, END_FINDING}
            if board.end[0] == END_FINDING:
                finding = table.vm.finding
                found.add((FINDING_KINDS[int(finding.kind[0])], int(finding.invariant[0])))
    return found


def test_the_barrier_at_guest_entry_is_needed():
    """Without the full barrier of vcpu_enter_guest() store buffers make a stale use; with it, or without them, there is none.

    The mode must stay in the buffer until the sender has looked at it, then leave before synchronize_srcu() of swap #2.
    """
    assert entry_barrier("tso", "no-entry-barrier") == {("stale-use", 3)}
    assert entry_barrier("sc", "no-entry-barrier") == set()
    assert entry_barrier("tso") == set()
