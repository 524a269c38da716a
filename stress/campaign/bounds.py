# SPDX-License-Identifier: GPL-2.0-only
"""What a number of runs proves: exact intervals for shares and rates, one-sided at 95 %.

Without a finding in n runs the share of failing runs is below 1 - 0.05^(1/n), about 3/n (the rule of three); without one in T
seconds the rate is below -ln(0.05)/T. With findings these become the Clopper-Pearson and the Garwood bound.
"""

from __future__ import annotations

__all__ = ["CONFIDENCE", "rate_upper", "share_lower", "share_upper"]

CONFIDENCE = 0.95

# scipy.special inside the functions: a third of the time of scipy.stats, and that is too slow for whoever asks for no bound.


def share_upper(found: int, runs: int) -> float:
    """Upper bound on the share of runs that fail (Clopper-Pearson)."""
    from scipy.special import betaincinv  # noqa: PLC0415

    return 1.0 if found >= runs else float(betaincinv(found + 1, runs - found, CONFIDENCE))


def share_lower(found: int, runs: int) -> float:
    """Lower bound on the share of runs that fail (Clopper-Pearson)."""
    from scipy.special import betaincinv  # noqa: PLC0415

    return 0.0 if found == 0 else float(betaincinv(found, runs - found + 1, 1 - CONFIDENCE))


def rate_upper(found: int, seconds: float) -> float:
    """Upper bound on findings per second (Garwood)."""
    from scipy.special import gammaincinv  # noqa: PLC0415

    return float("inf") if seconds <= 0 else float(gammaincinv(found + 1, CONFIDENCE)) / seconds
