# SPDX-License-Identifier: GPL-2.0-only
"""Campaigns from the command line: what one sees, what is left, and that nothing gets lost whatever is killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from . import command as cmd

TWO = 'scenarios = ["short"]\nseed = 5\n[matrix]\nvm.nr_vcpus = [1, 2]\n'
POWER = '[power]\nscenarios = ["broken"]\nevery = 2\n'
KILLS_SHORT = 4
KILLS_LONG = 10
PARTS = 20


def test_a_campaign_from_start_to_end(tmp_path):
    """Every run is counted, planted bugs are found beside them, and the last line is the verdict."""
    file = cmd.short_campaign(tmp_path / "file", TWO.replace("seed", "repeats = 2\nseed") + POWER)
    out = tmp_path / "c"
    done = cmd.run("campaign", file, "--out", out)
    assert done.returncode == 0, cmd.told(done)
    assert cmd.last_line(done).startswith("PASS campaign")
    assert "weak" not in cmd.last_line(done)
    assert [row["role"] for row in cmd.ends(out)] == ["test", "test", "planted"] * 2
    assert "planted: broken: found in 2 of 2 runs" in done.stdout
    assert "at most" in done.stdout
    assert len(list((out / "runs").iterdir())) == 6
    assert cmd.own_processes(out) == []
    status = cmd.run("campaign", "status", out, "--json")
    found = json.loads(status.stdout)
    assert (found["running"], found["total"], found["verdict"]) == (False, 6, "PASS")
    assert found["state"]["ended"] == 6
    shown = cmd.run("campaign", "status", out)
    assert "has ended (all runs have ended): 6 of 6 runs" in shown.stdout
    again = cmd.run("campaign", file, "--out", out)
    assert again.returncode == 2
    assert "already holds a campaign" in again.stderr


def test_the_plan_is_shown_and_nothing_is_made(tmp_path):
    """--dry-run names every combination and the time, and leaves no folder."""
    file = cmd.short_campaign(tmp_path / "file", TWO + POWER)
    done = cmd.run("campaign", file, "--out", tmp_path / "c", "--dry-run", "--filter", "vcpus>=2")
    assert done.returncode == 0, cmd.told(done)
    assert "short/vm.nr_vcpus=2" in done.stdout
    assert "short/vm.nr_vcpus=1" not in done.stdout
    assert "1 runs in 1 rotation, about" in done.stdout
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
def test_a_finding_stops_folds_and_reproduces(tmp_path):
    """A violation ends with exit code 1, one folded entry, the user's command run, and a schedule found for it."""
    text = 'scenarios = ["broken"]\nrepeats = 3\nseed = 5\n[finding]\nreproduce = "120s"\ncommands = [["echo", "{title}"]]\n'
    file = cmd.short_campaign(tmp_path / "file", text)
    out = tmp_path / "c"
    done = cmd.run("campaign", file, "--out", out)
    assert done.returncode == 1, cmd.told(done)
    state = json.loads(cmd.run("campaign", "status", out, "--json").stdout)["state"]
    assert sum(entry["count"] for entry in state["findings"].values()) >= 3
    assert sorted(state["findings"]) == sorted(path.name for path in (out / "findings").iterdir())
    for signature, entry in state["findings"].items():
        assert entry["title"].startswith("stale-use [I3] vcpu: ")
        assert (out / "findings" / signature / "command-0.txt").read_text() == entry["title"] + "\n"
        if entry["lead"]:
            assert entry["reproduced"].startswith("yes: "), entry["reproduced"]
            assert Path(entry["reproduced"].removeprefix("yes: ")).exists()
    assert any(entry["lead"] for entry in state["findings"].values())


def test_a_changed_file_is_not_resumed(tmp_path):
    """Resume says what changed; put back, it goes on."""
    file = cmd.short_campaign(tmp_path / "file", TWO)
    out = tmp_path / "c"
    assert cmd.run("campaign", file, "--out", out).returncode == 0
    scenario = tmp_path / "file" / "short.toml"
    text = scenario.read_text()
    scenario.write_text(text.replace("npages = 16", "npages = 8"))
    refused = cmd.run("campaign", "resume", out)
    assert refused.returncode == 2
    assert "changed since the campaign began: scenarios.short.slots.0.npages: 16 became 8" in refused.stderr
    scenario.write_text(text)
    assert cmd.run("campaign", "resume", out).returncode == 0
    scenario.unlink()
    file.unlink()
    gone = cmd.run("campaign", "resume", out)
    assert gone.returncode == 0
    assert "is gone; going on with the copy in plan.json" in gone.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["campaign", "nowhere.toml"], "nowhere.toml: no such file"),
        (["campaign", "resume", "nowhere"], "nowhere: no campaign's folder"),
        (["campaign", "status", "nowhere"], "nowhere: no campaign's folder"),
        (["campaign", "FILE", "--jobs", "4000"], "--jobs 4000: 4000 runs of 2 CPUs do not fit"),
        (["campaign", "FILE", "--filter", "cpus=1"], "cpus is not known; did you mean"),
        (["soak", "FILE", "--for", "soon"], '--for "soon": expected a time'),
        (["campaign", "FILE", "--out", "/proc/c"], "--out = /proc/c: expected a folder that may be written"),
    ],
)
def test_wrong_use_gets_one_line(tmp_path, arguments, message):
    """Exit code 2 and one line; no folder is made."""
    file = cmd.short_campaign(tmp_path / "file", TWO)
    known = ["--out", str(tmp_path / "c")] if "FILE" in arguments and "--out" not in arguments else []
    done = cmd.run(*[str(file) if word == "FILE" else word for word in arguments], *known)
    assert done.returncode == 2, cmd.told(done)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "c").exists()


def begin(arguments):
    """A campaign's process in a session of its own, as a shell would start it."""
    return subprocess.Popen(
        cmd.argv(*arguments), cwd=cmd.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_for(process, condition):
    """Whatever the condition gives once it gives anything, or None when the process has ended before."""
    while process.poll() is None:
        found = condition()
        if found:
            return found
    return None


def newest_actors(out):
    """Process ids of the run that is on, by actor; empty between runs."""
    for folder in sorted((out / "runs").glob("*"), reverse=True):
        control = folder / "control.jsonl"
        if (folder / "verdict.json").exists() or not control.exists():
            continue
        records = [json.loads(line) for line in control.read_text().splitlines()]
        actors = {record["actor"]: record["pid"] for record in records if record["event"] == "process_start"}
        return actors if "rcu" in actors else {}  # the last to be started
    return {}


def test_ctrl_c_in_a_soak(tmp_path):
    """One SIGINT ends it in order, with the verdict so far; SIGHUP ends nothing; resume ends it by its time."""
    file = cmd.short_campaign(tmp_path / "file", TWO)
    out = tmp_path / "c"
    process = begin(["soak", file, "--for", "1h", "--out", out])
    assert wait_for(process, lambda: len(cmd.ends(out)) >= 2)
    os.killpg(process.pid, signal.SIGHUP)
    before = len(cmd.ends(out))
    assert wait_for(process, lambda: len(cmd.ends(out)) > before + 1)
    running = json.loads(cmd.run("campaign", "status", out, "--json").stdout)
    assert running["running"]
    assert running["state"]["retries"] == 0, "nothing died of the hang-up"
    assert running["heartbeat"]["pid"] == process.pid
    second = cmd.run("campaign", "resume", out)
    assert second.returncode == 2
    assert "another process runs this campaign" in second.stderr
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=cmd.TIMEOUT_S)
    assert process.returncode == 0, said
    assert "PASS campaign: stopped by SIGINT" in said
    assert cmd.own_processes(out) == []


def victim_of(kind, process, out):
    """The process id of somebody who works for the campaign now; None when the campaign has ended."""
    if kind == "campaign":
        return process.pid
    if kind == "server":
        children = psutil.Process(process.pid).children()
        return next((child.pid for child in children if "forkserver" in " ".join(child.cmdline())), None)
    actors = wait_for(process, lambda: newest_actors(out))
    if actors is None:
        return None
    return psutil.Process(actors["drain"]).ppid() if kind == "run" else actors[kind]


def kill_at_random(tmp_path, kills, part=0):
    """Kill the campaign's process, its server, a run or one of its actors, again and again, and take it up each time."""
    chance = random.Random(part)
    text = f'scenarios = ["short"]\nrepeats = {kills}\nseed = 5\n[limits]\nharness_retries = 100\novertime = "10m"\n'
    file = cmd.short_campaign(tmp_path / "file", text + POWER)
    out = tmp_path / "c"
    victims = []
    arguments = ["campaign", file, "--out", out]
    while len(victims) < kills:
        process = begin(arguments)
        arguments = ["campaign", "resume", out]
        while process.poll() is None and len(victims) < kills:
            wanted = len(cmd.ends(out)) + chance.randrange(2)
            wait_for(process, lambda wanted=wanted: len(cmd.ends(out)) >= wanted)
            kind = chance.choice(["campaign", "campaign", "ctl", "drain", "vcpu0", "vcpu1", "rcu", "run", "server"])
            # Whoever ended by itself meanwhile is no victim.
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                pid = victim_of(kind, process, out)
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
                    victims.append(kind)
            if kind == "campaign":
                break
        process.kill()
        process.communicate(timeout=cmd.TIMEOUT_S)
        while cmd.own_processes(out):
            pass
        if (out / "journal.jsonl").exists() and len(cmd.ends(out)) == kills + kills // 2:
            break  # all of its runs have ended
    last = cmd.run("campaign", "resume", out)
    assert last.returncode == 0, cmd.told(last)
    print(len(victims), "killed:", ", ".join(victims))
    return out, victims


def assert_nothing_lost(out, runs):
    rows = cmd.ends(out)
    assert sorted(row["index"] for row in rows) == list(range(runs))
    assert {row["run_verdict"] for row in rows if row["role"] == "test"} == {"PASS"}
    assert {row["run_verdict"] for row in rows if row["role"] == "planted"} == {"VIOLATION"}
    assert cmd.own_processes(out) == []
    folders = sorted(map(str, (out / "runs").iterdir()))
    judged = [json.loads(line) for line in cmd.run("check", *folders, "--json").stdout.splitlines()]
    assert len(judged) == len(folders)
    for folder, result in zip(folders, judged, strict=True):
        planted = "-broken-" in folder
        assert result["verdict"] in ({"VIOLATION", "INCONCLUSIVE"} if planted else {"INCONCLUSIVE"}), (folder, result)


def test_a_few_random_kills(tmp_path):
    """Nothing is lost, nothing counted twice, nothing left behind, every folder readable."""
    out, victims = kill_at_random(tmp_path, KILLS_SHORT)
    assert len(victims) > KILLS_SHORT // 2
    assert_nothing_lost(out, KILLS_SHORT + KILLS_SHORT // 2)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_two_hundred_random_kills(tmp_path, part):
    """The same in twenty campaigns of ten kills each."""
    out, victims = kill_at_random(tmp_path, KILLS_LONG, part)
    assert len(victims) > KILLS_LONG // 2
    assert_nothing_lost(out, KILLS_LONG + KILLS_LONG // 2)
