# SPDX-License-Identifier: GPL-2.0-only
"""The stale-use rule over one log, in several ways: `zaptorture check`, plain Python over JSON Lines, SQL over the Parquet files.

The rule: a guest access is stale if it met a retired incarnation or a foreign tag, or if it was logged after the DELETE or MOVE
of its incarnation had returned. `check` applies all of its other rules as well; it cannot be asked for one alone.

One contender runs in a process of its own, which measures itself and prints what it found and needed as a JSON object:

    python -m benchmarks.check_contenders CONTENDER WARM-UP-LOG LOG [CPU ...]

A log is given as its run folder, beside which stands the same log as `<folder>.jsonl`, as `zaptorture log` prints it. The warm-up
log has a few events: after it, imports and compiled code are in memory. An empty name stands for no warm-up.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from stress.log.schema import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["CHECK", "CLEVERER", "STRAIGHT", "contenders", "cpus_of", "jsonl_of"]

Stale = list[tuple[int, int]]  # (time_ns, seq) of each stale access

CHECK = "check (all rules)"
_JSONL = ("Python, json", "Python, orjson", "Python, msgspec", "Python, msgspec, grep first")
_ORDERED = "DuckDB, window in time order"
_UNORDERED = "DuckDB, window without order"
_HASH_JOIN = "DuckDB, hash join"
_TWO_THREADS = ", 2 threads"
# The rule as one would write it down, and SQL that uses what the rule does not say: that an incarnation goes only once.
STRAIGHT = (*_JSONL, _ORDERED, _ORDERED + _TWO_THREADS)
CLEVERER = (_UNORDERED, _UNORDERED + _TWO_THREADS, _HASH_JOIN, _HASH_JOIN + _TWO_THREADS)

# When each incarnation went: a DELETE names it itself, a MOVE its successor.
_GONE = """
    ops as (
        select seq, time_ns, arg0 as op, incarnation, lag(incarnation) over (partition by arg1 order by seq) as before
        from {events} where kind = {op_end}
    ),
    gone as (
        select case op when 2 then incarnation else before end as incarnation, time_ns as gone_ns from ops where op in (2, 3)
    )"""

_USES = """
    uses as (
        select seq, time_ns, incarnation, arg1, cast(null as bigint) as gone_ns from {events} where kind = {access}
        union all select -1, gone_ns, incarnation, 0, gone_ns from gone
    )"""

_ORDERED_SQL = """
with {gone}, {uses}
select time_ns, seq
from (
    select *, max(gone_ns) over (
        partition by incarnation order by time_ns rows between unbounded preceding and 1 preceding
    ) as returned_ns
    from uses
)
where seq >= 0 and (arg1 & 10 <> 0 or time_ns > returned_ns)
"""

_UNORDERED_SQL = """
with {gone}, {uses}
select time_ns, seq from (select *, min(gone_ns) over (partition by incarnation) as returned_ns from uses)
where seq >= 0 and (arg1 & 10 <> 0 or time_ns > returned_ns)
"""

_HASH_JOIN_SQL = """
with {gone}
select time_ns, seq from {events} left join gone using (incarnation)
where kind = {access} and (arg1 & 10 <> 0 or time_ns > gone_ns)
"""


class _Line(msgspec.Struct, gc=False):
    """What the rule needs of a line; all that is else in it is passed over."""

    kind: str = ""
    time_ns: int = -1
    seq: int = -1
    incarnation: int = -1
    access: int | str = 0
    op: str = ""
    slot: int = -1


def jsonl_of(run: Path) -> Path:
    """Where a run's log stands as JSON Lines."""
    return run.with_name(f"{run.name}.jsonl")


def contenders() -> dict[str, Callable[[Path], Stale]]:
    """All of them that can run here; each takes the run folder."""
    found: dict[str, Callable[[Path], Stale]] = {CHECK: _check}
    for name in _JSONL:
        if "orjson" not in name or find_spec("orjson"):
            found[name] = _jsonl(name)
    for name, sql in ((_ORDERED, _ORDERED_SQL), (_UNORDERED, _UNORDERED_SQL), (_HASH_JOIN, _HASH_JOIN_SQL)):
        found[name] = _sql(sql, 1)
        found[name + _TWO_THREADS] = _sql(sql, 2)
    return found


def cpus_of(name: str) -> int:
    """On how many CPUs it may run."""
    return 2 if name.endswith(_TWO_THREADS) else 1


def _check(run: Path) -> Stale:
    from stress.check import check_run  # noqa: PLC0415 - only this contender pays for it

    result = check_run(run)
    return [(f.time_ns, f.seq) for f in [*result.findings, *result.ambiguous] if f.kind == "stale-use"]


# --- JSON Lines


def _jsonl(name: str) -> Callable[[Path], Stale]:
    decode: Callable[[bytes], Any] = json.loads
    if "orjson" in name:
        import orjson  # noqa: PLC0415 - optional

        decode = orjson.loads
    elif "msgspec" in name:
        decode = msgspec.json.Decoder(_Line).decode
    grep = b'"guest_access"', b'"slot_op_end"'

    def stale(run: Path) -> Stale:
        with jsonl_of(run).open("rb") as lines:
            if "grep" in name:
                return _stale_structs(map(decode, (line for line in lines if grep[0] in line or grep[1] in line)))
            if "msgspec" in name:
                return _stale_structs(map(decode, lines))
            return _stale_dicts(map(decode, lines))

    return stale


def _stale_dicts(events: Iterable[dict[str, Any]]) -> Stale:
    slots: dict[int, int] = {}
    gone: set[int] = set()
    stale = []
    for event in events:
        kind = event.get("kind")
        if kind == "guest_access":
            met = event["access"]
            if event["incarnation"] in gone or (met and ("retired" in met or "foreign" in met)):
                stale.append((event["time_ns"], event["seq"]))
        elif kind == "slot_op_end":
            if event["op"] != "create":
                gone.add(slots.get(event["slot"], -1))
            slots[event["slot"]] = event["incarnation"]
    return stale


def _stale_structs(events: Iterable[_Line]) -> Stale:
    slots: dict[int, int] = {}
    gone: set[int] = set()
    stale = []
    for event in events:
        if event.kind == "guest_access":
            met = event.access
            if event.incarnation in gone or (met and ("retired" in str(met) or "foreign" in str(met))):
                stale.append((event.time_ns, event.seq))
        elif event.kind == "slot_op_end":
            if event.op != "create":
                gone.add(slots.get(event.slot, -1))
            slots[event.slot] = event.incarnation
    return stale


# --- SQL


def _sql(sql: str, threads: int) -> Callable[[Path], Stale]:
    def stale(run: Path) -> Stale:
        import duckdb  # noqa: PLC0415 - only this contender pays for it

        events = f"read_parquet('{str(run).replace(chr(39), chr(39) * 2)}/events/*.parquet')"
        gone = _GONE.format(events=events, op_end=int(Kind.SLOT_OP_END))
        uses = _USES.format(events=events, access=int(Kind.GUEST_ACCESS))
        filled = sql.format(gone=gone, uses=uses, events=events, access=int(Kind.GUEST_ACCESS))
        with duckdb.connect(config={"threads": threads}) as connection:
            return [(int(time_ns), int(seq)) for time_ns, seq in connection.execute(filled).fetchall()]

    return stale


def _peak_mb() -> float:
    """This process's own peak; ru_maxrss would include that of the parent before exec()."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    """Measure one contender."""
    name, warm_up, log, *cpus = sys.argv[1:]
    if cpus:
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus})
    contender = contenders()[name]
    if warm_up:
        contender(Path(warm_up))
    start, cpu_start = time.perf_counter(), time.process_time()
    stale = contender(Path(log))
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    sys.stdout.write(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "peak_mb": _peak_mb(), "stale": sorted(stale)}) + "\n")


if __name__ == "__main__":
    main()
