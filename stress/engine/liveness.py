# SPDX-License-Identifier: GPL-2.0-only
"""What can be said of a process from outside: how it ended, whether a signal stopped it."""

from __future__ import annotations

import contextlib
import signal
import time

import psutil

__all__ = ["ending", "is_stopped"]

# So many looks in a row must find a process stopped: Ctrl-Z and its end reach all of them, but not at one moment.
STOPPED_LOOKS = 4
STOPPED_LOOK_S = 0.05


def ending(code: int) -> str:
    """How a process ended that should not have, from its exit code."""
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def is_stopped(pid: int) -> bool:
    """Was this process stopped by a signal, and is it not just being continued?"""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for _ in range(STOPPED_LOOKS):
            if process.status() != psutil.STATUS_STOPPED:
                return False
            time.sleep(STOPPED_LOOK_S)
        return True
    return False
