# SPDX-License-Identifier: GPL-2.0-only
"""Whose turn it is: the same compiled code under both engines, so that they cannot disagree.

A player *offers* its next primitive, the scheduler chooses among all offers, and the player that is chosen *performs* its own.
block() is enabled once one of its two words has changed, retry_pause() once somebody else has written a word that the failed
attempt read. Under TSO a store goes into the player's buffer and is no step; draining the oldest one is a choice of its own, and
an atomic read-modify-write or a full barrier is enabled when the buffer is empty.
"""

from __future__ import annotations

from model.atomics import (
    ATTEMPT,
    BLOCK,
    LOAD,
    LOAD_ACQUIRE,
    MIGHT_SLEEP,
    NAP_US,
    RETRY_PAUSE,
    SMP_MB,
    SMP_RMB,
    SMP_WMB,
    STORE,
    STORE_RELEASE,
)
from stress.explore.board import (
    BLOCKED,
    BUFFER_MAX,
    DONE,
    END_BUDGET,
    END_COMPLETE,
    END_DEADLOCK,
    END_DIVERGED,
    END_FINDING,
    END_LIVELOCK,
    END_LOST_WAKEUP,
    END_PRUNED,
    HUB,
    MAX_PLAYERS,
    MEMORY_SC,
    MEMORY_TSO,
    READY,
    RETRYING,
    Board,
)
from stress.explore.compiled import kernel, peek
from stress.explore.steps import apply_buffer, drain, seen_by, take_back
from stress.explore.strategies import choose_by_strategy

__all__ = [
    "begin_execution",
    "enabled_choices",
    "end_execution",
    "is_found",
    "is_local",
    "leave",
    "next_turn",
    "offer",
    "why_stuck",
]

# --- offers


@kernel
def is_local(board: Board, player: int, primitive: int) -> bool:
    """Is this no step: nothing that another player could see or change?"""
    if primitive in (SMP_RMB, SMP_WMB, MIGHT_SLEEP, NAP_US, ATTEMPT):
        return True
    if board.memory[0] == MEMORY_SC:
        return primitive == SMP_MB
    if primitive == SMP_MB:
        return board.buffered[player] == 0
    if primitive in (STORE, STORE_RELEASE):
        return board.buffered[player] < BUFFER_MAX
    # A load of a buffered word is a step all the same: once that store has drained, it would see what others have stored since.
    return False


@kernel
def offer(board: Board, player: int, primitive: int, word: int, a: int, b: int, word2: int, b2: int) -> int:
    """Announce this player's next step, and choose whose turn it is.

    Returns:
        The player that goes on, itself perhaps, or HUB if the execution is over or has not started yet.
    """
    board.primitive[player] = primitive
    board.word[player] = word
    board.a[player] = a
    board.b[player] = b
    board.word2[player] = word2
    board.b2[player] = b2
    board.status[player] = BLOCKED if primitive == BLOCK else (RETRYING if primitive == RETRY_PAUSE else READY)
    if board.by_states[0] != 0 and is_unshared(board, player):
        return player
    if board.starting[0] != 0 or board.by_states[0] != 0:
        take_back(board, player)
        return HUB
    return next_turn(board, player)


@kernel
def is_unshared(board: Board, player: int) -> bool:
    """Search over states: is this step nobody else's business, as far as is known?"""
    if board.status[player] != READY or board.word[player] == 0 or board.shared[board.word[player]] != 0:
        return False
    if is_found(board) or board.step[0] >= board.step_budget[0]:
        # An execution ends there, whoever could go on.
        return False
    return board.buffered[player] == 0 or board.primitive[player] in (LOAD, LOAD_ACQUIRE)


@kernel
def leave(board: Board, player: int) -> int:
    """This player has come to its end; choose whose turn it is."""
    board.status[player] = DONE
    if board.starting[0] != 0 or board.by_states[0] != 0:
        take_back(board, player)
        return HUB
    return next_turn(board, player)


@kernel
def next_turn(board: Board, player: int) -> int:
    """Choose; drain what is chosen to be drained; returns the player that goes on."""
    tso = board.memory[0] == MEMORY_TSO
    if tso and player != HUB:
        take_back(board, player)
    choice = _choose(board)
    while choice >= MAX_PLAYERS:
        drain(board, choice - MAX_PLAYERS)
        choice = _choose(board)
    board.current[0] = choice
    if tso and choice != HUB:
        apply_buffer(board, choice)
    return choice


# --- who may run


@kernel
def _is_enabled(board: Board, player: int) -> bool:
    status = board.status[player]
    if status == BLOCKED:
        if seen_by(board, player, board.word[player]) != board.a[player]:
            return True
        return seen_by(board, player, board.word2[player]) != board.b2[player]
    if status == RETRYING:
        return board.dirty[player] != 0
    if status == DONE:
        return False
    if board.buffered[player] != 0:
        primitive = board.primitive[player]
        if primitive in (STORE, STORE_RELEASE):
            return board.buffered[player] < BUFFER_MAX
        return primitive in (LOAD, LOAD_ACQUIRE)
    return True


@kernel
def enabled_choices(board: Board) -> int:
    """A mask of all choices that could be made now."""
    enabled = 0
    for player in range(board.nr_players[0]):
        bit = 1 << player
        if _is_enabled(board, player):
            enabled |= bit
        elif board.enabled[0] & bit != 0 and board.status[player] == BLOCKED and board.last_choice[0] != player:
            board.missed[player] = 1
        if board.buffered[player] != 0:
            enabled |= bit << MAX_PLAYERS
    return enabled


@kernel
def why_stuck(board: Board) -> int:
    """Nobody can run: is everybody at its end, or idle, or is this a finding?"""
    waiting = retrying = missed = 0
    for player in range(board.nr_players[0]):
        status = board.status[player]
        if status == RETRYING:
            retrying += 1
        elif status == BLOCKED:
            offset = board.offset_of[board.word[player]]
            if offset != board.idle[0] and offset != board.idle[1]:
                waiting += 1
                missed += board.missed[player]
    if retrying > 0:
        return END_LIVELOCK
    if missed > 0:
        return END_LOST_WAKEUP
    return END_DEADLOCK if waiting > 0 else END_COMPLETE


@kernel
def is_found(board: Board) -> bool:
    """Has the model reported a finding in this execution?"""
    return board.found[0] >= 0 and peek(board.base[0] + board.found[0]) != 0


@kernel
def _progress(board: Board) -> int:
    """What the actors count as progress for the watchdog of a run, all of them together."""
    progress = 0
    for player in range(board.nr_players[0]):
        progress += peek(board.base[0] + board.progress_at[player])
    return progress


@kernel
def _choose(board: Board) -> int:
    if is_found(board):
        board.end[0] = END_FINDING
        return HUB
    enabled = enabled_choices(board)
    board.enabled[0] = enabled
    step = board.step[0]
    if enabled == 0:
        board.end[0] = why_stuck(board)
        return HUB
    if step >= board.step_budget[0]:
        # Half of it was scheduled fairly: without any progress in that half there will never be any.
        stands_still = board.fair_from[0] < step and _progress(board) == board.progress_then[0]
        board.end[0] = END_LIVELOCK if stands_still else END_BUDGET
        return HUB
    if step == board.fair_from[0]:
        board.progress_then[0] = _progress(board)
        board.cut_short[0] += 1
    if step == board.sleep_from[0]:
        board.sleep[0] = board.sleep_given[0]
    if step < board.prefix[0]:
        choice = board.choice[step]
        if enabled >> choice & 1 == 0:
            board.end[0] = END_DIVERGED
            return HUB
    else:
        awake = enabled & ~board.sleep[0]
        if awake == 0:
            board.end[0] = END_PRUNED
            return HUB
        if step >= board.fair_from[0]:
            choice = _in_turn(board, awake)
        else:
            choice = choose_by_strategy(board, awake)
        if choice < 0:
            board.end[0] = END_DIVERGED
            return HUB
        board.choice[step] = choice
    board.could[step] = enabled
    if step >= board.sleep_from[0]:
        board.slept[step] = board.sleep[0]
    return choice


@kernel
def _in_turn(board: Board, awake: int) -> int:
    """The next choice behind the last one, going round."""
    choice = board.last_choice[0]
    for _ in range(2 * MAX_PLAYERS):
        choice = choice + 1 if choice + 1 < 2 * MAX_PLAYERS else 0
        if awake >> choice & 1 != 0:
            return choice
    return HUB


# --- from one execution to the next


@kernel
def begin_execution(board: Board) -> None:
    """Nobody has done anything yet; the plan of a strategy stays."""
    board.current[0] = HUB
    board.step[0] = 0
    board.end[0] = 0
    board.switches[0] = 0
    board.last_choice[0] = HUB
    board.enabled[0] = 0
    board.digest[0] = 0
    board.trace_sum[0] = 0
    board.sleep[0] = 0
    board.nr_events[0] = 0
    board.window[0] = 0
    board.swaps[0] = 0
    board.touch[0] = 0
    board.executions[0] += 1
    for choice in range(2 * MAX_PLAYERS):
        board.last_step[choice] = HUB
        board.nr_steps[choice] = 0
    for player in range(board.nr_players[0]):
        board.attempts[player] = 0
        board.dirty[player] = 0
        board.missed[player] = 0
        board.buffered[player] = 0
        for k in range(board.nr_reads[player]):
            board.readers[board.reads[player, k]] = 0
        board.nr_reads[player] = 0


@kernel
def end_execution(board: Board) -> None:
    """Count it."""
    board.steps[0] += board.step[0]
    board.steps_max[0] = max(board.steps_max[0], board.step[0])
    board.ends[board.end[0]] += 1
