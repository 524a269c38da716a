# SPDX-License-Identifier: GPL-2.0-only
"""Local jobs: placed, held to their limits, and gone when they are over, whoever kills what."""

from __future__ import annotations

import json
import os
import signal

import psutil
import pytest

from stress.campaign.executor import CommandJob, RunJob
from stress.campaign.local import LocalExecutor
from stress.config import load_config, resolved_toml

from .command import SHORT
from .fakes import campaign_file

CPUS = tuple(sorted(os.sched_getaffinity(0)))


@pytest.fixture
def executor(tmp_path):
    executor = LocalExecutor([CPUS[:1], CPUS[-1:]], str(tmp_path / "output.log"))
    yield executor
    executor.close()


def job(tmp_path, name="one", duration="200ms", seconds_max=200.0, memory_mb_max=4096, quantiles=False):
    campaign_file(tmp_path / "file", "", short=SHORT)
    config = load_config(tmp_path / "file" / "short.toml", ['log.policy="all"'], 1, duration)
    (tmp_path / "runs").mkdir(exist_ok=True)
    return RunJob(name, resolved_toml(config), str(tmp_path / "runs"), seconds_max, memory_mb_max, quantiles)


def ended(executor, count=1):
    found = []
    while len(found) < count:
        found += executor.poll(0.1)
    return {each.name: each for each in found}


def pids(tmp_path, name, who):
    """Process ids of a run's actors, once they have been started."""
    path = tmp_path / "runs" / name / "control.jsonl"
    found = {}
    while who not in found:
        lines = path.read_text().splitlines() if path.exists() else []
        records = [json.loads(line) for line in lines]
        found = {record["actor"]: record["pid"] for record in records if record["event"] == "process_start"}
    return found


def verdict(tmp_path, name):
    return json.loads((tmp_path / "runs" / name / "verdict.json").read_text())


def test_runs_are_placed_and_leave_their_facts(tmp_path, executor):
    """Two at once, each on its own CPU; the folder has verdict, host facts and quantiles; nothing was printed."""
    executor.start(job(tmp_path, "one", quantiles=True))
    executor.start(job(tmp_path, "two"))
    assert not executor.has_room()
    assert executor.running().keys() == {"one", "two"}
    assert [each.trouble for each in ended(executor, 2).values()] == ["", ""]
    assert verdict(tmp_path, "one")["verdict"] == "PASS"
    host = json.loads((tmp_path / "runs" / "one" / "host.json").read_text())
    assert host["cpus"] == 1
    assert host["wall_s"] > 0
    quantiles = json.loads((tmp_path / "runs" / "one" / "quantiles.json").read_text())
    assert quantiles["slots_delete_ctl_median_ns"] > 0
    assert not (tmp_path / "runs" / "two" / "quantiles.json").exists()
    assert (tmp_path / "output.log").read_text() == ""
    assert executor.running() == {}


def test_a_run_over_its_time_is_ended(tmp_path, executor):
    """It is asked first, so that its folder holds what it came to."""
    executor.start(job(tmp_path, duration="1h", seconds_max=1.0))
    assert ended(executor)["one"].trouble == "not over after 1 s"
    assert verdict(tmp_path, "one")["reason"].startswith(("stopped by SIGTERM", "ended before"))


def test_a_run_over_its_memory_is_ended(tmp_path, executor):
    """All of its processes count."""
    executor.start(job(tmp_path, duration="1h", memory_mb_max=1))
    assert "MiB, limits.memory_mb = 1" in ended(executor)["one"].trouble


@pytest.mark.parametrize("victim", ["run", "server"])
def test_a_killed_process_takes_its_run_along_and_no_more(tmp_path, executor, victim):
    """No process of the run outlives it, and the next job starts as if nothing had been."""
    executor.start(job(tmp_path, duration="1h"))
    actors = [psutil.Process(pid) for pid in pids(tmp_path, "one", "ctl").values()]
    run = actors[0].parent()
    os.kill(run.pid if victim == "run" else executor.long_lived()["fork server"], signal.SIGKILL)
    assert ended(executor)["one"].trouble
    psutil.wait_procs(actors, timeout=60)
    assert not any(actor.is_running() and actor.status() != psutil.STATUS_ZOMBIE for actor in actors)
    executor.start(job(tmp_path, "two"))
    assert ended(executor)["two"].trouble == ""


def test_a_killed_actor_is_the_runs_affair(tmp_path, executor):
    """The run tells it in its verdict; its process ends in order."""
    executor.start(job(tmp_path, duration="1h"))
    os.kill(pids(tmp_path, "one", "ctl")["vcpu1"], signal.SIGKILL)
    assert ended(executor)["one"].trouble == ""
    assert verdict(tmp_path, "one")["verdict"] == "HARNESS_ERROR"


def test_a_run_that_cannot_begin_says_why(tmp_path, executor):
    """A folder that is there already belongs to another run."""
    (tmp_path / "runs" / "one").mkdir(parents=True)
    executor.start(job(tmp_path))
    assert "already holds a run" in ended(executor)["one"].trouble


def test_commands(tmp_path, executor):
    """What a command prints goes to its file, its exit code comes back, and one that is not there is told."""
    output = tmp_path / "said.txt"
    executor.start(CommandJob("command a 0", ("sh", "-c", "echo $0; exit 3", "hello; $(ls)"), str(output), 60.0, beside=True))
    assert executor.has_room()
    assert ended(executor)["command a 0"].exit_code == 3
    assert output.read_text() == "hello; $(ls)\n"
    executor.start(CommandJob("command b 0", ("no-such-program",), str(output), 60.0))
    assert ended(executor)["command b 0"].exit_code == 127
    assert "no-such-program: No such file or directory" in output.read_text()
    executor.start(CommandJob("command c 0", ("sleep", "3600"), str(output), 0.5))
    assert ended(executor)["command c 0"].trouble == "not over after 0 s"
