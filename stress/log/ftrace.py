# SPDX-License-Identifier: GPL-2.0-only
"""The layout `trace`: the text of the kernel's `trace` file, so that tools and habits made for it work on a run.

```
           vcpu0-18191   [000] d....     1.234567: kvm_entry: vcpu 0, rip 0x0 root=3 entry_seq=17
            comm-pid     [cpu] flags      seconds: event: fields
```

What a run does not have is replaced:

- comm is the actor; pid is its process (0 if the control log does not name it).
- cpu is the actor's number, one lane for each, since a log does not know on which CPU an actor ran. The control log's
  lane is behind those of the actors.
- flags are `d` (interrupts off) for what happens in the guest, from entry to exit; everything else is `.`.
- The time has microseconds, as in the kernel: digits are lost, and events of one microsecond look simultaneous. The
  order of the lines is that of the nanoseconds.
- Events that KVM has under the same meaning are written as KVM's tracepoint writes them, with the fields that only a run
  has behind them as name=value (`KERNEL_EVENTS`); the model has no instructions, so rip is 0x0. All others have their own
  name and name=value, frames in hex.
- A marked event has a line of its own before it, as if somebody had written to `trace_marker`.
"""

from __future__ import annotations

import json
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from stress.errors import one_line
from stress.log.lines import Shape, Texts
from stress.log.naming import event_fields, kind_label, named_value
from stress.log.schema import Field, Kind
from stress.log.view import CONTROL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

__all__ = ["KERNEL_EVENTS", "FtraceLayout", "KernelEvent", "trace_header"]

NS_PER_S = 1_000_000_000
NS_PER_US = 1000

_IN_GUEST = frozenset({Kind.KVM_ENTRY, Kind.KVM_EXIT, Kind.GUEST_ACCESS, Kind.TLB_FILL})
_FRAMES = frozenset({"gfn", "pfn", "base_gfn", "base_pfn", "next_gfn", "start", "end"})
_HEX = frozenset({"spte", "old_spte", "new_spte"})

# AMD's error code of a nested page fault: the final access, by the guest's user mode; bit 1 is a write.
_ERROR_CODE = 0x1_0000_0004
_CONTENTION_FLAGS = {
    "slots_lock": "MUTEX",
    "slots_arch_lock": "MUTEX",
    "mmu_lock (read)": "SPIN|READ",
    "mmu_lock (write)": "SPIN|WRITE",
}


class KernelEvent(NamedTuple):
    """An event in KVM's own words.

    Attributes:
        name: the tracepoint.
        template: what it prints, with a `%` conversion for each value.
        values: `vcpu`, or a column and what it becomes: `name`, `error_code`, `lock`, `contention`; "" leaves the number.
        says: columns that need not be repeated behind it.
    """

    name: str
    template: str
    values: tuple[tuple[str, str], ...]
    says: frozenset[str]


_VCPU = ("vcpu", "")

KERNEL_EVENTS: Mapping[Kind, KernelEvent] = MappingProxyType(
    {
        Kind.KVM_ENTRY: KernelEvent("kvm_entry", "vcpu %s, rip 0x0", (_VCPU,), frozenset()),
        Kind.KVM_EXIT: KernelEvent("kvm_exit", "vcpu %s reason %s rip 0x0", (_VCPU, ("arg0", "name")), frozenset({"arg0"})),
        # The kernel prints an address in 16 digits; a gfn is that without the last three.
        Kind.KVM_PAGE_FAULT: KernelEvent(
            "kvm_page_fault",
            "vcpu %s rip 0x0 address 0x%013x000 error_code 0x%s",
            (_VCPU, ("gfn", ""), ("arg1", "error_code")),
            frozenset({"gfn", "arg1"}),
        ),
        Kind.SPTE_CHANGE: KernelEvent(
            "kvm_tdp_mmu_spte_changed",
            "as id 0 gfn %x level %d old_spte %x new_spte %x",
            (("gfn", ""), ("pfn", ""), ("arg0", ""), ("arg1", "")),
            frozenset({"gfn", "pfn", "arg0", "arg1"}),
        ),
        Kind.CONTENTION_BEGIN: KernelEvent(
            "contention_begin", "%s (flags=%s)", (("arg0", "lock"), ("arg0", "contention")), frozenset({"arg0", "arg1"})
        ),
    }
)

_HEADER = """\
# tracer: nop
#
# entries-in-buffer/entries-written: {logged}/{recorded}   #P:{lanes}
#
#                                _-----=> irqs-off/BH-disabled
#                               / _----=> need-resched
#                              | / _---=> hardirq/softirq
#                              || / _--=> preempt-depth
#                              ||| / _-=> migrate-disable
#                              |||| /     delay
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
"""


def trace_header(actors: Sequence[str], logged: int, recorded: int) -> str:
    """The lines before the first event.

    Args:
        actors: the actors' names, one lane each.
        logged: events in the log.
        recorded: events that the actors recorded.
    """
    return _HEADER.format(logged=logged, recorded=recorded, lanes=len(actors) + 1)


class FtraceLayout:
    """The kernel's `trace` file, line by line."""

    def __init__(self, actors: Sequence[str], mark: str = "") -> None:
        """Of events of these actors.

        Args:
            actors: their names.
            mark: what is written before a marked event.
        """
        self._names = [*actors, CONTROL]
        self._lanes = [""] * len(self._names)  # comm, pid and cpu
        self.name_processes({})
        self._vcpus = [match[1] if (match := re.fullmatch(r"vcpu([0-9]+)", actor)) else actor for actor in actors]
        self._mark = mark

    def name_processes(self, pids: Mapping[str, int]) -> None:
        """From here on lines have these process ids."""
        self._lanes[:] = [_lane(name, pids.get(name, 0), cpu) for cpu, name in enumerate(self._names)]

    def shape(self, kind: int, columns: tuple[str, ...]) -> Shape:
        """Lane, flags, time, then KVM's words or the kind's own."""
        flags = "d...." if kind in _IN_GUEST else "....."
        values: list[tuple[str, Any]] = [("actor", self._lanes), ("s", None), ("us", None)]
        fields = [field for field in event_fields(kind) if field.column in columns]
        known = KERNEL_EVENTS.get(Kind(kind)) if kind in set(Kind) else None
        parts = []
        name = kind_label(kind)
        # A damaged event may lack what the tracepoint prints.
        if known is not None and known.says <= {field.column for field in fields}:
            name = known.name
            parts.append(known.template)
            values += [self._kernel_value(column, becomes, fields) for column, becomes in known.values]
            fields = [field for field in fields if field.column not in known.says]
        for field in fields:
            conversion, texts = _conversion(field)
            parts.append(f"{field.name}={conversion}")
            values.append((field.column, texts))
        return Shape(f"%s {flags} %5d.%06d: {name}: {' '.join(parts)}\n", tuple(values))

    def derived(self, columns: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Seconds and microseconds."""
        # No trace begins before 0, and a minus sign is more than a parser expects.
        times: npt.NDArray[np.int64] = columns["time_ns"].clip(0)
        seconds = times // NS_PER_S
        return {"s": seconds, "us": (times - seconds * NS_PER_S) // NS_PER_US}

    def control(self, event: dict[str, Any]) -> str:
        """The event's fields as name=value, the date in words left out."""
        facts = {name: value for name, value in event.items() if name not in {"time_ns", "actor", "kind", "timestamp"}}
        text = " ".join(f"{name}={_control_value(value)}" for name, value in facts.items())
        time_ns = max(0, event["time_ns"])
        seconds, us = time_ns // NS_PER_S, time_ns % NS_PER_S // NS_PER_US
        name = re.sub(r"\W", "_", str(event["kind"]), flags=re.ASCII) or "_"
        return f"{self._lanes[-1]} ..... {seconds:5d}.{us:06d}: {name}: {one_line(text)}\n"

    def marked(self, line: str) -> str:
        """The line behind one of `trace_marker`."""
        before, _, _ = line.partition(": ")
        return f"{before}: tracing_mark_write: {self._mark}\n{line}"

    def _kernel_value(self, column: str, becomes: str, fields: Sequence[Field]) -> tuple[str, Any]:
        if column == "vcpu":
            return "actor", self._vcpus
        field = next(field for field in fields if field.column == column)
        if not becomes:
            return column, None
        texts = {
            "name": lambda word: str(named_value(field, word)),
            "error_code": lambda word: f"{_ERROR_CODE | (word & 1) << 1:x}",
            "lock": lambda word: _plain(field, word),
            "contention": lambda word: _CONTENTION_FLAGS.get(str(named_value(field, word)), "SPIN"),
        }
        return column, Texts(texts[becomes])


def _lane(name: str, pid: int, cpu: int) -> str:
    return f"{name:>16}-{pid:<7} [{cpu:03d}]"


def _conversion(field: Field) -> tuple[str, Texts | None]:
    if field.values or field.flags:
        return "%s", Texts(lambda word: _plain(field, word))
    return ("0x%x" if field.name in _FRAMES or field.name in _HEX else "%d"), None


def _plain(field: Field, word: int) -> str:
    # A value of name=value has no blank: "mmu_lock (read)" is mmu_lock, and the mode is a field of its own.
    return str(named_value(field, word)).partition(" ")[0]


def _control_value(value: Any) -> str:
    text = json.dumps(value, separators=(",", ":"))
    return text[1:-1] if isinstance(value, str) and re.fullmatch(r'[^\s"=\\]+', value) else text
