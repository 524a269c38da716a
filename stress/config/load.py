# SPDX-License-Identifier: GPL-2.0-only
"""From a scenario file and the command line's overrides to a checked `Config`, or one line that says what is wrong."""

from __future__ import annotations

import hashlib
import re
import secrets
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import tomli_w

from stress.config.check import check_config
from stress.config.schema import Config
from stress.config.script import check_script
from stress.config.tables import BadValueError, build, dotted, plain, put, read_toml, refusal, shown
from stress.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stress.config.tables import KeyPath

__all__ = ["config_from", "config_hash", "load_config", "resolved_toml", "set_key"]

SEED_BITS = 32  # of a drawn seed: it is read aloud and typed again
HASH_DIGITS = 12


def load_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    duration: str | None = None,
    *,
    scripted: bool = False,
) -> Config:
    """Read a scenario.

    Args:
        path: the TOML file.
        overrides: `KEY=VALUE` each, applied in order; VALUE is TOML, or else taken as a string.
        seed: replaces `run.seed`.
        duration: replaces `run.duration`.
        scripted: the scenario is to be explored, so its script must be one that can be played.

    Returns:
        The checked config. Its `run.seed` is never None: a seed is drawn if nothing names one.

    Raises:
        UsageError: what was found, where, and what is accepted.
    """
    path = Path(path)
    raw = read_toml(path, "a scenario file")
    raw.setdefault("scenario", _scenario_name(path))
    return config_from(raw, str(path), overrides, seed, duration, scripted=scripted)


def config_from(
    raw: dict[str, Any],
    where: str,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    duration: str | None = None,
    *,
    scripted: bool = False,
) -> Config:
    """Check a scenario that is at hand as the content of its file; arguments and errors are those of `load_config()`."""
    sources: dict[str, str] = {}  # of the keys that the command line gave
    for override in overrides:
        key, value = _parse_override(override)
        set_key(raw, key, value, f"--set {shown(override)}")
        sources[".".join(key)] = f"--set {dotted(key)}"
    for option, value in (("seed", seed), ("duration", duration)):
        run = raw.setdefault("run", {})
        if value is not None and isinstance(run, dict):
            run[option] = value
            sources[f"run.{option}"] = f"--{option}"
    try:
        config: Config = build(Config, raw)
        check_config(config)
        if scripted:
            check_script(config)
    except BadValueError as bad:
        raise refusal(bad, _source(bad.path, sources) or f"{where}: {dotted(bad.path)}") from None
    if config.run.seed is None:
        drawn = msgspec.structs.replace(config.run, seed=secrets.randbits(SEED_BITS))
        config = msgspec.structs.replace(config, run=drawn)
    return config


def resolved_toml(config: Config) -> str:
    """The config as a TOML file that loads as the same config."""
    return tomli_w.dumps(plain(config))


def config_hash(config: Config) -> str:
    """A short name for everything but the seed, so that runs of one scenario can be told from runs of another."""
    seedless = msgspec.structs.replace(config, run=msgspec.structs.replace(config.run, seed=None))
    return hashlib.sha256(resolved_toml(seedless).encode()).hexdigest()[:HASH_DIGITS]


def _source(path: KeyPath, sources: dict[str, str]) -> str | None:
    # The option that gave this key, or a table or list around it.
    names = [".".join(map(str, path[:depth])) for depth in range(len(path), 0, -1)]
    return next((sources[name] for name in names if name in sources), None)


def _scenario_name(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", path.stem).lstrip(".-")[:64] or "unnamed"


def set_key(raw: dict[str, Any], key: tuple[str, ...], value: Any, source: str) -> None:
    """Set one key of a scenario; one of a slot may be set where the file leaves the slots to their default.

    Raises:
        UsageError: there is no such place.
    """
    if key[0] == "slots" and len(key) > 1:
        raw.setdefault("slots", plain(Config().slots))
    put(raw, key, value, source)


def _parse_override(override: str) -> tuple[tuple[str, ...], Any]:
    name, equals, text = override.partition("=")
    key = tuple(name.strip().split("."))
    if not equals or not all(key):
        raise UsageError(f"--set {shown(override)}: expected KEY=VALUE, such as vm.nr_vcpus=8.")
    return key, _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    # A line break in the text could open further keys or tables: then it was no single value.
    return table["value"] if table.keys() == {"value"} else text
