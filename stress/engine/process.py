# SPDX-License-Identifier: GPL-2.0-only
"""The processes of a run: one an actor, and the drain. What each does between fork and exit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from model import context as ctx
from model.layout import MAX_ACTORS, VM, field_table
from model.rng import rng_seed
from stress.engine.child import enter_child

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from stress.config import Perturb

__all__ = ["FieldTable", "bind_context", "enter_child", "run_child"]

_PROBABILITY_ONE = 1 << 32
_PERTURB_STREAM = 1000  # apart from the streams that choose operations and accesses


class FieldTable:
    """Names of the record's fields, and the table that compiled primitives find a word's field in."""

    def __init__(self) -> None:
        self.names, self.table = field_table()

    def field_of(self, offset: int) -> str:
        """The field at a byte offset of the record."""
        word = offset // 8
        if word < len(self.table):
            return self.names[int(self.table[word])]
        fields: Any = VM.fields
        tail = [name for name in self.names if name in fields and fields[name][1] <= offset]
        return max(tail, key=lambda name: int(fields[name][1]))


def bind_context(record: NDArray[np.void], fields: FieldTable, actor: int, perturb: Perturb, seed: int, life: int = 0) -> None:
    """Tell the compiled primitives of this process who runs here and how it is disturbed.

    Args:
        record: the shared record.
        fields: kept alive by the caller as long as compiled code runs.
        actor: id of the actor.
        perturb: the scenario's perturbation.
        seed: the run's seed.
        life: how many processes have played this actor before.
    """
    context = ctx.context
    base = record.ctypes.data
    actors = record["actor"][0]
    context[ctx.CTX_BASE] = base
    context[ctx.CTX_WAIT] = _address(actors["wait_word"], actor)
    context[ctx.CTX_NEED_RESCHED] = _address(actors["need_resched"], actor)
    context[ctx.CTX_SITES] = record["site"][0][actor].ctypes.data
    context[ctx.CTX_FIELDS] = fields.table.ctypes.data
    context[ctx.CTX_HEAD_BYTES] = fields.table.size * 8
    context[ctx.CTX_OFFSET_FRAME] = record["frame_tag"].ctypes.data - base
    context[ctx.CTX_FIELD_PT] = fields.names.index("pt")
    context[ctx.CTX_FIELD_FRAME] = fields.names.index("frame_tag")
    context[ctx.CTX_RNG] = rng_seed(seed, _PERTURB_STREAM + life * MAX_ACTORS + actor)
    if perturb.probability <= 0:
        context[ctx.CTX_PERIOD] = 0
        return
    # A uniform draw from 1 to the period has the wanted mean distance.
    period = max(1, round(2 / perturb.probability) - 1)
    context[ctx.CTX_PERIOD] = period
    context[ctx.CTX_COUNTDOWN] = 1 + int(context[ctx.CTX_RNG]) % period
    weights = (perturb.yield_weight, perturb.spin_weight, perturb.sleep_weight)
    context[ctx.CTX_WEIGHT_YIELD], context[ctx.CTX_WEIGHT_SPIN] = weights[:2]
    context[ctx.CTX_WEIGHT_TOTAL] = sum(weights)
    context[ctx.CTX_SPIN_LOOPS] = perturb.spin_loops_max
    context[ctx.CTX_SLEEP_US] = perturb.sleep_us_max
    context[ctx.CTX_STALL] = int(perturb.stall_probability * _PROBABILITY_ONE)
    context[ctx.CTX_STALL_US] = perturb.stall_ms_max * 1000
    context[ctx.CTX_RESCHED] = int(perturb.resched_probability * _PROBABILITY_ONE)


def _address(field: NDArray[np.int64], index: int) -> int:
    return int(field.ctypes.data + field.strides[0] * index)


def run_child(parent_pid: int, gate: tuple[int, int], main: Callable[[], Any]) -> None:
    """A forked process from its start to its end: wait at the gate, then play its part."""
    enter_child(parent_pid)
    read_end, write_end = gate
    os.close(write_end)
    # Returns when the parent, the last to hold the other end, closes it.
    os.read(read_end, 1)
    os.close(read_end)
    main()
