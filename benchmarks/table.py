# SPDX-License-Identifier: GPL-2.0-only
"""What every benchmark prints: the facts of the machine, and a Markdown table with medians and their spread."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["print_facts", "print_table", "say", "spread", "spread_si"]


def say(line: str = "") -> None:
    """One line on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def print_facts(command: str) -> None:
    """The machine, the versions and the command, as a Markdown list."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        name = next((line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), name)
    uname = platform.uname()
    say(f"- machine: {name}, {len(os.sched_getaffinity(0))} CPUs, {uname.system} {uname.release} {uname.machine}")
    say(f"- versions: Python {platform.python_version()}, numba {version('numba')}, numpy {version('numpy')}")
    say(f"- load average at the start: {os.getloadavg()[0]:.1f}")
    say(f"- command: `{command}`")
    say()


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table, columns aligned."""
    widths = [max(len(row[n]) for row in [header, *rows]) for n in range(len(header))]
    for row in (header, ["-" * width for width in widths], *rows):
        say("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
    say()


def spread(samples: Sequence[float], digits: int = 1) -> str:
    """Median (smallest-largest)."""
    return _spread(samples, lambda value: f"{value:,.{digits}f}")


def spread_si(samples: Sequence[float]) -> str:
    """The same for large numbers: 16.6 M."""
    return _spread(samples, _si)


def _spread(samples: Sequence[float], shown: Callable[[float], str]) -> str:
    if not samples:
        return "-"
    if len(samples) == 1:
        return shown(samples[0])
    return f"{shown(statistics.median(samples))} ({shown(min(samples))}-{shown(max(samples))})"


def _si(value: float) -> str:
    for factor, unit in ((1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"
