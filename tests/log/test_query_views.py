# SPDX-License-Identifier: GPL-2.0-only
"""The views: which events make one row, in whole logs, in cut ones, in old ones; and the ten queries of the page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stress.log.archive import Archive
from stress.log.query import Query
from stress.log.query_guard import TABLE_FUNCTIONS
from stress.log.query_views import VIEWS
from stress.log.schema import FROZEN_SPTE, METADATA_KEY, NULL, Kind
from tests.engine import command

from . import run_folder as rf

if TYPE_CHECKING:
    from stress.log.folder import RunFolder

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "query.md"

READ, WRITE, EXCLUSIVE = 0, 1, 2
MMU_READ, MMU_WRITE, POOL = 3, 4, 7
FREE_OBSOLETE_ROOTS, TLB_FLUSH = 0, 1


def rows(path: Path, sql: str) -> list[dict[str, Any]]:
    """All rows of a result, in the order of the query."""
    with Query(Archive.open(path)) as query:
        result = query.run(sql)
        return [dict(zip(result.columns, row, strict=True)) for batch in result for row in batch]


def values(path: Path, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in rows(path, sql)]


def write(tmp_path: Path, **events: Any) -> Path:
    return rf.write_run(tmp_path / "run", events).path


def lock(time_ns: int, kind: Kind, lock_id: int, mode: int) -> tuple[int, ...]:
    return rf.event(time_ns, kind, arg0=lock_id, arg1=mode)


# --- events


def test_an_event_has_names_for_its_numbers(tmp_path: Path) -> None:
    """Kind, codes, bits; -1 is null; file and row say where it stands."""
    fault = rf.event(7, Kind.KVM_PAGE_FAULT, gfn=0, root=3, pfn=NULL, incarnation=0, arg0=2, arg1=1)
    run = write(tmp_path, ctl=[], vcpu10=[rf.event(5, Kind.SRCU_LOCK), fault])
    assert rows(run, "from events where kind = 'kvm_page_fault'") == [
        {
            "actor": "vcpu10",
            "seq": 1,
            "time_ns": 7,
            "kind": "kvm_page_fault",
            "gfn": 0,
            "root": 3,
            "pfn": None,
            "incarnation": 0,
            "arg0": 2,
            "arg1": 1,
            "arg0_name": "fixed",
            "arg1_name": "write",
            "file": "events/vcpu10-00000.parquet",
            "file_row": 1,
        }
    ]


def test_codes_that_have_no_name_stay_numbers(tmp_path: Path) -> None:
    """Codes, kinds and 64-bit words of a later version or of a damaged log are no error."""
    large = 2**63 - 1
    events = [rf.event(1, Kind.KVM_EXIT, arg0=99), rf.event(2, 60, arg0=large, arg1=large), rf.event(3, 1000), rf.event(4, 0)]
    run = write(tmp_path, vcpu0=[*events, rf.event(5, Kind.FINDING, arg0=1, arg1=100), rf.event(6, Kind.FINDING, arg0=4, arg1=3)])
    assert values(run, "select kind, arg0, arg1, arg0_name, arg1_name from events order by seq") == [
        ("kvm_exit", 99, None, None, None),
        ("unknown_60", large, large, None, None),
        (None, None, None, None, None),
        (None, None, None, None, None),
        ("finding", 1, 100, "stale-use", "lockdep"),
        ("finding", 4, 3, "invariant", None),
    ]


def test_bits_are_named_together(tmp_path: Path) -> None:
    """As `zaptorture log` writes them; 0 if none is set."""
    run = write(tmp_path, vcpu0=[rf.event(bits, Kind.GUEST_ACCESS, arg1=bits) for bits in (0, 1, 5, 15)])
    names = [("0",), ("write",), ("write|tlb_hit",), ("write|retired|tlb_hit|foreign",)]
    assert values(run, "select arg1_name from events order by seq") == names


def test_an_spte_is_taken_apart(tmp_path: Path) -> None:
    """By the bits that the schema gives it."""
    word = 1 | 1 << 2 | 77 << 5 | 123456 << 22
    run = write(tmp_path, vcpu0=[rf.event(1, Kind.SPTE_CHANGE, arg0=FROZEN_SPTE, arg1=word), rf.event(2)])
    parts = {"present": True, "leaf": False, "writable": True, "accessed": False, "dirty": False, "pfn": 77, "incarnation": 123456}
    assert values(run, "select spte(arg1), spte(arg0).present from events order by seq")[0] == (parts, False)
    assert values(run, "select spte(arg1).pfn from events order by seq")[1] == (None,)


def plan(path: Path, sql: str) -> str:
    with Query(Archive.open(path)) as query:
        return query._connection.execute(f"explain analyze {sql}").fetchall()[0][1]


@pytest.mark.parametrize(
    ("condition", "found", "scanned"),
    [
        ("kind = 'kvm_exit'", 100, 100),
        ("kind in ('kvm_exit', 'halt')", 100, 100),
        ("time_ns between 200 and 209", 2, 2),
        ("gfn = 7", 2, 2),
        ("actor = 'ctl'", 200, 200),
        ("file = 'events/ctl-00000.parquet'", 200, 200),
        ("gfn is not null and kind = 'kvm_entry'", 300, 300),
    ],
)
def test_a_filter_reaches_the_scan(condition: str, found: int, scanned: int, tmp_path: Path) -> None:
    """The scan of the files itself lets only the wanted rows through, though the columns are computed."""

    def entries(exits: bool) -> list[tuple[int, ...]]:
        return [rf.event(n * 10, Kind.KVM_EXIT if exits and n % 2 else Kind.KVM_ENTRY, gfn=n) for n in range(200)]

    run = rf.write_run(tmp_path / "run", {"vcpu0": entries(True), "ctl": entries(False)}, row_group_rows=50, file_rows=100).path
    assert values(run, f"select count(*) from events where {condition}") == [(found,)] if "file" not in condition else True
    text = plan(run, f"select sum(arg0) from events where {condition}")
    assert re.search(r"PARQUET", text), text
    scan = text[text.index("PARQUET") :]
    assert int(re.findall(r"([\d,]+) rows", scan)[0].replace(",", "")) <= scanned


def test_a_run_without_events_has_empty_views(tmp_path: Path) -> None:
    """A run that was killed in its first second is still a run."""
    run = write(tmp_path, vcpu0=[], ctl=[])
    for name in VIEWS.keys() - {"control"}:
        assert values(run, f"select count(*) from {name}") == [(0,)]
    shutil.rmtree(run / "events")
    assert values(run, "select count(*) from events") == [(0,)]


# --- pairs


def test_locks(tmp_path: Path) -> None:
    """One row a hold: its wait, its end; locks nest, modes of mmu_lock are one lock."""
    run = write(
        tmp_path,
        vcpu0=[
            lock(10, Kind.CONTENTION_BEGIN, MMU_READ, READ),
            lock(15, Kind.LOCK_ACQUIRE, MMU_READ, READ),
            lock(16, Kind.LOCK_ACQUIRE, POOL, EXCLUSIVE),
            lock(18, Kind.LOCK_RELEASE, POOL, EXCLUSIVE),
            lock(30, Kind.LOCK_RELEASE, MMU_READ, READ),
            lock(40, Kind.LOCK_ACQUIRE, MMU_WRITE, WRITE),
        ],
        vcpu1=[lock(20, Kind.LOCK_RELEASE, MMU_READ, READ)],
    )
    assert values(run, "from locks order by acquire_seq") == [
        ("vcpu0", "mmu_lock", "read", 10, 15, 30, 5, 15, 1, 4),
        ("vcpu0", "pool_lock", "exclusive", None, 16, 18, 0, 2, 2, 3),
        ("vcpu0", "mmu_lock", "write", None, 40, None, 0, None, 5, None),
    ]


def test_slots(tmp_path: Path) -> None:
    """One row an operation; of a move the new slot object, and the old incarnation."""

    def op(time_ns: int, kind: Kind, number: int, incarnation: int, gfn: int = 64) -> tuple[int, ...]:
        return rf.event(time_ns, kind, gfn=gfn, pfn=0, incarnation=incarnation, arg0=number, arg1=1)

    run = write(
        tmp_path,
        ctl=[
            rf.event(5, Kind.FRAME_RETIRE, incarnation=1),  # of an operation that is not in the log
            op(10, Kind.SLOT_OP_BEGIN, 1, 18),
            op(12, Kind.SLOT_OP_END, 1, 18),
            op(20, Kind.SLOT_OP_BEGIN, 3, 35, gfn=128),
            op(21, Kind.FLUSH_SHADOW_BEGIN, 32, 18),
            op(26, Kind.FLUSH_SHADOW_END, 32, 18),
            op(30, Kind.SLOT_OP_END, 3, 35, gfn=128),
            rf.event(31, Kind.FRAME_RETIRE, incarnation=18),
            op(40, Kind.SLOT_OP_BEGIN, 2, 35, gfn=128),
        ],
    )
    assert values(run, "from slots order by begin_ns") == [
        ("ctl", "create", 1, 18, None, 64, 0, None, 10, 12, 2, None, None, None, None),
        ("ctl", "move", 1, 35, 18, 128, 0, 32, 20, 30, 10, 21, 26, 5, 31),
        ("ctl", "delete", 1, 35, None, 128, 0, None, 40, None, None, None, None, None, None),
    ]


def test_roots(tmp_path: Path) -> None:
    """One row a life; the page's next life, as a root or as a table, is another one."""

    def at(time_ns: int, kind: Kind, refcount: int = NULL) -> tuple[int, ...]:
        return rf.event(time_ns, kind, root=9, arg0=refcount)

    run = write(
        tmp_path,
        vcpu0=[at(10, Kind.ROOT_ALLOC, 2), at(25, Kind.ROOT_PUT, 1), at(40, Kind.ROOT_PUT, 0), at(80, Kind.ROOT_ALLOC, 2)],
        ctl=[at(20, Kind.ROOT_INVALIDATE), at(30, Kind.ROOT_ZAP_BEGIN), at(35, Kind.ROOT_ZAP_END)],
        rcu=[at(5, Kind.KVM_MMU_FREE_PAGE), at(50, Kind.KVM_MMU_FREE_PAGE), at(70, Kind.KVM_MMU_FREE_PAGE)],
    )
    assert values(run, "from roots order by alloc_ns") == [
        (9, "vcpu0", 10, 20, 30, 35, 40, 50),
        (9, "vcpu0", 80, None, None, None, None, None),
    ]


def test_halves(tmp_path: Path) -> None:
    """Roots and yields count where they happen: behind a half's end they are nobody's."""
    run = write(
        tmp_path,
        ctl=[
            rf.event(1, Kind.ROOT_INVALIDATE, root=1),
            rf.event(10, Kind.ZAP_FRONT_BEGIN),
            rf.event(11, Kind.ROOT_INVALIDATE, root=2),
            rf.event(12, Kind.ROOT_INVALIDATE, root=3),
            rf.event(13, Kind.ZAP_YIELD, root=2, arg0=1),
            rf.event(20, Kind.ZAP_FRONT_END, arg0=1),
            rf.event(21, Kind.ROOT_INVALIDATE, root=4),
            rf.event(30, Kind.ZAP_BACK_BEGIN),
            rf.event(31, Kind.ROOT_ZAP_BEGIN, root=2),
            rf.event(32, Kind.ZAP_YIELD, root=2, arg0=2),
            rf.event(33, Kind.ZAP_YIELD, root=2, arg0=2),
            rf.event(40, Kind.ZAP_BACK_END),
            rf.event(50, Kind.ZAP_FRONT_BEGIN),
        ],
    )
    assert values(run, "from halves order by begin_ns") == [
        ("ctl", "front", 10, 20, 10, 2, 1, 1, 5),
        ("ctl", "back", 30, 40, 10, 1, 2, 7, 11),
        ("ctl", "front", 50, None, None, 0, 0, 12, None),
    ]


def test_faults_and_stays(tmp_path: Path) -> None:
    """A fault begins with the exit before it; a cancelled entry is no stay."""
    run = write(
        tmp_path,
        vcpu0=[
            rf.event(1, Kind.KVM_PAGE_FAULT, gfn=4, root=2, arg0=2, arg1=0),
            rf.event(5, Kind.KVM_EXIT, root=2, arg0=3),
            rf.event(10, Kind.KVM_ENTRY, root=2, arg0=7),
            rf.event(30, Kind.KVM_EXIT, gfn=5, root=2, arg0=2),
            lock(31, Kind.LOCK_ACQUIRE, MMU_READ, READ),
            rf.event(37, Kind.KVM_PAGE_FAULT, gfn=5, root=2, pfn=8, incarnation=18, arg0=1, arg1=1),
            rf.event(40, Kind.KVM_ENTRY, root=3, arg0=8),
        ],
    )
    assert values(run, "from faults order by seq") == [
        ("vcpu0", 4, 2, None, None, "fixed", "0", None, 1, None, 0),
        ("vcpu0", 5, 2, 8, 18, "retry_stale", "write", 30, 37, 7, 5),
    ]
    assert values(run, "from stays order by seq") == [
        ("vcpu0", 2, 7, "fault", 10, 30, 20, 2),
        ("vcpu0", 3, 8, None, 40, None, None, 6),
    ]


def test_requests(tmp_path: Path) -> None:
    """From the first vCPU asked to the sender's going on; what never ended is none."""

    def request(time_ns: int, kind: Kind, number: int, vcpu: int = NULL) -> tuple[int, ...]:
        return rf.event(time_ns, kind, arg0=number, arg1=vcpu)

    run = write(
        tmp_path,
        ctl=[
            request(10, Kind.REQUEST_SET, FREE_OBSOLETE_ROOTS, 0),
            request(11, Kind.REQUEST_SET, FREE_OBSOLETE_ROOTS, 1),
            request(12, Kind.IPI_SEND, FREE_OBSOLETE_ROOTS, 1),
            request(90, Kind.REQUEST_DONE, FREE_OBSOLETE_ROOTS),
            request(95, Kind.REQUEST_SET, TLB_FLUSH, 0),
            request(96, Kind.REQUEST_DONE, TLB_FLUSH),
            request(99, Kind.REQUEST_SET, TLB_FLUSH, 0),
        ],
    )
    assert values(run, "from requests order by set_ns") == [
        ("ctl", "mmu_free_obsolete_roots", 10, 90, 80, 2, 1),
        ("ctl", "tlb_flush", 95, 96, 1, 1, 0),
    ]


# --- the control log


def finding(time_ns: int, gfn: int) -> dict[str, Any]:
    fields = {"kind": "stale-use", "invariant": "I3", "actor": "vcpu0", "other_actor": None, "time_ns": time_ns}
    return fields | {"other_time_ns": 90, "gfn": gfn, "pfn": 8, "incarnation": 18, "root": 2, "slot": 1, "detail": "why"}


def test_findings_of_both_logs_are_one(tmp_path: Path) -> None:
    """Each of the two logs may lack one that the other has; equal ones are matched in their order."""
    hang = {"kind": "invariant", "invariant": "I25", "actor": "ctl", "time_ns": 500}

    def event(time_ns: int, gfn: int) -> tuple[int, ...]:
        return rf.event(time_ns, Kind.FINDING, gfn=gfn, root=2, pfn=8, incarnation=18, arg0=1, arg1=3)

    run = rf.write_run(
        tmp_path / "run",
        {"vcpu0": [event(101, 5), event(111, 5), event(121, 6)], "ctl": []},
        control=[(600, "finding", finding(100, 5)), (600, "finding", finding(110, 5)), (600, "finding", hang)],
    ).path
    columns = "actor, kind, invariant, time_ns, gfn, slot, other_time_ns, detail, event_ns, seq, file_row"
    assert values(run, f"select {columns} from findings order by time_ns") == [
        ("vcpu0", "stale-use", "I3", 100, 5, 1, 90, "why", 101, 0, 0),
        ("vcpu0", "stale-use", "I3", 110, 5, 1, 90, "why", 111, 1, 1),
        ("vcpu0", "stale-use", "I3", 121, 6, None, None, None, 121, 2, 2),
        ("ctl", "invariant", "I25", 500, None, None, None, None, None, None, None),
    ]


def test_control_and_counters(tmp_path: Path) -> None:
    """Lines as they are; the fields of one event are JSON."""
    run = rf.write_run(tmp_path / "run", {"vcpu0": []}, control=[(7, "counters", {"deletes": 3, "moves": 0})]).path
    assert values(run, "from counters") == [("deletes", 3), ("moves", 0)]
    assert values(run, "select t_ns, event, fields ->> 'deletes' from control where event = 'counters'") == [(7, "counters", "3")]
    assert values(run, "select count(*) from control where timestamp > timestamp '2020-01-01'")[0][0] >= 3


def test_damaged_control_lines_are_passed_over(tmp_path: Path) -> None:
    """No text, no object, no number where one belongs: the lines around are there."""
    run = write(tmp_path, vcpu0=[])
    before = values(run, "select count(*) from control")[0][0]
    odd = {"timestamp": "never", "t_ns": 5, "event": "of a later version", "x": "\u2028'", "z": [{"a": None}]}
    with (run / "control.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\n[1]\n{\n" + b'{"a":' * 2000 + b"\n\n" + json.dumps(odd).encode() + b"\n{torn")
    assert values(run, "select count(*) from control")[0][0] == before + 1
    found = values(run, "select timestamp, event, fields ->> 'x', fields ->> '$.z[0].a' from control where t_ns = 5")
    assert found == [(None, "of a later version", "\u2028'", None)]


# --- logs that are not whole, or old


def as_version_1(folder: RunFolder) -> Path:
    """Rewrite a run's files in the first format: nulls, and no kinds from request_clear on."""
    for path in sorted(folder.events.glob("*.parquet")):
        table = pq.ParquetFile(path, pre_buffer=False).read(use_threads=False)
        table = table.filter(pa.array([kind < Kind.REQUEST_CLEAR for kind in table["kind"].to_pylist()]))
        columns = [
            pa.array([None if value == NULL else value for value in table[name].to_pylist()], table[name].type)
            for name in table.column_names
        ]
        about = json.loads(table.schema.metadata[METADATA_KEY]) | {"schema_version": 1}
        fields = [field.with_nullable(number > 2) for number, field in enumerate(table.schema)]
        schema = pa.schema(fields, {METADATA_KEY: json.dumps(about)})
        pq.write_table(pa.table(columns, schema=schema), path, write_statistics=["seq", "time_ns"], write_page_checksum=True)
    manifest = json.loads(folder.manifest.read_text(encoding="utf-8"))
    folder.manifest.write_text(json.dumps(manifest | {"schema_version": 1}), encoding="utf-8")
    return folder.path


def test_a_log_of_the_first_version(tmp_path: Path) -> None:
    """What it does not have is null, not wrong: nobody knows whether a lock was waited for."""
    folder = rf.write_run(
        tmp_path / "run",
        {
            "ctl": [
                rf.event(10, Kind.SLOT_OP_BEGIN, gfn=0, pfn=0, incarnation=18, arg0=2, arg1=0),
                rf.event(11, Kind.FLUSH_SHADOW_BEGIN, gfn=0, pfn=0, incarnation=18, arg0=32, arg1=0),
                rf.event(12, Kind.ZAP_FRONT_BEGIN),
                rf.event(13, Kind.ROOT_INVALIDATE, root=2),
                rf.event(14, Kind.ZAP_FRONT_END, arg0=1),
                rf.event(15, Kind.FLUSH_SHADOW_END, gfn=0, pfn=0, incarnation=18, arg0=32, arg1=0),
                rf.event(16, Kind.SLOT_OP_END, gfn=0, pfn=0, incarnation=18, arg0=2, arg1=0),
                rf.event(17, Kind.FRAME_RETIRE, incarnation=18),
            ],
            "vcpu0": [lock(20, Kind.LOCK_ACQUIRE, MMU_READ, READ), lock(25, Kind.LOCK_RELEASE, MMU_READ, READ)],
        },
    )
    run = as_version_1(folder)
    assert values(run, "select op, old_incarnation, npages, duration_ns, flush_ns, retire_ns from slots") == [
        ("delete", 18, None, 6, None, 17)
    ]
    assert values(run, "select held_ns, waited_ns from locks") == [(5, None)]
    assert values(run, "select half, roots from halves") == [("front", 1)]
    for name in VIEWS:
        assert values(run, f"select count(*) from {name}")


# --- the page


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of the scenario that has everything."""
    scenario = ROOT / "configs" / "scenarios" / "quick.toml"
    ended = command.run(scenario, tmp_path_factory.mktemp("out"), "--duration", "700ms", sets=("log.policy=all",))
    assert ended.code in (0, 3), ended.told()
    return ended.folder


def questions() -> dict[str, str]:
    """The page's queries by their headings."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## Ten questions\n")[2].partition("\n## ")[0]
    return {part.splitlines()[0]: re.search(r"```sql\n(.*?)```", part, re.DOTALL)[1] for part in section.split("\n### ")[1:]}


# For each of the ten what its result must look like to be an answer.
PLAUSIBLE = [
    lambda found: all(0 < row["median_us"] <= row["max_us"] for row in found) and any(row["roots"] > 0 for row in found),
    lambda found: {row["during_a_back_half"] for row in found} == {True, False} and all(row["median_ns"] > 0 for row in found),
    lambda found: all(row["waiter"] != row["holder"] and row["total_wait_ms"] > 0 for row in found),
    lambda found: all(row["deletes"] > 0 and 0 < row["part_in_flush"] < 1 for row in found) and len(found) == 3,
    lambda found: {"fixed", "mmio"} <= {row["result"] for row in found} and sum(row["retries"] for row in found) > 0,
    lambda found: all(row["events_per_s"] > 0 for row in found) and {row["actor"] for row in found} >= {"vcpu0", "ctl", "rcu"},
    lambda found: len(found) == 10 and any("request_set" in row["inside"] for row in found if row["inside"]),
    lambda found: {"fault"} <= {row["reason"] for row in found} and all(row["total_s"] > 0 for row in found),
    lambda found: all(0 < row["ipis"] <= row["vcpus"] == 4 and row["round_trip_us"] > 0 for row in found),
    lambda found: all(row["lingered_ms"] > row["zap_ms"] > 0 for row in found),
]


@pytest.mark.parametrize("number", range(10))
def test_a_query_of_the_page_has_an_answer(number: int, quick_run: Path) -> None:
    """It runs as it stands, finds rows, and what they say can be."""
    asked = list(questions().values())
    assert len(asked) == len(PLAUSIBLE)
    found = rows(quick_run, asked[number])
    assert found
    assert PLAUSIBLE[number](found), found


def test_the_example_of_sptes_runs(quick_run: Path) -> None:
    """The page's other query; every present leaf belongs to an incarnation."""
    (sql,) = set(re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)) - set(questions().values())
    found = rows(quick_run, sql)
    assert len(found) == 10
    assert all(row["incarnation"] > 0 for row in found)


def test_the_views_agree_with_the_counters(quick_run: Path) -> None:
    """What the run counted is what the views find: nothing is lost, nothing is paired twice."""
    counted = dict(values(quick_run, "from counters"))
    assert values(quick_run, "select count(*) from faults")[0][0] == counted["page_faults"]
    assert values(quick_run, "select count(*) from stays where exit_ns is not null")[0][0] == counted["guest_entries"]
    assert values(quick_run, "select count(*) from slots where op = 'delete'")[0][0] == counted["deletes"]
    assert values(quick_run, "select count(*) from slots where op = 'move'")[0][0] == counted["moves"]
    assert values(quick_run, "select count(*) from roots where free_ns is not null")[0][0] == counted["roots_freed"]
    assert values(quick_run, "select sum(yields) from halves where half = 'back'")[0][0] == counted["back_half_yields"]
    assert values(quick_run, "select count(*) from locks where release_ns is null")[0][0] == 0


def test_the_page_has_the_columns_of_every_view(tmp_path: Path) -> None:
    """Name, type and meaning, in order; and every function that FROM may hold."""
    run = write(tmp_path, vcpu0=[rf.event(1)])
    text = PAGE.read_text(encoding="utf-8")
    for name, view in VIEWS.items():
        section = text.partition(f"\n### {name}\n")[2].partition("\n#")[0]
        documented = [
            tuple(cell.strip() for cell in line[1:-1].split("|")) for line in section.splitlines() if line.startswith("| `")
        ]
        types = values(run, f"select column_name, column_type from (describe {name})")
        assert [(f"`{column}`", kind, view.columns[column]) for column, kind in types] == documented
        assert [column for column, _ in types] == list(view.columns)
        assert f"One row: {view.about}." in section
    functions = text.partition("these functions:\n")[2].partition(".\n")[0]
    assert set(re.findall(r"`(\w+)`", functions)) == TABLE_FUNCTIONS
