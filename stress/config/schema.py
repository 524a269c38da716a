# SPDX-License-Identifier: GPL-2.0-only
"""The scenario file as frozen structs: every key with its type, bounds, default, unit and meaning.

This is the one place where a default or a bound is written. docs/reference/config.md is held equal to it by a test.
Rules that span several keys are in stress/config/check.py.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta

from model.layout import (
    CACHE_PAGES_MAX,
    MAX_ENTRIES,
    MAX_FRAMES,
    MAX_LEVELS,
    MAX_SLOTS,
    MAX_TLB,
    MAX_VCPUS,
    RING_SLOTS_MAX,
    SCRIPT_MAX,
)
from stress.config.keys import Table, key

__all__ = [
    "DURATION_ACCEPTS",
    "Check",
    "Config",
    "Evidence",
    "Explore",
    "Log",
    "Nemesis",
    "Op",
    "Perturb",
    "Run",
    "Script",
    "Slot",
    "Toggler",
    "Vm",
    "Workload",
    "parse_duration",
]

BITS_PER_LEVEL_MAX = MAX_ENTRIES.bit_length() - 1
MAX_GFN = (1 << MAX_LEVELS * BITS_PER_LEVEL_MAX) - 1
MAX_INT64 = 2**63 - 1  # counters and seeds are words of the shared record
MAX_LOOPS = 10**9
MEMORY_MB_MAX = 2**20
PAUSE_US_MAX = 10**6
PAUSE_MS_MAX = 10**4
SCRIPT_ITEMS_MAX = SCRIPT_MAX
DEPTH_MAX = 20
STEPS_LONGEST = 2**21 - 1  # room on the exploring engine's board
DURATION_PATTERN = r"\A([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)?\Z"
DURATION_ACCEPTS = 'a time from "10ms" to "720h", with unit ms, s, m or h'
SECONDS_PER_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
SCENARIO_PATTERN = r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,63}\Z"  # it becomes part of a folder's name

Op = Literal["delete", "move"]
Act = Literal[
    "stop-vcpu",
    "kill-vcpu",
    "stop-ctl",
    "kill-ctl",
    "stop-drain",
    "kill-drain",
    "affinity",
    "priority",
    "hog",
    "memory",
    "slow-disk",
    "full-disk",
]


class Vm(Table, frozen=True):
    """The virtual machine: its vCPUs, the shape of its page tables, its lock and TLB."""

    nr_vcpus: Annotated[int, key("vCPUs; each is a worker process.", ge=1, le=MAX_VCPUS)] = 4
    levels: Annotated[int, key("Levels of a page table.", ge=2, le=MAX_LEVELS)] = 4
    bits_per_level: Annotated[int, key("A page table holds 2 to this power entries.", ge=1, le=BITS_PER_LEVEL_MAX)] = 9
    ad_writeback: Annotated[
        bool, key("Zapping an SPTE writes its accessed and dirty state back to the frame, as kernels up to 6.12 do.")
    ] = True
    quirk_slot_zap_all: Annotated[
        bool,
        key("KVM_X86_QUIRK_SLOT_ZAP_ALL at the start: deleting a slot zaps all roots, not only the slot's leafs."),
    ] = True
    lock_break: Annotated[
        Literal["contention", "resched"],
        key("What makes a zap yield mmu_lock: a waiter or need_resched, or need_resched alone."),
    ] = "contention"
    tlb_entries: Annotated[int, key("Entries of each vCPU's TLB.", ge=1, le=MAX_TLB, power_of_two=True)] = 256


class Slot(Table, frozen=True):
    """A memslot that exists from the start; its pages are backed by frames of its own."""

    base_gfn: Annotated[int, key("First guest frame number.", ge=0, le=MAX_GFN)]
    npages: Annotated[int, key("Size.", ge=1, le=MAX_FRAMES, unit="pages")]
    ops: Annotated[
        tuple[Op, ...],
        key(
            "What the controller does to the slot; empty leaves it alone for the whole run.",
            accepts='a list of "delete" and "move", each at most once',
        ),
    ] = ()
    move_to: (
        Annotated[
            int,
            key(
                "First guest frame number of the place a move goes to; the next move goes back. "
                'Given exactly when ops holds "move".',
                ge=0,
                le=MAX_GFN,
            ),
        ]
        | None
    ) = None


class Workload(Table, frozen=True):
    """What the guest does, and how long the controller lets it."""

    write_ratio: Annotated[float, key("Share of guest accesses that write.", ge=0, le=1)] = 0.5
    accesses_per_entry_max: Annotated[
        int, key("The guest leaves by itself after at most so many accesses.", ge=1, le=MAX_LOOPS, unit="accesses")
    ] = 4096
    hole_ratio: Annotated[
        float, key("Share of guest accesses to a gfn where no slot ever is; each is an MMIO exit.", ge=0, le=1)
    ] = 0.0
    halt_probability: Annotated[float, key("Chance, at each guest exit, that the vCPU blocks outside the guest.", ge=0, le=1)] = 0.0
    halt_us_max: Annotated[int, key("Longest such block.", ge=0, le=PAUSE_US_MAX, unit="µs")] = 2000
    warmup_accesses: Annotated[
        int,
        key(
            "Accesses every vCPU makes between two slot operations before the controller goes on.",
            ge=0,
            le=MAX_LOOPS,
            unit="accesses",
        ),
    ] = 2000
    dwell_ms_max: Annotated[
        int, key("The controller waits for that warm-up no longer than this.", ge=0, le=PAUSE_MS_MAX, unit="ms")
    ] = 20


class Toggler(Table, frozen=True):
    """A process that changes KVM_X86_QUIRK_SLOT_ZAP_ALL while slots are deleted."""

    mode: Annotated[
        Literal["off", "flip", "set-once"],
        key("Never; back and forth, as kernels of the 6.12 era allow; or disabled once for good."),
    ] = "off"
    period_us_max: Annotated[int, key("Longest wait between two changes.", ge=1, le=PAUSE_US_MAX, unit="µs")] = 500


class Perturb(Table, frozen=True):
    """Noise at every primitive. It draws from each actor's own seeded generator."""

    probability: Annotated[float, key("Chance of a pause at each primitive; 0 is off.", ge=0, le=1)] = 0.0
    yield_weight: Annotated[int, key("Share of pauses that yield the CPU.", ge=0, le=1000)] = 6
    spin_weight: Annotated[int, key("Share of pauses that spin.", ge=0, le=1000)] = 3
    sleep_weight: Annotated[int, key("Share of pauses that sleep.", ge=0, le=1000)] = 1
    spin_loops_max: Annotated[int, key("Longest spin.", ge=1, le=PAUSE_US_MAX, unit="loops")] = 2000
    sleep_us_max: Annotated[int, key("Longest sleep.", ge=1, le=PAUSE_US_MAX, unit="µs")] = 200
    stall_probability: Annotated[float, key("Chance that a pause is a long stall instead.", ge=0, le=1)] = 0.0
    stall_ms_max: Annotated[int, key("Longest stall.", ge=1, le=PAUSE_MS_MAX, unit="ms")] = 5
    resched_probability: Annotated[float, key("Chance that a pause also sets the actor's need_resched.", ge=0, le=1)] = 0.0


class Nemesis(Table, frozen=True):
    """Faults of the machine that hit the run's own processes while the protocol is judged. It draws from a generator of its own."""

    acts: Annotated[
        tuple[Act, ...],
        key("What is done, at random; empty is off.", accepts="a list of names of acts, each at most once"),
    ] = ()
    period_ms: Annotated[int, key("Mean pause between two acts.", ge=1, le=PAUSE_MS_MAX, unit="ms")] = 200
    stop_ms_max: Annotated[
        int, key("Longest time that an act lasts, such as that a process is stopped.", ge=1, le=PAUSE_MS_MAX, unit="ms")
    ] = 100
    dead_ms_max: Annotated[
        int, key("Longest time until another thread takes a killed one's place.", ge=0, le=PAUSE_MS_MAX, unit="ms")
    ] = 100
    memory_mb: Annotated[int, key('What "memory" takes.', ge=1, le=MEMORY_MB_MAX, unit="MiB")] = 256


class Check(Table, frozen=True):
    """How much is checked while the run goes on."""

    level: Annotated[
        Literal["use", "protocol", "paranoid"],
        key("The oracle alone; plus the invariants; plus walks of all tables at quiesce points."),
    ] = "protocol"


class Evidence(Table, frozen=True):
    """What a run must have seen before it may say PASS. Below any of these it is INCONCLUSIVE."""

    guest_accesses: Annotated[int, key("Guest accesses.", ge=0, le=MAX_INT64)] = 0
    tlb_hits: Annotated[int, key("Guest accesses that hit the TLB.", ge=0, le=MAX_INT64)] = 0
    page_faults: Annotated[int, key("Page faults.", ge=0, le=MAX_INT64)] = 0
    stale_fault_retries: Annotated[int, key("Page faults retried because their root was obsolete.", ge=0, le=MAX_INT64)] = 0
    faults_during_zap: Annotated[int, key("Page faults that overlapped a zap.", ge=0, le=MAX_INT64)] = 0
    acks_in_guest: Annotated[int, key("Requests acknowledged in guest mode.", ge=0, le=MAX_INT64)] = 0
    back_half_yields: Annotated[int, key("Yields inside the back half.", ge=0, le=MAX_INT64)] = 0
    front_half_yields: Annotated[int, key("Yields inside the front half.", ge=0, le=MAX_INT64)] = 0
    roots_freed: Annotated[int, key("Roots freed.", ge=0, le=MAX_INT64)] = 0
    deletes: Annotated[int, key("Slots deleted.", ge=0, le=MAX_INT64)] = 0
    moves: Annotated[int, key("Slots moved.", ge=0, le=MAX_INT64)] = 0
    frames_reused: Annotated[int, key("Frames used again by a later slot.", ge=0, le=MAX_INT64)] = 0
    mmio_exits: Annotated[int, key("Guest accesses where no slot was.", ge=0, le=MAX_INT64)] = 0


class Log(Table, frozen=True):
    """Which high-rate events are kept."""

    policy: Annotated[
        Literal["all", "window", "sampled"],
        key(
            "Every event, workers wait for the disk; the last ones of each actor, written at the end; "
            "or every event but only some of the guest accesses."
        ),
    ] = "window"
    window_events: Annotated[
        int,
        key("Events kept for each actor in its ring.", ge=16, le=RING_SLOTS_MAX, power_of_two=True, unit="events"),
    ] = 4096
    sample: Annotated[int, key('Under "sampled" one guest access in so many is logged.', ge=1, le=MAX_LOOPS, unit="accesses")] = 64


class Run(Table, frozen=True):
    """How long a run takes, its seed, and when it counts as hung."""

    duration: Annotated[
        str | float,
        key(
            "Time from the first guest access to the end; a number is in seconds.",
            accepts=DURATION_ACCEPTS,
        ),
    ] = "10s"
    seed: Annotated[int, key("Start of every actor's random numbers; drawn when absent.", ge=0, le=MAX_INT64)] | None = None
    hang_s: Annotated[float, key("No progress for so long is a hang.", ge=0.5, le=3600, unit="s")] = 5.0


class Script(Table, frozen=True):
    """Who does what, item by item, where `explore` takes every order apart; a run draws accesses and operations instead."""

    vcpus: Annotated[
        tuple[tuple[str, ...], ...],
        key(
            "For each vCPU: r or w and a gfn is one access, exit leaves the guest, halt blocks outside it.",
            accepts='one list for each of vm.nr_vcpus, of items such as "r0", "w1", "exit" and "halt"',
        ),
    ] = ()
    ctl: Annotated[
        tuple[str, ...],
        key("Memslot operations, each with the slot's number.", accepts='a list of items such as "delete 0", "create 0", "move 1"'),
    ] = ()
    toggler: Annotated[int, key("How often the quirk is changed; with toggler.mode.", ge=0, le=SCRIPT_ITEMS_MAX)] = 0
    rcu: Annotated[
        bool, key("RCU callbacks run between the other actors' steps; if not, only at the end, and no page is used again.")
    ] = True
    warm: Annotated[bool, key("Every vCPU has its root, and mappings of what it will touch, in tables and TLB, at the start.")] = (
        True
    )
    need_resched: Annotated[bool, key("The controller is asked to reschedule once, at its first lock break.")] = False
    cache_pages: Annotated[
        int,
        key(
            "Capacity of a vCPU's cache of page-table pages; small ones make pages go round.",
            ge=1,
            le=CACHE_PAGES_MAX,
            unit="pages",
        ),
    ] = 16


class Explore(Table, frozen=True):
    """How interleavings are chosen; the command line's options of the same names come first."""

    strategy: Annotated[
        Literal["random", "pct", "depth-first", "dpor", "states"],
        key("Random walks; random priorities; all schedules with few preemptions; one schedule for each trace; all states."),
    ] = "pct"
    memory: Annotated[
        Literal["sc", "tso"], key("Stores are seen by everybody at once, or leave a store buffer when the schedule says so.")
    ] = "sc"
    depth: Annotated[int, key("pct: number of ordered steps that the bug needs.", ge=1, le=DEPTH_MAX)] = 3
    preemptions_max: Annotated[int, key("depth-first: actors interrupted in one execution.", ge=0, le=MAX_LOOPS)] = 2
    steps_max: Annotated[
        int, key("Longest execution; its second half is scheduled fairly.", ge=2000, le=STEPS_LONGEST, unit="steps")
    ] = 20_000


def parse_duration(text: str) -> float:
    """Seconds of a duration such as "500ms" or "2h".

    Raises:
        ValueError: it is none.
    """
    match = re.match(DURATION_PATTERN, text)
    if match is None:
        raise ValueError(f"not a duration: {text!r}")
    return float(match[1]) * SECONDS_PER_UNIT[match[2] or "s"]


class Config(Table, frozen=True):
    """One scenario."""

    scenario: Annotated[
        str,
        key(
            "Name of the scenario, part of the run folder's name; the file's name when absent.",
            pattern=SCENARIO_PATTERN,
            accepts='a name of 1 to 64 letters, digits, "_", "-" or ".", not starting with "-" or "."',
        ),
    ] = "unnamed"
    variant: Annotated[
        Literal["split", "split-once", "unsplit", "held"],
        key(
            "The zap protocol: both halves with the quirk evaluated twice; evaluated once; "
            "before the split; or both halves under the write lock."
        ),
    ] = "split-once"
    bugs: Annotated[
        tuple[str, ...],
        key("Planted bugs.", accepts="a list of names of planted bugs, each at most once"),
    ] = ()
    vm: Vm = Vm()
    slots: Annotated[tuple[Slot, ...], Meta(min_length=1, max_length=MAX_SLOTS)] = (Slot(base_gfn=0, npages=64, ops=("delete",)),)
    workload: Workload = Workload()
    toggler: Toggler = Toggler()
    perturb: Perturb = Perturb()
    nemesis: Nemesis = Nemesis()
    check: Check = Check()
    evidence: Evidence = Evidence()
    log: Log = Log()
    run: Run = Run()
    script: Script = Script()
    explore: Explore = Explore()

    @property
    def duration_s(self) -> float:
        """`run.duration` in seconds.

        Raises:
            ValueError: it is no duration.
        """
        return parse_duration(str(self.run.duration))
