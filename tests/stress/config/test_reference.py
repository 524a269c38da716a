# SPDX-License-Identifier: GPL-2.0-only
"""The reference pages of the two kinds of files say what their schemas say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from stress.campaign.schema import Campaign
from stress.config.keys import Key, config_keys, table_fields
from stress.config.schema import Config

REFERENCE = Path(__file__).parents[3] / "docs" / "reference"
CELLS = 5
PAGES = pytest.mark.parametrize(("page", "schema"), [("config.md", Config), ("campaign.md", Campaign)])


def expected_row(key: Key) -> str:
    field = key.field
    if field.default is msgspec.NODEFAULT:
        default = "required"
    elif field.default is None or key.name in ("scenario", "campaign"):
        default = ""
    else:
        default = f"`{json.dumps(field.default)}`"
    name = key.name.rpartition(".")[2]
    return f"| `{name}` | {field.accepted} | {default} | {field.unit} | {field.meaning} |"


def documented_rows(page: str) -> dict[str, list[str]]:
    """Rows of the page's key tables by the section that they stand in."""
    rows: dict[str, list[str]] = {}
    section = ""
    for line in (REFERENCE / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ").strip("`[]")
        elif re.match(r"\| `[a-z_]+` \|", line) and line.count("|") == CELLS + 1:
            rows.setdefault(section, []).append(line)
    return rows


@PAGES
def test_every_key_is_documented_as_the_schema_has_it(page: str, schema: type[msgspec.Struct]) -> None:
    """Key, accepted values, default, unit and meaning are those of the structs, and no key is invented."""
    expected: dict[str, list[str]] = {}
    for key in config_keys(schema):
        section = key.name.rpartition(".")[0].removesuffix("[]") or "Top level"
        expected.setdefault(section, []).append(expected_row(key))
    assert documented_rows(page) == expected


@PAGES
def test_every_table_is_introduced_by_its_docstring(page: str, schema: type[msgspec.Struct]) -> None:
    """The sentence under a table's heading is the docstring of its struct."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    for field in table_fields(schema).values():
        if field.table is not None:
            heading = f"## `[[{field.name}]]`" if field.repeated else f"## `[{field.name}]`"
            assert f"{heading}\n{field.table.__doc__}\n" in text
