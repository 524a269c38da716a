# SPDX-License-Identifier: GPL-2.0-only
"""A stage for model functions: small VMs, and actors that a test moves by hand, one primitive at a time, or at random.

Unlike the exploring engine (stress/explore), which finds interleavings, a test here says who moves and how far, so that one
particular interleaving can be told as a story.
"""

from __future__ import annotations

import random
from dataclasses import replace

import greenlet

from model import atomics
from model.constants import FINDING_KINDS
from model.layout import ACTOR_CTL, MAX_FINDINGS, empty_vm, views
from model.locks import mutex_lock, mutex_unlock
from model.rcu import rcu_thread
from model.trace import tracer
from model.vm import SlotSettings, VmSettings, setup_vm

CTL = ACTOR_CTL
STEPS_MAX = 100_000

SMALL = VmSettings(
    nr_vcpus=2,
    levels=2,
    bits_per_level=1,
    slots=(SlotSettings(0, 2, can_delete=True), SlotSettings(2, 1, can_delete=True, move_to=3)),
    nr_pages=40,
    seed=1,
    tlb_entries=4,
)


def small_vm(**changes):
    """A VM of 4 gfns (unless changed): gfns 0 and 1 for a slot, 2 for one that may move to 3."""
    vm = views(empty_vm())
    setup_vm(vm, replace(SMALL, **changes))
    return vm


def findings(vm):
    """Kind and rule of every finding kept, in the order in which they were seen."""
    count = min(int(vm.run.nr_findings[0]), MAX_FINDINGS)
    return [(FINDING_KINDS[vm.finding.kind[n]], int(vm.finding.invariant[n])) for n in range(count)]


def details(vm):
    """The sentence codes of the findings."""
    return [int(vm.finding.detail[n]) for n in range(min(int(vm.run.nr_findings[0]), MAX_FINDINGS))]


class Recorder:
    """Collects the events of a block: (time, actor, kind, gfn, root, pfn, incarnation, arg0, arg1)."""

    def __enter__(self):
        tracer.events = self.events = []
        return self

    def __exit__(self, *exc):
        tracer.events = None

    def kinds(self, actor=None):
        return [event[2] for event in self.events if actor is None or event[1] == actor]


class Locked:
    """slots_lock, as kvm_set_memory_region() holds it."""

    def __init__(self, vm, me=CTL):
        self.vm, self.me = vm, me

    def __enter__(self):
        mutex_lock(self.vm, self.me, self.vm.slots_lock)

    def __exit__(self, *exc):
        mutex_unlock(self.vm, self.me, self.vm.slots_lock)


def drain_rcu(vm, actor=65):
    """Run all RCU callbacks queued so far; nobody may be inside a section."""
    vm.run.rcu_stop[0] = 1
    rcu_thread(vm, actor)
    vm.run.rcu_stop[0] = 0


class Stage:
    """The scheduler of model/atomics.py, played by the test.

    An actor that was moved stands right before its next primitive. What the test itself calls runs without a break.
    """

    def __init__(self):
        self.hub = greenlet.getcurrent()
        self.actors = {}
        self.next = {}
        self.waits = {}
        self.current = None
        self.error = None

    def __enter__(self):
        atomics.engine.scheduler = self
        return self

    def __exit__(self, *exc):
        atomics.engine.scheduler = None
        self.current = None
        for actor in self.actors.values():
            if not actor.dead:
                actor.throw()

    # --- atomics.Scheduler

    def _pause(self, primitive, array, index):
        if self.current is None:
            return
        self.next[self.current] = (primitive, array, index)
        self.hub.switch()

    def operate(self, primitive, array, index, a, b):
        self._pause(primitive, array, index)
        return atomics.apply(primitive, array, index, a, b)

    def block(self, array, index, value, array2, index2, value2):
        assert self.current is not None, "the test itself would wait forever"
        self.waits[self.current] = (array, index, value, array2, index2, value2)
        self._pause(atomics.BLOCK, array, index)

    def retry(self):
        self._pause(atomics.RETRY_PAUSE, None, 0)

    # --- the test's hands

    def add(self, name, function, *args):
        """Put an actor on the stage, before its first step."""
        self.actors[name] = greenlet.greenlet(lambda: function(*args))

    def done(self, name):
        return self.actors[name].dead

    def waiting(self, name):
        """Is the actor blocked on a word that has not changed?"""
        if name not in self.waits or self.done(name):
            return False
        array, index, value, array2, index2, value2 = self.waits[name]
        return bool(array[index] == value and array2[index2] == value2)

    def step(self, name):
        """Let an actor make its next primitive, up to the one behind it."""
        assert not self.done(name), f"{name} has come to its end"
        assert not self.waiting(name), f"{name} waits in {self.inside(name)}"
        self.waits.pop(name, None)
        self.current = name
        try:
            self.actors[name].switch()
        finally:
            self.current = None

    def inside(self, name):
        """The names of the functions in which an actor stands, innermost first."""
        names, frame = [], self.actors[name].gr_frame
        while frame is not None:
            names.append(frame.f_code.co_name)
            frame = frame.f_back
        return names

    def run_until(self, name, condition):
        """Move an actor until the condition holds; it must neither end nor wait before."""
        for _ in range(STEPS_MAX):
            if condition():
                return
            self.step(name)
        raise AssertionError(f"{name} never gets there")

    def run_into(self, name, function):
        """Move an actor until it stands inside a function of that name."""
        self.run_until(name, lambda: function in self.inside(name))

    def run_to(self, name, primitive, array):
        """Move an actor until its next primitive is this one on a word of this array."""

        def there():
            at = self.next.get(name, (None, None, None))
            return at[0] == primitive and at[1] is array

        self.run_until(name, there)

    def finish(self, *names):
        """Move actors, one after the other, to their ends."""
        for name in names:
            for _ in range(STEPS_MAX):
                if self.done(name):
                    break
                self.step(name)
            assert self.done(name)

    def run_until_waiting(self, name):
        """Move an actor until it blocks."""
        self.run_until(name, lambda: self.waiting(name))

    def kill(self, name):
        """The actor does nothing more; another one may be added under its name."""
        self.actors[name].throw()
        self.waits.pop(name, None)

    def run_at_random(self, seed, before_step=lambda chance: None):
        """Move everybody at random until nobody can move; returns the names of those who have not come to their end."""
        chance = random.Random(seed)
        stay = chance.choice((0.0, 0.7, 0.95))
        name = None
        for _ in range(STEPS_MAX):
            before_step(chance)
            enabled = [other for other in self.actors if not self.done(other) and not self.waiting(other)]
            if not enabled:
                break
            if name not in enabled or chance.random() >= stay:
                name = chance.choice(enabled)
            self.step(name)
        return [other for other in self.actors if not self.done(other)]
