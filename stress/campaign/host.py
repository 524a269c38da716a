# SPDX-License-Identifier: GPL-2.0-only
"""Heat, as far as the machine tells of it."""

from __future__ import annotations

import psutil

__all__ = ["hottest_c"]


def hottest_c() -> tuple[float | None, bool]:
    """The highest temperature that a sensor shows, in degrees Celsius, and whether one is at what it calls high."""
    sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    found = [sensor for group in sensors.values() for sensor in group]
    hottest = max((float(sensor.current) for sensor in found), default=None)
    return hottest, any(sensor.high and sensor.current >= sensor.high for sensor in found)
