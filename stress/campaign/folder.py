# SPDX-License-Identifier: GPL-2.0-only
"""The campaign's folder.

```
DIR/
    campaign.toml      the file as it was given
    plan.json          file and scenarios as they were read, seed, filter, duration: what the plan follows from
    journal.jsonl      what happened, line by line
    heartbeat.json     the last sign of life
    resources.jsonl    samples of what harness and machine take
    results.parquet    a row for each run, made from the journal
    output.log         whatever runs printed; empty if all is well
    findings/          a folder for each signature
    runs/              a folder for each run
    cluster/           there while it runs on a cluster: workers that see this folder know it by what is in there
    lock               held by the process that runs the campaign
```
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from stress.campaign.load import Loaded, load_campaign, what_changed
from stress.campaign.plan import Plan
from stress.campaign.select import places_where
from stress.errors import HarnessError, UsageError
from stress.log.folder import cannot_write, write_atomic

__all__ = ["CampaignFolder", "Kept", "check_unchanged", "create_campaign", "open_campaign"]

CHANGES_SHOWN = 3


class Kept(msgspec.Struct, frozen=True):
    """What the plan follows from, as plan.json keeps it.

    Attributes:
        where: the campaign file, as the user named it.
        path: the same from the root.
        content: of the file and its scenarios.
        soak_s: how long to soak; None for a campaign.
        filter: which runs are wanted; empty for all.
    """

    where: str
    path: str
    content: dict[str, Any]
    seed: int
    soak_s: float | None
    filter: str

    def plan(self) -> Plan:
        """The plan.

        Raises:
            UsageError: there is none.
        """
        plan = Plan(Loaded.from_content(self.where, self.content), self.seed, soak=self.soak_s is not None)
        if self.filter:
            plan.restrict(places_where(self.filter, [item.facts for item in plan.tests]))
        return plan


@dataclass(frozen=True)
class CampaignFolder:
    """Where the parts of one campaign lie."""

    path: Path

    @property
    def journal(self) -> Path:
        """The journal."""
        return self.path / "journal.jsonl"

    @property
    def plan(self) -> Path:
        """What the plan follows from."""
        return self.path / "plan.json"

    @property
    def runs(self) -> Path:
        """The run folders."""
        return self.path / "runs"

    @property
    def findings(self) -> Path:
        """A folder for each signature."""
        return self.path / "findings"

    @property
    def output(self) -> Path:
        """What runs printed."""
        return self.path / "output.log"

    @property
    def lock(self) -> Path:
        """Held by the process that runs the campaign."""
        return self.path / "lock"


def create_campaign(path: Path, kept: Kept) -> CampaignFolder:
    """Create the folder of a new campaign.

    Raises:
        UsageError: the folder holds something already, or may not be written.
        HarnessError: the system refuses.
    """
    folder = CampaignFolder(path)
    if folder.plan.exists():
        raise UsageError(f"{path}: already holds a campaign. Go on with it: zaptorture campaign resume {path}")
    try:
        if path.exists() and any(path.iterdir()):
            raise UsageError(f"--out = {path}: expected a new or an empty folder.")
        folder.runs.mkdir(parents=True, exist_ok=True)
        folder.findings.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out = {path}: expected a folder that may be written: {error.strerror}.") from error
    try:
        write_atomic(path / "campaign.toml", Path(kept.path).read_bytes())
    except OSError as error:
        raise cannot_write(path / "campaign.toml", error) from error
    # Last: a folder with a plan is a campaign.
    write_atomic(folder.plan, msgspec.json.encode(kept))
    return folder


def open_campaign(path: Path) -> tuple[CampaignFolder, Kept]:
    """The folder of a campaign that was begun.

    Raises:
        UsageError: it is none.
        HarnessError: it cannot be read.
    """
    folder = CampaignFolder(path)
    try:
        return folder, msgspec.json.decode(folder.plan.read_bytes(), type=Kept)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{path}: no campaign's folder: it holds no plan.json.") from None
    except (OSError, msgspec.DecodeError) as error:
        raise HarnessError(f"{folder.plan}: cannot be read: {error}.") from error


def check_unchanged(kept: Kept) -> str:
    """See that the campaign's file and scenarios are what they were.

    Returns:
        A note if they cannot be compared, or "".

    Raises:
        UsageError: they changed; says what did.
    """
    path = Path(kept.path)
    if not path.exists():
        return f"{path} is gone; going on with the copy in plan.json"
    changes = what_changed(kept.content, load_campaign(path).content())
    if not changes:
        return ""
    more = f"; and {len(changes) - CHANGES_SHOWN} more" if len(changes) > CHANGES_SHOWN else ""
    raise UsageError(
        f"{path}: changed since the campaign began: {'; '.join(changes[:CHANGES_SHOWN])}{more}. "
        "Put it back, or start a new campaign."
    )
