# SPDX-License-Identifier: GPL-2.0-only
"""Statistics as tables: digits, units and widths."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stress.check.stats import ActorRates, Duration, Overlaps, Rate, Stats, Totals, Unpaired, Yields
from stress.report.tables import count_text, duration_text, stats_text


def actor(name: str, events: int = 1000) -> ActorRates:
    kinds = {"guest_access": Rate(events // 2, 12.5), "kvm_page_fault": Rate(3, 0.5)}
    return ActorRates(name, name.rstrip("0123456789"), Rate(events, 1e6), 5, 5_000_000_005, 0.25, kinds, 0, 0)


def duration(table: str, name: str, role: str = "vcpu") -> Duration:
    return Duration(table, name, role, 84673, 1, 12_345, 999_999, 10**7, 10**8, 10**9, 10**12)


STATS = Stats(
    run="2026-12-01T10-00-00-quick-7",
    policy="all",
    sample=None,
    complete=True,
    problems=(),
    span_ns=5_067_055_026,
    totals=Totals(
        events=Rate(21_872_413, 1e6),
        guest_accesses=Rate(4_658_769, 920_256.3),
        page_faults=Rate(2_701_710, 533_675.9),
        operations={"create": Rate(0, None), "delete": Rate(386, 76.38)},
        results={"retry_stale": Rate(3, 0.593), "fixed": Rate(84_673, 16_726.1)},
        tlb_hit_ratio=0.3726,
    ),
    actors=(actor("vcpu0"), actor("vcpu1"), actor("ctl")),
    durations=(
        duration("holds", "tdp_mmu_pages_lock"),
        duration("holds", "mmu_lock (read)"),
        duration("holds", "mmu_lock (read)", "ctl"),
        duration("waits", "pool_lock"),
        duration("overlaps", "zap_back"),
        duration("requests", "mmu_free_obsolete_roots", "ctl"),
        duration("zaps", "rcu_gp", "rcu"),
    ),
    overlaps=Overlaps({0: 5, 1: 3, 3: 1}, 2, (Yields("back", 69_569, 315),)),
    unpaired=(),
)


class Problem(str):
    """Prints as its text, as a problem of an archive does."""

    __slots__ = ()


# --- numbers


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0ns"),
        (7, "7ns"),
        (999, "999ns"),
        (1000, "1.00us"),
        (12_345, "12.3us"),
        (99_950, "100us"),
        (999_499, "999us"),
        (999_500, "1.00ms"),
        (123_456_789, "123ms"),
        (10**9, "1.00s"),
        (999 * 10**9, "999s"),
        (1234 * 10**9, "1230s"),
        (3600 * 10**9, "1.00h"),
        (7 * 24 * 3600 * 10**9, "168h"),
        (64 * 7 * 24 * 3600 * 10**9, "10750h"),
    ],
)
def test_a_duration_has_three_digits_and_a_unit(ns: int, text: str) -> None:
    """The largest unit that leaves a digit in front of the point; hours from one hour on."""
    assert duration_text(ns) == text


@given(st.integers(0, 10**18))
def test_a_duration_fits_its_column(ns: int) -> None:
    """Six characters hold anything up to a month; the text is within half a percent of the number."""
    text = duration_text(ns)
    assert len(text) <= 6 or ns > 3600 * 10**12
    value = float(text.rstrip("numsh"))
    scale = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "h": 36 * 10**11}[text.lstrip("0123456789.")]
    assert abs(value * scale - ns) <= 0.0051 * ns


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (99_999, "99999"), (100_000, "100k"), (999_999, "1.00M"), (2_701_710, "2.70M"), (10**11, "100G")]
)
def test_a_count_is_exact_as_long_as_it_is_short(count: int, text: str) -> None:
    """Five digits are; more become three and a unit."""
    assert count_text(count) == text


# --- the page


@pytest.mark.parametrize("width", [40, 60, 70, 80, 120])
def test_no_table_is_wider_than_the_terminal(width: int) -> None:
    """Columns that one misses least go first; nothing is wrapped and nothing trails."""
    lines = stats_text(STATS, width).splitlines()
    assert max(map(len, lines[1:])) <= width
    assert all(line == line.rstrip() for line in lines)
    assert any("p99.9" in line for line in lines) == (width >= 70)
    assert any(" min " in line for line in lines) == (width >= 80)


def test_80_columns_hold_everything() -> None:
    """All columns, with the longest names that the schema has."""
    text = stats_text(STATS, 80)
    assert next(line.split() for line in text.splitlines() if "median" in line) == [
        "what",
        "count",
        "min",
        "median",
        "p90",
        "p99",
        "p99.9",
        "max",
        "total",
    ]
    assert "…" not in text
    row = next(line for line in text.splitlines() if line.startswith("mmu_free_obsolete_roots"))
    assert row.split()[1:] == ["84673", "1ns", "12.3us", "1.00ms", "10.0ms", "100ms", "1.00s", "1000s"]


def test_piped_text_is_plain() -> None:
    """Escape sequences only where they were asked for."""
    assert "\x1b" not in stats_text(STATS, 80)
    assert "\x1b[1m" in stats_text(STATS, 80, styled=True)


def test_the_first_line_says_what_is_missing() -> None:
    """Before any number; two problems are named, the others counted."""
    partial = replace(STATS, complete=False, problems=tuple(Problem(f"vcpu{n}: gone\n") for n in range(4)))
    first, second = stats_text(partial, 80).splitlines()[:2]
    assert first == "incomplete: vcpu0: gone\\n; vcpu1: gone\\n; and 2 more (--json has all)"
    assert second == "2026-12-01T10-00-00-quick-7: policy all, 3 actors, 21.9M events in 5.07s"
    assert stats_text(STATS, 80).splitlines()[0] == second


def test_what_is_wrong_but_not_missing_is_a_note() -> None:
    """A foreign file takes nothing away."""
    noted = replace(STATS, problems=(Problem("events/x: foreign"),))
    assert stats_text(noted, 80).startswith("note: events/x: foreign\n")


def test_an_incomplete_log_without_a_known_problem_is_called_so() -> None:
    """It never looks whole."""
    assert stats_text(replace(STATS, complete=False), 80).startswith("incomplete: events are missing\n")


def test_samples_are_called_samples() -> None:
    """With the sampling if the config tells it."""
    sampled = stats_text(replace(STATS, policy="sampled", sample=64), 80)
    assert "guest accesses, sampled 1 in 64 4.66M" in sampled
    assert "guest_access, sampled 1 in 64" in sampled
    assert "sampled accesses/s faults/s" in sampled
    assert "guest accesses, sampled 4.66M" in stats_text(replace(STATS, policy="sampled"), 80)


def test_many_actors_are_three() -> None:
    """The least busy, the middle and the most busy one of a role."""
    vcpus = tuple(actor(f"vcpu{number}", 1000 + (number * 7) % 64) for number in range(64))
    text = stats_text(replace(STATS, actors=(*vcpus, actor("ctl"))), 80)
    shown = [line.split()[0] for line in text.splitlines() if line.startswith(("vcpu", "ctl"))]
    assert shown == ["vcpu0", "vcpu32", "vcpu9", "ctl"]


def test_many_numbers_of_guests_are_ranges() -> None:
    """At most nine rows, and every front half is in one."""
    in_guest = dict.fromkeys(range(65), 1)
    text = stats_text(replace(STATS, overlaps=Overlaps(in_guest, 0, ())), 80)
    counts = [int(line.split()[-1]) for line in text.splitlines() if line.startswith("front halves begun")]
    assert len(counts) <= 9
    assert sum(counts) == 65
    assert "front halves begun with 0 to 8 vCPUs in the guest" in text


def test_unpaired_events_are_shown_if_there_are_any() -> None:
    """With their role, and events that this version does not understand."""
    assert "unpaired" not in stats_text(STATS, 80)
    text = stats_text(replace(STATS, unpaired=(Unpaired("zap_back", "ctl", 1, 0),)), 80)
    assert text.splitlines()[-1].split() == ["zap_back", "ctl", "1", "0"]
    strange = replace(STATS, actors=(replace(actor("vcpu0"), unknown_codes=7, unknown_kinds=9),))
    assert "events with a code unknown to this version" in stats_text(strange, 80)
    assert "unknown kinds" in stats_text(strange, 80)


def test_a_name_cannot_break_a_line() -> None:
    """Names of actors come from files."""
    evil = actor("a\x1b[2J\nb")
    text = stats_text(replace(STATS, run="x\ny", actors=(evil,)), 80)
    assert "\x1b" not in text
    assert "a\\x1b[2J\\nb" in text
    assert text.startswith("x\\ny: ")
