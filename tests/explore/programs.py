# SPDX-License-Identifier: GPL-2.0-only
"""Tiny actors over a few words of the record, and all that can come of them: to test the exploring engine itself.

A part is what one actor plays: a function of the words and of `say`, which takes down what the actor has seen. A program is a
part written as data: a list of primitives with their arguments.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

import numpy as np

from model import atomics
from model.vm import SlotSettings, VmSettings
from stress.explore.board import END_NAMES
from stress.explore.commuting import commute
from stress.explore.compiled import bind_board
from stress.explore.interpreted import Interpreted
from stress.explore.opening import Opening, set_up
from stress.explore.schedule import schedule_of
from stress.explore.strategies import GIVEN, STRATEGIES

X, Y, Z = range(3)
WORDS = 3
STEPS_MAX = 10_000
UNBOUNDED = 1 << 40
ACTORS = (0, 1, 2, 3)

SETTINGS = VmSettings(
    nr_vcpus=len(ACTORS), levels=2, bits_per_level=1, slots=(SlotSettings(0, 1),), nr_pages=4, seed=1, tlb_entries=1
)


@dataclass(frozen=True)
class Seen:
    """One execution: why it ended, the words then, and what each actor has said; then how it was made.

    `order` is its trace in full: each pair of steps that do not commute, in their order, and every step by itself.
    """

    end: str
    words: tuple[int, ...]
    said: tuple[tuple[int, ...], ...]
    steps: int = 0
    digest: int = 0
    trace: int = 0
    order: frozenset = frozenset()
    schedule: tuple[int, ...] = ()
    positions: tuple[str, ...] = ()

    @property
    def state(self):
        """What a search must not miss; a lost wake-up is a deadlock too, and which of the two depends on more than the trace."""
        return ("deadlock" if self.end == "lost-wakeup" else self.end, self.words, self.said)


class Bench:
    """A board on which parts are played."""

    def __init__(self, memory="sc", actors=ACTORS, steps_max=STEPS_MAX):
        scripts = tuple((actor, (0,)) for actor in actors)
        settings = VmSettings(**{**vars(SETTINGS), "scripts": scripts})
        self.table = set_up(Opening(settings, memory=memory, steps_max=steps_max))
        self.board = self.table.board
        self.vm = self.table.vm
        self.actors = actors
        self.finished = 0
        self._parts = ()
        self._said = []
        self.engine = Interpreted(self.table, main=self._main, finish=self._finish)

    def _main(self, vm, actor):
        player = self.actors.index(actor)
        if player < len(self._parts):
            self._parts[player](vm.vcpu.requests, self._said[player].append)

    def _finish(self, vm):
        self.finished += 1

    def executions(self, *parts, strategy="depth-first", seed=0, count=None, **more):
        """Play these parts again and again, until the strategy has nothing left or `count` executions were made.

        What else is given goes to fields of the board: depth, preemptions_max, floor.
        """
        bind_board(self.table.memory)
        board = self.board
        board.strategy[0], board.seed[0] = STRATEGIES.get(strategy, GIVEN), seed
        board.preemptions_max[0], board.depth[0], board.floor[0], board.exhausted[0] = UNBOUNDED, 3, 0, 0
        for name, value in more.items():
            getattr(board, name)[0] = value
        self._parts = parts
        sums = np.zeros(1, np.int64)
        number = 0
        while number != count:
            self._said = [[] for _ in parts]
            if self.engine.search(number, 1, 0, sums, False) == 0:
                break
            number += 1
            yield self._seen()

    def _seen(self):
        board = self.board
        return Seen(
            END_NAMES[int(board.end[0])],
            tuple(int(word) for word in self.vm.vcpu.requests[:WORDS]),
            tuple(tuple(said) for said in self._said),
            int(board.step[0]),
            int(board.digest[0]),
            int(board.trace_sum[0]),
            order_of(board),
            tuple(int(choice) for choice in schedule_of(board)),
            tuple(self.engine.positions()),
        )

    def outcomes(self, *parts):
        """All that can come of these parts: (end, words, what was said). Both complete strategies must agree on it."""
        naive = {seen.state for seen in self.executions(*parts)}
        reduced = {seen.state for seen in self.executions(*parts, strategy="dpor") if seen.end != "pruned"}
        assert reduced == naive
        return naive

    def said(self, *parts):
        """All that can be said by these parts, each of which must come to its end."""
        outcomes = self.outcomes(*parts)
        assert {end for end, _, _ in outcomes} == {"complete"}
        return {said for _, _, said in outcomes}

    def ends(self, *parts, **more):
        """The ends that executions of these parts come to."""
        return {seen.end for seen in self.executions(*parts, **more)} - {"pruned"}


def order_of(board):
    """What makes two executions the same trace, straight from its definition; barriers are left out."""
    steps, numbers = [], Counter()
    for at in range(int(board.step[0])):
        primitive = int(board.did[at])
        if primitive == atomics.SMP_MB:
            continue
        choice = int(board.choice[at])
        words = frozenset(int(word) for word in board.touched[board.touch[at] : board.touch[at + 1]])
        what = (int(board.effect[at]), primitive, int(board.did_a[at]), int(board.did_b[at]))
        steps.append(((choice, numbers[choice], what, words), words, what))
        numbers[choice] += 1
    pairs = {name for name, _, _ in steps}
    for (first, words, what), (second, words2, what2) in itertools.combinations(steps, 2):
        if first[0] != second[0] and words & words2 and not commute(*what, *what2):
            pairs.add((first, second))
    return frozenset(pairs)


# --- parts as data

MARK = 99  # said by what has no result of its own


def listed(program):
    """A part that does these one after the other: [("store", X, 1), ("load", Y), ("unless", "store", Z, 1), ...].

    After "unless" the rest of an item is done only if the last thing said is 0; ("say_into", word) stores that.
    """

    def part(words, say):
        last = 0
        for item in program:
            name, *arguments = item
            if name == "unless":
                if last != 0:
                    continue
                name, *arguments = arguments
            if name == "say_into":
                atomics.store(words, arguments[0], last)
            elif name == "block":
                word, value, word2, value2 = arguments
                atomics.block(words, word, value, words, word2, value2)
                say(MARK)
            elif name in {"retry_pause", "attempt", "smp_mb"}:
                getattr(atomics, name)()
                if name == "retry_pause":
                    say(MARK)
            else:
                result = getattr(atomics, name)(words, *arguments)
                if result is not None:
                    last = result
                    say(result)

    return part
