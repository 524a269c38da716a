# SPDX-License-Identifier: GPL-2.0-only
"""The board: everything that the exploring engine knows, in one record, so that compiled code reaches all of it by one pointer.

Who plays, what each player wants to do next, what was done in this execution and what a strategy has planned. A *player* is an
actor of the model by its place in this exploration, a *choice* is a player's next step or, from MAX_PLAYERS on, the draining of
one store out of a player's store buffer. A *word* is a place in the shared record that some primitive has touched, numbered in
the order of first touch; 0 is none. A *step* is one primitive on a word, done by the player whose turn it was; primitives without
a word are no steps, since a switch in front of them is the same as a switch in front of the step behind them.
"""

from __future__ import annotations

import mmap
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from model.layout import VM

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BLOCKED",
    "BOARD",
    "BUFFER_MAX",
    "DONE",
    "END_BUDGET",
    "END_COMPLETE",
    "END_CRASHED",
    "END_DEADLOCK",
    "END_DIVERGED",
    "END_FINDING",
    "END_LIVELOCK",
    "END_LOST_WAKEUP",
    "END_NAMES",
    "END_PRUNED",
    "EVENTS_MAX",
    "EVENT_WORDS",
    "EXTENTS_MAX",
    "HUB",
    "MAX_CHOICES",
    "MAX_PLAYERS",
    "MAX_RACES",
    "MEMORIES",
    "MEMORY_SC",
    "MEMORY_TSO",
    "READY",
    "RUNNING",
    "RUNS_MAX",
    "SITES_MAX",
    "STEPS_MAX",
    "WINDOWS_MAX",
    "WORDS_MAX",
    "Board",
    "board_memory",
    "board_views",
    "make_board",
]

MAX_PLAYERS = 12
MAX_CHOICES = 2 * MAX_PLAYERS
HUB = -1  # nobody: the engine itself
STEPS_MAX = 1 << 21
WORDS_MAX = 1 << 16
BUFFER_MAX = 8  # stores that a player's buffer holds under TSO
EVENTS_MAX = 1 << 20
EVENT_WORDS = 9
CHANGES_MAX = 32  # priority change points of PCT
RUNS_MAX = STEPS_MAX
SITES_MAX = 256
MAX_RACES = 4096
EXTENTS_MAX = 4096
CLOCKS_MAX = 1 << 17  # steps of an execution that DPOR can analyse
SNAPSHOT_WORDS = 1 << 22
WINDOWS_MAX = 64

MEMORY_SC = 0
MEMORY_TSO = 1
MEMORIES = ("sc", "tso")

# What a player is doing.
READY = 0
BLOCKED = 1  # in block(): wait_while()
RETRYING = 2  # in retry_pause()
DONE = 3

# Why an execution ended.
RUNNING = 0
END_COMPLETE = 1
END_FINDING = 2
END_DEADLOCK = 3
END_LIVELOCK = 4
END_LOST_WAKEUP = 5
END_BUDGET = 6
END_PRUNED = 7  # all that could run sleeps: every continuation has been explored elsewhere
END_DIVERGED = 8  # a schedule asked for a player that could not run
END_CRASHED = 9
END_NAMES = (
    "running",
    "complete",
    "finding",
    "deadlock",
    "livelock",
    "lost-wakeup",
    "step-bound",
    "pruned",
    "diverged",
    "crashed",
)

_FIELDS: Any = VM.fields
_ROW_WORDS = int(_FIELDS["pt"][1]) // 8
_HEAD_WORDS = int(_FIELDS["tlb_key"][1]) // 8  # primitives touch nothing behind frame_tag

BOARD = np.dtype(
    [
        # --- the exploration
        ("nr_players", np.int64, (1,)),
        ("actor_of", np.int64, (MAX_PLAYERS,)),
        ("scripted", np.int64, (1,)),  # a last stage follows; a whole run has its own
        ("memory", np.int64, (1,)),
        ("base", np.int64, (1,)),  # address of the shared record
        ("idle", np.int64, (2,)),  # offsets of the words on which an actor waits for work, not for somebody
        ("found", np.int64, (1,)),  # offset of the word that a finding sets last
        ("progress_at", np.int64, (MAX_PLAYERS,)),  # offsets of the actors' words for it
        ("step_budget", np.int64, (1,)),
        ("fair_from", np.int64, (1,)),  # from this step on everybody gets a turn: who makes no progress then never will
        # --- this execution
        ("current", np.int64, (1,)),
        ("starting", np.int64, (1,)),
        ("step", np.int64, (1,)),
        ("end", np.int64, (1,)),
        ("switches", np.int64, (1,)),
        ("last_choice", np.int64, (1,)),
        ("progress_then", np.int64, (1,)),  # when the fair half began
        ("enabled", np.int64, (1,)),
        ("digest", np.int64, (1,)),  # of every step and its result, in order
        ("trace_sum", np.int64, (1,)),  # the same for all executions of one Mazurkiewicz trace
        ("status", np.int64, (MAX_PLAYERS,)),
        ("primitive", np.int64, (MAX_PLAYERS,)),
        ("word", np.int64, (MAX_PLAYERS,)),
        ("a", np.int64, (MAX_PLAYERS,)),
        ("b", np.int64, (MAX_PLAYERS,)),
        ("word2", np.int64, (MAX_PLAYERS,)),
        ("b2", np.int64, (MAX_PLAYERS,)),
        ("attempts", np.int64, (MAX_PLAYERS,)),  # does it ever begin an attempt? Only then its reads are kept
        ("dirty", np.int64, (MAX_PLAYERS,)),  # a word that this attempt has read was written since, by somebody else
        ("missed", np.int64, (MAX_PLAYERS,)),  # its word had changed, and changed back before it could run
        ("nr_steps", np.int64, (MAX_CHOICES,)),
        ("last_step", np.int64, (MAX_CHOICES,)),
        ("nr_reads", np.int64, (MAX_PLAYERS,)),
        ("reads", np.int32, (MAX_PLAYERS, WORDS_MAX)),
        ("read_mask", np.int64, (MAX_PLAYERS, WORDS_MAX)),  # by word: the bits that it looked at
        # --- store buffers
        ("buffered", np.int64, (MAX_PLAYERS,)),
        ("buffer_word", np.int64, (MAX_PLAYERS, BUFFER_MAX)),
        ("buffer_value", np.int64, (MAX_PLAYERS, BUFFER_MAX)),
        ("buffer_under", np.int64, (MAX_PLAYERS, BUFFER_MAX)),  # what others see there while the player runs
        ("buffer_step", np.int64, (MAX_PLAYERS, BUFFER_MAX)),
        # --- words
        ("nr_words", np.int64, (1,)),
        ("word_at", np.int32, (_HEAD_WORDS,)),
        ("offset_of", np.int64, (WORDS_MAX,)),
        ("readers", np.int64, (WORDS_MAX,)),  # players whose attempt has read it
        ("version", np.int64, (WORDS_MAX,)),
        ("version_base", np.int64, (WORDS_MAX,)),
        ("version_execution", np.int64, (WORDS_MAX,)),
        ("last_site", np.int64, (WORDS_MAX,)),
        ("last_player", np.int64, (WORDS_MAX,)),
        ("last_effect", np.int64, (WORDS_MAX,)),
        ("last_execution", np.int64, (WORDS_MAX,)),
        # --- the schedule and what came of it
        ("prefix", np.int64, (1,)),  # steps that are given in `choice`
        ("choice", np.int8, (STEPS_MAX,)),
        ("did", np.int8, (STEPS_MAX,)),  # primitive of each step
        ("effect", np.int8, (STEPS_MAX,)),  # EFFECT_READ, EFFECT_ADD or EFFECT_WRITE
        ("did_a", np.int64, (STEPS_MAX,)),
        ("did_b", np.int64, (STEPS_MAX,)),
        ("could", np.int32, (STEPS_MAX,)),  # choices that were enabled before it
        ("slept", np.int32, (STEPS_MAX,)),  # and those that slept
        ("cause", np.int32, (STEPS_MAX,)),  # a step of the same actor that it follows, across its store buffer
        ("touch", np.int32, (STEPS_MAX + 1,)),  # first of its words in `touched`
        ("touched", np.int32, (2 * STEPS_MAX,)),
        # --- strategies
        ("strategy", np.int64, (1,)),
        ("rng", np.int64, (1,)),
        ("switch_threshold", np.int64, (1,)),
        ("priority", np.int64, (MAX_CHOICES,)),
        ("lowest", np.int64, (1,)),
        ("nr_changes", np.int64, (1,)),
        ("change", np.int64, (CHANGES_MAX,)),
        ("sleep_from", np.int64, (1,)),  # step at which `sleep_given` starts to hold
        ("sleep_given", np.int64, (1,)),
        ("sleep", np.int64, (1,)),
        ("nr_runs", np.int64, (1,)),
        ("run_at", np.int64, (1,)),
        ("run_left", np.int64, (1,)),
        ("run_choice", np.int8, (RUNS_MAX,)),
        ("run_length", np.int64, (RUNS_MAX,)),
        ("depth", np.int64, (1,)),  # PCT: number of change points and one
        ("length", np.int64, (1,)),  # PCT: steps of an execution, as far as they are known
        ("seed", np.int64, (1,)),
        ("preemptions_max", np.int64, (1,)),
        ("floor", np.int64, (1,)),  # steps below are not this search's to change
        ("tried", np.int32, (STEPS_MAX,)),
        ("preempted", np.int32, (STEPS_MAX,)),
        ("backtrack", np.int32, (STEPS_MAX,)),
        ("analysed", np.int64, (1,)),
        ("clock", np.int32, (CLOCKS_MAX, MAX_CHOICES)),  # newest step of each choice that happens before or at this one
        ("touch_step", np.int32, (2 * STEPS_MAX,)),
        ("touch_before", np.int32, (2 * STEPS_MAX,)),
        ("touch_last", np.int32, (WORDS_MAX,)),
        ("race", np.int32, (MAX_RACES,)),
        ("own_last", np.int64, (MAX_CHOICES,)),
        ("first_seen", np.int64, (MAX_CHOICES,)),
        # --- what is counted over all executions
        ("executions", np.int64, (1,)),
        ("exhausted", np.int64, (1,)),
        ("cut_short", np.int64, (1,)),  # executions that came to their fair half, or to the end of some room: not all is explored
        ("steps", np.int64, (1,)),
        ("steps_max", np.int64, (1,)),
        ("ends", np.int64, (16,)),
        ("fault_address", np.int64, (1,)),
        ("guard", np.int64, (MAX_PLAYERS,)),  # address of the page below each stack
        ("halt", np.int64, (1,)),  # the parent asks its worker to stop
        # --- search over states
        ("by_states", np.int64, (1,)),
        ("learning", np.int64, (1,)),  # note which words are shared
        ("touched_by", np.int64, (WORDS_MAX,)),  # players, over the whole search
        ("written_by", np.int64, (WORDS_MAX,)),
        ("shared", np.int64, (WORDS_MAX,)),
        ("new_shared", np.int64, (1,)),
        ("states", np.int64, (1,)),
        ("transitions", np.int64, (1,)),
        ("live_node", np.int64, (1,)),
        ("depth_now", np.int64, (1,)),
        # --- coverage
        ("nr_sites", np.int64, (1,)),
        ("site_at", np.int16, (24, 192)),
        ("site_primitive", np.int64, (SITES_MAX,)),
        ("site_field", np.int64, (SITES_MAX,)),
        ("pair", np.int64, (SITES_MAX, SITES_MAX)),  # [first, second]: conflicting steps of two actors in this order
        ("window", np.int64, (1,)),
        ("swaps", np.int64, (1,)),
        ("entered", np.int64, (WINDOWS_MAX, MAX_PLAYERS)),
        ("field_at", np.int16, (_ROW_WORDS,)),
        ("field_of_array", np.int64, (2,)),  # of the page tables and the frame tags, which lie behind
        # --- events
        ("tracing", np.int64, (1,)),
        ("nr_events", np.int64, (1,)),
        ("event", np.int64, (EVENTS_MAX, EVENT_WORDS)),
        # --- the shared record at the start of every execution
        ("nr_extents", np.int64, (1,)),
        ("extent_offset", np.int64, (EXTENTS_MAX,)),
        ("extent_words", np.int64, (EXTENTS_MAX,)),
        ("extent_is_state", np.int64, (EXTENTS_MAX,)),
        ("snapshot", np.int64, (SNAPSHOT_WORDS,)),
        # --- native engine: addresses of the model's parts, and the stacks
        ("finish", np.int64, (1,)),
        ("actor", np.int64, (1,)),
        ("stack_top", np.int64, (MAX_PLAYERS,)),
        # stack pointers, the hub's first
        ("sp", np.int64, (MAX_PLAYERS + 1,)),
    ],
    align=True,
)

# A board as compiled code sees it, or the twin that Python uses.
Board = Any


def make_board() -> NDArray[np.void]:
    """A zeroed board of shape (1,), in memory that forked processes share; pages that stay untouched cost nothing."""
    return np.ndarray((1,), BOARD, buffer=mmap.mmap(-1, BOARD.itemsize))


def board_memory(board: NDArray[np.void]) -> mmap.mmap:
    """The mapping under a board that make_board() made."""
    memory: Any = board.base
    while not isinstance(memory, mmap.mmap):
        memory = memory.obj if isinstance(memory, memoryview) else memory.base
    return memory


def board_views(board: NDArray[np.void]) -> Board:
    """The board for Python: an array for each field."""
    return SimpleNamespace(**{name: board[name][0] for name in BOARD.names or ()})
