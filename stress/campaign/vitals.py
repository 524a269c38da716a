# SPDX-License-Identifier: GPL-2.0-only
"""Vital signs of the harness and of the machine, sampled while a campaign goes on.

What the harness's own long-lived processes take (memory, descriptors, threads), what it leaves in shared memory and temporary
folders, and how large its folder is once the budget holds it: whatever of it grows without end is a finding of the harness.
What the machine does beside (time stolen by a hypervisor, heat, overload) is a note, once each time it begins.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psutil

from stress.campaign.host import hottest_c
from stress.campaign.trend import Series

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RESOURCES_FILE", "Vitals"]

RESOURCES_FILE = "resources.jsonl"
MIB = 1 << 20
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, never written
# Names that multiprocessing gives what it puts there; a run's segment has no name, and goes with its last process.
OF_MULTIPROCESSING = ("psm_", "mp-", "pym-", "sem.mp-")
OWN_TEMPORARY = "zaptorture"
# Growth over the window that is not worth a word, by the last word of the resource's name.
FLOORS = {"uss_mb": 2.0, "rss_mb": 4.0, "fds": 3.0, "threads": 2.0, "bytes": 1.0 * MIB, "entries": 3.0, "disk_mb": 8.0}
STEAL_RATIO = 0.05
LOAD_PER_CPU = 2.0


class Vitals:
    """All series of one campaign."""

    def __init__(self, folder: Path, interval_s: float) -> None:
        """Start with no sample.

        Args:
            folder: of the campaign.
            interval_s: time between two samples.
        """
        self._path = folder / RESOURCES_FILE
        self._interval_s = interval_s
        self._next = time.monotonic()
        self._series: dict[str, Series] = {}
        self._told: set[str] = set()
        self._noted: set[str] = set()
        self._cpu = psutil.cpu_times()

    def is_due(self) -> bool:
        """Is it time for a sample?"""
        return time.monotonic() >= self._next

    def sample(self, processes: dict[str, int], disk_bytes: int | None) -> list[tuple[str, str]]:
        """Take one sample of everything.

        Args:
            processes: ids of the long-lived processes by role.
            disk_bytes: size of the campaign's folder, when a budget holds it; else None.

        Returns:
            Notes on the machine: what each is about, and a sentence.
        """
        now = time.monotonic()
        self._next = now + self._interval_s
        values = dict(self._measure(processes))
        if disk_bytes is not None:
            values["campaign disk_mb"] = disk_bytes / MIB
        for name, value in values.items():
            self._series.setdefault(name, Series(FLOORS[name.rpartition(" ")[2]])).add(now, value)
        host = self._host()
        self._write({"time": time.time(), **{name: round(value, 3) for name, value in (values | host).items()}})
        return list(self._notes(host))

    def _measure(self, processes: dict[str, int]) -> Iterator[tuple[str, float]]:
        for role, pid in {"campaign": os.getpid(), **processes}.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                memory = process.memory_full_info()
                yield f"{role} uss_mb", memory.uss / MIB
                yield f"{role} rss_mb", memory.rss / MIB
                yield f"{role} fds", float(process.num_fds())
                yield f"{role} threads", float(process.num_threads())
        with contextlib.suppress(OSError):
            entries = [entry.stat() for entry in SHARED_MEMORY.iterdir() if entry.name.startswith(OF_MULTIPROCESSING)]
            yield "shared memory bytes", float(sum(entry.st_size for entry in entries if entry.st_uid == os.getuid()))
        with contextlib.suppress(OSError):
            names = os.listdir(tempfile.gettempdir())  # noqa: PTH208 - names alone
            yield "temporary entries", float(sum(name.startswith(OWN_TEMPORARY) for name in names))

    def _host(self) -> dict[str, float]:
        before, self._cpu = self._cpu, psutil.cpu_times()
        passed = sum(self._cpu) - sum(before)
        steal = getattr(self._cpu, "steal", 0.0) - getattr(before, "steal", 0.0)
        hottest, is_high = hottest_c()
        facts = {"steal_ratio": steal / passed if passed > 0 else 0.0, "load_1m": os.getloadavg()[0], "hot": float(is_high)}
        return facts if hottest is None else facts | {"temperature_c": hottest}

    def _notes(self, host: dict[str, float]) -> Iterator[tuple[str, str]]:
        cpus = os.cpu_count() or 1
        signs = {
            "steal": (host["steal_ratio"] > STEAL_RATIO, f"the hypervisor took {host['steal_ratio']:.0%} of the CPU time"),
            "load": (host["load_1m"] > LOAD_PER_CPU * cpus, f"load {host['load_1m']:.1f} on {cpus} CPUs"),
            "heat": (host["hot"] > 0, f"a sensor shows {host.get('temperature_c', 0):.0f} degrees, which it calls high"),
        }
        for about, (is_on, text) in signs.items():
            if is_on and about not in self._noted:
                yield about, text
            (self._noted.add if is_on else self._noted.discard)(about)

    def _write(self, sample: dict[str, float]) -> None:
        with contextlib.suppress(OSError), self._path.open("ab") as file:  # a full disk shows elsewhere
            file.write(msgspec.json.encode(sample) + b"\n")

    def leaks(self) -> list[tuple[str, str]]:
        """Resources that grow and have not been told yet, each with a sentence."""
        found = []
        for name, series in self._series.items():
            trend = series.trend() if name not in self._told else None
            if trend is not None:
                self._told.add(name)
                grows = f"{name} grows by {trend.per_hour:.3g} an hour (at least {trend.low:.3g})"
                found.append((name, f"{grows}, now {series.last:.4g}, over {trend.window_s / 60:.0f} min"))
        return found
