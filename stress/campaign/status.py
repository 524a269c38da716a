# SPDX-License-Identifier: GPL-2.0-only
"""How a campaign stands, read from its folder by anybody at any time."""

from __future__ import annotations

import fcntl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from stress.campaign.folder import open_campaign
from stress.campaign.journal import read_journal
from stress.campaign.notify import HEARTBEAT_FILE
from stress.campaign.proof import bound_lines, power_lines, weakness
from stress.campaign.row import object_in
from stress.campaign.state import State

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Status", "status_of"]


@dataclass(frozen=True)
class Status:
    """How a campaign stands.

    Attributes:
        running: a process is at work on it.
        total: number of its runs; None for a soak.
        heartbeat: the last sign of life; empty without one.
        bounds: what silence has proven.
        power: how well planted bugs were found.
        weakness: why that proves little, or "".
    """

    folder: str
    running: bool
    total: int | None
    soak_s: float | None
    state: State
    heartbeat: dict[str, Any]
    bounds: list[str]
    power: list[str]
    weakness: str

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        verdict, reason = self.state.verdict()
        plain: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return plain | {"verdict": verdict.value, "reason": reason}


def status_of(path: Path) -> Status:
    """Read a campaign's folder.

    Raises:
        UsageError: it is none.
        HarnessError: it cannot be read.
    """
    folder, kept = open_campaign(path)
    state = State()
    if folder.journal.exists():
        for record, _ in read_journal(folder.journal):
            state.apply(record)
    return Status(
        folder=str(path),
        running=_is_locked(folder.lock),
        total=kept.plan().total,
        soak_s=kept.soak_s,
        state=state,
        heartbeat=object_in(path / HEARTBEAT_FILE),
        bounds=bound_lines(state.tested),
        power=power_lines(state.planted),
        weakness=weakness(state),
    )


def _is_locked(path: Path) -> bool:
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
