# SPDX-License-Identifier: GPL-2.0-only
"""What an exploration has seen: orders of conflicting sites, and who moved in which window of the protocol.

A site is a primitive and the field that it touches, as in the site counters of a run. A pair of sites is seen in an order when a
step of one is directly followed, on the same word and by another actor, by a step of the other, one of them changing the word.
A window is what lies between two marks of the controller's update; it is entered by an actor that makes a step in it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from model.atomics import PRIMITIVES
from model.constants import (
    EV_FLUSH_SHADOW_BEGIN,
    EV_FLUSH_SHADOW_END,
    EV_LOCK_RELEASE,
    EV_REQUEST_DONE,
    EV_REQUEST_SET,
    EV_ROOT_INVALIDATE,
    EV_ROOT_ZAP_BEGIN,
    EV_ROOT_ZAP_END,
    EV_SLOT_OP_BEGIN,
    EV_SLOT_OP_END,
    EV_SLOT_SWAP,
    EV_ZAP_BACK_BEGIN,
    EV_ZAP_BACK_END,
    EV_ZAP_FRONT_BEGIN,
    EV_ZAP_FRONT_END,
    EV_ZAP_LEAFS_BEGIN,
    EV_ZAP_LEAFS_END,
)
from model.layout import ACTOR_CTL, VM, actor_name, field_table
from model.lockdep import LOCK_MMU_WRITE
from stress.explore.board import SITES_MAX, Board
from stress.explore.commuting import EFFECT_READ
from stress.explore.compiled import kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["WINDOWS", "Coverage", "cover_pair", "cover_window", "field_of", "site_of"]

_FIELDS: Any = VM.fields
FRAME_TAG = int(_FIELDS["frame_tag"][1])

WINDOWS = (
    "outside an update",
    "update begun, slot not yet INVALID",
    "swap #1: 1-2 (not published)",
    "swap #1: 2-3 (published, slots_arch_lock held)",
    "swap #1: 3-4 (synchronize_srcu)",
    "swap #1: 4-5",
    "swap #1 done, flush not begun",
    "flush begun, waiting for mmu_lock",
    "F1-F2 (generation toggled)",
    "F2-F3 (roots invalid, no request)",
    "F3 (requests and acknowledgements)",
    "F4 (obsolete shadow pages)",
    "F4-unlock",
    "unlock-K1",
    "K1-K2 (next root)",
    "K3 (zap of a root)",
    "K4 (put of the gifted reference)",
    "K5-flush's end",
    "leafs being zapped",
    "leafs zapped, flush owed",
    "zap-only flush requested",
    "flush done, swap #2 not begun",
    "swap #2: 1-2 (not published)",
    "swap #2: 2-3 (published, slots_arch_lock held)",
    "swap #2: 3-4 (synchronize_srcu)",
    "swap #2: 4-5",
    "commit",
)
(
    OUTSIDE,
    BEGUN,
    _SWAP1,
    _,
    _,
    _,
    SWAP1_DONE,
    FLUSH_BEGUN,
    F1_F2,
    F2_F3,
    F3,
    F4,
    F4_UNLOCK,
    UNLOCK_K1,
    K1_K2,
    K3,
    K4,
    K5,
    LEAFS,
    LEAFS_ZAPPED,
    LEAFS_FLUSHED,
    FLUSH_DONE,
    _SWAP2,
    _,
    _,
    _,
    COMMIT,
) = range(len(WINDOWS))


class Coverage:
    """What one or more workers have seen, by names.

    `pairs` counts ordered pairs of conflicting sites, `entered` the steps of each actor in each window.
    """

    def __init__(self) -> None:
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.entered: Counter[tuple[str, str]] = Counter()

    def add(self, part: dict[str, Any], actors: Sequence[int]) -> None:
        """Add what a worker's board says."""
        fields, _ = field_table()
        sites = [
            f"{PRIMITIVES[int(primitive)]} {fields[int(where)]}"
            for primitive, where in zip(part["primitive"], part["field"], strict=True)
        ]
        for first, second in zip(*part["pair"].nonzero(), strict=True):
            self.pairs[sites[first], sites[second]] += int(part["pair"][first, second])
        for window, name in enumerate(WINDOWS):
            for player, actor in enumerate(actors):
                steps = int(part["entered"][window, player])
                if steps:
                    self.entered[name, actor_name(actor)] += steps

    def both_orders(self) -> list[tuple[str, str]]:
        """Pairs of different sites that were seen both ways round, each once, sorted."""
        return sorted(pair for pair in self.pairs if pair[0] < pair[1] and (pair[1], pair[0]) in self.pairs)

    def one_order(self) -> list[tuple[str, str]]:
        """Pairs of different sites of which only this order was seen, sorted."""
        return sorted(pair for pair in self.pairs if pair[0] != pair[1] and (pair[1], pair[0]) not in self.pairs)


@kernel
def field_of(board: Board, word: int) -> int:
    """The record's field that a word is in (model/layout.py:field_table())."""
    offset = board.offset_of[word]
    if offset < 8 * len(board.field_at):
        return board.field_at[offset >> 3]
    return board.field_of_array[0 if offset < FRAME_TAG else 1]


@kernel
def site_of(board: Board, primitive: int, word: int) -> int:
    """The number of a site, given out at first use; the last one stands for all beyond the table."""
    field = field_of(board, word)
    site = board.site_at[primitive, field]
    if site == 0:
        if board.nr_sites[0] < SITES_MAX - 1:
            board.nr_sites[0] += 1
        site = board.nr_sites[0]
        board.site_at[primitive, field] = site
        board.site_primitive[site] = primitive
        board.site_field[site] = field
    return site


@kernel
def cover_pair(board: Board, player: int, primitive: int, word: int, effect: int) -> None:
    """Note a step on a word: the pair that it makes with the step before, and the window in which it was made."""
    site = site_of(board, primitive, word)
    if board.last_execution[word] == board.executions[0]:
        conflict = effect != EFFECT_READ or board.last_effect[word] != EFFECT_READ
        if conflict and board.last_player[word] != player:
            board.pair[board.last_site[word], site] += 1
    board.last_execution[word] = board.executions[0]
    board.last_site[word] = site
    board.last_player[word] = player
    board.last_effect[word] = effect
    board.entered[board.window[0], player] += 1


@kernel
def cover_window(board: Board, me: int, kind: int, arg0: int) -> None:
    """The controller has reached a mark."""
    if me != ACTOR_CTL:
        return
    window = board.window[0]
    after = window
    if kind == EV_SLOT_OP_BEGIN:
        board.swaps[0] = 0
        after = BEGUN
    elif kind == EV_SLOT_SWAP:
        if arg0 == 1:
            board.swaps[0] += 1
        first = _SWAP1 if board.swaps[0] == 1 else _SWAP2
        after = first + arg0 - 1
        if arg0 == 5:
            after = SWAP1_DONE if board.swaps[0] == 1 else COMMIT
    elif kind == EV_FLUSH_SHADOW_BEGIN:
        after = FLUSH_BEGUN
    elif kind == EV_ZAP_FRONT_BEGIN:
        after = F1_F2
    elif kind == EV_ROOT_INVALIDATE and window == F1_F2:
        after = F2_F3
    elif kind == EV_REQUEST_SET and window in (F1_F2, F2_F3):
        after = F3
    elif kind == EV_REQUEST_SET and window == LEAFS_ZAPPED:
        after = LEAFS_FLUSHED
    elif kind == EV_REQUEST_DONE and window == F3:
        after = F4
    elif kind == EV_ZAP_FRONT_END:
        after = F4_UNLOCK
    elif kind == EV_LOCK_RELEASE and arg0 == LOCK_MMU_WRITE and window == F4_UNLOCK:
        after = UNLOCK_K1
    elif kind in (EV_ZAP_BACK_BEGIN, EV_ROOT_ZAP_END):
        after = K1_K2 if kind == EV_ZAP_BACK_BEGIN else K4
    elif kind == EV_ROOT_ZAP_BEGIN:
        after = K3
    elif kind == EV_ZAP_BACK_END:
        after = K5
    elif kind == EV_ZAP_LEAFS_BEGIN:
        after = LEAFS
    elif kind == EV_ZAP_LEAFS_END:
        after = LEAFS_ZAPPED
    elif kind == EV_FLUSH_SHADOW_END:
        after = FLUSH_DONE
    elif kind == EV_SLOT_OP_END:
        after = OUTSIDE
    board.window[0] = after
