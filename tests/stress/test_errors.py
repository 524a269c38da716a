# SPDX-License-Identifier: GPL-2.0-only
"""Messages of errors."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stress.errors import UsageError, did_you_mean


@given(st.text())
def test_a_message_is_one_printable_line(text: str) -> None:
    """Whatever a file or an argument holds, it neither breaks the line nor reaches the terminal as an escape."""
    assert str(UsageError(text)).isprintable()


def test_only_a_near_word_is_suggested() -> None:
    """A wild guess would mislead."""
    assert did_you_mean("levle", ["level", "slots"]) == 'did you mean "level"?'
    assert did_you_mean("zzz", ["level", "slots"]) == ""
