# SPDX-License-Identifier: GPL-2.0-only
"""What a number of runs proves: exact intervals for shares and rates, one-sided at 95 %.

Without a finding in n runs the share of failing runs is below 1 - 0.05^(1/n), about 3/n (the rule of three); without one in T
seconds the rate is below -ln(0.05)/T. With findings these become the Clopper-Pearson and the Garwood bound.
"""

from __future__ import annotations

from scipy import stats

__all__ = ["CONFIDENCE", "rate_upper", "share_lower", "share_upper"]

CONFIDENCE = 0.95


def share_upper(found: int, runs: int) -> float:
    """Upper bound on the share of runs that fail (Clopper-Pearson)."""
    return 1.0 if found >= runs else float(stats.beta.ppf(CONFIDENCE, found + 1, runs - found))


def share_lower(found: int, runs: int) -> float:
    """Lower bound on the share of runs that fail (Clopper-Pearson)."""
    return 0.0 if found == 0 else float(stats.beta.ppf(1 - CONFIDENCE, found, runs - found + 1))


def rate_upper(found: int, seconds: float) -> float:
    """Upper bound on findings per second (Garwood)."""
    return float("inf") if seconds <= 0 else float(stats.chi2.ppf(CONFIDENCE, 2 * (found + 1))) / 2 / seconds
