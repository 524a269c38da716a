# SPDX-License-Identifier: GPL-2.0-only
"""What a campaign costs beyond its runs: seconds a run, beside the same runs started one by one from a shell.

The cost of a run is the time by the wall from its start to its end less the time from its first guest access to its end. The
compile cache is warm; the two ways take turns.

    python -m benchmarks.campaign --runs 20 --repeats 3
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.table import print_facts, print_table, say, spread

_SCENARIO = """\
[[slots]]
base_gfn = 0
npages = 64
ops = ["delete"]

[perturb]
probability = 0.0005

[run]
duration = "{duration}"
"""


def _cli(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "stress.cli", *arguments], check=True, capture_output=True)  # noqa: S603 - our own


def _campaign(folder: Path, runs: int) -> tuple[float, list[float]]:
    """Seconds a run of the whole command beyond its runs, and of each run by the journal."""
    (folder / "c.toml").write_text(f'scenarios = ["s"]\nrepeats = {runs}\n', encoding="utf-8")
    started = time.monotonic()
    _cli("campaign", str(folder / "c.toml"), "--out", str(folder / "out"))
    wall_s = time.monotonic() - started
    records = [json.loads(line) for line in (folder / "out" / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    begun = {record["index"]: record["up_s"] for record in records if record["event"] == "start"}
    ended = [record for record in records if record["event"] == "end"]
    costs = [record["up_s"] - begun[record["index"]] - record["elapsed_s"] for record in ended]
    return (wall_s - sum(record["elapsed_s"] for record in ended)) / runs, costs


def _by_hand(folder: Path, runs: int) -> list[float]:
    costs = []
    for seed in range(runs):
        started = time.monotonic()
        _cli("run", str(folder / "s.toml"), "--seed", str(seed), "--out", str(folder / "runs"))
        wall_s = time.monotonic() - started
        (verdict,) = (folder / "runs").glob(f"*-s-{seed}/verdict.json")
        costs.append(wall_s - json.loads(verdict.read_text(encoding="utf-8"))["elapsed_s"])
    return costs


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--duration", default="500ms")
    parser.add_argument("--quick", action="store_true", help="a few runs, for the test of this script")
    options = parser.parse_args()
    runs, repeats = (2, 1) if options.quick else (options.runs, options.repeats)
    print_facts(f"python -m benchmarks.campaign --runs {runs} --repeats {repeats} --duration {options.duration}")
    totals: list[float] = []
    each: list[float] = []
    by_hand: list[float] = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            (place / "s.toml").write_text(_SCENARIO.format(duration=options.duration), encoding="utf-8")
            by_hand += _by_hand(place, runs)
            total, costs = _campaign(place, runs)
            totals.append(total)
            each += costs
    say(f"**Seconds a run beyond its own {options.duration}**: median (smallest-largest)")
    say()
    rows = [
        ["campaign, start to end of a run", str(len(each)), spread(each, 2)],
        ["campaign, whole command over its runs", str(len(totals)), spread(totals, 2)],
        ["one by one from a shell", str(len(by_hand)), spread(by_hand, 2)],
    ]
    print_table(["what", "samples", "s"], rows)


if __name__ == "__main__":
    main()
