# SPDX-License-Identifier: GPL-2.0-only
"""Which events are about a guest frame.

| events                                   | are about it if                                                            |
|------------------------------------------|----------------------------------------------------------------------------|
| of a kind with a gfn                     | that is the frame                                                          |
| `spte_change` at a level above 1         | the entry's range holds it; the geometry is the config's                   |
| `slot_op_*`, `flush_shadow_*`            | the slot's range holds it                                                  |
| `zap_leafs_*`                            | the range of the `flush_shadow` around them holds it                       |
| `frame_retire`                           | an event of that incarnation before it was of a slot whose range holds it  |

A `flush_shadow` carries the slot's length; a `slot_op` does not, its slot's length is the config's. Without a config the
slot is known only by its first frame, and an entry above level 1 by the first frame that it maps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stress.log.schema import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FrameFilter"]

_SLOT_KINDS = (
    Kind.SLOT_OP_BEGIN,
    Kind.SLOT_OP_END,
    Kind.FLUSH_SHADOW_BEGIN,
    Kind.FLUSH_SHADOW_END,
    Kind.ZAP_LEAFS_BEGIN,
    Kind.ZAP_LEAFS_END,
    Kind.FRAME_RETIRE,
)
_SHIFT_MAX = 62


class FrameFilter:
    """Says of one actor's events, which come in the order of their seqs, whether they are about one frame."""

    def __init__(self, gfn: int, config: Mapping[str, Any]) -> None:
        """Before the actor's first event.

        Args:
            gfn: the guest frame.
            config: the run's config, or what is left of it.
        """
        self._gfn = gfn
        self._bits = _bits_per_level(config)
        self._npages = _slot_lengths(config)
        self._flushes = False  # in a flush_shadow whose slot holds the frame
        self._incarnations: set[int] = set()  # not retired yet, of slots that hold the frame

    def about(self, columns: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
        """One value for each event.

        Args:
            columns: kind, gfn, pfn, incarnation, arg0 and arg1.
        """
        kinds, gfns = columns["kind"], columns["gfn"]
        about: npt.NDArray[np.bool_] = gfns == self._gfn
        if self._bits:
            entries = np.flatnonzero(kinds == Kind.SPTE_CHANGE)
            levels = np.clip(columns["pfn"][entries], 1, _SHIFT_MAX)
            shifts = np.minimum((levels - 1) * self._bits, _SHIFT_MAX)
            about[entries] = gfns[entries] >> shifts == self._gfn >> shifts
        for row in np.flatnonzero(np.isin(kinds, _SLOT_KINDS)).tolist():
            about[row] = self._slot_event(*(int(columns[name][row]) for name in ("kind", "gfn", "incarnation", "arg0", "arg1")))
        return about

    def _slot_event(self, kind: int, gfn: int, incarnation: int, arg0: int, arg1: int) -> bool:
        if kind in {Kind.ZAP_LEAFS_BEGIN, Kind.ZAP_LEAFS_END}:
            return self._flushes
        if kind == Kind.FRAME_RETIRE:
            known = incarnation in self._incarnations
            self._incarnations.discard(incarnation)
            return known
        flush = kind in {Kind.FLUSH_SHADOW_BEGIN, Kind.FLUSH_SHADOW_END}
        npages = arg0 if flush else self._npages.get(arg1, 1)
        holds = 0 <= self._gfn - gfn < npages
        if flush:
            self._flushes = holds and kind == Kind.FLUSH_SHADOW_BEGIN
        if holds:
            self._incarnations.add(incarnation)
        return holds


def _bits_per_level(config: Mapping[str, Any]) -> int:
    vm = config.get("vm")
    bits = vm.get("bits_per_level") if isinstance(vm, dict) else None
    return bits if isinstance(bits, int) and 0 < bits <= _SHIFT_MAX else 0


def _slot_lengths(config: Mapping[str, Any]) -> dict[int, int]:
    # A slot's id is its place in the config, and a MOVE keeps its length.
    slots = config.get("slots")
    lengths = [slot.get("npages") if isinstance(slot, dict) else None for slot in slots] if isinstance(slots, list) else []
    return {slot: npages for slot, npages in enumerate(lengths) if isinstance(npages, int)}
