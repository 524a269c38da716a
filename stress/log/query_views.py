# SPDX-License-Identifier: GPL-2.0-only
"""The views that `zaptorture query` offers over a run folder: their columns and their SQL, in DuckDB's dialect.

`events` is the log itself, with names for numbers; all that it computes is a function of one column, so that a filter
reaches the scan of the Parquet files and skips files, row groups or values. The other views pair events that belong
together. They do it with window functions over the few kinds that they need, by actor and in the order of `seq`. Nothing is
stored: each query reads what it needs, in bounded memory. (No `count(*) filter (...) over (...)`: DuckDB 2.0 takes quadratic
time for it, and linear time for `count(if(...)) over (...)`.)

Pairs are formed of neighbours. Where events are missing (a window, a killed run, lost events) the partner's columns are
null; only in the middle of a loss may two events be paired that do not belong together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stress.log.naming import event_fields, kind_label, named_value
from stress.log.schema import COLUMNS, NULL, SPTE_BITS, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MACROS", "VIEWS", "View", "events_sql", "literal", "view_sql"]

# Labels are looked up in a list; a few more than there are kinds, for logs of a later version.
KINDS_LISTED = 127

# Format version from which on contention is logged.
_CONTENTION_VERSION = 2


class View(NamedTuple):
    """One view.

    Attributes:
        about: what one row is.
        columns: name and meaning of each column, in order.
        sql: its SELECT; empty for those that Python makes (`events`, `control`).
    """

    about: str
    columns: dict[str, str]
    sql: str


MACROS: dict[str, str] = {
    "spte": "create macro spte(word) as {"
    + ", ".join(
        f"'{name}': (word >> {bit}) & {(1 << width) - 1}" + (" = 1" if width == 1 else "")
        for name, (bit, width) in SPTE_BITS.items()
    )
    + "}",
}

_LOCKS = """
select actor, replace(replace(arg0_name, ' (read)', ''), ' (write)', '') as lock, arg1_name as mode,
    wait_begin_ns, time_ns as acquire_ns, release_ns,
    {waited_ns} as waited_ns, release_ns - time_ns as held_ns, seq as acquire_seq, release_seq
from (
    select actor, seq, time_ns, kind, arg0_name, arg1_name,
        case when lag(kind) over neighbour = 'contention_begin' then lag(time_ns) over neighbour end as wait_begin_ns,
        case when lead(kind) over neighbour = 'lock_release' then lead(time_ns) over neighbour end as release_ns,
        case when lead(kind) over neighbour = 'lock_release' then lead(seq) over neighbour end as release_seq
    from events
    where kind in ('contention_begin', 'lock_acquire', 'lock_release')
    window neighbour as (partition by actor, arg0 order by seq)
)
where kind = 'lock_acquire'
"""

_SLOTS = """
select actor, any_value(arg0_name) filter (seq = opened) as op, any_value(arg1) filter (seq = opened) as slot,
    any_value(incarnation) filter (seq = opened) as incarnation,
    coalesce(
        any_value(incarnation) filter (kind = 'flush_shadow_begin'), any_value(incarnation) filter (kind = 'frame_retire')
    ) as old_incarnation,
    any_value(gfn) filter (seq = opened) as base_gfn, any_value(pfn) filter (seq = opened) as base_pfn,
    any_value(arg0) filter (kind = 'flush_shadow_begin') as npages,
    min(time_ns) as begin_ns, min(time_ns) filter (kind = 'slot_op_end') as end_ns,
    min(time_ns) filter (kind = 'slot_op_end') - min(time_ns) as duration_ns,
    min(time_ns) filter (kind = 'flush_shadow_begin') as flush_begin_ns,
    min(time_ns) filter (kind = 'flush_shadow_end') as flush_end_ns,
    min(time_ns) filter (kind = 'flush_shadow_end') - min(time_ns) filter (kind = 'flush_shadow_begin') as flush_ns,
    min(time_ns) filter (kind = 'frame_retire') as retire_ns
from (
    select actor, seq, time_ns, kind, gfn, pfn, incarnation, arg0, arg1, arg0_name,
        max(seq) filter (kind = 'slot_op_begin') over (partition by actor order by seq rows unbounded preceding) as opened
    from events
    where kind in ('slot_op_begin', 'slot_op_end', 'flush_shadow_begin', 'flush_shadow_end', 'frame_retire')
)
where opened is not null
group by actor, opened
"""

# A page is a root from its root_alloc to the next kvm_mmu_free_page of it; in between it cannot be anything else.
_ROOTS = """
select root, any_value(actor) filter (kind = 'root_alloc') as allocated_by,
    min(time_ns) filter (kind = 'root_alloc') as alloc_ns, min(time_ns) filter (kind = 'root_invalidate') as invalidate_ns,
    min(time_ns) filter (kind = 'root_zap_begin') as zap_begin_ns, min(time_ns) filter (kind = 'root_zap_end') as zap_end_ns,
    min(time_ns) filter (kind = 'root_put') as last_put_ns, min(time_ns) filter (kind = 'kvm_mmu_free_page') as free_ns
from (
    select actor, time_ns, kind, root,
        count(if(kind = 'root_alloc', 1, null))
            over (partition by root order by time_ns, actor, seq rows unbounded preceding) as life
    from events
    where kind in ('root_alloc', 'root_invalidate', 'root_zap_begin', 'root_zap_end', 'kvm_mmu_free_page')
        or (kind = 'root_put' and arg0 <= 0)
)
where life > 0
group by root, life
"""

_HALVES = """
select actor, if(any_value(kind) filter (seq = opened) = 'zap_front_begin', 'front', 'back') as half,
    min(time_ns) as begin_ns, max(time_ns) filter (kind in ('zap_front_end', 'zap_back_end')) as end_ns,
    max(time_ns) filter (kind in ('zap_front_end', 'zap_back_end')) - min(time_ns) as duration_ns,
    count(*) filter (kind in ('root_invalidate', 'root_zap_begin')) as roots,
    count(*) filter (kind = 'zap_yield') as yields, opened as begin_seq,
    any_value(seq) filter (kind in ('zap_front_end', 'zap_back_end')) as end_seq
from (
    select actor, seq, time_ns, kind,
        max(seq) filter (kind in ('zap_front_begin', 'zap_back_begin')) over so_far as opened,
        max(seq) filter (kind in ('zap_front_end', 'zap_back_end')) over so_far as closed
    from events
    where kind in (
        'zap_front_begin', 'zap_front_end', 'zap_back_begin', 'zap_back_end', 'zap_yield', 'root_invalidate', 'root_zap_begin'
    )
    window so_far as (partition by actor order by seq rows unbounded preceding)
)
where opened is not null and (closed is null or closed < opened or closed = seq)
group by actor, opened
"""

_FAULTS = """
select actor, gfn, root, pfn, incarnation, arg0_name as result, arg1_name as access,
    begin_ns, time_ns as end_ns, time_ns - begin_ns as latency_ns, seq
from (
    select actor, seq, time_ns, kind, gfn, root, pfn, incarnation, arg0_name, arg1_name,
        case when lag(kind) over neighbour = 'kvm_exit' then lag(time_ns) over neighbour end as begin_ns
    from events
    where kind in ('kvm_exit', 'kvm_page_fault')
    window neighbour as (partition by actor order by seq)
)
where kind = 'kvm_page_fault'
"""

_STAYS = """
select actor, root, arg0 as entry_seq, reason, time_ns as entry_ns, exit_ns, exit_ns - time_ns as stay_ns, seq
from (
    select actor, seq, time_ns, kind, root, arg0,
        case when lead(kind) over neighbour = 'kvm_exit' then lead(time_ns) over neighbour end as exit_ns,
        case when lead(kind) over neighbour = 'kvm_exit' then lead(arg0_name) over neighbour end as reason
    from events
    where kind in ('kvm_entry', 'kvm_exit')
    window neighbour as (partition by actor order by seq)
)
where kind = 'kvm_entry'
"""

# All of a sender's events behind its last request_done belong to one request.
_REQUESTS = """
select actor, any_value(arg0_name) filter (kind = 'request_set') as request,
    min(time_ns) filter (kind = 'request_set') as set_ns, min(time_ns) filter (kind = 'request_done') as done_ns,
    min(time_ns) filter (kind = 'request_done') - min(time_ns) filter (kind = 'request_set') as duration_ns,
    count(*) filter (kind = 'request_set') as vcpus, count(*) filter (kind = 'ipi_send') as ipis
from (
    select actor, time_ns, kind, arg0_name,
        coalesce(
            max(seq) filter (kind = 'request_done')
                over (partition by actor order by seq rows between unbounded preceding and 1 preceding),
            -1
        ) as after
    from events
    where kind in ('request_set', 'ipi_send', 'request_done')
)
group by actor, after
having count(*) filter (kind = 'request_done') > 0
"""

# The run numbers neither; equal findings of one actor are matched in the order in which they were made.
_FINDINGS = """
with of_log as (
    select *, row_number() over (partition by actor, kind, invariant, gfn, root, pfn, incarnation order by seq) as n
    from (
        select actor, arg0_name as kind, coalesce(arg1_name, 'I' || arg1) as invariant, gfn, root, pfn, incarnation,
            time_ns as event_ns, seq, file, file_row
        from events
        where events.kind = 'finding'
    )
), of_control as (
    select *, row_number() over (partition by actor, kind, invariant, gfn, root, pfn, incarnation order by time_ns) as n
    from (
        select fields ->> 'actor' as actor, fields ->> 'kind' as kind, fields ->> 'invariant' as invariant,
            {control_numbers}, fields ->> 'other_actor' as other_actor, fields ->> 'detail' as detail
        from control
        where event = 'finding'
    )
)
select coalesce(c.actor, e.actor) as actor, coalesce(c.kind, e.kind) as kind, coalesce(c.invariant, e.invariant) as invariant,
    coalesce(c.time_ns, e.event_ns) as time_ns, coalesce(c.gfn, e.gfn) as gfn, coalesce(c.root, e.root) as root,
    coalesce(c.pfn, e.pfn) as pfn, coalesce(c.incarnation, e.incarnation) as incarnation, c.slot, c.other_actor,
    c.other_time_ns, c.detail, e.event_ns, e.seq, e.file, e.file_row
from of_control c full join of_log e
    on c.actor is not distinct from e.actor and c.kind is not distinct from e.kind
    and c.invariant is not distinct from e.invariant and c.gfn is not distinct from e.gfn
    and c.root is not distinct from e.root and c.pfn is not distinct from e.pfn
    and c.incarnation is not distinct from e.incarnation and c.n = e.n
""".replace(
    "{control_numbers}",
    ", ".join(
        f"try_cast(fields ->> '{name}' as bigint) as {name}"
        for name in ("time_ns", "gfn", "root", "pfn", "incarnation", "slot", "other_time_ns")
    ),
)

_COUNTERS = """
select c.key as name, try_cast(c.value as bigint) as value
from control, json_each(control.fields) c
where control.event = 'counters'
order by c.id
"""

VIEWS: dict[str, View] = {
    "events": View(
        "one event of the event log; -1 is shown as null",
        {
            "actor": "who did it, from the file's name",
            **COLUMNS,
            "kind": "label of the kind",
            "arg0_name": "name of arg0, where it is a code or bits",
            "arg1_name": "name of arg1, where it is a code or bits",
            "file": "the file it is in, relative to the run folder",
            "file_row": "its row in that file, from 0",
        },
        "",
    ),
    "control": View(
        "one line of the control log; damaged lines are passed over",
        {
            "t_ns": "nanoseconds since the start of the run",
            "timestamp": "wall clock, UTC",
            "event": "what happened",
            "fields": "the event's own fields; fields ->> 'pid' is one of them as text",
        },
        "",
    ),
    "findings": View(
        "one finding, of the control log, of the event log, or both",
        {
            "actor": "actor that met it",
            "kind": "stale-use, stale-writeback, leftover-mapping or invariant",
            "invariant": "id of the invariant that is broken",
            "time_ns": "when it was met",
            "gfn": "guest frame",
            "root": "page of the root or table",
            "pfn": "backing frame",
            "incarnation": "incarnation of the mapping",
            "slot": "slot id",
            "other_actor": "the second actor of the story",
            "other_time_ns": "when the incarnation was retired",
            "detail": "what was seen, in a sentence",
            "event_ns": "time of the event",
            "seq": "seq of the event",
            "file": "file of the event",
            "file_row": "its row in that file",
        },
        _FINDINGS,
    ),
    "slots": View(
        "one operation on a slot",
        {
            "actor": "who did it",
            "op": "create, delete or move",
            "slot": "slot id",
            "incarnation": "incarnation of the slot object: of a move the new one",
            "old_incarnation": "incarnation that a delete or move ends",
            "base_gfn": "first guest frame: of a move the new one",
            "base_pfn": "first backing frame",
            "npages": "length, known where a flush is",
            "begin_ns": "slot_op_begin",
            "end_ns": "slot_op_end",
            "duration_ns": "between the two",
            "flush_begin_ns": "flush_shadow_begin; version 2",
            "flush_end_ns": "flush_shadow_end; version 2",
            "flush_ns": "between the two: both halves, or the zap of the slot's leafs",
            "retire_ns": "frame_retire: from here on any use of old_incarnation is stale",
        },
        _SLOTS,
    ),
    "roots": View(
        "one life of a root; its page may be another root later",
        {
            "root": "page of the root",
            "allocated_by": "vCPU that made it",
            "alloc_ns": "root_alloc",
            "invalidate_ns": "root_invalidate",
            "zap_begin_ns": "root_zap_begin; version 2",
            "zap_end_ns": "root_zap_end; version 2",
            "last_put_ns": "root_put that left no reference",
            "free_ns": "kvm_mmu_free_page, after the grace period",
        },
        _ROOTS,
    ),
    "counters": View(
        "one counter of the run, as counted at its end",
        {"name": "name of the counter", "value": "its value"},
        _COUNTERS,
    ),
    "locks": View(
        "one hold of a lock",
        {
            "actor": "holder",
            "lock": "name of the lock, without the mode",
            "mode": "read, write or exclusive",
            "wait_begin_ns": "contention_begin, if the lock could not be had at once; version 2",
            "acquire_ns": "lock_acquire",
            "release_ns": "lock_release",
            "waited_ns": "from wait_begin_ns to acquire_ns, else 0; version 2",
            "held_ns": "from acquire_ns to release_ns",
            "acquire_seq": "seq of lock_acquire",
            "release_seq": "seq of lock_release",
        },
        _LOCKS,
    ),
    "halves": View(
        "one front half or back half of a zap",
        {
            "actor": "who ran it",
            "half": "front or back",
            "begin_ns": "zap_front_begin or zap_back_begin",
            "end_ns": "zap_front_end or zap_back_end",
            "duration_ns": "between the two",
            "roots": "roots that a front half invalidated, or that a back half zapped (version 2)",
            "yields": "how often it dropped mmu_lock",
            "begin_seq": "seq of its begin",
            "end_seq": "seq of its end",
        },
        _HALVES,
    ),
    "faults": View(
        "one page fault",
        {
            "actor": "vCPU",
            "gfn": "guest frame",
            "root": "page of the root",
            "pfn": "backing frame",
            "incarnation": "incarnation of the slot",
            "result": "how it ended",
            "access": "write, or 0 for a read",
            "begin_ns": "kvm_exit",
            "end_ns": "kvm_page_fault",
            "latency_ns": "between the two",
            "seq": "seq of kvm_page_fault",
        },
        _FAULTS,
    ),
    "stays": View(
        "one stay in the guest; a cancelled entry is none",
        {
            "actor": "vCPU",
            "root": "page of the root",
            "entry_seq": "how often this vCPU has entered the guest",
            "reason": "why it left",
            "entry_ns": "kvm_entry",
            "exit_ns": "kvm_exit",
            "stay_ns": "between the two",
            "seq": "seq of kvm_entry",
        },
        _STAYS,
    ),
    "requests": View(
        "one request to all vCPUs, from the first vCPU asked until the sender goes on; version 2",
        {
            "actor": "sender",
            "request": "which request",
            "set_ns": "first request_set",
            "done_ns": "request_done: every acknowledgement that is waited for has come",
            "duration_ns": "between the two",
            "vcpus": "vCPUs asked",
            "ipis": "vCPUs that had to be interrupted",
        },
        _REQUESTS,
    ),
}


def literal(text: str) -> str:
    """A string literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def events_sql(files: Sequence[str]) -> str:
    """The SELECT of `events`.

    Args:
        files: the Parquet files; none gives an empty view.
    """
    if files:
        listed = ", ".join(map(literal, files))
        source = f"read_parquet([{listed}], filename = true, file_row_number = true)"
    else:
        typed = ", ".join(f"null::{'smallint' if name == 'kind' else 'bigint'} as {name}" for name in COLUMNS)
        source = f"(select {typed}, null::varchar as filename, null::bigint as file_row_number limit 0)"
    labels = ", ".join(literal(kind_label(number)) for number in range(1, KINDS_LISTED + 1))
    words = ", ".join(f"nullif({name}, {NULL}) as {name}" for name in tuple(COLUMNS)[3:])
    return f"""
        select regexp_extract(filename, '([^/]*)-[0-9]+[.]parquet$', 1) as actor, seq, time_ns, [{labels}][kind] as kind, {words},
            {_names("arg0")} as arg0_name, {_names("arg1")} as arg1_name,
            regexp_extract(filename, 'events/[^/]*$') as file, file_row_number as file_row
        from {source}
    """  # noqa: S608 - names of files and of the schema, quoted


def view_sql(name: str, version: int) -> str:
    """The SELECT of any other view.

    Args:
        name: of `VIEWS`, neither `events` nor `control`.
        version: the format version of the log, which says whether no contention_begin means no contention.
    """
    known = version >= _CONTENTION_VERSION
    waited = "coalesce(time_ns - wait_begin_ns, 0)" if known else "time_ns - wait_begin_ns"
    return VIEWS[name].sql.replace("{waited_ns}", waited)


def _names(column: str) -> str:
    # A list of lists, by kind and by code; an index outside of a list gives null.
    lists = [_codes(kind, column) for kind in range(1, max(Kind) + 1)]
    longest = max(map(len, lists))
    texts = ", ".join("[" + ", ".join("null" if text is None else literal(text) for text in codes) + "]" for codes in lists)
    return f"([{texts}]::varchar[][])[kind][if({column} between 0 and {longest - 1}, {column} + 1, null)]"


def _codes(kind: int, column: str) -> list[str | None]:
    for field in event_fields(kind):
        if field.column == column and field.flags:
            return [str(named_value(field, word)) for word in range(1 << len(field.flags))]
        if field.column == column and field.values:
            return [field.values.get(word) for word in range(max(field.values) + 1)]
    return []
