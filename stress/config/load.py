# SPDX-License-Identifier: GPL-2.0-only
"""From a scenario file and the command line's overrides to a checked `Config`, or one line that says what is wrong."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import tomli_w

from stress.config.check import BadValueError, check_config
from stress.config.keys import Field, config_keys, table_fields
from stress.config.schema import Config
from stress.config.script import check_script
from stress.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["config_from", "config_hash", "load_config", "resolved_toml"]

FILE_BYTES_MAX = 1 << 20
SEED_BITS = 32  # of a drawn seed: it is read aloud and typed again
SHOWN_CHARS_MAX = 60
HASH_DIGITS = 12

_Path = tuple[str | int, ...]


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
    raw = _read(path)
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
        _put(raw, key, value, override)
        sources[".".join(key)] = f"--set {_dotted(key)}"
    for option, value in (("seed", seed), ("duration", duration)):
        run = raw.setdefault("run", {})
        if value is not None and isinstance(run, dict):
            run[option] = value
            sources[f"run.{option}"] = f"--{option}"
    try:
        config: Config = _build(Config, raw, ())
        check_config(config)
        if scripted:
            check_script(config)
    except BadValueError as bad:
        place = _source(bad.path, sources) or f"{where}: {_dotted(bad.path)}"
        problem = bad.expected if isinstance(bad, _BadKeyError) else f"expected {bad.expected}"
        found = "" if isinstance(bad, _BadKeyError) else f" = {_shown(bad.value)}"
        raise UsageError(f"{place}{found}: {problem}{'' if problem.endswith('?') else '.'}") from None
    if config.run.seed is None:
        drawn = msgspec.structs.replace(config.run, seed=secrets.randbits(SEED_BITS))
        config = msgspec.structs.replace(config, run=drawn)
    return config


def resolved_toml(config: Config) -> str:
    """The config as a TOML file that loads as the same config."""
    return tomli_w.dumps(_plain(config))


def config_hash(config: Config) -> str:
    """A short name for everything but the seed, so that runs of one scenario can be told from runs of another."""
    seedless = msgspec.structs.replace(config, run=msgspec.structs.replace(config.run, seed=None))
    return hashlib.sha256(resolved_toml(seedless).encode()).hexdigest()[:HASH_DIGITS]


class _BadKeyError(BadValueError):
    # A key that is unknown or missing: there is no value to show, and `expected` is the whole problem.
    def __init__(self, path: _Path, problem: str) -> None:
        super().__init__(path, None, problem)


def _source(path: _Path, sources: dict[str, str]) -> str | None:
    # The option that gave this key, or a table or list around it.
    names = [".".join(map(str, path[:depth])) for depth in range(len(path), 0, -1)]
    return next((sources[name] for name in names if name in sources), None)


def _plain(value: Any) -> Any:
    # TOML has no null: a key without a value is left out.
    if isinstance(value, msgspec.Struct):
        return {key: _plain(item) for key, item in msgspec.structs.asdict(value).items() if item is not None}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _scenario_name(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", path.stem).lstrip(".-")[:64] or "unnamed"


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file{_siblings_hint(path)}") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: is a folder; expected a scenario file (TOML).") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}.") from None
    if len(data) > FILE_BYTES_MAX:
        raise UsageError(f"{path}: larger than {FILE_BYTES_MAX} bytes; expected a scenario file (TOML).")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        found = f"byte {data[error.start]:#04x} at offset {error.start}"
        raise UsageError(f"{path}: {found} is not UTF-8; expected a scenario file (TOML).") from None
    except RecursionError:
        raise UsageError(f"{path}: nested too deeply; expected a scenario file (TOML).") from None
    except ValueError as error:  # tomllib's own error, or an integer of more digits than Python converts
        raise UsageError(f"{path}: not valid TOML: {error}.") from None


def _siblings_hint(path: Path) -> str:
    try:
        stems = [entry.stem for entry in path.parent.iterdir() if entry.suffix == ".toml"]
    except OSError:
        return "."
    hint = did_you_mean(path.stem, stems, suffix=".toml")
    return f"; {hint}" if hint else "."


def _parse_override(override: str) -> tuple[tuple[str, ...], Any]:
    name, equals, text = override.partition("=")
    key = tuple(name.strip().split("."))
    if not equals or not all(key):
        raise UsageError(f"--set {_shown(override)}: expected KEY=VALUE, such as vm.nr_vcpus=8.")
    return key, _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    # A line break in the text could open further keys or tables: then it was no single value.
    return table["value"] if table.keys() == {"value"} else text


def _put(raw: dict[str, Any], key: tuple[str, ...], value: Any, override: str) -> None:
    if key[0] == "slots" and len(key) > 1:
        raw.setdefault("slots", _plain(Config().slots))
    node: Any = raw
    for depth, part in enumerate(key):
        index = _index(node, part)
        if index is None:
            indices = f"0 to {len(node) - 1}" if isinstance(node, list) and node else "no key below it"
            raise UsageError(f"--set {_shown(override)}: {_dotted(key[:depth])} takes {indices}, not {_shown(part)}.")
        if depth == len(key) - 1:
            node[index] = value
        elif isinstance(node, dict):
            node = node.setdefault(index, {})
        else:
            node = node[index]


def _index(node: Any, part: str) -> str | int | None:
    # What `part` selects in a table or list, None where there is nothing to select.
    if isinstance(node, dict):
        return part
    if isinstance(node, list) and part in map(str, range(len(node))):
        return int(part)
    return None


def _build(table: type[msgspec.Struct], raw: Any, path: _Path) -> Any:
    if not isinstance(raw, dict):
        raise BadValueError(path, raw, "a table")
    fields = table_fields(table)
    for name in raw:
        if name not in fields:
            raise _BadKeyError((*path, name), f"unknown key; {_key_hint(name, fields)}")
    values = {name: _convert(fields[name], value, (*path, name)) for name, value in raw.items()}
    for field in fields.values():
        if field.default is msgspec.NODEFAULT and field.name not in values:
            raise _BadKeyError((*path, field.name), f"missing; expected {field.accepted}")
    return table(**values)


def _convert(field: Field, value: Any, path: _Path) -> Any:
    if field.table is not None and not field.repeated:
        return _build(field.table, value, path)
    if field.table is not None and isinstance(value, list):
        value = tuple(_build(field.table, item, (*path, index)) for index, item in enumerate(value))
    try:
        converted = msgspec.convert(value, field.type)
    except (msgspec.ValidationError, UnicodeEncodeError):  # the latter for an argument that was no UTF-8
        raise BadValueError(path, value, field.accepted) from None
    if field.power_of_two and converted & (converted - 1):
        raise BadValueError(path, value, field.accepted)
    return converted


def _key_hint(name: str, fields: dict[str, Field]) -> str:
    elsewhere = [key.name for key in config_keys() if key.name.rpartition(".")[2] == name]
    if elsewhere:
        return f'did you mean "{elsewhere[0]}"?'
    return did_you_mean(name, fields) or f"expected one of {', '.join(fields)}"


def _dotted(path: _Path) -> str:
    return _cut(".".join(part if re.fullmatch(r"[\w-]+", part) else json.dumps(part) for part in map(str, path)))


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):  # hexadecimal has no limit on digits
        return _cut(str(value) if value.bit_length() <= 64 else hex(value))
    if isinstance(value, str):
        return _cut('"' + value.replace('"', '\\"') + '"')
    if isinstance(value, list | tuple):
        return _cut("[" + ", ".join(_shown(item) for item in value[:SHOWN_CHARS_MAX]) + "]")
    if isinstance(value, dict):
        return _cut("{" + ", ".join(f"{key} = {_shown(item)}" for key, item in value.items()) + "}")
    return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 3] + "..."
