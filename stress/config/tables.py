# SPDX-License-Identifier: GPL-2.0-only
"""From the text of a TOML file to a checked struct of any schema: what is wrong is told with its place and what is accepted."""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING, Any

import msgspec

from stress.config.keys import Field, config_keys, table_fields
from stress.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BadValueError", "build", "dotted", "plain", "put", "read_toml", "refusal", "shown"]

FILE_BYTES_MAX = 1 << 20
SHOWN_CHARS_MAX = 60

KeyPath = tuple[str | int, ...]


class BadValueError(Exception):
    """A value that is not accepted.

    Attributes:
        path: the key, `("slots", 0, "npages")`.
        value: what was found there.
        expected: what is accepted there, to follow the word "expected".
    """

    def __init__(self, path: tuple[str | int, ...], value: Any, expected: str) -> None:
        super().__init__(expected)
        self.path = path
        self.value = value
        self.expected = expected


class BadKeyError(BadValueError):
    """A key that is unknown or missing: there is no value to show, and `expected` is the whole problem."""

    def __init__(self, path: KeyPath, problem: str) -> None:
        super().__init__(path, None, problem)


def plain(value: Any) -> Any:
    """A struct as a table of TOML, which has no null: a key without a value is left out."""
    if isinstance(value, msgspec.Struct):
        return {name: plain(item) for name, item in msgspec.structs.asdict(value).items() if item is not None}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The content of a TOML file; `what` it should have been is for the message.

    Raises:
        UsageError: it cannot be read, or is no TOML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file{_siblings_hint(path)}") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: is a folder; expected {what} (TOML).") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}.") from None
    if len(data) > FILE_BYTES_MAX:
        raise UsageError(f"{path}: larger than {FILE_BYTES_MAX} bytes; expected {what} (TOML).")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        found = f"byte {data[error.start]:#04x} at offset {error.start}"
        raise UsageError(f"{path}: {found} is not UTF-8; expected {what} (TOML).") from None
    except RecursionError:
        raise UsageError(f"{path}: nested too deeply; expected {what} (TOML).") from None
    except ValueError as error:  # tomllib's own error, or an integer of more digits than Python converts
        raise UsageError(f"{path}: not valid TOML: {error}.") from None


def _siblings_hint(path: Path) -> str:
    try:
        stems = [entry.stem for entry in path.parent.iterdir() if entry.suffix == ".toml"]
    except OSError:
        return "."
    hint = did_you_mean(path.stem, stems, suffix=".toml")
    return f"; {hint}" if hint else "."


def put(raw: dict[str, Any], key: tuple[str, ...], value: Any, source: str) -> None:
    """Set one key of a file's content, tables made where they are missing.

    Args:
        raw: the content.
        key: its parts, numbers of list items among them.
        value: what to put there.
        source: where it comes from, for the message.

    Raises:
        UsageError: there is no such place.
    """
    node: Any = raw
    for depth, part in enumerate(key):
        index = _index(node, part)
        if index is None:
            indices = f"0 to {len(node) - 1}" if isinstance(node, list) and node else "no key below it"
            raise UsageError(f"{source}: {dotted(key[:depth])} takes {indices}, not {shown(part)}.")
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


def build(table: type[msgspec.Struct], raw: Any, path: KeyPath = (), *, root: type[msgspec.Struct] | None = None) -> Any:
    """The struct of a table, its parts checked one by one.

    Args:
        table: what to build.
        raw: the table's content.
        path: where it stands.
        root: the schema of the whole file, for hints; the table itself when absent.

    Raises:
        BadValueError: the first value or key that is not accepted.
    """
    root = root or table
    if not isinstance(raw, dict):
        raise BadValueError(path, raw, "a table")
    fields = table_fields(table)
    for name in raw:
        if name not in fields:
            raise BadKeyError((*path, name), f"unknown key; {_key_hint(name, fields, root)}")
    values = {name: _convert(fields[name], value, (*path, name), root) for name, value in raw.items()}
    for field in fields.values():
        if field.default is msgspec.NODEFAULT and field.name not in values:
            raise BadKeyError((*path, field.name), f"missing; expected {field.accepted}")
    return table(**values)


def refusal(bad: BadValueError, place: str) -> UsageError:
    """The line for a value that is not accepted, found at `place`."""
    problem = bad.expected if isinstance(bad, BadKeyError) else f"expected {bad.expected}"
    found = "" if isinstance(bad, BadKeyError) else f" = {shown(bad.value)}"
    return UsageError(f"{place}{found}: {problem}{'' if problem.endswith('?') else '.'}")


def _convert(field: Field, value: Any, path: KeyPath, root: type[msgspec.Struct]) -> Any:
    if field.table is not None and not field.repeated:
        return build(field.table, value, path, root=root)
    if field.table is not None and isinstance(value, list):
        value = tuple(build(field.table, item, (*path, index), root=root) for index, item in enumerate(value))
    try:
        converted = msgspec.convert(value, field.type)
    except (msgspec.ValidationError, UnicodeEncodeError):  # the latter for an argument that was no UTF-8
        raise BadValueError(path, value, field.accepted) from None
    if field.power_of_two and converted & (converted - 1):
        raise BadValueError(path, value, field.accepted)
    return converted


def _key_hint(name: str, fields: dict[str, Field], root: type[msgspec.Struct]) -> str:
    elsewhere = [key.name for key in config_keys(root) if key.name.rpartition(".")[2] == name]
    if elsewhere:
        return f'did you mean "{elsewhere[0]}"?'
    return did_you_mean(name, fields) or f"expected one of {', '.join(fields)}"


def dotted(path: KeyPath) -> str:
    """A key's name as it is written, cut where it is long."""
    return _cut(".".join(part if re.fullmatch(r"[\w-]+", part) else json.dumps(part) for part in map(str, path)))


def shown(value: Any) -> str:
    """A value as it is written, cut where it is long."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):  # hexadecimal has no limit on digits
        return _cut(str(value) if value.bit_length() <= 64 else hex(value))
    if isinstance(value, str):
        return _cut('"' + value.replace('"', '\\"') + '"')
    if isinstance(value, list | tuple):
        return _cut("[" + ", ".join(shown(item) for item in value[:SHOWN_CHARS_MAX]) + "]")
    if isinstance(value, dict):
        return _cut("{" + ", ".join(f"{key} = {shown(item)}" for key, item in value.items()) + "}")
    return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 3] + "..."
