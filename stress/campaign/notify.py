# SPDX-License-Identifier: GPL-2.0-only
"""Signs of life: a heartbeat file for scripts, and messages to systemd for a service of `Type=notify`.

systemd names a socket in NOTIFY_SOCKET and, with `WatchdogSec=`, a time in WATCHDOG_USEC: without a sign of life in that time it
ends the service and starts it again. The signs come from the loop that does the work, never from a thread that would go on
while the loop hangs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Any

import msgspec

from stress.errors import HarnessError
from stress.log.folder import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["HEARTBEAT_FILE", "Heartbeat", "notify_systemd"]

HEARTBEAT_FILE = "heartbeat.json"
HEARTBEAT_S = 5.0


def notify_systemd(*lines: str) -> None:
    """Send a message such as `READY=1`, if systemd wants any."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        # A leading @ stands for the NUL of an abstract address.
        sender.connect("\0" + address[1:] if address.startswith("@") else address)
        sender.sendall("\n".join(lines).encode())


class Heartbeat:
    """Gives a sign of life every few seconds, from the loop that works."""

    def __init__(self, folder: Path) -> None:
        """Start at once.

        Args:
            folder: of the campaign.
        """
        self._path = folder / HEARTBEAT_FILE
        watchdog_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
        self._interval_s = min(HEARTBEAT_S, watchdog_s / 3) if watchdog_s else HEARTBEAT_S
        self._next = time.monotonic()

    def is_due(self) -> bool:
        """Is it time?"""
        return time.monotonic() >= self._next

    def beat(self, status: str, **facts: Any) -> None:
        """Write the file and tell systemd; a full disk does not end a soak here."""
        self._next = time.monotonic() + self._interval_s
        with contextlib.suppress(HarnessError):
            write_atomic(self._path, msgspec.json.encode({"time": time.time(), "pid": os.getpid(), "status": status, **facts}))
        notify_systemd("WATCHDOG=1", f"STATUS={status}")
