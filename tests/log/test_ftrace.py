# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/log/ftrace.py."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from stress.log.archive import Archive
from stress.log.ftrace import KERNEL_EVENTS, FtraceLayout, trace_header
from stress.log.lines import Lines
from stress.log.schema import FIELDS, Kind
from stress.log.view import Selection, View

from . import run_folder as rf

if TYPE_CHECKING:
    from pathlib import Path

# What a typical parser of the kernel's trace file expects.
LINE = re.compile(r"^\s*(.+)-(\d+)\s+\[(\d{3})\]\s+(\S{4,5})\s+(\d+\.\d{6}): (\w+): (.*)$")

# Lines of a real kernel, and the patterns with which one would look for such lines.
KERNEL = {
    "kvm_entry": (
        "           vcpu0-194     [001] d..1.    15.070800: kvm_entry: vcpu 0, rip 0x1015",
        r"vcpu (\d+), rip 0x([0-9a-f]+)",
    ),
    "kvm_exit": (
        "           vcpu0-194     [001] d..1.    15.070848: kvm_exit: vcpu 0 reason npf rip 0x1007",
        r"vcpu (\d+) reason (\S+) rip 0x([0-9a-f]+)",
    ),
    "kvm_page_fault": (
        "vcpu0-194 [001] ..... 15.070857: kvm_page_fault: vcpu 0 rip 0x1007 address 0x000000001000f000 error_code 0x100000004",
        r"vcpu (\d+) rip 0x([0-9a-f]+) address 0x([0-9a-f]{16}) error_code 0x([0-9a-f]+)",
    ),
    "kvm_tdp_mmu_spte_changed": (
        (
            "      controller-191     [000] ...1.    15.060785: kvm_tdp_mmu_spte_changed: "
            "as id 0 gfn 10000 level 1 old_spte 58dae67 new_spte 8000000000000000"
        ),
        r"as id (\d+) gfn ([0-9a-f]+) level (\d+) old_spte ([0-9a-f]+) new_spte ([0-9a-f]+)",
    ),
    "contention_begin": (
        "           vcpu1-195     [002] d..2.    15.070900: contention_begin: 00000000a1b2c3d4 (flags=SPIN|READ)",
        r"(\S+) \(flags=([A-Z|]+)\)",
    ),
}


def trace(path: Path, events: dict[str, list[tuple[int, ...]]], control: Any = (), **selection: Any) -> list[str]:
    rf.write_run(path, events, complete=False, control=control)
    archive = Archive.open(path)
    layout = FtraceLayout(archive.actors, mark="finding 1")
    layout.name_processes({"vcpu0": 18191, "vcpu12": 4194304})
    lines = Lines(layout)
    text = "".join(lines.text(page) for page in View(archive, Selection(**selection)).pages())
    assert text.endswith("\n")
    return text.splitlines()


def fields(line: str) -> tuple[str, str]:
    match = LINE.match(line)
    assert match is not None, line
    return match[6], match[7]


def one(path: Path, event: tuple[int, ...], actor: str = "vcpu0") -> str:
    return trace(path, {actor: [event]}, actors=frozenset({actor}))[0]


def test_the_layout_is_the_kernels(tmp_path: Path) -> None:
    """Column for column; time is cut to microseconds."""
    event = rf.event(15_070_800_999, Kind.KVM_ENTRY, root=3, arg0=17)
    assert (
        one(tmp_path / "run", event)
        == "           vcpu0-18191   [000] d....    15.070800: kvm_entry: vcpu 0, rip 0x0 root=3 entry_seq=17"
    )


def test_each_actor_has_a_lane(tmp_path: Path) -> None:
    """Its number as CPU, its process, 0 if that is not known; the control log's lane comes last."""
    lines = trace(tmp_path / "run", {"vcpu0": [rf.event(1)], "vcpu12": [rf.event(2)], "ctl": [rf.event(3)]})
    lanes = [match.group(1, 2, 3) for match in map(LINE.match, lines) if match]
    assert lanes == [("control", "0", "003"), ("vcpu0", "18191", "000"), ("vcpu12", "4194304", "001"), ("ctl", "0", "002")]


def test_interrupts_are_off_in_the_guest(tmp_path: Path) -> None:
    """From entry to exit; nothing else is claimed."""
    lines = trace(tmp_path / "run", {"vcpu0": [rf.event(int(kind), kind) for kind in Kind]}, actors=frozenset({"vcpu0"}))
    flags = {kind: match[4] for kind, match in zip(Kind, map(LINE.match, lines), strict=True) if match}
    in_guest = {Kind.KVM_ENTRY, Kind.GUEST_ACCESS, Kind.TLB_FILL, Kind.KVM_EXIT}
    assert flags == {kind: "d...." if kind in in_guest else "....." for kind in Kind}


def test_every_line_is_parsed(tmp_path: Path) -> None:
    """Every kind with every code, kinds and codes that are unknown, columns that are not set, odd control lines."""
    events = [
        rf.event(0, kind, **{field.column: word for field in FIELDS[kind]})
        for kind in Kind
        for word in (0, 1, 2, 3, 7, 77, -1, -5, 2**62)
    ]
    events += [rf.event(0, 1000, gfn=5, arg1=-9), rf.event(0, 0)]
    control = [
        (1, "verdict", {"verdict": "PASS", "reason": 'a "b" = c\n\x1b[31m'}),
        (2, "heartbeat", {"": None, "load": 0.5, "more": [1, {"x": "y z"}], "text": ""}),
    ]
    lines = trace(tmp_path / "run", {"vcpu0": [(10**10 * n, *event[1:]) for n, event in enumerate(events)]}, control)
    assert len(lines) == len(events) + 3
    names = {fields(line)[0] for line in lines}
    assert {"unknown_1000", "run_start", "kvm_tdp_mmu_spte_changed"} <= names


def test_the_pattern_parses_a_real_trace() -> None:
    """It would be no proof otherwise; and it does not parse everything."""
    for name, (line, pattern) in KERNEL.items():
        found, text = fields(line)
        assert found == name
        assert re.fullmatch(pattern, text)
    assert LINE.match("vcpu0 0.1: kvm_entry: vcpu 0") is None


@pytest.mark.parametrize(
    ("event", "values"),
    [
        (rf.event(0, Kind.KVM_ENTRY, root=3, arg0=17), ("0", "0")),
        (rf.event(0, Kind.KVM_EXIT, gfn=2, root=3, arg0=1), ("0", "ipi", "0")),
        (rf.event(0, Kind.KVM_PAGE_FAULT, gfn=0x1000F, root=3, arg0=0, arg1=0), ("0", "0", "000000001000f000", "100000004")),
        (rf.event(0, Kind.KVM_PAGE_FAULT, gfn=1, root=3, pfn=5, arg0=2, arg1=1), ("0", "0", "0000000000001000", "100000006")),
        (rf.event(0, Kind.SPTE_CHANGE, gfn=0x10000, root=9, pfn=1, arg0=0x58DAE67, arg1=0), ("0", "10000", "1", "58dae67", "0")),
        (rf.event(0, Kind.CONTENTION_BEGIN, arg0=4, arg1=1), ("mmu_lock", "SPIN|WRITE")),
        (rf.event(0, Kind.CONTENTION_BEGIN, arg0=3, arg1=0), ("mmu_lock", "SPIN|READ")),
        (rf.event(0, Kind.CONTENTION_BEGIN, arg0=0, arg1=2), ("slots_lock", "MUTEX")),
        (rf.event(0, Kind.CONTENTION_BEGIN, arg0=6, arg1=2), ("tdp_mmu_pages_lock", "SPIN")),
    ],
)
def test_events_of_the_kernel_are_written_as_the_kernel_writes_them(tmp_path: Path, event: Any, values: tuple[str, ...]) -> None:
    """A pattern made for a kernel's trace finds them and their values; what only a run knows follows as name=value."""
    name, text = fields(one(tmp_path / "run", event))
    match = re.match(KERNEL[name][1] + r"((?: \w+=\S+)*)$", text)
    assert match is not None, text
    assert match.groups()[:-1] == values


def test_every_kernel_event_has_its_pattern() -> None:
    """The list above leaves none out."""
    assert {event.name for event in KERNEL_EVENTS.values()} == KERNEL.keys()


def test_nothing_of_a_fault_is_lost(tmp_path: Path) -> None:
    """The fields behind KVM's own are the rest of the event."""
    event = rf.event(0, Kind.KVM_PAGE_FAULT, gfn=1, root=3, pfn=0x88, incarnation=5, arg0=2, arg1=1)
    assert one(tmp_path / "run", event).endswith(" root=3 pfn=0x88 incarnation=5 result=fixed")


def test_an_event_that_lacks_what_kvm_prints_is_shown_as_it_is(tmp_path: Path) -> None:
    """A damaged file: the kind's own name and what there is."""
    assert fields(one(tmp_path / "run", rf.event(0, Kind.SPTE_CHANGE, gfn=5, arg0=1))) == ("spte_change", "gfn=0x5 old_spte=0x1")


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (rf.event(0, Kind.GUEST_ACCESS, gfn=0x1F2, root=3, pfn=0x88, arg1=5), "gfn=0x1f2 root=3 pfn=0x88 access=write|tlb_hit"),
        (rf.event(0, Kind.LOCK_ACQUIRE, arg0=4, arg1=1), "lock=mmu_lock mode=write"),
        (
            rf.event(0, Kind.SLOT_OP_BEGIN, gfn=256, pfn=64, incarnation=3, arg0=2, arg1=1),
            "base_gfn=0x100 base_pfn=0x40 incarnation=3 op=delete slot=1",
        ),
        (rf.event(0, Kind.SRCU_LOCK), ""),
    ],
)
def test_other_events_are_name_and_value(tmp_path: Path, event: Any, text: str) -> None:
    """Frames in hex, codes by name, no blank within a value."""
    assert fields(one(tmp_path / "run", event))[1] == text


def test_a_time_before_the_start_is_0(tmp_path: Path) -> None:
    """No parser expects a minus sign."""
    assert "     0.000000: " in one(tmp_path / "run", rf.event(-5))


def test_a_marked_event_has_a_line_of_trace_marker_before_it(tmp_path: Path) -> None:
    """With the same lane and time."""
    events = {"vcpu0": [rf.event(1000), rf.event(2000, Kind.FINDING, gfn=1, arg0=1, arg1=3)]}
    lines = trace(tmp_path / "run", events, here=("vcpu0", 2000), actors=frozenset({"vcpu0"}))
    assert [fields(line) for line in lines[1:]] == [
        ("tracing_mark_write", "finding 1"),
        ("finding", "gfn=0x1 finding=stale-use invariant=3"),
    ]
    assert lines[1].partition(": ")[0] == lines[2].partition(": ")[0]


def test_the_header_is_the_kernels() -> None:
    """Comments only, the first of which names the tracer; the counts are those of the log."""
    lines = trace_header(("vcpu0", "ctl"), 90, 100).splitlines()
    assert lines[0] == "# tracer: nop"
    assert lines[2] == "# entries-in-buffer/entries-written: 90/100   #P:3"
    assert all(line.startswith("#") for line in lines)
    assert lines[-2] == "#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION"
