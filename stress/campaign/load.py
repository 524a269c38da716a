# SPDX-License-Identifier: GPL-2.0-only
"""Reading a campaign file and every scenario that it names, and saying what changed since."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from stress.campaign.schema import Campaign
from stress.config import parse_duration
from stress.config.tables import BadValueError, build, dotted, plain, read_toml, refusal
from stress.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Loaded", "flat_keys", "load_campaign", "what_changed"]

CHANGES_SHOWN = 3
TIMES = (
    ("limits", "overtime", False),
    ("limits", "total_time", True),
    ("finding", "reproduce", True),
    ("soak", "segment", False),
    ("soak", "sample", False),
)
PLACEHOLDERS = {"title": "", "signature": "", "run": "", "campaign": ""}
EXPECTED_PATTERN = r"[a-z-]+ \[\w+\]"


@dataclass(frozen=True)
class Loaded:
    """A campaign with the content of its scenarios.

    Attributes:
        where: the file, as the user named it.
        scenarios: name and number of runs, in the file's order.
        raw: content of each scenario.
        planted: the same for the planted ones.
    """

    where: str
    campaign: Campaign
    scenarios: list[tuple[str, int]]
    raw: dict[str, dict[str, Any]]
    planted: list[tuple[str, int]] = field(default_factory=list)
    planted_raw: dict[str, dict[str, Any]] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """All that the plan follows from, as plain tables: kept with the campaign, and compared when it is resumed."""
        return {
            "campaign": plain(self.campaign),
            "scenarios": self.raw,
            "order": [list(pair) for pair in self.scenarios],
            "planted": self.planted_raw,
            "planted_order": [list(pair) for pair in self.planted],
        }

    @classmethod
    def from_content(cls, where: str, content: dict[str, Any]) -> Loaded:
        """The campaign as it was kept."""
        return cls(
            where,
            build(Campaign, content["campaign"]),
            [(name, weight) for name, weight in content["order"]],
            content["scenarios"],
            [(name, weight) for name, weight in content["planted_order"]],
            content["planted"],
        )


def load_campaign(path: Path) -> Loaded:
    """Read a campaign.

    Raises:
        UsageError: what was found, where, and what is accepted.
    """
    raw = read_toml(path, "a campaign file")
    raw.setdefault("campaign", re.sub(r"[^A-Za-z0-9._-]", "-", path.stem).lstrip(".-")[:64] or "unnamed")
    for holder, table in ((raw, "set"), (raw, "matrix"), (raw.get("power"), "set")):
        if isinstance(holder, dict) and isinstance(holder.get(table), dict):
            holder[table] = flat_keys(holder[table])
    try:
        campaign: Campaign = build(Campaign, raw)
        _check(campaign)
    except BadValueError as bad:
        raise refusal(bad, f"{path}: {dotted(bad.path)}") from None
    scenarios, contents = _scenarios(path, campaign.folder, campaign.scenarios, "scenarios")
    planted, planted_contents = _scenarios(path, campaign.power.folder, campaign.power.scenarios, "power.scenarios")
    for name in campaign.expect:
        if name not in contents:
            hint = did_you_mean(name, contents) or f"expected one of {', '.join(contents)}"
            raise UsageError(f"{path}: expect.{name}: no such scenario here; {hint}{'' if hint.endswith('?') else '.'}")
    return Loaded(str(path), campaign, scenarios, contents, planted, planted_contents)


def _check(campaign: Campaign) -> None:
    if not campaign.scenarios:
        raise BadValueError(("scenarios",), [], "one or more names of scenarios")
    for table in ("set", "matrix"):
        if "run.seed" in getattr(campaign, table):
            raise BadValueError(
                (table, "run", "seed"), getattr(campaign, table)["run.seed"], "no seed here: all are derived from seed"
            )
    _check_times(campaign)
    for name, finding in campaign.expect.items():
        if not re.fullmatch(EXPECTED_PATTERN, finding):
            raise BadValueError(("expect", name), finding, 'a kind and a rule, such as "stale-use [I3]"')
    for index, command in enumerate(campaign.finding.commands):
        _check_command(index, command)


def _check_times(campaign: Campaign) -> None:
    for table, key, may_be_empty in TIMES:
        text = getattr(getattr(campaign, table), key)
        try:
            seconds = parse_duration(text) if text or not may_be_empty else 1.0
        except ValueError:
            seconds = 0.0
        if seconds <= 0:
            expected = 'a time such as "90s" or "2h"' + (", or empty" if may_be_empty else "")
            raise BadValueError((table, key), text, expected)


def _check_command(index: int, command: tuple[str, ...]) -> None:
    path = ("finding", "commands", index)
    if not command:
        raise BadValueError(path, [], "a program and its arguments")
    for word in command:
        try:
            word.format(**PLACEHOLDERS)
        except (KeyError, ValueError, IndexError):
            names = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            raise BadValueError(path, word, f"no other braces than {names}") from None


def _scenarios(
    path: Path, folder: str, names: tuple[str, ...], key: str
) -> tuple[list[tuple[str, int]], dict[str, dict[str, Any]]]:
    found: list[tuple[str, int]] = []
    contents: dict[str, dict[str, Any]] = {}
    base = path.parent / folder
    for position, given in enumerate(names):
        match = re.fullmatch(r"(?:([1-9][0-9]{0,5})\*)?(.+)", given)
        weight, pattern = (int(match[1] or 1), match[2]) if match else (1, given)
        files = sorted(base.glob(f"{pattern}.toml")) if re.search(r"[*?\[]", pattern) else [base / f"{pattern}.toml"]
        if not files:
            raise UsageError(f'{path}: {key}.{position} = "{given}": no scenario in {base} has such a name.')
        for file in files:
            try:
                content = read_toml(file, "a scenario file")
            except UsageError as error:
                raise UsageError(f'{path}: {key}.{position} = "{given}": {error}') from None
            name = content.setdefault("scenario", file.stem)
            if contents.setdefault(name, content) != content:
                raise UsageError(f'{path}: {key}.{position} = "{given}": a different scenario is named {name} too; rename one.')
            found.append((name, weight))
    return found, contents


def flat_keys(table: dict[str, Any]) -> dict[str, Any]:
    """A table of keys with nested tables written out: both `"vm.levels" = 2` and `vm.levels = 2` become `vm.levels`."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": part for inner, part in flat_keys(value).items()}
        else:
            flat[name] = value
    return flat


def what_changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Every key that differs between two contents, with its old and new value."""
    old, new = _leaves(before), _leaves(after)
    return [
        f"{key}: {_text(old, key)} became {_text(new, key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, msgspec.UNSET) != new.get(key, msgspec.UNSET)
    ]


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if parts is None:
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for name, part in parts:
        leaves |= _leaves(part, f"{prefix}.{name}" if prefix else str(name))
    return leaves


def _text(leaves: dict[str, Any], key: str) -> str:
    return repr(leaves[key]) if key in leaves else "nothing"
