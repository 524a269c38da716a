# SPDX-License-Identifier: GPL-2.0-only
"""What a process of the harness does first."""

from __future__ import annotations

import ctypes
import os
import signal

__all__ = ["enter_child"]

_PR_SET_PDEATHSIG = 1


def enter_child(parent_pid: int) -> None:
    """Tie the process to its parent: it dies with it, and leaves the signals of the terminal to it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the line above
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
