# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/check/judge.py on logs of which a part is missing or is not what a run writes: judged as far as they go."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pyarrow as pa
import pytest

from stress.check import check_run
from stress.check.rules import STALE_USE_RETIRED
from stress.check.state import FIRST_OTHER, MAX_ACTORS
from stress.errors import UsageError
from stress.log import events as log_events
from stress.log.schema import COLUMNS, Kind
from stress.verdict import Verdict
from tests.executions import late_logging
from tests.log import run_folder as rf

from . import sample as sm
from .test_rules import PLANTS

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parents[2]
FIRST_OF_VERSION_2 = Kind.REQUEST_CLEAR
CHUNK = 40  # cut logs in one test


def codes(result: Any) -> set[str]:
    return {problem.code for problem in result.problems}


# --- a part is missing

CUTS = ("head", "tail", "hole", "actor", "sampled")


class Cut:
    """A random way to lose a part of a log, as a window, a kill, a damaged file, a lost file or sampling does."""

    def __init__(self, log: sm.Log, seed: int, kinds: Iterable[str] = CUTS) -> None:
        self.rng = random.Random(seed)
        self.kinds = set(self.rng.sample(sorted(kinds), self.rng.choice((1, 1, 1, 2, 3)) if len(list(kinds)) > 2 else 1))
        self.log = log
        self.kept = {actor: log.own(actor) for actor in log.actors}
        self.first_seq: dict[str, int] = {}
        self.lost: dict[str, set[int]] = {}
        self.gone: list[str] = []
        self.options: dict[str, Any] = {"policy": "all", "complete": True}
        for kind in CUTS:
            if kind in self.kinds:
                getattr(self, f"_{kind}")()

    def _head(self) -> None:
        """A window: the last events of each actor, from some time on or some number of them."""
        self.options["policy"] = "window"
        since_ns = self.rng.randrange(self.log.end_ns)
        last = self.rng.choice((8, 16, 32, 64, 128, 256))
        by_time = self.rng.random() < 0.5
        for actor, events in self.kept.items():
            cut = sum(event.time_ns < since_ns for event in events) if by_time else max(0, len(events) - last)
            if self.rng.random() < 0.2:
                cut = self.rng.randrange(len(events) + 1)
            self.first_seq[actor], self.kept[actor] = cut, events[cut:]

    def _tail(self) -> None:
        """A kill: what was in the open files is gone, as much of each actor as it will."""
        self.options["complete"] = False
        for actor, events in self.kept.items():
            if self.rng.random() < 0.7:
                self.kept[actor] = events[: self.rng.randrange(len(events) + 1)]

    def _hole(self) -> None:
        for actor in self.rng.sample(self.log.actors, self.rng.choice((1, 1, 2))):
            count = len(self.kept[actor])
            if count > 2:
                first = self.rng.randrange(1, count - 1)
                end = min(count - 1, first + self.rng.choice((1, 1, 3, 10, 50)))
                self.lost[actor] = {self.first_seq.get(actor, 0) + n for n in range(first, end)}

    def _actor(self) -> None:
        self.gone = self.rng.sample(self.log.actors, self.rng.choice((1, 1, 2)))

    def _sampled(self) -> None:
        self.options["policy"] = "sampled"
        for actor, events in self.kept.items():
            hot = {Kind.GUEST_ACCESS, Kind.TLB_FILL}
            stale = {event for event in events if event.kind == Kind.GUEST_ACCESS and event.arg1 & sm.RETIRED}
            self.kept[actor] = [e for e in events if e.kind not in hot or e in stale or self.rng.random() < 0.3]

    def left(self) -> list[sm.Event]:
        """What is still there."""
        return [
            event
            for actor, events in self.kept.items()
            if actor not in self.gone
            for number, event in enumerate(events)
            if number + self.first_seq.get(actor, 0) not in self.lost.get(actor, ())
        ]

    def write(self, path: Path) -> Path:
        records = {actor: [event.words for event in events] for actor, events in self.kept.items()}
        rows = {"row_group_rows": self.rng.choice((50, 1 << 16)), "file_rows": self.rng.choice((200, 1 << 20))}
        parts = {"first_seq": self.first_seq, "lost": self.lost}
        self.log.write(path, events=records, **parts, **rows, **self.options)
        for actor in self.gone:
            for file in path.glob(f"events/{actor}-*"):
                file.unlink()
        return path


def any_late_log(seed: int) -> sm.Log:
    with late_logging():
        return sm.any_log(seed)


def assert_nothing_found_in_cut_logs(first: int, path: Path) -> None:
    for seed in range(first, first + CHUNK):
        log = any_late_log(seed) if seed % 2 else random.Random(seed).choice(sm.samples())
        cut = Cut(log, seed)
        result = check_run(cut.write(path))
        told = f"seed {seed}, {log}, {sorted(cut.kinds)}\n{sm.told(result)}"
        assert (result.findings, result.ambiguous, result.disagreements) == ([], [], []), told
        assert result.verdict in {Verdict.PASS, Verdict.INCONCLUSIVE}, told
        if cut.options["policy"] == "sampled" or not cut.options["complete"] or len(cut.left()) < len(log.events):
            assert result.verdict is Verdict.INCONCLUSIVE, told
            assert result.problems, told
            assert str(result.problems[0]) in result.reason, told


@pytest.mark.parametrize("first", range(0, 5 * CHUNK, CHUNK))
def test_nothing_is_found_in_a_part_of_a_correct_log(first, tmp_path):
    """Cut at its head, its tail, in the middle, at whole actors, or sampled: what is not there is no violation."""
    assert_nothing_found_in_cut_logs(first, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("first", range(10_000, 10_000 + 100 * CHUNK, CHUNK))
def test_nothing_is_found_in_a_part_of_a_correct_log_many(first, tmp_path):
    """The same, thousands of times."""
    assert_nothing_found_in_cut_logs(first, tmp_path / "run")


@pytest.mark.parametrize("kind", CUTS)
def test_a_stale_use_is_found_in_a_part_of_a_log(kind, tmp_path):
    """What the event itself carries needs nothing beside it: found if it is there, and the damage does not hide it."""
    found = 0
    for seed in range(15):
        log = sm.named()
        access = sm.make_stale(log, seed)
        cut = Cut(log, seed, [kind])
        result = check_run(cut.write(tmp_path / "run"))
        there = access in cut.left()
        seq = cut.first_seq.get(access.actor, 0) + cut.kept[access.actor].index(access) if there else None
        told = f"seed {seed}, {sorted(cut.kinds)}\n{sm.told(result)}"
        assert [(f.actor, f.seq, sm.code_of(f)) for f in result.findings] == [(access.actor, seq, STALE_USE_RETIRED)] * there, told
        assert (result.verdict is Verdict.VIOLATION) == there, told
        found += there
    assert found > 2


@pytest.mark.parametrize("number", range(0, len(PLANTS), 3))
def test_what_is_found_in_a_part_is_found_in_the_whole(number, tmp_path):
    """A part of a log that breaks a rule shows no more rules broken than the whole."""
    plant = PLANTS[number]
    for seed in range(4):
        pick = sm.Pick(seed)
        log = pick.random.choice(sm.samples()).copy()
        try:
            options = plant.change(log, pick, 5000) or {}
        except sm.NothingToPlantError:
            continue
        whole = sm.codes_of(log.check(tmp_path / "run", **options).findings)
        part = check_run(Cut(log, seed, ["tail", "hole"]).write(tmp_path / "run"))
        assert sm.codes_of(part.findings) <= whole | plant.also, sm.told(part)


@pytest.mark.parametrize(
    ("lose", "expected"),
    [
        (lambda log, path: log.write(path, policy="window", first_seq=dict.fromkeys(log.actors, 3)), {"policy-window"}),
        (lambda log, path: log.write(path, policy="sampled"), {"policy-sampled"}),
        (lambda log, path: log.write(path, complete=False), {"not-closed"}),
        (lambda log, path: log.write(path, lost={"ctl": {5, 6}}), {"gap", "lost-events"}),
        (lambda log, path: next(log.write(path).glob("events/rcu-*")).unlink(), {"actor-missing"}),
        (lambda log, path: next(log.write(path).glob("events/ctl-*")).write_bytes(b"PAR1"), {"file-damaged"}),
        (lambda log, path: (log.write(path) / "manifest.json").unlink(), {"manifest-damaged"}),
        (lambda log, path: (log.write(path) / "config.toml").unlink(), {"config-missing"}),
        (lambda log, path: (log.write(path) / "control.jsonl").unlink(), {"control-damaged", "not-closed"}),
        (lambda log, path: (log.write(path) / "events" / "ctl-00001.parquet.part").touch(), {"torn-file"}),
        (lambda log, path: log.write(path, manifest={"schema_version": 3}), {"schema-version"}),
    ],
)
def test_what_is_missing_is_named(lose, expected, tmp_path):
    """INCONCLUSIVE, never PASS, and the reason says what could not be judged; the rest was."""
    path = tmp_path / "run"
    lose(sm.named(), path)
    result = check_run(path)
    assert result.findings == [], sm.told(result)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert codes(result) == expected
    assert str(result.problems[0]) in result.reason
    assert ("more problem" in result.reason) == (len(result.problems) > 1)


def test_a_window_that_holds_everything_is_whole(tmp_path):
    """Nothing was overwritten: such a log is judged to the end."""
    result = sm.named().check(tmp_path / "run", policy="window")
    assert (result.verdict, result.problems) == (Verdict.PASS, [])


def test_a_violation_in_a_damaged_log_is_a_violation(tmp_path):
    """What was seen stays true; the reason says that there is more that could not be seen."""
    log = sm.named()
    sm.make_stale(log)
    result = log.check(tmp_path / "run", complete=False)
    assert result.verdict is Verdict.VIOLATION
    assert result.reason == "1 finding; and 1 problem of the log"


@pytest.mark.parametrize("name", [log.name for log in sm.samples()])
def test_a_log_of_format_version_1_is_judged_as_far_as_it_goes(name, tmp_path):
    """It lacks kinds of events that rules rest on: these rules are passed over, and a stale use is still found."""
    log = sm.named(name)
    log.events = [event for event in log.events if event.kind < FIRST_OF_VERSION_2]
    columns = [pa.field(column, pa.int16() if column == "kind" else pa.int64()) for column in COLUMNS]
    nullable = pa.schema([field.with_nullable(field.name not in {"seq", "time_ns", "kind"}) for field in columns])
    with mock.patch.multiple(log_events, SCHEMA_VERSION=1, arrow_schema=lambda: nullable):
        result = log.check(tmp_path / "run", manifest={"schema_version": 1})
        assert (result.findings, result.verdict, codes(result)) == ([], Verdict.INCONCLUSIVE, {"schema-version"}), sm.told(result)
        sm.make_stale(log)
        result = log.check(tmp_path / "run", manifest={"schema_version": 1})
        assert sm.codes_of(result.findings) == {STALE_USE_RETIRED}


def test_a_run_without_events_is_inconclusive(tmp_path):
    """There is nothing to judge, whatever the control log says."""
    result = check_run(rf.write_run(tmp_path / "run", {"vcpu0": [], "ctl": []}).path)
    assert (result.verdict, result.reason, result.events) == (Verdict.INCONCLUSIVE, "the log has no events", 0)


def test_no_run_is_refused(tmp_path):
    """A path that is no run is an error of use, not a verdict."""
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UsageError):
            check_run(path)


# --- words that no run writes

ODD_WORDS = (
    -1,
    0,
    1,
    5,
    63,
    64,
    65,
    80,
    255,
    1 << 16,
    (1 << 17) - 1,
    1 << 17,
    10**9,
    1 << 40,
    (1 << 62) - 1,
    (1 << 63) - 1,
    -2,
    -(2**63),
)
ODD_KINDS = (0, 1, 7, 19, 20, 21, 34, 49, 63, 64, 65, 100, 32767, -1, -5)
FUZZ = """
import random, sys
from pathlib import Path
from tests.check import sample as sm
from tests.check import test_parts as tests
path, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for seed in range(first, first + count):
    tests.check_odd_words(seed, path)
print("done")
"""


def check_odd_words(seed: int, path: Path) -> None:
    """Check a sample with some words replaced by others, and turn the outcome into text."""
    rng = random.Random(seed)
    log = rng.choice(sm.samples()).copy()
    for event in rng.sample(log.events, rng.choice((1, 5, 50))):
        word = rng.choice(("kind", "gfn", "root", "pfn", "incarnation", "arg0", "arg1", "arg0", "arg1"))
        setattr(event, word, rng.choice(ODD_KINDS if word == "kind" else ODD_WORDS))
    assert json.dumps(log.check(path).to_dict())


def fuzz(path: Path, first: int, count: int) -> None:
    """In a process of its own: a word that is taken for an address would end this one."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", FUZZ, str(path), str(first), str(count)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["done"]), done.stderr[-3000:]


def test_no_word_of_an_event_crashes_the_checker(tmp_path):
    """Whatever stands in the columns is judged or passed over; compiled code checks every index that comes from a file."""
    fuzz(tmp_path / "run", 0, 150)


@pytest.mark.slow
def test_no_word_of_an_event_crashes_the_checker_many(tmp_path):
    """The same, thousands of times."""
    fuzz(tmp_path / "run", 1000, 4000)


def test_more_actors_than_there_is_room_for(tmp_path):
    """The first ones are judged, the others named."""
    log = sm.named()
    records = log.records()
    room = MAX_ACTORS - FIRST_OTHER - sum(not actor.startswith("vcpu") for actor in log.actors)
    helpers = {f"helper{n}": [rf.event(1, Kind.SRCU_LOCK)] for n in range(room + 3)}
    result = log.check(tmp_path / "run", events=records | helpers)
    assert (result.findings, result.verdict) == ([], Verdict.INCONCLUSIVE)
    assert [(problem.code, problem.where) for problem in result.problems] == [
        ("too-many-actors", f"helper{room + n}") for n in range(3)
    ]
