# SPDX-License-Identifier: GPL-2.0-only
"""What the checker knows of a run at one moment: one NumPy record, filled from events alone.

`_ns` is a time in nanoseconds since the start of the run, NEVER where there was none. `_event` names an event: its actor's index
in the upper bits, its seq below (`event_id`). Nothing here comes from the model: a log on another machine is enough.

An actor's index is the vCPU's number, or FIRST_OTHER and up for the controller and the helpers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stress.log.schema import INCARNATION_PLACES, SPTE_BITS

__all__ = [
    "EVENT_SHIFT",
    "FIRST_OTHER",
    "FOREVER",
    "FOUND_WORDS",
    "MAX_ACTORS",
    "MAX_FOUND",
    "MAX_LIVE_ROOTS",
    "MAX_PAGES",
    "MAX_SLOTS",
    "MAX_VCPUS",
    "NEVER",
    "NO_EVENT",
    "NR_COUNTS",
    "NR_LOCKS",
    "NR_REQUESTS",
    "PLACES",
    "STATE",
    "new_state",
]

MAX_VCPUS = 64
FIRST_OTHER = MAX_VCPUS
MAX_ACTORS = MAX_VCPUS + 16
MAX_PAGES = 1 << SPTE_BITS["pfn"][1]
PLACES = INCARNATION_PLACES
MAX_SLOTS = 64
MAX_LIVE_ROOTS = 256
NR_LOCKS = 8
NR_REQUESTS = 2
NR_KINDS = 64
NR_COUNTS = 16

NEVER = -(1 << 62)
FOREVER = 1 << 62
NO_EVENT = -1
EVENT_SHIFT = 48

# Findings are handed over in portions; one event finds far fewer than the reserve.
MAX_FOUND = 4096
FOUND_WORDS = 12

STATE = np.dtype(
    [
        # --- what may be judged
        ("window_ns", np.int64),  # two times closer than this may be the other way round
        ("whole_from_ns", np.int64),  # from here on every actor's events are there
        ("whole_to_ns", np.int64),  # and up to here
        ("from_start", np.int64),  # 1: from the first event of the run on
        ("nr_vcpus", np.int64),
        ("levels_max", np.int64),
        # --- the event at hand
        ("now_ns", np.int64),
        ("event", np.int64),
        # --- findings
        ("nr_found", np.int64),
        ("found", np.int64, (MAX_FOUND, FOUND_WORDS)),
        ("counts", np.int64, (NR_COUNTS,)),
        ("kinds", np.int64, (NR_KINDS,)),
        # --- actors
        ("prev_ns", np.int64, (MAX_ACTORS,)),  # time of the event before
        ("held_ns", np.int64, (MAX_ACTORS, NR_LOCKS)),  # since when it holds the lock
        ("held_event", np.int64, (MAX_ACTORS, NR_LOCKS)),
        ("read_acquired_ns", np.int64, (MAX_ACTORS,)),  # its newest hold of mmu_lock for read, ended or not
        ("srcu_ns", np.int64, (MAX_ACTORS,)),  # since when it is inside kvm->srcu
        ("srcu_event", np.int64, (MAX_ACTORS,)),
        ("srcu_left_ns", np.int64, (MAX_ACTORS,)),
        # --- vCPUs
        ("root", np.int64, (MAX_ACTORS,)),  # page of the root that it holds a reference of; 0: none known
        ("loaded_ns", np.int64, (MAX_ACTORS,)),  # since when
        ("root_flushed", np.int64, (MAX_ACTORS,)),  # 1: its translations went since it was loaded
        ("in_guest_ns", np.int64, (MAX_ACTORS,)),
        ("in_guest_event", np.int64, (MAX_ACTORS,)),
        ("acked_ns", np.int64, (MAX_ACTORS,)),
        # the last broadcast that returned before its acknowledgement was seen
        ("unacked_ns", np.int64, (MAX_ACTORS,)),
        ("unacked_event", np.int64, (MAX_ACTORS,)),
        ("unacked_kick_ns", np.int64, (MAX_ACTORS,)),
        ("unacked_other_ns", np.int64, (MAX_ACTORS,)),
        ("unacked_other_event", np.int64, (MAX_ACTORS,)),
        ("must_flush", np.int64, (MAX_ACTORS,)),  # KVM_REQ_TLB_FLUSH was taken and not yet obeyed
        ("must_leave_srcu", np.int64, (MAX_ACTORS,)),  # a fault found an INVALID slot
        ("asked_ns", np.int64, (MAX_ACTORS, NR_REQUESTS)),  # a request that is pending for sure
        ("asked_event", np.int64, (MAX_ACTORS, NR_REQUESTS)),
        ("cleared_ns", np.int64, (MAX_ACTORS, NR_REQUESTS)),
        # --- senders of requests
        ("asking_ns", np.int64, (MAX_ACTORS,)),  # time before the first request of the broadcast under way
        ("asking", np.int64, (MAX_ACTORS,)),  # how many vCPUs it has asked
        ("kick_ns", np.int64, (MAX_ACTORS, MAX_VCPUS)),  # time before the IPI that awaits its acknowledgement
        ("kick_event", np.int64, (MAX_ACTORS, MAX_VCPUS)),
        # the last two broadcasts, the newer one first
        ("broadcast_ns", np.int64, (2,)),
        ("broadcast_done_ns", np.int64, (2,)),
        ("broadcast_event", np.int64, (2,)),
        # --- zaps, by the actor that is at it
        ("front", np.int64, (MAX_ACTORS,)),  # 1: between F1 and F4
        ("front_asked", np.int64, (MAX_ACTORS,)),
        ("front_ns", np.int64, (MAX_ACTORS,)),
        ("front_event", np.int64, (MAX_ACTORS,)),
        ("valid_gen", np.int64),
        ("flushing", np.int64, (MAX_ACTORS,)),  # incarnation; 0: no flush under way
        ("flush_event", np.int64, (MAX_ACTORS,)),
        ("flush_front", np.int64, (MAX_ACTORS,)),
        ("flush_back", np.int64, (MAX_ACTORS,)),
        ("owed_event", np.int64, (MAX_ACTORS,)),  # the zap of a valid root that no flush has followed
        ("yield_root", np.int64, (MAX_ACTORS,)),
        ("yield_gfn", np.int64, (MAX_ACTORS,)),
        ("yield_back", np.int64, (MAX_ACTORS,)),  # how often it went back to an earlier gfn
        # --- memslots
        ("destroyed_ns", np.int64),
        ("destroyed_event", np.int64),
        ("op", np.int64),
        ("op_old", np.int64),  # incarnation that the operation takes away
        ("op_event", np.int64),
        ("op_swaps", np.int64),
        ("swap_step", np.int64),
        ("swap_synced", np.int64),
        ("publish_ns", np.int64),
        ("publish_event", np.int64),
        ("generation", np.int64),
        ("newest", np.int64),  # incarnation
        ("slot_incarnation", np.int64, (MAX_SLOTS,)),
        ("incarnation", np.int64, (PLACES,)),
        ("backing", np.int64, (PLACES,)),
        ("began_ns", np.int64, (PLACES,)),
        ("began_event", np.int64, (PLACES,)),
        ("invalid_ns", np.int64, (PLACES,)),
        ("invalid_event", np.int64, (PLACES,)),
        ("returned_ns", np.int64, (PLACES,)),
        ("returned_event", np.int64, (PLACES,)),
        ("place_leafs", np.int64, (PLACES,)),
        # --- the last two waits for SRCU readers, the newer one first
        ("sync_ns", np.int64, (2,)),
        ("sync_done_ns", np.int64, (2,)),
        ("sync_event", np.int64, (2,)),
        # --- grace periods, by the actor that waits for them
        ("grace_ns", np.int64, (MAX_ACTORS,)),
        ("grace_done_ns", np.int64, (MAX_ACTORS,)),
        # --- roots
        ("nr_roots", np.int64),
        ("roots", np.int64, (MAX_LIVE_ROOTS,)),
        ("root_known", np.int8, (MAX_PAGES,)),  # its allocation was seen
        ("root_scheduled", np.int8, (MAX_PAGES,)),
        ("root_zapping", np.int8, (MAX_PAGES,)),
        ("root_refs", np.int32, (MAX_PAGES,)),  # taken less dropped, in all lives of the page
        ("root_summed", np.int8, (MAX_PAGES,)),  # they were compared before
        ("root_invalid", np.int8, (MAX_PAGES,)),
        ("root_final", np.int8, (MAX_PAGES,)),  # its last reference was put
        ("root_invalid_ns", np.int64, (MAX_PAGES,)),
        ("root_invalid_event", np.int64, (MAX_PAGES,)),
        ("root_asked_ns", np.int64, (MAX_PAGES,)),  # when the front half that invalidated it had asked every vCPU
        ("root_put_ns", np.int64, (MAX_PAGES,)),  # the last put
        ("root_put_event", np.int64, (MAX_PAGES,)),
        # --- page tables
        ("live_pages", np.int64),
        ("present_sptes", np.int64),
        ("page_top", np.int64),  # highest page seen, so that a scan ends
        ("page_live", np.int8, (MAX_PAGES,)),  # taken less given back; 2 and -1 only until what explains it comes
        ("page_event", np.int64, (MAX_PAGES,)),  # when it was taken or given back last
        ("page_ns", np.int64, (MAX_PAGES,)),
        ("page_seen", np.int8, (MAX_PAGES,)),  # it was linked or a root in this life: others may have seen it
        ("page_parent", np.int32, (MAX_PAGES,)),  # negative: unlinked there, and the linking not seen yet
        ("page_present", np.int32, (MAX_PAGES,)),
        ("page_unlinked", np.int8, (MAX_PAGES,)),  # FREED_FIRST: given back, and the unlinking not seen yet
        ("page_unlinked_ns", np.int64, (MAX_PAGES,)),
        ("page_unlinked_event", np.int64, (MAX_PAGES,)),
        ("leafs", np.int32, (MAX_PAGES, PLACES)),  # present leafs of the incarnation that has the place
    ],
    align=True,
)

_EMPTY = {"_ns": NEVER, "_event": NO_EVENT}


def new_state(nr_vcpus: int, levels_max: int, window_ns: int) -> Any:
    """The state before the first event, an array of one record.

    Untouched pages of the larger fields cost nothing: only the pages that a run used become memory.

    Args:
        nr_vcpus: vCPUs of the run.
        levels_max: most levels of its page tables.
        window_ns: two times of different actors closer than this may be the other way round.
    """
    # calloc: zeroed without being touched.
    state = np.zeros(1, STATE)
    for name in STATE.names or ():
        suffix = name[name.rindex("_") :] if "_" in name else ""
        if suffix in _EMPTY and not name.startswith(("page_", "root_")):
            state[name] = _EMPTY[suffix]
    state["window_ns"] = window_ns
    state["whole_from_ns"] = -FOREVER
    state["whole_to_ns"] = FOREVER
    state["from_start"] = 1
    state["nr_vcpus"] = nr_vcpus
    state["levels_max"] = levels_max
    state["valid_gen"] = -1
    state["generation"] = -1
    state["owed_event"] = NO_EVENT
    return state
