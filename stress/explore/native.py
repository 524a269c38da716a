# SPDX-License-Identifier: GPL-2.0-only
"""The native engine: the compiled model, every actor a coroutine on a stack of its own, all in one thread; x86-64 only.

Every primitive of the explored build is a call of `_point()`, which offers the step, switches stacks if it is somebody else's
turn, and does the step when its own has come. Whole blocks of executions run without returning to Python.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import signal
from typing import TYPE_CHECKING, Any

import llvmlite.binding as llvm
from numba import types

from model import atomics
from model.native import context_get
from stress.explore.board import BOARD, END_COMPLETE, END_DIVERGED, END_FINDING, EVENTS_MAX, HUB, MAX_PLAYERS, RUNNING, Board
from stress.explore.compiled import (
    CTX_BOARD,
    STACK_FRAME_WORDS,
    call,
    callback,
    entry,
    kernel,
    peek,
    poke,
    switch_stack,
    the_board,
)
from stress.explore.coverage import cover_window
from stress.explore.scheduler import begin_execution, end_execution, is_local, next_turn, offer
from stress.explore.steps import local, operate, perform, word_of
from stress.explore.strategies import GIVEN, plan

if TYPE_CHECKING:
    from stress.explore.opening import Table

__all__ = ["Native", "Stacks", "is_available", "load_native", "note_faults", "search"]

STACK_BYTES = 256 * 1024
NEVER = 1 << 40
_FIELDS: Any = BOARD.fields
_SP = int(_FIELDS["sp"][1])
_WORD_BYTES = 8


def is_available() -> bool:
    """Can this machine switch stacks? Elsewhere the interpreted engine serves."""
    return platform.machine() == "x86_64"


@kernel
def go_to(me: int, other: int) -> None:
    """Leave this player's stack (HUB: the engine's) for another's."""
    stacks = context_get(CTX_BOARD) + _SP
    switch_stack(stacks + (me + 1) * 8, stacks + (other + 1) * 8)


@kernel
def _point(primitive: int, where: int, a: int, b: int, where2: int, b2: int) -> int:
    board = the_board()
    me = board.current[0]
    if me == HUB:
        # Before and after the actors' part nobody else is there.
        return operate(where, primitive, a, b) if where != 0 else 0
    word = 0
    word2 = 0
    if where != 0:
        word = word_of(board, where - board.base[0])
    if where2 != 0:
        word2 = word_of(board, where2 - board.base[0])
    if is_local(board, me, primitive):
        local(board, me, primitive, word, a)
        return 0
    other = offer(board, me, primitive, word, a, b, word2, b2)
    if other != me:
        go_to(me, other)
    return perform(board, me)


@kernel
def _event(me: int, kind: int, gfn: int, root: int, pfn: int, incarnation: int, arg0: int, arg1: int) -> None:
    board = the_board()
    cover_window(board, me, kind, arg0)
    if board.tracing[0] != 0:
        note_event(board, me, kind, gfn, root, pfn, incarnation, arg0, arg1)


@kernel
def note_event(board: Board, me: int, kind: int, gfn: int, root: int, pfn: int, incarnation: int, arg0: int, arg1: int) -> None:
    """Write an event down behind the steps made so far."""
    n = board.nr_events[0]
    if n >= EVENTS_MAX:
        return
    board.event[n, 0] = board.step[0]
    board.event[n, 1] = me
    board.event[n, 2] = kind
    board.event[n, 3] = gfn
    board.event[n, 4] = root
    board.event[n, 5] = pfn
    board.event[n, 6] = incarnation
    board.event[n, 7] = arg0
    board.event[n, 8] = arg1
    board.nr_events[0] = n + 1


@kernel
def _now() -> int:
    return the_board().step[0]


@kernel
def lay_out(board: Board) -> None:
    """The shared record as it was when the executions' common start was reached."""
    at = 0
    for extent in range(board.nr_extents[0]):
        where = board.base[0] + board.extent_offset[extent]
        for k in range(board.extent_words[extent]):
            poke(where + 8 * k, board.snapshot[at + k])
        at += board.extent_words[extent]


@kernel
def _execute(board: Board) -> None:
    """One execution from the start to whatever ends it."""
    lay_out(board)
    begin_execution(board)
    start_players(board)
    first = next_turn(board, HUB)
    if first != HUB:
        go_to(HUB, first)
    board.current[0] = HUB
    if board.end[0] == END_COMPLETE:
        finish_execution(board)
    end_execution(board)


@kernel
def start_players(board: Board) -> None:
    """Let everybody run to its first step."""
    board.starting[0] = 1
    for player in range(board.nr_players[0]):
        frame = board.stack_top[player] - 8 * STACK_FRAME_WORDS
        for k in range(6):
            poke(frame + 8 * k, 0)
        poke(frame + 48, board.actor[0])
        poke(frame + 56, 0)
        board.sp[player + 1] = frame
        board.current[0] = player
        # To its first step.
        go_to(HUB, player)
    board.starting[0] = 0
    board.current[0] = HUB


@kernel
def finish_execution(board: Board) -> None:
    """The last stage, and what it finds."""
    if board.scripted[0] != 0:
        call(board.finish[0])
    if board.found[0] >= 0 and peek(board.base[0] + board.found[0]) != 0:
        board.end[0] = END_FINDING


@kernel
def _repeat(board: Board) -> bool:
    """Make the execution again from its schedule; was every step and every result the same?"""
    steps = board.step[0]
    digest = board.digest[0]
    end = board.end[0]
    strategy = board.strategy[0]
    prefix = board.prefix[0]
    sleep_from = board.sleep_from[0]
    budget = board.step_budget[0]
    board.strategy[0] = GIVEN
    board.prefix[0] = steps
    board.sleep_from[0] = NEVER
    board.step_budget[0] = steps
    _execute(board)
    same = board.step[0] == steps and board.digest[0] == digest
    board.strategy[0] = strategy
    board.prefix[0] = prefix
    board.sleep_from[0] = sleep_from
    board.step_budget[0] = budget
    board.end[0] = end
    return same


@entry
def search(first: int, count: int, stop_at: int, sums: Any, twice: bool) -> int:
    """Executions number first, first + 1, ...

    Args:
        first: number of the first one.
        count: how many at the most.
        stop_at: mask of ends (board.py: END_*) after which to stop.
        sums: takes the trace of each execution that came to its end, int64; 0 for the others.
        twice: make each execution twice; one that differs from itself ends as END_DIVERGED.

    Returns:
        How many were made; fewer than asked for if one ended so, or if nothing is left to explore.
    """
    board = the_board()
    for k in range(count):
        if not plan(board, first + k):
            board.exhausted[0] = 1
            return k
        board.end[0] = RUNNING
        _execute(board)
        sums[k] = board.trace_sum[0] if board.end[0] == END_COMPLETE else 0
        if twice and not _repeat(board):
            board.end[0] = END_DIVERGED
        if stop_at >> board.end[0] & 1 != 0:
            return k + 1
    return count


def load_native() -> dict[str, Any]:
    """Compile the model's explored build, or load it, and tell it where the scheduler is.

    Returns:
        Addresses of the C functions `actor` and `finish`, with what keeps them alive.

    Context: once a process; no other build of the model may have been compiled in it.
    """
    llvm.initialize_native_asmparser()
    llvm.initialize_native_asmprinter()
    numbers = [types.int64] * 8
    point = callback(types.int64(*numbers[:6]))(_point_callback)
    event = callback(types.void(*numbers))(_event_callback)
    clock = callback(types.int64())(_now_callback)
    for name, function in (("point", point), ("event", event), ("now", clock)):
        llvm.add_symbol(f"zaptorture_explore_{name}", function.address)
    atomics.engine.build = atomics.EXPLORED
    from stress.explore.parts import actor_callback, finish_callback  # noqa: PLC0415 - the build must be chosen first

    actor = callback(types.void())(actor_callback)
    finish = callback(types.void())(finish_callback)
    return {"actor": actor, "finish": finish, "kept": (point, event, clock)}


class _SigAction(ctypes.Structure):
    _fields_ = (("handler", ctypes.c_void_p), ("mask", ctypes.c_ulong * 16), ("flags", ctypes.c_int), ("restorer", ctypes.c_void_p))


class _SigAltStack(ctypes.Structure):
    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_SA_SIGINFO, _SA_ONSTACK = 4, 0x08000000
_signal = types.ExternalFunction("signal", types.intp(types.int32, types.intp))


def note_faults() -> Any:
    """From now on a fault leaves its address on the board before it ends this process; returns what must be kept alive."""
    handler = callback(types.void(types.int32, types.int64, types.int64))(_fault_callback)
    room = ctypes.create_string_buffer(64 * 1024)
    stack = _SigAltStack(ctypes.addressof(room), 0, len(room))
    libc = ctypes.CDLL(None, use_errno=True)
    action = _SigAction(handler=handler.address, flags=_SA_SIGINFO | _SA_ONSTACK)
    failed = libc.sigaltstack(ctypes.byref(stack), None)
    for number in (signal.SIGSEGV, signal.SIGBUS):
        failed |= libc.sigaction(int(number), ctypes.byref(action), None)
    if failed:
        raise OSError(ctypes.get_errno(), "sigaction")
    return handler, room, stack


def _fault_callback(number: int, info: int, _context: int) -> None:
    the_board().fault_address[0] = peek(info + 16)
    # Then as if nobody had asked: the instruction is tried again, and ends the process.
    _signal(number, 0)


def _point_callback(primitive: int, where: int, a: int, b: int, where2: int, b2: int) -> int:
    return _point(primitive, where, a, b, where2, b2)


def _event_callback(me: int, kind: int, gfn: int, root: int, pfn: int, incarnation: int, arg0: int, arg1: int) -> None:
    _event(me, kind, gfn, root, pfn, incarnation, arg0, arg1)


def _now_callback() -> int:
    return _now()


class Native:
    """Executions by compiled code; once a process."""

    def __init__(self) -> None:
        self._parts = load_native()
        self._stacks = Stacks(MAX_PLAYERS)
        self._kept = note_faults()
        self.search = search

    def bind(self, table: Table) -> None:
        """From now on executions are those of this table."""
        players = len(table.opening.actors)
        board = table.board
        board.actor[0] = self._parts["actor"].address
        board.finish[0] = self._parts["finish"].address
        board.stack_top[:players] = self._stacks.tops[:players]
        board.guard[:players] = self._stacks.guards[:players]


class Stacks:
    """A stack for each player, with a page below it that nobody may touch."""

    def __init__(self, players: int) -> None:
        page = mmap.PAGESIZE
        self._map = mmap.mmap(-1, players * (STACK_BYTES + page))
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        self.guards: list[int] = []
        self.tops: list[int] = []
        for player in range(players):
            guard = start + player * (STACK_BYTES + page)
            if libc.mprotect(guard, page, 0) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")
            self.guards.append(guard)
            self.tops.append(guard + page + STACK_BYTES)
