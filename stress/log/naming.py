# SPDX-License-Identifier: GPL-2.0-only
"""What the words of an event are called: the one place that turns numbers into the names of `stress/log/schema.py`.

Nothing is hidden: a kind, a code or a column that the schema does not define is shown as the number that it is.
"""

from __future__ import annotations

import functools

from stress.log.schema import COLUMNS, FIELDS, Field, Kind

__all__ = ["WORD_COLUMNS", "event_fields", "kind_label", "kind_number", "named_value"]

# The columns that hold a record's words from gfn on; their meaning depends on the kind.
WORD_COLUMNS = tuple(COLUMNS)[3:]

UNKNOWN = "unknown_"
KINDS_CACHED = 256  # more than exist; a damaged file may show more


@functools.lru_cache(KINDS_CACHED)
def kind_label(number: int) -> str:
    """The kind's name; `unknown_1000` for a number that the schema does not have."""
    try:
        return Kind(number).label
    except ValueError:
        return f"{UNKNOWN}{number}"


def kind_number(label: str) -> int | None:
    """The number of a kind by the name that `kind_label` gives it, or None."""
    digits = label.removeprefix(UNKNOWN)
    if digits != label:
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= len("65535") else None
    return next((int(kind) for kind in Kind if kind.label == label), None)


@functools.lru_cache(KINDS_CACHED)
def event_fields(number: int) -> tuple[Field, ...]:
    """The fields of a kind in the order of `WORD_COLUMNS`, one for each; an undefined one is called after its column."""
    try:
        defined = {field.column: field for field in FIELDS[Kind(number)]}
    except ValueError:
        defined = {}
    return tuple(defined.get(column, Field(column, column, "")) for column in WORD_COLUMNS)


def named_value(field: Field, word: int) -> int | str:
    """A code as its name; a mask as the names of its bits joined by `|`, 0 if none is set; else the number itself."""
    if not field.flags:
        return field.values.get(word, word)
    names = [name for bit, name in enumerate(field.flags) if word >> bit & 1]
    unnamed = word >> len(field.flags) << len(field.flags)
    return "|".join([*names, f"{unnamed:#x}"] if unnamed else names) or 0
