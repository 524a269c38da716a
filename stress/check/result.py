# SPDX-License-Identifier: GPL-2.0-only
"""What a check gives back: findings with their evidence, what could not be judged, and the verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from stress.log.naming import event_fields, kind_label, named_value
from stress.log.schema import NULL

if TYPE_CHECKING:
    from pathlib import Path

    from stress.log.archive import Archive, Batch, Problem
    from stress.verdict import Verdict

__all__ = ["CheckResult", "Event", "Finding", "Recorded", "event_of"]


@dataclass(frozen=True)
class Event:
    """One event of the log and where it stands.

    Attributes:
        actor: who logged it.
        seq: its index since that actor started.
        time_ns: since the start of the run.
        file: the file, relative to the run folder.
        row: its row in there, from 0.
        kind: name of the kind.
        fields: its fields by name, codes and masks by their names.
    """

    actor: str
    seq: int
    time_ns: int
    file: str
    row: int
    kind: str
    fields: dict[str, int | str]


def event_of(archive: Archive, batch: Batch, row: int) -> Event:
    """One row of a batch that was read with all columns of the format."""
    kind = int(batch.columns["kind"][row])
    words = ((field, int(batch.columns[field.column][row])) for field in event_fields(kind))
    return Event(
        actor=archive.actors[batch.actor],
        seq=batch.first_seq + row,
        time_ns=int(batch.columns["time_ns"][row]),
        file=batch.file,
        row=batch.row + row,
        kind=kind_label(kind),
        fields={field.name: named_value(field, word) for field, word in words if word != NULL},
    )


@dataclass(frozen=True)
class Finding:
    """One way in which the log breaks a rule; fields that do not apply are None.

    Attributes:
        number: from 1, in the order of time; what `check --explain` and `log --around` take.
        rule: id of the rule: I1 to I27, lockdep or oracle.
        kind: stale-use, stale-writeback, leftover-mapping or invariant.
        detail: what is wrong, in one sentence.
        confidence: `ambiguous` if two times decide that are closer than the clocks can tell apart.
        judged_by: what shows it: what the `event` carries, the `time` at which it was logged, or `both`.
        margin_ns: how far apart the two times are; None if no clock is involved.
        actor: who logged the event at which the rule is broken.
        seq: that event's index.
        time_ns: its time.
        other_actor: who logged the event that it collides with.
        other_seq: its index.
        other_time_ns: its time.
        gfn: guest frame.
        root: page of the root or table.
        pfn: backing frame.
        incarnation: incarnation of the slot object.
        evidence: the events themselves, for the findings that are shown in full; the deciding one first.
    """

    number: int
    rule: str
    kind: str
    detail: str
    confidence: Literal["certain", "ambiguous"]
    judged_by: Literal["event", "time", "both"]
    margin_ns: int | None
    actor: str
    seq: int
    time_ns: int
    other_actor: str | None
    other_seq: int | None
    other_time_ns: int | None
    gfn: int | None
    root: int | None
    pfn: int | None
    incarnation: int | None
    evidence: tuple[Event, ...] = ()


@dataclass(frozen=True)
class Recorded:
    """A finding that the run's own oracle logged while it ran."""

    kind: str
    rule: str
    actor: str
    time_ns: int


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check.

    Attributes:
        verdict: PASS, VIOLATION or INCONCLUSIVE.
        reason: why it is not PASS, or "".
        folder: the run.
        scenario: its scenario, or "" if the manifest does not say.
        findings: certain ones, in the order of time; the first FINDINGS_KEPT.
        ambiguous: orders that contradict a rule and lie within `window_ns`, so that the other order is as likely.
        nr_findings: how many certain findings there are, kept or not, by rule.
        recorded: what the run's own oracle logged, the first FINDINGS_KEPT.
        disagreements: where judgements that should be one are not, a sentence each.
        problems: what is missing or damaged, and so could not be judged.
        events: how many were judged.
        counts: what was counted in the event log, by the names of the run's counters.
        window_ns: two times of different actors closer than this may be the other way round.
        run_verdict: the verdict in the control log, or None.
        elapsed_s: how long the check took.
    """

    verdict: Verdict
    reason: str
    folder: Path
    scenario: str
    findings: list[Finding]
    ambiguous: list[Finding]
    nr_findings: dict[str, int]
    recorded: list[Recorded]
    disagreements: list[str]
    problems: list[Problem]
    events: int
    counts: dict[str, int]
    window_ns: int
    run_verdict: str | None
    elapsed_s: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {
            "verdict": self.verdict.value,
            "folder": str(self.folder),
            "problems": [{"code": p.code, "where": p.where, "what": p.what} for p in self.problems],
        }
