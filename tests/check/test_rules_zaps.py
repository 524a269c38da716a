# SPDX-License-Identifier: GPL-2.0-only
"""Planted violations of the rules in stress/check/zaps.py: both halves, the flush around them, yields, locks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stress.check.rules import (
    FRONT_LOCK_DROPPED,
    FRONT_NOT_LOCKED,
    FRONT_REQUEST_FIRST,
    FRONT_SAME_GENERATION,
    FRONT_WITHOUT_BACK,
    FRONT_WITHOUT_REQUEST,
    LAST_PUT_BEFORE_ZAP,
    LEFT_AT_COMMIT,
    LEFT_IN_INVALID_ROOT,
    LEFT_IN_VALID_ROOT,
    LOCK_HELD_TWICE,
    LOCK_NOT_HELD,
    ROOT_STILL_SCHEDULED,
    SPTES_LEFT,
    UNLOCK_WITH_OWED_FLUSH,
    YIELD_WITHOUT_PROGRESS,
)
from stress.log.schema import Kind

from . import sample as sm

if TYPE_CHECKING:
    from collections.abc import Iterator

PLANTS = sm.Plants()

HALF_BACK = 2


def _flushes(log: sm.Log, *, zap_all: bool) -> Iterator[tuple[sm.Event, sm.Event]]:
    """Begin and end of every flush that has a front half, or that has none."""
    for begin in log.of(Kind.FLUSH_SHADOW_BEGIN):
        end = log.after(begin, Kind.FLUSH_SHADOW_END)
        if bool(log.between(begin, end, Kind.ZAP_FRONT_BEGIN)) == zap_all:
            yield begin, end


def _fronts(log: sm.Log) -> Iterator[tuple[sm.Event, sm.Event, list[sm.Event]]]:
    """Begin and end of every front half, and its requests."""
    for begin in log.of(Kind.ZAP_FRONT_BEGIN):
        end = log.after(begin, Kind.ZAP_FRONT_END)
        yield begin, end, log.between(begin, end, Kind.REQUEST_SET, arg0=sm.FREE_OBSOLETE_ROOTS)


# --- what a flush leaves behind


def _cleared(log: sm.Log, *, zap_all: bool) -> Iterator[sm.Event]:
    """The changes that take a leaf of the flushed slot away."""
    for begin, end in _flushes(log, zap_all=zap_all):
        for change in log.between(begin, end, Kind.SPTE_CHANGE, actor="ctl", pfn=1):
            if sm.is_leaf(change.arg0) and sm.spte_part(change.arg0, "incarnation") == begin.incarnation:
                yield change


@PLANTS.breaks(LEFT_IN_VALID_ROOT, also={LEFT_AT_COMMIT, SPTES_LEFT})
def leaf_kept_in_valid_root(log, pick, by_ns):
    """A zap-only walk passes over a leaf."""
    log.drop(pick(_cleared(log, zap_all=False)))


@PLANTS.breaks(LEFT_IN_INVALID_ROOT, also={LEFT_AT_COMMIT, SPTES_LEFT})
def leaf_kept_in_invalid_root(log, pick, by_ns):
    """A back half passes over a leaf."""
    log.drop(pick(_cleared(log, zap_all=True)))


@PLANTS.breaks(FRONT_WITHOUT_BACK, also={LAST_PUT_BEFORE_ZAP, ROOT_STILL_SCHEDULED})
def no_back_half(log, pick, by_ns):
    """A flush has no back half, and nobody zaps the root that it invalidated."""
    halves = (Kind.ZAP_BACK_BEGIN, Kind.ZAP_BACK_END, Kind.ROOT_ZAP_BEGIN, Kind.ROOT_ZAP_END)

    def outliving():
        for begin, end in _flushes(log, zap_all=True):
            for mark in log.between(begin, end, Kind.ROOT_INVALIDATE):
                if log.after(mark, Kind.KVM_MMU_FREE_PAGE, root=mark.root).time_ns > end.time_ns:
                    yield begin, end

    begin, end = pick(outliving())
    log.drop(*log.between(begin, end, *halves))


# --- the front half


@PLANTS.breaks(FRONT_NOT_LOCKED)
def front_before_lock(log, pick, by_ns):
    """The front half begins before mmu_lock is taken."""
    begin, _, _ = pick(_fronts(log))
    begin.time_ns = log.before(begin, Kind.LOCK_ACQUIRE, actor=begin.actor, arg0=sm.MMU_WRITE).time_ns - 1


@PLANTS.breaks(FRONT_LOCK_DROPPED)
def lock_dropped_in_front(log, pick, by_ns):
    """mmu_lock is dropped and taken again between F1 and the last request."""
    begin, _, requests = pick(_fronts(log))
    at = pick([begin, *requests[:-1]]).time_ns
    log.add(at + 1, begin.actor, Kind.LOCK_RELEASE, arg0=sm.MMU_WRITE, arg1=1)
    log.add(at + 2, begin.actor, Kind.LOCK_ACQUIRE, arg0=sm.MMU_WRITE, arg1=1)


@PLANTS.breaks(FRONT_REQUEST_FIRST)
def request_before_invalidation(log, pick, by_ns):
    """A root is invalidated after the first vCPU was asked."""
    begin, end, requests = pick(front for front in _fronts(log) if log.between(front[0], front[1], Kind.ROOT_INVALIDATE))
    pick(log.between(begin, end, Kind.ROOT_INVALIDATE)).time_ns = requests[0].time_ns + 1


@PLANTS.breaks(FRONT_WITHOUT_REQUEST)
def vcpu_not_asked(log, pick, by_ns):
    """One vCPU, or none at all, is asked to drop its root."""
    _, _, requests = pick(_fronts(log))
    log.drop(*pick([[pick(requests)], requests]))


@PLANTS.breaks(FRONT_SAME_GENERATION)
def generation_stays(log, pick, by_ns):
    """mmu_valid_gen is what it was."""
    if len(ends := log.of(Kind.ZAP_FRONT_END)) < 2:
        pick([])
    end = pick(ends)
    end.arg0 = 1 - end.arg0


# --- flushes that are owed


def _owed(log: sm.Log) -> Iterator[tuple[sm.Event, sm.Event, sm.Event]]:
    """The requests, their end and the release of every zap that owes a flush."""
    for begin, end in _flushes(log, zap_all=False):
        done = log.between(begin, end, Kind.REQUEST_DONE, arg0=sm.TLB_FLUSH)
        if len(done) == 1:
            asked = log.between(begin, done[0], Kind.REQUEST_SET, arg0=sm.TLB_FLUSH)
            yield asked, done[0], log.after(done[0], Kind.LOCK_RELEASE, actor=begin.actor, arg0=sm.MMU_WRITE)


@PLANTS.breaks(UNLOCK_WITH_OWED_FLUSH)
def flush_forgotten(log, pick, by_ns):
    """The leafs of a valid root are gone, and nobody is asked to flush before mmu_lock is dropped."""
    asked, done, _ = pick(_owed(log))
    log.drop(*asked, done)


@PLANTS.breaks(UNLOCK_WITH_OWED_FLUSH)
def one_does_not_flush(log, pick, by_ns):
    """One vCPU is not asked."""
    asked, _, _ = pick(_owed(log))
    log.drop(pick(asked))


@PLANTS.breaks(UNLOCK_WITH_OWED_FLUSH)
def flush_after_unlock(log, pick, by_ns):
    """The flush has not ended when mmu_lock is dropped."""
    _, done, release = pick(_owed(log))
    done.time_ns = release.time_ns + 1


# --- yields


@PLANTS.breaks(YIELD_WITHOUT_PROGRESS)
def yield_again(log, pick, by_ns):
    """A walk gives the lock up again and again at the same place."""
    at = pick(log.of(Kind.ZAP_YIELD))
    times = log.levels if at.arg0 == HALF_BACK else 1
    for n in range(times):
        log.add(at.time_ns + 1 + n, at.actor, Kind.ZAP_YIELD, gfn=at.gfn, root=at.root, arg0=at.arg0)


@PLANTS.breaks(YIELD_WITHOUT_PROGRESS)
def walk_goes_back(log, pick, by_ns):
    """A zap-only walk goes on before the place where it stood."""
    at = pick(at for at in log.of(Kind.ZAP_YIELD) if at.arg0 != HALF_BACK and at.gfn > 0)
    log.add(at.time_ns + 1, at.actor, Kind.ZAP_YIELD, gfn=at.gfn - 1, root=at.root, arg0=at.arg0)


# --- locks


@PLANTS.breaks(LOCK_HELD_TWICE, clock=True)
def lock_held_twice(log, pick, by_ns):
    """A lock is released only after another actor has taken it, or what excludes it."""

    def followed():
        for release in log.of(Kind.LOCK_RELEASE):
            against = {sm.MMU_READ: [sm.MMU_WRITE], sm.MMU_WRITE: [sm.MMU_READ, sm.MMU_WRITE]}
            for lock in against.get(release.arg0, [release.arg0]):
                taken = log.after(release, Kind.LOCK_ACQUIRE, arg0=lock)
                if taken and taken.actor != release.actor and not log.between(release, taken, *Kind, actor=release.actor):
                    yield release, taken

    release, taken = pick(followed())
    release.time_ns = taken.time_ns + by_ns


@PLANTS.breaks(LOCK_NOT_HELD, also={FRONT_NOT_LOCKED})
def released_and_not_taken(log, pick, by_ns):
    """A lock is released that was not taken."""
    log.drop(pick(log.of(Kind.LOCK_ACQUIRE)))


# --- all of them


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("plant", PLANTS, ids=str)
def test_a_planted_violation_is_found(plant, seed, tmp_path):
    """Each way of breaking one of these rules is found as what it is, whichever events of whichever sample it is done to."""
    sm.assert_found(plant, seed, tmp_path / "run")


@pytest.mark.parametrize("by_ns", [1, 400, sm.WINDOW_NS])
@pytest.mark.parametrize("plant", [plant for plant in PLANTS if plant.clock], ids=str)
def test_an_order_within_the_window_is_ambiguous(plant, by_ns, tmp_path):
    """Two events of two actors that are no further apart than the window prove nothing."""
    sm.assert_ambiguous(plant, by_ns, tmp_path / "run")
