# SPDX-License-Identifier: GPL-2.0-only
"""Complete search over states: depth first, a state that was seen before is not entered again; native engine only.

A state is the shared record (without its statistics), every actor's stack from its stack pointer up, and the board's few words
about it. Equal bytes behave equally, so nothing is lost by not going on from a state twice. Two reductions come on top:

    sleep sets      Godefroid, "Partial-Order Methods for the Verification of Concurrent Systems", LNCS 1032, 1996, with the rule
                    for states that are met again: the stored sleep set says what has not been explored from there
    shared words    a step on a word that no other actor touches in conflict is made at once, without a choice. Which words are
                    shared is learned: a search that meets a new one is void and begins again with that word added, until one
                    comes to its end without meeting any

Why the second is sound: let t be the next step of an actor, on a word that is not shared, and let some continuation have another
actor touch that word in conflict before t. Up to there nothing in it is in conflict with t, so the same continuation with t in
front exists, and the search, which makes t first, meets the conflict: the word would be shared.

A state is kept as 62 bits of hash: with n states a pair is taken for one with probability below n * n / 2**63.
"""

from __future__ import annotations

from typing import Any

from model.rng import rng_next
from stress.explore.board import (
    DONE,
    END_COMPLETE,
    END_FINDING,
    HUB,
    MAX_PLAYERS,
    RUNNING,
    Board,
)
from stress.explore.compiled import entry, kernel, peek, poke, the_board
from stress.explore.native import finish_execution, go_to, lay_out, start_players
from stress.explore.scheduler import begin_execution, enabled_choices, is_found, why_stuck
from stress.explore.steps import apply_buffer, drain

__all__ = ["INTERRUPTED", "OUT_OF_ROOM", "SEARCHED", "STOPPED", "TABLE_FULL", "VOID", "move_over", "search_states"]

SEARCHED = 0  # nothing is left
STOPPED = 1  # at an end that was asked for
VOID = 2  # a new shared word
OUT_OF_ROOM = 3  # the path is too long for the arena
INTERRUPTED = 4  # the number of transitions asked for has been made
TABLE_FULL = 5  # to be called again with a larger one

_MASK = (1 << 61) - 1


# --- saving and restoring


@kernel
def _save(board: Board, arena: Any, at: int) -> int:
    """Append the whole state to the arena; returns where it ends."""
    for extent in range(board.nr_extents[0]):
        where = board.base[0] + board.extent_offset[extent]
        for k in range(board.extent_words[extent]):
            arena[at + k] = peek(where + 8 * k)
        at += board.extent_words[extent]
    for player in range(board.nr_players[0]):
        arena[at] = board.status[player]
        arena[at + 1] = board.primitive[player]
        arena[at + 2] = board.word[player]
        arena[at + 3] = board.a[player]
        arena[at + 4] = board.b[player]
        arena[at + 5] = board.word2[player]
        arena[at + 6] = board.b2[player]
        arena[at + 7] = board.dirty[player]
        arena[at + 8] = board.missed[player]
        arena[at + 9] = board.sp[player + 1]
        arena[at + 10] = board.nr_reads[player]
        arena[at + 11] = board.buffered[player]
        arena[at + 12] = board.attempts[player]
        at += 13
        for k in range(board.nr_reads[player]):
            arena[at] = board.reads[player, k]
            arena[at + 1] = board.read_mask[player, board.reads[player, k]]
            at += 2
        for k in range(board.buffered[player]):
            arena[at] = board.buffer_word[player, k]
            arena[at + 1] = board.buffer_value[player, k]
            at += 2
        if board.status[player] != DONE:
            words = (board.stack_top[player] - board.sp[player + 1]) >> 3
            for k in range(words):
                arena[at + k] = peek(board.sp[player + 1] + 8 * k)
            at += words
    arena[at] = board.step[0]
    arena[at + 1] = board.window[0]
    arena[at + 2] = board.swaps[0]
    arena[at + 3] = board.last_choice[0]
    arena[at + 4] = board.switches[0]
    arena[at + 5] = board.digest[0]
    return at + 6


@kernel
def _restore(board: Board, arena: Any, at: int) -> None:
    for extent in range(board.nr_extents[0]):
        where = board.base[0] + board.extent_offset[extent]
        for k in range(board.extent_words[extent]):
            poke(where + 8 * k, arena[at + k])
        at += board.extent_words[extent]
    for player in range(board.nr_players[0]):
        board.status[player] = arena[at]
        board.primitive[player] = arena[at + 1]
        board.word[player] = arena[at + 2]
        board.a[player] = arena[at + 3]
        board.b[player] = arena[at + 4]
        board.word2[player] = arena[at + 5]
        board.b2[player] = arena[at + 6]
        board.dirty[player] = arena[at + 7]
        board.missed[player] = arena[at + 8]
        board.sp[player + 1] = arena[at + 9]
        for k in range(board.nr_reads[player]):
            board.readers[board.reads[player, k]] &= ~(1 << player)
        board.nr_reads[player] = arena[at + 10]
        board.buffered[player] = arena[at + 11]
        board.attempts[player] = arena[at + 12]
        at += 13
        for k in range(board.nr_reads[player]):
            board.reads[player, k] = arena[at]
            board.readers[arena[at]] |= 1 << player
            board.read_mask[player, arena[at]] = arena[at + 1]
            at += 2
        for k in range(board.buffered[player]):
            board.buffer_word[player, k] = arena[at]
            board.buffer_value[player, k] = arena[at + 1]
            at += 2
        if board.status[player] != DONE:
            words = (board.stack_top[player] - board.sp[player + 1]) >> 3
            for k in range(words):
                poke(board.sp[player + 1] + 8 * k, arena[at + k])
            at += words
    board.step[0] = arena[at]
    board.window[0] = arena[at + 1]
    board.swaps[0] = arena[at + 2]
    board.last_choice[0] = arena[at + 3]
    board.switches[0] = arena[at + 4]
    board.digest[0] = arena[at + 5]
    # What came last on a word was on another branch.
    board.executions[0] += 1


@kernel
def _stir(state: int, value: int) -> int:
    return rng_next((state ^ value ^ (state >> 31)) & _MASK)


@kernel
def _fingerprint(board: Board) -> int:
    """A hash of all that decides what can happen from here on."""
    state = 1
    for extent in range(board.nr_extents[0]):
        if board.extent_is_state[extent] != 0:
            where = board.base[0] + board.extent_offset[extent]
            for k in range(board.extent_words[extent]):
                state = _stir(state, peek(where + 8 * k))
    for player in range(board.nr_players[0]):
        state = _stir(
            state,
            board.status[player]
            + (board.dirty[player] << 4)
            + (player << 8)
            + (board.buffered[player] << 16)
            + (board.attempts[player] << 24),
        )
        reads = 0
        if board.status[player] != DONE:
            for k in range(board.nr_reads[player]):
                # A set: in whatever order.
                word = board.reads[player, k]
                reads += _stir(_stir(7, word), board.read_mask[player, word])
            where = board.sp[player + 1]
            words = (board.stack_top[player] - where) >> 3
            state = _stir(state, words)
            for k in range(words):
                state = _stir(state, peek(where + 8 * k))
        state = _stir(state, reads & _MASK)
        for k in range(board.buffered[player]):
            state = _stir(state, board.buffer_word[player, k])
            state = _stir(state, board.buffer_value[player, k])
    return (state & _MASK) | 1


# --- the search


@kernel
def _move(board: Board, choice: int) -> None:
    """Let one choice be made, and everything behind it that is nobody else's business."""
    if choice >= MAX_PLAYERS:
        drain(board, choice - MAX_PLAYERS)
        return
    apply_buffer(board, choice)
    board.current[0] = choice
    go_to(HUB, choice)
    board.current[0] = HUB


@kernel
def _slot(keys: Any, key: int) -> int:
    """Where a key is, or where it would be put."""
    mask = len(keys) - 1
    at = (key ^ (key >> 31)) & mask
    while keys[at] != 0 and keys[at] != key:
        at = (at + 1) & mask
    return at


@kernel
def _lowest(mask: int) -> int:
    choice = 0
    while mask >> choice & 1 == 0:
        choice += 1
    return choice


@kernel
def _judge(board: Board) -> int:
    """What can be done in the state that has just been reached; 0 at an end, which is then on the board."""
    if is_found(board):
        board.end[0] = END_FINDING
        return 0
    enabled = enabled_choices(board)
    board.steps_max[0] = max(board.steps_max[0], board.step[0])
    if enabled == 0:
        board.end[0] = why_stuck(board)
        if board.end[0] == END_COMPLETE:
            finish_execution(board)
    return enabled


@kernel
def _begin(board: Board, keys: Any, sleeps: Any, arena: Any, nodes: Any) -> None:
    """The root: everybody in front of its first step that is somebody else's business too."""
    lay_out(board)
    begin_execution(board)
    board.end[0] = RUNNING
    board.by_states[0] = 1
    board.new_shared[0] = 0
    start_players(board)
    board.sleep[0] = 0
    enabled = _judge(board)
    board.states[0] = 1
    if enabled == 0:
        board.ends[board.end[0]] += 1
        return
    slot = _slot(keys, _fingerprint(board))
    keys[slot] = _fingerprint(board)
    sleeps[slot] = 0
    nodes[0, 0] = 0
    nodes[0, 1] = enabled
    nodes[0, 2] = 0
    nodes[0, 3] = _save(board, arena, 0)
    board.depth_now[0] = 1
    board.live_node[0] = 0


@entry
def search_states(keys: Any, sleeps: Any, arena: Any, nodes: Any, stop_at: int, budget: int) -> int:
    """Search, or go on with a search that was interrupted.

    Args:
        keys: hash table of states, zeroed at the start; a power of two of int64.
        sleeps: beside each state what is left to explore from it: the sleep set that it was entered with.
        arena: room for the states on the current path, int64.
        nodes: one row a state on the path: start in the arena, choices to make, sleep set.
        stop_at: mask of ends after which to stop.
        budget: transitions after which to return, to be called again.

    Returns:
        SEARCHED, STOPPED, VOID, OUT_OF_ROOM, INTERRUPTED or TABLE_FULL.

    What was counted is on the board: `states`, `transitions`, `depth_now`, `ends`.
    """
    board = the_board()
    if board.states[0] == 0:
        _begin(board, keys, sleeps, arena, nodes)
        if board.new_shared[0] != 0:
            return VOID
        if board.depth_now[0] == 0:
            return STOPPED if stop_at >> board.end[0] & 1 != 0 else SEARCHED
    room = len(arena) - (1 << 15)
    while board.depth_now[0] > 0:
        node = board.depth_now[0] - 1
        todo = nodes[node, 1]
        if todo == 0:
            board.depth_now[0] = node
            continue
        if budget <= 0:
            return INTERRUPTED
        if board.states[0] * 4 > len(keys) * 3:
            return TABLE_FULL
        if nodes[node, 3] > room or node + 2 >= len(nodes):
            return OUT_OF_ROOM
        budget -= 1
        choice = _lowest(todo)
        nodes[node, 1] = todo & ~(1 << choice)
        if board.live_node[0] != node:
            _restore(board, arena, nodes[node, 0])
        board.live_node[0] = HUB
        board.sleep[0] = nodes[node, 2]
        nodes[node, 2] |= 1 << choice
        board.end[0] = RUNNING
        board.transitions[0] += 1
        _move(board, choice)
        if board.new_shared[0] != 0:
            return VOID
        if board.step[0] >= board.step_budget[0]:
            # No path is fair, so this says nothing about progress: it is just not followed any further.
            board.cut_short[0] += 1
            continue
        enabled = _judge(board)
        if enabled == 0:
            # An end is no state to come back to: the last stage has changed the record behind it.
            board.ends[board.end[0]] += 1
            if stop_at >> board.end[0] & 1 != 0:
                return STOPPED
            continue
        state = _fingerprint(board)
        slot = _slot(keys, state)
        asleep = board.sleep[0] & enabled
        if keys[slot] != 0:
            todo = sleeps[slot] & ~asleep
            if todo == 0:
                continue
            asleep &= sleeps[slot]
            sleeps[slot] = asleep
        else:
            keys[slot] = state
            sleeps[slot] = asleep
            board.states[0] += 1
            todo = enabled & ~asleep
        if todo == 0:
            continue
        start = nodes[node, 3]
        node += 1
        nodes[node, 0] = start
        nodes[node, 1] = todo
        nodes[node, 2] = asleep
        # The first choice is made from where we are; only for others must we come back.
        nodes[node, 3] = start if todo & (todo - 1) == 0 else _save(board, arena, start)
        board.live_node[0] = node
        board.depth_now[0] = node + 1
    return SEARCHED


@entry
def move_over(keys: Any, sleeps: Any, larger_keys: Any, larger_sleeps: Any) -> None:
    """Put every state of a table into a larger, zeroed one."""
    for at in range(len(keys)):
        if keys[at] != 0:
            slot = _slot(larger_keys, keys[at])
            larger_keys[slot] = keys[at]
            larger_sleeps[slot] = sleeps[at]
