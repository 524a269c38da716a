# SPDX-License-Identifier: GPL-2.0-only
"""The compiled model against its C11 twin and against plain Python: ns a guest access, a fault, a zapped leaf.

Every contender lives in a process of its own and is asked in turn, round after round, so that whatever else the machine does
hits all of them alike. The compiled model runs its real functions: guest_run() on a populated table, kvm_mmu_page_fault() on
fresh gfns, the back half's walk that clears leafs by cmpxchg. Log policy `sampled`, check level `use`, one vCPU.

    python -m benchmarks.hot_path --rounds 15
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING, Any

import multiprocess

from benchmarks.table import print_facts, print_table, say, spread

if TYPE_CHECKING:
    from collections.abc import Callable

_ACCESS_PAGES = 128  # all of them fit the TLB
_FAULT_PAGES = 2048
_TLB_ENTRIES = 256
_ENTRIES_A_CALL = 20  # times into the guest, 4096 accesses each
_FAULT_CALLS = 20
_NAIVE_ACCESSES = 5000
_WARM_UP_CALLS = 40  # until all pages are mapped, dirty and in the TLB: every fault ends an entry
_KINDS = ("guest access (TLB hit)", "fault", "leaf zap")
_ME = 0


class _ModelRecord:
    """Two records of the model, ready for a vCPU in the guest: one for accesses, one for faults and zaps."""

    def __init__(self) -> None:
        self.accesses = _set_up(_ACCESS_PAGES)
        self.faults = _set_up(_FAULT_PAGES)


def _set_up(npages: int) -> Any:
    from model.layout import ACTOR_CTL, empty_vm, views  # noqa: PLC0415 - after the build has been chosen
    from model.mmu import kvm_mmu_reload  # noqa: PLC0415
    from model.rcu import srcu_read_lock  # noqa: PLC0415
    from model.userspace import userspace_create  # noqa: PLC0415
    from model.vm import SlotSettings, VmSettings, setup_vm  # noqa: PLC0415

    record = empty_vm()
    vm = views(record)
    slots = (SlotSettings(0, npages),)
    settings = VmSettings(
        nr_vcpus=1,
        levels=4,
        bits_per_level=9,
        slots=slots,
        nr_pages=64,
        seed=1,
        tlb_entries=_TLB_ENTRIES,
        check_level="use",
        log_policy="sampled",
        log_sample=64,
        ring_slots=4096,
    )
    setup_vm(vm, settings)
    userspace_create(vm, ACTOR_CTL, 0)
    # Nobody drains the controller's ring, and the vCPU's is emptied by the loops that are measured.
    vm.actor.ring_tail[ACTOR_CTL] = vm.actor.ring_head[ACTOR_CTL]
    srcu_read_lock(vm, _ME)
    kvm_mmu_reload(vm, _ME)
    return record


class _Contender:
    """Loops over one implementation; each measurement returns ns an operation for the three kinds."""

    def __init__(
        self, accesses: Callable[[], int], faults: Callable[[], None], zap: Callable[[], None], warm_up: int = _WARM_UP_CALLS
    ) -> None:
        self._accesses = accesses
        self._faults = faults
        self._zap = zap
        for _ in range(warm_up):
            accesses()
        self.measure(1)

    def measure(self, calls: int) -> tuple[float, float, float]:
        """One sample of each kind."""
        start = time.perf_counter_ns()
        done = self._accesses()
        access = (time.perf_counter_ns() - start) / done
        fault = zap = 0
        for _ in range(calls):
            start = time.perf_counter_ns()
            self._faults()
            middle = time.perf_counter_ns()
            self._zap()
            fault += middle - start
            zap += time.perf_counter_ns() - middle
        return access, fault / (calls * _FAULT_PAGES), zap / (calls * _FAULT_PAGES)


def _compiled(*, instrumented: bool) -> _Contender:
    from model import atomics  # noqa: PLC0415 - the build is chosen before anything compiles

    atomics.engine.instrumented = instrumented
    from benchmarks.drivers import run_accesses, run_faults, run_zap  # noqa: PLC0415
    from stress.config import Perturb  # noqa: PLC0415
    from stress.engine.process import FieldTable, bind_context  # noqa: PLC0415

    records = _ModelRecord()
    fields = FieldTable()

    def on(record: Any) -> int:
        bind_context(record, fields, _ME, Perturb(), 1)
        return int(record.ctypes.data)

    def accesses() -> int:
        run_accesses(on(records.accesses), _ME, _ENTRIES_A_CALL)
        return _ENTRIES_A_CALL * 4096

    def faults() -> None:
        run_faults(on(records.faults), _ME, 0, _FAULT_PAGES)

    def zap() -> None:
        run_zap(on(records.faults), _ME)

    contender = _Contender(accesses, faults, zap)
    _check(records, contender)
    return contender


def _twin() -> _Contender | None:
    from benchmarks.twin import build  # noqa: PLC0415 - needs the model, which the naive contender does not

    twin = build()
    if twin is None:
        return None
    records = _ModelRecord()

    def accesses() -> int:
        twin.run_accesses(records.accesses.ctypes.data, _ME, _ENTRIES_A_CALL)
        return _ENTRIES_A_CALL * 4096

    contender = _Contender(
        accesses,
        lambda: twin.run_faults(records.faults.ctypes.data, _ME, 0, _FAULT_PAGES),
        lambda: twin.run_zap(records.faults.ctypes.data, _ME),
    )
    _check(records, contender)
    return contender


def _check(records: _ModelRecord, contender: _Contender) -> None:
    """What was measured is what was meant: hits, fixed faults, zapped leafs, no finding."""
    from model.constants import C_FAULTS_FIXED, C_GUEST_ACCESSES, C_SPTES_ZAPPED, C_TLB_HITS  # noqa: PLC0415

    before = [record["counter"][0, _ME].copy() for record in (records.accesses, records.faults)]
    contender.measure(1)
    first, second = (
        record["counter"][0, _ME] - old for record, old in zip((records.accesses, records.faults), before, strict=True)
    )
    counted = (first[C_GUEST_ACCESSES], first[C_TLB_HITS], second[C_FAULTS_FIXED], second[C_SPTES_ZAPPED])
    expected = (_ENTRIES_A_CALL * 4096, _ENTRIES_A_CALL * 4096, _FAULT_PAGES, _FAULT_PAGES)
    findings = sum(int(record["run"]["nr_findings"][0, 0]) for record in (records.accesses, records.faults))
    if counted != expected or findings:
        raise RuntimeError(f"counted {counted} instead of {expected}, {findings} findings")


def _naive() -> _Contender:
    from benchmarks.naive import NaiveGuest, NaiveVm  # noqa: PLC0415

    first = NaiveGuest(NaiveVm(1, _ACCESS_PAGES, _TLB_ENTRIES), _ME)
    second = NaiveGuest(NaiveVm(1, _FAULT_PAGES, _TLB_ENTRIES), _ME)
    return _Contender(lambda: first.run_accesses(_NAIVE_ACCESSES), second.run_faults, second.run_zap, warm_up=1)


_CONTENDERS: dict[str, tuple[Callable[[], _Contender | None], int]] = {
    "C11 twin": (_twin, _FAULT_CALLS),
    "compiled model": (lambda: _compiled(instrumented=False), _FAULT_CALLS),
    "compiled, instrumented, no noise": (lambda: _compiled(instrumented=True), _FAULT_CALLS),
    "plain Python": (_naive, 1),
}


def _serve(pipe: Any, name: str) -> None:
    """A contender's process: set up, say so, then measure whenever asked."""
    make, calls = _CONTENDERS[name]
    start = time.perf_counter()
    contender = make()
    pipe.send(None if contender is None else time.perf_counter() - start)
    while contender is not None and pipe.recv() is not None:
        pipe.send(contender.measure(calls))


def main(arguments: list[str] | None = None) -> None:
    """Run all contenders side by side and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="samples a contender")
    parser.add_argument("--quick", action="store_true", help="two rounds, to see that it works")
    options = parser.parse_args(arguments)
    rounds = 2 if options.quick else options.rounds
    print_facts(f"python -m benchmarks.hot_path --rounds {rounds}")
    forks = multiprocess.get_context("fork")
    pipes = {}
    for name in _CONTENDERS:
        mine, theirs = forks.Pipe()
        forks.Process(target=_serve, args=(theirs, name), daemon=True).start()
        theirs.close()
        ready = mine.recv()
        if ready is None:
            say(f"{name}: left out, no C compiler here")
            continue
        pipes[name] = mine
    samples: dict[str, list[tuple[float, float, float]]] = {name: [] for name in pipes}
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send("measure")
            samples[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(None)
    _print(samples)


def _print(samples: dict[str, list[tuple[float, float, float]]]) -> None:
    say("ns an operation, median (smallest-largest); ratio of medians to the compiled model's")
    say()
    base = [statistics.median(sample[n] for sample in samples["compiled model"]) for n in range(len(_KINDS))]
    rows = []
    for name, measured in samples.items():
        row = [name]
        for n in range(len(_KINDS)):
            values = [sample[n] for sample in measured]
            row += [spread(values), f"{statistics.median(values) / base[n]:.2f}"]
        rows.append(row)
    print_table(["", *(cell for kind in _KINDS for cell in (kind, "ratio"))], rows)


if __name__ == "__main__":
    main()
