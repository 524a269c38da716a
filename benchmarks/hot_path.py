# SPDX-License-Identifier: GPL-2.0-only
"""The compiled model against its C11 twin and against plain Python: ns a guest access, a fault, a zapped leaf.

The contenders are asked in turn, round after round, so that whatever else the machine does hits all of them alike. A build of
the model and the twin share a process and a record, so that they share its place in memory too; the instrumented build has its
own process and its own twin. The compiled model runs its real functions: guest_run() on a populated table, kvm_mmu_page_fault() on
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
_FAULT_PAGES = 1536  # what a zap of them logs, two records each, fits the ring
_TLB_ENTRIES = 256
_RING_SLOTS = 4096
_PATIENCE_S = 300.0  # for a contender's next answer, a compilation included
_ENTRIES_A_CALL = 20  # times into the guest
_ACCESSES_AN_ENTRY = 4096  # the default of accesses_per_entry_max
_FAULT_CALLS = 20
_NAIVE_ACCESSES = 5000
_WARM_UP_CALLS = 40  # until all pages are mapped, dirty and in the TLB: every fault ends an entry
_Sample = tuple[float, float, float]
_KINDS = ("guest access (TLB hit)", "fault", "leaf zap")
_ME = 0
_TWIN = "C11 twin"
_PLAIN = "compiled model"
_INSTRUMENTED = "compiled, instrumented, no noise"
_NAIVE = "plain Python"


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
        ring_slots=_RING_SLOTS,
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

    def measure(self, calls: int) -> _Sample:
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


def _native(model_name: str, *, instrumented: bool) -> dict[str, _Contender]:
    """The compiled model in one build, and the twin on the same records where a compiler is."""
    from model import atomics  # noqa: PLC0415 - the build is chosen before anything compiles

    atomics.engine.build = atomics.INSTRUMENTED if instrumented else atomics.PLAIN
    from benchmarks import drivers  # noqa: PLC0415
    from benchmarks.twin import build  # noqa: PLC0415
    from stress.config import Perturb  # noqa: PLC0415
    from stress.engine.process import FieldTable, bind_context  # noqa: PLC0415

    records = _ModelRecord()
    fields = FieldTable()

    def contender(loops: Any) -> _Contender:
        def address(record: Any) -> int:
            bind_context(record, fields, _ME, Perturb(), 1)
            return int(record.ctypes.data)

        def accesses() -> int:
            loops.run_accesses(address(records.accesses), _ME, _ENTRIES_A_CALL)
            return _ENTRIES_A_CALL * _ACCESSES_AN_ENTRY

        def faults() -> None:
            loops.run_faults(address(records.faults), _ME, 0, _FAULT_PAGES)

        def zap() -> None:
            loops.run_zap(address(records.faults), _ME)

        made = _Contender(accesses, faults, zap)
        _check(records, made)
        return made

    twin = build()
    both = {} if twin is None else {_TWIN: contender(twin)}
    return both | {model_name: contender(drivers)}


def _check(records: _ModelRecord, contender: _Contender) -> None:
    """What was measured is what was meant: hits, fixed faults, zapped leafs, no finding."""
    from model.constants import C_FAULTS_FIXED, C_GUEST_ACCESSES, C_SPTES_ZAPPED, C_TLB_HITS  # noqa: PLC0415

    before = [record["counter"][0, _ME].copy() for record in (records.accesses, records.faults)]
    contender.measure(1)
    first, second = (
        record["counter"][0, _ME] - old for record, old in zip((records.accesses, records.faults), before, strict=True)
    )
    counted = (first[C_GUEST_ACCESSES], first[C_TLB_HITS], second[C_FAULTS_FIXED], second[C_SPTES_ZAPPED])
    expected = (_ENTRIES_A_CALL * _ACCESSES_AN_ENTRY, _ENTRIES_A_CALL * _ACCESSES_AN_ENTRY, _FAULT_PAGES, _FAULT_PAGES)
    findings = sum(int(record["run"]["nr_findings"][0, 0]) for record in (records.accesses, records.faults))
    if counted != expected or findings:
        raise RuntimeError(f"counted {counted} instead of {expected}, {findings} findings")


def _naive() -> dict[str, _Contender]:
    from benchmarks.naive import NaiveGuest, NaiveVm  # noqa: PLC0415

    first = NaiveGuest(NaiveVm(1, _ACCESS_PAGES, _TLB_ENTRIES), _ME)
    second = NaiveGuest(NaiveVm(1, _FAULT_PAGES, _TLB_ENTRIES), _ME)
    return {_NAIVE: _Contender(lambda: first.run_accesses(_NAIVE_ACCESSES), second.run_faults, second.run_zap, warm_up=1)}


# One process each.
_GROUPS: tuple[tuple[Callable[[], dict[str, _Contender]], int], ...] = (
    (lambda: _native(_PLAIN, instrumented=False), _FAULT_CALLS),
    (lambda: _native(_INSTRUMENTED, instrumented=True), _FAULT_CALLS),
    (_naive, 1),
)


def _serve(pipe: Any, make: Callable[[], dict[str, _Contender]], calls: int) -> None:
    """A group's process: set up, say so, then measure whenever asked."""
    contenders = make()
    pipe.send(list(contenders))
    while pipe.recv() is not None:
        pipe.send({name: contender.measure(calls) for name, contender in contenders.items()})


def main(arguments: list[str] | None = None) -> None:
    """Run all contenders side by side and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25, help="samples a contender")
    parser.add_argument("--quick", action="store_true", help="two rounds, to see that it works")
    options = parser.parse_args(arguments)
    rounds = 2 if options.quick else options.rounds
    print_facts(f"python -m benchmarks.hot_path --rounds {rounds}")
    forks = multiprocess.get_context("fork")
    pipes = []
    for make, calls in _GROUPS:
        mine, theirs = forks.Pipe()
        forks.Process(target=_serve, args=(theirs, make, calls), daemon=True).start()
        theirs.close()
        _answer(mine)
        pipes.append(mine)
    samples: list[list[dict[str, _Sample]]] = [[] for _ in pipes]
    for _ in range(rounds):
        for pipe, measured in zip(pipes, samples, strict=True):
            pipe.send("measure")
            measured.append(_answer(pipe))
    for pipe in pipes:
        pipe.send(None)
    _print(samples)


def _answer(pipe: Any) -> Any:
    if not pipe.poll(_PATIENCE_S):
        raise RuntimeError(f"a contender has not answered for {_PATIENCE_S:.0f} s")
    return pipe.recv()


def _print(samples: list[list[dict[str, _Sample]]]) -> None:
    plain = samples[0]
    if _TWIN not in plain[0]:
        say("no C compiler here: the twin is left out")
    say("ns an operation: median (smallest-largest)")
    say("x C: median of the ratios to the twin's sample of the same round and process; x compiled: of the medians")
    say()
    rows = []
    for measured in samples:
        for name in measured[0]:
            if measured is not plain and name == _TWIN:
                continue
            row = [name]
            for kind in range(len(_KINDS)):
                values = [sample[name][kind] for sample in measured]
                beside = [sample[name][kind] / sample[_TWIN][kind] for sample in measured if _TWIN in sample]
                model = statistics.median(sample[_PLAIN][kind] for sample in plain)
                row += [spread(values), f"{statistics.median(beside):.2f}" if beside else "-"]
                row.append(f"{statistics.median(values) / model:.2f}")
            rows.append(row)
    print_table(["", *(cell for kind in _KINDS for cell in (kind, "x C", "x compiled"))], rows)


if __name__ == "__main__":
    main()
