# SPDX-License-Identifier: GPL-2.0-only
"""The planted violations as a whole: every rule has one, and the logs that they are planted in are clean."""

from __future__ import annotations

import pytest

from stress.check.rules import DETAILS
from stress.log.schema import Kind
from stress.verdict import Verdict

from . import sample as sm
from .test_rules_entries import PLANTS as ENTRIES
from .test_rules_roots import PLANTS as ROOTS
from .test_rules_slots import PLANTS as SLOTS
from .test_rules_tables import PLANTS as TABLES
from .test_rules_zaps import PLANTS as ZAPS

PLANTS = [*SLOTS, *TABLES, *ROOTS, *ZAPS, *ENTRIES]
NEVER_PLANTED = {Kind.FINDING}  # what the run's own oracle says; correct runs have none


def test_every_rule_has_a_planted_violation():
    """A rule that is added to stress/check/rules.py needs a log that breaks it."""
    assert {plant.code for plant in PLANTS} == set(DETAILS)


def test_the_samples_have_every_kind_of_event():
    """Otherwise a rule about a kind that never comes would be found kept."""
    seen = {event.kind for log in sm.samples() for event in log.events}
    assert seen == set(Kind) - NEVER_PLANTED


@pytest.mark.parametrize("number", range(len(sm.samples())), ids=lambda number: sm.samples()[number].name)
def test_an_untouched_sample_is_clean(number, tmp_path):
    """What is found in a changed sample comes of the change."""
    result = sm.samples()[number].check(tmp_path / "run")
    assert (result.findings, result.ambiguous, result.problems) == ([], [], []), sm.told(result)
    assert result.verdict is Verdict.PASS
    assert result.events == len(sm.samples()[number].events)


def test_rules_of_two_clocks_are_tried_within_the_window_too():
    """Every finding that has a margin was planted as an ambiguous one as well."""
    by_clock = {plant.code for plant in PLANTS if plant.clock}
    assert {DETAILS[code].rule for code in by_clock} == {
        "I2",
        "I3",
        "I6",
        "I8",
        "I9",
        "I10",
        "I11",
        "I12",
        "I18",
        "I21",
        "I26",
        "I27",
        "lockdep",
    }
