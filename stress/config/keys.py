# SPDX-License-Identifier: GPL-2.0-only
"""What each key of the schema accepts, in words: for error messages, and to compare the reference page with."""

from __future__ import annotations

import dataclasses
import typing
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import inspect

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Field", "Key", "Table", "config_keys", "key", "table_fields"]

BIG_BOUND = 2**31  # bounds above it are written as powers of two


def key(meaning: str, *, unit: str = "", accepts: str = "", power_of_two: bool = False, **constraints: float | str) -> msgspec.Meta:
    """What a schema says of one key besides its type.

    Args:
        meaning: a sentence for the reference.
        unit: of its numbers.
        accepts: replaces the wording that is derived from the type where the type does not say it all.
        power_of_two: no other numbers.
        constraints: ge, le or pattern, as `msgspec.Meta` takes them.
    """
    extra = {"unit": unit, "accepts": accepts, "power_of_two": power_of_two}
    checked: dict[str, Any] = constraints
    return msgspec.Meta(description=meaning, extra=extra, **checked)


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of a TOML file."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of one table.

    Attributes:
        type: the annotation, to convert a value to.
        table: the struct of a nested table, or of each element of a list of tables; None for a plain value.
        repeated: the value is a list of tables.
        default: `msgspec.NODEFAULT` if the file must give the key.
        accepted: what may stand there, to follow the word "expected".
    """

    name: str
    type: Any
    table: type[msgspec.Struct] | None
    repeated: bool
    default: Any
    accepted: str
    unit: str
    meaning: str
    power_of_two: bool


@dataclasses.dataclass(frozen=True)
class Key:
    """A field under its full name; `slots[].npages` stands for every slot's."""

    name: str
    field: Field


def table_fields(table: type[msgspec.Struct]) -> dict[str, Field]:
    """The fields of a struct by name."""
    return {field.name: _field(field) for field in msgspec.structs.fields(table)}


def config_keys(table: type[msgspec.Struct], prefix: str = "") -> Iterator[Key]:
    """Every key of a file of this schema, tables opened up, in the order of the schema."""
    for field in table_fields(table).values():
        if field.table is None:
            yield Key(prefix + field.name, field)
        else:
            yield from config_keys(field.table, f"{prefix}{field.name}{'[]' if field.repeated else ''}.")


def _field(raw: msgspec.structs.FieldInfo) -> Field:
    info = inspect.type_info(raw.type)
    if isinstance(info, inspect.UnionType) and isinstance(info.types[0], inspect.Metadata):  # a value or nothing
        info = info.types[0]
    description, extra = "", {}
    if isinstance(info, inspect.Metadata):
        description = (info.extra_json_schema or {}).get("description", "")
        extra = info.extra or {}
        info = info.type
    item = info.item_type if isinstance(info, inspect.VarTupleType) else info
    power_of_two = extra.get("power_of_two", False)
    return Field(
        name=raw.name,
        type=raw.type,
        table=item.cls if isinstance(item, inspect.StructType) else None,
        repeated=item is not info,
        default=raw.default if raw.default_factory is msgspec.NODEFAULT else raw.default_factory(),
        accepted=extra.get("accepts") or _accepted(info, raw.type, power_of_two=power_of_two),
        unit=extra.get("unit", ""),
        meaning=description,
        power_of_two=power_of_two,
    )


def _accepted(info: inspect.Type, annotation: Any, *, power_of_two: bool) -> str:
    match info:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType(ge=low, le=high):
            return f"{'a power of two' if power_of_two else 'an integer'} from {low} to {_bound(high)}"
        case inspect.FloatType(ge=low, le=high):
            return f"a number from {low:g} to {high:g}"
        case inspect.LiteralType():  # its own `values` are sorted; the meaning follows the order of the annotation
            values = typing.get_args(typing.get_args(annotation)[0])
            return "one of " + ", ".join(f'"{value}"' for value in values)
        case inspect.StructType():
            return "a table"
        case inspect.VarTupleType(min_length=low, max_length=high):
            return f"{low} to {high} tables"
    raise TypeError(f"no words for {info}")


def _bound(value: int | None) -> str:
    if value is None or value < BIG_BOUND:
        return str(value)
    return f"2^{value.bit_length()}" + (" - 1" if value & (value + 1) == 0 else "")
