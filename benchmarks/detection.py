# SPDX-License-Identifier: GPL-2.0-only
"""How fast each planted bug is found: every configs/busted/*.toml with a number of seeds, time to the first finding.

A run ends at its first finding; one that finds nothing ends at the limit.

    python -m benchmarks.detection --seeds 20 --limit 60s
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks.command import zaptorture
from benchmarks.table import print_facts, print_table, say

_BUSTED = Path(__file__).parents[1] / "configs" / "busted"
_NS_PER_S = 1e9


def _time_to_finding(result: dict[str, Any]) -> float | None:
    """Seconds from the start of the run to the first finding, or None if there was none."""
    if result["verdict"] != "VIOLATION":
        return None
    return float(min(finding["time_ns"] for finding in result["findings"]) / _NS_PER_S)


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="runs a configuration")
    parser.add_argument("--limit", default="60s", help="duration of a run that finds nothing")
    parser.add_argument("--only", default="", metavar="PART", help="only configurations whose name contains this")
    parser.add_argument("--quick", action="store_true", help="one seed, one second, one configuration, to see that it works")
    options = parser.parse_args(arguments)
    configs = [path for path in sorted(_BUSTED.glob("*.toml")) if options.only in path.stem]
    seeds, limit = options.seeds, options.limit
    if options.quick:
        configs, seeds, limit = configs[:1], 1, "1s"
    print_facts(f"python -m benchmarks.detection --seeds {seeds} --limit {limit}")
    rows = []
    for path in configs:
        results = [zaptorture(path, {}, seed=seed, duration=limit) for seed in range(1, seeds + 1)]
        times = [seconds for result in results if (seconds := _time_to_finding(result)) is not None]
        first = [f"{r['findings'][0]['kind']} [{r['findings'][0]['invariant']}]" for r in results if r["findings"]]
        # Most frequent first.
        kinds = sorted(set(first), key=first.count, reverse=True)
        rows.append(
            [
                path.stem,
                f"{len(times)} of {seeds}",
                f"{statistics.median(times):.2f}" if times else "-",
                f"{max(times):.2f}" if times else "-",
                ", ".join(f"{kind} x{first.count(kind)}" for kind in kinds) or "-",
            ]
        )
        say(f"{path.stem}: {rows[-1][1]}")
    say()
    print_table(["planted bug", "found", "median, s", "slowest, s", "first finding"], rows)


if __name__ == "__main__":
    main()
