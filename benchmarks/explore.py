# SPDX-License-Identifier: GPL-2.0-only
"""The exploring engine: its speed, complete searches, time to each planted bug by strategy, and how small failures become.

Every table is one run of this script, contenders side by side; a search has processes of its own. Times are by the wall; where a
machine is shared, CPU seconds stand beside them.

    python -m benchmarks.explore
    python -m benchmarks.explore --only speed,complete --limit-s 120
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.table import print_facts, print_table, say, spread, spread_si
from stress.config import bug_overrides, load_config
from stress.explore.scenario import opening_of
from stress.explore.search import Budget, Exploration, explore, follow
from stress.explore.shrink import shrink
from stress.explore.story import tell, told
from stress.explore.worker import Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stress.config import Config

__all__ = ["BUGS", "Bug"]

_CONFIGS = Path(__file__).parents[1] / "configs" / "explore"
_TABLES = ("speed", "complete", "bugs", "shrink", "replay")

# What `split-once` is made of, for sizes beside it.
_SIZES = {
    "1 vCPU, 1 gfn": ["vm.nr_vcpus=1", "script.vcpus=[['w0']]"],
    "1 vCPU, 2 gfns": ["vm.nr_vcpus=1", "script.vcpus=[['w0','w1']]"],
    "2 vCPUs, 1 gfn": ["script.vcpus=[['w0'],['w0']]"],
    "2 vCPUs, 2 gfns": [],
}


@dataclass(frozen=True)
class Bug:
    """A planted bug where it shows."""

    names: tuple[str, ...]
    scenario: str = "split-zap"
    sets: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Its names, and the check level where that is not the scenario's own."""
        level = ", use" if 'check.level="use"' in self.sets else ""
        return " + ".join(self.names) + level


_USE = 'check.level="use"'
BUGS = (
    Bug(("request-without-ack",)),
    Bug(("request-without-ack",), sets=(_USE,)),
    Bug(("no-request",)),
    Bug(("no-request",), sets=(_USE,)),
    Bug(("request-before-invalidate",)),
    Bug(("request-before-invalidate",), sets=(_USE,)),
    Bug(("no-flush-on-load",)),
    Bug(("no-flush-on-load",), "lock-breaks", (_USE,)),
    Bug(("no-srcu-wait",)),
    Bug(("no-srcu-wait",), "zap-only", (_USE,)),
    Bug(("zap-only-without-flush",), "zap-only"),
    Bug(("zap-only-without-flush",), "zap-only", (_USE,)),
    Bug(("fault-into-invalidated-root",)),
    Bug(("fault-into-invalidated-root",), sets=(_USE,)),
    Bug(("return-before-back-half",)),
    Bug(("back-half-after-commit",)),
    Bug(("advance-after-yield",), "lock-breaks"),
    Bug(("no-gift",)),
    Bug(("put-before-zap", "iterator-without-reference")),
    Bug(("B41",)),
)


def _config(scenario: str, sets: Sequence[str] = ()) -> Config:
    return load_config(_CONFIGS / f"{scenario}.toml", sets, seed=1, scripted=True)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _search(job: Job, budget: Budget, jobs: int = 1) -> tuple[Exploration, float]:
    """A search, and the CPU seconds of its processes with their start."""
    before = _cpu_s()
    return explore(job, budget, jobs), _cpu_s() - before


def _speed(rounds: int, seconds: float) -> None:
    say("**speed: split-once, by turns**")
    say()
    opening = opening_of(_config("split-once"))
    contenders = [
        ("native", "random", 1),
        ("native", "pct", 1),
        ("native", "dpor", 1),
        ("native", "random", 2),
        ("interpreted", "random", 1),
    ]
    samples: dict[tuple[str, str, int], list[tuple[float, float, float]]] = {contender: [] for contender in contenders}
    for number in range(rounds):
        for contender in contenders:
            engine, strategy, jobs = contender
            result, cpu_s = _search(Job(opening, engine, strategy, seed=number), Budget(seconds=seconds), jobs)
            samples[contender].append((result.executions / result.seconds, result.steps / result.seconds, result.steps / cpu_s))
    rows = []
    for engine, strategy, jobs in contenders:
        executions, steps, per_cpu = zip(*samples[engine, strategy, jobs], strict=True)
        length = statistics.median(s / e for s, e in zip(steps, executions, strict=True))
        name = f"{engine}, {strategy}, {jobs} {'worker' if jobs == 1 else 'workers'}"
        rows.append([name, spread_si(executions), spread_si(steps), spread_si(per_cpu), f"{length:.0f}"])
    print_table(["engine", "executions/s", "steps/s", "steps per CPU second", "steps per execution"], rows)


def _complete(limit_s: float) -> None:
    say(f"**complete searches: split-once and smaller, limit {limit_s:g} s each**")
    say()
    cases = [(size, "split-once", sets) for size, sets in _SIZES.items()]
    cases += [(f"1 vCPU, 1 gfn, {memory}", "entry-barrier", [f"explore.memory={memory!r}"]) for memory in ("sc", "tso")]
    rows = []
    for size, scenario, sets in cases:
        for strategy in ("states", "dpor", "depth-first"):
            opening = opening_of(_config(scenario, sets))
            budget = Budget(seconds=limit_s, memory_bytes=4 << 30)
            result, cpu_s = _search(Job(opening, "native", strategy, seed=1, preemptions_max=1 << 30), budget)
            peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            done = f"{result.states:,} states" if strategy == "states" else f"{result.executions:,} executions"
            traces = "" if strategy == "states" else f"{result.traces:,}"
            ended = f"{result.seconds:.1f} s" if result.complete else f"not within {limit_s:g} s"
            rows.append([size, strategy, ended, done, traces, f"{cpu_s:.1f}", f"{peak_mb:.0f}"])
            say(f"{size}, {strategy}: {ended}, {done}")
    say()
    header = ["scenario", "strategy", "complete", "explored", "distinct traces", "CPU s with start", "largest process so far, MB"]
    print_table(header, rows)


def _bugs(seeds: int, executions: int, only: str) -> None:
    say(f"**planted bugs: first finding, {seeds} seeds, at most {executions:,} executions each, native, one worker**")
    say()
    rows = []
    for bug in BUGS:
        if only and only not in bug.label:
            continue
        opening = opening_of(_config(bug.scenario, [*bug.sets, *bug_overrides(bug.names)]))
        row = [bug.label, bug.scenario]
        kinds: set[str] = set()
        for strategy in ("pct", "random"):
            numbers, times = [], []
            for seed in range(1, seeds + 1):
                result = explore(Job(opening, "native", strategy, seed=seed), Budget(executions=executions))
                if result.failing is not None:
                    numbers.append(result.failing.number + 1)
                    times.append(result.seconds)
                    if seed == 1:
                        _, ending = told(opening, result.failing)
                        kinds.add(f"{ending.signature[0]} [{ending.rule}]")
            row += [f"{len(numbers)} of {seeds}", spread(numbers, 0), spread(times, 2)]
        rows.append([*row, ", ".join(sorted(kinds))])
        say(f"{bug.label}: {' '.join(row[2:])}")
    say()
    header = ["bug", "scenario", "pct found", "executions", "s", "random found", "executions", "s", "first finding"]
    print_table(header, rows)


def _shrink(only: str) -> None:
    say("**shrinking: the first failure that PCT finds**")
    say()
    rows = []
    for bug in BUGS:
        if only and only not in bug.label:
            continue
        config = _config(bug.scenario, [*bug.sets, *bug_overrides(bug.names)])
        opening = opening_of(config)
        result = explore(Job(opening, "native", "pct", seed=1), Budget(executions=200_000))
        if result.failing is None:
            rows.append([bug.label, "not found", "", "", "", ""])
            continue
        story, ending = told(opening, result.failing)
        start = time.perf_counter()
        small = shrink(config, story.runs, ending.signature, "native", 60)
        seconds = time.perf_counter() - start
        after = tell(opening_of(small.config), small.runs)
        rows.append(
            [
                bug.label,
                f"{story.switches} -> {after.switches}",
                f"{len(story.steps):,} -> {len(after.steps):,}",
                f"{small.preemptions}" if small.fewest else f"more than {small.preemptions}?",
                f"{seconds:.1f}",
                f"{after.ending.signature[0]} [{after.ending.rule}]",
            ]
        )
        say(" ".join(rows[-1]))
    say()
    print_table(["bug", "context switches", "steps", "preemptions, fewest", "s", "finding"], rows)


def _replay(count: int) -> None:
    say(f"**replay: {count:,} failing schedules, found natively, told by the interpreted engine, followed by the native one**")
    say()
    opening = opening_of(_config("split-zap", bug_overrides(["no-request"])))
    same = followed = 0
    for seed in range(count):
        result = explore(Job(opening, "native", "pct", seed=seed), Budget(executions=100_000))
        if result.failing is None:
            continue
        story, ending = told(opening, result.failing)
        same += ending.is_failure
        if seed % 50 == 0:
            again = follow(opening, story.runs)
            followed += (again.digest, again.events_digest) == (story.digest, story.events_digest)
    say(f"- {same:,} of {count:,} the same bit for bit; {followed} of {len(range(0, count, 50))} events the same in both engines")
    say()


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default=",".join(_TABLES), help="which, separated by commas")
    parser.add_argument("--only", default="", metavar="PART", help="only bugs whose name contains this")
    parser.add_argument("--rounds", type=int, default=5, help="of the speed table")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each sample of it")
    parser.add_argument("--limit-s", type=float, default=120.0, help="of each complete search")
    parser.add_argument("--seeds", type=int, default=20, help="searches for each bug and strategy")
    parser.add_argument("--executions", type=int, default=200_000, help="of each of these at the most")
    parser.add_argument("--replays", type=int, default=1000, help="schedules to replay")
    parser.add_argument("--quick", action="store_true", help="everything as short as it can be, to see that it works")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds, options.limit_s = 1, 1.0, 1.0
        options.seeds, options.executions, options.replays, options.only = 1, 2000, 2, options.only or "no-request"
    tables = options.tables.split(",")
    print_facts(f"python -m benchmarks.explore --tables {options.tables} --seeds {options.seeds} --limit-s {options.limit_s:g}")
    if "speed" in tables:
        _speed(options.rounds, options.seconds)
    if "complete" in tables:
        _complete(options.limit_s)
    if "bugs" in tables:
        _bugs(options.seeds, options.executions, options.only)
    if "shrink" in tables:
        _shrink(options.only)
    if "replay" in tables:
        _replay(options.replays)


if __name__ == "__main__":
    main()
