# SPDX-License-Identifier: GPL-2.0-only
"""How fast a log is judged: `zaptorture check` beside the same stale-use rule in plain Python and in SQL; and at growing sizes.

Every sample is a process of its own, held to one CPU (two for DuckDB with two threads), and contenders take turns, so that they
share what else the machine does. All read from the page cache. What they find in a run with a planted bug is compared first.
Logs are made by runs of configs/scenarios/quick.toml with every event logged, about 6 bytes an event and 110 as JSON Lines; they
are deleted afterwards.

    python -m benchmarks.check_log --events 10M 100M --rounds 5
    python -m benchmarks.check_log --run runs/2026-12-01T10-00-00-quick-7
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.check_contenders import CHECK, CLEVERER, STRAIGHT, contenders, cpus_of, jsonl_of
from benchmarks.table import print_facts, print_table, say, spread

_ROOT = Path(__file__).parents[1]
_SCENARIO = _ROOT / "configs" / "scenarios" / "quick.toml"
_PLANTED = _ROOT / "configs" / "busted" / "request-without-ack.toml"
_TRIES = 4
_MARGIN = 1.1  # a run is made this much longer than its log should take
_EVENTS_PER_S = 4e6  # that a run logs, at first guess
_SHORTEST_S = 0.2
_ROUNDS_BY_SIZE = 3
_GOAL_EVENTS_PER_S = 20e6
_GOAL_EVENTS = 100e6
_GOAL_MB = 500
_GOAL_FACTOR = 2


class _Log(NamedTuple):
    """A log, and what it took to write it."""

    folder: Path
    events: int
    size_mb: float
    run_s: float


class _Sample(NamedTuple):
    """One contender's turn: seconds without and with the start of its process, CPU time, memory, what it found."""

    seconds: float
    with_start_s: float
    cpu_s: float
    peak_mb: float
    stale: list[list[int]]


# --- logs


def _run(scenario: Path, logs: Path, seed: int, duration_s: float) -> _Log:
    command = ["run", str(scenario), "--out", str(logs), "--seed", str(seed), "--duration", f"{duration_s:.3f}s", "--json"]
    result = json.loads(_zaptorture([*command, "--set", "log.policy=all"]))
    return _log(Path(result["folder"]))


def _log(folder: Path) -> _Log:
    """A run that is there."""
    result = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    control = (folder / "control.jsonl").read_text(encoding="utf-8").splitlines()
    actors = [line for line in map(json.loads, control) if line["event"] == "actor_log"]
    size = sum(file.stat().st_size for file in (folder / "events").glob("*.parquet"))
    return _Log(folder, sum(line["logged"] for line in actors), size / 1e6, float(result["elapsed_s"]))


def _make(logs: Path, events: int) -> _Log:
    """A log of at least so many events."""
    duration_s = max(_SHORTEST_S, events / _EVENTS_PER_S)
    for seed in range(1, _TRIES + 1):
        log = _run(_SCENARIO, logs, seed, duration_s)
        if log.events >= events:
            return log
        duration_s *= _MARGIN * events / max(1, log.events)
        shutil.rmtree(log.folder)
    raise RuntimeError(f"no run of {duration_s:.0f} s has logged {events:,} events")


def _write_jsonl(log: _Log) -> None:
    with jsonl_of(log.folder).open("wb") as lines:
        _zaptorture(["log", str(log.folder)], stdout=lines)


def _zaptorture(arguments: list[str], **streams: Any) -> str:
    command = [sys.executable, "-m", "stress.cli", *arguments]
    streams = {"stdout": subprocess.PIPE} | streams
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **streams)  # noqa: S603 - our own command
    if done.returncode not in {0, 1, 3}:
        raise RuntimeError(f"{' '.join(command[1:])}: exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout or ""


# --- samples


def _sample(name: str, warm_up: _Log | None, log: _Log) -> _Sample:
    cpus = sorted(os.sched_getaffinity(0), reverse=True)[: cpus_of(name)]
    first = str(warm_up.folder) if warm_up else ""
    command = [sys.executable, "-m", "benchmarks.check_contenders", name, first, str(log.folder), *map(str, cpus)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    with_start_s = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{name}: exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    measured = json.loads(done.stdout)
    return _Sample(measured["seconds"], with_start_s, measured["cpu_s"], measured["peak_mb"], measured["stale"])


def _compare(warm_up: _Log, names: list[str]) -> None:
    """All contenders find the same; it compiles and fills caches on the way."""
    found = {name: _sample(name, warm_up, warm_up).stale for name in names}
    if not found[CHECK] or any(stale != found[CHECK] for stale in found.values()):
        counts = ", ".join(f"{name} {len(stale)}" for name, stale in found.items())
        raise RuntimeError(f"{warm_up.folder}: stale uses: {counts}")
    say(f"In a run with a planted bug all contenders find the same {len(found[CHECK])} stale use(s).")
    say()


def _side_by_side(warm_up: _Log, log: _Log, names: list[str], rounds: int) -> None:
    samples: dict[str, list[_Sample]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            samples[name].append(_sample(name, warm_up, log))
    say(f"**side by side, {log.events / 1e6:.1f} M events, {rounds} rounds**")
    say()
    rows = []
    ratios = {}
    for name, measured in samples.items():
        beside = zip(samples[CHECK], measured, strict=True)
        pairs = [(other.seconds / check.seconds, other.with_start_s / check.with_start_s) for check, other in beside]
        ratios[name] = statistics.median(ratio for ratio, _ in pairs)
        rows.append(
            [
                name,
                spread([log.events / sample.seconds / 1e6 for sample in measured]),
                spread([log.events / sample.with_start_s / 1e6 for sample in measured]),
                spread([1e9 * sample.cpu_s / log.events for sample in measured], 0),
                spread([sample.peak_mb for sample in measured], 0),
                f"{ratios[name]:.2f}",
                f"{statistics.median(ratio for _, ratio in pairs):.2f}",
            ]
        )
    print_table(["", "M events/s", "with process start", "CPU ns/event", "peak RSS, MB", "check is x faster", "with start"], rows)
    for what, which in (
        ("the rule as written, in Python or SQL", STRAIGHT),
        ("SQL that knows that an incarnation goes once", CLEVERER),
    ):
        best = min((name for name in names if name in which), key=ratios.__getitem__)
        _goal(ratios[best] >= _GOAL_FACTOR, f"{_GOAL_FACTOR} times as fast as {what}: {ratios[best]:.2f} times ({best})")
    say()


def _by_size(measured: list[tuple[_Log, list[_Sample]]]) -> None:
    say("**check alone, by size of the log; compiled code is loaded within the time**")
    say()
    rows = []
    for log, samples in measured:
        rows.append(
            [
                f"{log.events / 1e6:.1f} M",
                f"{log.size_mb:,.0f}",
                f"{log.run_s:.1f}",
                spread([sample.with_start_s for sample in samples], 2),
                spread([log.events / sample.seconds / 1e6 for sample in samples]),
                spread([log.events / sample.with_start_s / 1e6 for sample in samples]),
                spread([1e9 * sample.cpu_s / log.events for sample in samples], 0),
                spread([sample.peak_mb for sample in samples], 0),
                f"{log.run_s / statistics.median(sample.with_start_s for sample in samples):.1f}",
            ]
        )
    header = [
        "events",
        "log, MB",
        "run, s",
        "check, s",
        "M events/s",
        "with process start",
        "CPU ns/event",
        "peak RSS, MB",
        "run / check",
    ]
    print_table(header, rows)
    log, samples = measured[-1]
    if log.events >= _GOAL_EVENTS:
        rate = log.events / statistics.median(sample.with_start_s for sample in samples)
        _goal(rate >= _GOAL_EVENTS_PER_S, f"{_GOAL_EVENTS_PER_S / 1e6:.0f} M events/s end to end on one CPU: {rate / 1e6:.1f} M")
    peak = max(sample.peak_mb for _, samples in measured for sample in samples)
    _goal(peak < _GOAL_MB, f"under {_GOAL_MB} MB at any size: {peak:.0f} MB")
    slowest = min(log.run_s / max(sample.with_start_s for sample in samples) for log, samples in measured)
    _goal(
        slowest >= 1, f"never slower than the run that wrote the log: {slowest:.1f} x faster at least, its process's start included"
    )


def _goal(reached: bool, what: str) -> None:  # noqa: FBT001 - private
    say(f"- goal {'reached' if reached else 'NOT reached'}: {what}")


def _count(text: str) -> int:
    """10M, 500k or a plain number."""
    factor = {"k": 1_000, "M": 1_000_000}.get(text[-1:], 1)
    return int(float(text[:-1] if factor > 1 else text) * factor)


def main(arguments: list[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--events", type=_count, nargs="+", default=[10_000_000, 100_000_000], help="sizes; contenders share the first"
    )
    parser.add_argument("--rounds", type=int, default=5, help="samples a contender")
    parser.add_argument("--logs", type=Path, help="folder for logs, outside the repository; deleted afterwards. Default: temporary")
    parser.add_argument("--run", type=Path, help="use this run's log instead; nothing in it is changed")
    parser.add_argument("--quick", action="store_true", help="a small log and one round, to see that it works")
    options = parser.parse_args(arguments)
    sizes, rounds = ([200_000], 1) if options.quick else (sorted(options.events), options.rounds)
    what = f"--run {options.run}" if options.run else f"--events {' '.join(f'{size / 1e6:g}M' for size in sizes)}"
    print_facts(f"python -m benchmarks.check_log {what} --rounds {rounds}")
    say("median (smallest-largest); process start: imports, loading of compiled code, and a first small log")
    say()
    if options.logs is not None:
        options.logs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="zaptorture-logs-", dir=options.logs) as folder:
        _measure(Path(folder), options.run, sizes, rounds)
    say()
    say(f"load average at the end: {os.getloadavg()[0]:.1f}")


def _measure(logs: Path, run: Path | None, sizes: list[int], rounds: int) -> None:
    names = list(contenders())
    warm_up = _run(_PLANTED, logs, 1, 60)
    _write_jsonl(warm_up)
    _compare(warm_up, names)
    if run is None:
        first = _make(logs, sizes[0])
    else:
        # Its JSON Lines are written beside it, so it is looked at through a link.
        (logs / "run").symlink_to(run.resolve(), target_is_directory=True)
        first, sizes = _log(logs / "run"), sizes[:1]
    _write_jsonl(first)
    _side_by_side(warm_up, first, names, rounds)
    jsonl_of(first.folder).unlink()
    measured = []
    for size in sizes:
        log = first if size == sizes[0] else _make(logs, size)
        measured.append((log, [_sample(CHECK, None, log) for _ in range(min(rounds, _ROUNDS_BY_SIZE))]))
        if log is not first or run is None:
            shutil.rmtree(log.folder)
    _by_size(measured)


if __name__ == "__main__":
    main()
