# SPDX-License-Identifier: GPL-2.0-only
"""Does a resource grow? A slope test on samples that are noisy, come in steps and start with a warm-up.

A leak is a series that still grows: the Theil-Sen slope is above zero with high confidence, what it adds up to over the window
is more than the resource's floor, and each part of the window adds its share, which a single step or a plateau after a warm-up
does not do.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["Series", "Trend"]

SAMPLES_MAX = 512
SAMPLES_MIN = 24  # behind the warm-up
WARM_UP = 0.25  # share of the samples at the beginning that is left out
PARTS = 6
EVEN = 0.15  # of the mean growth from part to part: the least that each must add
CONFIDENCE = 0.999


@dataclass(frozen=True)
class Trend:
    """Growth that is no noise.

    Attributes:
        per_hour: slope, in the resource's unit.
        low: lower end of its confidence interval.
        window_s: time that the slope was taken over.
    """

    per_hour: float
    low: float
    window_s: float


class Series:
    """Samples of one resource, thinned by half whenever there are too many, so that a week takes no more room than an hour."""

    def __init__(self, floor: float) -> None:
        """Start empty.

        Args:
            floor: growth over the window that is not worth a word.
        """
        self._floor = floor
        self._times: list[float] = []
        self._values: list[float] = []
        self._stride = 1
        self._skipped = 0

    def add(self, time_s: float, value: float) -> None:
        """Take a sample."""
        self._skipped += 1
        if self._skipped < self._stride:
            return
        self._skipped = 0
        self._times.append(time_s)
        self._values.append(value)
        if len(self._times) == SAMPLES_MAX:
            del self._times[::2], self._values[::2]
            self._stride *= 2

    @property
    def last(self) -> float | None:
        """The newest sample."""
        return self._values[-1] if self._values else None

    def trend(self) -> Trend | None:
        """The growth, or None if the series is flat as far as can be told."""
        warm = int(len(self._times) * WARM_UP)
        times, values = np.array(self._times[warm:]), np.array(self._values[warm:])
        if len(times) < SAMPLES_MIN:
            return None
        medians = [float(np.median(part)) for part in np.array_split(values, PARTS)]
        least = EVEN * (medians[-1] - medians[0]) / (PARTS - 1)
        if any(later - earlier <= max(0.0, least) for earlier, later in itertools.pairwise(medians)):
            return None
        slope, _, low, _ = stats.theilslopes(values, times, alpha=CONFIDENCE)
        window_s = float(times[-1] - times[0])
        if low <= 0 or slope * window_s < self._floor:
            return None
        return Trend(float(slope) * 3600, float(low) * 3600, window_s)
