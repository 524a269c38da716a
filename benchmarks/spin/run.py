# SPDX-License-Identifier: GPL-2.0-only
"""Runs the Promela twin of the split fast zap: the correct protocol to completion, every planted bug to its first finding.

Each case is searched depth first with partial order reduction, and each planted bug once more breadth first without it, which gives
the shortest trail there is. A step is a transition of a process other than init; a context switch, two steps in a row of different
processes. Times are of the search alone: some seconds for translating and compiling each verifier come on top.

    python -m benchmarks.spin
    python -m benchmarks.spin --vcpus 1 --gfns 1 --only correct
    python -m benchmarks.spin --level use --json spin.json
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.table import print_facts, print_table, say, spread_si

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CASES", "Case", "Search", "main", "missing", "search"]

_TWIN = Path(__file__).with_name("zap.pml")
_BUILD_LIMIT_S = 120
# What pan needs to write its figures after it has been interrupted.
_GRACE_S = 20
_DEPTH_MAX = 1_000_000

FOUND, PASS, INCONCLUSIVE = "VIOLATION", "PASS", "INCONCLUSIVE"
_LEFTOVER = (1, 2, 7, 23)


@dataclass(frozen=True)
class Case:
    """One variant of the twin: its macros, what must come out, and the size where the case needs one of its own."""

    name: str
    macros: tuple[str, ...]
    expected: str
    gfns: int | None = None


@dataclass(frozen=True)
class Search:
    """One search: how it ended, what it took, and the trail to what it found."""

    case: str
    strategy: str
    vcpus: int
    gfns: int
    level: str
    verdict: str
    expected: str
    finding: str
    states: int
    transitions: int
    seconds: float
    memory_mb: float
    steps: int | None
    context_switches: int | None


_CORRECT = (
    Case("correct", (), PASS),
    Case("correct, slot created again, last gfn cold", ("LAST_CREATE", "COLD"), PASS),
    Case("correct, live slot", ("LIVE_SLOT",), PASS, gfns=1),
    Case("correct, yield", ("YIELD",), PASS),
    Case("correct, recycled root", ("RECYCLE",), PASS),
    Case("correct, zap-only", ("ZAP_ONLY", "COLD"), PASS),
    Case("correct, split-once under toggler", ("TOGGLER",), PASS),
    Case("put-before-zap alone (masked)", ("PUT_BEFORE_ZAP",), PASS),
    Case("iterator-without-reference alone (masked)", ("ITERATOR_WITHOUT_REFERENCE",), PASS),
)
_BUGS = (
    Case("request-without-ack", ("REQUEST_WITHOUT_ACK",), FOUND),
    Case("no-request", ("NO_REQUEST",), FOUND),
    Case("request-before-invalidate", ("REQUEST_BEFORE_INVALIDATE",), FOUND),
    Case("no-flush-on-load", ("NO_FLUSH_ON_LOAD", "RECYCLE"), FOUND),
    Case("no-srcu-wait", ("NO_SRCU_WAIT", "ZAP_ONLY", "COLD"), FOUND),
    Case("zap-only-without-flush", ("ZAP_ONLY_WITHOUT_FLUSH", "ZAP_ONLY"), FOUND),
    Case("fault-into-invalidated-root", ("FAULT_INTO_INVALIDATED_ROOT", "LIVE_SLOT"), FOUND, gfns=1),
    Case("return-before-back-half", ("RETURN_BEFORE_BACK_HALF",), FOUND),
    Case("back-half-after-commit", ("BACK_HALF_AFTER_COMMIT",), FOUND),
    Case("advance-after-yield", ("ADVANCE_AFTER_YIELD", "YIELD"), FOUND, gfns=2),
    Case("no-gift", ("NO_GIFT",), FOUND),
    Case("put-before-zap + iterator-without-reference", ("PUT_BEFORE_ZAP", "ITERATOR_WITHOUT_REFERENCE"), FOUND),
    Case("split under toggler", ("SPLIT", "TOGGLER"), FOUND),
)
CASES = (*_CORRECT, *_BUGS)

# Partial order reduction may leave out the shortest trail, and breadth first search makes any first trail a shortest one.
_STRATEGIES = {"depth-first": (), "breadth-first": ("-DBFS", "-DNOREDUCE")}


def missing() -> str:
    """The tool that is not there, or "": spin translates the twin, gcc compiles the verifier."""
    return next((tool for tool in ("spin", "gcc") if shutil.which(tool) is None), "")


def search(
    case: Case, strategy: str, *, vcpus: int, gfns: int, level: str = "protocol", limit_s: float = 120, memory_mb: int = 3000
) -> Search:
    """Build a verifier for one case in a folder of its own, and run it until it has finished, found something or met a limit."""
    gfns = case.gfns or gfns
    macros = [f"-DNV={vcpus}", f"-DNG={gfns}", *[f"-D{name}" for name in case.macros]]
    if level == "use":
        macros.append("-DUSE_ONLY")
    with tempfile.TemporaryDirectory(prefix="zaptorture-spin-") as folder:
        shutil.copy(_TWIN, folder)
        _command(["spin", *macros, "-a", _TWIN.name], folder)
        flags = ["-O2", "-DSAFETY", f"-DMEMLIM={memory_mb}", *_STRATEGIES[strategy]]
        _command(["gcc", *flags, "-o", "pan", "pan.c"], folder)
        output, seconds = _run_pan(folder, limit_s)
        trail = Path(folder) / f"{_TWIN.name}.trail"
        steps, switches = _walk(trail.read_text(encoding="ascii")) if trail.exists() else (None, None)
    verdict, finding = _verdict(output)
    return Search(
        case=case.name,
        strategy=strategy,
        vcpus=vcpus,
        gfns=gfns,
        level=level,
        verdict=verdict,
        expected=case.expected,
        finding=finding,
        states=int(_figure(r"(\S+) states, stored", output)),
        transitions=int(_figure(r"(\S+) transitions", output)),
        seconds=seconds,
        memory_mb=_figure(r"(\S+)\s+total actual memory usage", output),
        steps=steps,
        context_switches=switches,
    )


def _command(command: list[str], folder: str) -> None:
    # Our own twin, by the tools that were found.
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_BUILD_LIMIT_S, check=False)  # noqa: S603
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {(done.stdout + done.stderr).strip()[-500:]}")


def _run_pan(folder: str, limit_s: float) -> tuple[str, float]:
    start = time.monotonic()
    # -n: no list of unreached statements.
    command = [str(Path(folder) / "pan"), f"-m{_DEPTH_MAX}", "-n"]
    # The verifier that was just built.
    pan = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # noqa: S603
    with pan:
        try:
            output = pan.communicate(timeout=limit_s)[0]
        except subprocess.TimeoutExpired:
            # Interrupted, it still says how far it came.
            pan.send_signal(signal.SIGINT)
            try:
                output = pan.communicate(timeout=_GRACE_S)[0]
            except subprocess.TimeoutExpired:
                pan.kill()
                output = pan.communicate()[0]
        except BaseException:
            pan.kill()
            raise
    return output, time.monotonic() - start


def _walk(trail: str) -> tuple[int, int]:
    """Steps and context switches of a trail: lines `number:process:transition`, negative numbers in the head, init is process 0."""
    lines = [line.split(":") for line in trail.splitlines()]
    actors = [actor for number, actor, _ in lines if not number.startswith("-") and actor != "0"]
    return len(actors), sum(before != after for before, after in pairwise(actors))


def _verdict(output: str) -> tuple[str, str]:
    """The verdict, and a finding as the model names it."""
    violated = re.search(r"assertion violated .*\|\|\((\d+)(==|<)0\)\)", output)
    if violated:
        rule = int(violated[1])
        kind = "invariant" if violated[2] == "<" else "leftover-mapping" if rule in _LEFTOVER else "stale-use"
        return FOUND, f"{kind} [I{rule}]"
    if "invalid end state" in output and "errors: 0" not in output:
        return FOUND, "deadlock [I25]"
    if re.search(r"assertion violated|errors: [1-9]", output):
        return FOUND, "the twin's own assertion"
    # pan says so of itself when it could not search everything.
    unfinished = "Search not completed" in output or "max search depth too small" in output or "errors: 0" not in output
    return (INCONCLUSIVE, "") if unfinished else (PASS, "")


def _figure(pattern: str, output: str) -> float:
    """The last match: progress comes before the result, and an interrupted search may have nothing else."""
    found = re.findall(pattern, output) or [0]
    return float(found[-1])


def _size(result: Search, case: Case) -> str:
    return f"{result.vcpus}x{result.gfns}" + ("+1" if "LIVE_SLOT" in case.macros else "")


def _row(result: Search, case: Case) -> list[str]:
    ended = result.verdict if not result.finding else f"{result.verdict} {result.finding}"
    return [
        case.name,
        _size(result, case),
        ended,
        f"{result.states:,}",
        f"{result.transitions:,}",
        # A short search measures the start of its process.
        spread_si([result.states / result.seconds]) if result.seconds >= 0.5 else "-",
        f"{result.seconds:.2f}",
        f"{result.memory_mb:,.0f}",
        "-" if result.steps is None else str(result.steps),
        "-" if result.context_switches is None else str(result.context_switches),
    ]


_HEADER = ("case", "vCPUs x gfns", "verdict", "states", "transitions", "states/s", "s", "MB", "steps", "context switches")


def _tool_versions() -> str:
    spin = subprocess.run(["spin", "-V"], capture_output=True, text=True, check=False).stdout.strip()  # noqa: S607
    gcc = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=False).stdout.strip()  # noqa: S607
    return f"{spin}, gcc {gcc}"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.spin", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vcpus", type=int, default=2, choices=range(1, 6))
    parser.add_argument("--gfns", type=int, default=2, choices=range(1, 5), help="of the slot; some cases have their own number")
    parser.add_argument("--level", default="protocol", choices=("use", "protocol"), help="the oracle, as check.level")
    parser.add_argument("--limit-s", type=float, default=120, help="seconds a search")
    parser.add_argument("--memory-mb", type=int, default=3000, help="memory a search")
    parser.add_argument("--only", metavar="NAME", default="", help="the case of this name, or all whose name contains it")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write all searches to this file")
    parser.add_argument("--quick", action="store_true", help="one vCPU, one gfn, three cases, to see that it works")
    options = parser.parse_args(arguments)
    exact = [case for case in CASES if case.name == options.only]
    options.cases = exact or [case for case in CASES if options.only in case.name]
    if not options.cases:
        parser.error(f"--only {options.only}: no such case; there are: {'; '.join(case.name for case in CASES)}")
    if options.quick:
        options.vcpus, options.gfns = 1, 1
        options.cases = [case for case in CASES if case.name in {"correct", "request-without-ack", "no-gift"}]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each kind of search.

    Returns:
        1 if a search ended otherwise than expected (a limit is no surprise), else 0.
    """
    options = _options(arguments)
    if tool := missing():
        say(f"benchmarks.spin: {tool} is not installed, nothing to compare with")
        return 0
    say(f"- model checker: {_tool_versions()}")
    print_facts(f"python -m benchmarks.spin --vcpus {options.vcpus} --gfns {options.gfns} --level {options.level}")
    results: list[Search] = []
    for strategy in _STRATEGIES:
        rows = []
        for case in options.cases:
            if strategy == "breadth-first" and case.expected == PASS:
                continue
            result = search(
                case,
                strategy,
                vcpus=options.vcpus,
                gfns=options.gfns,
                level=options.level,
                limit_s=options.limit_s,
                memory_mb=options.memory_mb,
            )
            results.append(result)
            rows.append(_row(result, case))
        if rows:
            say(f"**{strategy}{', shortest trails' if strategy == 'breadth-first' else ''}**")
            say()
            print_table(_HEADER, rows)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n", encoding="utf-8")
    surprises = [result for result in results if result.verdict not in {result.expected, INCONCLUSIVE}]
    for result in surprises:
        say(f"not as expected: {result.case}, {result.strategy}: {result.verdict}, expected {result.expected}")
    return 1 if surprises else 0
