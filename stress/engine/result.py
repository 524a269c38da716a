# SPDX-License-Identifier: GPL-2.0-only
"""What a run gives back: progress while it goes on, findings, and the result that becomes verdict.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from stress.verdict import Verdict

__all__ = ["Finding", "Progress", "RunResult"]


@dataclass(frozen=True)
class Progress:
    """A moment of a run; rates are those since the moment before."""

    elapsed_s: float
    remaining_s: float
    accesses_per_s: float
    faults_per_s: float
    deletes_per_s: float
    stale_uses: int


@dataclass(frozen=True)
class Finding:
    """Something that the protocol rules out; fields that do not apply are None.

    `time_ns` is when it was seen; `other_time_ns` when the DELETE or MOVE that retired the incarnation had returned.
    `last_events` holds the newest events of every actor's ring.
    """

    kind: str
    invariant: str
    actor: str
    other_actor: str | None
    time_ns: int
    other_time_ns: int | None
    gfn: int | None
    pfn: int | None
    incarnation: int | None
    root: int | None
    slot: int | None
    detail: str
    last_events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunResult:
    """The outcome of one run.

    `counters` are sums over all actors, `rates` are per second of the run, `resources` are measured by the harness,
    `sites` tell how often each primitive on each field was passed and perturbed (empty without perturbation),
    `nemesis` how often each act was done, and how often it was not possible.
    """

    verdict: Verdict
    reason: str
    findings: list[Finding]
    counters: dict[str, int]
    rates: dict[str, float]
    folder: Path
    elapsed_s: float
    scenario: str = ""
    seed: int = 0
    log: dict[str, Any] = field(default_factory=dict)
    resources: dict[str, float] = field(default_factory=dict)
    sites: list[dict[str, Any]] = field(default_factory=list)
    nemesis: dict[str, dict[str, int]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The content of verdict.json."""
        return asdict(self) | {"verdict": self.verdict.value, "folder": str(self.folder)}
