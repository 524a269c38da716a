# SPDX-License-Identifier: GPL-2.0-only
"""The failure file: everything that is needed to see one failing execution again, as JSON.

Format 1. `config` is the scenario with every default, `schedule` who was chosen at each step (stress/explore/schedule.py), `ending`
what the execution came to, `digest` a hash over every step and its result, `events_digest` one over every event, `model_hash` one
over the model's source. `found` says how it was found; nothing of it is needed to replay.
"""

from __future__ import annotations

import platform
import tomllib
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import model
from stress import __version__
from stress.buildcache import sources_hash
from stress.config import Config, config_from, resolved_toml
from stress.errors import UsageError
from stress.explore.board import STEPS_MAX
from stress.explore.ending import Ending  # noqa: TC001 - msgspec reads the annotation

if TYPE_CHECKING:
    from stress.explore.schedule import Runs
    from stress.explore.story import Story

__all__ = ["Failure", "failure_of", "model_hash", "read_failure", "write_failure"]

FORMAT = 1
FILE_BYTES_MAX = 64 << 20


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    zaptorture: str
    config: dict[str, Any]
    schedule: list[tuple[str, int]]
    steps: int
    context_switches: int
    ending: Ending
    digest: str
    events_digest: str
    model_hash: str
    versions: dict[str, str]
    found: dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """A failing execution: its scenario, its schedule, and what came of it."""

    config: Config
    runs: Runs
    steps: int
    switches: int
    ending: Ending
    digest: int
    events_digest: str
    model_hash: str
    found: dict[str, Any]


def model_hash() -> str:
    """A hash over the model's source; 16 hex digits."""
    return sources_hash([Path(next(iter(model.__path__)))])


def failure_of(config: Config, story: Story, found: dict[str, Any], ending: Ending | None = None) -> Failure:
    """The failure that a story tells; `ending` replaces the story's, for a failure that only compiled code has."""
    return Failure(
        config,
        story.runs,
        len(story.steps),
        story.switches,
        ending or story.ending,
        story.digest,
        story.events_digest,
        model_hash(),
        found,
    )


def write_failure(failure: Failure) -> bytes:
    """The file's content."""
    versions = {"python": platform.python_version()} | {name: metadata.version(name) for name in ("greenlet", "numba", "numpy")}
    content = {
        "format": FORMAT,
        "zaptorture": __version__,
        "config": tomllib.loads(resolved_toml(failure.config)),
        "schedule": failure.runs,
        "steps": failure.steps,
        "context_switches": failure.switches,
        "ending": asdict(failure.ending),
        "digest": f"{failure.digest:016x}",
        "events_digest": failure.events_digest,
        "model_hash": failure.model_hash,
        "versions": versions,
        "found": failure.found,
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def read_failure(path: Path) -> Failure:
    """Read a failure file.

    Raises:
        UsageError: there is none, or it is not one.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; expected a failure file, as explore writes it.") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}.") from None
    try:
        content = msgspec.json.decode(data, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a failure file: {error}.") from None
    if content.format != FORMAT:
        raise UsageError(
            f"{path}: format = {content.format}: expected {FORMAT}; it was written by zaptorture {content.zaptorture}."
        )
    if any(count < 1 for _, count in content.schedule):
        raise UsageError(f"{path}: schedule: expected counts of 1 or more.")
    if sum(count for _, count in content.schedule) >= STEPS_MAX:
        raise UsageError(f"{path}: schedule: expected fewer than {STEPS_MAX:,} steps.")
    config = config_from(content.config, str(path), scripted=True)
    try:
        digest = int(content.digest, 16)
    except ValueError:
        raise UsageError(f'{path}: digest = "{content.digest}": expected 16 hex digits.') from None
    return Failure(
        config,
        [(name, count) for name, count in content.schedule],
        content.steps,
        content.context_switches,
        content.ending,
        digest,
        content.events_digest,
        content.model_hash,
        content.found,
    )
