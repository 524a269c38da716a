# SPDX-License-Identifier: GPL-2.0-only
"""Whose turn it may be, and what an execution without one is: each rule with a few actors over a few words."""

from __future__ import annotations

import itertools

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import atomics
from model.atomics import (
    ADD_TEST,
    ATOMIC_ADD,
    CMPXCHG,
    FETCH_ADD,
    FETCH_AND,
    FETCH_OR,
    LOAD,
    LOAD_ACQUIRE,
    STORE,
    STORE_RELEASE,
    XCHG,
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
    might_sleep,
    nap_us,
    retry_pause,
    smp_mb,
    smp_rmb,
    smp_wmb,
    store,
    xchg,
)
from model.layout import ACTOR_CTL, ACTOR_RCU
from model.wait import wait_while
from stress.explore.compiled import bind_board
from stress.explore.schedule import give
from stress.explore.steps import operate

from .programs import Bench, X, Y, Z

OTHER = 3


@pytest.fixture
def bench():
    return Bench()


def put(word, value=1):
    return lambda w, say: store(w, word, value)


def nothing(w, say):
    pass


# --- waiting for a word


@pytest.mark.parametrize("word", [X, Y])
def test_a_waiter_goes_on_once_either_word_has_changed(bench, word):
    """block() returns after the write to one of its two words, and never before."""

    def waiter(w, say):
        block(w, X, 0, w, Y, 0)
        say(load(w, word))

    assert bench.said(waiter, put(word)) == {((1,), ())}


def test_a_waiter_sleeps_through_writes_that_change_nothing(bench):
    """A write of the value that is there, or of another word, wakes nobody."""

    def waiter(w, say):
        block(w, X, 0, w, Y, 0)

    def writer(w, say):
        store(w, X, 0)
        store(w, Z, 1)

    assert bench.ends(waiter, writer) == {"deadlock"}


def test_a_wait_for_what_has_happened_is_none(bench):
    """block() on a word that has another value already returns when its turn comes."""

    def waiter(w, say):
        store(w, X, 1)
        block(w, X, 0, w, Y, 0)
        say(1)

    assert bench.said(waiter) == {((1,),)}


def test_actors_who_wait_for_each_other_are_in_a_deadlock(bench):
    """Nobody can run and somebody waits: a deadlock, and it is known where each of them stands."""

    def first(w, say):
        block(w, X, 0, w, X, 0)
        store(w, Y, 1)

    def second(w, say):
        block(w, Y, 0, w, Y, 0)
        store(w, X, 1)

    (seen,) = bench.executions(first, second)
    assert seen.end == "deadlock"
    assert seen.steps == 0
    assert seen.positions[0].startswith("vcpu0 waits in first:")
    assert seen.positions[1].startswith("vcpu1 waits in second:")
    assert seen.positions[2] == "vcpu2 at its end"


def test_a_wakeup_can_be_lost(bench):
    """A word that changed and changed back before its waiter ran: a lost wake-up, told from a word that never changed."""

    def waiter(w, say):
        load(w, Z)
        block(w, X, 0, w, X, 0)

    def pulse(w, say):
        store(w, X, 1)
        store(w, X, 0)

    by_schedule = {seen.schedule: seen.end for seen in bench.executions(waiter, pulse)}
    assert by_schedule == {
        (0, 1, 0, 1): "complete",
        (0, 1, 1): "lost-wakeup",
        (1, 0, 0, 1): "complete",
        (1, 0, 1): "lost-wakeup",
        (1, 1, 0): "deadlock",  # it began to wait too late
    }


# --- retrying


RETRIES = {
    "a store": (lambda w: store(w, X, 1), True),
    "a store of what is there": (lambda w: store(w, X, 0), True),
    "an exchange": (lambda w: xchg(w, X, 1), True),
    "a cmpxchg that succeeds": (lambda w: cmpxchg(w, X, 0, 1), True),
    "a cmpxchg that fails": (lambda w: cmpxchg(w, X, 5, 1), False),
    "a sum": (lambda w: fetch_add(w, X, 1), True),
    "a sum that nobody asks for": (lambda w: atomic_add(w, X, 1), True),
    "a load": (lambda w: load(w, X), False),
    "another word": (lambda w: store(w, OTHER, 1), False),
    "nothing": (lambda w: None, False),
}


READS = {
    "load": load,
    "load_acquire": load_acquire,
    "cmpxchg": lambda w, word: cmpxchg(w, word, 5, 6),
    "fetch_or": lambda w, word: fetch_or(w, word, 0),
    "add_test": lambda w, word: add_test(w, word, 0, -1),
    "block": lambda w, word: block(w, Y, 1, w, word, 1),
}


@pytest.mark.parametrize("read", READS.values(), ids=list(READS))
@pytest.mark.parametrize(("other", "wakes"), RETRIES.values(), ids=list(RETRIES))
def test_a_retry_waits_for_a_write_to_what_was_read(bench, other, wakes, read):
    """Only a write, by somebody else, to a word that the attempt has read makes another attempt worth while."""

    def reader(w, say):
        attempt()
        read(w, X)
        store(w, Z, 1)
        retry_pause()

    def writer(w, say):
        # Behind the read.
        block(w, Z, 0, w, Z, 0)
        other(w)

    assert bench.ends(reader, writer) == ({"complete"} if wakes else {"livelock"})


def test_own_writes_are_no_news(bench):
    """An attempt that changed what it had read knows that; it waits for somebody else."""

    def reader(w, say):
        attempt()
        load(w, X)
        store(w, X, 1)
        retry_pause()

    assert bench.ends(reader) == {"livelock"}
    assert bench.ends(reader, put(X)) == {"complete", "livelock"}  # the latter if it comes before the read


def test_what_was_read_before_the_attempt_does_not_count(bench):
    """attempt() begins anew: an older read wakes nobody, not even if its word has been written already."""

    def reader(w, say):
        attempt()
        load(w, X)
        store(w, Z, 1)
        load(w, Y)
        attempt()
        load(w, Y)
        retry_pause()

    def writer(w, say):
        block(w, Z, 0, w, Z, 0)
        store(w, X, 1)

    assert bench.ends(reader, writer) == {"livelock"}


def test_every_retry_begins_a_new_attempt(bench):
    """What the last attempt read does not wake the next one."""

    def reader(w, say):
        attempt()
        load(w, X)
        store(w, Z, 1)
        retry_pause()
        load(w, Y)
        store(w, Z, 2)
        retry_pause()

    def writer(word):
        def part(w, say):
            block(w, Z, 0, w, Z, 0)
            store(w, X, 1)
            block(w, Z, 1, w, Z, 1)
            store(w, word, 2)

        return part

    assert bench.ends(reader, writer(Y)) == {"complete"}
    assert bench.ends(reader, writer(X)) == {"livelock"}


def test_a_retry_that_was_overtaken_is_not_lost(bench):
    """The write may come anywhere between the read and the pause; in no interleaving does the reader stay behind."""

    def reader(w, say):
        attempt()
        while load(w, X) == 0:
            load(w, Z)
            retry_pause()
        say(1)

    outcomes = list(bench.executions(reader, put(X)))
    assert {(seen.end, seen.said) for seen in outcomes} == {("complete", ((1,), ()))}
    assert {seen.schedule for seen in outcomes} == {(1, 0), (0, 1, 0, 0, 0), (0, 0, 1, 0, 0)}


def test_a_waiter_among_retries_is_a_livelock(bench):
    """Where somebody retries and nobody can run, it is a livelock, whoever else waits."""

    def spin(w, say):
        attempt()
        while load(w, X) == 0:
            retry_pause()

    def waiter(w, say):
        block(w, X, 0, w, X, 0)

    (first, *_) = bench.executions(spin, waiter)
    assert first.end == "livelock"
    assert first.positions[0].startswith("vcpu0 retries in spin:")
    assert first.positions[1].startswith("vcpu1 waits in waiter:")


# --- ends of another kind


def test_actors_who_keep_each_other_going_are_in_a_livelock():
    """From half of its steps on everybody gets a turn; an execution that does not end then never will."""
    bench = Bench(steps_max=200)

    def one_of(mine, other):
        def part(w, say):
            attempt()
            while True:
                load(w, other)
                store(w, mine, 1)
                retry_pause()

        return part

    for strategy in ("random", "pct", "depth-first", "dpor"):
        (seen,) = bench.executions(one_of(X, Y), one_of(Y, X), strategy=strategy, count=1)
        assert seen.end == "livelock"
        assert seen.steps == 200


def test_who_is_only_kept_from_its_end_comes_to_it():
    """A spinner that somebody else would end is no livelock: the fair half lets that one go on."""
    bench = Bench(steps_max=200)

    def spinner(w, say):
        while load(w, X) == 0:
            pass

    (seen,) = bench.executions(spinner, put(X), count=1)
    assert seen.end == "complete"
    assert 100 <= seen.steps < 110


def test_without_a_fair_half_the_bound_says_nothing():
    """Cut off where the schedule was the strategy's alone, an execution is neither right nor wrong."""
    bench = Bench(steps_max=200)

    def spinner(w, say):
        while load(w, X) == 0:
            pass

    (seen,) = bench.executions(spinner, put(X), count=1, fair_from=200)
    assert (seen.end, seen.steps) == ("step-bound", 200)


def test_actors_without_work_are_no_deadlock():
    """With scripts, a vCPU waits for the VM's end and RCU for callbacks; that is how a complete execution ends."""
    bench = Bench(actors=(0, ACTOR_CTL, ACTOR_RCU))

    def on_word(group, field):
        def part(w, say):
            wait_while(bench.vm, 0, getattr(getattr(bench.vm, group), field), 0, 0)

        return part

    destroyed, kick, requests = on_word("run", "destroyed"), on_word("rcu", "kick"), on_word("vcpu", "mode")
    assert bench.ends(destroyed, nothing, kick) == {"complete"}
    assert bench.finished > 0
    finished = bench.finished
    assert bench.ends(destroyed, requests, kick) == {"deadlock"}
    assert bench.finished == finished


def test_an_idle_actor_can_be_woken():
    """Idle is not gone: a vCPU that has nothing to do still acknowledges an IPI."""
    bench = Bench(actors=(0, ACTOR_CTL))

    def vcpu(w, say):
        wait_while(bench.vm, 0, bench.vm.run.destroyed, 0, 0)

    def sender(w, say):
        sent = fetch_add(bench.vm.actor.ipi_sent, 0, 1) + 1
        block(bench.vm.actor.ipi_acked, 0, sent - 1, bench.vm.actor.ipi_acked, 0, sent - 1)
        say(1)

    assert bench.said(vcpu, sender) == {((), (1,))}


def test_a_finding_ends_an_execution(bench):
    """Once a finding is written down, nobody makes another step."""

    def finder(w, say):
        load(w, X)
        bench.vm.finding.ready[0] = 1
        load(w, Y)
        say(1)

    def bystander(w, say):
        load(w, Y)

    assert {(seen.end, seen.said, seen.schedule[-1]) for seen in bench.executions(finder, bystander)} == {("finding", ((), ()), 0)}


def test_a_schedule_that_cannot_be_followed_diverges(bench):
    """A schedule is followed to the letter, or the execution says that it was not."""

    def waiter(w, say):
        block(w, X, 0, w, X, 0)

    bind_board(bench.table.memory)
    for runs, end in ((["vcpu1", "vcpu0"], "complete"), (["vcpu0", "vcpu1"], "diverged"), (["vcpu1"] * 3, "diverged")):
        give(bench.board, [(name, 1) for name in runs], bench.actors)
        prefix = int(bench.board.prefix[0])
        (seen,) = bench.executions(waiter, put(X), strategy="given", count=1)
        assert (seen.end, prefix) == (end, len(runs))


# --- steps


def test_only_what_touches_a_word_is_a_step(bench):
    """Barriers, naps and the marks of an attempt are no places where another actor could make a difference."""

    def busy(w, say):
        for local in (smp_mb, smp_rmb, smp_wmb, might_sleep, attempt, lambda: nap_us(5)):
            local()
        load(w, X)
        smp_mb()

    (seen,) = bench.executions(busy)
    assert (seen.end, seen.steps) == ("complete", 1)


def test_what_an_actor_does_between_steps_is_one_piece(bench):
    """Nobody comes in between plain accesses: two actors who add plainly behind a step lose nothing."""

    def adder(w, say):
        load(w, Y)
        before = w[X]
        w[X] = before + 1

    assert {words[X] for _, words, _ in bench.outcomes(adder, adder, adder)} == {3}


def test_every_interleaving_is_made_once(bench):
    """The naive search makes each of the interleavings of 3 + 2 + 1 steps exactly once: 6! / (3! 2! 1!)."""

    def steps(count):
        def part(w, say):
            for _ in range(count):
                fetch_add(w, X, 1)

        return part

    schedules = [seen.schedule for seen in bench.executions(steps(3), steps(2), steps(1))]
    assert len(schedules) == len(set(schedules)) == 60
    assert set(schedules) == set(itertools.permutations((0, 0, 0, 1, 1, 2)))


@pytest.mark.parametrize("preemptions", [0, 1, 2])
def test_preemptions_are_bounded(bench, preemptions):
    """Depth first with a bound makes every schedule that interrupts who could go on at most so often, and no other."""

    def steps(w, say):
        for _ in range(3):
            fetch_add(w, X, 1)

    def interruptions(schedule):
        left = {0: 3, 1: 3}
        count = 0
        for now, then in itertools.pairwise(schedule):
            left[now] -= 1
            count += now != then and left[now] > 0
        return count

    every = {seen.schedule for seen in bench.executions(steps, steps)}
    bounded = [seen.schedule for seen in bench.executions(steps, steps, preemptions_max=preemptions)]
    assert len(bounded) == len(set(bounded))
    assert set(bounded) == {schedule for schedule in every if interruptions(schedule) <= preemptions}


_operate = numba.njit(operate)

WORD_PRIMITIVES = (LOAD, STORE, LOAD_ACQUIRE, STORE_RELEASE, XCHG, CMPXCHG, FETCH_ADD, FETCH_OR, FETCH_AND, ATOMIC_ADD, ADD_TEST)


@given(
    st.sampled_from(WORD_PRIMITIVES),
    st.integers(-(2**40), 2**40),
    st.integers(-(2**40), 2**40) | st.just(None),
    st.integers(-(2**40), 2**40),
)
def test_the_scheduler_does_what_the_primitives_do(primitive, value, a, b):
    """Word and result are the same as without a scheduler; what returns nothing there is 0 here."""
    a = value if a is None else a
    word, other = np.full(1, value), np.full(1, value)
    result = _operate(word.ctypes.data, primitive, a, b)
    expected = atomics.apply(primitive, other, 0, a, b)
    assert word[0] == other[0]
    assert result == (0 if primitive in {STORE, STORE_RELEASE, ATOMIC_ADD} else expected)


# --- the same again


def many(w, say):
    for word in (X, Y, Z) * 4:
        say(fetch_add(w, word, 1))
        fetch_and(w, word, 7)
        add_test(w, word, 8, 1)


@pytest.mark.parametrize("memory", ["sc", "tso"])
@pytest.mark.parametrize("strategy", ["random", "pct"])
def test_the_same_seed_gives_the_same_executions(strategy, memory):
    """Ten times the same steps with the same results, in a fresh board too; another seed gives others."""

    def twenty(seed, bench):
        return [
            (seen.digest, seen.trace, seen.schedule, seen.said)
            for seen in bench.executions(many, many, many, strategy=strategy, seed=seed, count=20, length=100)
        ]

    bench = Bench(memory)
    first = twenty(1, bench)
    assert len(set(first)) > 15
    for _ in range(9):
        assert twenty(1, bench) == first
    assert twenty(1, Bench(memory)) == first
    assert twenty(2, bench) != first


def test_an_execution_of_a_seed_does_not_depend_on_those_before_it(bench):
    """Execution n of a seed is the same wherever it is made, so that workers may share them out."""
    five = [seen.schedule for seen in bench.executions(many, many, strategy="random", seed=3, count=5)]
    bench.executions(many, many, strategy="random", seed=8, count=3)
    list(bench.executions(many, many, strategy="random", seed=8, count=3))
    sums = np.zeros(1, np.int64)
    bench.board.seed[0] = 3
    for number in (4, 2, 0):
        bench.engine.search(number, 1, 0, sums, False)
        assert bench._seen().schedule == five[number]
