# SPDX-License-Identifier: GPL-2.0-only
"""Whole runs through the command line: rates by number of vCPUs, the cost of checks, logs and noise, start-up, memory.

Every line is a number of runs with seeds of their own; lines of a table take turns, so that they share what else the machine
does. Rates are sums over all vCPUs.

    python -m benchmarks.run_table --repeats 3 --duration 5s
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.command import zaptorture
from benchmarks.table import print_facts, print_table, say, spread, spread_si

if TYPE_CHECKING:
    from collections.abc import Mapping

# Guests that mostly hit their TLB, and one slot that is deleted and created again once they have warmed up.
_SCENARIO = """\
[vm]
levels = 4
bits_per_level = 9

[[slots]]
base_gfn = 0
npages = 128
ops = ["delete"]
"""

_VCPUS = (1, 2, 4, 8, 16)
_CHECKS = ("use", "protocol", "paranoid")
_LOGS: tuple[dict[str, object], ...] = ({"log.policy": "window"}, {"log.policy": "sampled"}, {"log.policy": "all"})
_NOISE = (0.0, 0.0001, 0.001, 0.01)
_RATES = {"accesses/s": "guest_accesses_per_s", "faults fixed/s": "faults_fixed_per_s", "deletes/s": "deletes_per_s"}

Line = tuple[str, dict[str, object]]


def _sections(vcpus: tuple[int, ...]) -> dict[str, list[Line]]:
    base = {"vm.nr_vcpus": 2}
    return {
        "vCPUs": [(str(count), {"vm.nr_vcpus": count}) for count in vcpus],
        "check level": [(level, base | {"check.level": level}) for level in _CHECKS],
        "log policy": [(str(keys["log.policy"]), base | keys) for keys in _LOGS],
        "noise (perturb.probability)": [(f"{value:g}", base | {"perturb.probability": value}) for value in _NOISE],
    }


def _rates(title: str, lines: list[Line], scenario: Path, repeats: int, duration: str) -> None:
    results: dict[str, list[dict[str, Any]]] = {name: [] for name, _ in lines}
    for repeat in range(repeats):
        for name, overrides in lines:
            results[name].append(zaptorture(scenario, overrides, seed=repeat + 1, duration=duration))
    rows = []
    base = 0.0
    for name, runs in results.items():
        accesses = [run["rates"]["guest_accesses_per_s"] for run in runs]
        middle = statistics.median(accesses)
        base = base or middle
        hits = [run["counters"]["tlb_hits"] / max(1, run["counters"]["guest_accesses"]) for run in runs]
        cells = [spread_si([run["rates"][key] for run in runs]) for key in _RATES.values()]
        verdicts = ", ".join(sorted({run["verdict"] for run in runs}))
        memory = [run["resources"].get("worker_uss_mb_max", 0.0) for run in runs]
        rows.append([name, *cells, f"{middle / base:.2f}", f"{100 * statistics.median(hits):.0f} %", spread(memory, 0), verdicts])
    say(f"**{title}**")
    say()
    print_table([title, *_RATES, "accesses, relative", "TLB hits", "worker USS, MB", "verdicts"], rows)


def _start_up(scenario: Path, repeats: int) -> None:
    """Start to first guest access, with an empty and with a filled compile cache, in both builds."""
    rows = []
    for build, noise in (("plain", 0.0), ("instrumented (noise)", 0.0001)):
        times: dict[str, list[float]] = {"cold": [], "warm": []}
        overrides: Mapping[str, object] = {"vm.nr_vcpus": 2, "perturb.probability": noise}
        for repeat in range(repeats):
            with tempfile.TemporaryDirectory(prefix="zaptorture-cache-") as cache:
                for samples in times.values():
                    run = zaptorture(scenario, overrides, seed=repeat + 1, duration="500ms", cache=Path(cache))
                    samples.append(run["resources"]["first_access_s"])
        rows.append([build, spread(times["cold"]), spread(times["warm"], 2)])
    say("**start of a run to the first guest access, seconds**")
    say()
    print_table(["build", "cold compile cache", "warm"], rows)


def main(arguments: list[str] | None = None) -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs a line")
    parser.add_argument("--duration", default="5s", help="of each run")
    parser.add_argument("--quick", action="store_true", help="one short run a line, two lines a table, to see that it works")
    options = parser.parse_args(arguments)
    repeats, duration = (1, "200ms") if options.quick else (options.repeats, options.duration)
    print_facts(f"python -m benchmarks.run_table --repeats {repeats} --duration {duration}")
    say("median (smallest-largest)")
    say()
    with tempfile.TemporaryDirectory(prefix="zaptorture-bench-") as folder:
        scenario = Path(folder) / "benchmark.toml"
        scenario.write_text(_SCENARIO, encoding="utf-8")
        for title, lines in _sections(_VCPUS).items():
            _rates(title, lines[:2] if options.quick else lines, scenario, repeats, duration)
        if not options.quick:
            _start_up(scenario, repeats)


if __name__ == "__main__":
    main()
