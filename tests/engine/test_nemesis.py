# SPDX-License-Identifier: GPL-2.0-only
"""Runs under nemesis: the protocol is judged, not the harness; what others do to the run's processes is still trouble.

No run here has a length: each goes on until enough was done to it, and is then told to stop.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace
from typing import get_args

import multiprocess
import numpy as np
import psutil
import pytest

from model.layout import empty_vm, views
from stress.config import Nemesis as Settings
from stress.config.schema import Act
from stress.engine.nemesis import Nemesis
from stress.engine.watch import Member
from stress.log.drain import DRAIN_RUNNING, STATUS_STATE, status_words

from . import command as cmd

ALWAYS = {
    "kill-vcpu",
    "kill-ctl",
    "kill-drain",
    "stop-vcpu",
    "affinity",
    "full-disk",
}  # in every test run; the others under -m slow
ACTS = get_args(Act)
LONG = ("run.duration=1h", 'log.policy="all"', "nemesis.period_ms=10", "nemesis.stop_ms_max=20", "nemesis.dead_ms_max=10")
WINDOW = 'log.policy="window"'  # where nobody waits for the disk
ENOUGH = {"kill-vcpu": 15, "kill-ctl": 10}  # times that an act is done in a test of its own; else 3
BOUND_S = 10.0

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="with one CPU there is no affinity to shuffle")


def acts(*names):
    return f"nemesis.acts={json.dumps(names)}"


def done(folder):
    """How often each act was done so far."""
    return Counter(line["act"] for line in cmd.control_of(folder) if line["event"] == "nemesis" and line["done"])


def pids(folder):
    """Every process of the run, those before a takeover included."""
    return {f"{line['actor']} {line['pid']}": line["pid"] for line in cmd.control_of(folder) if line["event"] == "process_start"}


def hit(scenario, out, wanted, *sets):
    """A run that goes on until every act was done so often; its outcome and folder."""
    with cmd.Running(scenario, out, sets=(*LONG, acts(*wanted), *sets)) as run:
        folder = run.until_first_access()
        cmd.wait_for(lambda: run.process.poll() is not None or not Counter(wanted) - done(folder), f"{wanted}")
        run.process.send_signal(signal.SIGINT)
        ended = run.end(cmd.TIMEOUT_S)
    cmd.assert_gone(pids(folder))
    return ended, folder


def check(folder):
    """What `zaptorture check` says of it."""
    command = [sys.executable, "-m", "stress.cli", "check", str(folder), "--json"]
    ended = subprocess.run(command, env=cmd.environment(), capture_output=True, text=True, timeout=cmd.TIMEOUT_S, check=False)
    return json.loads(ended.stdout)


def assert_judged(ended, folder, wanted):
    """The run passes, says what was done to it, and its log says the same, or that it is not whole."""
    assert ended.code == 0, ended.told()
    counts = ended.result["nemesis"]
    assert counts.keys() == set(wanted)
    assert {act: count["done"] for act, count in counts.items()} == done(folder)
    checked = check(folder)
    log = ended.result["log"]
    assert log["complete"] == (log["lost"] == 0)
    assert checked["verdict"] == ("PASS" if log["complete"] else "INCONCLUSIVE"), checked


@pytest.fixture
def scenario(tmp_path):
    return cmd.small(tmp_path)


@pytest.mark.parametrize("act", [act if act in ALWAYS else pytest.param(act, marks=pytest.mark.slow) for act in ACTS])
def test_an_act_alone(act, scenario, tmp_path):
    """Done again and again: PASS, no process left, and a log that nobody takes for a violation."""
    wanted = {act: ENOUGH.get(act, 3)}
    ended, folder = hit(scenario, tmp_path / "runs", wanted)
    assert_judged(ended, folder, wanted)


@pytest.mark.parametrize("policy", ["window", "sampled"])
def test_deaths_under_the_other_policies(policy, scenario, tmp_path):
    """With a window a new drain loses nothing, since only the rings hold events."""
    wanted = {"kill-vcpu": 5, "kill-ctl": 5, "kill-drain": 2}
    ended, folder = hit(scenario, tmp_path / "runs", wanted, f'log.policy="{policy}"', *cmd.NOISE)
    assert ended.code == 0, ended.told()
    assert ended.result["log"]["lost"] == 0 or policy == "sampled"
    assert check(folder)["verdict"] == "INCONCLUSIVE"


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_all_acts_together(seed, scenario, tmp_path):
    """Eight vCPUs on few CPUs, with noise of their own, and paranoid checks."""
    wanted = dict.fromkeys(ACTS, 1)
    ended, folder = hit(
        scenario, tmp_path / "runs", wanted, "vm.nr_vcpus=8", f"run.seed={seed}", "check.level=paranoid", *cmd.NOISE
    )
    assert_judged(ended, folder, wanted)


@pytest.mark.parametrize(
    ("bug", "finding"), [("request-without-ack", "stale-use"), ("return-before-back-half", "leftover-mapping")]
)
def test_a_planted_bug_is_found_all_the_same(bug, finding, tmp_path):
    """No act explains a finding away."""
    path = cmd.ROOT / "configs" / "busted" / f"{bug}.toml"
    ended = cmd.run(
        path, tmp_path / "runs", sets=(acts("stop-vcpu", "kill-vcpu", "stop-ctl", "kill-ctl", "affinity"), "nemesis.period_ms=20")
    )
    assert ended.code == 1, ended.told()
    assert sum(count["done"] for count in ended.result["nemesis"].values()) > 0
    assert ended.result["findings"][0]["kind"] == finding
    cmd.assert_valid(ended.folder)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("name", ["vcpu1", "drain", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ctl", "rcu"))])
def test_what_others_do_is_trouble(name, number, scenario, tmp_path):
    """Kills and stops that are not its own, beside its own ones of somebody else."""
    own = ("stop-ctl", "kill-ctl") if name == "vcpu1" else ("stop-vcpu", "kill-vcpu")
    with cmd.Running(scenario, tmp_path / "runs", sets=(*LONG, acts(*own))) as run:
        folder = run.until_first_access()
        cmd.wait_for(lambda: done(folder).total() > 5, "some acts")
        os.kill(run.pids[name], number)
        ended = run.end(BOUND_S)
    assert ended.code == 4, ended.told()
    how = "was killed by SIGKILL" if number == signal.SIGKILL else "was stopped by a signal"
    assert ended.lines[-1].startswith(f"HARNESS_ERROR small: {name} (pid {run.pids[name]})"), ended.told()
    assert how in ended.lines[-1]
    cmd.assert_gone(pids(folder))


UNSOUND = """
from stress.engine import nemesis
MMU_LOCK_READ = 1 << 3
def may_die(self, vcpu):
    held = self._vm.actor.held
    holds = bool(held[vcpu] & MMU_LOCK_READ)
    if holds and nemesis._stands_still(self._members[1 + vcpu].pid):
        held[vcpu] = {forgets}
    return holds
nemesis.Nemesis._vcpu_may_die = may_die
"""


@pytest.mark.parametrize(("forgets", "invariant"), [("held[vcpu]", "lockdep"), ("0", "I25")])
def test_an_unsound_death_is_seen(forgets, invariant, scenario, tmp_path):
    """A vCPU dies with mmu_lock: lockdep sees it, and were lockdep to forget it, the watchdog does."""
    before = UNSOUND.format(forgets=forgets)
    ended = cmd.run_with(before, scenario, tmp_path / "runs", sets=(*LONG, acts("kill-vcpu"), "run.hang_s=1", WINDOW, *cmd.NOISE))
    assert ended.code == 1, ended.told()
    assert ended.result["findings"][0]["invariant"] == invariant
    assert ended.result["nemesis"]["kill-vcpu"]["done"] == 1


def test_a_hang_is_found_beside_stops(scenario, tmp_path):
    """Time in which the nemesis holds somebody does not count, the rest does."""
    never = (
        "from stress.engine import run as engine\n"
        "lay_out = engine.setup_vm\n"
        "def setup_vm(vm, settings):\n"
        "    lay_out(vm, settings)\n"
        "    vm.slots_lock.ticket_next[0] = 1  # a ticket that nobody holds\n"
        "engine.setup_vm = setup_vm\n"
    )
    stops = acts("stop-vcpu", "stop-ctl", "affinity")
    ended = cmd.run_with(never, scenario, tmp_path / "runs", sets=(*LONG, stops, "run.hang_s=1", WINDOW, *cmd.NOISE))
    assert ended.code == 1, ended.told()
    assert ended.result["findings"][0]["invariant"] == "I25"
    assert "ctl waits for slots_lock.ticket_owner" in ended.result["findings"][0]["detail"]


def test_the_parent_is_killed(scenario, tmp_path):
    """Hogs, memory and successors go with it."""
    with cmd.Running(
        scenario, tmp_path / "runs", sets=(*LONG, acts("hog", "memory", "kill-vcpu"), "nemesis.stop_ms_max=2000")
    ) as run:
        folder = run.until_first_access()
        cmd.wait_for(lambda: done(folder).keys() == {"hog", "memory", "kill-vcpu"}, "the acts")
        children = {str(child.pid): child.pid for child in run.children()}
        run.process.kill()
        run.process.wait(BOUND_S)
    cmd.assert_gone(children | pids(folder))


# --- single acts, on processes that do nothing


class Stage:
    """A drain and a vCPU that only wait, and a nemesis over them."""

    def __init__(self, *names, seed=1, **settings):
        self.members = [Member(name, actor, self._process()) for name, actor in (("drain", None), ("vcpu0", 0))]
        self.status = np.zeros(status_words(1), np.int64)
        self.status[STATUS_STATE] = DRAIN_RUNNING
        self.events = []
        self.nemesis = Nemesis(
            Settings(acts=names, period_ms=1, stop_ms_max=10_000, **settings),
            seed,
            views(empty_vm()),
            self.members,
            self.status,
            self._succeed,
            lambda event, **fields: self.events.append({"event": event, **fields}),
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.nemesis.end()
        for member in self.members:
            member.process.kill()
            member.process.join()

    @staticmethod
    def _process():
        process = multiprocess.get_context("fork").Process(target=signal.pause, daemon=True)
        process.start()
        return process

    def _succeed(self, member):
        member.process = self._process()

    def until(self, event):
        """Step until it has happened; returns it."""

        def happened():
            self.nemesis.step()
            return any(line["event"] == event for line in self.events)

        cmd.wait_for(happened, event)
        return next(line for line in self.events if line["event"] == event)

    def hit(self):
        """The processes that the first act hit."""
        targets = self.until("nemesis")["target"].split(", ")
        return [psutil.Process(member.pid) for member in self.members if member.name in targets]


def test_a_stop_is_ended():
    """Stopped and held, then neither."""
    with Stage("stop-vcpu") as stage:
        (vcpu,) = stage.hit()
        cmd.wait_for(lambda: vcpu.status() == psutil.STATUS_STOPPED, "the stop")
        assert [member.held for member in stage.members] == [False, True]
        stage.nemesis.end()
        assert vcpu.status() != psutil.STATUS_STOPPED
        assert not any(member.held for member in stage.members)


def test_affinity_is_restored():
    """A part of the CPUs while it lasts, all of them afterwards."""
    before = os.sched_getaffinity(0)
    with Stage("affinity") as stage:
        hit = stage.hit()
        assert all(set(process.cpu_affinity()) < before for process in hit)
        stage.nemesis.end()
        assert all(set(process.cpu_affinity()) == before for process in hit)


@pytest.mark.parametrize("allowed", [True, False])
def test_priority_is_restored_or_said_to_stay(allowed, monkeypatch):
    """Lowered for sure; raised again where the system lets us."""
    with Stage("priority") as stage:
        hit = stage.hit()
        assert all(process.nice() > 0 for process in hit)

        def refuse(*_):
            raise PermissionError

        if not allowed:
            monkeypatch.setattr("stress.engine.nemesis.os.sched_setscheduler", refuse)
        elif os.geteuid() != 0:
            pytest.skip("may not raise a priority")
        stage.nemesis.end()
        outcome = stage.until("nemesis_end")["outcome"]
        assert outcome == ("" if allowed else f"may not be raised again: {stage.until('nemesis')['target']}")
        if allowed:
            assert {(process.nice(), os.sched_getscheduler(process.pid)) for process in hit} == {(0, os.SCHED_OTHER)}


def test_limits_of_the_disk_are_lifted(monkeypatch):
    """No byte may be written while it lasts; then as before. A drain that does not end for it stays."""
    with Stage("full-disk") as stage:
        (drain,) = stage.hit()
        before = drain.rlimit(psutil.RLIMIT_FSIZE)[1]
        assert drain.rlimit(psutil.RLIMIT_FSIZE) == (0, before)
        # It makes no passes that one could wait for.
        monkeypatch.setattr("stress.engine.nemesis._DRAIN_S", 0.0)
        stage.nemesis.end()
        assert drain.rlimit(psutil.RLIMIT_FSIZE) == (before, before)
        assert stage.until("nemesis_end")["outcome"] == "no write was refused"
        assert not stage.nemesis.tore_log


def test_a_slow_disk_is_ended():
    """The drain is idle in the queue of the disk, and stands still; then neither."""
    with Stage("slow-disk") as stage:
        (drain,) = stage.hit()
        assert drain.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
        stage.nemesis.end()
        assert drain.ionice().ioclass != psutil.IOPRIO_CLASS_IDLE
        assert drain.status() != psutil.STATUS_STOPPED


@pytest.mark.parametrize("act", ["hog", "memory"])
def test_helpers_are_ended(act):
    """They are children of ours while it lasts."""
    before = set(psutil.Process().children())
    with Stage(act, memory_mb=1) as stage:
        stage.until("nemesis")
        helpers = set(psutil.Process().children()) - before - {psutil.Process(member.pid) for member in stage.members}
        assert len(helpers) == (len(os.sched_getaffinity(0)) if act == "hog" else 1)
        stage.nemesis.end()
        assert not any(helper.is_running() for helper in helpers)


def test_memory_that_is_not_there_is_not_taken(monkeypatch):
    """The machine itself is not put at risk: the event says why nothing was done."""
    monkeypatch.setattr("stress.engine.nemesis.psutil.virtual_memory", lambda: SimpleNamespace(available=0))
    with Stage("memory") as stage:
        event = stage.until("nemesis")
        assert (event["done"], event["reason"]) == (False, "0 MiB are left")
        assert stage.nemesis.counts["memory"]["not_possible"] > 0


def test_a_seed_repeats_its_draws():
    """Which acts, on whom and for how long comes from the run's seed alone."""

    def first(seed):
        with Stage("stop-vcpu", "stop-drain", "affinity", seed=seed) as stage:
            event = stage.until("nemesis")
            return event["act"], event["target"], event["ms"]

    assert first(1) == first(1)
    assert len({first(seed) for seed in range(4)}) > 1
