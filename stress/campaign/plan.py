# SPDX-License-Identifier: GPL-2.0-only
"""The plan: which run comes at which index, with which config and which seed.

Both a campaign and a soak are a sequence of rotations over the same items (scenario x point of the matrix x repetition in the
list); a campaign ends after `repeats` rotations, a soak goes on. What comes at an index follows from the file and the seed alone,
so a campaign that died needs to know nothing but how far it had come. A run's seed follows from what is run and in which
rotation: other scenarios or values beside it change nothing.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from stress.campaign.load import flat_keys
from stress.campaign.row import facts_of
from stress.config import config_from, parse_duration, resolved_toml, set_key
from stress.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from stress.campaign.load import Loaded
    from stress.config import Config

__all__ = ["Item", "Plan", "PlannedRun"]

SEED_BITS = 32


@dataclass(frozen=True)
class Item:
    """One place in a rotation.

    Attributes:
        key: names what is run; seeds are derived from it.
        point: value of each axis of the matrix.
        planted: it is there to show what the tester finds.
        expected: kind and rule of the finding it must end in; empty for none.
    """

    key: str
    config: Config
    point: dict[str, Any]
    planted: bool
    expected: str

    @property
    def facts(self) -> dict[str, Any]:
        """What it can be filtered by."""
        return facts_of(self.config, self.point)


@dataclass(frozen=True)
class PlannedRun:
    """A run with its index and seed."""

    index: int
    rotation: int
    item: Item
    config: Config

    def name(self, attempt: int) -> str:
        """The name of its folder."""
        again = f"-again{attempt - 1}" if attempt > 1 else ""
        return f"{self.index:06}-{self.item.config.scenario}-{self.config.run.seed}{again}"

    def known(self, attempt: int) -> dict[str, Any]:
        """What the journal and the results know of it beforehand."""
        return {
            "index": self.index,
            "attempt": attempt,
            "run": self.name(attempt),
            "role": "planted" if self.item.planted else "expected" if self.item.expected else "test",
            "rotation": self.rotation,
            "seed": self.config.run.seed,
            **self.item.facts,
        }

    @property
    def toml(self) -> str:
        """Its resolved config."""
        return resolved_toml(self.config)


class Plan:
    """All runs of a campaign, by index."""

    def __init__(self, loaded: Loaded, seed: int, *, soak: bool) -> None:
        """Expand scenarios and matrix.

        Args:
            loaded: the campaign and its scenarios.
            seed: that all seeds are derived from.
            soak: rotate without end, with long scenarios cut into segments.

        Raises:
            UsageError: a combination that no run could do, or nothing to do.
        """
        campaign = loaded.campaign
        self._seed = seed
        self._shuffled = soak and campaign.soak.order == "shuffled"
        self._every = campaign.power.every
        points = _points(campaign.matrix, loaded.where)
        _check_rules(campaign.exclude, points, loaded.where)
        self.tests: list[Item] = []
        for name, weight in loaded.scenarios:
            for point in points:
                if any(_excludes(rule, name, point) for rule in campaign.exclude):
                    continue
                item = _item(loaded, name, loaded.raw[name], campaign.set, point, expected=campaign.expect.get(name, ""))
                pieces = math.ceil(item.config.duration_s / parse_duration(campaign.soak.segment)) if soak else 1
                if pieces > 1:
                    cut = msgspec.structs.replace(item.config.run, duration=item.config.duration_s / pieces)
                    item = _changed(item, config=msgspec.structs.replace(item.config, run=cut))
                self.tests += [item] * (weight * pieces)
        self.planted = [
            _item(loaded, name, loaded.planted_raw[name], campaign.power.set, {}, planted=True)
            for name, weight in loaded.planted
            for _ in range(weight)
        ]
        for item in self.planted:
            if not _plants(item.config):
                raise UsageError(f"{loaded.where}: power.scenarios: {item.config.scenario} plants no bug; expected one that does.")
        self.tests, self.planted = _numbered(self.tests), _numbered(self.planted)
        if not self.tests:
            raise UsageError(f"{loaded.where}: exclude: leaves no run. Exclude less, or add scenarios or values.")
        self._rotations = None if soak else campaign.repeats

    def restrict(self, wanted: set[int]) -> None:
        """Keep only some of the tests, by their place in the rotation."""
        self.tests = [item for place, item in enumerate(self.tests) if place in wanted]

    @property
    def total(self) -> int | None:
        """Number of runs; None for a soak."""
        if self._rotations is None:
            return None
        tests = len(self.tests) * self._rotations
        return tests + tests // self._every if self.planted else tests

    def run(self, index: int) -> PlannedRun:
        """The run at an index: after each `power.every` tests comes a planted one."""
        cycle = self._every + 1
        if self.planted and index % cycle == self._every:
            turn = index // cycle
            return self._planned(index, turn // len(self.planted), self.planted[turn % len(self.planted)])
        place = index - index // cycle if self.planted else index
        rotation, place = divmod(place, len(self.tests))
        if self._shuffled:
            order = list(range(len(self.tests)))
            random.Random(f"{self._seed}/{rotation}").shuffle(order)
            place = order[place]
        return self._planned(index, rotation, self.tests[place])

    def _planned(self, index: int, rotation: int, item: Item) -> PlannedRun:
        digest = hashlib.sha256(f"{self._seed}/{item.key}/{rotation}".encode()).digest()
        seeded = msgspec.structs.replace(item.config.run, seed=int.from_bytes(digest[: SEED_BITS // 8], "big"))
        return PlannedRun(index, rotation, item, msgspec.structs.replace(item.config, run=seeded))


def _changed(item: Item, **changes: Any) -> Item:
    return Item(**{name: changes.get(name, getattr(item, name)) for name in ("key", "config", "point", "planted", "expected")})


def _item(
    loaded: Loaded,
    name: str,
    raw: dict[str, Any],
    keys: dict[str, Any],
    point: dict[str, Any],
    *,
    planted: bool = False,
    expected: str = "",
) -> Item:
    raw = copy.deepcopy(raw)
    values: dict[str, Any] = dict(keys)
    for axis, value in point.items():
        values |= flat_keys(value) if isinstance(value, dict) else {axis: value}
    shown = " ".join(f"{key}={value}" for key, value in point.items() if not isinstance(value, dict))
    where = f"{loaded.where}: {name}{' with ' if shown else ''}{shown}"
    for key, value in values.items():
        set_key(raw, tuple(key.split(".")), copy.deepcopy(value), f"{where}: {key}")
    config = config_from(raw, where, (), 0, None)
    labels = {axis: _label(value) for axis, value in point.items()}
    key = "/".join([name, *(f"{axis}={value}" for axis, value in sorted(labels.items()))])
    return Item(f"planted/{key}" if planted else key, config, labels, planted, expected)


def _label(value: Any) -> Any:
    """An axis's value as it stands in plans and results."""
    if isinstance(value, dict):
        return " ".join(f"{key}={part}" for key, part in flat_keys(value).items())
    return value if isinstance(value, str | int | float) else str(value)


def _points(matrix: dict[str, Any], where: str) -> list[dict[str, Any]]:
    axes = flat_keys(matrix)
    for axis, values in axes.items():
        if not isinstance(values, list) or not values:
            raise UsageError(f"{where}: matrix.{axis} = {values}: expected a list of one or more values.")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _values(name: str, point: dict[str, Any]) -> dict[str, Any]:
    """What a rule of exclusion may ask for: the scenario, and each key that the point sets."""
    values: dict[str, Any] = {"scenario": name}
    for axis, value in point.items():
        values |= flat_keys(value) if isinstance(value, dict) else {axis: value}
    return values


def _excludes(rule: dict[str, Any], name: str, point: dict[str, Any]) -> bool:
    values = _values(name, point)
    return all(key in values and values[key] == value for key, value in flat_keys(rule).items())


def _check_rules(rules: tuple[dict[str, Any], ...], points: list[dict[str, Any]], where: str) -> None:
    """A key that no point sets would exclude nothing, and nobody would notice."""
    known = {key for point in points for key in _values("", point)}
    for number, rule in enumerate(rules):
        for key in flat_keys(rule):
            if key not in known:
                hint = did_you_mean(key, known) or f"expected one of {', '.join(sorted(known))}"
                raise UsageError(
                    f"{where}: exclude.{number}.{key}: no key of the matrix; {hint}{'' if hint.endswith('?') else '.'}"
                )


def _plants(config: Config) -> bool:
    # The patch as posted is a planted bug where somebody changes the quirk in between.
    return bool(config.bugs) or (config.variant == "split" and config.toggler.mode != "off")


def _numbered(items: list[Item]) -> list[Item]:
    """The items with the copies of each told apart, wherever in the file they come from: no two have the same seed."""
    copies: dict[str, int] = {}
    numbered = []
    for item in items:
        number = copies[item.key] = copies.get(item.key, -1) + 1
        numbered.append(_changed(item, key=f"{item.key}#{number}"))
    return numbered
