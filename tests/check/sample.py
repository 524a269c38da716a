# SPDX-License-Identifier: GPL-2.0-only
"""Small real logs for the tests of the checker: what the model itself logs in random interleavings, correct or with planted bugs.

The interpreted engine runs the model's own functions and counts every event as one tick. A tick is stretched to TICK_NS here, so
that events lie far outside the clock's window, and there is room between two of them for what a test plants.
"""

from __future__ import annotations

import functools
import random
import re
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from model.layout import ACTOR_CTL, ACTOR_RCU, ACTOR_TOGGLER, actor_name
from model.vm import SlotSettings, VmSettings
from stress.check import CheckResult, Finding, check_run
from stress.check.rules import DETAILS
from stress.log.schema import NULL, SPTE_BITS, Kind
from stress.verdict import Verdict
from tests.executions import Execution, interleave
from tests.log import run_folder as rf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

T = TypeVar("T")

TICK_NS = 10_000
SKEW_NS = 0
WINDOW_NS = SKEW_NS + 1000  # what the checker makes of it

DELETE, MOVE = 2, 3
FREE_OBSOLETE_ROOTS, TLB_FLUSH = 0, 1
FIXED = 2
RETIRED = 2
MMU_READ, MMU_WRITE = 3, 4

TWO = (SlotSettings(0, 2, can_delete=True), SlotSettings(2, 2, can_delete=True))
MOVING = (SlotSettings(0, 1, can_delete=True, move_to=1), SlotSettings(2, 2, can_delete=True))
# The second slot stays: its faults go on while the first one's roots are zapped.
LIVE = (SlotSettings(0, 2, can_delete=True), SlotSettings(2, 2))
BASE = VmSettings(
    nr_vcpus=2,
    levels=2,
    bits_per_level=1,
    slots=TWO,
    nr_pages=40,
    seed=0,
    operations_max=6,
    entries_max=12,
    accesses_per_entry_max=3,
    tlb_entries=4,
)
VARIANTS = ("split", "split-once", "unsplit", "held")


# --- interleavings


class _Always:
    """A need_resched word that never clears: a lock break wherever one may be."""

    def __getitem__(self, actor):
        return 1

    def __setitem__(self, actor, value):
        pass


def always_resched(vm):
    vm.actor.need_resched = _Always()


def once_resched(vm):
    vm.actor.need_resched[:] = 1


def any_settings(seed: int) -> tuple[VmSettings, Callable[[Any], None] | None]:
    """Some small correct scenario, and what to prepare for it."""
    choose = random.Random(seed).choice
    nr_vcpus, levels = choose((1, 2, 2, 3)), choose((2, 2, 3))
    variant = choose(VARIANTS)
    flips = variant != "split" and choose((True, False, False))
    settings = replace(
        BASE,
        seed=seed,
        variant=variant,
        nr_vcpus=nr_vcpus,
        levels=levels,
        slots=choose((TWO, MOVING, LIVE)),
        # Few pages come back soon; no fewer than all caches and tables hold.
        nr_pages=choose((levels * (2 * nr_vcpus + 2), 40)),
        quirk_slot_zap_all=choose((True, False)),
        lock_break_on_contention=choose((True, True, False)),
        check_level=choose(("use", "protocol", "paranoid")),
        operations_max=choose((4, 6, 12)),
        entries_max=choose((12, 30)),
        accesses_per_entry_max=choose((3, 8)),
        hole_ratio=choose((0.0, 0.2)),
        halt_ratio=choose((0.0, 0.2)),
        halt_us_max=300,
        toggler_mode="flip" if flips else "off",
        toggler_period_us_max=1,
    )
    return settings, choose((None, once_resched, always_resched))


def correct(settings: VmSettings, seed: int, prepare: Callable[[Any], None] | None = None) -> Execution:
    """One interleaving in which the model's own oracle found nothing."""
    execution = interleave(settings, seed, prepare=prepare)
    assert (execution.findings, execution.stuck) == ((), None), seed
    return execution


# --- logs


@dataclass(eq=False)
class Event:
    """One event, to be changed at will; compared by identity."""

    time_ns: int
    actor: str
    kind: int
    gfn: int = NULL
    root: int = NULL
    pfn: int = NULL
    incarnation: int = NULL
    arg0: int = NULL
    arg1: int = NULL

    @property
    def words(self) -> tuple[int, ...]:
        return (self.time_ns, self.kind, self.gfn, self.root, self.pfn, self.incarnation, self.arg0, self.arg1)


class Log:
    """The events of one run, and how to write it down."""

    def __init__(self, name: str, actors: Sequence[str], levels: int, events: Sequence[Event]) -> None:
        self.name = name
        self.actors = tuple(actors)
        self.levels = levels
        self.events = list(events)

    def __repr__(self) -> str:
        return self.name

    @property
    def vcpus(self) -> tuple[str, ...]:
        return tuple(actor for actor in self.actors if actor.startswith("vcpu"))

    @property
    def end_ns(self) -> int:
        return max(event.time_ns for event in self.events)

    def copy(self) -> Log:
        return Log(self.name, self.actors, self.levels, [replace(event) for event in self.events])

    def of(self, *kinds: Kind, **fields: Any) -> list[Event]:
        """The events of these kinds with these values, in the order of time."""
        return [
            event
            for event in self.events
            if event.kind in kinds and all(getattr(event, name) == value for name, value in fields.items())
        ]

    def own(self, actor: str) -> list[Event]:
        """An actor's events in its own order."""
        return sorted((event for event in self.events if event.actor == actor), key=lambda event: event.time_ns)

    def before(self, mark: Event | int, *kinds: Kind, **fields: Any) -> Event | None:
        """The last event of these kinds before an event or a time."""
        time_ns = mark if isinstance(mark, int) else mark.time_ns
        return max((e for e in self.of(*kinds, **fields) if e.time_ns < time_ns), key=lambda e: e.time_ns, default=None)

    def after(self, mark: Event | int, *kinds: Kind, **fields: Any) -> Event | None:
        """The first event of these kinds behind an event or a time."""
        time_ns = mark if isinstance(mark, int) else mark.time_ns
        return min((e for e in self.of(*kinds, **fields) if e.time_ns > time_ns), key=lambda e: e.time_ns, default=None)

    def between(self, first: Event, last: Event, *kinds: Kind, **fields: Any) -> list[Event]:
        return [event for event in self.of(*kinds, **fields) if first.time_ns < event.time_ns < last.time_ns]

    def add(self, time_ns: int, actor: str, kind: Kind, **fields: int) -> Event:
        event = Event(time_ns, actor, kind, **fields)
        self.events.append(event)
        return event

    def drop(self, *events: Event) -> None:
        for event in events:
            self.events.remove(event)

    def records(self) -> dict[str, list[tuple[int, ...]]]:
        return {actor: [event.words for event in self.own(actor)] for actor in self.actors}

    def write(self, path: Path, **options: Any) -> Path:
        """Write the run folder; options are those of `run_folder.write_run`."""
        shutil.rmtree(path, ignore_errors=True)
        config = f"[vm]\nnr_vcpus = {len(self.vcpus)}\nlevels = {self.levels}\n\n[run]\nhang_s = 30.0\n"
        return rf.write_run(path, options.pop("events", None) or self.records(), **{"config": config} | options).path

    def check(self, path: Path, **options: Any) -> CheckResult:
        return check_run(self.write(path, **options))


def log_of(name: str, settings: VmSettings, execution: Execution) -> Log:
    """An execution's events as a log."""
    numbers = [*range(settings.nr_vcpus), ACTOR_CTL, ACTOR_RCU]
    if settings.toggler_mode != "off":
        numbers.append(ACTOR_TOGGLER)
    events = [
        Event(int(time) * TICK_NS, actor_name(actor), *(int(word) for word in words)) for time, actor, *words in execution.events
    ]
    return Log(name, [actor_name(number) for number in numbers], settings.levels, events)


def any_log(seed: int) -> Log:
    """The log of some correct interleaving."""
    settings, prepare = any_settings(seed)
    return log_of(f"seed {seed}", settings, correct(settings, seed, prepare))


# Chosen so that every kind of event is there, often enough that a test has a choice.
_SAMPLES: dict[str, tuple[VmSettings, Callable[[Any], None] | None]] = {
    "split": (replace(BASE, variant="split", operations_max=12, entries_max=30), None),
    "split-once": (replace(BASE, slots=MOVING, operations_max=16, entries_max=40), None),
    "split-once, three": (replace(BASE, nr_vcpus=3, slots=LIVE, operations_max=12, entries_max=30), None),
    "unsplit": (replace(BASE, variant="unsplit", slots=MOVING, operations_max=12, entries_max=40), once_resched),
    "held": (replace(BASE, variant="held", slots=LIVE, operations_max=12, entries_max=40), always_resched),
    "yields": (replace(BASE, levels=3, slots=LIVE, nr_pages=80, operations_max=12, entries_max=40), always_resched),
    "zap-only": (replace(BASE, quirk_slot_zap_all=False, operations_max=12, entries_max=40), None),
    "zap-only, moves": (replace(BASE, quirk_slot_zap_all=False, slots=MOVING, operations_max=16, entries_max=40), None),
    "zap-only, yields": (replace(BASE, quirk_slot_zap_all=False, slots=LIVE, levels=3, nr_pages=80), always_resched),
    "halts": (replace(BASE, nr_vcpus=3, halt_ratio=0.4, halt_us_max=300, operations_max=12, entries_max=30), None),
    "holes": (replace(BASE, slots=(SlotSettings(0, 2, can_delete=True),), hole_ratio=0.3, operations_max=8), None),
    "toggled": (replace(BASE, toggler_mode="flip", toggler_period_us_max=1, operations_max=12, entries_max=30), None),
    "few pages": (replace(BASE, nr_pages=12, operations_max=16, entries_max=40), once_resched),
    "quiet": (replace(BASE, lock_break_on_contention=False, ad_writeback=False, operations_max=12, entries_max=30), None),
}


@functools.cache
def samples() -> tuple[Log, ...]:
    """The logs that tests change; made once."""
    logs = []
    for number, (name, (settings, prepare)) in enumerate(_SAMPLES.items()):
        seed = 100 + number
        logs.append(log_of(name, replace(settings, seed=seed), correct(replace(settings, seed=seed), seed, prepare)))
    return tuple(logs)


def named(name: str = "split") -> Log:
    """A sample, to be changed."""
    return next(log.copy() for log in samples() if log.name == name)


def make_stale(log: Log, seed: int = 0) -> Event:
    """Let some access say that it met a retired incarnation."""
    access = random.Random(seed).choice(log.of(Kind.GUEST_ACCESS))
    access.arg1 |= RETIRED
    return access


# --- words


def spte_part(word: int, part: str) -> int:
    shift, width = SPTE_BITS[part]
    return word >> shift & (1 << width) - 1


def spte_with(word: int, part: str, value: int) -> int:
    shift, width = SPTE_BITS[part]
    return word & ~(((1 << width) - 1) << shift) | value << shift


def is_leaf(word: int) -> bool:
    return word & 3 == 3


def is_nonleaf(word: int) -> bool:
    return word & 3 == 1


# --- what a check says


def _pattern(sentence: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{.*?\}", ".+", re.escape(sentence)))


_PATTERNS = {code: _pattern(detail.sentence) for code, detail in DETAILS.items()}


def code_of(finding: Finding) -> int:
    """The code in stress/check/rules.py whose sentence a finding has."""
    codes = [
        code
        for code, detail in DETAILS.items()
        if (detail.kind, detail.rule) == (finding.kind, finding.rule) and _PATTERNS[code].fullmatch(finding.detail)
    ]
    assert len(codes) == 1, finding
    return codes[0]


def codes_of(findings: Sequence[Finding]) -> set[int]:
    return {code_of(finding) for finding in findings}


def told(result: CheckResult) -> str:
    """What a failed assertion should show of a result."""
    lines = [f"{result.verdict.value}: {result.reason}", *map(str, result.problems[:5]), *result.disagreements]
    return "\n".join([*lines, *(str(replace(f, evidence=())) for f in [*result.findings[:5], *result.ambiguous[:5]])])


# --- planting


class NothingToPlantError(Exception):
    """This log has no event of the kind that is to be changed."""


class Pick:
    """A seeded choice among candidates."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def __call__(self, candidates: Iterable[T]) -> T:
        listed = list(candidates)
        if not listed:
            raise NothingToPlantError
        return self.random.choice(listed)


class Plant(NamedTuple):
    """One way to break one rule in a log.

    Attributes:
        code: of the finding that must come of it.
        change: changes the log; gets a choice and, in ns, how far apart the two events are to be whose order is wrong.
            Returns options of `Log.write`, or None.
        also: codes of what else it brings about.
        clock: whether the order of two actors' events decides, so that a smaller distance is ambiguous.
    """

    code: int
    change: Callable[[Log, Pick, int], dict[str, Any] | None]
    also: frozenset[int]
    clock: bool

    def __str__(self) -> str:
        return self.change.__name__


class Plants(list[Plant]):
    """The plants of one group of rules."""

    def breaks(self, code: int, *, also: Iterable[int] = (), clock: bool = False) -> Callable[[Any], Any]:
        """Decorator: the function breaks the rule of this code."""

        def add(change: Any) -> Any:
            self.append(Plant(code, change, frozenset(also), clock))
            return change

        return add


def planted(plant: Plant, seed: int, by_ns: int, path: Path) -> CheckResult:
    """Check some sample in which the plant was planted."""
    pick = Pick(seed)
    for sample in pick.random.sample(samples(), len(samples())):
        log = sample.copy()
        try:
            options = plant.change(log, pick, by_ns) or {}
        except NothingToPlantError:
            continue
        return log.check(path, **options)
    raise AssertionError(f"{plant}: no sample has anything to change")


def assert_found(plant: Plant, seed: int, path: Path) -> None:
    """The rule is broken for certain: that is found, with evidence, and nothing else but what follows from it."""
    result = planted(plant, seed, WINDOW_NS + 1 + seed * 1000, path)
    codes = codes_of(result.findings)
    assert plant.code in codes, told(result)
    assert codes <= {plant.code} | plant.also, told(result)
    assert result.verdict is Verdict.VIOLATION
    assert result.nr_findings.keys() == {DETAILS[code].rule for code in codes}
    assert all(finding.confidence == "certain" and finding.evidence for finding in result.findings[:10]), told(result)


def assert_ambiguous(plant: Plant, by_ns: int, path: Path) -> None:
    """The same order within the clock's window is no finding, but is mentioned."""
    result = planted(plant, by_ns, by_ns, path)
    assert plant.code in codes_of(result.ambiguous), told(result)
    assert codes_of(result.findings) <= plant.also, told(result)
    assert all(0 < finding.margin_ns <= WINDOW_NS == result.window_ns for finding in result.ambiguous)
    if not result.findings:
        assert result.verdict is Verdict.PASS
