# SPDX-License-Identifier: GPL-2.0-only
"""DPOR with source sets and sleep sets: one execution for each way in which conflicting steps can be ordered.

Abdulla, Aronis, Jonsson, Sagonas, "Source Sets: A Foundation for Optimal Dynamic Partial Order Reduction", JACM 64(4), 2017
(algorithm 1). Two steps of different actors depend on each other if they touch the same word and do not commute (scheduler.py:
commute()). A waiter touches the word that it waits for and its IPI word; a retry touches every word that the failed attempt read.

After each execution its steps get vector clocks. A *race* is a pair of dependent steps with none between them in happens-before
order. For each race there must be an execution in which the second step comes first: if none of the actors that could begin one is
planned at the step before, one of them is. What was explored from a state sleeps in its later branches until a step in conflict
with it wakes it; an execution in which all that could run sleeps was pruned.

Where this differs from the paper: a waiter that could not run yet may be the second step of a race. If nothing between the two
could have enabled it, the race cannot be turned round and is left alone; else whoever would enable it is planned. Since it may have
been able to run earlier and was stopped then, each write that it does not come behind by its own steps is taken for one it is in a
race with. A waiter that waits for ever is treated as a step behind the last one.
"""

from __future__ import annotations

from model.atomics import BLOCK
from stress.explore.board import BLOCKED, HUB, MAX_CHOICES, MAX_RACES, Board
from stress.explore.commuting import EFFECT_READ, EFFECT_WRITE, commute
from stress.explore.compiled import kernel

__all__ = ["plan_dpor"]


@kernel
def plan_dpor(board: Board, index: int) -> bool:
    """Analyse the execution that has just ended, and plan the next one."""
    if index == 0:
        # Below the floor the choices, and what sleeps at its last step, are given.
        board.prefix[0] = board.floor[0]
        board.analysed[0] = 0
        if board.floor[0] == 0:
            board.sleep_from[0] = 0
            board.sleep_given[0] = 0
        for word in range(len(board.touch_last)):
            board.touch_last[word] = -1
        return True
    _analyse(board)
    return _next_branch(board)


@kernel
def _next_branch(board: Board) -> bool:
    for back in range(board.step[0] - board.floor[0]):
        step = board.step[0] - 1 - back
        todo = board.backtrack[step] & ~board.tried[step] & ~board.slept[step]
        if todo == 0:
            continue
        choice = 0
        while todo >> choice & 1 == 0:
            choice += 1
        board.sleep_from[0] = step
        board.sleep_given[0] = board.slept[step] | board.tried[step]
        board.tried[step] |= 1 << choice
        board.choice[step] = choice
        board.prefix[0] = step + 1
        _forget_from(board, step)
        return True
    return False


@kernel
def _forget_from(board: Board, step: int) -> None:
    """Take the words of this and all later steps off their chains."""
    for back in range(board.touch[board.step[0]] - board.touch[step]):
        at = board.touch[board.step[0]] - 1 - back
        board.touch_last[board.touched[at]] = board.touch_before[at]
    board.analysed[0] = step


@kernel
def _analyse(board: Board) -> None:
    first = board.analysed[0]
    last = board.step[0]
    for step in range(board.prefix[0], last):
        board.tried[step] = 1 << board.choice[step]
        board.backtrack[step] = 1 << board.choice[step]
    for choice in range(MAX_CHOICES):
        board.own_last[choice] = HUB
    for step in range(first):
        board.own_last[board.choice[step]] = step
    for step in range(first, last):
        _clock_step(board, step)
        board.own_last[board.choice[step]] = step
    board.analysed[0] = last
    # Whoever waits for ever: as if its step came now.
    for player in range(board.nr_players[0]):
        if board.status[player] == BLOCKED:
            _pretend(board, player)


@kernel
def _join(board: Board, into: int, step: int) -> None:
    for choice in range(MAX_CHOICES):
        board.clock[into, choice] = max(board.clock[into, choice], board.clock[step, choice])


@kernel
def _races_on(board: Board, step: int, word: int, effect: int, primitive: int, a: int, b: int, races: int) -> int:
    """Walk back over the earlier steps on a word; note each that is in a race with this one, and come behind all of them."""
    at = board.touch_last[word]
    while at >= 0:
        earlier = board.touch_step[at]
        what = board.effect[earlier]
        if not commute(what, board.did[earlier], board.did_a[earlier], board.did_b[earlier], effect, primitive, a, b):
            if board.clock[step, board.choice[earlier]] < earlier:
                if races < MAX_RACES:
                    board.race[races] = earlier
                    races += 1
                else:
                    board.cut_short[0] += 1
                _join(board, step, earlier)
            if what == EFFECT_WRITE:
                # Everything before it on this word comes before it.
                break
        at = board.touch_before[at]
    return races


@kernel
def _begin_clock(board: Board, step: int, choice: int) -> None:
    own = board.own_last[choice]
    for other in range(MAX_CHOICES):
        board.clock[step, other] = board.clock[own, other] if own != HUB else HUB


@kernel
def _clock_step(board: Board, step: int) -> None:
    choice = board.choice[step]
    _begin_clock(board, step, choice)
    if board.cause[step] >= 0:
        _join(board, step, board.cause[step])
    races = 0
    for at in range(board.touch[step], board.touch[step + 1]):
        word = board.touched[at]
        effect = board.effect[step]
        races = _races_on(board, step, word, effect, board.did[step], board.did_a[step], board.did_b[step], races)
    board.clock[step, choice] = step
    for at in range(board.touch[step], board.touch[step + 1]):
        word = board.touched[at]
        board.touch_step[at] = step
        board.touch_before[at] = board.touch_last[word]
        board.touch_last[word] = at
    for race in range(races):
        _turn_round(board, board.race[race], step, choice)
    if board.did[step] == BLOCK:
        _while_it_waited(board, step, board.touched[board.touch[step]], choice)
        _while_it_waited(board, step, board.touched[board.touch[step] + 1], choice)


@kernel
def _while_it_waited(board: Board, step: int, word: int, player: int) -> None:
    """For a waiter every write since its step before may be the one that it should have been ahead of.

    That write may hide behind another with which the waiter is in a race that cannot be turned round.
    """
    own = board.own_last[player]
    at = board.touch_last[word]
    while at >= 0:
        earlier = board.touch_step[at]
        at = board.touch_before[at]
        if board.effect[earlier] == EFFECT_READ:
            continue
        if own != HUB and board.clock[own, board.choice[earlier]] >= earlier:
            if board.effect[earlier] == EFFECT_WRITE:
                return
            continue
        _turn_round(board, earlier, step, player)


@kernel
def _pretend(board: Board, player: int) -> None:
    step = board.step[0]
    _begin_clock(board, step, player)
    primitive = board.primitive[player]
    races = _races_on(board, step, board.word[player], EFFECT_READ, primitive, 0, 0, 0)
    races = _races_on(board, step, board.word2[player], EFFECT_READ, primitive, 0, 0, races)
    board.clock[step, player] = step
    for race in range(races):
        _turn_round(board, board.race[race], step, player)
    _while_it_waited(board, step, board.word[player], player)
    _while_it_waited(board, step, board.word2[player], player)


@kernel
def _turn_round(board: Board, earlier: int, later: int, choice: int) -> None:
    """See to it that an execution is planned in which `later` does not come behind `earlier`.

    The steps between them that do not come behind `earlier`, and then `later`, could be done in its place. Whoever could begin
    that is an initial; one of them must be planned.
    """
    for other in range(MAX_CHOICES):
        board.first_seen[other] = HUB
    initials = 0
    for step in range(earlier + 1, later + 1):
        who = choice if step == later else board.choice[step]
        if step != later and board.clock[step, board.choice[earlier]] >= earlier:
            continue
        if board.first_seen[who] != HUB:
            continue
        begins = True
        for other in range(MAX_CHOICES):
            if board.first_seen[other] != HUB and board.clock[step, other] >= board.first_seen[other]:
                begins = False
        board.first_seen[who] = step
        if begins:
            initials |= 1 << who
            if board.backtrack[earlier] >> who & 1 != 0:
                return
    able = initials & board.could[earlier]
    if able == 0:
        return
    if able >> choice & 1 != 0:
        board.backtrack[earlier] |= 1 << choice
        return
    first = 0
    while able >> first & 1 == 0:
        first += 1
    board.backtrack[earlier] |= 1 << first
