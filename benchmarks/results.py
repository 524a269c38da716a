# SPDX-License-Identifier: GPL-2.0-only
"""How long `zaptorture campaign results` takes over many runs: whole processes, as a user waits for them.

The journal is synthetic: each run has random values of the counters of a real one, six rates and 32 quantiles.

    python -m benchmarks.results --runs 100000 --repeats 5
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from benchmarks.table import print_facts, print_table, spread
from model.constants import COUNTERS

if TYPE_CHECKING:
    from collections.abc import Callable

RATES = ("guest_accesses", "page_faults", "faults_fixed", "deletes", "moves", "creates")
DURATIONS = ("zap_front", "zap_back", "flush_shadow", "hold", "wait", "fault", "grace_period", "request")
VERDICTS = {"PASS": 90, "INCONCLUSIVE": 8, "HARNESS_ERROR": 1, "VIOLATION": 1}

QUERIES: dict[str, tuple[str, ...]] = {
    "the last 40 runs": (),
    "a filter": ("--filter", "vcpus >= 4 and verdict = 'VIOLATION' and zap_front_p99_ns > 500000"),
    "a filter, as JSON": ("--filter", "verdict = 'VIOLATION'", "--json"),
    "groups with all medians": ("--group", "variant,vcpus"),
    "one variant against the others": ("--compare", "variant=split"),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few runs, once each")
    options = parser.parse_args()
    if options.quick:
        options.runs, options.repeats = 200, 1
    print_facts(f"python -m benchmarks.results --runs {options.runs} --repeats {options.repeats}")
    with tempfile.TemporaryDirectory(prefix="zaptorture-results-") as temporary:
        folder = Path(temporary)
        _write_journal(folder / "journal.jsonl", options.runs)
        rows = [["the table out of the journal, and the last 40 runs", spread([_seconds(folder)], 2)]]
        for name, arguments in QUERIES.items():
            rows.append([name, spread([_seconds(folder, *arguments) for _ in range(options.repeats)], 2)])
        rows.append(["one more run, and the last 40", spread([_seconds_with_news(folder) for _ in range(options.repeats)], 2)])
        sizes = [(folder / name).stat().st_size / 1e6 for name in ("journal.jsonl", "results.parquet")]
    print_table([f"{options.runs:,} runs ({sizes[0]:.0f} MB of journal, {sizes[1]:.0f} MB of table)", "seconds"], rows)


def _seconds(folder: Path, *arguments: str) -> float:
    started = time.perf_counter()
    subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "stress.cli", "campaign", "results", str(folder), *arguments], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - started


def _seconds_with_news(folder: Path) -> float:
    with (folder / "journal.jsonl").open("ab") as file:
        file.write(_line(_record(random.Random(time.time_ns()), time.time_ns())))
    return _seconds(folder)


def _write_journal(path: Path, runs: int) -> None:
    rng = random.Random(1)
    with path.open("wb") as file:
        file.write(_line({"event": "campaign", "seed": 1}))
        file.writelines(_line(_record(rng, index)) for index in range(runs))


def _line(fields: dict[str, Any]) -> bytes:
    rest = msgspec.json.encode({"time": "2026-12-01T10:00:00.125Z", "up_s": 1.5, **fields})[1:]
    return b'{"crc":"%08x",%s\n' % (zlib.crc32(rest), rest)


def _record(rng: random.Random, index: int) -> dict[str, Any]:
    counters = {name: rng.randrange(10**6) for name in COUNTERS}
    (verdict,) = rng.choices(list(VERDICTS), list(VERDICTS.values()))
    seed = rng.randrange(2**32)
    any_of: Callable[[tuple[Any, ...]], Any] = rng.choice
    return {
        "event": "end",
        "index": index,
        "attempt": 1,
        "run": f"{index:06}-quick-{seed}",
        "role": "test",
        "rotation": index // 8,
        "seed": seed,
        "scenario": "quick",
        "variant": any_of(("split", "split-once", "unsplit", "held")),
        "vcpus": any_of((2, 4, 8, 16)),
        "slots": 3,
        "pages": 512,
        "bugs": "",
        "duration_s": 10.0,
        "check": "protocol",
        "policy": "window",
        "perturb": 0.001,
        "run_verdict": verdict,
        "reason": "" if verdict == "PASS" else "stale_fault_retries = 1, below evidence.stale_fault_retries = 5",
        "findings": [],
        "elapsed_s": 10.0 + rng.random(),
        "counters": counters,
        "rates": {f"{name}_per_s": counters[name] / 10.5 for name in RATES},
        "resources": {"compile_s": rng.random(), "reserved_mb": 3.5, "worker_uss_mb_max": rng.random()},
        "log": {"policy": "window", "complete": False, "lost": 0, "logged": rng.randrange(10**5)},
        "config_hash": f"{rng.randrange(8):012x}",
        "model_hash": "0123456789abcdef",
        "version": "0.1.0",
        "host": {"cpu": "a processor", "kernel": "6.18.0"},
        "quantiles": {f"{name}_{part}_ns": rng.random() * 1e6 for name in DURATIONS for part in ("p50", "p90", "p99", "max")},
        "verdict": verdict,
    }


if __name__ == "__main__":
    main()
