# SPDX-License-Identifier: GPL-2.0-only
"""Strategies: each plans the next execution and chooses among those who may run. A file each; this one only knows their numbers.

A strategy is two compiled functions over the board: `plan_*`, called before every execution, which returns False when nothing is
left to explore, and `choose_*`, asked at every step behind the planned prefix. What is chosen is written down as plain data, the
board's `choice`, so that any execution can be repeated without its strategy.
"""

from __future__ import annotations

from stress.explore.board import HUB, MAX_CHOICES, Board
from stress.explore.compiled import kernel
from stress.explore.strategies.buffers import last_player, next_of
from stress.explore.strategies.depth_first import plan_depth_first
from stress.explore.strategies.dpor import plan_dpor
from stress.explore.strategies.pct import choose_pct, plan_pct
from stress.explore.strategies.random import choose_random, plan_random

__all__ = ["COMPLETE", "GIVEN", "RUNS", "STRATEGIES", "choose_by_strategy", "plan"]

GIVEN = 0  # the prefix, and behind it whoever ran last goes on
RANDOM = 1
PCT = 2
DEPTH_FIRST = 3
DPOR = 4
RUNS = 5  # a list of choices, each for a number of steps as far as it can run
STRATEGIES = {"random": RANDOM, "pct": PCT, "depth-first": DEPTH_FIRST, "dpor": DPOR}
COMPLETE = frozenset({"depth-first", "dpor"})  # those that come to an end


@kernel
def plan(board: Board, index: int) -> bool:
    """Plan execution number `index`; False: everything has been explored."""
    strategy = board.strategy[0]
    if strategy == RANDOM:
        return plan_random(board, index)
    if strategy == PCT:
        return plan_pct(board, index)
    if strategy == DEPTH_FIRST:
        return plan_depth_first(board, index)
    if strategy == DPOR:
        return plan_dpor(board, index)
    board.sleep_from[0] = -1
    board.run_at[0] = 0
    board.run_left[0] = -1
    return index == 0


@kernel
def choose_by_strategy(board: Board, awake: int) -> int:
    """One of the choices in the mask `awake`, which is not empty; HUB if the plan cannot be followed.

    Whoever waits for its own store buffer goes on by draining it.
    """
    strategy = board.strategy[0]
    if strategy == RANDOM:
        return choose_random(board, awake)
    if strategy == PCT:
        return choose_pct(board, awake)
    if strategy == RUNS:
        return _choose_run(board, awake)
    return _go_on(board, awake)


@kernel
def _go_on(board: Board, awake: int) -> int:
    """Whoever ran last, else the first that can."""
    choice = next_of(board, awake, last_player(board))
    if choice != HUB:
        return choice
    for choice in range(MAX_CHOICES):
        if awake >> choice & 1 != 0:
            return choice
    return HUB


@kernel
def _choose_run(board: Board, awake: int) -> int:
    while board.run_at[0] < board.nr_runs[0]:
        at = board.run_at[0]
        choice = board.run_choice[at]
        if board.run_left[0] < 0:
            board.run_left[0] = board.run_length[at]
        chosen = next_of(board, awake, choice)
        if board.run_left[0] > 0 and chosen != HUB:
            if chosen == choice:
                board.run_left[0] -= 1
            return chosen
        board.run_at[0] += 1
        board.run_left[0] = -1
    return _go_on(board, awake)
