# SPDX-License-Identifier: GPL-2.0-only
"""What became worse or better: groups of runs of two campaigns, or of two values of an axis, metric by metric.

Runs are matched in groups, so that like is compared with like. A metric of a group is one comparison. It is a difference only if
two judges say so:

- a test: of Mann and Whitney for what is measured, of Fisher for how often something happens. Its p-values are corrected for the
  number of all comparisons in one call (Holm), so that of campaigns that do not differ at most one in twenty shows any difference.
- a 95 % interval that excludes "no change": for what is measured, of the ratio of the medians (percentiles of a bootstrap); for
  how often something happens, of the difference of the probabilities (Newcombe's, out of Wilson's intervals).

Where all runs of both sides have the same value nothing can differ, and that is no comparison.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct
from scipy import stats

from stress.campaign.bounds import CONFIDENCE
from stress.campaign.groups import JUDGED, quoted
from stress.errors import UsageError, did_you_mean
from stress.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stress.campaign.results import Results

__all__ = ["COSTS", "RUNS_MIN", "Change", "Comparison", "compare_campaigns", "compare_values", "holm", "median_ratio", "newcombe"]

RUNS_MIN = 5  # of each side of a comparison; of fewer, nothing is said
RESAMPLES = 10_000
EXACT_PAIRS_MAX = 400  # beyond, or with ties, the normal approximation is as good
VALUES_NAMED = 8
# Counters of which more is worse. Of all others fewer is: what happens less often is tested less.
COSTS = frozenset({"cancelled_entries", "dwell_timeouts", "halts", "halves_disagreed", "lock_waits"})
# How often runs end like this is compared too.
PROBABILITIES = {"violation": Verdict.VIOLATION.value, "inconclusive": Verdict.INCONCLUSIVE.value}

Key = tuple[Any, ...]


class Change(Struct):
    """A metric that differs between the two sides of a group.

    Attributes:
        group: values of the keys.
        metric: a rate, a quantile, a counter per second; or "violation" or "inconclusive", the probability of this verdict.
        base: its median, or the probability, in the runs that are compared with.
        now: the same in the runs that are compared.
        base_runs: how many there are.
        now_runs: the same.
        change: ratio of the medians, or difference of the probabilities; None if the base's median is 0.
        low: lower end of its interval.
        high: upper end.
        p: of the test, corrected.
        worse: or better.
    """

    group: dict[str, Any]
    metric: str
    base: float
    now: float
    base_runs: int
    now_runs: int
    change: float | None
    low: float | None
    high: float | None
    p: float
    worse: bool


class Comparison(Struct):
    """All of it.

    Attributes:
        base: what is compared with.
        now: what is compared.
        keys: columns by which runs were matched.
        base_runs: number of runs that are compared with, matched or not.
        now_runs: number of runs that are compared.
        groups: number of groups that have runs on both sides.
        only_base: number of groups that have runs only there.
        only_now: the same.
        metrics: number of metrics in all groups that were compared.
        same: of them without a difference.
        too_few: metrics that were not compared, as one side has fewer than `runs_min` runs with it.
        out_of_reach: of `same` those of which so few runs cannot show even the clearest difference.
        runs_min: see there.
        confidence: of the intervals, and of the test of all comparisons together.
        changes: the differences, by group.
    """

    base: str
    now: str
    keys: list[str]
    base_runs: int
    now_runs: int
    groups: int = 0
    only_base: int = 0
    only_now: int = 0
    metrics: int = 0
    same: int = 0
    too_few: int = 0
    out_of_reach: int = 0
    runs_min: int = RUNS_MIN
    confidence: float = CONFIDENCE
    changes: list[Change] = []


@dataclass(frozen=True)
class _Side:
    """Runs as columns of numbers.

    Attributes:
        places: rows of each group, which follow each other.
        values: each metric, NaN where a run has none; of a verdict's probability whether it is the run's.
        more_is_worse: direction of each metric.
    """

    places: dict[Key, slice]
    values: dict[str, Any]
    more_is_worse: dict[str, bool]

    def runs(self, keys: Iterable[Key]) -> int:
        """How many runs some groups have."""
        return sum(self.places[key].stop - self.places[key].start for key in keys)


@dataclass(frozen=True)
class _Pair:
    """One comparison."""

    key: Key
    metric: str
    base: Any
    now: Any
    p: float


def compare_campaigns(base: Results, now: Results, keys: Sequence[str] = ()) -> Comparison:
    """Compare the selected runs of two campaigns.

    Args:
        base: what is compared with.
        now: what is compared.
        keys: columns to match by; else scenario, variant and what varies beside them in either campaign.

    Raises:
        UsageError: one of them lacks a column of `keys`.
    """
    if keys:
        names = now.known("--group", base.known("--group", keys))
    else:
        within = ["scenario", "variant"]
        names = list(dict.fromkeys([*within, *_varying(base, within), *_varying(now, within)]))
    sides = _side(base, names), _side(now, names)
    base_runs, now_runs = (side.runs(side.places) for side in sides)
    done = Comparison(str(base.folder), str(now.folder), names, base_runs, now_runs)
    return _compared(done, [(key, key) for key in sides[0].places | sides[1].places], sides)


def compare_values(results: Results, axis: str, value: str, keys: Sequence[str] = ()) -> Comparison:
    """Compare the selected runs of one campaign that differ in one column.

    Args:
        results: the campaign.
        axis: the column.
        value: its value, as text, in the runs that are compared with.
        keys: columns to match by; else the scenario and what varies beside it and the axis.

    Raises:
        UsageError: no run has that value, or none has another.
    """
    found = results.all_rows(f"select distinct {quoted(axis)} from selected where {JUDGED} order by 1")  # noqa: S608 - a column
    values = {str(other): other for (other,) in found}
    if value not in values or len(values) < 2:
        hint = did_you_mean(value, values) if value not in values else ""
        named = ", ".join(list(values)[:VALUES_NAMED]) + (", ..." if len(values) > VALUES_NAMED else "")
        raise UsageError(
            f"--compare {axis}={value}: the runs have {axis} = {named or 'nothing'}; {hint or 'two values are needed.'}"
        )
    others = keys or ["scenario", *_varying(results, ["scenario", axis])]
    names = [axis, *(name for name in others if name != axis)]
    side = _side(results, names)
    matched = [(key, (values[value], *key[1:])) for key in side.places if key[0] != values[value]]
    base_runs, now_runs = side.runs(key for key in side.places if key[0] == values[value]), side.runs(key for key, _ in matched)
    done = Comparison(f"{axis}={value}", f"other values of {axis}", names, base_runs, now_runs)
    return _compared(done, matched, (side, side))


def _compared(done: Comparison, matched: Iterable[tuple[Key, Key]], sides: tuple[_Side, _Side]) -> Comparison:
    """All comparisons of groups, each given with its key and that of the group that it is compared with."""
    pairs: list[_Pair] = []
    for key, base_key in matched:
        if base_key not in sides[0].places:
            done.only_now += 1
        elif key not in sides[1].places:
            done.only_base += 1
        else:
            done.groups += 1
            pairs += _pairs(done, key, sides, (sides[0].places[base_key], sides[1].places[key]))
    corrected = holm([pair.p for pair in pairs])
    for pair, p in zip(pairs, corrected, strict=True):
        change = _change(pair, done.keys, float(p), more_is_worse=sides[1].more_is_worse[pair.metric])
        if change is not None:
            done.changes.append(change)
        elif _best_p(len(pair.base), len(pair.now)) * len(pairs) > 1 - CONFIDENCE:
            done.out_of_reach += 1
    done.same = done.metrics - len(done.changes)
    return done


def _pairs(done: Comparison, key: Key, sides: tuple[_Side, _Side], places: tuple[slice, slice]) -> Iterable[_Pair]:
    for metric in [name for name in sides[1].values if name in sides[0].values]:
        base, now = (side.values[metric][place] for side, place in zip(sides, places, strict=True))
        base, now = base[~np.isnan(base)], now[~np.isnan(now)]
        if min(len(base), len(now)) < RUNS_MIN:
            done.too_few += len(base) + len(now) > 0
            continue
        done.metrics += 1
        if np.ptp(np.concatenate((base, now))) > 0:
            yield _Pair(key, metric, base, now, _p_of(metric, base, now))


def _p_of(metric: str, base: Any, now: Any) -> float:
    if metric in PROBABILITIES:
        table = [[side.sum(), len(side) - side.sum()] for side in (base, now)]
        return float(stats.fisher_exact(table).pvalue)
    no_ties = len(np.unique(np.concatenate((base, now)))) == len(base) + len(now)
    exact = no_ties and len(base) * len(now) <= EXACT_PAIRS_MAX
    return float(stats.mannwhitneyu(now, base, method="exact" if exact else "asymptotic").pvalue)


def _best_p(base_runs: int, now_runs: int) -> float:
    """The p-value of the clearest difference that so many runs can show."""
    return 2 / math.comb(base_runs + now_runs, now_runs)


def _change(pair: _Pair, names: Sequence[str], p: float, *, more_is_worse: bool) -> Change | None:
    """What differs, if both judges say so."""
    if p > 1 - CONFIDENCE:
        return None
    if pair.metric in PROBABILITIES:
        base, now = float(pair.base.mean()), float(pair.now.mean())
        low, high = newcombe(int(pair.base.sum()), len(pair.base), int(pair.now.sum()), len(pair.now))
        change, none = now - base, 0.0
    else:
        base, now = float(np.median(pair.base)), float(np.median(pair.now))
        seed = zlib.crc32(repr((pair.key, pair.metric)).encode())
        low, high = median_ratio(pair.base, pair.now, seed)
        change, none = now / base if base else math.inf, 1.0
    if low <= none <= high or math.isnan(low):
        return None
    known = math.isfinite(change)
    return Change(
        group=dict(zip(names, pair.key, strict=True)),
        metric=pair.metric,
        base=base,
        now=now,
        base_runs=len(pair.base),
        now_runs=len(pair.now),
        change=change if known else None,
        low=low if known else None,
        high=high if known else None,
        p=p,
        worse=(now > base) == more_is_worse,
    )


# --- statistics


def holm(p_values: Sequence[float]) -> Any:
    """Holm's correction: p-values as if there had been one comparison only."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected


def newcombe(base_count: int, base_runs: int, now_count: int, now_runs: int) -> tuple[float, float]:
    """Interval of the difference of two probabilities, now less base."""
    base, now = base_count / base_runs, now_count / now_runs
    base_wilson = stats.binomtest(base_count, base_runs).proportion_ci(CONFIDENCE, "wilson")
    now_wilson = stats.binomtest(now_count, now_runs).proportion_ci(CONFIDENCE, "wilson")
    return (
        now - base - math.hypot(now - now_wilson.low, base_wilson.high - base),
        now - base + math.hypot(now_wilson.high - now, base - base_wilson.low),
    )


def median_ratio(base: Any, now: Any, seed: int) -> tuple[float, float]:
    """Interval of the ratio of two medians, now to base; NaN where both may be 0."""
    rng = np.random.default_rng(seed)
    base_medians, now_medians = _resampled_medians(base, rng), _resampled_medians(now, rng)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = now_medians / base_medians
    tail = (1 - CONFIDENCE) / 2
    # Not between two of them: the difference of two infinite ratios is no number.
    low, high = np.quantile(ratios, [tail, 1 - tail], method="nearest")
    return float(low), float(high)


def _resampled_medians(values: Any, rng: np.random.Generator) -> Any:
    """Medians of resamples with replacement.

    A resample's k-th smallest value is the value at the k-th smallest of as many uniform places, and that is distributed as
    Beta(k, n + 1 - k): so a median costs two draws, however many values there are.
    """
    values, n = np.sort(values), len(values)
    k = (n + 1) // 2
    lower = rng.beta(k, n + 1 - k, RESAMPLES)
    upper = lower if n % 2 else lower + (1 - lower) * rng.beta(1, n - k, RESAMPLES)
    places = [np.minimum((place * n).astype(int), n - 1) for place in (lower, upper)]
    return (values[places[0]] + values[places[1]]) / 2


# --- out of the table


def _varying(results: Results, within: Sequence[str]) -> list[str]:
    """Columns of the config that have several values in runs that agree in some columns: the axes of the matrix."""
    names = [name for name in results.of_kind("config") if name not in within]
    counts = ", ".join(f"count(distinct {quoted(name)}) as {quoted(name)}" for name in names)
    most = ", ".join(f"max({quoted(name)})" for name in names)
    by = ", ".join(map(quoted, within))
    inner = f"select {counts} from selected where {JUDGED} group by {by}"  # noqa: S608 - names of columns
    (row,) = results.all_rows(f"select {most} from ({inner})")  # noqa: S608 - names of columns
    return [name for name, values in zip(names, row, strict=True) if (values or 0) > 1]


def _side(results: Results, keys: Sequence[str]) -> _Side:
    rates, quantiles = results.of_kind("rates"), results.of_kind("quantiles")
    counters = [name for name in results.of_kind("counters") if f"{name}_per_s" not in results.columns]
    columns = {name: f"try_cast({quoted(name)} as double)" for name in (*rates, *quantiles)}
    columns |= {f"{name}_per_s": f"try_cast({quoted(name)} as double) / nullif(elapsed_s, 0)" for name in counters}
    columns |= {name: f"cast(verdict = '{verdict}' as double)" for name, verdict in PROBABILITIES.items()}
    more_is_worse = dict.fromkeys(rates, False) | dict.fromkeys([*quantiles, *PROBABILITIES], True)
    more_is_worse |= {f"{name}_per_s": name in COSTS for name in counters}
    shown = ", ".join(quoted(name) if name in results.columns else "null" for name in keys)
    measured = ", ".join(f"{sql} as {quoted(name)}" for name, sql in columns.items())
    present = ", ".join(quoted(name) for name in keys if name in results.columns)
    ordered = f"from selected where {JUDGED} order by {present}"
    keyed = results.all_rows(f"select {shown} {ordered}")
    numbers = results.arrays(f"select {measured} {ordered}")
    bounds = [0, *(place for place, (before, after) in enumerate(pairwise(keyed), 1) if before != after), len(keyed)]
    places = {keyed[begin]: slice(begin, end) for begin, end in pairwise(bounds) if end > begin}
    return _Side(places, {name: np.ma.filled(values, np.nan) for name, values in numbers.items()}, more_is_worse)
