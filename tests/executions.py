# SPDX-License-Identifier: GPL-2.0-only
"""Whole runs of small scenarios, one random interleaving each, by the interpreted engine: to test the model and the checker.

Accesses and operations are drawn as in a run, from CREATE to the end of the VM; nothing is warmed up or scripted.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from model import atomics
from model.constants import FINDING_KINDS, LOCKDEP
from model.layout import MAX_FINDINGS
from model.stages import play
from stress.explore.board import END_NAMES, HUB
from stress.explore.interpreted import Interpreted
from stress.explore.opening import Opening, set_up
from stress.explore.strategies import RANDOM

if TYPE_CHECKING:
    from collections.abc import Callable

    from model.vm import VmSettings

STEPS_MAX = 200_000


@dataclass(frozen=True)
class Execution:
    """One interleaving: what it found, how long it was, and what stopped it if it did not come to its end."""

    findings: tuple[tuple[str, str], ...]  # kind and rule, in the order in which they were seen
    steps: int
    stuck: str | None
    events: list[tuple[int, ...]]
    vm: Any


class _Late:
    logging = False


@contextmanager
def late_logging():
    """Let anybody come in between what an actor does and its note of it, as on a real machine."""
    _Late.logging = True
    try:
        yield
    finally:
        _Late.logging = False


class _Recording(Interpreted):
    """Every event has a tick of its own, and an execution goes on behind a finding, as a run does."""

    def __init__(self, table, main):
        super().__init__(table, main=main)
        self.events = []
        self._ticks = 0
        self._anything = table.vm.run.drain_stop

    def now(self):
        if _Late.logging and self._current != HUB:
            self.operate(atomics.LOAD, self._anything, 0, 0, 0)
        self._ticks += 1
        return self._ticks

    def event(self, *fields):
        self.events.append((self.now(), *fields))


def interleave(
    settings: VmSettings,
    seed: int,
    steps_max: int = STEPS_MAX,
    prepare: Callable[[Any], None] | None = None,
    main: Callable[[Any, int], None] = play,
) -> Execution:
    """One random interleaving of a scenario that ends by itself (operations_max and entries_max set).

    `seed` chooses the interleaving, the settings' own seed the operations and accesses; `prepare` may change the record before the
    actors start, `main` replaces what they play.
    """
    table = set_up(Opening(settings, steps_max=2 * steps_max), prepare=prepare)
    board = table.board
    # Behind a finding a run goes on until everybody has stopped.
    board.found[0] = -1
    board.strategy[0], board.seed[0] = RANDOM, seed
    engine = _Recording(table, main)
    engine.search(0, 1, 0, np.zeros(1, np.int64), False)
    end = END_NAMES[int(board.end[0])]
    stuck = None if end == "complete" else f"{end}: {', '.join(engine.positions())}"
    count = min(int(table.vm.run.nr_findings[0]), MAX_FINDINGS)
    return Execution(
        tuple((FINDING_KINDS[int(table.vm.finding.kind[n])], _rule(int(table.vm.finding.invariant[n]))) for n in range(count)),
        int(board.step[0]),
        stuck,
        engine.events,
        table.vm,
    )


def _rule(number: int) -> str:
    return "lockdep" if number == LOCKDEP else f"I{number}"
