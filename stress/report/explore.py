# SPDX-License-Identifier: GPL-2.0-only
"""An exploration as lines of text: what was searched, how far, what was found; and never more than that."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from stress import __version__
from stress.errors import one_line
from stress.explore.coverage import WINDOWS
from stress.explore.strategies.pct import bound
from stress.report.text import amount
from stress.verdict import Verdict

if TYPE_CHECKING:
    from stress.config import Config
    from stress.explore.ending import Ending
    from stress.explore.failure import Failure
    from stress.explore.search import Exploration, Look
    from stress.explore.worker import Job

__all__ = [
    "coverage_lines",
    "ending_lines",
    "heading_lines",
    "look_text",
    "plan_lines",
    "summary_lines",
    "verdict_of",
    "verdict_text",
]

COMPLETE_STRATEGIES = ("depth-first", "dpor", "states")
PAIRS_SHOWN = 200


def plan_lines(config: Config, job: Job, budget: str, jobs: int) -> list[str]:
    """How the search goes about it."""
    how = {
        "random": "random",
        "pct": f"pct, depth {job.depth}",
        "depth-first": f"depth-first, at most {job.preemptions_max} preemptions",
        "dpor": "dpor, source sets and sleep sets",
        "states": "states, sleep sets",
    }[job.strategy]
    players = ", ".join([*(f"vcpu{n}" for n in range(config.vm.nr_vcpus)), "ctl", *(["rcu"] if config.script.rcu else [])])
    if config.script.toggler:
        players += ", toggler"
    bugs = f", planted: {', '.join(config.bugs)}" if config.bugs else ""
    workers = f"{jobs} {'job' if jobs == 1 else 'jobs'}"
    return [
        f"strategy {how}; memory {config.explore.memory}; engine {job.engine}, {workers}; budget {budget}",
        f"variant {config.variant}{bugs}; actors {players}; at most {config.explore.steps_max:,} steps",
    ]


def look_text(look: Look) -> str:
    """How far it has come."""

    def per_second(count: int) -> str:
        return amount(round(count / max(look.elapsed_s, 1e-9)))

    if look.states:
        return f"{look.elapsed_s:.0f} s: {amount(look.states)} states ({per_second(look.states)}/s)"
    done = f"{amount(look.executions)} executions ({per_second(look.executions)}/s)"
    return f"{look.elapsed_s:.0f} s: {done}, {amount(look.steps)} steps"


def summary_lines(job: Job, result: Exploration, actors: int) -> list[str]:
    """What was counted, and for PCT what that promises."""

    def per_second(count: int) -> str:
        return amount(round(count / max(result.seconds, 1e-9)))

    if job.strategy == "states":
        counted = f"{result.states:,} states, {result.transitions:,} transitions in {result.seconds:.1f} s"
        rate = f"{per_second(result.transitions)} transitions/s"
        return [f"{counted} ({rate}); {result.executions:,} ends; longest path {result.steps_max:,} steps"]
    counted = f"{result.executions:,} executions, {result.traces:,} distinct traces, {result.pruned:,} pruned"
    rates = f"{per_second(result.executions)} executions/s, {per_second(result.steps)} steps/s"
    lines = [f"{counted} in {result.seconds:.1f} s ({rates}); longest {result.steps_max:,} steps"]
    if job.strategy == "pct" and result.failing is None:
        # Under TSO every store buffer is an actor too; change points lie within what the probes had.
        n = 2 * actors if job.opening.memory == "tso" else actors
        once = bound(n, result.probed_steps, job.depth)
        many = 1 - (1 - once) ** result.executions
        lines.append(
            f"pct: n = {n}, k = {result.probed_steps:,}: one execution finds a bug of depth {job.depth} within the first k steps "
            f"with probability >= {once:.2g}, all of these >= {many:.2g}"
        )
    return lines


def heading_lines(failure: Failure, width: int) -> list[str]:
    """What was explored, above a diagram: scenario, variant, planted bugs, and the scripts."""
    config = failure.config
    script = config.script
    bugs = f", planted {', '.join(config.bugs)}" if config.bugs else ""
    facts = f"{config.scenario}: variant {config.variant}{bugs}, memory {config.explore.memory}, checks {config.check.level}"
    scripts = [f"vcpu{n}: {' '.join(items) or '-'}" for n, items in enumerate(script.vcpus)]
    scripts.append(f"ctl: {', '.join(script.ctl) or '-'}")
    start = "warm" if script.warm else "cold"
    version = f"zaptorture {__version__}, model {failure.model_hash}"
    return [line for text in (facts, f"{'; '.join(scripts)} ({start} start)", version) for line in textwrap.wrap(text, width)]


def ending_lines(ending: Ending, switches: int, steps: int, positions: tuple[str, ...]) -> list[str]:
    """A failing execution in short."""
    lines = [one_line(ending.sentence()), f"    {switches} context switches, {steps:,} steps"]
    if not ending.kind:
        lines += [f"    {position}" for position in positions]
    return lines


def verdict_of(job: Job, result: Exploration) -> Verdict:
    """A complete strategy that was cut short has shown nothing; one that samples never claims to be complete."""
    if result.failing is not None:
        return Verdict.VIOLATION
    if result.executions == 0 or (job.strategy in COMPLETE_STRATEGIES and not result.complete):
        return Verdict.INCONCLUSIVE
    return Verdict.PASS


def verdict_text(config: Config, job: Job, result: Exploration, budget: str, ending: Ending | None = None) -> str:
    """The last line: one verdict, and what exactly was shown."""
    name, scenario = verdict_of(job, result).value, config.scenario
    if result.failing is not None and ending is not None:
        return one_line(f"{name} {ending.sentence()} (execution {result.failing.number:,} of {scenario})")
    if result.complete:
        what = {
            "dpor": f"all interleavings, {result.traces:,} distinct traces",
            "depth-first": f"all {result.executions:,} interleavings with at most {job.preemptions_max} preemptions",
            "states": f"all interleavings, {result.states:,} states",
        }[job.strategy]
        within = f"the script, memory {config.explore.memory}, {config.explore.steps_max:,} steps"
        return one_line(f"{name} {scenario}: {what}: no finding; complete within: {within}")
    if job.strategy in COMPLETE_STRATEGIES:
        why = result.why_not or f"the budget of {budget} is spent"
        done = f"{result.states:,} states" if job.strategy == "states" else f"{result.executions:,} executions"
        return one_line(f"{name} {scenario}: no finding in {done}, but the search is not complete: {why}")
    if result.executions == 0:
        return one_line(f"{name} {scenario}: no execution was made within the budget of {budget}")
    sampled = f"{result.executions:,} sampled executions, {result.traces:,} distinct traces"
    return one_line(f"{name} {scenario}: no finding in {sampled}; not all interleavings")


def coverage_lines(result: Exploration, actors: tuple[str, ...]) -> list[str]:
    """Windows and conflicting pairs: what was entered and turned round, and what was not."""
    coverage = result.coverage
    others = [actor for actor in actors if actor != "ctl"]
    lines = ["windows of the update, and how many steps others made in them:"]
    for window in WINDOWS:
        steps = {actor: coverage.entered[window, actor] for actor in others}
        if not coverage.entered[window, "ctl"] and not any(steps.values()):
            lines.append(f"    {window:<50} never opened")
            continue
        entered = ", ".join(f"{actor} {amount(count)}" for actor, count in steps.items() if count)
        missing = [actor for actor, count in steps.items() if not count]
        lines.append(f"    {window:<50} {entered or 'nobody'}{'; not ' + ', '.join(missing) if missing and entered else ''}")
    both, one = coverage.both_orders(), coverage.one_order()
    lines.append(f"conflicting sites seen in both orders: {len(both)} pairs")
    lines += [f"    {first} | {second}" for first, second in both[:PAIRS_SHOWN]]
    lines.append(f"seen in one order only: {len(one)} pairs")
    lines += [f"    {first} -> {second}" for first, second in one[:PAIRS_SHOWN]]
    return lines
