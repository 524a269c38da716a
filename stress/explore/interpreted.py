# SPDX-License-Identifier: GPL-2.0-only
"""The interpreted engine: the model's functions as plain Python, every actor a greenlet, all in one thread.

It asks the same compiled scheduler as the native engine and keeps the same board, so a schedule gives the same execution in both.
It runs on any machine, and it knows at every step where in the source an actor stands.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import greenlet
import numpy as np

from model import atomics
from model.layout import actor_name
from model.stages import finish_vm, play
from model.trace import tracer
from stress.explore.board import DONE, END_COMPLETE, END_DIVERGED, END_FINDING, HUB, RUNNING
from stress.explore.compiled import entry, the_board
from stress.explore.coverage import cover_window
from stress.explore.native import NEVER, note_event
from stress.explore.scheduler import begin_execution, end_execution, is_local, leave, next_turn, offer
from stress.explore.steps import local, perform, word_of
from stress.explore.strategies import GIVEN, plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from stress.explore.opening import Table

__all__ = ["Interpreted", "Step", "functions_of"]

LOCAL = -2  # not a step: it has been done
# Frames of these files are machinery: a reader wants to know who called them.
_MACHINERY = ("atomics.py", "interpreted.py", "wait.py")


# --- the compiled scheduler, by numbers


@entry
def _start() -> None:
    begin_execution(the_board())
    the_board().starting[0] = 1


@entry
def _offer(player: int, primitive: int, offset: int, a: int, b: int, offset2: int, b2: int) -> int:
    board = the_board()
    word = word_of(board, offset)
    if is_local(board, player, primitive):
        local(board, player, primitive, word, a)
        return LOCAL
    return offer(board, player, primitive, word, a, b, word_of(board, offset2), b2)


@entry
def _perform(player: int) -> int:
    return perform(the_board(), player)


@entry
def _leave(player: int) -> int:
    return leave(the_board(), player)


@entry
def _first_turn() -> int:
    board = the_board()
    board.starting[0] = 0
    return next_turn(board, HUB)


@entry
def _end() -> None:
    end_execution(the_board())


@entry
def _plan(index: int) -> bool:
    return plan(the_board(), index)


@entry
def _event(me: int, kind: int, gfn: int, root: int, pfn: int, incarnation: int, arg0: int, arg1: int) -> None:
    board = the_board()
    cover_window(board, me, kind, arg0)
    if board.tracing[0] != 0:
        note_event(board, me, kind, gfn, root, pfn, incarnation, arg0, arg1)


@dataclass(frozen=True)
class Step:
    """One step as a reader wants to see it.

    `functions` are the model's functions that the actor was inside, outermost first, each with its line.
    """

    number: int
    player: int
    drain: bool
    primitive: str
    field: str
    result: int
    functions: tuple[tuple[str, int], ...]
    nr_events: int  # events written down before it


class Interpreted:
    """Executions of one table under greenlets; implements atomics.Scheduler and trace.Sink."""

    def __init__(self, table: Table, *, main: Callable[[Any, int], None] = play, finish: Callable[[Any], None] = finish_vm) -> None:
        """Take a table.

        Args:
            table: opening and board.
            main: what an actor plays; another one for tests of the engine itself.
            finish: the last stage.
        """
        self._table = table
        self._board = table.board
        self._main = main
        self._finish = finish
        self._hub = greenlet.getcurrent()
        self._players: list[greenlet.greenlet] = []
        self._current = HUB
        self._offsets = _Offsets(table.record, table.vm)
        words = table.record.view(np.int64)
        self._extents = []
        at = 0
        for n in range(int(self._board.nr_extents[0])):
            first, length = int(self._board.extent_offset[n]) // 8, int(self._board.extent_words[n])
            self._extents.append((words[first : first + length], self._board.snapshot[at : at + length]))
            at += length
        self.observe: Callable[[Any, int], None] | None = None

    # --- executions

    def search(self, first: int, count: int, stop_at: int, sums: Any, twice: bool) -> int:  # noqa: FBT001 - as the native one
        """As stress.explore.native.search()."""
        for k in range(count):
            if not _plan(first + k):
                self._board.exhausted[0] = 1
                return k
            self._board.end[0] = RUNNING
            self.execute()
            sums[k] = self._board.trace_sum[0] if self._board.end[0] == END_COMPLETE else 0
            if twice and not self._repeat():
                self._board.end[0] = END_DIVERGED
            if stop_at >> int(self._board.end[0]) & 1:
                return k + 1
        return count

    def _repeat(self) -> bool:
        board = self._board
        names = ("step", "digest", "end", "strategy", "prefix", "sleep_from", "step_budget")
        before = {name: int(getattr(board, name)[0]) for name in names}
        board.strategy[0], board.prefix[0] = GIVEN, before["step"]
        board.sleep_from[0], board.step_budget[0] = NEVER, before["step"]
        self.execute()
        same = board.step[0] == before["step"] and board.digest[0] == before["digest"]
        for name in names[2:]:
            getattr(board, name)[0] = before[name]
        return bool(same)

    def execute(self) -> None:
        """One execution as planned."""
        board = self._board
        for words, start in self._extents:
            words[:] = start
        self._hub = greenlet.getcurrent()
        before = (atomics.engine.scheduler, tracer.sink)
        atomics.engine.scheduler, tracer.sink = self, self
        try:
            _start()
            actors = [int(actor) for actor in board.actor_of[: int(board.nr_players[0])]]
            self._players = [greenlet.greenlet(self._play) for _ in actors]
            for player, actor in enumerate(actors):
                self._current = player
                self._players[player].switch(player, actor)
            self._current = HUB
            self._go_to(_first_turn())
            if board.end[0] == END_COMPLETE:
                self._current = HUB
                if self._table.opening.settings.scripts:
                    self._finish(self._table.vm)
                if board.found[0] >= 0 and self._table.vm.finding.ready[0]:
                    board.end[0] = END_FINDING
            self._positions = [self._position(player) for player in range(len(actors))]
        finally:
            self._current = HUB
            atomics.engine.scheduler, tracer.sink = before
            for player in self._players:
                if player and not player.dead:
                    player.throw()
        _end()

    def _play(self, player: int, actor: int) -> None:
        self._main(self._table.vm, actor)
        self._go_to(_leave(player))

    def _go_to(self, player: int) -> None:
        self._current = player
        (self._hub if player == HUB else self._players[player]).switch()

    # --- where everybody stands

    def positions(self) -> list[str]:
        """For each player where it stood when the last execution ended, or "at its end"."""
        return list(self._positions)

    def _position(self, player: int) -> str:
        name = actor_name(int(self._board.actor_of[player]))
        if self._board.status[player] == DONE:
            return f"{name} at its end"
        functions = functions_of(self._players[player].gr_frame)
        doing = ("stands", "waits", "retries", "ended")[int(self._board.status[player])]
        where = f"{functions[-1][0]}:{functions[-1][1]}" if functions else "?"
        return f"{name} {doing} in {where}"

    # --- atomics.Scheduler

    def operate(self, primitive: int, array: Any, index: Any, a: int, b: int) -> int:
        player = self._current
        if player == HUB:
            return atomics.apply(primitive, array, index, a, b)
        offset = -1
        if array is not None:
            offset = self._offsets.of(array, index)
            if offset < 0:
                # A stand-in that a test has put into the record: nobody else's business.
                return atomics.apply(primitive, array, index, a, b)
        return self._step(player, primitive, offset, a, b, -1, 0)

    def block(self, array: Any, index: Any, value: int, array2: Any, index2: Any, value2: int) -> None:
        player = self._current
        if player == HUB:
            raise RuntimeError(f"a lone actor waits for a word to leave the value {value}: nobody is there to write it")
        offset, offset2 = self._offsets.of(array, index), self._offsets.of(array2, index2)
        self._step(player, atomics.BLOCK, offset, value, 0, offset2, value2)

    def retry(self) -> None:
        if self._current != HUB:
            self._step(self._current, atomics.RETRY_PAUSE, -1, 0, 0, -1, 0)

    def _step(self, player: int, primitive: int, offset: int, a: int, b: int, offset2: int, b2: int) -> int:
        other = _offer(player, primitive, offset, a, b, offset2, b2)
        if other == LOCAL:
            return 0
        if other != player:
            self._go_to(other)
            self._current = player
        result = _perform(player)
        if self.observe is not None:
            self.observe(sys._getframe(2), result)  # noqa: SLF001 - there is no other way to a caller's frame
        return result

    # --- trace.Sink

    def now(self) -> int:
        return int(self._board.step[0])

    def event(self, me: int, kind: int, gfn: int, root: int, pfn: int, incarnation: int, arg0: int, arg1: int) -> None:
        if self._current != HUB or self._board.tracing[0]:
            _event(me, kind, gfn, root, pfn, incarnation, arg0, arg1)


def functions_of(frame: Any) -> tuple[tuple[str, int], ...]:
    """The model's functions on a stack, outermost first."""
    found = []
    while frame is not None:
        if not frame.f_code.co_filename.endswith(_MACHINERY):
            found.append((frame.f_code.co_name, frame.f_lineno))
        frame = frame.f_back
    return tuple(reversed(found))


class _Offsets:
    """From an array of the views and an index to a byte offset of the record."""

    def __init__(self, record: Any, vm: Any) -> None:
        self._base = record.ctypes.data
        self._places: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._add(vm)

    def _add(self, vm: Any) -> None:
        for value in vars(vm).values():
            if isinstance(value, np.ndarray):
                self._places[id(value)] = (value.ctypes.data - self._base, value.strides)
            elif hasattr(value, "__dict__"):
                self._add(value)

    def of(self, array: Any, index: Any) -> int:
        """The offset, or -1 for an array that is not of the record."""
        place = self._places.get(id(array))
        if place is None:
            return -1
        start, strides = place
        if isinstance(index, tuple):
            return int(start + index[0] * strides[0] + index[1] * strides[1])
        return int(start + index * strides[0])
