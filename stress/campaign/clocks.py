# SPDX-License-Identifier: GPL-2.0-only
"""Clock steps and suspends, told by clocks that do not agree any more.

Nothing in a campaign depends on the wall clock: durations are counted by CLOCK_MONOTONIC, which neither jumps nor counts while the
machine is suspended. But whoever reads times in a journal wants to know where they jumped.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ClockWatch"]

STEP_S_MIN = 2.0


class ClockWatch:
    """Compares the wall clock and the time since boot with CLOCK_MONOTONIC."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        boot: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        """Take the first readings; other clocks than the system's are for tests."""
        self._monotonic, self._wall, self._boot = monotonic, wall, boot
        self._asleep_s = boot() - monotonic()
        self._offset_s = wall() - boot()

    def look(self) -> list[tuple[str, str]]:
        """What has happened since the last look: what it is about, and a sentence."""
        notes = []
        asleep_s, offset_s = self._boot() - self._monotonic(), self._wall() - self._boot()
        if asleep_s - self._asleep_s > STEP_S_MIN:
            notes.append(("suspend", f"the machine was suspended for {asleep_s - self._asleep_s:.0f} s, which do not count"))
            self._asleep_s = asleep_s
        if abs(offset_s - self._offset_s) > STEP_S_MIN:
            notes.append(("clock", f"the wall clock was set by {offset_s - self._offset_s:+.0f} s"))
            self._offset_s = offset_s
        return notes
