# SPDX-License-Identifier: GPL-2.0-only
"""What a step does: to its word, to who waits, sleeps or retries, and to the books; and the store buffers that come in between.

A player's buffered stores are applied to the shared record while it runs and taken back when another one does: so the plain
accesses between its primitives see its own stores, and nobody else sees them.
"""

from __future__ import annotations

from model.atomics import (
    ADD_TEST,
    ATOMIC_ADD,
    ATTEMPT,
    BLOCK,
    CMPXCHG,
    FETCH_AND,
    FETCH_OR,
    LOAD,
    LOAD_ACQUIRE,
    RETRY_PAUSE,
    SMP_MB,
    STORE,
    STORE_RELEASE,
    XCHG,
)
from stress.explore.board import BLOCKED, MAX_PLAYERS, MEMORY_TSO, RETRYING, WORDS_MAX, Board
from stress.explore.commuting import EFFECT_ADD, EFFECT_READ, EFFECT_WRITE, commute, effect_of, unseen
from stress.explore.compiled import kernel, peek, poke
from stress.explore.coverage import cover_pair
from stress.explore.mixing import mix

__all__ = ["apply_buffer", "drain", "forget_reads", "local", "operate", "perform", "seen_by", "take_back", "word_of"]

ALL_BITS = -1

# --- words and store buffers


@kernel
def word_of(board: Board, offset: int) -> int:
    """The number of the word at a byte offset of the shared record; 0 for no word."""
    if offset < 0:
        return 0
    word = board.word_at[offset >> 3]
    if word == 0 and board.nr_words[0] < WORDS_MAX - 1:
        board.nr_words[0] += 1
        word = board.nr_words[0]
        board.word_at[offset >> 3] = word
        board.offset_of[word] = offset
    return word


@kernel
def take_back(board: Board, player: int) -> None:
    """When another player is about to run: nobody else sees this one's stores."""
    for back in range(board.buffered[player]):
        k = board.buffered[player] - 1 - back
        poke(board.base[0] + board.offset_of[board.buffer_word[player, k]], board.buffer_under[player, k])


@kernel
def apply_buffer(board: Board, player: int) -> None:
    """Before a player runs: it sees its own stores."""
    for k in range(board.buffered[player]):
        where = board.base[0] + board.offset_of[board.buffer_word[player, k]]
        board.buffer_under[player, k] = peek(where)
        poke(where, board.buffer_value[player, k])


@kernel
def seen_by(board: Board, player: int, word: int) -> int:
    """A word as this player sees it, nobody's buffer being applied."""
    value = peek(board.base[0] + board.offset_of[word])
    for k in range(board.buffered[player]):
        if board.buffer_word[player, k] == word:
            value = board.buffer_value[player, k]
    return value


@kernel
def local(board: Board, player: int, primitive: int, word: int, a: int) -> None:
    """Do what is no step; none of these has a result."""
    if primitive == ATTEMPT:
        board.attempts[player] = 1
        forget_reads(board, player)
    elif primitive in (STORE, STORE_RELEASE):
        # Into the buffer; the player itself sees it at once.
        where = board.base[0] + board.offset_of[word]
        k = board.buffered[player]
        board.buffer_word[player, k] = word
        board.buffer_value[player, k] = a
        board.buffer_under[player, k] = peek(where)
        board.buffer_step[player, k] = board.last_step[player]
        board.buffered[player] = k + 1
        poke(where, a)


@kernel
def drain(board: Board, player: int) -> None:
    """The player's oldest store becomes visible to everybody."""
    word = board.buffer_word[player, 0]
    value = board.buffer_value[player, 0]
    since = board.buffer_step[player, 0]
    board.buffered[player] -= 1
    for k in range(board.buffered[player]):
        board.buffer_word[player, k] = board.buffer_word[player, k + 1]
        board.buffer_value[player, k] = board.buffer_value[player, k + 1]
        board.buffer_step[player, k] = board.buffer_step[player, k + 1]
    poke(board.base[0] + board.offset_of[word], value)
    _done(board, MAX_PLAYERS + player, player, STORE, word, value, 0, EFFECT_WRITE, 0, since, board.touch[board.step[0]])


# --- a step


@kernel
def operate(where: int, primitive: int, a: int, b: int) -> int:
    """What a primitive does to the word at an address, and what it returns; model/atomics.py:apply() says the same in Python."""
    value = peek(where)
    if primitive in (LOAD, LOAD_ACQUIRE, BLOCK):
        return value if primitive != BLOCK else 0
    if primitive in (STORE, STORE_RELEASE):
        poke(where, a)
        return 0
    if primitive == XCHG:
        poke(where, a)
    elif primitive == CMPXCHG:
        if value == a:
            poke(where, b)
    elif primitive == FETCH_OR:
        poke(where, value | a)
    elif primitive == FETCH_AND:
        poke(where, value & a)
    else:
        poke(where, value + a)
        if primitive == ADD_TEST:
            return (value + a) & b
        if primitive == ATOMIC_ADD:
            return 0
    return value


@kernel
def perform(board: Board, player: int) -> int:
    """Do the step that this player offered; its turn has come.

    Returns:
        The primitive's result.
    """
    primitive = board.primitive[player]
    word = board.word[player]
    a = board.a[player]
    b = board.b[player]
    if primitive == RETRY_PAUSE:
        return _perform_retry(board, player)
    cause = board.last_step[MAX_PLAYERS + player]
    if primitive == SMP_MB:
        _done(board, player, player, primitive, 0, 0, 0, EFFECT_READ, 0, cause, board.touch[board.step[0]])
        return 0
    if board.memory[0] == MEMORY_TSO and primitive in (STORE, STORE_RELEASE):
        # The buffer was full and has room now.
        local(board, player, primitive, word, a)
        _done(board, player, player, SMP_MB, 0, 0, 0, EFFECT_READ, 0, cause, board.touch[board.step[0]])
        return 0
    effect = effect_of(primitive)
    where = board.base[0] + board.offset_of[word]
    if primitive == CMPXCHG and peek(where) != a:
        effect = EFFECT_READ
    result = operate(where, primitive, a, b)
    if primitive == BLOCK:
        _read(board, player, board.word2[player], ALL_BITS)
    if primitive in (LOAD, LOAD_ACQUIRE, BLOCK):
        cause = -1
    _done(board, player, player, primitive, word, a, b, effect, result, cause, board.touch[board.step[0]])
    return result


@kernel
def _perform_retry(board: Board, player: int) -> int:
    """A new attempt begins: what the old one read does not count any more."""
    step = board.step[0]
    at = board.touch[step]
    for k in range(board.nr_reads[player]):
        board.touched[at] = board.reads[player, k]
        at += 1
        if board.sleep[0] != 0:
            _wake_sleepers(board, player, board.reads[player, k], RETRY_PAUSE, 0, 0, EFFECT_READ)
    _done(board, player, player, RETRY_PAUSE, 0, 0, 0, EFFECT_READ, 0, -1, at)
    forget_reads(board, player)
    return 0


@kernel
def forget_reads(board: Board, player: int) -> None:
    """A new attempt begins."""
    for k in range(board.nr_reads[player]):
        board.readers[board.reads[player, k]] &= ~(1 << player)
    board.nr_reads[player] = 0
    board.dirty[player] = 0


# --- what a step does to others, and where it is booked


@kernel
def _read(board: Board, player: int, word: int, mask: int) -> None:
    if board.attempts[player] == 0:
        return
    if board.readers[word] >> player & 1 == 0:
        board.readers[word] |= 1 << player
        board.reads[player, board.nr_reads[player]] = word
        board.nr_reads[player] += 1
        board.read_mask[player, word] = 0
    board.read_mask[player, word] |= mask


@kernel
def _seen_by_others(board: Board, player: int, word: int) -> int:
    """A word as others see it, while this player's buffer is applied."""
    for k in range(board.buffered[player]):
        if board.buffer_word[player, k] == word:
            return board.buffer_under[player, k]
    return peek(board.base[0] + board.offset_of[word])


@kernel
def _wakes(board: Board, choice: int, player: int, word: int, primitive: int, a: int, b: int, effect: int) -> bool:
    """Is what a sleeping choice wants to do next in conflict with a step of this player on this word?"""
    if choice >= MAX_PLAYERS:
        return board.buffer_word[choice - MAX_PLAYERS, 0] == word
    if board.status[choice] == RETRYING:
        return effect != EFFECT_READ and board.readers[word] >> choice & 1 != 0
    if board.status[choice] == BLOCKED and board.word2[choice] == word:
        return effect != EFFECT_READ
    if board.word[choice] != word:
        return False
    wanted = board.primitive[choice]
    wanted_effect = effect_of(wanted)
    if wanted == CMPXCHG and effect == EFFECT_READ and _seen_by_others(board, player, word) != board.a[choice]:
        # It would have failed before this step too.
        wanted_effect = EFFECT_READ
    return not commute(effect, primitive, a, b, wanted_effect, wanted, board.a[choice], board.b[choice])


@kernel
def _wake_sleepers(board: Board, player: int, word: int, primitive: int, a: int, b: int, effect: int) -> None:
    for choice in range(2 * MAX_PLAYERS):
        if board.sleep[0] >> choice & 1 != 0 and _wakes(board, choice, player, word, primitive, a, b, effect):
            board.sleep[0] &= ~(1 << choice)


@kernel
def _done(
    board: Board, choice: int, player: int, primitive: int, word: int, a: int, b: int, effect: int, result: int, cause: int, at: int
) -> None:
    """Book a step: whom it wakes, what it is in conflict with, and its place in the trace.

    `at` is where its words end in `touched`, as far as they are there already.
    """
    step = board.step[0]
    if word != 0:
        if effect != EFFECT_READ:
            others = board.readers[word] & ~(1 << player)
            if others != 0:
                for other in range(board.nr_players[0]):
                    # A sum beside the bits that it looked at commutes with its test: it may not matter which comes first.
                    if others >> other & 1 != 0 and not (effect == EFFECT_ADD and unseen(board.read_mask[other, word], a)):
                        board.dirty[other] = 1
        if primitive not in (STORE, STORE_RELEASE, ATOMIC_ADD):
            _read(board, player, word, b if primitive == ADD_TEST else ALL_BITS)
        board.touched[at] = word
        at += 1
        if primitive == BLOCK:
            board.touched[at] = board.word2[player]
            at += 1
        cover_pair(board, player, primitive, word, effect)
        if board.learning[0] != 0:
            _learn(board, player, word, effect)
            if primitive == BLOCK:
                _learn(board, player, board.word2[player], effect)
    if board.sleep[0] != 0:
        board.sleep[0] &= ~(1 << choice)
        if word != 0:
            _wake_sleepers(board, player, word, primitive, a, b, effect)
        if primitive == BLOCK:
            _wake_sleepers(board, player, board.word2[player], primitive, a, b, effect)
    board.choice[step] = choice
    board.did[step] = primitive
    board.effect[step] = effect
    board.did_a[step] = a
    board.did_b[step] = b
    board.cause[step] = cause
    board.touch[step + 1] = at
    what = board.offset_of[word] | (choice << 8 | primitive) << 32
    board.digest[0] = mix(board.digest[0], what, result)
    if primitive == ADD_TEST:
        # Which sums it has seen.
        what = mix(what, result, 0)
    if primitive != SMP_MB:
        # A barrier is a step only if there was something to wait for, which is no part of the trace.
        _add_to_trace(board, choice, what, word, effect)
    if choice != board.last_choice[0]:
        board.switches[0] += 1
    board.last_choice[0] = choice
    board.last_step[choice] = step
    board.step[0] = step + 1


@kernel
def _learn(board: Board, player: int, word: int, effect: int) -> None:
    """Search over states: who touches which word; a word that two touch in conflict is shared."""
    board.touched_by[word] |= 1 << player
    if effect != EFFECT_READ:
        board.written_by[word] |= 1 << player
    touched = board.touched_by[word]
    if board.shared[word] == 0 and board.written_by[word] != 0 and touched & (touched - 1) != 0:
        board.shared[word] = 1
        board.new_shared[0] += 1


@kernel
def _add_to_trace(board: Board, choice: int, what: int, word: int, effect: int) -> None:
    """A sum that depends on who reads what from whom and on the order of writes, and on nothing else."""
    step = board.step[0]
    count = board.nr_steps[choice]
    board.nr_steps[choice] = count + 1
    mark = 0
    for at in range(board.touch[step], board.touch[step + 1]):
        # All of them: a waiter sees two words, a retry what its attempt has read.
        touched = board.touched[at]
        if board.version_execution[touched] != board.executions[0]:
            board.version_execution[touched] = board.executions[0]
            board.version[touched] = 0
            board.version_base[touched] = 0
        mark += board.version_base[touched] if effect == EFFECT_ADD else board.version[touched]
    mark = mix(mark & ((1 << 61) - 1), what, count)
    board.trace_sum[0] = (board.trace_sum[0] + mark) & ((1 << 61) - 1)
    if word == 0 or effect == EFFECT_READ:
        return
    if effect == EFFECT_ADD:
        board.version[word] = (board.version[word] + mark) & ((1 << 61) - 1)
    else:
        board.version[word] = mark
        board.version_base[word] = mark
