# SPDX-License-Identifier: GPL-2.0-only
"""The compiled primitives are as weak as the kernel's on the same CPU: what x86 may reorder is reordered, the rest never is.

The litmus tests are those of the requests (model/requests.py, model/vcpu.py). Two threads on two CPUs run one side each, round
after round, inside compiled code: the sides meet, each waits a short random time and makes its few accesses. Which side resets
which word between the rounds decides whose cache the word is in when the next one begins, so that whatever may be late is late.
What must be seen is looked for in up to LIMIT rounds, more than 1000 times the usual number; no test depends on time.
"""

from __future__ import annotations

import functools
import os
import platform
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pytest

from model.atomics import (
    PLAIN,
    add_test,
    atomic_add,
    cmpxchg,
    engine,
    fetch_add,
    fetch_and,
    fetch_or,
    load,
    load_acquire,
    smp_mb,
    smp_rmb,
    smp_wmb,
    store,
    store_release,
    xchg,
)
from model.constants import EXITING_GUEST_MODE, IN_GUEST_MODE, OUTSIDE_GUEST_MODE
from model.jit import kernel
from model.native import cpu_relax, sched_yield

BLOCK = 20_000  # rounds between two looks at what was seen
ROUNDS = 300_000  # that must pass without a forbidden outcome: hundreds of times the usual number until one is seen
LIMIT = 10_000_000  # that may pass before an outcome is seen

# One word of each cache line, and no two lines that a prefetcher takes together.
LINE = 32
MODE = REASON = 0
REQUESTS = LINE
ARRIVED = (2 * LINE, 3 * LINE)
WORDS = 4 * LINE
# A record, as the model's: the references to an array would be counted, with locked instructions.
SHARED = np.dtype([("word", np.int64, (WORDS,))])

REQUEST = 1

# What the two sides of a round see, added up.
NOTHING, SAW_REQUEST, SAW_OTHER, BOTH = range(4)

# Longer than a round takes if both sides run, shorter than a time slice.
SPINS = 20_000


@functools.cache
def two_cpus():
    """Two CPUs that this process may use, on different cores if there are such; fewer if there are not two."""

    def core(cpu):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        return siblings.read_text(encoding="ascii") if siblings.exists() else ""

    first, *others = sorted(os.sched_getaffinity(0))
    others.sort(key=lambda cpu: core(cpu) == core(first))
    return [first, *others[:1]]


needs_two_cpus = pytest.mark.skipif(len(two_cpus()) < 2, reason="this process has one CPU: nothing runs at the same time")
needs_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="a statement about x86-64, its order and instructions")


@pytest.fixture(autouse=True)
def _plain_build():
    assert engine.build == PLAIN, "another test has chosen a build in this process"


# --- the sides: what they do in a round, as the model does it, and what they see


@functools.cache
def vcpu_enters(*, barrier):
    """vcpu_enter_guest(): the mode, the barrier, the requests."""

    @kernel
    def act(shared):
        store_release(shared.word, MODE, IN_GUEST_MODE)
        if barrier:
            smp_mb()
        return SAW_REQUEST if load(shared.word, REQUESTS) != 0 else NOTHING

    return act


@functools.cache
def plain_sender(*, barrier):
    """A sender as weak as the vCPU: a store, the barrier, a load."""

    @kernel
    def act(shared):
        store(shared.word, REQUESTS, REQUEST)
        if barrier:
            smp_mb()
        return SAW_OTHER if load(shared.word, MODE) != OUTSIDE_GUEST_MODE else NOTHING

    return act


@functools.cache
def sender(*, barrier):
    """kvm_make_all_cpus_request(): two instructions that are locked, with the barrier in between."""

    @kernel
    def act(shared):
        fetch_or(shared.word, REQUESTS, REQUEST)
        if barrier:
            smp_mb()
        return SAW_OTHER if cmpxchg(shared.word, MODE, IN_GUEST_MODE, EXITING_GUEST_MODE) != OUTSIDE_GUEST_MODE else NOTHING

    return act


@functools.cache
def vcpu_checks(*, barrier):
    """kvm_check_request(): the request is seen and taken, then what it was made for is read."""

    @kernel
    def act(shared):
        seen = NOTHING
        if load(shared.word, REQUESTS) & REQUEST != 0:
            fetch_and(shared.word, REQUESTS, ~REQUEST)
            if barrier:
                smp_mb()
            seen = SAW_REQUEST
        return seen | (SAW_OTHER if load(shared.word, REASON) != 0 else NOTHING)

    return act


@functools.cache
def plain_reader(*, barrier):
    """The same with loads alone, which nothing but a read barrier keeps in order."""

    @kernel
    def act(shared):
        seen = SAW_REQUEST if load(shared.word, REQUESTS) != 0 else NOTHING
        if barrier:
            smp_rmb()
        return seen | (SAW_OTHER if load(shared.word, REASON) != 0 else NOTHING)

    return act


@functools.cache
def requester(*, barrier):
    """kvm_make_request(): the reason, the write barrier, the request."""

    @kernel
    def act(shared):
        store(shared.word, REASON, 1)
        if barrier:
            smp_wmb()
        fetch_or(shared.word, REQUESTS, REQUEST)
        return NOTHING

    return act


@functools.cache
def plain_writer(*, barrier):
    """The same with stores alone."""

    @kernel
    def act(shared):
        store(shared.word, REASON, 1)
        if barrier:
            smp_wmb()
        store(shared.word, REQUESTS, REQUEST)
        return NOTHING

    return act


# --- the rounds


@kernel
def _meet(shared, me, number):
    store_release(shared.word, ARRIVED[me], number)
    spins = 0
    while load_acquire(shared.word, ARRIVED[1 - me]) < number:
        spins += 1
        if spins < SPINS:
            cpu_relax()
        else:
            # The other side does not run now.
            sched_yield()


@functools.cache
def compiled(act, me, resets):
    """One side of a litmus test, compiled; it holds no GIL."""

    @numba.njit(nogil=True)
    def rounds(shared, seen, first, random):
        for n in range(seen.size):
            _meet(shared, me, 2 * (first + n))
            store(shared.word, resets, 0)
            _meet(shared, me, 2 * (first + n) + 1)
            # Up to 511 steps, and often few: how far apart two CPUs are is not known.
            for _ in range((random >> 33 & 511) >> (random >> 42 & 7)):
                random = random * 6364136223846793005 + 1442695040888963407
            random = random * 6364136223846793005 + 1442695040888963407
            seen[n] = act(shared)

    rounds(np.zeros(1, SHARED)[0], np.zeros(0, np.int64), 0, 0)
    return rounds


def outcomes(one, two, *, resets, until):
    """Blocks of rounds, at most LIMIT rounds, until the counts of the four outcomes satisfy `until`; returns the counts."""
    sides = [compiled(one, 0, resets[0]), compiled(two, 1, resets[1])]
    shared, seen = np.zeros(1, SHARED)[0], np.zeros((2, BLOCK), np.int64)
    counts = np.zeros(4, np.int64)

    def thread(cpu):
        return ThreadPoolExecutor(1, initializer=os.sched_setaffinity, initargs=(0, {cpu}))

    cpus = two_cpus()
    with thread(cpus[0]) as here, thread(cpus[1]) as there:
        for first in range(1, LIMIT, BLOCK):
            running = [who.submit(sides[n], shared, seen[n], first, 2 * first + n) for n, who in enumerate((here, there))]
            for side in running:
                side.result()
            counts += np.bincount(seen.sum(axis=0), minlength=4)
            if until(counts):
                break
    return counts


def entry_outcomes(vcpu, other, until):
    """Store buffering: each side writes one word and reads the other. The barriers are there to forbid NOTHING.

    Each side resets the word that it reads: the load is quick, the store has to wait for its cache line.
    """
    return outcomes(vcpu, other, resets=(REQUESTS, MODE), until=until)


def seen_in_many_rounds(outcome):
    """Rounds enough, and a proof that the sides were in each other's way: an outcome that is allowed."""
    return lambda counts: counts.sum() >= ROUNDS and counts[outcome] > 0


def message_outcomes(reader, writer, until):
    """Message passing. SAW_REQUEST without its reason is forbidden; SAW_OTHER alone says that the writer came in between.

    The reason is near the reader and far from the writer, the request the other way round: an early second access would show.
    """
    return outcomes(reader, writer, resets=(REASON, REQUESTS), until=until)


@needs_two_cpus
@pytest.mark.parametrize("other", [plain_sender, sender])
def test_with_both_barriers_somebody_sees_the_other(other):
    """A vCPU that enters and a sender of a request never both miss the other's write if both have their barrier."""
    counts = entry_outcomes(vcpu_enters(barrier=True), other(barrier=True), seen_in_many_rounds(BOTH))
    assert counts[NOTHING] == 0
    assert counts[BOTH] > 0, "the sides never met"


@needs_two_cpus
@needs_x86
@pytest.mark.parametrize(
    ("vcpu", "other"),
    [
        pytest.param(vcpu_enters(barrier=False), sender(barrier=True), id="the model without the vCPU's barrier"),
        pytest.param(vcpu_enters(barrier=False), sender(barrier=False), id="a sender with locked instructions alone"),
        pytest.param(vcpu_enters(barrier=False), plain_sender(barrier=True), id="plain accesses, the sender with its barrier"),
        pytest.param(vcpu_enters(barrier=True), plain_sender(barrier=False), id="plain accesses, the vCPU with its barrier"),
    ],
)
def test_without_one_barrier_both_miss_the_other(vcpu, other):
    """A plain store is a plain store: with one barrier dropped, vCPU and sender are seen to miss each other."""
    counts = entry_outcomes(vcpu, other, lambda counts: counts[NOTHING] > 0)
    assert counts[NOTHING] > 0, f"not once in {counts.sum()} rounds: {counts}"


@needs_two_cpus
@needs_x86
def test_locked_instructions_order_the_sender():
    """fetch_or and cmpxchg are full barriers themselves, as the kernel's are: the sender needs no other one on x86."""
    counts = entry_outcomes(vcpu_enters(barrier=True), sender(barrier=False), seen_in_many_rounds(BOTH))
    assert counts[NOTHING] == 0
    assert counts[BOTH] > 0, "the sides never met"


@needs_two_cpus
@needs_x86
@pytest.mark.parametrize(
    ("reader", "writer"),
    [
        pytest.param(plain_reader(barrier=False), plain_writer(barrier=True), id="no smp_rmb"),
        pytest.param(plain_reader(barrier=True), plain_writer(barrier=False), id="no smp_wmb"),
        pytest.param(plain_reader(barrier=False), plain_writer(barrier=False), id="neither"),
        pytest.param(vcpu_checks(barrier=False), requester(barrier=False), id="the model without either"),
    ],
)
def test_message_passing_needs_no_barrier_on_x86(reader, writer):
    """A dropped smp_wmb or smp_rmb (a dropped smp_mb behind the read of the request) cannot be observed on x86.

    TSO keeps stores in order among each other, and loads among each other; only a load may overtake an earlier store. So no run
    on x86 finds such a missing barrier. The compiler keeps the order too: it moves no atomic access across another.
    """
    counts = message_outcomes(reader, writer, seen_in_many_rounds(SAW_OTHER))
    assert counts[SAW_REQUEST] == 0
    assert counts[SAW_OTHER] > 0, "the writer never came between the two loads"


# --- the instructions

PLAIN_ACCESSES = {
    "load": lambda shared: load(shared.word, REQUESTS),
    "store": lambda shared, value: store(shared.word, REQUESTS, value),
    "load_acquire": lambda shared: load_acquire(shared.word, REQUESTS),
    "store_release": lambda shared, value: store_release(shared.word, REQUESTS, value),
    "smp_rmb": lambda shared: smp_rmb(),
    "smp_wmb": lambda shared: smp_wmb(),
    "entry without its barrier": vcpu_enters(barrier=False),
}
FULL_BARRIERS = {
    "smp_mb": lambda shared: smp_mb(),
    "xchg": lambda shared, value: xchg(shared.word, REQUESTS, value),
    "cmpxchg": lambda shared, old, new: cmpxchg(shared.word, REQUESTS, old, new),
    "fetch_add": lambda shared, value: fetch_add(shared.word, REQUESTS, value),
    "fetch_or": lambda shared, value: fetch_or(shared.word, REQUESTS, value),
    "fetch_and": lambda shared, value: fetch_and(shared.word, REQUESTS, value),
    "atomic_add": lambda shared, value: atomic_add(shared.word, REQUESTS, value),
    "add_test": lambda shared, value, mask: add_test(shared.word, REQUESTS, value, mask),
    "entry with its barrier": vcpu_enters(barrier=True),
}

# lock is a prefix, and xchg has it built in.
ORDERING = re.compile(r"^\s*(lock|xchg|mfence)", re.MULTILINE)


def instructions(function):
    """The machine instructions of a function of the shared record and of integers, without those of its wrapper for Python."""
    signature = (numba.from_dtype(SHARED), *[numba.int64] * (function.__code__.co_argcount - 1))
    dispatcher = numba.njit(function)
    dispatcher.compile(signature)
    name = dispatcher.overloads[signature].fndesc.mangled_name
    _, _, body = dispatcher.inspect_asm(signature).partition(f"\n{name}:\n")
    body, end, _ = body.partition("\n.Lfunc_end")
    assert end, f"no function {name}"
    assert "call" not in body, "the primitive is somewhere else"
    return body


@needs_x86
@pytest.mark.parametrize("function", PLAIN_ACCESSES.values(), ids=PLAIN_ACCESSES)
def test_plain_accesses_are_plain_instructions(function):
    """Loads, stores, acquire, release and the one-sided barriers need no instruction that orders the CPU, and have none."""
    assert ORDERING.findall(instructions(function)) == []


@needs_x86
@pytest.mark.parametrize("function", FULL_BARRIERS.values(), ids=FULL_BARRIERS)
def test_full_barriers_are_ordering_instructions(function):
    """The full barrier and every read-modify-write are an instruction that orders the CPU: exactly one."""
    assert len(ORDERING.findall(instructions(function))) == 1
