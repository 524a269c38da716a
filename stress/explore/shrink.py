# SPDX-License-Identifier: GPL-2.0-only
"""Making a failure small: fewer actors, operations and accesses, then the fewest context switches that still fail the same way.

First the scenario, by delta debugging: an actor or an item of a script is left out, and the smaller scenario must fail with the
same kind and rule, by the old schedule as far as it can be followed, or by one that a short search finds. Then the schedule: runs
are left out, swapped with their neighbour, or go on as long as they can. Last, all schedules with fewer preemptions are tried, as
far as time allows.
"""

from __future__ import annotations

import re
import time
import tomllib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stress.config import Config, config_from, resolved_toml
from stress.errors import UsageError
from stress.explore.scenario import opening_of
from stress.explore.schedule import DRAIN, Runs, context_switches
from stress.explore.search import Prober
from stress.explore.worker import Attempt, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Shrunk", "shrink"]

SEARCH_EXECUTIONS = 4000
DEPTH_FIRST_EXECUTIONS = 60_000
WITHOUT_END = 1 << 20  # a run of so many steps goes on until its actor waits


@dataclass(frozen=True)
class Shrunk:
    """The smallest failing scenario and schedule found.

    `fewest` is True if all schedules with fewer preemptions were tried and none of them fails.
    """

    config: Config
    runs: Runs
    tried: int
    fewest: bool
    preemptions: int


def shrink(
    config: Config,
    runs: Runs,
    signature: tuple[str, str],
    engine: str,
    seconds: float,
    on_message: Callable[[str], None] | None = None,
) -> Shrunk:
    """Make a failure small.

    Args:
        config: its scenario.
        runs: its schedule.
        signature: what it must still be: Ending.signature.
        engine: "native" or "interpreted".
        seconds: after which the smallest so far is taken.
        on_message: told what became smaller.

    Raises:
        HarnessError: the engine did not start.
    """
    job = Job(opening_of(config), engine, "pct", seed=1)
    with Prober(job) as prober:
        return _Shrinker(prober, job, signature, time.monotonic() + seconds, on_message or (lambda _: None)).run(config, runs)


class _Shrinker:
    def __init__(
        self,
        prober: Prober,
        job: Job,
        signature: tuple[str, str],
        deadline: float,
        on_message: Callable[[str], None],
    ) -> None:
        self._prober = prober
        self._job = job
        self._signature = signature
        self._deadline = deadline
        self._on_message = on_message
        self._tried = 0

    def run(self, config: Config, runs: Runs) -> Shrunk:
        config, runs = self._smaller_scenario(config, runs)
        warm = self._smallest_schedule(config, runs)
        if not config.script.warm or self._is_late():
            return warm
        # A cold start may need fewer operations, and more steps and switches to come to the point.
        for _, colder, translated in _valid("the warm start", _with(_raw(config), script={"warm": False}), runs):
            found = self._fails(colder, translated)
            if found is None:
                break
            cold = self._smallest_schedule(*self._smaller_scenario(colder, found))
            if _size(cold) < _size(warm):
                self._on_message("without the warm start: fails in the same way")
                return cold
        return warm

    def _smallest_schedule(self, config: Config, runs: Runs) -> Shrunk:
        self._open(config)
        runs = self._smoother(runs)
        runs, fewest, preemptions = self._fewer_preemptions(runs)
        return Shrunk(config, self._smoother(runs), self._tried, fewest, preemptions)

    def _open(self, config: Config) -> None:
        self._job = replace(self._job, opening=opening_of(config))
        self._prober.open(self._job)

    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline

    def _attempt(self, runs: Runs) -> Runs | None:
        """Follow a schedule as far as it goes; what was really done, if it fails as it should."""
        self._tried += 1
        made = self._prober.attempt(Attempt(tuple(runs)))
        return made.runs if made.signature == self._signature else None

    # --- the scenario

    def _smaller_scenario(self, config: Config, runs: Runs) -> tuple[Config, Runs]:
        again = True
        while again and not self._is_late():
            again = False
            for what, smaller, translated in _smaller(config, runs):
                if self._is_late():
                    break
                found = self._fails(smaller, translated)
                if found is not None:
                    self._on_message(f"without {what}: fails in the same way")
                    config, runs, again = smaller, found, True
                    break
        return config, runs

    def _fails(self, config: Config, runs: Runs) -> Runs | None:
        self._open(config)
        found = self._attempt(runs)
        if found is not None:
            return found
        self._tried += SEARCH_EXECUTIONS
        made = self._prober.sample(SEARCH_EXECUTIONS)
        return made.runs if made.signature == self._signature else None

    # --- the schedule

    def _smoother(self, runs: Runs) -> Runs:
        """Leave out, swap or lengthen runs as long as that saves something."""
        best = runs
        again = True
        while again and not self._is_late():
            again = False
            for candidate in _simpler(best):
                if self._is_late():
                    break
                found = self._attempt(candidate)
                if found is not None and _cost(found) < _cost(best):
                    best, again = found, True
                    break
        return best

    def _fewer_preemptions(self, runs: Runs) -> tuple[Runs, bool, int]:
        """Try all schedules with no preemption, with one, with two, as long as that can save something."""
        for preemptions in range(context_switches(runs)):
            if self._is_late():
                return runs, False, preemptions
            made = self._prober.depth_first(preemptions, DEPTH_FIRST_EXECUTIONS, self._signature)
            self._tried += made.executions
            if made.signature == self._signature:
                found = self._smoother(made.runs)
                return (found if _cost(found) < _cost(runs) else runs), True, preemptions
            if not made.complete:
                return runs, False, preemptions
        return runs, True, context_switches(runs)


def _size(result: Shrunk) -> tuple[int, int, int]:
    """How much there is to read: switches, operations and accesses, steps."""
    script = result.config.script
    return context_switches(result.runs), len(script.ctl) + sum(map(len, script.vcpus)), sum(count for _, count in result.runs)


def _raw(config: Config) -> dict[str, Any]:
    return tomllib.loads(resolved_toml(config))


def _cost(runs: Runs) -> tuple[int, int]:
    return context_switches(runs), sum(count for _, count in runs)


def _simpler(runs: Runs) -> Iterator[Runs]:
    """Schedules that could have fewer context switches, those that change most first."""
    for n in range(len(runs) - 1):
        # Whoever ran goes on as long as it can.
        yield [*runs[:n], (runs[n][0], WITHOUT_END), *runs[n + 1 :]]
    for n in range(len(runs)):
        yield runs[:n] + runs[n + 1 :]
    for n in range(len(runs) - 1):
        yield [*runs[:n], runs[n + 1], runs[n], *runs[n + 2 :]]
    for n in range(len(runs) - 2):
        yield [*runs[:n], *runs[n + 1 : n + 3], runs[n], *runs[n + 3 :]]


def _smaller(config: Config, runs: Runs) -> Iterator[tuple[str, Config, Runs]]:
    """Scenarios with one thing less, and the schedule in their terms."""
    raw = _raw(config)
    vcpus = raw["script"]["vcpus"]
    if len(vcpus) > 1:
        for vcpu in range(len(vcpus)):
            kept = [*vcpus[:vcpu], *vcpus[vcpu + 1 :]]
            changed = _with(raw, script={"vcpus": kept}, vm={"nr_vcpus": len(kept)})
            yield from _valid(f"vcpu{vcpu}", changed, _without_vcpu(runs, vcpu))
    if raw["script"]["rcu"]:
        yield from _valid("rcu", _with(raw, script={"rcu": False}), [run for run in runs if not run[0].startswith("rcu")])
    if raw["script"]["need_resched"]:
        yield from _valid("need_resched", _with(raw, script={"need_resched": False}), runs)
    if raw["script"]["toggler"] > 1:
        yield from _valid("a change of the quirk", _with(raw, script={"toggler": raw["script"]["toggler"] - 1}), runs)
    operations = raw["script"]["ctl"]
    for length in range(1, len(operations)):
        yield from _valid(f"all behind {operations[length - 1]}", _with(raw, script={"ctl": operations[:length]}), runs)
    for n, operation in enumerate(operations):
        yield from _valid(operation, _with(raw, script={"ctl": operations[:n] + operations[n + 1 :]}), runs)
    for vcpu, items in enumerate(vcpus):
        for n, item in enumerate(items):
            kept = [*vcpus[:vcpu], items[:n] + items[n + 1 :], *vcpus[vcpu + 1 :]]
            yield from _valid(f"{item} of vcpu{vcpu}", _with(raw, script={"vcpus": kept}), runs)


def _with(raw: dict[str, Any], **tables: dict[str, Any]) -> dict[str, Any]:
    return raw | {name: raw[name] | values for name, values in tables.items()}


def _valid(what: str, raw: dict[str, Any], runs: Runs) -> Iterator[tuple[str, Config, Runs]]:
    try:
        yield what, config_from(raw, "shrink", scripted=True), runs
    except UsageError:
        return


def _without_vcpu(runs: Runs, gone: int) -> Runs:
    kept = []
    for name, count in runs:
        match = re.fullmatch(rf"vcpu(\d+)({re.escape(DRAIN)})?", name)
        if match is None:
            kept.append((name, count))
        elif int(match[1]) != gone:
            number = int(match[1]) - (int(match[1]) > gone)
            kept.append((f"vcpu{number}{match[2] or ''}", count))
    return kept
