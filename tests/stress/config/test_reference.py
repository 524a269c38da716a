# SPDX-License-Identifier: GPL-2.0-only
"""docs/reference/config.md says what the schema says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec

from stress.config.keys import Key, config_keys, table_fields
from stress.config.schema import Config

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "config.md"


def expected_row(key: Key) -> str:
    field = key.field
    if field.default is msgspec.NODEFAULT:
        default = "required"
    elif field.default is None or key.name == "scenario":
        default = ""
    else:
        default = f"`{json.dumps(field.default)}`"
    name = key.name.rpartition(".")[2]
    return f"| `{name}` | {field.accepted} | {default} | {field.unit} | {field.meaning} |"


def documented_rows() -> dict[str, list[str]]:
    """Rows of the page's key tables by the section that they stand in."""
    rows: dict[str, list[str]] = {}
    section = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ").strip("`[]")
        elif re.match(r"\| `[a-z_]+` \|", line):
            rows.setdefault(section, []).append(line)
    return rows


def test_every_key_is_documented_as_the_schema_has_it() -> None:
    """Key, accepted values, default, unit and meaning are those of the structs, and no key is invented."""
    expected: dict[str, list[str]] = {}
    for key in config_keys(Config):
        section = key.name.rpartition(".")[0].removesuffix("[]") or "Top level"
        expected.setdefault(section, []).append(expected_row(key))
    assert documented_rows() == expected


def test_every_table_is_introduced_by_its_docstring() -> None:
    """The sentence under a table's heading is the docstring of its struct."""
    page = PAGE.read_text(encoding="utf-8")
    for field in table_fields(Config).values():
        if field.table is not None:
            heading = f"## `[[{field.name}]]`" if field.repeated else f"## `[{field.name}]`"
            assert f"{heading}\n{field.table.__doc__}\n" in page
