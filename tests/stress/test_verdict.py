# SPDX-License-Identifier: GPL-2.0-only
"""One severity order, one table of exit codes."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from stress.errors import HarnessError, UsageError
from stress.verdict import USAGE_EXIT_CODE, Verdict, worst

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "exit-codes.md"


def test_severity_order() -> None:
    """VIOLATION outranks HARNESS_ERROR, which outranks INCONCLUSIVE, which outranks PASS; order of input is nothing."""
    order = [Verdict.VIOLATION, Verdict.HARNESS_ERROR, Verdict.INCONCLUSIVE, Verdict.PASS]
    assert sorted(Verdict, key=lambda verdict: -verdict.severity) == order
    for first, second in itertools.product(Verdict, repeat=2):
        assert worst([first, second]) is min(first, second, key=order.index)


def test_there_is_no_verdict_over_nothing() -> None:
    """No runs are not a PASS."""
    with pytest.raises(ValueError, match="empty"):
        worst([])


def test_exit_codes_are_as_documented() -> None:
    """The page, the enum and the errors agree."""
    documented = re.findall(r"^\| `?\(?(\w+)\)?`? \| (\d+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    expected = {verdict.value: verdict.exit_code for verdict in Verdict} | {"none": USAGE_EXIT_CODE}
    assert {name: int(code) for name, code in documented} == expected
    assert (UsageError.exit_code, HarnessError.exit_code) == (USAGE_EXIT_CODE, Verdict.HARNESS_ERROR.exit_code)
