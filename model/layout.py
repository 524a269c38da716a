# SPDX-License-Identifier: GPL-2.0-only
"""The state that actors share: one NumPy record over one shared-memory segment.

The record always has the same generous maxima, so the model compiles once; the geometry of a run (levels, bits per level,
vCPUs, slots, pool sizes) is data inside it, in `cfg`. Pages of the segment that a run never touches cost nothing.

Scalars are arrays of one record, `vm.mmu_lock.cnts[0]`. Words that different actors write lie on different cache lines: a
row's dtype is made of groups, and every group starts a line. Compiled code takes the record as one pointer; interpreted code
gets `views(record)`, an object that holds the same views under the same names.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ACTOR_CTL",
    "ACTOR_RCU",
    "ACTOR_TOGGLER",
    "CACHE_LINE_BYTES",
    "CACHE_PAGES_MAX",
    "FINDING_FIELDS",
    "FROZEN_ROOTS_MAX",
    "MAX_ACTORS",
    "MAX_ENTRIES",
    "MAX_EXTENTS",
    "MAX_FINDINGS",
    "MAX_FRAMES",
    "MAX_LEVELS",
    "MAX_PAGES",
    "MAX_PLACES",
    "MAX_RANGES",
    "MAX_SLOTS",
    "MAX_SLOT_OBJECTS",
    "MAX_TLB",
    "MAX_VCPUS",
    "NR_FIELDS_MAX",
    "NR_PRIMITIVES",
    "RING_SLOTS_MAX",
    "SCRIPT_MAX",
    "VM",
    "Vm",
    "actor_name",
    "empty_vm",
    "field_table",
    "views",
]

CACHE_LINE_BYTES = 64
WORD_BYTES = 8

MAX_VCPUS = 64
ACTOR_CTL = 64
ACTOR_RCU = 65
ACTOR_TOGGLER = 66
MAX_ACTORS = 67

MAX_LEVELS = 4
MAX_ENTRIES = 512
MAX_PAGES = 8192  # page 0 is never handed out: 0 means "no page", as INVALID_PAGE does for root.hpa
MAX_FRAMES = 65536
MAX_SLOTS = 8
MAX_SLOT_OBJECTS = 32  # object 0 is never handed out: 0 means NULL
MAX_PLACES = 2 * MAX_SLOTS  # a MOVE's old and new incarnation are alive together
MAX_EXTENTS = MAX_SLOTS
MAX_RANGES = 2 * MAX_SLOTS + 1
MAX_TLB = 1024
MAX_FINDINGS = 64
FROZEN_ROOTS_MAX = 16  # of the root list, in the state at the first finding
NR_COUNTERS = 64
NR_PRIMITIVES = 24
NR_FIELDS_MAX = 256
NR_MUTATIONS = 32
CACHE_PAGES_MAX = 40  # KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE
RING_SLOTS_MAX = 65536
SCRIPT_MAX = 64
RING_WORDS = 8

FINDING_FIELDS = (
    "ready",
    "kind",
    "invariant",
    "actor",
    "other",
    "time",
    "other_time",
    "gfn",
    "pfn",
    "incarnation",
    "root",
    "slot",
    "detail",
    "observed",
)

# The record as compiled code sees it (a pointer) or its interpreted twin; model functions only use attribute names.
Vm = Any


def _row(*groups: tuple[str, ...]) -> np.dtype[np.void]:
    """Int64 fields; each group starts a cache line of its own."""
    names: list[str] = []
    offsets: list[int] = []
    end = 0
    for group in groups:
        for k, name in enumerate(group):
            names.append(name)
            offsets.append(end + WORD_BYTES * k)
        lines = -(-len(group) * WORD_BYTES // CACHE_LINE_BYTES)
        end += lines * CACHE_LINE_BYTES
    return np.dtype({"names": names, "formats": [np.int64] * len(names), "offsets": offsets, "itemsize": end})


# lock_id: bit number in actor.held; owner: actor + 1, 0 when free (write or exclusive mode only).
RWLOCK = _row(("cnts",), ("ticket_next",), ("ticket_owner",), ("owner", "holds", "lock_id"))
SPINLOCK = _row(("ticket_next",), ("ticket_owner",), ("owner", "lock_id"))

ACTOR = _row(
    ("ipi_sent",),  # written by senders
    ("ipi_acked",),
    ("need_resched",),  # written by the perturbation of this actor, or by tests
    ("srcu_seq",),  # odd: inside a kvm->srcu read section
    ("rcu_seq",),  # odd: inside an RCU read section
    ("held", "rng", "progress", "retries", "phase", "wait_word", "sample", "script_next"),
    ("ring_head",),
    ("ring_tail",),  # written by the drain
    ("at_rest",),  # in userspace with nothing half done: its thread may be killed
    ("dead_us",),  # written by who killed its thread: how long nobody takes over
)

VCPU = _row(
    ("mode",),
    ("requests",),
    ("root_hpa", "root_ref", "in_guest", "entry_seq", "flushed", "retry_gfn", "retry_write", "accesses"),
)

KVM = _row(
    ("mmu_valid_gen",),
    ("mmu_invalidate_seq",),
    ("mmu_invalidate_in_progress",),
    ("disabled_quirks",),
    ("tdp_mmu_roots",),  # head of the root list, newest first; 0 ends it
    ("tdp_mmu_pages",),
    ("zapping", "deferred_back_half", "flush_owed", "audit"),
)

MEMSLOTS = _row(("active",), ("generation0", "generation1"))

SLOT = _row(("base_gfn", "npages", "mem_flags", "incarnation", "id", "hva", "allocated"))

# Which incarnations are alive: incarnation and backing tag by place (the lower bits of the incarnation).
LIVE = _row(("incarnation", "backing", "retired", "retired_time"))

# link_next survives list_del_rcu() for readers that stand on the entry; next chains the pool and the RCU queue.
SP = _row(("role_invalid", "scheduled_to_zap", "level", "gfn", "link_next"), ("refcount", "zapping", "state", "next", "audited"))

POOL = _row(("head",), ("nr_free",))
RCU = _row(("pending",), ("kick",), ("freed",), ("queued",))

ITER = _row(
    (
        "root",
        "root_level",
        "min_level",
        "level",
        "gfn",
        "next_last_level_gfn",
        "yielded_gfn",
        "yielded",
        "valid",
        "old_spte",
        "table",
        "index",
    )
)

USER = _row(("next_seq", "extents_free", "last_generation"))
USER_SLOT = _row(("present", "moved", "extent", "incarnation", "backing", "nr_operations"))

RUN = _row(("stop",), ("vcpus_running",), ("rcu_stop",), ("nr_findings",), ("destroyed",), ("drain_stop",), ("frozen",))

CFG = _row(
    (
        "nr_vcpus",
        "levels",
        "bits_per_level",
        "nr_pages",
        "nr_slots",
        "nr_ranges",
        "variant",
        "ad_writeback",
        "lock_break_on_contention",
        "tlb_mask",
        "check_level",
        "log_policy",
        "log_sample",
        "ring_slots",
        "write_threshold",
        "hole_threshold",
        "halt_threshold",
        "halt_us_max",
        "accesses_per_entry_max",
        "warmup_accesses",
        "dwell_us_max",
        "operations_max",
        "entries_max",
        "toggler_mode",
        "toggler_period_us_max",
        "hole_gfn",
        "extent_frames",
        "scripted",
        "cache_pages",
    )
)

SLOT_CFG = _row(("base_gfn", "npages", "move_to", "can_delete", "can_move"))
RANGE = _row(("base_gfn", "npages"))
FINDING = _row(FINDING_FIELDS)

# The state at the first finding (model/freeze.py). by: the actor that looked, or -1; until: when it had seen all.
FROZEN = _row(
    (
        "by",
        "until",
        "mmu_lock_cnts",
        "mmu_valid_gen",
        "mmu_invalidate_seq",
        "mmu_invalidate_in_progress",
        "disabled_quirks",
        "tdp_mmu_pages",
        "more_roots",
        "active",
        "generation",
        "rcu_queued",
        "rcu_freed",
    )
)
FROZEN_VCPU = _row(("mode", "in_guest", "requests", "flushed", "entry_seq", "root_ref"))
FROZEN_LOCK = _row(("owner", "ticket_owner", "ticket_next"))
FROZEN_ACTOR = _row(
    (
        "held",
        "wait_word",
        "phase",
        "ipi_acked",
        "ipi_sent",
        "srcu_seq",
        "rcu_seq",
        "need_resched",
        "progress",
        "retries",
    )
)
FROZEN_ROOT = _row(("page", "refcount", "role_invalid", "scheduled_to_zap", "zapping", "state"))
FROZEN_SLOT = _row(("object", "base_gfn", "npages", "mem_flags", "hva", "incarnation"))

# The head: words that primitives touch through small rows. The big arrays stand behind it, page tables first.
_HEAD: list[tuple[Any, ...]] = [
    ("run", RUN, (1,)),
    ("cfg", CFG, (1,)),
    ("mutation", np.int64, (NR_MUTATIONS,)),
    ("mmu_lock", RWLOCK, (1,)),
    ("slots_lock", SPINLOCK, (1,)),
    ("slots_arch_lock", SPINLOCK, (1,)),
    ("tdp_mmu_pages_lock", SPINLOCK, (1,)),
    ("pool_lock", SPINLOCK, (1,)),
    ("kvm", KVM, (1,)),
    ("memslots", MEMSLOTS, (1,)),
    ("memslot_id", np.int64, (2, MAX_SLOTS)),
    ("slot", SLOT, (MAX_SLOT_OBJECTS,)),
    ("live", LIVE, (MAX_PLACES,)),
    ("actor", ACTOR, (MAX_ACTORS,)),
    ("vcpu", VCPU, (MAX_VCPUS,)),
    ("pool", POOL, (1,)),
    ("rcu", RCU, (1,)),
    ("user", USER, (1,)),
    ("user_slot", USER_SLOT, (MAX_SLOTS,)),
    ("user_extent", np.int64, (MAX_EXTENTS,)),
    ("user_extent_used", np.int64, (MAX_EXTENTS,)),
    ("slot_cfg", SLOT_CFG, (MAX_SLOTS,)),
    ("range", RANGE, (MAX_RANGES,)),
    ("script", np.int64, (MAX_ACTORS, SCRIPT_MAX)),
    ("script_length", np.int64, (MAX_ACTORS,)),
    ("finding", FINDING, (MAX_FINDINGS,)),
    ("frozen", FROZEN, (1,)),
    ("frozen_vcpu", FROZEN_VCPU, (MAX_VCPUS,)),
    ("frozen_lock", FROZEN_LOCK, (5,)),
    ("frozen_actor", FROZEN_ACTOR, (MAX_ACTORS,)),
    ("frozen_root", FROZEN_ROOT, (FROZEN_ROOTS_MAX + MAX_VCPUS,)),  # the list, then each vCPU's own
    ("frozen_slot", FROZEN_SLOT, (MAX_SLOTS,)),
    ("iter", ITER, (MAX_ACTORS,)),
    ("iter_path", np.int64, (MAX_ACTORS, 8)),
    ("removed_table", np.int64, (MAX_ACTORS, 8)),
    ("removed_index", np.int64, (MAX_ACTORS, 8)),
    ("removed_gfn", np.int64, (MAX_ACTORS, 8)),
    ("cpumask", np.int64, (MAX_ACTORS, MAX_VCPUS)),
    ("snapshot", np.int64, (MAX_ACTORS, MAX_ACTORS + 5)),
    ("counter", np.int64, (MAX_ACTORS, NR_COUNTERS)),
    ("cache_nr", np.int64, (MAX_VCPUS, 8)),
    ("cache_page", np.int64, (MAX_VCPUS, CACHE_PAGES_MAX)),
    ("sp", SP, (MAX_PAGES,)),
]
_TAIL: list[tuple[Any, ...]] = [
    ("pt", np.int64, (MAX_PAGES, MAX_ENTRIES)),
    ("frame_tag", np.int64, (MAX_FRAMES,)),
    ("tlb_key", np.int64, (MAX_VCPUS, MAX_TLB)),
    ("tlb_spte", np.int64, (MAX_VCPUS, MAX_TLB)),
    ("site", np.int64, (MAX_ACTORS, NR_PRIMITIVES, NR_FIELDS_MAX, 2)),
    ("ring", np.int64, (MAX_ACTORS, RING_SLOTS_MAX, RING_WORDS)),
]


def _record(fields: list[tuple[Any, ...]]) -> np.dtype[np.void]:
    """Lay the fields out one behind the other, each on a cache line of its own."""
    names, formats, offsets, end = [], [], [], 0
    for name, kind, shape in fields:
        dtype = np.dtype((kind, shape))
        names.append(name)
        formats.append(dtype)
        offsets.append(end)
        end += -(-dtype.itemsize // CACHE_LINE_BYTES) * CACHE_LINE_BYTES
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": end})


VM = _record(_HEAD + _TAIL)


def views(record: NDArray[np.void]) -> Vm:
    """The interpreted twin of a record: the same names, plain array views.

    Args:
        record: an array of shape () or (1,) with dtype VM.
    """
    flat = record.reshape(-1)[0:1]

    def of(array: NDArray[np.void]) -> Any:
        names: dict[str, Any] = {}
        for name in array.dtype.names or ():
            field = array[name]
            names[name] = of(field) if field.dtype.names else field
        return SimpleNamespace(**names)

    top: dict[str, Any] = {}
    for name in VM.names or ():
        field = flat[name][0]
        top[name] = of(field) if field.dtype.names else field
    return SimpleNamespace(**top)


def empty_vm() -> NDArray[np.void]:
    """A zeroed record of shape (1,) in private memory; pages that stay untouched cost nothing."""
    return np.zeros((1,), VM)


def actor_name(actor: int) -> str:
    """vcpu0.., ctl, rcu, toggler: the names of log files, findings and diagrams."""
    if actor < MAX_VCPUS:
        return f"vcpu{actor}"
    return {ACTOR_CTL: "ctl", ACTOR_RCU: "rcu", ACTOR_TOGGLER: "toggler"}[actor]


def field_table() -> tuple[list[str], NDArray[np.int16]]:
    """Names of all fields that a primitive may touch, and the field of every word of the record's head.

    Returns:
        The names (id 0 is "", for primitives without a word) and an int16 array with one id a word of the head; the names of
        the tail's arrays come last.
    """
    names = [""]
    head_bytes = _field(_TAIL[0][0])[1]
    table = np.zeros(head_bytes // WORD_BYTES, np.int16)
    for name, kind, shape in _HEAD:
        start = _field(name)[1] // WORD_BYTES
        dtype = np.dtype(kind)
        if dtype.names is None:
            names.append(name)
            table[start : start + int(np.prod(shape))] = len(names) - 1
            continue
        stride = dtype.itemsize // WORD_BYTES
        for part in dtype.names:
            names.append(f"{name}.{part}")
            offset = (dtype.fields or {})[part][1] // WORD_BYTES
            table[start + offset : start + offset + stride * int(np.prod(shape)) : stride] = len(names) - 1
    names += [name for name, _, _ in _TAIL]
    return names, table


def _field(name: str) -> tuple[np.dtype[Any], int]:
    fields: Any = VM.fields
    return fields[name][0], fields[name][1]
