# SPDX-License-Identifier: GPL-2.0-only
"""PCT: random priorities, and d - 1 steps at which the leader falls behind everybody else.

Burckhardt, Kothari, Musuvathi, Nagarakatte, "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010.
One execution finds a bug of depth d with probability at least 1 / (n k^(d-1)), for n actors and k steps.

Where this differs from the paper: k is the length of the longest of some random executions; under TSO a store buffer is an actor
too (n counts it), and one that its actor waits for inherits that one's priority; at a change point the leader among those who can
run loses its priority, so a change is never spent on a waiting actor.
"""

from __future__ import annotations

from model.rng import rng_next
from stress.explore.board import HUB, MAX_CHOICES, MAX_PLAYERS, MEMORY_TSO, Board
from stress.explore.compiled import kernel
from stress.explore.mixing import draw, start_of
from stress.explore.strategies.buffers import waits_for_buffer

__all__ = ["LENGTH_FIRST", "bound", "choose_pct", "plan_pct"]

LENGTH_FIRST = 500


def bound(actors: int, steps: int, depth: int) -> float:
    """The paper's lower bound on the probability that one execution finds a bug of this depth."""
    return float(1.0 / (actors * float(max(steps, 1)) ** (depth - 1)))


@kernel
def plan_pct(board: Board, index: int) -> bool:
    """Draw priorities and change points; there is always one more execution."""
    state = start_of(board.seed[0], index)
    nr_choices = 2 * MAX_PLAYERS if board.memory[0] == MEMORY_TSO else MAX_PLAYERS
    for choice in range(nr_choices):
        # Distinct but for one time in a million: the choice's number decides then.
        board.priority[choice] = (draw(state, 1 << 20) + 1) * MAX_CHOICES + choice
        state = rng_next(state)
    changes = board.depth[0] - 1
    board.nr_changes[0] = changes
    for k in range(changes):
        board.change[k] = draw(state, max(board.length[0], 1))
        state = rng_next(state)
    board.lowest[0] = 0
    board.prefix[0] = 0
    board.sleep_from[0] = -1
    return True


@kernel
def _leader(board: Board, awake: int) -> int:
    leader = HUB
    highest = 0
    for choice in range(MAX_CHOICES):
        if awake >> choice & 1 == 0:
            continue
        priority = board.priority[choice]
        if choice >= MAX_PLAYERS and waits_for_buffer(board, awake, choice - MAX_PLAYERS):
            # Its own actor waits for it.
            priority = max(priority, board.priority[choice - MAX_PLAYERS])
        if leader == HUB or priority > highest:
            leader, highest = choice, priority
    return leader


@kernel
def choose_pct(board: Board, awake: int) -> int:
    """The highest priority among those who can run, after what changes at this step."""
    leader = _leader(board, awake)
    for k in range(board.nr_changes[0]):
        if board.change[k] == board.step[0]:
            board.lowest[0] -= 1
            falls = leader
            if leader >= MAX_PLAYERS and waits_for_buffer(board, awake, leader - MAX_PLAYERS):
                falls = leader - MAX_PLAYERS
            board.priority[falls] = board.lowest[0]
            leader = _leader(board, awake)
    return leader
