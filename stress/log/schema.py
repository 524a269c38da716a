# SPDX-License-Identifier: GPL-2.0-only
"""The format of the event log, version 2.

An actor is one process of a run that writes events: a vCPU worker, the controller, a quirk toggler.

**Ring record.** Every event is 8 int64 words: time, kind, gfn, root, pfn, incarnation, arg0, arg1.
One fixed size, because then the writer needs one index and no allocation, a reader can start anywhere, and a
cache line (64 bytes) is one event. The time is in raw clock ticks: the hot loop must not divide.

**Not applicable is -1** (`NULL`), because 0 is a legal gfn, pfn and root; no column has a legal -1.

**SPTEs** in the arguments are words of the model. `SPTE_BITS` says which bits mean what, so that a reader needs no
model: the pfn (or, in a non-leaf, the page of the next table) and the incarnation that the mapping carries.

**Incarnations** grow, and those that are in use at the same time differ modulo `INCARNATION_PLACES`, so that a reader needs
no more memory than that to tell the living from the retired.

**Sampling.** Under the policy `sampled` only `guest_access` and `tlb_fill` are thinned out; all other kinds are whole.

**Files.** `events/<actor>-<n>.parquet`, n counts from 0 (five digits, so that names sort). Columns, in this order:

- `seq`: index of the event since its actor started. It is contiguous in a complete log; a jump is a loss.
- `time_ns`: nanoseconds since the start of the run. Ticks are converted here once, rounded down, so the order of ticks
  is never reversed; ticks within the same nanosecond become equal, and `seq` still orders them within one actor.
- `kind`: a number of `Kind` (int16).
- `gfn`, `root`, `pfn`, `incarnation`, `arg0`, `arg1`: the record's words, -1 where the column does not apply. Parquet's
  own nulls would say it too, but cost a third of the time that reading takes.

Within one actor's files rows are ordered by `seq`. Nothing orders two actors but `time_ns`, and only as well as the
clock named in the manifest is synchronised.

**File metadata**, key `zaptorture`: a JSON object with `schema_version`, `actor`, `first_seq` and `clock`
(`kind`, `ticks_per_s`, `t0_ticks`). No file knows whether the log is complete, since the end is not known while it is
written; the control log says it (`log_closed`).

**Torn files.** A file under its final name has a footer and is whole: it is written as `<name>.part` and renamed when
closed. A `.part` that a killed drain leaves behind has no footer and cannot be read; `stress/log/events.py` says how
small that loss is kept. Pages carry checksums, so that a damaged file is noticed, not misread.

**Version.** `SCHEMA_VERSION` changes when a reader of the old format would misjudge a new log: a column or the meaning
of a field changes, or events that rules rest on come to be. Beyond that a new kind does not change it; a reader passes
over kinds that it does not know and says so.

| version | what changed |
|---------|--------------|
| 1       | first format; nulls instead of -1 |
| 2       | no nulls; kinds from request_clear on; the `foreign` bit of guest_access and writeback |
"""

from __future__ import annotations

from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "COLUMNS",
    "FIELDS",
    "FROZEN_SPTE",
    "INCARNATION_PLACES",
    "METADATA_KEY",
    "NULL",
    "RECORD_WORDS",
    "SCHEMA_VERSION",
    "SPTE_BITS",
    "WORD_ARG0",
    "WORD_ARG1",
    "WORD_GFN",
    "WORD_INCARNATION",
    "WORD_KIND",
    "WORD_PFN",
    "WORD_ROOT",
    "WORD_TIME",
    "Field",
    "Kind",
    "arrow_schema",
]

SCHEMA_VERSION = 2
METADATA_KEY = b"zaptorture"

NULL = -1

RECORD_WORDS = 8
WORD_TIME = 0
WORD_KIND = 1
WORD_GFN = 2
WORD_ROOT = 3
WORD_PFN = 4
WORD_INCARNATION = 5
WORD_ARG0 = 6
WORD_ARG1 = 7

# Lowest bit and width of each part of an SPTE word.
SPTE_BITS: dict[str, tuple[int, int]] = {
    "present": (0, 1),
    "leaf": (1, 1),
    "writable": (2, 1),
    "accessed": (3, 1),
    "dirty": (4, 1),
    "pfn": (5, 17),
    "incarnation": (22, 40),
}
FROZEN_SPTE = 0x5A0

# Incarnations that are in use at the same time differ modulo this number. A later one is always larger.
INCARNATION_PLACES = 16

# The file's columns with their meaning; the record's words from gfn on keep their order behind the first three.
COLUMNS: dict[str, str] = {
    "seq": "index of the event since its actor started",
    "time_ns": "nanoseconds since the start of the run",
    "kind": "number of the kind",
    "gfn": "guest frame number",
    "root": "page number of a TDP root, or of a table page where the kind says so",
    "pfn": "backing frame number, or a level where the kind says so",
    "incarnation": "number of the slot object that the translation or frame belongs to; never reused",
    "arg0": "first argument, by kind",
    "arg1": "second argument, by kind",
}


class Kind(IntEnum):
    """Every kind of event. Numbers are part of the format: never renumber, never reuse."""

    GUEST_ACCESS = 1
    TLB_FILL = 2
    TLB_FLUSH = 3
    KVM_ENTRY = 4
    KVM_EXIT = 5
    KVM_PAGE_FAULT = 6
    SPTE_CHANGE = 7
    KVM_MMU_GET_PAGE = 8
    KVM_MMU_FREE_PAGE = 9
    ROOT_ALLOC = 10
    ROOT_GET = 11
    ROOT_PUT = 12
    ROOT_INVALIDATE = 13
    REQUEST_SET = 14
    IPI_SEND = 15
    IPI_ACK = 16
    LOCK_ACQUIRE = 17
    LOCK_RELEASE = 18
    SLOT_SWAP = 19
    SLOT_OP_BEGIN = 20
    SLOT_OP_END = 21
    ZAP_FRONT_BEGIN = 22
    ZAP_FRONT_END = 23
    ZAP_BACK_BEGIN = 24
    ZAP_BACK_END = 25
    ZAP_YIELD = 26
    FRAME_RETIRE = 27
    WRITEBACK = 28
    SRCU_LOCK = 29
    SRCU_UNLOCK = 30
    SRCU_SYNC_BEGIN = 31
    SRCU_SYNC_END = 32
    QUIRK_TOGGLE = 33
    FINDING = 34
    ZAP_LEAFS_BEGIN = 35
    ZAP_LEAFS_END = 36
    HALT = 37
    VM_DESTROY = 38
    REQUEST_CLEAR = 39
    REQUEST_DONE = 40
    FLUSH_SHADOW_BEGIN = 41
    FLUSH_SHADOW_END = 42
    ROOT_ZAP_BEGIN = 43
    ROOT_ZAP_END = 44
    RCU_GP_BEGIN = 45
    RCU_GP_END = 46
    CONTENTION_BEGIN = 47
    VCPU_DESTROY = 48

    @property
    def label(self) -> str:
        """The kind's name in reports and queries."""
        return self.name.lower()


class Field(NamedTuple):
    """What one column of one kind holds.

    `values` names the codes of an enumeration, `flags` names the bits of a mask from bit 0 up; both are empty for a
    plain number.
    """

    column: str
    name: str
    meaning: str
    values: Mapping[int, str] = MappingProxyType({})
    flags: tuple[str, ...] = ()


_GFN = Field("gfn", "gfn", "guest frame number")
_ROOT = Field("root", "root", "page of the root")
_TABLE = Field("root", "table", "page number of the table page")
_PFN = Field("pfn", "pfn", "backing frame")
_INCARNATION = Field("incarnation", "incarnation", "incarnation that the translation carries")
_TAG = Field("arg0", "observed_tag", "the frame's tag at the touch: the incarnation that owns it")
_REFCOUNT = Field("arg0", "refcount", "references after the event")
_LOCK = Field(
    "arg0",
    "lock",
    "which lock; outer to inner",
    {
        0: "slots_lock",
        1: "srcu",
        2: "slots_arch_lock",
        3: "mmu_lock (read)",
        4: "mmu_lock (write)",
        5: "rcu",
        6: "tdp_mmu_pages_lock",
        7: "pool_lock",
    },
)
_REQUEST = Field("arg0", "request", "bit number of the request", {0: "mmu_free_obsolete_roots", 1: "tlb_flush"})
_LOCK_MODE = Field(
    "arg1", "mode", "how it is held", {0: "read", 1: "write", 2: "exclusive"}
)  # exclusive: a mutex or spinlock, which has no readers
# Of a create or move the numbers of the new slot object, of a delete those of the old one.
_SLOT_OP = (
    Field("gfn", "base_gfn", "first guest frame of the slot"),
    Field("pfn", "base_pfn", "first backing frame of the slot"),
    Field("incarnation", "incarnation", "incarnation of the slot object"),
    Field("arg0", "op", "operation on the slot", {1: "create", 2: "delete", 3: "move"}),
    Field("arg1", "slot", "slot id"),
)

_FLUSH_SHADOW = (
    *_SLOT_OP[:3],
    Field("arg0", "npages", "length of the slot"),
    Field("arg1", "slot", "slot id"),
)

FIELDS: dict[Kind, tuple[Field, ...]] = {
    Kind.GUEST_ACCESS: (
        _GFN,
        _ROOT,
        _PFN,
        _INCARNATION,
        _TAG,
        # retired: the incarnation was retired at the touch; foreign: the tag was not that of the incarnation's backing
        Field("arg1", "access", "what access, and what it met", flags=("write", "retired", "tlb_hit", "foreign")),
    ),
    Kind.TLB_FILL: (_GFN, _ROOT, _PFN, _INCARNATION, Field("arg0", "spte", "the SPTE that was read")),
    Kind.TLB_FLUSH: (
        _ROOT,
        Field("arg0", "flushed_root", "page of the root whose translations went; 0: all"),
        Field("arg1", "reason", "why", {0: "root_load", 1: "request"}),
    ),
    Kind.KVM_ENTRY: (_ROOT, Field("arg0", "entry_seq", "how often this vCPU has entered the guest")),
    Kind.KVM_EXIT: (
        Field("gfn", "gfn", "guest frame of the access that faulted, if one did"),
        _ROOT,
        Field(
            "arg0",
            "reason",
            "why the guest was left",
            {0: "voluntary", 1: "ipi", 2: "fault", 3: "cancelled_entry", 4: "halt", 5: "signal"},
        ),
    ),
    Kind.KVM_PAGE_FAULT: (
        _GFN,
        _ROOT,
        _PFN,
        _INCARNATION,
        Field(
            "arg0",
            "result",
            "how the fault ended",
            {0: "retry_invalid_slot", 1: "retry_stale", 2: "fixed", 3: "mmio", 4: "retry_race", 5: "spurious"},
        ),
        Field("arg1", "access", "what access faulted", flags=("write",)),
    ),
    Kind.SPTE_CHANGE: (
        Field("gfn", "gfn", "first guest frame that the entry maps"),
        Field("root", "table", "page number of the table page that holds the entry"),
        Field("pfn", "level", "level of that table, 1: leaf"),
        Field("arg0", "old_spte", "the entry before"),
        Field("arg1", "new_spte", "the entry after"),
    ),
    Kind.KVM_MMU_GET_PAGE: (_TABLE,),
    Kind.KVM_MMU_FREE_PAGE: (_TABLE,),  # after the grace period: the page is back in the pool
    Kind.ROOT_ALLOC: (_ROOT, _REFCOUNT),
    Kind.ROOT_GET: (_ROOT, _REFCOUNT),
    Kind.ROOT_PUT: (_ROOT, _REFCOUNT),
    Kind.ROOT_INVALIDATE: (_ROOT,),
    Kind.REQUEST_SET: (_REQUEST, Field("arg1", "target", "vCPU asked")),
    Kind.IPI_SEND: (_REQUEST, Field("arg1", "target", "vCPU interrupted")),
    Kind.IPI_ACK: (
        Field(
            "arg0",
            "mode",
            "the vCPU's mode at the acknowledgement",
            {0: "outside_guest_mode", 1: "in_guest_mode", 2: "exiting_guest_mode", 3: "reading_shadow_page_tables"},
        ),
    ),
    Kind.LOCK_ACQUIRE: (_LOCK, _LOCK_MODE),
    Kind.LOCK_RELEASE: (_LOCK, _LOCK_MODE),
    Kind.SLOT_SWAP: (
        Field(
            "arg0",
            "step",
            "step of the swap",
            {1: "mark_in_progress", 2: "publish", 3: "unlock_slots_arch_lock", 4: "synchronize_srcu", 5: "generation"},
        ),
        Field("arg1", "generation", "memslots generation at that step; bit 62: update in progress"),
    ),
    Kind.SLOT_OP_BEGIN: _SLOT_OP,
    Kind.SLOT_OP_END: _SLOT_OP,
    Kind.ZAP_FRONT_BEGIN: (),
    Kind.ZAP_FRONT_END: (Field("arg0", "mmu_valid_gen", "the new generation, 0 or 1"),),
    Kind.ZAP_BACK_BEGIN: (),
    Kind.ZAP_BACK_END: (),
    Kind.ZAP_YIELD: (
        Field("gfn", "next_gfn", "guest frame at which the walk goes on"),
        Field("root", "root", "page of the root being zapped"),
        Field("arg0", "half", "which part dropped mmu_lock", {1: "front", 2: "back", 3: "leafs"}),
    ),
    Kind.FRAME_RETIRE: (Field("incarnation", "incarnation", "incarnation that is retired from here on"),),
    Kind.WRITEBACK: (_GFN, _ROOT, _PFN, _INCARNATION, _TAG, Field("arg1", "met", "what it met", flags=("retired", "foreign"))),
    Kind.SRCU_LOCK: (),
    Kind.SRCU_UNLOCK: (),
    Kind.SRCU_SYNC_BEGIN: (),
    Kind.SRCU_SYNC_END: (),
    Kind.QUIRK_TOGGLE: (Field("arg0", "disabled_quirks", "the new value"),),
    Kind.FINDING: (
        _GFN,
        _ROOT,
        _PFN,
        _INCARNATION,
        Field(
            "arg0",
            "finding",
            "kind of finding",
            {1: "stale-use", 2: "stale-writeback", 3: "leftover-mapping", 4: "invariant"},
        ),
        Field("arg1", "invariant", "number of the invariant: 3 is I3", {100: "lockdep"}),
    ),
    Kind.ZAP_LEAFS_BEGIN: (Field("gfn", "start", "first guest frame of the range"),),
    Kind.ZAP_LEAFS_END: (
        Field("gfn", "end", "guest frame behind the range"),
        Field("arg0", "flush", "1: a flush is owed to the caller"),
    ),
    Kind.HALT: (_ROOT, Field("arg0", "duration_us", "how long the vCPU blocks")),
    Kind.VM_DESTROY: (),
    Kind.REQUEST_CLEAR: (_REQUEST,),  # by the vCPU that was asked
    Kind.REQUEST_DONE: (_REQUEST,),  # kvm_make_all_cpus_request() has waited and returns
    Kind.FLUSH_SHADOW_BEGIN: _FLUSH_SHADOW,
    Kind.FLUSH_SHADOW_END: _FLUSH_SHADOW,
    Kind.ROOT_ZAP_BEGIN: (_ROOT,),  # no longer scheduled
    Kind.ROOT_ZAP_END: (_ROOT,),
    Kind.RCU_GP_BEGIN: (),
    Kind.RCU_GP_END: (),
    Kind.CONTENTION_BEGIN: (_LOCK, _LOCK_MODE),  # the lock could not be had at once
    Kind.VCPU_DESTROY: (),
}


def arrow_schema() -> Any:
    """The columnar files' schema, a `pyarrow.Schema`.

    Context:
        Imports pyarrow, which starts threads: not before the workers are forked.
    """
    import pyarrow as pa  # noqa: PLC0415 - see Context

    return pa.schema([pa.field(name, pa.int16() if name == "kind" else pa.int64(), nullable=False) for name in COLUMNS])
