# SPDX-License-Identifier: GPL-2.0-only
"""The same loop as one would first write it: plain Python, NumPy arrays in shared memory, multiprocess.Lock.

State, steps, counters and log records are those of the model's hot paths (benchmarks/twin.c lists them); Python has no atomic
operations, so one lock stands for mmu_lock and for every cmpxchg below it, and it is taken for each leaf that a zap clears.

    python -m benchmarks.naive --processes 4
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import multiprocess
import numpy as np

from benchmarks.table import print_facts, print_table

__all__ = ["NaiveGuest", "NaiveVm"]

_RNG_A = 1791398085
_RNG_MASK = (1 << 32) - 1
_LEVELS = 4
_BITS = 9
_ENTRIES = 1 << _BITS
_PRESENT, _LEAF, _WRITABLE, _ACCESSED, _DIRTY = (1 << bit for bit in range(5))
_PFN_SHIFT = 5
_PFN_MASK = (1 << 17) - 1
_INCARNATION_SHIFT = 22
_ROOT_SHIFT = 40
_FROZEN = 0x5A0
_ROOT = 1
_INCARNATION = 16
_SAMPLE = 64
_RING_SLOTS = 4096
_PAGES = 64
_SLOTS = 8
_COUNTERS = ("accesses", "tlb_hits", "tlb_fills", "page_faults", "fixed", "sptes_set", "sptes_zapped", "writebacks", "stale")
_C = {name: n for n, name in enumerate(_COUNTERS)}


class NaiveVm:
    """The shared state: NumPy arrays over one block, and the lock."""

    def __init__(self, nr_vcpus: int, npages: int, tlb_entries: int) -> None:
        shapes: dict[str, tuple[int, ...]] = {
            "ipi_sent": (nr_vcpus,),
            "ipi_acked": (nr_vcpus,),
            "requests": (nr_vcpus,),
            "need_resched": (nr_vcpus,),
            "retry": (nr_vcpus, 2),
            "rng": (nr_vcpus,),
            "rcu_seq": (nr_vcpus,),
            "counter": (nr_vcpus, len(_COUNTERS)),
            "tlb_key": (nr_vcpus, tlb_entries),
            "tlb_spte": (nr_vcpus, tlb_entries),
            "ring_head": (nr_vcpus,),
            "ring": (nr_vcpus, _RING_SLOTS, 8),
            "sample": (nr_vcpus,),
            "invalidate": (2,),
            "slot": (_SLOTS, 4),
            "pt": (_PAGES, _ENTRIES),
            "next_page": (1,),
            "role_invalid": (_PAGES,),
            "frame_tag": (npages,),
            "live": (16, 2),
        }
        forks = multiprocess.get_context("fork")
        words = sum(int(np.prod(shape)) for shape in shapes.values())
        block = np.frombuffer(forks.RawArray("q", words), np.int64)
        start = 0
        for name, shape in shapes.items():
            count = int(np.prod(shape))
            setattr(self, name, block[start : start + count].reshape(shape))
            start += count
        self.lock = forks.Lock()
        self.npages = npages
        self.tlb_entries = tlb_entries
        state: Any = self
        state.next_page[0] = _ROOT + 1
        state.slot[0] = (0, npages, _INCARNATION, 0)
        state.live[0] = (_INCARNATION, _INCARNATION)
        state.frame_tag[:] = _INCARNATION
        state.rng[:] = np.arange(nr_vcpus) + 12345
        state.retry[:, 0] = -1


class NaiveGuest:
    """One vCPU."""

    def __init__(self, vm: Any, me: int) -> None:
        self._vm = vm
        self._me = me

    def _trace(self, *record: int) -> None:
        vm, me = self._vm, self._me
        head = int(vm.ring_head[me])
        vm.ring[me, head % _RING_SLOTS] = (time.monotonic_ns(), *record)
        vm.ring_head[me] = head + 1

    def _draw(self, limit: int) -> int:
        vm, me = self._vm, self._me
        state = int(vm.rng[me])
        state = (state & _RNG_MASK) * _RNG_A + (state >> 32)
        vm.rng[me] = state
        return ((state & _RNG_MASK) * limit) >> 32

    def _count(self, name: str) -> None:
        self._vm.counter[self._me, _C[name]] += 1

    # --- the guest

    def run_accesses(self, count: int) -> int:
        """Up to `count` guest accesses with the faults in between; returns how many were made."""
        vm, me = self._vm, self._me
        made = 0
        while made < count and vm.ipi_sent[me] == vm.ipi_acked[me]:
            gfn, write = int(vm.retry[me, 0]), bool(vm.retry[me, 1])
            if gfn < 0:
                write = self._draw(2) == 0
                gfn = self._draw(vm.npages)
            if self._access(gfn, write=write):
                vm.retry[me, 0] = -1
                made += 1
            else:
                vm.retry[me] = (gfn, write)
                self.fault(gfn, write=write)
        return made

    def _access(self, gfn: int, *, write: bool) -> bool:
        vm, me = self._vm, self._me
        entry = gfn & (vm.tlb_entries - 1)
        spte = int(vm.tlb_spte[me, entry])
        hit = int(vm.tlb_key[me, entry]) == (_ROOT << _ROOT_SHIFT) | gfn and not (write and not spte & _DIRTY)
        if hit:
            self._count("tlb_hits")
        else:
            spte = self._hw_walk(gfn, write=write)
            if spte == 0:
                return False
            vm.tlb_key[me, entry] = (_ROOT << _ROOT_SHIFT) | gfn
            vm.tlb_spte[me, entry] = spte
            self._count("tlb_fills")
        self._count("accesses")
        pfn = (spte >> _PFN_SHIFT) & _PFN_MASK
        incarnation = spte >> _INCARNATION_SHIFT
        retired = int(vm.live[incarnation & 15, 0]) != incarnation
        tag = int(vm.frame_tag[pfn])
        if retired or tag != int(vm.live[incarnation & 15, 1]):
            self._count("stale")
        vm.sample[me] -= 1
        if vm.sample[me] <= 0:
            vm.sample[me] = _SAMPLE
            self._trace(1, gfn, _ROOT, pfn, incarnation, tag, write | retired << 1 | hit << 2)
        return True

    def _hw_walk(self, gfn: int, *, write: bool) -> int:
        vm = self._vm
        table = _ROOT
        for level in range(_LEVELS, 1, -1):
            entry = int(vm.pt[table, (gfn >> ((level - 1) * _BITS)) & (_ENTRIES - 1)])
            if not entry & _PRESENT:
                return 0
            table = (entry >> _PFN_SHIFT) & _PFN_MASK
        index = gfn & (_ENTRIES - 1)
        spte = int(vm.pt[table, index])
        if not spte & _PRESENT:
            return 0
        marked = spte | _ACCESSED | (_DIRTY if write else 0)
        if marked != spte and not self._cmpxchg(table, index, spte, marked):
            return 0
        return marked

    # --- page tables

    def _cmpxchg(self, table: int, index: int, old: int, new: int) -> bool:
        with self._vm.lock:
            if int(self._vm.pt[table, index]) != old:
                return False
            self._vm.pt[table, index] = new
            return True

    def _set_spte(self, gfn: int, table: int, level: int, old: int, new: int) -> None:
        """Under the lock: the change and what follows from it."""
        vm = self._vm
        vm.pt[table, (gfn >> ((level - 1) * _BITS)) & (_ENTRIES - 1)] = new
        self._trace(7, gfn, table, level, -1, old, new)
        if level > 1:
            return
        if new & _PRESENT and not old & _PRESENT:
            self._count("sptes_set")
        if old & _PRESENT and not new & _PRESENT:
            self._count("sptes_zapped")
            if old & (_ACCESSED | _DIRTY):
                self._writeback(gfn, old)

    def _writeback(self, gfn: int, spte: int) -> None:
        vm = self._vm
        pfn = (spte >> _PFN_SHIFT) & _PFN_MASK
        incarnation = spte >> _INCARNATION_SHIFT
        retired = int(vm.live[incarnation & 15, 0]) != incarnation
        tag = int(vm.frame_tag[pfn])
        self._count("writebacks")
        self._trace(28, gfn, _ROOT, pfn, incarnation, tag, int(retired))
        if retired or tag != int(vm.live[incarnation & 15, 1]):
            self._count("stale")

    # --- the fault

    def _memslot(self, gfn: int) -> int:
        for slot in range(_SLOTS):
            base, npages, _, _ = self._vm.slot[slot]
            if base <= gfn < base + npages:
                return slot
        return -1

    def fault(self, gfn: int, *, write: bool) -> None:
        """Map one page, under the lock."""
        vm, me = self._vm, self._me
        self._count("page_faults")
        slot = self._memslot(gfn)
        if slot < 0:
            return
        base, _, incarnation, hva = (int(value) for value in vm.slot[slot])
        sequence = int(vm.invalidate[0])
        pfn = hva + gfn - base
        with vm.lock:
            self._trace(17, -1, -1, -1, -1, 3, 0)
            stale = bool(vm.role_invalid[_ROOT]) or bool(vm.invalidate[1]) or int(vm.invalidate[0]) != sequence
            if not stale:
                vm.rcu_seq[me] += 1
                self._map(gfn, pfn, incarnation, write=write)
                vm.rcu_seq[me] += 1
            self._trace(18, -1, -1, -1, -1, 3, 0)
        self._count("fixed")
        self._trace(6, gfn, _ROOT, pfn, incarnation, 2, int(write))

    def _map(self, gfn: int, pfn: int, incarnation: int, *, write: bool) -> None:
        vm = self._vm
        table = _ROOT
        for level in range(_LEVELS, 1, -1):
            entry = int(vm.pt[table, (gfn >> ((level - 1) * _BITS)) & (_ENTRIES - 1)])
            if entry == _FROZEN:
                return
            if not entry & _PRESENT:
                page = int(vm.next_page[0])
                vm.next_page[0] = page + 1
                new = (page << _PFN_SHIFT) | _PRESENT | _WRITABLE | _ACCESSED
                self._set_spte(gfn, table, level, entry, new)
                entry = new
            table = (entry >> _PFN_SHIFT) & _PFN_MASK
        old = int(vm.pt[table, gfn & (_ENTRIES - 1)])
        if old == _FROZEN or old & _PRESENT:
            return
        new = (incarnation << _INCARNATION_SHIFT) | (pfn << _PFN_SHIFT) | _PRESENT | _LEAF | _WRITABLE | _ACCESSED
        self._set_spte(gfn, table, 1, old, new | (_DIRTY if write else 0))

    def run_faults(self) -> None:
        """Map every page."""
        for gfn in range(self._vm.npages):
            self.fault(gfn, write=gfn & 1 == 1)

    # --- the zap

    def run_zap(self) -> None:
        """Clear every leaf, walking the tables in order."""
        self._zap_table(_ROOT, _LEVELS, 0)

    def _zap_table(self, table: int, level: int, base_gfn: int) -> None:
        vm, me = self._vm, self._me
        for index in range(_ENTRIES):
            if vm.need_resched[me]:
                time.sleep(0)
            gfn = base_gfn + (index << ((level - 1) * _BITS))
            old = int(vm.pt[table, index])
            if not old & _PRESENT:
                continue
            if level > 1:
                self._zap_table((old >> _PFN_SHIFT) & _PFN_MASK, level - 1, gfn)
                continue
            with vm.lock:
                self._set_spte(gfn, table, 1, int(vm.pt[table, index]), 0)


def _together(processes: int, seconds: float) -> tuple[float, float]:
    """Accesses and faults per second of all processes together."""
    forks = multiprocess.get_context("fork")
    vm = NaiveVm(processes, 128, 256)
    totals = forks.RawArray("d", 2 * processes)

    def play(me: int) -> None:
        guest = NaiveGuest(vm, me)
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds / 2:
            done += guest.run_accesses(200)
        totals[2 * me] = done / (time.perf_counter() - start)
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds / 2:
            guest.run_faults()
            done += 128
        totals[2 * me + 1] = done / (time.perf_counter() - start)

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
    most = 2 if options.quick else options.processes
    print_facts(f"python -m benchmarks.naive --processes {most}")
    rows = []
    count = 1
    while count <= most:
        accesses, faults = _together(count, seconds)
        rows.append([str(count), f"{accesses:,.0f}", f"{faults:,.0f}"])
        count *= 2
    print_table(["processes", "accesses/s", "faults/s"], rows)


if __name__ == "__main__":
    main()
