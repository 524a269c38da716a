# SPDX-License-Identifier: GPL-2.0-only
"""The process in which executions are made: it takes tasks, and leaves on the shared board how far it has come.

A process of its own, since a process has one build of the model, and since compiled code that goes astray must not take the tool
with it: the parent reads from the board whose turn it was.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stress.explore.board import (
    CLOCKS_MAX,
    END_BUDGET,
    END_COMPLETE,
    END_PRUNED,
    Board,
    board_memory,
)
from stress.explore.ending import ending_of
from stress.explore.interpreted import Interpreted
from stress.explore.native import Native
from stress.explore.opening import Opening, set_up
from stress.explore.schedule import give_runs, schedule_of
from stress.explore.states import (
    INTERRUPTED,
    OUT_OF_ROOM,
    SEARCHED,
    STOPPED,
    TABLE_FULL,
    VOID,
    move_over,
    search_states,
)
from stress.explore.strategies import GIVEN, RANDOM, RUNS, STRATEGIES

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from numpy.typing import NDArray

__all__ = ["Attempt", "DepthFirst", "Done", "Expand", "Job", "Sample", "States", "Tree", "worker_main"]

SLICE = {"native": 256, "interpreted": 8}  # executions between two looks at the board
LESSONS = 3000
PROBES = 32  # random executions that tell PCT how long one is
TRANSITIONS = 20_000
MIB = 1 << 20
# Every end but these is a failure.
CLEAN = 1 << END_COMPLETE | 1 << END_PRUNED | 1 << END_BUDGET


@dataclass(frozen=True)
class Job:
    """What a worker explores, whatever the task."""

    opening: Opening
    engine: str
    strategy: str
    seed: int
    depth: int = 3
    preemptions_max: int = 2
    twice: bool = False
    tracing: bool = False


@dataclass(frozen=True)
class Sample:
    """Executions first to first + count - 1 of a strategy that samples."""

    first: int
    count: int


@dataclass(frozen=True)
class Tree:
    """All executions below a prefix; `sleep` are the choices that sleep at its last step."""

    prefix: tuple[int, ...] = ()
    sleep: int = 0
    executions_max: int = 1 << 62


@dataclass(frozen=True)
class Expand:
    """Which choices there are behind a prefix, and which of them sleep."""

    prefix: tuple[int, ...]
    sleep: int


@dataclass(frozen=True)
class States:
    """All states, with so much memory for the table, and no more than so many."""

    memory_bytes: int
    states_max: int = 1 << 62
    transitions: int = TRANSITIONS  # between two looks at the board


@dataclass(frozen=True)
class Attempt:
    """One execution by a schedule that is followed as far as it goes."""

    runs: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class DepthFirst:
    """All executions with at most so many preemptions, until one fails with this signature."""

    preemptions: int
    executions_max: int
    signature: tuple[str, str]


@dataclass
class Done:
    """What a task came to.

    `failed` is the number of the failing execution, `choices` its schedule. `traces` has the trace of every execution that came to
    its end. `complete`: nothing is left to explore.
    """

    executions: int = 0
    complete: bool = False
    why_not: str = ""
    failed: int = -1
    end: int = 0
    digest: int = 0
    choices: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))
    traces: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    could: int = 0
    slept: int = 0
    signature: tuple[str, str] = ("", "")


def worker_main(connection: Connection, memory: NDArray[np.void], job: Job) -> None:
    """Serve tasks until there is none any more; a closed connection ends it too."""
    worker = _Worker(memory, job)
    connection.send("ready")
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        if task is None:
            connection.send(worker.coverage())
            return
        if isinstance(task, Job):
            worker.reopen(task)
            connection.send("ready")
        else:
            connection.send(worker.do(task))


class _Worker:
    def __init__(self, memory: NDArray[np.void], job: Job) -> None:
        self._memory = memory
        self._native = Native() if job.engine == "native" else None
        self._open(job)

    def _open(self, job: Job) -> None:
        """Set up a scenario on the board, and make one execution: whatever is not compiled yet is compiled now."""
        self._job = job
        self._table = set_up(job.opening, self._memory)
        self._board: Board = self._table.board
        board = self._board
        if self._native is not None:
            self._native.bind(self._table)
            self._search = self._native.search
        else:
            self._search = Interpreted(self._table).search
        self._slice = SLICE[job.engine]
        if job.strategy == "dpor" and board.step_budget[0] >= CLOCKS_MAX:
            board.step_budget[0], board.fair_from[0] = CLOCKS_MAX - 1, CLOCKS_MAX // 2
        board.seed[0], board.depth[0], board.preemptions_max[0] = job.seed, job.depth, job.preemptions_max
        self._traces: list[NDArray[np.int64]] = []
        # How long is an execution? The same answer in every worker, so that nothing depends on how many there are.
        board.strategy[0] = RANDOM
        probes = {"pct": PROBES, "states": LESSONS}.get(job.strategy, 1)
        # A search over states begins with what random executions have shown to be shared.
        board.learning[0] = job.strategy == "states"
        self._search(1 << 40, probes, 0, np.zeros(probes, np.int64), False)  # noqa: FBT003
        board.length[0] = board.steps_max[0]
        if job.strategy == "states":
            self._states(States(MIB, transitions=0))
        for name in ("executions", "steps", "steps_max", "ends", "pair", "entered", "nr_sites", "site_at", "cut_short"):
            getattr(board, name)[:] = 0
        board.tracing[0] = job.tracing
        board.strategy[0] = STRATEGIES.get(job.strategy, GIVEN)

    def reopen(self, job: Job) -> None:
        """Another scenario, on an empty board."""
        board_memory(self._memory).madvise(mmap.MADV_REMOVE)
        self._open(job)

    def do(self, task: Any) -> Done:
        self._traces = []
        if isinstance(task, Attempt):
            return self._attempt(task)
        if isinstance(task, DepthFirst):
            return self._depth_first(task)
        if isinstance(task, Sample):
            return self._sample(task)
        if isinstance(task, Tree):
            return self._tree(task)
        if isinstance(task, Expand):
            return self._expand(task)
        return self._states(task)

    def _run(self, first: int, count: int) -> tuple[int, bool]:
        """Some executions; how many were made, and whether the last one failed."""
        board = self._board
        sums = np.zeros(count, np.int64)
        made = int(self._search(first, count, ~CLEAN, sums, self._job.twice))
        self._traces.append(np.unique(sums[:made]))
        failed = made > 0 and not board.exhausted[0] and not CLEAN >> int(board.end[0]) & 1
        return made, failed

    def _failure(self, done: Done, number: int) -> Done:
        board = self._board
        done.failed, done.end, done.digest = number, int(board.end[0]), int(board.digest[0])
        done.choices = schedule_of(board)
        done.signature = ending_of(self._table.vm, board, [""] * int(board.nr_players[0])).signature
        return done

    def _attempt(self, task: Attempt) -> Done:
        board = self._board
        give_runs(board, list(task.runs), self._job.opening.actors)
        strategy = int(board.strategy[0])
        board.strategy[0] = RUNS
        made, failed = self._run(0, 1)
        board.strategy[0] = strategy
        done = Done(executions=made)
        return self._failure(done, 0) if failed else done

    def _depth_first(self, task: DepthFirst) -> Done:
        board = self._board
        strategy, bound = int(board.strategy[0]), int(board.preemptions_max[0])
        board.strategy[0], board.preemptions_max[0] = STRATEGIES["depth-first"], task.preemptions
        board.floor[0] = board.exhausted[0] = 0
        done = Done()
        while done.executions < task.executions_max and not done.complete:
            made, failed = self._run(done.executions, min(self._slice, task.executions_max - done.executions))
            done.executions += made
            if failed and self._failure(done, done.executions).signature == task.signature:
                break
            done.complete = bool(board.exhausted[0])
        board.strategy[0], board.preemptions_max[0] = strategy, bound
        board.exhausted[0] = 0
        return done

    def _close(self, done: Done) -> Done:
        if self._board.cut_short[0] and not done.why_not:
            done.why_not = (
                f"{int(self._board.cut_short[0]):,} executions were too long to be followed to the end: raise explore.steps_max"
            )
        if done.failed < 0:
            done.end, done.digest = int(self._board.end[0]), int(self._board.digest[0])
        if self._traces:
            traces = np.unique(np.concatenate(self._traces))
            done.traces = traces[traces != 0]
        return done

    def _sample(self, task: Sample) -> Done:
        done = Done()
        while done.executions < task.count and not self._board.halt[0]:
            first = task.first + done.executions
            made, failed = self._run(first, min(self._slice, task.count - done.executions))
            done.executions += made
            if failed:
                self._failure(done, first + made - 1)
                break
        return self._close(done)

    def _tree(self, task: Tree) -> Done:
        board = self._board
        board.exhausted[0] = 0
        self._begin(task.prefix, task.sleep)
        board.floor[0] = len(task.prefix)
        done = Done()
        while not board.halt[0] and done.executions < task.executions_max:
            made, failed = self._run(done.executions, min(self._slice, task.executions_max - done.executions))
            done.executions += made
            if failed:
                self._failure(done, done.executions - 1)
                break
            if board.exhausted[0]:
                done.complete = not board.cut_short[0]
                break
        return self._close(done)

    def _begin(self, prefix: tuple[int, ...], sleep: int) -> None:
        board = self._board
        board.choice[: len(prefix)] = prefix
        board.prefix[0] = len(prefix)
        board.sleep_from[0], board.sleep_given[0] = len(prefix) - 1, sleep

    def _expand(self, task: Expand) -> Done:
        board = self._board
        length = len(task.prefix)
        self._begin(task.prefix, task.sleep)
        strategy = int(board.strategy[0])
        board.strategy[0], board.floor[0] = STRATEGIES["dpor"], length
        self._search(0, 1, 0, np.zeros(1, np.int64), False)  # noqa: FBT003
        board.strategy[0] = strategy
        done = Done(executions=1)
        if board.step[0] > length:
            done.could, done.slept = int(board.could[length]), int(board.slept[length])
        return done

    def _states(self, task: States) -> Done:
        board = self._board
        board.attempts[:] = 0
        size = 1 << 18
        largest = task.memory_bytes // 12
        arena, nodes = np.zeros(32 * MIB, np.int64), np.zeros((1 << 14, 4), np.int64)
        keys, sleeps = np.zeros(size, np.int64), np.zeros(size, np.int32)
        self._forget_states()
        done = Done()
        while not board.halt[0]:
            result = search_states(keys, sleeps, arena, nodes, ~CLEAN, task.transitions)
            done.executions = int(board.ends.sum())
            if result == SEARCHED:
                done.complete = not board.cut_short[0]
                break
            if result == STOPPED:
                self._failure(done, done.executions)
                break
            if result == OUT_OF_ROOM:
                done.why_not = "the path is longer than the room for it"
                break
            if result == VOID:
                keys[:], sleeps[:] = 0, 0
                self._forget_states()
            if result == TABLE_FULL:
                if 2 * len(keys) > largest:
                    done.why_not = f"the table of states is full ({len(keys) * 12 // MIB} MiB)"
                    break
                larger = np.zeros(2 * len(keys), np.int64), np.zeros(2 * len(keys), np.int32)
                move_over(keys, sleeps, *larger)
                keys, sleeps = larger
            if result == INTERRUPTED and (task.transitions == 0 or board.states[0] >= task.states_max):
                break
        board.by_states[0] = 0
        return self._close(done)

    def _forget_states(self) -> None:
        for name in ("states", "transitions", "depth_now", "ends", "cut_short", "pair", "entered"):
            getattr(self._board, name)[:] = 0

    def coverage(self) -> dict[str, NDArray[np.int64]]:
        """The board's coverage, to be added to that of others."""
        board = self._board
        sites = int(board.nr_sites[0]) + 1
        return {
            "primitive": np.array(board.site_primitive[:sites]),
            "field": np.array(board.site_field[:sites]),
            "pair": np.array(board.pair[:sites, :sites]),
            "entered": np.array(board.entered),
        }
