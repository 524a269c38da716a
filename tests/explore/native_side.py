# SPDX-License-Identifier: GPL-2.0-only
"""Executions of either engine as plain numbers, to be compared. As a script: those of the native one.

A process has one build of the model, so the native engine gets a process of its own: it reads pickled tasks from its standard
input and writes what came of them to its standard output.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stress.explore.board import END_NAMES
from stress.explore.interpreted import Interpreted
from stress.explore.native import Native
from stress.explore.opening import Opening, set_up
from stress.explore.schedule import digest_of_events, schedule_of
from stress.explore.strategies import STRATEGIES

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Task:
    """Executions of one opening: numbers 0 to count - 1 of a strategy."""

    opening: Opening
    strategy: str
    count: int
    seed: int = 1
    twice: bool = False


def made(task, engine_of):
    """Each execution of a task: end, steps, context switches, digests of steps, trace and events, and its schedule."""
    table = set_up(task.opening)
    board = table.board
    board.strategy[0], board.seed[0] = STRATEGIES[task.strategy], task.seed
    board.depth[0], board.length[0], board.preemptions_max[0], board.tracing[0] = 4, 400, 2, 1
    search = engine_of(table)
    rows = []
    sums = np.zeros(1, np.int64)
    for number in range(task.count):
        if search(number, 1, 0, sums, task.twice) == 0:
            break
        values = (board.step, board.switches, board.digest, board.trace_sum, sums)
        rows.append(
            (
                END_NAMES[int(board.end[0])],
                *(int(value[0]) for value in values),
                digest_of_events(board),
                schedule_of(board).tobytes(),
            )
        )
    return rows


def interpreted(task):
    return made(task, lambda table: Interpreted(table).search)


def natively(tasks):
    """The same in a process of its own."""
    command = [sys.executable, "-m", "tests.explore.native_side"]
    done = subprocess.run(command, cwd=ROOT, input=pickle.dumps(tasks), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)


def main():
    tasks = pickle.load(sys.stdin.buffer)
    native = Native()

    def engine_of(table):
        native.bind(table)
        return native.search

    sys.stdout.buffer.write(pickle.dumps([made(task, engine_of) for task in tasks]))


if __name__ == "__main__":
    main()
