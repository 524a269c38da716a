# SPDX-License-Identifier: GPL-2.0-only
"""Small vocabularies of the model: modes, requests, flags, fault results, variants, check levels, event kinds, counters.

Event ids equal those of the log's schema (stress/log/schema.py); a test holds the two together, since neither may import the
other.
"""

from __future__ import annotations

# --- vCPU modes (arch/x86/include/asm/kvm_host.h)
OUTSIDE_GUEST_MODE = 0
IN_GUEST_MODE = 1
EXITING_GUEST_MODE = 2
READING_SHADOW_PAGE_TABLES = 3

# --- requests, as bit numbers
KVM_REQ_MMU_FREE_OBSOLETE_ROOTS = 0
KVM_REQ_TLB_FLUSH = 1

# --- memslots
KVM_MEMSLOT_INVALID = 1 << 16
KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS = 1 << 62  # bit 63 in the kernel; one lower here, since words are signed
KVM_MR_CREATE = 1
KVM_MR_DELETE = 2
KVM_MR_MOVE = 3
KVM_MR_FLAGS_ONLY = 4
NR_AS_IDS = 1  # one address space; SMM's second one comes with the features that need it

KVM_X86_QUIRK_SLOT_ZAP_ALL = 1 << 7

INVALID_PAGE = 0
PG_LEVEL_4K = 1
SHADOW_NONPRESENT_VALUE = 0

# --- results of a fault
RET_PF_CONTINUE = 0
RET_PF_RETRY = 1
RET_PF_EMULATE = 2
RET_PF_FIXED = 3
RET_PF_SPURIOUS = 4

# --- scripts (model/script.py): a guest access is gfn << 1 | write, everything else is negative
SCRIPT_EXIT = -1
SCRIPT_HALT = -2

# --- states of a page of the pool
SP_FREE = 0
SP_CACHED = 1
SP_LINKED = 2
SP_ROOT = 3
SP_RCU = 4

# --- variants of kvm_arch_flush_shadow_memslot
VARIANT_SPLIT = 0
VARIANT_SPLIT_ONCE = 1
VARIANT_UNSPLIT = 2
VARIANT_HELD = 3
VARIANTS = ("split", "split-once", "unsplit", "held")

# --- levels of checking
CHECK_USE = 0
CHECK_PROTOCOL = 1
CHECK_PARANOID = 2
CHECK_LEVELS = ("use", "protocol", "paranoid")

# --- logging policies
LOG_ALL = 0
LOG_WINDOW = 1
LOG_SAMPLED = 2
LOG_POLICIES = ("all", "window", "sampled")

# --- toggler modes
TOGGLER_OFF = 0
TOGGLER_FLIP = 1
TOGGLER_SET_ONCE = 2
TOGGLER_MODES = ("off", "flip", "set-once")

# --- kinds of finding
STALE_USE = 1
STALE_WRITEBACK = 2
LEFTOVER_MAPPING = 3
INVARIANT = 4
FINDING_KINDS = ("", "stale-use", "stale-writeback", "leftover-mapping", "invariant")
LOCKDEP = 100  # stands where an invariant's number stands: a lock rule of the kernel's own

# --- why a guest left
EXIT_VOLUNTARY = 0
EXIT_IPI = 1
EXIT_FAULT = 2
EXIT_CANCELLED = 3
EXIT_HALT = 4  # reserved in the log's schema
EXIT_SIGNAL = 5  # KVM_RUN returns -EINTR

# --- phases of an actor, for the watchdog and for reports
PHASE_STARTING = 0
PHASE_RUNNING = 1
PHASE_DONE = 2
PHASE_KILLED = 3  # set by whoever killed its thread; another one takes over

# --- events
EV_GUEST_ACCESS = 1
EV_TLB_FILL = 2
EV_TLB_FLUSH = 3
EV_KVM_ENTRY = 4
EV_KVM_EXIT = 5
EV_KVM_PAGE_FAULT = 6
EV_SPTE_CHANGE = 7
EV_KVM_MMU_GET_PAGE = 8
EV_KVM_MMU_FREE_PAGE = 9
EV_ROOT_ALLOC = 10
EV_ROOT_GET = 11
EV_ROOT_PUT = 12
EV_ROOT_INVALIDATE = 13
EV_REQUEST_SET = 14
EV_IPI_SEND = 15
EV_IPI_ACK = 16
EV_LOCK_ACQUIRE = 17
EV_LOCK_RELEASE = 18
EV_SLOT_SWAP = 19
EV_SLOT_OP_BEGIN = 20
EV_SLOT_OP_END = 21
EV_ZAP_FRONT_BEGIN = 22
EV_ZAP_FRONT_END = 23
EV_ZAP_BACK_BEGIN = 24
EV_ZAP_BACK_END = 25
EV_ZAP_YIELD = 26
EV_FRAME_RETIRE = 27
EV_WRITEBACK = 28
EV_SRCU_LOCK = 29
EV_SRCU_UNLOCK = 30
EV_SRCU_SYNC_BEGIN = 31
EV_SRCU_SYNC_END = 32
EV_QUIRK_TOGGLE = 33
EV_FINDING = 34
EV_ZAP_LEAFS_BEGIN = 35
EV_ZAP_LEAFS_END = 36
EV_HALT = 37
EV_VM_DESTROY = 38
EV_REQUEST_CLEAR = 39
EV_REQUEST_DONE = 40
EV_FLUSH_SHADOW_BEGIN = 41
EV_FLUSH_SHADOW_END = 42
EV_ROOT_ZAP_BEGIN = 43
EV_ROOT_ZAP_END = 44
EV_RCU_GP_BEGIN = 45
EV_RCU_GP_END = 46
EV_CONTENTION_BEGIN = 47
EV_VCPU_DESTROY = 48

# --- results of a fault as the log tells them
FAULT_RETRY_INVALID_SLOT = 0
FAULT_RETRY_STALE = 1
FAULT_FIXED = 2
FAULT_MMIO = 3
FAULT_RETRY_RACE = 4
FAULT_SPURIOUS = 5

# --- halves, in EV_ZAP_YIELD
HALF_FRONT = 1  # yields only with the shadow MMU's obsolete pages
HALF_BACK = 2
HALF_LEAFS = 3

# --- counters, one row an actor
COUNTERS = (
    "guest_accesses",
    "tlb_hits",
    "tlb_fills",
    "guest_entries",
    "cancelled_entries",
    "page_faults",
    "faults_fixed",
    "stale_fault_retries",
    "invalid_slot_retries",
    "race_retries",
    "faults_during_zap",
    "mmio_exits",
    "acks_in_guest",
    "acks",
    "roots_allocated",
    "roots_freed",
    "pages_allocated",
    "pages_freed",
    "sptes_set",
    "sptes_zapped",
    "writebacks",
    "front_half_yields",
    "back_half_yields",
    "leafs_yields",
    "creates",
    "deletes",
    "moves",
    "frames_reused",
    "quirk_toggles",
    "halts",
    "remote_tlb_flushes",
    "dwell_timeouts",
    "lock_waits",
    "halves_disagreed",
)
(
    C_GUEST_ACCESSES,
    C_TLB_HITS,
    C_TLB_FILLS,
    C_GUEST_ENTRIES,
    C_CANCELLED_ENTRIES,
    C_PAGE_FAULTS,
    C_FAULTS_FIXED,
    C_STALE_FAULT_RETRIES,
    C_INVALID_SLOT_RETRIES,
    C_RACE_RETRIES,
    C_FAULTS_DURING_ZAP,
    C_MMIO_EXITS,
    C_ACKS_IN_GUEST,
    C_ACKS,
    C_ROOTS_ALLOCATED,
    C_ROOTS_FREED,
    C_PAGES_ALLOCATED,
    C_PAGES_FREED,
    C_SPTES_SET,
    C_SPTES_ZAPPED,
    C_WRITEBACKS,
    C_FRONT_HALF_YIELDS,
    C_BACK_HALF_YIELDS,
    C_LEAFS_YIELDS,
    C_CREATES,
    C_DELETES,
    C_MOVES,
    C_FRAMES_REUSED,
    C_QUIRK_TOGGLES,
    C_HALTS,
    C_REMOTE_TLB_FLUSHES,
    C_DWELL_TIMEOUTS,
    C_LOCK_WAITS,
    C_HALVES_DISAGREED,
) = range(len(COUNTERS))
