# SPDX-License-Identifier: GPL-2.0-only
"""The common start of all executions of a scenario: the record after its warm stage, and a board that knows who plays.

Both engines start from here: the record is laid out again before each execution, as far as the scenario can ever change it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from model.layout import (
    ACTOR_CTL,
    ACTOR_RCU,
    ACTOR_TOGGLER,
    VM,
    actor_name,
    empty_vm,
    field_table,
    views,
)
from model.stages import warm_vm
from model.vm import VmSettings, setup_vm
from stress.explore.board import EXTENTS_MAX, MAX_PLAYERS, MEMORIES, STEPS_MAX, Board, board_views, make_board
from stress.explore.compiled import bind_board

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Opening", "Table", "set_up"]

STEPS_DEFAULT = 20_000
_WORD_BYTES = 8


@dataclass(frozen=True)
class Opening:
    """What is explored: a VM, its scripts, and how far the warm stage goes.

    `settings.scripts` says who does what; without scripts whole runs are explored, from CREATE to the end. `present` are the slots
    that exist at the start, `warm` the gfns that each vCPU has touched; with `need_resched` the
    controller is asked to reschedule at the start.
    """

    settings: VmSettings
    present: tuple[int, ...] = ()
    warm: tuple[tuple[int, ...], ...] = ()
    memory: str = "sc"
    steps_max: int = STEPS_DEFAULT
    need_resched: bool = False

    @property
    def actors(self) -> tuple[int, ...]:
        """Ids of those who play, in the order of their player numbers."""
        if self.settings.scripts:
            return tuple(actor for actor, _ in self.settings.scripts)
        actors = [*range(self.settings.nr_vcpus), ACTOR_CTL, ACTOR_RCU]
        if self.settings.toggler_mode != "off":
            actors.append(ACTOR_TOGGLER)
        return tuple(actors)

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, in the same order."""
        return tuple(actor_name(actor) for actor in self.actors)


@dataclass(frozen=True)
class Table:
    """A board and the record under it, ready for the first execution.

    `board` are the views for Python, `memory` what they are views of.
    """

    opening: Opening
    record: NDArray[np.void]
    vm: Any
    memory: NDArray[np.void]
    board: Board


def set_up(opening: Opening, memory: NDArray[np.void] | None = None, prepare: Callable[[Any], None] | None = None) -> Table:
    """Play the warm stage and write down where everybody starts.

    Args:
        opening: what is explored.
        memory: a zeroed board, if somebody else made it.
        prepare: a last change to the record before the actors start.

    Context: no scheduler is set; the board becomes this process's own.
    """
    record = empty_vm()
    vm = views(record)
    setup_vm(vm, opening.settings)
    if opening.settings.scripts:
        warm_vm(vm, opening.present, opening.warm)
        vm.actor.need_resched[ACTOR_CTL] = opening.need_resched
    if prepare is not None:
        prepare(vm)
    if memory is None:
        memory = make_board()
    board = board_views(memory)
    bind_board(memory)
    actors = opening.actors
    if len(actors) > MAX_PLAYERS:
        raise ValueError(f"{len(actors)} actors, more than {MAX_PLAYERS}")
    board.nr_players[0] = len(actors)
    board.actor_of[: len(actors)] = actors
    for player, actor in enumerate(actors):
        board.progress_at[player] = _offset_of(record, vm.actor.progress, actor)
    board.scripted[0] = bool(opening.settings.scripts)
    board.memory[0] = MEMORIES.index(opening.memory)
    board.base[0] = record.ctypes.data
    # A whole run ends by itself: whoever waits then is not idle.
    idle = (("run", "destroyed"), ("rcu", "kick")) if opening.settings.scripts else ()
    board.idle[:] = -1
    for n, (group, field) in enumerate(idle):
        board.idle[n] = _offset_of(record, getattr(getattr(vm, group), field), 0)
    board.found[0] = _offset_of(record, vm.finding.ready, 0)
    budget = min(opening.steps_max, STEPS_MAX - 1)
    board.step_budget[0] = budget
    # Half of it as the strategy likes, half of it fairly: who has no end then has none at all.
    board.fair_from[0] = budget // 2
    names, table = field_table()
    board.field_at[:] = table
    board.field_of_array[:] = names.index("pt"), names.index("frame_tag")
    board.sleep_from[0] = -1
    _take_snapshot(board, record, opening)
    return Table(opening, record, vm, memory, board)


def _offset_of(record: NDArray[np.void], array: NDArray[np.int64], index: int) -> int:
    return int(array.ctypes.data + array.strides[0] * index - record.ctypes.data)


def _take_snapshot(board: Board, record: NDArray[np.void], opening: Opening) -> None:
    words = record.view(np.int64)
    at = 0
    extents = _merged(extents_of(opening))
    if len(extents) > EXTENTS_MAX:
        raise ValueError(f"{len(extents)} extents, more than {EXTENTS_MAX}")
    for n, (offset, length, state) in enumerate(extents):
        board.extent_offset[n] = offset
        board.extent_is_state[n] = state
        board.extent_words[n] = length // _WORD_BYTES
        first = offset // _WORD_BYTES
        board.snapshot[at : at + length // _WORD_BYTES] = words[first : first + length // _WORD_BYTES]
        at += length // _WORD_BYTES
    board.nr_extents[0] = len(extents)


# Counted and shown, never acted upon: two states that differ in these alone are one.
STATISTICS = frozenset(
    {
        "actor.progress",
        "actor.retries",
        "actor.wait_word",
        "actor.sample",
        "counter",
        "finding",
        "kvm.zapping",
        "live.retired_time",
        "vcpu.accesses",
    }
)
_OF_RCU = frozenset({"actor.rcu_seq", "rcu.kick", "rcu.queued", "rcu.freed"})
FINDINGS_KEPT = 4  # of one execution
_FROZEN = frozenset({"frozen", "frozen_vcpu", "frozen_lock", "frozen_actor", "frozen_root", "frozen_slot"})
# Written before the actors start, or never read in an exploration.
_FIXED = frozenset({"cfg", "mutation", "slot_cfg", "range", "script", "script_length", "site", "ring"}) | _FROZEN
_BY_ACTOR = frozenset(
    {"actor", "iter", "iter_path", "removed_table", "removed_index", "removed_gfn", "cpumask", "snapshot", "counter"}
)


def extents_of(opening: Opening) -> list[tuple[int, int, bool]]:
    """The words of the record that executions of a scenario may change: offset, length in bytes, and whether they are state."""
    settings = opening.settings
    frames = max(slot.npages for slot in settings.slots) * len(settings.slots)
    # For arrays of rows: how many rows, and how many words of each.
    rows = {
        "sp": (settings.nr_pages, 0),
        "pt": (settings.nr_pages, 1 << settings.bits_per_level),
        "vcpu": (settings.nr_vcpus, 0),
        "cache_nr": (settings.nr_vcpus, 1),
        "cache_page": (settings.nr_vcpus, 0),
        "tlb_key": (settings.nr_vcpus, settings.tlb_entries),
        "tlb_spte": (settings.nr_vcpus, settings.tlb_entries),
        "slot": (2 * len(settings.slots) + 4, 0),
        "finding": (FINDINGS_KEPT, 0),
        "frame_tag": (frames, 1),
    }
    fields: Any = VM.fields
    # Without the RCU actor nobody looks at who is inside a section, or counts callbacks.
    statistics = STATISTICS if ACTOR_RCU in opening.actors else STATISTICS | _OF_RCU
    if settings.check_level == "use":
        # Entries are counted for checks that are off.
        statistics |= {"vcpu.entry_seq"}
    extents = []
    for name in VM.names or ():
        if name in _FIXED:
            continue
        dtype, offset = fields[name][:2]
        count = dtype.shape[0]
        stride = dtype.itemsize // count
        used, words = rows.get(name, (count, 0))
        which = opening.actors if name in _BY_ACTOR else range(used)
        if dtype.base.names is None:
            parts = [(name, 0, (words or stride // _WORD_BYTES) * _WORD_BYTES)]
        else:
            parts = [(f"{name}.{part}", dtype.base.fields[part][1], _WORD_BYTES) for part in dtype.base.names]
        for row in which:
            for part, start, length in parts:
                state = part not in statistics and name not in statistics
                extents.append((offset + row * stride + start, length, state))
    return extents


def _merged(extents: list[tuple[int, int, bool]]) -> list[tuple[int, int, bool]]:
    """Neighbours of one kind as one."""
    merged: list[tuple[int, int, bool]] = []
    for offset, length, state in sorted(extents):
        if merged and merged[-1][0] + merged[-1][1] == offset and merged[-1][2] == state:
            merged[-1] = (merged[-1][0], merged[-1][1] + length, state)
        else:
            merged.append((offset, length, state))
    return merged
