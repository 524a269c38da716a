# SPDX-License-Identifier: GPL-2.0-only
"""The watchdog's judgement, with a clock and processes that a test drives: hang, slow machine, death."""

from __future__ import annotations

import signal
import subprocess
from types import SimpleNamespace

import pytest

from model.constants import LOG_ALL, LOG_WINDOW, PHASE_DONE, PHASE_RUNNING
from model.layout import ACTOR_CTL, ACTOR_RCU, empty_vm, views
from stress.engine import watch as module
from stress.engine.liveness import ending, is_stopped
from stress.engine.process import FieldTable
from stress.engine.watch import Member, Watch

from . import command as cmd

HANG_S = 2.0
LOOK_S = 0.25


class Stage:
    """Two vCPUs, the controller and the RCU thread; a script for each says what it does between two looks."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        self.cpu = {}
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(module, "_cpu_use", lambda pid: tuple(self.cpu[pid]))
        record = empty_vm()
        self.vm = views(record)
        self.vm.cfg.log_policy[0] = LOG_WINDOW
        self.vm.cfg.ring_slots[0] = 16
        actors = {"vcpu0": 0, "vcpu1": 1, "ctl": ACTOR_CTL, "rcu": ACTOR_RCU}
        self.members = [
            Member(name, actor, SimpleNamespace(pid=number, exitcode=None)) for number, (name, actor) in enumerate(actors.items())
        ]
        self.actors = actors
        for member in self.members:
            self.cpu[member.pid] = [0.0, 0]
            self.vm.actor.phase[member.actor] = PHASE_RUNNING
        self.watch = Watch(self.vm, self.members, FieldTable(), record.ctypes.data, HANG_S)

    def look(self, seconds, **does):
        """Look for so long; each actor `works`, `waits`, `retries`, `spins` or is `starved`."""
        for _ in range(round(seconds / LOOK_S)):
            self.now += LOOK_S
            for member in self.members:
                what = does.get(member.name, "waits" if member.name == "rcu" else "works")
                if what == "waits":
                    self.cpu[member.pid][1] += 400
                elif what != "starved":
                    self.cpu[member.pid][0] += LOOK_S
                self.vm.actor.progress[member.actor] += what == "works"
                self.vm.actor.retries[member.actor] += what == "retries"
            verdict = self.watch.hang(5)
            if verdict != (None, ""):
                return verdict
        return None, ""

    def waits_for(self, name, array):
        self.vm.actor.wait_word[self.actors[name]] = 0 if array is None else array.ctypes.data


@pytest.fixture
def stage(monkeypatch):
    return Stage(monkeypatch)


def test_progress_is_no_hang(stage):
    """As long as everybody gets on there is nothing to say."""
    assert stage.look(60) == (None, "")


def test_a_deadlock(stage):
    """An actor that waits while all others had the CPU: I25, with every actor's wait reason and locks."""
    stage.look(5)
    stage.waits_for("vcpu1", stage.vm.mmu_lock.cnts)
    stage.waits_for("rcu", stage.vm.rcu.kick)
    finding, trouble = stage.look(10, vcpu1="waits")
    assert trouble == ""
    assert (finding.kind, finding.invariant, finding.actor, finding.time_ns) == ("invariant", "I25", "vcpu1", 5)
    assert finding.detail.startswith("no progress for 2 s: waits for mmu_lock.cnts (")
    assert "vcpu0 runs, holding no lock; vcpu1 waits for mmu_lock.cnts" in finding.detail
    assert "rcu waits for rcu.kick" in finding.detail


def test_a_livelock_and_an_endless_loop(stage):
    """Retries without progress are a livelock; neither retries nor a word that is waited for is an endless loop."""
    assert "retries and no progress" in stage.look(10, vcpu0="retries")[0].detail


def test_an_endless_loop(stage):
    """It uses the CPU and gets nowhere."""
    assert ": runs without progress (" in stage.look(10, ctl="spins")[0].detail


def test_a_wait_for_a_starved_actor_is_the_machines_fault(stage):
    """The controller waits for a vCPU that does not get the CPU: no finding, and trouble only once it lasts."""
    stage.look(5)
    stage.waits_for("ctl", stage.vm.actor.ipi_acked)
    assert stage.look(3.5 * HANG_S, ctl="waits", vcpu1="starved") == (None, "")
    finding, trouble = stage.look(2 * HANG_S, ctl="waits", vcpu1="starved")
    assert finding is None
    assert "no progress for 8 s while vcpu1 (pid 1) got no CPU" in trouble


def test_time_without_cpu_does_not_count(stage):
    """Whoever was starved a moment ago gets the whole time again."""
    stage.look(5)
    assert stage.look(0.9 * HANG_S, vcpu0="starved") == (None, "")
    assert stage.look(0.9 * HANG_S, vcpu0="spins") == (None, "")
    assert "runs without progress" in stage.look(HANG_S, vcpu0="spins")[0].detail


def test_a_parent_that_was_away_blames_nobody(stage):
    """After its own pause the watchdog starts anew."""
    stage.look(5)
    stage.look(0.75 * HANG_S, vcpu0="spins")
    stage.now += 100
    assert stage.look(0.75 * HANG_S, vcpu0="spins") == (None, "")
    assert stage.look(HANG_S, vcpu0="spins")[0] is not None


def test_time_in_which_somebody_is_held_does_not_count(stage):
    """All may wait for the one that the nemesis stopped; what comes between counts, and a hang is found in the end."""
    stage.look(5)
    stage.waits_for("ctl", stage.vm.actor.ipi_acked)
    held_s = HANG_S / 2
    for _ in range(3):
        stage.members[1].held = True
        assert stage.look(held_s, ctl="waits", vcpu1="starved") == (None, "")
        stage.members[1].held = False
        assert stage.look(0.3 * HANG_S, ctl="waits") == (None, "")
    finding, trouble = stage.look(0.3 * HANG_S, ctl="waits")
    assert trouble == ""
    assert "waits for actor.ipi_acked" in finding.detail


def test_who_is_held_is_no_trouble(stage):
    """Not while the nemesis answers for him; an orderly end is one all the same."""
    stage.members[0].held = stage.members[1].held = True
    stage.members[0].process.exitcode = -9
    stage.members[1].process.exitcode = 0
    stage.vm.actor.phase[1] = PHASE_DONE
    assert stage.watch.dead_or_stopped() == ""
    assert [member.reaped for member in stage.members] == [False, True, False, False]
    stage.members[0].held = False
    assert stage.watch.dead_or_stopped() == "vcpu0 (pid 0), holding no lock, was killed by SIGKILL"


def test_who_has_nothing_to_do(stage):
    """A vCPU that has left waits for the VM's end, the RCU thread for callbacks: no hang. Nor before an actor runs."""
    stage.waits_for("vcpu0", stage.vm.run.destroyed)
    stage.vm.actor.phase[1] = 0
    assert stage.look(60, vcpu0="waits", vcpu1="waits") == (None, "")


def test_a_member_that_ends_well(stage):
    """Exit code 0 after its part was played is the orderly end; before that it is trouble."""
    stage.members[0].process.exitcode = 0
    assert stage.watch.dead_or_stopped() == "vcpu0 (pid 0), holding no lock, ended with exit code 0"
    stage.vm.actor.phase[0] = PHASE_DONE
    assert stage.watch.dead_or_stopped() == ""
    assert [member.reaped for member in stage.members] == [True, False, False, False]


def test_how_a_process_ended():
    """Signals by name, codes by number."""
    assert ending(-9) == "was killed by SIGKILL"
    assert ending(-63) == "was killed by signal 63"
    assert ending(1) == "ended with exit code 1"


def test_stopped():
    """Stopped for good, not for a moment; a process that is gone is not stopped."""
    process = subprocess.Popen(["sleep", "1000"])
    try:
        assert not is_stopped(process.pid)
        process.send_signal(signal.SIGSTOP)
        cmd.wait_for(lambda: is_stopped(process.pid), "the stop")
        process.send_signal(signal.SIGCONT)
        cmd.wait_for(lambda: not is_stopped(process.pid), "the end of the stop")
    finally:
        process.kill()
        process.wait()
    assert not is_stopped(process.pid)


def test_a_full_ring_is_the_logs_trouble(stage):
    """An actor that waits for the drain says nothing about the protocol; under `window` nobody ever waits for it."""
    stage.vm.actor.ring_head[0] = 16
    assert stage.look(HANG_S / 2) == (None, "")
    stage.vm.cfg.log_policy[0] = LOG_ALL
    finding, trouble = stage.look(3 * HANG_S, vcpu0="spins")
    assert finding is None
    assert trouble.startswith("the log cannot keep up: the ring of vcpu0 has been full")


@pytest.mark.parametrize(("per_look", "hangs"), [(10, False), (100_000, True)])
def test_heavy_stalls_are_no_endless_loop(stage, per_look, hangs):
    """Who passes primitives as slowly as only pauses make it is held up by us; a loop passes them by the thousand."""
    for _ in range(20):
        stage.vm.site[0, 0, 1, 0] += per_look
        verdict = stage.look(LOOK_S, vcpu0="spins")
        if verdict != (None, ""):
            break
    assert (verdict != (None, "")) == hangs
