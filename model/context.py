# SPDX-License-Identifier: GPL-2.0-only
"""The per-process context: who runs here, and how it is disturbed.

Compiled primitives find it through the external symbol `zaptorture_context`, bound when this module is imported, so that
compiled code stays cacheable and no model function carries an actor or site argument for the engine's sake. The words live in
private memory: a forked worker gets its own copy at the same address.
"""

from __future__ import annotations

import llvmlite.binding as llvm
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CONTEXT_SYMBOL",
    "CONTEXT_WORDS",
    "CTX_BASE",
    "CTX_CLOCK",
    "CTX_COUNTDOWN",
    "CTX_FIELDS",
    "CTX_FIELD_FRAME",
    "CTX_FIELD_PT",
    "CTX_HEAD_BYTES",
    "CTX_NEED_RESCHED",
    "CTX_OFFSET_FRAME",
    "CTX_PERIOD",
    "CTX_RESCHED",
    "CTX_RNG",
    "CTX_SITES",
    "CTX_SLEEP_US",
    "CTX_SPIN_LOOPS",
    "CTX_STALL",
    "CTX_STALL_US",
    "CTX_TIMESPEC",
    "CTX_WAIT",
    "CTX_WEIGHT_SPIN",
    "CTX_WEIGHT_TOTAL",
    "CTX_WEIGHT_YIELD",
    "context",
]

CONTEXT_SYMBOL = "zaptorture_context"
CONTEXT_WORDS = 64

CTX_BASE = 0  # address of the shared record
CTX_CLOCK = 1  # 0: cycle counter, 1: clock_gettime(CLOCK_MONOTONIC)
CTX_WAIT = 2  # address of this actor's wait_word, 0: nowhere to write
CTX_TIMESPEC = 4  # two words that clock_gettime() writes
# Perturbation (model/perturb.py). Probabilities are scaled to 2**32.
CTX_COUNTDOWN = 8  # primitives until the next disturbance
CTX_PERIOD = 9  # twice the mean distance of disturbances in primitives; 0: none
CTX_RNG = 10
CTX_WEIGHT_YIELD = 11
CTX_WEIGHT_SPIN = 12
CTX_WEIGHT_TOTAL = 13
CTX_SPIN_LOOPS = 14
CTX_SLEEP_US = 15
CTX_STALL = 16
CTX_STALL_US = 17
CTX_RESCHED = 18
CTX_NEED_RESCHED = 19  # address of this actor's need_resched
# Site counters: a table from word to field for the head of the record, the two big arrays by offset.
CTX_SITES = 24  # address of this actor's counters
CTX_FIELDS = 25  # address of the int16 table, one entry a word
CTX_HEAD_BYTES = 26
CTX_OFFSET_FRAME = 27
CTX_FIELD_PT = 28
CTX_FIELD_FRAME = 29

context: NDArray[np.int64] = np.zeros(CONTEXT_WORDS, np.int64)
llvm.add_symbol(CONTEXT_SYMBOL, context.ctypes.data)
