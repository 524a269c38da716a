# SPDX-License-Identifier: GPL-2.0-only
"""The interpreted engine: the model's own functions under greenlets in one thread, one random interleaving after another.

Every primitive is a scheduling point. An actor in wait_while() is disabled until its word (or its IPI word) changes, one in
retry_pause() until another actor has written a word that its failed attempt read. Nobody enabled is a deadlock, or a
livelock if some of them retry. The same seed gives the same interleaving.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import greenlet

from model import atomics
from model.actors import actor_main
from model.constants import FINDING_KINDS, LOCKDEP
from model.layout import ACTOR_CTL, ACTOR_RCU, ACTOR_TOGGLER, Vm, actor_name, empty_vm, views
from model.trace import tracer
from model.vm import VmSettings, setup_vm

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Execution", "interleave"]


@dataclass(frozen=True)
class Execution:
    """One interleaving: what it found, how long it was, and what stopped it if it did not come to its end."""

    findings: tuple[tuple[str, str], ...]  # kind and rule, in the order in which they were seen
    points: int
    stuck: str | None
    events: list[tuple[int, ...]]
    vm: Vm


class _Actor:
    def __init__(self, number: int, main: Callable[[], None]) -> None:
        self.number = number
        self.greenlet = greenlet.greenlet(main)
        self.wait: tuple[Any, ...] | None = None
        self.retrying = False
        self.dirty = False  # a word that this attempt read has been written by another actor since
        self.reads: set[tuple[int, Any]] = set()


class _RandomScheduler:
    """Implements atomics.Scheduler; picks the next actor at random among the enabled ones.

    An actor keeps running for a while before another comes in: uniform switching at every point hardly ever lets one actor get
    far enough ahead, so each execution draws its own mean run length.
    """

    def __init__(self, seed: int, points_max: int) -> None:
        self._random = random.Random(seed)
        self._switch = self._random.choice((1.0, 0.3, 0.1, 0.03))
        self._points_max = points_max
        self.points = 0
        self._actors: list[_Actor] = []
        self._current: _Actor | None = None
        self._hub = greenlet.getcurrent()

    def run(self, actors: list[_Actor]) -> str | None:
        """Run all actors to their end; returns why that was impossible, or None."""
        self._actors = actors
        live = list(actors)
        while live:
            enabled = [actor for actor in live if self._enabled(actor)]
            if not enabled:
                kind = "livelock: " if any(actor.retrying for actor in live) else "deadlock: "
                return kind + ", ".join(self._position(actor) for actor in live)
            if self.points > self._points_max:
                return f"no end within {self._points_max} scheduling points"
            actor = enabled[int(self._random.random() * len(enabled))]
            actor.wait = None
            self._current = actor
            actor.greenlet.switch()
            if actor.greenlet.dead:
                live.remove(actor)
        return None

    def kill(self) -> None:
        for actor in self._actors:
            actor.greenlet.throw()

    def _enabled(self, actor: _Actor) -> bool:
        if actor.retrying:
            return actor.dirty
        if actor.wait is None:
            return True
        array, index, value, array2, index2, value2 = actor.wait
        return bool(array[index] != value or array2[index2] != value2)

    @staticmethod
    def _position(actor: _Actor) -> str:
        frame = actor.greenlet.gr_frame
        while frame is not None and frame.f_code.co_filename.endswith(("atomics.py", "interleave.py", "wait.py")):
            frame = frame.f_back
        where = "?" if frame is None else f"{frame.f_code.co_name}:{frame.f_lineno}"
        return f"{actor_name(actor.number)} {'retries' if actor.retrying else 'waits'} in {where}"

    def point(self, primitive: int, array: Any, index: Any) -> None:
        self.points += 1
        current = self._current
        if current is None:
            return
        if self._random.random() < self._switch or self.points > self._points_max:
            self._hub.switch()
        # Only now, since the word is touched as soon as this returns: nobody may look at it in between.
        if array is not None:
            word = (id(array), index)
            current.reads.add(word)
            if primitive not in atomics.READS:
                for actor in self._actors:
                    if actor is not current and word in actor.reads:
                        actor.dirty = True

    def block(self, array: Any, index: Any, value: int, array2: Any, index2: Any, value2: int) -> None:
        current = self._current
        if current is None:
            return
        self.points += 1
        current.wait = (array, index, value, array2, index2, value2)
        self._hub.switch()

    def retry(self) -> None:
        current = self._current
        if current is None:
            return
        self.points += 1
        current.retrying = True
        self._hub.switch()
        current.retrying = current.dirty = False
        current.reads.clear()


def interleave(
    settings: VmSettings,
    seed: int,
    points_max: int = 200_000,
    prepare: Callable[[Vm], None] | None = None,
) -> Execution:
    """Run one random interleaving of a small scenario.

    Args:
        settings: a scenario that ends by itself (operations_max and entries_max set).
        seed: chooses the interleaving; the settings' own seed chooses the operations and accesses.
        points_max: scheduling points after which the execution counts as stuck.
        prepare: a last change to the record before the actors start.
    """
    vm = views(empty_vm())
    setup_vm(vm, settings)
    if prepare is not None:
        prepare(vm)
    numbers = [*range(settings.nr_vcpus), ACTOR_CTL, ACTOR_RCU]
    if settings.toggler_mode != "off":
        numbers.append(ACTOR_TOGGLER)
    scheduler = _RandomScheduler(seed, points_max)
    actors = [_Actor(number, lambda number=number: actor_main(vm, number)) for number in numbers]  # type: ignore[misc]
    tracer.events, tracer.ticks = [], 0
    atomics.engine.scheduler = scheduler
    try:
        stuck = scheduler.run(actors)
        events = tracer.events
    finally:
        atomics.engine.scheduler = None
        tracer.events = None
        scheduler.kill()
    count = min(int(vm.run.nr_findings[0]), len(vm.finding.kind))
    findings = tuple((FINDING_KINDS[int(vm.finding.kind[n])], _rule(int(vm.finding.invariant[n]))) for n in range(count))
    return Execution(findings, scheduler.points, stuck, events, vm)


def _rule(number: int) -> str:
    return "lockdep" if number == LOCKDEP else f"I{number}"
