# SPDX-License-Identifier: GPL-2.0-only
"""A search: workers, a budget, and what came of it. The result depends on the seed and, for trees, on the number of workers alone.

Sampling strategies hand out blocks of executions by number; the failure with the lowest number is the one reported, however many
workers there are and whoever was faster. Complete strategies split the tree at its top: every choice there is explored, with
sleep sets, so that the subtrees need to know nothing of each other.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from typing import TYPE_CHECKING, Any, Self

import multiprocess
import numpy as np

from model.layout import actor_name
from stress.engine.liveness import ending
from stress.engine.process import enter_child
from stress.errors import HarnessError
from stress.explore.board import END_NAMES, HUB, MAX_PLAYERS, board_views, make_board
from stress.explore.compiled import is_kept
from stress.explore.coverage import Coverage
from stress.explore.schedule import Runs, choice_names, digest_of_events, runs_of
from stress.explore.worker import Attempt, DepthFirst, Done, Expand, Job, Sample, States, Tree, worker_main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from stress.explore.board import Board
    from stress.explore.opening import Opening

__all__ = ["Budget", "Crash", "Exploration", "Failing", "Followed", "Look", "Probe", "Prober", "explore", "follow"]

BLOCK = {"native": 2000, "interpreted": 50}
TASKS_PER_WORKER = 8
LOOK_S = 0.05
PROGRESS_S = 0.5
HANG_S = 20.0
ENDLESS = "does not come to its next primitive: an endless loop"
EXPANSIONS_MAX = 4000
PAGE = os.sysconf("SC_PAGESIZE")
# What compiled code can do to itself; any other end of a worker came from outside.
FAULTS = {-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE}


@dataclass(frozen=True)
class Budget:
    """How much a search may cost; None: as much as it takes."""

    seconds: float | None = None
    executions: int | None = None
    memory_bytes: int = 1 << 30

    def __str__(self) -> str:
        parts = []
        if self.seconds is not None:
            parts.append(f"{self.seconds:g} s")
        if self.executions is not None:
            parts.append(f"{self.executions:,} executions")
        return " and ".join(parts) or "no bound"


@dataclass(frozen=True)
class Look:
    """A moment of a search."""

    elapsed_s: float
    executions: int
    steps: int
    states: int


@dataclass(frozen=True)
class Crash:
    """A worker that compiled code took along, or that never came back."""

    actor: str
    how: str


@dataclass(frozen=True)
class Failing:
    """An execution that failed: its number, its schedule, what it ended as; `crash` where it ended the worker too."""

    number: int
    end: str
    runs: Runs
    digest: int
    crash: Crash | None = None


@dataclass
class Exploration:
    """What a search came to.

    `pruned` executions were cut short because every continuation had been explored; `traces` are the different ones among those
    that came to their end. `states` and `transitions` are those of a search over states. `why_not` says why a search that could
    have been complete is not. `probed_steps` are those in which PCT places its change points.
    """

    executions: int = 0
    steps: int = 0
    steps_max: int = 0
    seconds: float = 0.0
    pruned: int = 0
    traces: int = 0
    states: int = 0
    transitions: int = 0
    complete: bool = False
    why_not: str = ""
    probed_steps: int = 0
    failing: Failing | None = None
    coverage: Coverage = field(default_factory=Coverage)


def explore(
    job: Job,
    budget: Budget,
    jobs: int = 1,
    on_look: Callable[[Look], None] | None = None,
    on_message: Callable[[str], None] | None = None,
) -> Exploration:
    """Search until something fails, nothing is left, or the budget is spent.

    Args:
        job: what is explored and how.
        budget: its limits.
        jobs: workers; a search over states has one.
        on_look: called twice a second.
        on_message: told before a compilation that will take a while.

    Raises:
        HarnessError: a worker could not be started, or an execution was not the same when it was made again.
    """
    if job.engine == "native" and on_message is not None and not is_kept("actor_callback"):
        on_message("compiling the explored model, once for this version; later searches start at once")
    search = _Search(job, budget, 1 if job.strategy == "states" else jobs, on_look)
    try:
        return search.run()
    finally:
        search.close()


@dataclass(frozen=True)
class Followed:
    """What the native engine made of a schedule."""

    end: str
    digest: int
    events_digest: str


def follow(opening: Opening, runs: Runs) -> Followed:
    """Replay a schedule in the native engine.

    Raises:
        ValueError: it names somebody who does not play.
        HarnessError: the engine did not start.
    """
    names = choice_names(opening.actors)
    choices = tuple(names[name] for name, count in runs for _ in range(count))
    search = _Search(Job(opening, "native", "given", seed=0, tracing=True), Budget(), 1, None)
    try:
        done = search.serve_one(Tree(choices, executions_max=1))
        end = END_NAMES[done.end] if done is not None else "crashed"
        return Followed(end, done.digest if done else 0, search.events_digest())
    finally:
        search.close()


class _Worker:
    """A worker process as its parent sees it."""

    def __init__(self, number: int, job: Job) -> None:
        self.number = number
        self.memory = make_board()
        self.board: Board = board_views(self.memory)
        self.connection, there = multiprocess.Pipe()
        parent = os.getpid()
        ours = self.connection

        def main() -> None:
            ours.close()
            enter_child(parent)
            worker_main(there, self.memory, job)

        forks = multiprocess.get_context("fork")
        try:
            self.process = forks.Process(target=main, name=f"explorer{number}", daemon=True)
            self.process.start()
        except OSError as error:
            raise HarnessError(f"cannot start a worker: {error.strerror}.") from error
        there.close()
        self.task: Any = None
        self.ready = False
        self._beat = (-1, 0.0)

    def send(self, task: Any) -> None:
        self.task = task
        self._beat = (-1, time.monotonic())
        self.connection.send(task)

    def ask(self, task: Any) -> Any:
        """Send a task and wait for its answer.

        Raises:
            HarnessError: the worker ended, or does not come to an end.
        """
        self.send(task)
        return self.answer()

    def answer(self) -> Any:
        """Wait for the answer to what was sent last, or for the worker to be ready; errors are those of `ask()`."""
        while not self.connection.poll(LOOK_S):
            if self.is_hung(time.monotonic()):
                raise HarnessError("the exploring engine makes no step.")
        try:
            answer = self.connection.recv()
        except EOFError:
            self.process.join()
            raise HarnessError(f"the exploring engine {ending(self.process.exitcode)}.") from None
        self.ready, self.task = True, None
        return answer

    def is_hung(self, now: float) -> bool:
        """Has it a task and made no step for too long?"""
        beat = int(self.board.steps[0] + self.board.step[0] + self.board.transitions[0] + self.board.executions[0])
        exploring = self.task is not None or (not self.ready and self.board.executions[0] > 0)
        if not exploring or beat != self._beat[0]:
            self._beat = (beat, now)
        return now - self._beat[1] > HANG_S

    def kill(self) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.connection.close()


@dataclass(frozen=True)
class Probe:
    """What one or more executions of a prober came to; the schedule of the failing one."""

    executions: int
    signature: tuple[str, str]
    runs: Runs
    complete: bool


class Prober:
    """A worker that answers one question at a time, about one scenario after another."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._worker = _Worker(0, job)

    def __enter__(self) -> Self:
        """Wait until it is ready."""
        self._worker.answer()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no process behind."""
        self._worker.kill()

    def open(self, job: Job) -> None:
        """Another scenario."""
        self._job = job
        self._worker.ask(job)

    def attempt(self, attempt: Attempt) -> Probe:
        """Follow a schedule as far as it goes."""
        return self._probe(self._worker.ask(attempt))

    def sample(self, executions: int) -> Probe:
        """Executions of the job's strategy, until one fails."""
        return self._probe(self._worker.ask(Sample(0, executions)))

    def depth_first(self, preemptions: int, executions_max: int, signature: tuple[str, str]) -> Probe:
        """All executions with at most so many preemptions, until one fails in this way."""
        return self._probe(self._worker.ask(DepthFirst(preemptions, executions_max, signature)))

    def _probe(self, done: Done) -> Probe:
        return Probe(done.executions, done.signature, runs_of(done.choices, self._job.opening.actors), done.complete)


class _Search:
    def __init__(
        self,
        job: Job,
        budget: Budget,
        jobs: int,
        on_look: Callable[[Look], None] | None,
    ) -> None:
        self._job = job
        self._budget = budget
        self._on_look = on_look or (lambda _: None)
        self._next_look = 0.0
        self._traces: list[NDArray[np.int64]] = []
        self._result = Exploration()
        self._failures: list[tuple[int, Failing]] = []
        self._spent = False
        # The first one compiles what is not in the cache yet; the others then only load it.
        self._workers = [_Worker(0, job)]
        self._started = time.monotonic()
        try:
            self._await_ready(self._workers[0])
            self._started = time.monotonic()
            if not self._failures:
                self._workers += [_Worker(number, job) for number in range(1, jobs)]
            for worker in self._workers[1:]:
                self._await_ready(worker)
        except BaseException:
            self.close()
            raise

    def _await_ready(self, worker: _Worker) -> None:
        while not worker.ready:
            if worker.connection.poll(LOOK_S):
                try:
                    worker.ready = worker.connection.recv() == "ready"
                except EOFError:
                    worker.process.join()
                    self._note_crash(worker, "")
                    return
            if worker.is_hung(time.monotonic()):
                self._note_crash(worker, ENDLESS)
                worker.kill()
                return

    def run(self) -> Exploration:
        """Hand out tasks and collect what comes back."""
        if self._failures:
            return self._close_books()
        if self._job.strategy == "states":
            self._states()
        elif self._job.strategy in {"dpor", "depth-first"}:
            self._trees()
        else:
            self._serve(self._blocks())
        return self._close_books()

    # --- tasks

    def _blocks(self) -> Iterator[tuple[int, Any]]:
        size = BLOCK[self._job.engine]
        first = 0
        while self._budget.executions is None or first < self._budget.executions:
            count = size if self._budget.executions is None else min(size, self._budget.executions - first)
            yield first, Sample(first, count)
            first += count

    def _trees(self) -> None:
        tasks = [Tree()] if len(self._workers) == 1 else self._split(TASKS_PER_WORKER * len(self._workers))
        share = self._budget.executions
        if share is not None:
            tasks = [replace(task, executions_max=max(1, share // len(tasks))) for task in tasks]
        done = self._serve(iter(enumerate(tasks)))
        self._result.complete = len(done) == len(tasks) and all(one.complete for one in done)
        self._result.why_not = next((one.why_not for one in done if one.why_not), "")

    def _split(self, wanted: int) -> list[Tree]:
        """The tops of enough subtrees, each with what sleeps there."""
        worker = self._workers[0]
        open_nodes: deque[tuple[tuple[int, ...], int, int]] = deque([((), 0, 0)])
        naive = self._job.strategy == "depth-first"
        leaves: list[Tree] = []
        for _ in range(EXPANSIONS_MAX):
            if not open_nodes or len(open_nodes) + len(leaves) >= wanted or self._is_over():
                break
            prefix, sleep, preemptions = open_nodes.popleft()
            done = worker.ask(Expand(prefix, sleep))
            if done.could == 0:
                leaves.append(Tree(prefix, sleep))
                continue
            explored = done.slept
            for choice in range(2 * MAX_PLAYERS):
                if done.could & ~done.slept & (1 << choice):
                    interrupts = bool(prefix) and choice != prefix[-1] and done.could >> prefix[-1] & 1
                    if naive and preemptions + interrupts > self._job.preemptions_max:
                        continue
                    open_nodes.append(((*prefix, choice), 0 if naive else explored, preemptions + interrupts))
                    explored |= 1 << choice
        return leaves + [Tree(prefix, sleep) for prefix, sleep, _ in open_nodes]

    def _states(self) -> None:
        task = States(self._budget.memory_bytes, self._budget.executions or 1 << 62)
        (done,) = self._serve(iter([(0, task)])) or (Done(),)
        self._result.complete, self._result.why_not = done.complete, done.why_not

    # --- serving

    def serve_one(self, task: Any) -> Done | None:
        """One task by one worker; None if it took the worker along."""
        answers = self._serve(iter([(0, task)]))
        return answers[0] if answers else None

    def events_digest(self) -> str:
        """Of the first worker's last execution."""
        return digest_of_events(self._workers[0].board)

    def _serve(self, tasks: Iterator[tuple[int, Any]]) -> list[Done]:
        """Give tasks to whoever is free; stop when one of a lower number cannot fail any more."""
        answers: list[Done] = []
        busy: dict[_Worker, int] = {}
        more = True
        while True:
            free = [worker for worker in self._workers if worker not in busy and worker.process.is_alive()]
            while free and more and not self._failures and not self._is_over():
                task = next(tasks, None)
                if task is None:
                    more = False
                    break
                worker = free.pop()
                busy[worker] = task[0]
                worker.send(task[1])
            if not busy:
                return answers
            connection.wait([*(worker.connection for worker in busy), *(worker.process.sentinel for worker in busy)], LOOK_S)
            now = time.monotonic()
            for worker, number in list(busy.items()):
                if self._look_at(worker, number, now, answers):
                    del busy[worker]
            self._show(now)
            lowest = min((number for number, _ in self._failures), default=1 << 62)
            for worker, number in busy.items():
                # A task of a lower number goes on: if it fails, its failure is the one to report.
                if self._is_over() or (number > lowest and not self._is_sampling()):
                    worker.board.halt[0] = 1

    def _is_sampling(self) -> bool:
        return self._job.strategy in {"random", "pct"}

    def _look_at(self, worker: _Worker, number: int, now: float, answers: list[Done]) -> bool:
        """Is this worker free again?"""
        if worker.connection.poll():
            try:
                done = worker.connection.recv()
            except EOFError:
                done = None
            if done is not None:
                worker.task = None
                self._note(number, done)
                answers.append(done)
                return True
        if worker.is_hung(now):
            self._note_crash(worker, ENDLESS)
            worker.kill()
            return True
        if not worker.process.is_alive():
            worker.process.join()
            self._note_crash(worker, "")
            return True
        return False

    def _is_over(self) -> bool:
        elapsed = time.monotonic() - self._started
        if self._budget.seconds is not None and elapsed >= self._budget.seconds:
            self._spent = True
        return self._spent

    def _note(self, number: int, done: Done) -> None:
        self._result.executions += done.executions
        self._traces.append(done.traces)
        if len(self._traces) > 1000:
            self._traces = [np.unique(np.concatenate(self._traces))]
        if done.failed >= 0:
            if END_NAMES[done.end] == "diverged":
                raise HarnessError(
                    f"execution {done.failed} was not the same when it was made again: the model is not deterministic."
                )
            runs = runs_of(done.choices, self._job.opening.actors)
            key = done.failed if self._is_sampling() else number
            self._failures.append((key, Failing(done.failed, END_NAMES[done.end], runs, done.digest)))

    def _note_crash(self, worker: _Worker, how: str) -> None:
        """What a dead worker's board says about it."""
        board = worker.board
        player = int(board.current[0])
        actor = "the engine" if player == HUB else actor_name(int(board.actor_of[player]))
        if not how:
            how = ending(worker.process.exitcode)
            if worker.process.exitcode not in FAULTS:
                raise HarnessError(f"a worker of the exploring engine {how}; was it short of memory?")
            address = int(board.fault_address[0])
            if worker.process.exitcode in {-signal.SIGSEGV, -signal.SIGBUS} and address:
                guards = {int(guard): n for n, guard in enumerate(board.guard[: int(board.nr_players[0])])}
                page = address // PAGE * PAGE
                if page in guards:
                    how = f"overflowed the stack of {actor_name(int(board.actor_of[guards[page]]))}"
                else:
                    how = f"touched memory that is not there ({address:#x})"
        if player == HUB and not board.executions[0]:
            raise HarnessError(f"the exploring engine {how}.")
        choices = np.array(board.choice[: int(board.step[0])])
        failing = Failing(int(board.executions[0]) - 1, "crashed", runs_of(choices, self._job.opening.actors), 0, Crash(actor, how))
        self._failures.append((1 << 60, failing))

    def _show(self, now: float) -> None:
        if now < self._next_look:
            return
        self._next_look = now + PROGRESS_S
        boards = [worker.board for worker in self._workers]
        self._on_look(
            Look(
                now - self._started,
                sum(int(board.executions[0]) for board in boards),
                sum(int(board.steps[0]) for board in boards),
                sum(int(board.states[0]) for board in boards),
            )
        )

    # --- the end

    def _close_books(self) -> Exploration:
        result = self._result
        result.seconds = time.monotonic() - self._started
        if self._failures:
            number, result.failing = min(self._failures, key=lambda pair: pair[0])
            result.complete = False
            if self._is_sampling() and result.failing.crash is None:
                # What others did beyond it is nobody's business.
                result.executions = number + 1
        for worker in self._workers:
            board = worker.board
            result.steps += int(board.steps[0])
            result.steps_max = max(result.steps_max, int(board.steps_max[0]))
            result.pruned += int(board.ends[END_NAMES.index("pruned")])
            result.states += int(board.states[0])
            result.probed_steps = max(result.probed_steps, int(board.length[0]))
            result.transitions += int(board.transitions[0])
            if worker.process.is_alive() and worker.task is None:
                worker.connection.send(None)
                try:
                    result.coverage.add(worker.connection.recv(), self._job.opening.actors)
                except EOFError:
                    continue
        result.traces = len(np.unique(np.concatenate(self._traces))) if self._traces else 0
        return result

    def close(self) -> None:
        """Leave no process behind."""
        for worker in self._workers:
            worker.kill()
