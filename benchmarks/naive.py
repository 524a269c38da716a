# SPDX-License-Identifier: GPL-2.0-only
"""The same loop as one would first write it: plain Python, NumPy arrays in shared memory, one multiprocess.Lock.

A guest access looks up a TLB and checks incarnation and tag, a fault walks four levels under the lock and fills an entry, a zap
clears leafs under the lock. No checks of the protocol, no log, no noise: it does far less than the model.

    python -m benchmarks.naive --processes 4
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import multiprocess
import numpy as np

from benchmarks.table import print_facts, print_table

__all__ = ["NaiveGuest"]

_A = 1791398085
_MASK = (1 << 32) - 1
_LEVELS = 4
_BITS = 9
_ENTRIES = 1 << _BITS
_PRESENT = 1
_LEAF = 2
_DIRTY = 16


class _Shared:
    """NumPy arrays over one shared block, and the lock."""

    def __init__(self, nr_vcpus: int, pages: int, frames: int) -> None:
        sizes = {
            "ipi_sent": (nr_vcpus,),
            "ipi_acked": (nr_vcpus,),
            "pt": (pages, _ENTRIES),
            "next_page": (1,),
            "role_invalid": (pages,),
            "frame_tag": (frames,),
            "live": (16, 2),
        }
        words = sum(int(np.prod(shape)) for shape in sizes.values())
        block = np.frombuffer(multiprocess.get_context("fork").RawArray("q", words), np.int64)
        start = 0
        self.arrays: dict[str, Any] = {}
        for name, shape in sizes.items():
            count = int(np.prod(shape))
            self.arrays[name] = block[start : start + count].reshape(shape)
            start += count
        self.lock = multiprocess.get_context("fork").Lock()


class NaiveGuest:
    """One vCPU of the naive version."""

    def __init__(self, npages: int, tlb_entries: int, *, shared: _Shared | None = None, me: int = 0) -> None:
        self._shared = shared or _Shared(1, 64, npages)
        for name, array in self._shared.arrays.items():
            setattr(self, name, array)
        self._me = me
        self._npages = npages
        self._root = 1
        if self._shared.arrays["next_page"][0] == 0:
            self._shared.arrays["next_page"][0] = 2
            self._shared.arrays["live"][0] = (16, 16)
            self._shared.arrays["frame_tag"][:] = 16
        self._tlb_key = np.zeros(tlb_entries, np.int64)
        self._tlb_spte = np.zeros(tlb_entries, np.int64)
        self._rng = 12345 + me
        self.counters = {"accesses": 0, "hits": 0, "faults": 0, "zaps": 0}
        self.stale = 0

    def _draw(self, limit: int) -> int:
        self._rng = (self._rng & _MASK) * _A + (self._rng >> 32)
        return ((self._rng & _MASK) * limit) >> 32

    def _table(self, gfn: int, *, allocate: bool) -> int:
        pt = self._shared.arrays["pt"]
        table = self._root
        for level in range(_LEVELS, 1, -1):
            index = (gfn >> ((level - 1) * _BITS)) & (_ENTRIES - 1)
            entry = int(pt[table, index])
            if not entry & _PRESENT:
                if not allocate:
                    return 0
                page = int(self._shared.arrays["next_page"][0])
                self._shared.arrays["next_page"][0] = page + 1
                pt[table, index] = (page << 5) | _PRESENT
                entry = int(pt[table, index])
            table = (entry >> 5) & 0x1FFFF
        return table

    def _walk(self, gfn: int, *, write: bool) -> int:
        pt = self._shared.arrays["pt"]
        table = self._table(gfn, allocate=False)
        if table == 0:
            return 0
        spte = int(pt[table, gfn & (_ENTRIES - 1)])
        if not spte & _PRESENT:
            return 0
        if write and not spte & _DIRTY:
            with self._shared.lock:
                spte = int(pt[table, gfn & (_ENTRIES - 1)]) | _DIRTY
                pt[table, gfn & (_ENTRIES - 1)] = spte
        return spte

    def access(self, gfn: int, *, write: bool) -> bool:
        """One guest access; False on a fault."""
        entry = gfn % len(self._tlb_key)
        key = (self._root << 40) | gfn
        if self._tlb_key[entry] == key and not (write and not int(self._tlb_spte[entry]) & _DIRTY):
            spte = int(self._tlb_spte[entry])
            self.counters["hits"] += 1
        else:
            spte = self._walk(gfn, write=write)
            if spte == 0:
                return False
            self._tlb_key[entry] = key
            self._tlb_spte[entry] = spte
        self.counters["accesses"] += 1
        incarnation = spte >> 22
        live = self._shared.arrays["live"]
        if live[incarnation & 15, 0] != incarnation:
            self.stale += 1
        elif self._shared.arrays["frame_tag"][(spte >> 5) & 0x1FFFF] != live[incarnation & 15, 1]:
            self.stale += 1
        return True

    def fault(self, gfn: int, *, write: bool) -> None:
        """Map one page under the lock."""
        with self._shared.lock:
            if self._shared.arrays["role_invalid"][self._root]:
                return
            table = self._table(gfn, allocate=True)
            pt = self._shared.arrays["pt"]
            if not int(pt[table, gfn & (_ENTRIES - 1)]) & _PRESENT:
                pt[table, gfn & (_ENTRIES - 1)] = (16 << 22) | (gfn << 5) | _PRESENT | _LEAF | (_DIRTY if write else 0)
        self.counters["faults"] += 1

    def run_accesses(self, count: int) -> None:
        """`count` guest accesses, faults in between where needed."""
        sent, acked = self._shared.arrays["ipi_sent"], self._shared.arrays["ipi_acked"]
        for _ in range(count):
            if sent[self._me] != acked[self._me]:
                return
            write = self._draw(2) == 0
            gfn = self._draw(self._npages)
            while not self.access(gfn, write=write):
                self.fault(gfn, write=write)

    def run_faults(self) -> None:
        """Map every page."""
        for gfn in range(self._npages):
            self.fault(gfn, write=gfn & 1 == 1)

    def run_zap(self) -> None:
        """Clear every leaf, one after another, the lock taken for each as a yielding zap would."""
        pt = self._shared.arrays["pt"]
        for gfn in range(self._npages):
            with self._shared.lock:
                table = self._table(gfn, allocate=False)
                if table and int(pt[table, gfn & (_ENTRIES - 1)]) & _PRESENT:
                    pt[table, gfn & (_ENTRIES - 1)] = 0
                    self.counters["zaps"] += 1


def _together(processes: int, seconds: float) -> tuple[float, float]:
    """Accesses and faults per second of all processes together."""
    forks = multiprocess.get_context("fork")
    shared = _Shared(processes, 64, 128)
    totals = forks.RawArray("d", 2 * processes)
    NaiveGuest(128, 256, shared=shared)  # writes the tags, once

    def play(me: int) -> None:
        guest = NaiveGuest(128, 256, shared=shared, me=me)
        start = time.perf_counter()
        while time.perf_counter() - start < seconds / 2:
            guest.run_accesses(1000)
        totals[2 * me] = guest.counters["accesses"] / (time.perf_counter() - start)
        start = time.perf_counter()
        before = guest.counters["faults"]
        while time.perf_counter() - start < seconds / 2:
            guest.run_faults()
        totals[2 * me + 1] = (guest.counters["faults"] - before) / (time.perf_counter() - start)

    workers = [forks.Process(target=play, args=(me,)) for me in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(totals[0::2]), sum(totals[1::2])


def main(arguments: list[str] | None = None) -> None:
    """Print accesses and faults per second for 1, 2, 4.. processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4, help="largest number of processes")
    parser.add_argument("--quick", action="store_true", help="a fraction of a second, to see that it works")
    options = parser.parse_args(arguments)
    seconds = 0.2 if options.quick else 4.0
    print_facts("python -m benchmarks.naive")
    rows = []
    count = 1
    while count <= (2 if options.quick else options.processes):
        accesses, faults = _together(count, seconds)
        rows.append([str(count), f"{accesses:,.0f}", f"{faults:,.0f}"])
        count *= 2
    print_table(["processes", "accesses/s", "faults/s"], rows)


if __name__ == "__main__":
    main()
