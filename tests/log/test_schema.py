# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/log/schema.py."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from stress.log.control import CONTROL_EVENTS
from stress.log.schema import (
    COLUMNS,
    FIELDS,
    FROZEN_SPTE,
    RECORD_WORDS,
    SCHEMA_VERSION,
    SPTE_BITS,
    WORD_ARG0,
    WORD_GFN,
    Field,
    Kind,
    arrow_schema,
)

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "log.md"


def _cell(field: Field) -> str:
    codes = [f"{code} {name}" for code, name in field.values.items()]
    codes += [f"bit {bit} {name}" for bit, name in enumerate(field.flags)]
    name = "" if field.name == field.column else f" = {field.name}"
    return f"`{field.column}`{name}: {field.meaning}" + (f" ({', '.join(codes)})" if codes else "")


def kind_rows() -> list[str]:
    """The reference page's table of kinds."""
    return [f"| {kind.value} | `{kind.label}` | {'; '.join(_cell(field) for field in FIELDS[kind]) or '-'} |" for kind in Kind]


def column_rows() -> list[str]:
    """The reference page's table of columns."""
    return [f"| `{field.name}` | {field.type} | {COLUMNS[field.name]} |" for field in arrow_schema()]


def spte_rows() -> list[str]:
    """The reference page's table of an SPTE's parts."""
    return [f"| `{part}` | {low} to {low + width - 1} |" for part, (low, width) in SPTE_BITS.items()]


def control_rows() -> list[str]:
    """The reference page's table of control events."""
    return [
        f"| `{event}` | {'; '.join(f'`{name}`: {meaning}' for name, meaning in fields.items()) or '-'} |"
        for event, fields in CONTROL_EVENTS.items()
    ]


def test_the_reference_page_lists_every_kind_column_and_control_event():
    """The page's tables are the schema's, row for row; the assertion shows what to paste."""
    rows = re.findall(r"^\| (?:`|\d).*", REFERENCE.read_text(), re.MULTILINE)
    expected = column_rows() + kind_rows() + spte_rows() + control_rows()
    assert rows == expected, "\n".join(expected)
    assert f"{FROZEN_SPTE:#x} is the frozen SPTE" in REFERENCE.read_text()
    assert f"version {SCHEMA_VERSION}" in REFERENCE.read_text()


def test_every_kind_says_which_columns_it_uses():
    """No kind is undescribed, and no kind describes a column twice or one that does not exist."""
    assert set(FIELDS) == set(Kind)
    for fields in FIELDS.values():
        columns = [field.column for field in fields]
        assert len(set(columns)) == len(columns)
        assert set(columns) <= set(tuple(COLUMNS)[3:])


def test_the_nullable_columns_follow_the_words_of_the_record():
    """The file's columns from gfn on are the record's words from gfn on, in the same order."""
    assert len(COLUMNS) - 3 == RECORD_WORDS - WORD_GFN
    assert tuple(COLUMNS)[3 + WORD_ARG0 - WORD_GFN] == "arg0"


def test_no_column_is_ever_null():
    """A reader takes the buffers as they are; -1 says that a column does not apply."""
    assert not [field.name for field in arrow_schema() if field.nullable]


def test_importing_the_log_imports_neither_pyarrow_nor_the_model():
    """Pyarrow starts threads, which a process that will fork must not have; the log is independent of the model."""
    modules = "schema, ring, events, drain, control, folder"
    code = (
        f"import sys; from stress.log import {modules}; "
        "sys.exit(str({name.split('.')[0] for name in sys.modules} & {'pyarrow', 'model', 'numba'} or '') or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REFERENCE.parents[2])
