# SPDX-License-Identifier: GPL-2.0-only
"""The row of a run in the results: facts that were known before it, and what its folder tells after it.

A row is built from the folder alone, by the campaign's process, whether the run ended a moment ago on this machine, on another
one, or before a crash: so none of these ways can tell a different story.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from stress.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from stress.config import Config

__all__ = [
    "HOST_FILE",
    "QUANTILES_FILE",
    "ended_row",
    "facts_of",
    "failed_row",
    "last_object",
    "lines_of",
    "object_in",
    "salvaged_row",
    "verdict_in",
    "was_stopped",
]

HOST_FILE = "host.json"
QUANTILES_FILE = "quantiles.json"
RESOURCES = ("compile_s", "first_access_s", "reserved_mb", "worker_uss_mb_max")


class _Finding(Struct):
    """A finding without the events around it, which stay in the run's folder and would cost the campaign's process megabytes."""

    kind: str
    invariant: str
    actor: str
    detail: str
    time_ns: int
    other_actor: str | None = None
    other_time_ns: int | None = None
    gfn: int | None = None
    pfn: int | None = None
    incarnation: int | None = None
    root: int | None = None
    slot: int | None = None


class _Verdict(Struct):
    """Of verdict.json what goes into a row."""

    verdict: str
    reason: str
    findings: list[_Finding]
    elapsed_s: float
    counters: dict[str, int]
    rates: dict[str, float]
    resources: dict[str, float]
    log: dict[str, Any]
    nemesis: dict[str, dict[str, int]] = {}


class _Manifest(Struct):
    """Of manifest.json the same."""

    config_hash: str
    model_hash: str
    version: str
    host: dict[str, Any]


def facts_of(config: Config, point: dict[str, Any]) -> dict[str, Any]:
    """What is known of a run beforehand, under the names by which plans and results are filtered.

    Args:
        config: of the run.
        point: value of each axis of the matrix.
    """
    facts = {
        "scenario": config.scenario,
        "variant": config.variant,
        "vcpus": config.vm.nr_vcpus,
        "slots": len(config.slots),
        "pages": sum(slot.npages for slot in config.slots),
        "bugs": ",".join(config.bugs),
        "duration_s": config.duration_s,
        "check": config.check.level,
        "policy": config.log.policy,
        "perturb": config.perturb.probability,
    }
    for axis, value in point.items():
        facts.setdefault(axis.rpartition(".")[2], value)
    return facts


def ended_row(folder: Path, known: dict[str, Any], expected: str) -> dict[str, Any] | None:
    """The row of a run whose folder holds a verdict, or None if it holds none that can be read.

    Args:
        folder: of the run.
        known: index, attempt, role, facts and so on; they lead the row.
        expected: kind and rule of the finding that the run must end in; empty for none.
    """
    try:
        verdict = msgspec.json.decode((folder / "verdict.json").read_bytes(), type=_Verdict)
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=_Manifest)
    except (OSError, msgspec.DecodeError):
        return None
    row = known | {
        "run_verdict": verdict.verdict,
        "reason": verdict.reason,
        "findings": [msgspec.structs.asdict(finding) for finding in verdict.findings],
        "nr_findings": len(verdict.findings),
        "elapsed_s": verdict.elapsed_s,
        "counters": verdict.counters,
        "rates": verdict.rates,
        "resources": {name: verdict.resources[name] for name in RESOURCES if name in verdict.resources},
        "log": verdict.log,
        "nemesis": {act: counts["done"] for act, counts in verdict.nemesis.items()},
        "config_hash": manifest.config_hash,
        "model_hash": manifest.model_hash,
        "version": manifest.version,
        "host": {"cpu": manifest.host["cpu"], "kernel": manifest.host["kernel"]} | object_in(folder / HOST_FILE),
        "quantiles": object_in(folder / QUANTILES_FILE),
    }
    return row | dict(zip(("verdict", "reason"), _against(expected, row), strict=True))


def failed_row(known: dict[str, Any], reason: str) -> dict[str, Any]:
    """The row of a run that left no verdict: an error of the harness."""
    return known | {
        "verdict": Verdict.HARNESS_ERROR.value,
        "run_verdict": Verdict.HARNESS_ERROR.value,
        "reason": reason,
        "findings": [],
        "nr_findings": 0,
        "elapsed_s": 0.0,
        "counters": {},
        "rates": {},
        "resources": {},
        "log": {},
        "nemesis": {},
        "host": {},
        "quantiles": {},
    }


def salvaged_row(known: dict[str, Any], findings: list[dict[str, Any]], trouble: str) -> dict[str, Any]:
    """The row of a run that left no verdict but a log in which the checker found something.

    Args:
        known: what leads every row.
        findings: as `zaptorture check --json` gives them.
        trouble: why there is no verdict.
    """
    return failed_row(known, f"{trouble}; its log shows {len(findings)} findings") | {
        "verdict": Verdict.VIOLATION.value,
        "run_verdict": Verdict.VIOLATION.value,
        "findings": [_of_checker(finding) for finding in findings],
        "nr_findings": len(findings),
    }


def _of_checker(finding: dict[str, Any]) -> dict[str, Any]:
    """A finding of the checker under the names that a run's own have."""
    shared = ("kind", "actor", "other_actor", "time_ns", "other_time_ns", "gfn", "pfn", "incarnation", "root", "detail")
    return {name: finding.get(name) for name in shared} | {"invariant": finding["rule"]}


def was_stopped(row: dict[str, Any]) -> bool:
    """Did somebody end the run before its time, without a finding so far?"""
    return bool(row["run_verdict"] != Verdict.VIOLATION.value and row["reason"].startswith("stopped by "))


def _against(expected: str, row: dict[str, Any]) -> tuple[str, str]:
    """The verdict that counts: a planted bug must be found, and be what it was planted for."""
    verdict, reason = row["run_verdict"], row["reason"]
    if not expected or verdict == Verdict.HARNESS_ERROR.value:
        return verdict, reason
    found = [f"{finding['kind']} [{finding['invariant']}]" for finding in row["findings"][:1]]
    if verdict != Verdict.VIOLATION.value:
        return Verdict.INCONCLUSIVE.value, f"expected {expected}, and nothing was found"
    if found != [expected]:
        return Verdict.VIOLATION.value, f"expected {expected}, found {', '.join(found) or 'a finding without a record'}"
    return Verdict.PASS.value, f"{expected}, as expected"


class _Named(Struct):
    verdict: str


def verdict_in(folder: Path) -> str | None:
    """The verdict of a run by its folder; None if it left none that can be read."""
    try:
        return msgspec.json.decode((folder / "verdict.json").read_bytes(), type=_Named).verdict
    except (OSError, msgspec.DecodeError):
        return None


def object_in(path: Path) -> dict[str, Any]:
    """The JSON object in a file that may be missing or damaged; empty then."""
    try:
        content: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}
    return content


def lines_of(path: Path) -> list[str]:
    """The lines of a file that have something in them; none if it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()]


def last_object(path: Path) -> dict[str, Any]:
    """The last line of a file that is a JSON object; empty if there is none."""
    for line in reversed(lines_of(path)):
        with contextlib.suppress(msgspec.DecodeError):
            found = msgspec.json.decode(line)
            if isinstance(found, dict):
                return found
    return {}
