# SPDX-License-Identifier: GPL-2.0-only
"""From a run's finding to a minimal schedule: tiny scenarios of the same kind are searched until the same rule fires.

A run cannot be replayed: it was made by real processes. But what it found has a kind and a rule, and its config says which variant,
which bugs and which branch of the zap were under test. The tiny scenarios keep that and shrink the rest, from the smallest up.
"""

from __future__ import annotations

import json
import os
import time
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stress.config import Config, config_from, load_config, resolved_toml
from stress.errors import UsageError
from stress.explore.failure import failure_of
from stress.explore.native import is_available
from stress.explore.replay import shrink_failure
from stress.explore.scenario import opening_of
from stress.explore.search import Budget, explore
from stress.explore.story import told
from stress.explore.worker import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stress.explore.failure import Failure
    from stress.explore.story import Story

__all__ = ["Reproduced", "reproduce_run", "tiny_scenarios"]

SHRINK_S_MAX = 20.0


@dataclass(frozen=True)
class Reproduced:
    """What came of it; `failure` and `story` are None where the rule did not fire. `tried` says what was searched."""

    failure: Failure | None
    story: Story | None
    tried: str


def reproduce_run(run: Path, seconds: float, jobs: int | None, engine: str | None, on_message: Callable[[str], None]) -> Reproduced:
    """Search tiny scenarios for a run's first finding.

    Args:
        run: its folder.
        seconds: budget, shared out among the scenarios.
        jobs: workers.
        engine: "native" or "interpreted"; None: whichever there is.
        on_message: told what is tried.

    Raises:
        UsageError: no run folder, or a run without a finding.
        HarnessError: the engine did not start.
    """
    finding = _first_finding(run)
    config = load_config(run / "config.toml")
    signatures = _signatures(finding)
    chosen = engine or ("native" if is_available() else "interpreted")
    on_message(f"{run.name}: {finding['kind']} [{finding['invariant']}]: {finding['detail']}")
    scenarios = list(tiny_scenarios(config, finding))
    workers = jobs or len(os.sched_getaffinity(0))
    executions = 0
    for name, scenario in scenarios:
        until = time.monotonic() + seconds / len(scenarios)
        seed = config.run.seed or 0
        wanted = None
        while wanted is None and time.monotonic() < until:
            job = Job(opening_of(scenario), chosen, "pct", seed=seed)
            seed += 1
            result = explore(job, Budget(seconds=max(until - time.monotonic(), 0.1)), workers, on_message=on_message)
            executions += result.executions
            if result.failing is None:
                on_message(f"{name}: nothing in {result.executions:,} executions")
                break
            story, ending = told(job.opening, result.failing)
            on_message(f"{name}: {ending.sentence()} in execution {result.failing.number:,}")
            # Another failure of the same bug may hide the one that is looked for: go on with other numbers.
            wanted = ending if ending.signature in signatures else None
        if wanted is None or result.failing is None:
            continue
        found = {"run": run.name, "scenario": name, "strategy": "pct", "execution": result.failing.number, "seed": job.seed}
        failure, small, how = shrink_failure(
            failure_of(scenario, story, found, ending), chosen, min(seconds, SHRINK_S_MAX), on_message
        )
        on_message(how)
        return Reproduced(failure, small, f"{executions:,} executions of {name}")
    return Reproduced(
        None, None, f"{executions:,} executions of {len(scenarios)} scenarios: {', '.join(name for name, _ in scenarios)}"
    )


def _first_finding(run: Path) -> dict[str, Any]:
    try:
        verdict = json.loads((run / "verdict.json").read_bytes())
        findings = verdict["findings"]
    except FileNotFoundError:
        raise UsageError(f"{run}: no verdict.json; expected a run folder with a finding.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{run / 'verdict.json'}: cannot be read: {error}.") from None
    if not findings:
        raise UsageError(f"{run}: the run has no finding to reproduce; its verdict is {verdict.get('verdict')}.")
    return dict(findings[0])


def _signatures(finding: dict[str, Any]) -> set[tuple[str, str]]:
    """What counts as the same: the kind and the rule; a run's hang is an execution without an end."""
    kind, rule = str(finding["kind"]), str(finding["invariant"])
    if rule == "I25":
        return {("deadlock", "I25"), ("livelock", "I25"), ("lost-wakeup", "I25")}
    return {(kind, rule)}


def tiny_scenarios(config: Config, finding: dict[str, Any]) -> Iterator[tuple[str, Config]]:
    """Scenarios of the same variant, bugs and branch of the zap, from small to less small, each with its name."""
    raw = tomllib.loads(resolved_toml(config))
    slot = finding.get("slot")
    moves = any("move" in one["ops"] for one in raw["slots"])
    deletes = any("delete" in one["ops"] for one in raw["slots"])
    if slot is not None and slot < len(raw["slots"]):
        # The operations of the slot that the finding is about; a slot that only stands by says nothing about them.
        own = raw["slots"][slot]["ops"]
        moves, deletes = ("move" in own, "delete" in own) if own else (moves, deletes)
    operations = []
    if deletes:
        operations.append(("delete", ["delete 0", "create 0", "delete 0"]))
    if moves:
        operations.append(("move", ["move 0", "move 0"]))
    for vcpus in (1, 2):
        for word, ctl in operations:
            yield from _tiny(raw, f"{vcpus} vCPU, {word}", vcpus, ctl, bits=1)
    for word, ctl in operations:
        yield from _tiny(raw, f"2 vCPU, {word}, larger tables, lock breaks, pages that go round", 2, ctl, bits=2)


def _tiny(raw: dict[str, Any], name: str, vcpus: int, ctl: list[str], *, bits: int) -> Iterator[tuple[str, Config]]:
    pages = 1 << bits
    moving = any(item.startswith("move") for item in ctl)
    subject: dict[str, Any] = {"base_gfn": 0, "npages": pages, "ops": ["delete"]}
    if moving:
        subject = {"base_gfn": 0, "npages": pages // 2, "ops": ["delete", "move"], "move_to": pages // 2}
    live = pages
    scripts = [["w0", f"w{live}", "r0", f"r{pages - 1}", "w0"], [f"r{pages - 1}", "w0", f"w{live}", f"r{pages - 1}"]]
    if moving:
        scripts[0] = ["w0", f"w{pages // 2}", f"w{live}", "r0"]
    small = {
        "scenario": raw["scenario"],
        "variant": raw["variant"],
        "bugs": raw["bugs"],
        "vm": {
            "nr_vcpus": vcpus,
            "levels": 2,
            "bits_per_level": bits,
            "tlb_entries": 4 if bits == 1 else 16,
            "ad_writeback": raw["vm"]["ad_writeback"],
            "quirk_slot_zap_all": raw["vm"]["quirk_slot_zap_all"],
            "lock_break": raw["vm"]["lock_break"],
        },
        "slots": [subject, {"base_gfn": pages, "npages": pages // 2}],
        "toggler": raw["toggler"],
        "check": raw["check"],
        "script": {
            "vcpus": scripts[:vcpus],
            "ctl": ctl,
            "toggler": 2 if raw["toggler"]["mode"] == "flip" else 1 if raw["toggler"]["mode"] == "set-once" else 0,
            "need_resched": bits > 1,
            "cache_pages": 16 if bits == 1 else 2,
        },
        "run": {"seed": raw["run"]["seed"]},
    }
    try:
        yield name, config_from(small, name, scripted=True)
    except UsageError as error:
        raise AssertionError(f"a tiny scenario is not accepted: {error}") from error
