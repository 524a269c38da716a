# SPDX-License-Identifier: GPL-2.0-only
"""The rows of a diagram: what happened, in schedule order, with the locks and roots as they are after each row.

Text and SVG draw these rows; nothing here knows how wide or how high a row is.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from model.constants import (
    EV_FINDING,
    EV_LOCK_RELEASE,
    EV_ROOT_INVALIDATE,
    EV_ROOT_PUT,
    EV_SLOT_OP_BEGIN,
    EV_SLOT_OP_END,
    EV_SPTE_CHANGE,
    FINDING_KINDS,
)
from model.layout import actor_name
from stress.report.diagram_facts import Narrator
from stress.report.diagram_state import State, Tracker, life_of
from stress.report.diagram_words import (
    MMU_LOCK_READ,
    MMU_LOCK_WRITE,
    SLOTS_LOCK,
    Event,
    Fact,
    drain_of,
    number,
    stop_of,
)

if TYPE_CHECKING:
    from stress.explore.interpreted import Step
    from stress.explore.story import Story

__all__ = ["LIVES", "MADE", "RETURNED", "STALE", "USED", "Row", "columns_of", "rows_of"]

# What a row is in the life of the mapping that the finding is about; "" outside of it.
MADE, LIVES, RETURNED, STALE, USED = "made", "lives", "returned", "stale", "used"

# Of a livelock that went on for its whole budget the beginning and the end say everything.
ROWS_MAX = 300
ROWS_AHEAD = 60

# An actor that waits for one of these has nothing to do.
IDLE = frozenset({"rcu.kick", "run.destroyed"})

# The word whose change sets a lock free.
RELEASED_BY = {SLOTS_LOCK: "slots_lock.ticket_owner", MMU_LOCK_READ: "mmu_lock.cnts", MMU_LOCK_WRITE: "mmu_lock.cnts"}

# Behind the actors' scripts only this matters: what is taken down, and what is still there.
TOLD_OF_LAST_STAGE = frozenset({EV_FINDING, EV_ROOT_INVALIDATE, EV_ROOT_PUT, EV_SLOT_OP_BEGIN, EV_SLOT_OP_END, EV_SPTE_CHANGE})


@dataclass(frozen=True)
class Row:
    """One thing that happened.

    `step` is the number of steps before it, `actor` "" for a note on all of them. `place` is the function that it happened in;
    with `opens` the row above it is another actor's, or in another function. `switch` marks the first row behind a context
    switch, `finding` the end that makes the story a failure. `state` is that behind the row.
    """

    step: int
    actor: str
    place: str
    text: str
    state: State
    life: str = ""
    opens: bool = True
    switch: bool = False
    finding: bool = False


def columns_of(story: Story) -> tuple[str, ...]:
    """The actors that take part, in the order of their players."""
    acting = {step.player for step in story.steps}
    return tuple(name for player, name in enumerate(story.actors) if player in acting)


def rows_of(story: Story) -> list[Row]:
    """The rows of a story.

    Args:
        story: an execution, told by the interpreted engine.

    Returns:
        Rows in schedule order; the last one of a failing story is its finding or its end. Of very many the middle is left out.
    """
    rows = _Builder(story).build()
    if len(rows) <= ROWS_MAX:
        return rows
    head, middle, tail = rows[:ROWS_AHEAD], rows[ROWS_AHEAD : ROWS_AHEAD - ROWS_MAX], rows[ROWS_AHEAD - ROWS_MAX :]
    life = MADE if any(row.life == MADE for row in middle) else middle[-1].life
    note = f"... {len(middle):,} rows left out, up to step {middle[-1].step:,} ..."
    return [*head, Row(middle[-1].step, "", "", note, middle[-1].state, life), replace(tail[0], opens=True), *tail[1:]]


class _Builder:
    def __init__(self, story: Story) -> None:
        self._story = story
        self._steps = story.steps
        self._runs, self._owners = _runs_of(story.steps)
        self._columns = columns_of(story)
        self._following = _following(story.steps)
        self._tears_down = _ends_in_last_stage(story)
        self._events = _in_order(story, tears_down=self._tears_down)
        runs = [self._run_before(event.step) for event in self._events]
        self._narrator = Narrator(self._events, runs, buffered=any(step.drain for step in self._steps))
        self._tracker = Tracker(self._events)
        self._life = life_of(story.ending, self._events)
        self._phase = ""
        self._rows: list[Row] = []
        self._row_run = -1  # run of the last row
        self._row_fact: Fact | None = None  # of the last row, as long as another one may join it
        self._last: dict[str, Step] = {}  # step of each actor
        self._guest_mode: dict[str, bool] = {}

    def build(self) -> list[Row]:
        """All rows."""
        if self._life is not None and self._life.made < 0:
            self._tell_warm_mapping()
        at = 0
        for done in range(len(self._steps) + 1):
            while at < len(self._events) and self._events[at].step <= done:
                self._take_event(at)
                if self._events[at].kind == EV_FINDING:
                    return self._rows
                at += 1
            if done and (done == len(self._steps) or self._runs[done] != self._runs[done - 1]):
                self._end_run(done)
            if done < len(self._steps):
                self._take_step(self._steps[done])
        if self._story.ending.is_failure:
            ending = self._story.ending
            self._note(f"{ending.end} [{ending.rule}]" if ending.rule else ending.end, finding=True)
        return self._rows

    # --- events and steps

    def _take_event(self, at: int) -> None:
        event = self._events[at]
        self._tracker.take(event)
        tears_down = self._tears_down and event.step == len(self._steps)
        life = self._live(at)
        if tears_down and event.kind not in TOLD_OF_LAST_STAGE:
            return
        name = actor_name(event.actor)
        if event.kind == EV_FINDING:
            fact: Fact | None = Fact("", f"{FINDING_KINDS[event.arg0]} [{self._story.ending.rule}]")
        else:
            step = None if tears_down else self._last.get(name)
            fact = self._narrator.event(at, step.functions if step is not None else ())
        if fact is None:
            return
        run = self._run_before(event.step)
        if tears_down:
            run = len(self._steps)  # no step's
            if self._row_run != run:
                self._note("the scripts are over: the VM is taken down")
        self._add(event.step, run, name, fact, life=life, finding=event.kind == EV_FINDING)

    def _live(self, at: int) -> str:
        """What the row of an event is in the mapping's life, and what those behind it are."""
        here = self._phase
        if self._life is not None:
            if at == self._life.made:
                here, self._phase = MADE, LIVES
            elif at == self._life.used:
                here, self._phase = USED, ""
            elif at == self._life.returned:
                here, self._phase = RETURNED, STALE
        return here

    def _take_step(self, step: Step) -> None:
        name = self._story.actors[step.player]
        if step.field == "vcpu.mode" and step.primitive in {"store", "store_release"}:
            self._guest_mode[name] = not self._guest_mode.get(name, False)
        run = self._runs[step.number]
        if step.drain:
            # Before an actor goes on its own buffer drains, and that is nothing new; what others saw too late is.
            if step.player != self._owners[run]:
                self._add(step.number + 1, run, name, drain_of(step, guest_mode=self._guest_mode.get(name, False)))
            return
        self._last[name] = step
        fact = self._narrator.step(step)
        if fact is not None:
            self._add(step.number + 1, run, name, fact)

    def _end_run(self, done: int) -> None:
        """Where an actor stands when others go on: between two facts lies what a race is made of."""
        run = self._runs[done - 1]
        name = self._story.actors[self._owners[run]]
        step = self._last.get(name)
        if step is None or (self._tears_down and done == len(self._steps)):
            return
        told = self._row_run == run
        following = self._following.get(step.number)
        position = next((where for where in self._story.positions if where.startswith(f"{name} ")), "")
        waits = following.primitive == "block" if following is not None else " waits in " in position
        if step.field in IDLE or (following is None and position.endswith("at its end")):
            # Nothing is left to do, or nothing yet: that is worth a row only to an actor that has none.
            if not told:
                idle = waits and step.field == "rcu.kick"
                self._add(done, run, name, Fact("", "waits for callbacks") if idle else Fact("", "end of its script"))
        elif not told or waits or (self._rows[-1].step <= step.number and following is not None):
            self._add(done, run, name, stop_of(step, waits=waits, guest_mode=self._guest_mode.get(name, False)))

    # --- rows

    def _add(self, step: int, run: int, name: str, fact: Fact, life: str | None = None, *, finding: bool = False) -> None:
        life = self._phase if life is None else life
        if run == self._row_run and self._row_fact is not None and self._rows[-1].actor == name:
            joined = self._row_fact.merged(fact)
            if joined is not None and {life, self._rows[-1].life} <= {self._phase}:
                self._rows[-1] = replace(self._rows[-1], step=step, text=joined.text, state=self._tracker.state)
                self._row_fact = joined
                return
        switch = self._row_run >= 0 and run != self._row_run
        opens = switch or not self._rows or (self._rows[-1].actor, self._rows[-1].place) != (name, fact.place)
        row = Row(step, name, fact.place, fact.text, self._tracker.state, life, opens=opens, switch=switch, finding=finding)
        if name not in self._columns:
            # Of the VM's end alone.
            row = replace(row, actor="", text=f"{name}: {fact.text}")
        self._rows.append(row)
        self._row_run, self._row_fact = run, fact

    def _note(self, text: str, *, life: str = "", finding: bool = False) -> None:
        step = len(self._steps) if finding else self._rows[-1].step if self._rows else 0
        state = self._rows[-1].state if self._rows else self._tracker.state
        self._rows.append(Row(step, "", "", text, state, life or self._phase, finding=finding))
        self._row_fact = None

    def _tell_warm_mapping(self) -> None:
        ending = self._story.ending
        mapping = f"gfn {number(ending.gfn or 0)}" + (f" -> pfn {number(ending.pfn)}" if ending.pfn is not None else "")
        mapping += f" (inc {ending.incarnation})" if ending.incarnation is not None else ""
        where = f"the TLB of {ending.actor}" if self._life is not None and self._life.in_tlb else "the page table"
        if ending.incarnation is None:
            mapping, where = "an entry for " + mapping, f"root {ending.root}"
        self._note(f"from before the first step: {mapping} in {where}", life=MADE)
        self._phase = LIVES

    def _run_before(self, step: int) -> int:
        return self._runs[step - 1] if step else 0


def _runs_of(steps: tuple[Step, ...]) -> tuple[list[int], list[int]]:
    """The run of each step, and the player of each run; a store buffer that drains belongs to whoever runs."""
    runs: list[int] = []
    owners: list[int] = []
    for step in steps:
        if not owners or (not step.drain and step.player != owners[-1]):
            owners.append(step.player)
        runs.append(len(owners) - 1)
    return runs, owners


def _following(steps: tuple[Step, ...]) -> dict[int, Step]:
    """The next step of the same actor, for each step that has one."""
    following: dict[int, Step] = {}
    last: dict[int, Step] = {}
    for step in steps:
        if step.drain:
            continue
        if step.player in last:
            following[last[step.player].number] = step
        last[step.player] = step
    return following


def _ends_in_last_stage(story: Story) -> bool:
    """Were the scripts over when it ended? Only a step of report() ends them with a finding."""
    if story.ending.end == "complete":
        return True
    functions = story.steps[-1].functions if story.steps else ()
    return story.ending.end == "finding" and all(name != "report" for name, _ in functions)


def _in_order(story: Story, *, tears_down: bool) -> list[Event]:
    """The events of those who take part, each behind the step that it belongs to."""
    own: dict[str, list[Step]] = {}
    for step in story.steps:
        own.setdefault(story.actors[step.player], []).append(step)
    events = []
    for words in story.events:
        event = Event(*words)
        steps = own.get(actor_name(event.actor), [])
        if event.step == len(story.steps) and tears_down:
            if story.ending.end == "complete":
                continue
        elif event.step == 0:
            # All actors run up to their first step before the first one is chosen.
            if not steps:
                continue
            event = event._replace(step=steps[0].number + 1)
        elif event.kind == EV_LOCK_RELEASE and event.arg0 in RELEASED_BY:
            # It is written down before the lock is free, and others may go on in between.
            behind = bisect_left(steps, event.step, key=lambda step: step.number)
            freed = next((step for step in steps[behind:] if step.field == RELEASED_BY[event.arg0]), None)
            if freed is None:
                continue
            event = event._replace(step=freed.number + 1)
        events.append(event)
    return sorted(events, key=lambda event: event.step)
