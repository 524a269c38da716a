# SPDX-License-Identifier: GPL-2.0-only
"""What an execution came to: its end, and its finding if it has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model.constants import FINDING_KINDS, LOCKDEP
from model.layout import actor_name
from model.lockdep import LOCK_NAMES
from stress.engine.outcome import DETAILS
from stress.explore.board import DONE, END_DIVERGED, END_NAMES

__all__ = ["Ending", "ending_of"]


@dataclass(frozen=True)
class Ending:
    """What an execution came to; the fields of a finding are None where they do not apply.

    `rule` is that of the finding ("I3", "lockdep"), or "I25" for an end without progress; "" for a clean end.
    """

    end: str
    kind: str = ""
    rule: str = ""
    actor: str | None = None
    other_actor: str | None = None
    gfn: int | None = None
    pfn: int | None = None
    incarnation: int | None = None
    root: int | None = None
    slot: int | None = None
    detail: str = ""

    @property
    def is_failure(self) -> bool:
        """Did it end otherwise than it should?"""
        return self.end not in {"complete", "pruned", "step-bound"}

    @property
    def signature(self) -> tuple[str, str]:
        """What makes two failures the same: the kind and the rule; for an end without a finding, the end."""
        return (self.kind or self.end, self.rule)

    def sentence(self) -> str:
        """One line for people."""
        if self.kind:
            about = f" gfn {self.gfn:#x}" if self.gfn is not None else ""
            about += f" -> pfn {self.pfn:#x}" if self.pfn is not None else ""
            facts = {"slot": self.slot, "incarnation": self.incarnation, "root": self.root}
            known = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
            known = f" ({known})" if known else ""
            other = f"; the other actor is {self.other_actor}" if self.other_actor else ""
            return f"{self.kind} [{self.rule}]: {self.actor}{about}{known}: {self.detail}{other}"
        rule = f" [{self.rule}]" if self.rule else ""
        return f"{self.end}{rule}: {self.detail}" if self.detail else self.end


def ending_of(vm: Any, board: Any, positions: list[str]) -> Ending:
    """What the execution that has just ended came to."""
    end = END_NAMES[int(board.end[0])]
    if end == "finding":
        return _finding(vm)
    if end in {"deadlock", "livelock", "lost-wakeup"}:
        waiting = [where for player, where in enumerate(positions) if board.status[player] != DONE]
        return Ending(end, rule="I25", detail=", ".join(waiting))
    if int(board.end[0]) == END_DIVERGED:
        return Ending(end, detail=f"the schedule cannot be followed behind step {int(board.step[0])}")
    return Ending(end)


def _finding(vm: Any) -> Ending:
    row = vm.finding

    def known(name: str) -> int | None:
        value = int(getattr(row, name)[0])
        return None if value < 0 else value

    invariant, observed, other = int(row.invariant[0]), int(row.observed[0]), known("other")
    lock = LOCK_NAMES[observed] if invariant == LOCKDEP and 0 <= observed < len(LOCK_NAMES) else ""
    return Ending(
        end="finding",
        kind=FINDING_KINDS[int(row.kind[0])],
        rule="lockdep" if invariant == LOCKDEP else f"I{invariant}",
        actor=actor_name(int(row.actor[0])),
        other_actor=None if other is None else actor_name(other),
        gfn=known("gfn"),
        pfn=known("pfn"),
        incarnation=known("incarnation"),
        root=known("root"),
        slot=known("slot"),
        detail=DETAILS[int(row.detail[0])].format(observed=observed, lock=lock),
    )
