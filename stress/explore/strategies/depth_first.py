# SPDX-License-Identifier: GPL-2.0-only
"""Depth first, with at most so many preemptions: every schedule in which an actor that could go on is interrupted rarely.

Musuvathi, Qadeer, "Iterative Context Bounding for Systematic Testing of Multithreaded Programs", PLDI 2007. A switch away from an
actor that waits, retries or has ended is free. Nothing is pruned: it is the naive search that DPOR is measured against.
"""

from __future__ import annotations

from stress.explore.board import MAX_CHOICES, Board
from stress.explore.compiled import kernel

__all__ = ["plan_depth_first"]


@kernel
def plan_depth_first(board: Board, index: int) -> bool:
    """Go back to the deepest step with an alternative that the bound allows, and take it."""
    board.sleep_from[0] = -1
    if index == 0:
        board.prefix[0] = board.floor[0]
        board.analysed[0] = 0
        return True
    _note_new_steps(board)
    for back in range(board.step[0] - board.floor[0]):
        step = board.step[0] - 1 - back
        for choice in range(MAX_CHOICES):
            if board.could[step] & ~board.tried[step] & (1 << choice) == 0:
                continue
            if board.preempted[step] + _costs(board, step, choice) > board.preemptions_max[0]:
                continue
            board.tried[step] |= 1 << choice
            board.choice[step] = choice
            board.prefix[0] = step + 1
            board.analysed[0] = step
            return True
    return False


@kernel
def _costs(board: Board, step: int, choice: int) -> int:
    """Is it a preemption to take this choice here?"""
    if step == 0:
        return 0
    last = board.choice[step - 1]
    return 1 if choice != last and board.could[step] >> last & 1 != 0 else 0


@kernel
def _note_new_steps(board: Board) -> None:
    for step in range(max(board.prefix[0], board.floor[0]), board.step[0]):
        board.tried[step] = 1 << board.choice[step]
    for step in range(board.analysed[0], board.step[0]):
        before = board.preempted[step - 1] + _costs(board, step - 1, board.choice[step - 1]) if step > 0 else 0
        board.preempted[step] = before
