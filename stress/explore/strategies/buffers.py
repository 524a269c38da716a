# SPDX-License-Identifier: GPL-2.0-only
"""An actor and its store buffer under TSO, for strategies that think of them as one."""

from __future__ import annotations

from stress.explore.board import HUB, MAX_PLAYERS, READY, Board
from stress.explore.compiled import kernel

__all__ = ["last_player", "next_of", "waits_for_buffer"]


@kernel
def last_player(board: Board) -> int:
    """Who made the last step, itself or by a store that left its buffer; HUB at the start."""
    last = board.last_choice[0]
    return last - MAX_PLAYERS if last >= MAX_PLAYERS else last


@kernel
def waits_for_buffer(board: Board, awake: int, player: int) -> bool:
    """Does this player wait for nothing but its own stores to leave, and may they?"""
    if awake >> player & 1 != 0 or board.status[player] != READY:
        return False
    return awake >> (MAX_PLAYERS + player) & 1 != 0


@kernel
def next_of(board: Board, awake: int, choice: int) -> int:
    """This choice if it can be made, for a player that waits for its buffer a drain of it, else HUB."""
    if choice == HUB:
        return HUB
    if awake >> choice & 1 != 0:
        return choice
    if choice < MAX_PLAYERS and waits_for_buffer(board, awake, choice):
        return MAX_PLAYERS + choice
    return HUB
