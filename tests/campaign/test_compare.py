# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/campaign/compare.py: each statistic fires on a difference and stays silent without one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from model.constants import COUNTERS
from stress.campaign import compare
from stress.campaign.compare import COSTS, RUNS_MIN, compare_campaigns, compare_values, holm, median_ratio, newcombe
from stress.campaign.results import open_results
from stress.errors import UsageError

from .journals import campaign, record

if TYPE_CHECKING:
    from stress.campaign.compare import Comparison

SEEDS = 200


def sides(seed: int, factor: float, runs: int = 20, metrics: int = 10) -> Comparison:
    """Two sets of random runs, in which one metric of the second set differs by a factor."""
    rng = np.random.default_rng(seed)
    made = []
    for scale in (1.0, factor):
        values = {f"rate{number}_per_s": rng.lognormal(10, 0.05, runs) for number in range(metrics)}
        values["rate0_per_s"] *= scale
        made.append(compare._Side({("quick",): slice(0, runs)}, values, dict.fromkeys(values, False)))
    done = compare.Comparison("base", "now", ["scenario"], runs, runs)
    return compare._compared(done, [(("quick",), ("quick",))], (made[0], made[1]))


def test_of_campaigns_that_do_not_differ_few_show_a_difference():
    """At most one in twenty shows any at all, however many metrics there are."""
    found = sum(bool(sides(seed, 1.0).changes) for seed in range(SEEDS))
    assert stats.binom.sf(found - 1, SEEDS, 0.05) > 0.001


def test_a_regression_of_ten_percent_is_found():
    """In the right metric, with the right sign, and with an interval around it."""
    covered = 0
    for seed in range(50):
        done = sides(seed, 0.9)
        (change,) = [change for change in done.changes if change.metric == "rate0_per_s"]
        assert change.worse
        assert change.change == pytest.approx(0.9, abs=0.06)
        assert change.low < change.change < change.high < 1
        covered += change.low <= 0.9 <= change.high
    assert covered >= 43  # of 50 intervals of 95 %, all but one in a thousand times


def test_a_gain_of_ten_percent_is_better():
    """The same the other way round."""
    (change,) = [change for change in sides(1, 1.1).changes if change.metric == "rate0_per_s"]
    assert not change.worse
    assert change.low > 1


# --- whole campaigns


def noisy(folder: Path, seed: int, *, runs: int = 20, counters: dict[str, float] | None = None, **factors: float) -> Path:
    """A campaign of two numbers of vCPUs whose values scatter by 3 %; some of them by a factor higher.

    Args:
        folder: where.
        seed: of the noise.
        runs: of each number of vCPUs.
        counters: counters and their mean.
        factors: what the mean of a rate or quantile is multiplied by; `violation` is the share of runs with a finding.
    """
    rng = np.random.default_rng(seed)

    def around(mean: float) -> float:
        return mean * rng.normal(1, 0.03)

    return campaign(
        folder,
        [
            record(
                number,
                vcpus=(2, 8)[number % 2],
                counters={name: round(around(mean)) for name, mean in (counters or {}).items()},
                rates={"deletes_per_s": around(100 * factors.get("deletes_per_s", 1))},
                quantiles={"hold_p99_ns": around(5000 * factors.get("hold_p99_ns", 1))},
                verdict="VIOLATION" if number < 2 * runs * factors.get("violation", 0) else "PASS",
            )
            for number in range(2 * runs)
        ],
    )


def against(base: Path, now: Path, *keys: str) -> Comparison:
    with open_results(base) as old, open_results(now) as new:
        return compare_campaigns(old, new, keys)


def found(done: Comparison) -> set[tuple[str, bool]]:
    """Metrics that differ, and whether they are worse."""
    return {(change.metric, change.worse) for change in done.changes}


def test_campaigns_alike_show_no_difference(tmp_path):
    """Everything is counted, nothing is listed."""
    done = against(noisy(tmp_path / "a", 1), noisy(tmp_path / "b", 2))
    assert (done.changes, done.groups, done.metrics, done.same) == ([], 2, 8, 8)
    assert done.keys == ["scenario", "variant", "vcpus"]
    assert (done.base_runs, done.now_runs, done.too_few, done.only_base, done.only_now) == (40, 40, 0, 0, 0)


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ({"deletes_per_s": 0.9}, ("deletes_per_s", True)),
        ({"deletes_per_s": 1.1}, ("deletes_per_s", False)),
        ({"hold_p99_ns": 1.1}, ("hold_p99_ns", True)),
        ({"hold_p99_ns": 0.9}, ("hold_p99_ns", False)),
        ({"violation": 0.7}, ("violation", True)),
    ],
)
def test_each_metric_knows_which_way_is_worse(factors, expected, tmp_path):
    """Fewer of a rate, more of a time, more findings."""
    done = against(noisy(tmp_path / "a", 1), noisy(tmp_path / "b", 2, **factors))
    assert found(done) == {expected}
    assert done.same == done.metrics - len(done.changes)


@pytest.mark.parametrize(("counter", "worse"), [("lock_waits", True), ("moves", False)])
def test_counters_are_compared_per_second(counter, worse, tmp_path):
    """More of a cost is worse; more of anything else is better, since it is tested more."""
    base = noisy(tmp_path / "a", 1, counters={counter: 1000})
    done = against(base, noisy(tmp_path / "b", 2, counters={counter: 1200}))
    assert found(done) == {(f"{counter}_per_s", worse)}
    assert {round(change.base) for change in done.changes} == {100}


def test_costs_are_counters():
    """A counter that is renamed is renamed here too, and on the page."""
    assert set(COUNTERS) >= COSTS
    page = (Path(__file__).parents[2] / "docs" / "reference" / "results.md").read_text(encoding="utf-8")
    assert f"| {', '.join(f'`{name}`' for name in sorted(COSTS))} per second | more |" in page


def test_what_was_not_there_has_no_ratio(tmp_path):
    """From nothing to something is a difference; how large it is, no percentage can say."""
    base = noisy(tmp_path / "a", 1, counters={"moves": 0})
    done = against(base, noisy(tmp_path / "b", 2, counters={"moves": 50}))
    assert found(done) == {("moves_per_s", False)}
    assert {(change.change, change.low, change.high) for change in done.changes} == {(None, None, None)}
    back = against(tmp_path / "b", base)
    assert {(change.change, change.high, change.worse) for change in back.changes} == {(0.0, 0.0, True)}


def test_a_difference_of_probabilities_has_an_interval(tmp_path):
    """In absolute terms, around the difference."""
    done = against(noisy(tmp_path / "a", 1), noisy(tmp_path / "b", 2, violation=0.7))
    for change in done.changes:
        assert (change.base, change.now, change.change) == pytest.approx((0.0, 0.7, 0.7), abs=0.05)
        assert 0 < change.low < change.change < change.high < 1


def test_of_few_runs_nothing_is_said(tmp_path):
    """No interval is invented; the metrics are counted."""
    done = against(noisy(tmp_path / "a", 1, runs=RUNS_MIN - 1), noisy(tmp_path / "b", 2, deletes_per_s=0.1))
    assert (done.metrics, done.changes, done.too_few) == (0, [], 8)


def test_differences_that_so_few_runs_cannot_show_are_counted(tmp_path):
    """Even the clearest one is no proof then: no difference is not the same as not enough runs."""
    counters = {"acks": 1000, "creates": 1000, "moves": 1000}
    base = noisy(tmp_path / "a", 1, runs=RUNS_MIN, counters=counters)
    few = against(base, noisy(tmp_path / "b", 2, runs=RUNS_MIN, counters=counters, deletes_per_s=0.1))
    enough = against(noisy(tmp_path / "c", 1), noisy(tmp_path / "d", 2))
    assert (few.out_of_reach, few.changes) == (10, [])
    assert enough.out_of_reach == 0


def test_runs_that_say_nothing_are_left_out(tmp_path):
    """Planted runs and errors of the harness."""
    base = campaign(tmp_path / "a", [record(number) for number in range(10)])
    others = [record(10, role="planted", verdict="VIOLATION"), record(11, verdict="HARNESS_ERROR")]
    done = against(base, campaign(tmp_path / "b", [*(record(number) for number in range(10)), *others]))
    assert (done.base_runs, done.now_runs, done.changes) == (10, 10, [])


def test_groups_of_one_side_are_counted(tmp_path):
    """They are compared with nothing; other keys may match them."""
    base = campaign(tmp_path / "a", [record(number, vcpus=(2, 4)[number % 2]) for number in range(20)])
    now = campaign(tmp_path / "b", [record(number, vcpus=(4, 8)[number % 2]) for number in range(20)])
    done = against(base, now)
    assert (done.groups, done.only_base, done.only_now) == (1, 1, 1)
    assert against(base, now, "variant").groups == 1
    with pytest.raises(UsageError, match=r"--group vcpu: no such column; did you mean \"vcpus\"\?"):
        against(base, now, "vcpu")


def test_an_axis_that_one_campaign_lacks_matches_nothing(tmp_path):
    """What it would have been there nobody knows."""
    base = campaign(tmp_path / "a", [record(number) for number in range(10)])
    now = campaign(tmp_path / "b", [record(number, levels=2 + number % 2) for number in range(20)])
    done = against(base, now)
    assert (done.keys, done.groups, done.only_base, done.only_now) == (["scenario", "variant", "levels"], 0, 1, 2)


# --- values of one axis


@pytest.fixture
def variants(tmp_path) -> Path:
    """Three variants on two numbers of vCPUs; `held` is slower. An axis of several keys names the variants too."""
    rng = np.random.default_rng(1)
    means = {"split": 100, "split-once": 100, "held": 80}
    records = [
        record(
            number,
            variant=variant,
            vm=f"vm.variant={variant}",
            vcpus=(2, 8)[number % 2],
            rates={"deletes_per_s": means[variant] * rng.normal(1, 0.03)},
            quantiles={},
            counters={},
        )
        for number, variant in enumerate(list(means) * 40)
    ]
    return campaign(tmp_path / "variants", records)


@pytest.mark.parametrize("axis", ["variant", "vm"])
def test_other_values_are_compared_with_the_named_one(axis, variants):
    """Matched by what varies beside the axis; what only follows from it does not hinder."""
    value = "split-once" if axis == "variant" else "vm.variant=split-once"
    with open_results(variants) as results:
        done = compare_values(results, axis, value)
    assert done.keys == [axis, "scenario", "vcpus"]
    assert (done.groups, done.base_runs, done.now_runs) == (4, 40, 80)
    assert {(change.group[axis].rpartition("=")[2], change.group["vcpus"], change.worse) for change in done.changes} == {
        ("held", 2, True),
        ("held", 8, True),
    }


def test_a_value_that_no_run_has_is_refused(variants):
    """The values that there are, and the one that was meant."""
    with open_results(variants) as results:
        with pytest.raises(UsageError, match=r'--compare variant=splt: .* held, split, split-once; did you mean "split"\?'):
            compare_values(results, "variant", "splt")
        with pytest.raises(UsageError, match=r"--compare scenario=quick: the runs have scenario = quick; two values are needed\."):
            compare_values(results, "scenario", "quick")


# --- statistics


@given(st.lists(st.floats(0, 1), max_size=30))
def test_holm_only_raises_p_values(p_values):
    """Never above 1, never out of their order."""
    corrected = holm(p_values)
    assert all(before <= after <= 1 for before, after in zip(p_values, corrected, strict=True))
    assert list(corrected[np.argsort(p_values, kind="stable")]) == sorted(corrected)


def test_holm_gives_the_numbers_of_the_book():
    """Four tests: the smallest counts four times, the next three times, and so on."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_newcombe_gives_the_numbers_of_the_paper():
    """Newcombe 1998, table II, method 10: 56 of 70 against 48 of 80, and 9 of 10 against 3 of 10."""
    assert newcombe(48, 80, 56, 70) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert newcombe(3, 10, 9, 10) == pytest.approx((0.1705, 0.8090), abs=1e-4)


@pytest.mark.parametrize("runs", [1, 2, 9, 10])
def test_medians_are_those_of_a_plain_bootstrap(runs):
    """Drawn from their distribution, without resamples."""
    values = np.random.default_rng(runs).normal(size=runs)
    rng = np.random.default_rng(1)
    drawn = compare._resampled_medians(values, rng)
    plain = np.median(rng.choice(values, (compare.RESAMPLES, runs)), axis=1)
    assert set(np.unique(drawn).round(12)) >= set(np.quantile(plain, [0.1, 0.5, 0.9], method="nearest").round(12))
    assert stats.ks_2samp(drawn, plain).pvalue > 0.001


def test_the_interval_of_a_ratio_covers_it_as_often_as_it_says():
    """Nineteen times in twenty, or a little more often."""
    covered = 0
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        low, high = median_ratio(rng.lognormal(0, 0.1, 20), 2 * rng.lognormal(0, 0.1, 20), seed)
        covered += low <= 2 <= high
    assert 0.9 <= covered / SEEDS <= 0.995


def test_the_interval_is_the_same_each_time():
    """Its draws are seeded by what is compared."""
    values = np.arange(1.0, 12.0)
    assert median_ratio(values, values * 2, 5) == median_ratio(values, values * 2, 5)
