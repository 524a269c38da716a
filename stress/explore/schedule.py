# SPDX-License-Identifier: GPL-2.0-only
"""A schedule as plain data: who was chosen at each step, by name, equal neighbours counted: `[["ctl", 12], ["vcpu0", 3], ...]`.

A name is an actor's; `vcpu0.drain` is the draining of one store out of its buffer. Nothing else is needed to repeat an execution:
no thread ids, no addresses, no times, so a schedule holds on another machine, another Python and in either engine.
"""

from __future__ import annotations

import hashlib
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from model.layout import actor_name
from stress.explore.board import MAX_PLAYERS, RUNS_MAX, STEPS_MAX, Board

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "Runs",
    "choice_names",
    "context_switches",
    "digest_of_events",
    "give",
    "give_runs",
    "names_of",
    "runs_of",
    "schedule_of",
]

Runs = list[tuple[str, int]]
DRAIN = ".drain"


def choice_names(actors: Sequence[int]) -> dict[str, int]:
    """The number of each choice by its name."""
    names = {actor_name(actor): player for player, actor in enumerate(actors)}
    return names | {name + DRAIN: MAX_PLAYERS + player for name, player in names.items()}


def names_of(actors: Sequence[int]) -> dict[int, str]:
    """The name of each choice by its number."""
    return {number: name for name, number in choice_names(actors).items()}


def schedule_of(board: Board) -> NDArray[np.int8]:
    """The choices of the execution that has just ended."""
    return np.array(board.choice[: int(board.step[0])])


def runs_of(choices: NDArray[np.int8], actors: Sequence[int]) -> Runs:
    """Choices as names and counts."""
    names = names_of(actors)
    return [(names[int(choice)], len(list(group))) for choice, group in groupby(choices)]


def context_switches(runs: Runs) -> int:
    """How often another actor goes on; a store buffer that drains is none."""
    actors = [name for name, _ in runs if not name.endswith(DRAIN)]
    return max(0, sum(1 for _ in groupby(actors)) - 1)


def give(board: Board, runs: Runs, actors: Sequence[int]) -> None:
    """Put a schedule onto the board: the next execution follows it to the letter.

    Raises:
        ValueError: it names somebody who does not play, or is too long.
    """
    numbers = choice_names(actors)
    choices: list[Any] = []
    for name, count in runs:
        if name not in numbers:
            raise ValueError(f'"{name}" does not play here')
        choices.append(np.full(count, numbers[name], np.int8))
    given = np.concatenate(choices) if choices else np.zeros(0, np.int8)
    if len(given) >= STEPS_MAX:
        raise ValueError(f"{len(given)} steps, more than {STEPS_MAX - 1}")
    board.choice[: len(given)] = given
    board.prefix[0] = len(given)


def give_runs(board: Board, runs: Runs, actors: Sequence[int]) -> None:
    """Put a schedule onto the board that is followed as far as it goes: who cannot run is passed over.

    Raises:
        ValueError: too many runs.
    """
    numbers = choice_names(actors)
    known = [(numbers[name], count) for name, count in runs if name in numbers]
    if len(known) >= RUNS_MAX:
        raise ValueError(f"{len(known)} runs, more than {RUNS_MAX - 1}")
    for n, (choice, count) in enumerate(known):
        board.run_choice[n] = choice
        board.run_length[n] = count
    board.nr_runs[0] = len(known)
    board.prefix[0] = 0


def digest_of_events(board: Any) -> str:
    """A hash over the events of the execution that has just ended; 16 hex digits."""
    events = np.ascontiguousarray(board.event[: int(board.nr_events[0])])
    return hashlib.sha256(events.tobytes()).hexdigest()[:16]
