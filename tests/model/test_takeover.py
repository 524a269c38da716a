# SPDX-License-Identifier: GPL-2.0-only
"""What a dead thread means: its vCPU or its controller lives on in the record, and another thread goes on from there."""

from __future__ import annotations

from collections import Counter

import pytest

from model.actors import actor_main
from model.constants import (
    EV_KVM_EXIT,
    EV_TLB_FLUSH,
    EXIT_SIGNAL,
    KVM_REQ_MMU_FREE_OBSOLETE_ROOTS,
    OUTSIDE_GUEST_MODE,
    PHASE_DONE,
    PHASE_KILLED,
)
from model.layout import ACTOR_RCU
from model.userspace import userspace_create, userspace_delete
from model.vm import SlotSettings

from .stage import CTL, Recorder, Stage, findings, small_vm

VCPU = 0
DEAD_US = 500
SEEDS = 40
DEATHS_MAX = 12
DEATH_PROBABILITY = 0.05


def may_die(vm, actor):
    """Where SIGKILL is acted upon: a vCPU in the guest, a controller in userspace."""
    if vm.actor.held[actor] != 0:
        return False
    return vm.actor.at_rest[actor] == 1 if actor == CTL else vm.vcpu.in_guest[actor] == 1


def kill(stage, vm, name, actor, dead_us=DEAD_US):
    """End an actor's thread where it stands and put another one on the stage."""
    stage.kill(name)
    vm.actor.phase[actor] = PHASE_KILLED
    vm.actor.dead_us[actor] = dead_us
    stage.add(name, actor_main, vm, actor)


@pytest.fixture
def killed():
    """A vCPU whose thread is killed in the guest while a DELETE waits for its acknowledgement, under mmu_lock."""
    vm = small_vm(nr_vcpus=1, entries_max=20, accesses_per_entry_max=4)
    userspace_create(vm, CTL, 0)
    userspace_create(vm, CTL, 1)
    with Stage() as stage:
        stage.add("vcpu0", actor_main, vm, VCPU)
        # Behind a fault or two it is in the guest, with a translation.
        stage.run_until("vcpu0", lambda: may_die(vm, VCPU) and vm.tlb_key[VCPU].any() and "guest_touch" in stage.inside("vcpu0"))
        stage.add("ctl", userspace_delete, vm, CTL, 0)
        stage.run_until_waiting("ctl")
        assert "kvm_make_all_cpus_request" in stage.inside("ctl")
        kill(stage, vm, "vcpu0", VCPU)
        yield vm, stage


def test_the_sender_of_a_request_waits_until_the_guest_was_left(killed):
    """Death alone acknowledges nothing; the exit does, and from there on nobody waits for the vCPU."""
    vm, stage = killed
    assert stage.waiting("ctl")
    with Recorder() as log:
        stage.run_until("vcpu0", lambda: not stage.waiting("ctl"))
        exits = [event for event in log.events if event[2] == EV_KVM_EXIT]
    assert [event[7] for event in exits] == [EXIT_SIGNAL]
    assert (vm.vcpu.in_guest[VCPU], vm.vcpu.mode[VCPU]) == (0, OUTSIDE_GUEST_MODE)
    # Still nobody runs it, and the whole DELETE goes through.
    stage.finish("ctl")
    assert findings(vm) == []


def test_a_dead_vcpu_keeps_its_root_and_its_requests(killed):
    """Its file is open: the reference stands, and the request is served by the thread that takes over."""
    vm, stage = killed
    root = int(vm.vcpu.root_hpa[VCPU])
    stage.run_until("vcpu0", lambda: not stage.waiting("ctl"))
    stage.finish("ctl")
    assert vm.vcpu.root_hpa[VCPU] == root
    assert vm.sp.refcount[root] == 1
    assert vm.vcpu.requests[VCPU] >> KVM_REQ_MMU_FREE_OBSOLETE_ROOTS & 1
    stage.run_until("vcpu0", lambda: vm.vcpu.root_hpa[VCPU] not in {0, root})
    assert vm.vcpu.requests[VCPU] == 0
    assert findings(vm) == []


def test_a_taken_over_vcpu_starts_with_an_empty_tlb(killed):
    """Not with what the CPU of the dead thread held, half-filled entries included."""
    vm, stage = killed
    with Recorder() as log:
        stage.run_into("vcpu0", "vcpu_run")
    assert EV_TLB_FLUSH in log.kinds(VCPU)
    assert not vm.tlb_key[VCPU].any()


def test_nobody_takes_over_when_the_run_stops(killed):
    """A dead vCPU is destroyed with the VM, however long it should have been dead."""
    vm, stage = killed
    entries = int(vm.vcpu.entry_seq[VCPU])
    stage.run_until("vcpu0", lambda: not stage.waiting("ctl"))
    stage.finish("ctl")
    vm.run.stop[0] = 1
    stage.run_until_waiting("vcpu0")
    assert (vm.run.vcpus_running[0], vm.vcpu.root_hpa[VCPU], vm.vcpu.entry_seq[VCPU]) == (0, 0, entries)


class Deaths:
    """Kills at random whom it may, a bounded number of times."""

    def __init__(self, stage, vm, actors):
        self.stage, self.vm, self.actors = stage, vm, actors
        self.count = dict.fromkeys(actors, 0)

    def __call__(self, chance):
        for name, actor in self.actors.items():
            if self.stage.done(name) or sum(self.count.values()) == DEATHS_MAX:
                continue
            if chance.random() < DEATH_PROBABILITY and may_die(self.vm, actor):
                kill(self.stage, self.vm, name, actor, chance.randrange(DEAD_US))
                self.count[name] += 1


def live(seed, quirk):
    """A whole VM's life under deaths; returns how often who died."""
    vm = small_vm(
        slots=(SlotSettings(0, 1), SlotSettings(1, 1, can_delete=True), SlotSettings(2, 1, can_delete=True, move_to=3)),
        seed=seed,
        quirk_slot_zap_all=quirk,
        entries_max=8,
        operations_max=3,
        accesses_per_entry_max=6,
        warmup_accesses=4,
        dwell_us_max=500,
    )
    mortal = {"vcpu0": 0, "vcpu1": 1, "ctl": CTL}
    everybody = {**mortal, "rcu": ACTOR_RCU}
    with Stage() as stage:
        for name, actor in everybody.items():
            stage.add(name, actor_main, vm, actor)
        deaths = Deaths(stage, vm, mortal)
        assert stage.run_at_random(seed, deaths) == [], seed
    assert findings(vm) == [], seed
    assert all(vm.actor.phase[actor] == PHASE_DONE for actor in everybody.values())
    return Counter(deaths.count)


@pytest.mark.parametrize("quirk", [True, False])
def test_deaths_at_random(quirk):
    """Whoever dies whenever he may: the VM comes to its end, nothing leaks, and nothing stale is used."""
    deaths = sum((live(seed, quirk) for seed in range(SEEDS)), Counter())
    assert min(deaths.values()) >= SEEDS
