# SPDX-License-Identifier: GPL-2.0-only
"""Random: at each step, now and then, somebody else.

Uniform switching at every step hardly ever lets one actor get far ahead of another, so each execution draws its own chance of a
switch: 1, 0.3, 0.1 or 0.03. Execution n of a seed is the same wherever and in whatever order it is run.
"""

from __future__ import annotations

from model.rng import rng_bits, rng_next
from stress.explore.board import HUB, MAX_CHOICES, Board
from stress.explore.compiled import kernel
from stress.explore.mixing import draw, start_of
from stress.explore.strategies.buffers import last_player, next_of

__all__ = ["choose_random", "pick", "plan_random"]

_ONE = 1 << 32
_CHANCES = (_ONE, _ONE * 3 // 10, _ONE // 10, _ONE * 3 // 100)


@kernel
def plan_random(board: Board, index: int) -> bool:
    """Draw the chance of a switch; there is always one more execution."""
    state = start_of(board.seed[0], index)
    board.switch_threshold[0] = _CHANCES[draw(state, 4)]
    board.rng[0] = rng_next(state)
    board.prefix[0] = 0
    board.sleep_from[0] = -1
    return True


@kernel
def choose_random(board: Board, awake: int) -> int:
    """The last one again, or with some chance anybody."""
    state = board.rng[0]
    again = next_of(board, awake, last_player(board))
    if again != HUB and rng_bits(state) >= board.switch_threshold[0]:
        board.rng[0] = rng_next(state)
        return again
    state = rng_next(state)
    board.rng[0] = rng_next(state)
    return pick(awake, state)


@kernel
def pick(awake: int, state: int) -> int:
    """One of the bits of a mask, each with the same chance."""
    count = 0
    for choice in range(MAX_CHOICES):
        count += awake >> choice & 1
    wanted = draw(state, count)
    for choice in range(MAX_CHOICES):
        if awake >> choice & 1 != 0:
            if wanted == 0:
                return choice
            wanted -= 1
    return HUB
