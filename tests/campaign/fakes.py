# SPDX-License-Identifier: GPL-2.0-only
"""Campaigns without processes: an executor that only writes run folders, so that the supervisor's every branch can be driven."""

from __future__ import annotations

import json
from pathlib import Path

from stress.campaign.executor import CommandJob, Ended, RunJob
from stress.campaign.folder import Kept, create_campaign, open_campaign
from stress.campaign.load import Loaded, load_campaign
from stress.campaign.supervise import Supervisor

SCENARIO = """
[[slots]]
base_gfn = 0
npages = 16
ops = ["delete"]

[run]
duration = "100ms"
"""
PLANTED = f'bugs = ["no-request"]\n{SCENARIO}'


def finding(detail="the incarnation is retired; the frame's tag is 77", actor="vcpu1", kind="stale-use", invariant="I3"):
    return {
        "kind": kind,
        "invariant": invariant,
        "actor": actor,
        "other_actor": "ctl",
        "time_ns": 1000,
        "detail": detail,
        "last_events": {"vcpu0": [{"kind": "guest_access"}] * 32},
    }


def write_run(folder: Path, verdict="PASS", reason="", findings=(), elapsed_s=0.1):
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "verdict": verdict,
        "reason": reason,
        "findings": list(findings),
        "elapsed_s": elapsed_s,
        "counters": {"guest_accesses": 1000},
        "rates": {"guest_accesses_per_s": 10000.0},
        "resources": {"compile_s": 0.4},
        "log": {"policy": "window", "complete": True, "lost": 0, "logged": 10},
    }
    manifest = {
        "config_hash": "c0ffee",
        "model_hash": "beef",
        "version": "0.1.0",
        "host": {"cpu": "a CPU", "kernel": "6.12"},
    }
    (folder / "verdict.json").write_text(json.dumps(content))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "events").mkdir(exist_ok=True)
    (folder / "control.jsonl").write_text("x" * 4096)


class FakeExecutor:
    """Plays jobs at once; `script` says what a job comes to, by the number of jobs so far."""

    def __init__(self, script=lambda number, job: {}, room=1):
        self.script = script
        self.room = room
        self.started: list[RunJob | CommandJob] = []
        self.stopped: list[bool] = []
        self.waiting: list[RunJob | CommandJob] = []

    def has_room(self, *, command=False):
        return len([job for job in self.waiting if not getattr(job, "beside", False)]) < self.room

    def start(self, job):
        if isinstance(job, RunJob):  # as the engine refuses it
            assert not (Path(job.out) / job.name).exists(), f"{job.name} already holds a run"
        self.started.append(job)
        self.waiting.append(job)

    def poll(self, seconds):
        ended = []
        while self.waiting:
            job = self.waiting.pop(0)
            outcome = dict(self.script(len(self.started), job))
            trouble, code, lost = outcome.pop("trouble", ""), outcome.pop("exit_code", 0), outcome.pop("lost", False)
            if isinstance(job, RunJob) and not outcome.pop("silent", False):
                write_run(Path(job.out) / job.name, **outcome)
            ended.append(Ended(job.name, code, trouble, lost))
        return ended

    def running(self):
        return {job.name: 1.0 for job in self.waiting}

    def stop(self, *, now):
        self.stopped.append(now)

    def long_lived(self):
        return {}

    def describe(self):
        return "nowhere"

    def close(self):
        self.waiting.clear()


def campaign_file(folder: Path, text: str, **scenarios: str) -> Path:
    """A campaign file with its scenarios beside it; `a` is there unless others are given."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (scenarios or {"a": SCENARIO}).items():
        (folder / f"{name}.toml").write_text(content)
    path = folder / "campaign.toml"
    path.write_text(text)
    return path


def begin(file: Path, out: Path, soak_s=None, condition="", seed=7):
    kept = Kept(str(file), str(file), load_campaign(file).content(), seed, soak_s, condition)
    return create_campaign(out, kept)


def supervise(out: Path, executor, lines=None) -> Supervisor:
    """The supervisor of a campaign's folder."""
    folder, kept = open_campaign(out)
    campaign = Loaded.from_content(kept.where, kept.content).campaign
    tell = (lambda line: None) if lines is None else lines.append
    return Supervisor(folder, campaign, kept.plan(), executor, kept.soak_s, tell, lambda text, elapsed: None)


def records(out: Path):
    return [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
