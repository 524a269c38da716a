# SPDX-License-Identifier: GPL-2.0-only
"""One execution told step by step: a schedule replayed by the interpreted engine, with every function and every event.

Whatever found a failure, its story is told from the schedule alone; that the replay ends as the search did is what makes it
believable.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from model.atomics import PRIMITIVES
from model.layout import field_table
from stress.errors import HarnessError
from stress.explore.board import EVENTS_MAX, MAX_PLAYERS
from stress.explore.coverage import field_of
from stress.explore.ending import Ending, ending_of
from stress.explore.interpreted import Interpreted, Step, functions_of
from stress.explore.opening import set_up
from stress.explore.schedule import Runs, context_switches, digest_of_events, give, give_runs, runs_of, schedule_of
from stress.explore.strategies import GIVEN, RUNS

if TYPE_CHECKING:
    from stress.explore.opening import Opening
    from stress.explore.search import Failing

__all__ = ["Story", "tell", "told"]


@dataclass(frozen=True)
class Story:
    """One execution.

    `events` are (steps before it, actor id, kind, gfn, root, pfn, incarnation, arg0, arg1), with the ids of model/constants.py.
    `positions` say where each actor stood at the end. `digest` covers every step and its result, `events_digest` the events.
    """

    actors: tuple[str, ...]
    runs: Runs
    steps: tuple[Step, ...]
    events: tuple[tuple[int, ...], ...]
    ending: Ending
    positions: tuple[str, ...]
    digest: int
    events_digest: str

    @property
    def switches(self) -> int:
        """Context switches of its schedule."""
        return context_switches(self.runs)


def tell(opening: Opening, runs: Runs, *, exactly: bool = True, stop_behind: bool = False) -> Story:
    """Replay a schedule.

    Args:
        opening: of the scenario.
        runs: the schedule.
        exactly: follow it to the letter, and end as "diverged" where that is impossible; else as far as it goes.
        stop_behind: end behind its last step, for a schedule that was cut short.

    Context: the interpreted engine, in this process.

    Raises:
        ValueError: the schedule is not one of this scenario.
    """
    table = set_up(opening)
    board = table.board
    engine = Interpreted(table)
    if exactly:
        give(board, runs, opening.actors)
        board.strategy[0] = GIVEN
    else:
        give_runs(board, runs, opening.actors)
        board.strategy[0] = RUNS
    board.run_left[0] = -1
    if stop_behind:
        board.step_budget[0] = sum(count for _, count in runs)
        board.fair_from[0] = board.step_budget[0]
    board.tracing[0] = 1
    seen: dict[int, tuple[tuple[tuple[str, int], ...], int, int]] = {}

    def observe(frame: Any, result: int) -> None:
        seen[int(board.step[0]) - 1] = (functions_of(frame), result, int(board.nr_events[0]))

    engine.observe = observe
    engine.execute()
    return Story(
        actors=opening.names,
        runs=runs_of(schedule_of(board), opening.actors),
        steps=tuple(_steps(board, seen)),
        events=tuple(tuple(int(word) for word in row) for row in board.event[: min(int(board.nr_events[0]), EVENTS_MAX)]),
        ending=ending_of(table.vm, board, engine.positions()),
        positions=tuple(engine.positions()),
        digest=int(board.digest[0]),
        events_digest=digest_of_events(board),
    )


def told(opening: Opening, failing: Failing) -> tuple[Story, Ending]:
    """The story of what a search found, and what it is; the replay must agree with the search.

    Raises:
        HarnessError: it does not.
    """
    if failing.crash is not None:
        ending = Ending("crashed", rule="", actor=failing.crash.actor, detail=f"{failing.crash.actor} {failing.crash.how}")
        return replace(tell(opening, failing.runs, stop_behind=True), ending=ending), ending
    story = tell(opening, failing.runs)
    # A search over states merges pasts, so it cannot tell a lost wake-up from another deadlock.
    same = {"lost-wakeup": "deadlock"}
    ends = [same.get(end, end) for end in (story.ending.end, failing.end)]
    if ends[0] != ends[1] or story.digest != failing.digest:
        raise HarnessError(
            f"the engines disagree: execution {failing.number} ended as {failing.end} (digest {failing.digest:016x}), "
            f"its replay as {story.ending.end} (digest {story.digest:016x})."
        )
    return story, story.ending


def _steps(board: Any, seen: dict[int, tuple[tuple[tuple[str, int], ...], int, int]]) -> list[Step]:
    names, _ = field_table()
    steps = []
    for number in range(int(board.step[0])):
        choice = int(board.choice[number])
        first, last = int(board.touch[number]), int(board.touch[number + 1])
        primitive = PRIMITIVES[int(board.did[number])]
        field = ""
        if last > first and primitive != "retry_pause":
            field = names[int(field_of(board, int(board.touched[first])))]
        functions, result, nr_events = seen.get(number, ((), 0, -1))
        steps.append(Step(number, choice % MAX_PLAYERS, choice >= MAX_PLAYERS, primitive, field, result, functions, nr_events))
    return steps
