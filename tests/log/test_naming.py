# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/log/naming.py."""

from __future__ import annotations

import pytest

from stress.log.naming import WORD_COLUMNS, event_fields, kind_label, kind_number, named_value
from stress.log.schema import FIELDS, Field, Kind

ACCESS = next(field for field in FIELDS[Kind.GUEST_ACCESS] if field.name == "access")


def test_every_kind_has_a_label_that_leads_back() -> None:
    """Label and number name the same kind."""
    for kind in Kind:
        assert kind_number(kind_label(kind)) == kind


def test_an_unknown_kind_is_called_after_its_number() -> None:
    """What a later version writes is shown and can be selected."""
    assert kind_label(1000) == "unknown_1000"
    assert kind_number("unknown_1000") == 1000


@pytest.mark.parametrize("label", ["", "nonsense", "unknown_", "unknown_-1", "unknown_x", "unknown_123456789", "KVM_EXIT"])
def test_what_is_no_label_has_no_number(label: str) -> None:
    """A misspelt kind is noticed."""
    assert kind_number(label) is None


@pytest.mark.parametrize("number", [*Kind, 0, 1000, -1])
def test_every_column_has_one_field(number: int) -> None:
    """In the order of the record; a column that the kind does not define is called after itself."""
    fields = event_fields(number)
    assert tuple(field.column for field in fields) == WORD_COLUMNS
    defined = {field.column: field for field in FIELDS.get(number, ())}
    for field in fields:
        assert field == defined.get(field.column, Field(field.column, field.column, ""))


@pytest.mark.parametrize(
    ("word", "expected"), [(0, 0), (1, "write"), (0b101, "write|tlb_hit"), (0b10001, "write|0x10"), (0b100000, "0x20")]
)
def test_a_mask_shows_every_bit(word: int, expected: int | str) -> None:
    """Bits without a name are shown as a number."""
    assert named_value(ACCESS, word) == expected
