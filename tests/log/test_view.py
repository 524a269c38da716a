# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/log/view.py and stress/log/lines.py: what is shown, in which order, and as JSON."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from stress.log import view as log_view
from stress.log.archive import Archive
from stress.log.lines import JsonLayout, Lines, Texts
from stress.log.schema import FIELDS, Kind
from stress.log.view import CONTROL, Selection, View, control_event, event_dicts

from . import run_folder as rf

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

# One event of every kind with every field set to each of its codes, or to a number.
EVERY_EVENT = [rf.event(0, kind, **{field.column: word for field in FIELDS[kind]}) for kind in Kind for word in (0, 1, 2, 3, 7, 77)]


def shown(path: Path, **selection: Any) -> list[dict[str, Any]]:
    return list(View(Archive.open(path), Selection(**selection)).events())


def json_lines(path: Path, **selection: Any) -> list[dict[str, Any]]:
    archive = Archive.open(path)
    lines = Lines(JsonLayout(archive.actors))
    pages = View(archive, Selection(**selection)).pages()
    return [json.loads(line) for page in pages for line in lines.text(page).splitlines()]


def test_one_order_by_time_actor_and_control(tmp_path: Path) -> None:
    """At equal times the manifest's order of the actors, then the control log; within one actor by seq."""
    rf.write_run(
        tmp_path / "run",
        {"vcpu0": [rf.event(5), rf.event(7), rf.event(7)], "ctl": [rf.event(7), rf.event(9)]},
        control=[(6, "heartbeat", {}), (7, "heartbeat", {"n": 1}), (9, "heartbeat", {"n": 2}), (12, "heartbeat", {})],
    )
    order = [(event["time_ns"], event["actor"], event.get("seq")) for event in shown(tmp_path / "run", until_ns=11)]
    assert order == [
        (0, CONTROL, None),
        (5, "vcpu0", 0),
        (6, CONTROL, None),
        (7, "vcpu0", 1),
        (7, "vcpu0", 2),
        (7, "ctl", 0),
        (7, CONTROL, None),
        (9, "ctl", 1),
        (9, CONTROL, None),
    ]


@given(
    times=st.lists(st.lists(st.integers(0, 30), max_size=12), min_size=1, max_size=4),
    control=st.lists(st.integers(0, 30), max_size=6),
    group=st.integers(1, 4),
)
def test_the_order_holds_however_the_log_is_cut(tmp_path_factory, times, control, group) -> None:
    """Row groups, files and pages leave no mark: the view is the sorted list of all events."""
    path = tmp_path_factory.mktemp("runs") / "run"
    actors = {f"vcpu{number}": [rf.event(time) for time in sorted(of_one)] for number, of_one in enumerate(times)}
    rf.write_run(
        path,
        actors,
        complete=False,
        control=[(time, "heartbeat", {"n": n}) for n, time in enumerate(sorted(control))],
        row_group_rows=group,
        file_rows=2 * group,
    )
    expected = [(0, len(times), -1)]  # run_start
    expected += [(time, len(times), n) for n, time in enumerate(sorted(control))]
    expected += [(time, actor, seq) for actor, of_one in enumerate(times) for seq, time in enumerate(sorted(of_one))]
    names = [*actors, CONTROL]
    found = [(event["time_ns"], names.index(event["actor"]), event.get("seq", event.get("n", -1))) for event in shown(path)]
    assert found == sorted(expected)


def test_json_lines_say_what_the_dicts_say(tmp_path: Path) -> None:
    """The fast way and the plain one, for every kind, code and unknown number, and with columns that are not set."""
    events = [(time, *event[1:]) for time, event in enumerate(EVERY_EVENT)]
    rng = random.Random(1)
    for event in [*EVERY_EVENT, rf.event(0, 1000, arg0=5), rf.event(0, 32767, gfn=1), rf.event(0, 0)]:
        events.append((len(events), event[1], *(rng.choice([word, -1, 0, 2**62, -5]) for word in event[2:])))
    rf.write_run(
        tmp_path / "run", {"vcpu0": events[::2], "vcpu1": events[1::2]}, control=[(50, "process_start", {"actor": "x", "pid": 1})]
    )
    plain = shown(tmp_path / "run")
    assert json_lines(tmp_path / "run") == plain
    assert len(plain) == len(events) + 6
    assert {event["kind"] for event in plain} >= {"unknown_1000", "unknown_32767", "unknown_0", *(kind.label for kind in Kind)}


def test_a_json_line_has_names_for_codes_and_numbers_for_frames(tmp_path: Path) -> None:
    """The order of the members is fixed, for those who read them by eye."""
    rf.write_run(
        tmp_path / "run",
        {"vcpu3": [rf.event(5, Kind.KVM_PAGE_FAULT, gfn=0x1F2, root=3, pfn=0x88, incarnation=9, arg0=2, arg1=1)]},
    )
    archive = Archive.open(tmp_path / "run")
    (page,) = View(archive, Selection(actors=frozenset({"vcpu3"}))).pages()
    assert Lines(JsonLayout(archive.actors)).text(page) == (
        '{"time_ns":5,"actor":"vcpu3","seq":0,"kind":"kvm_page_fault",'
        '"gfn":498,"root":3,"pfn":136,"incarnation":9,"result":"fixed","access":"write"}\n'
    )


def test_filters_are_joined_by_and(tmp_path: Path) -> None:
    """Actors and kinds by name, times with both ends included, the frame."""
    path = tmp_path / "run"
    kinds = (Kind.GUEST_ACCESS, Kind.TLB_FILL, Kind.KVM_PAGE_FAULT)
    events = [rf.event(10 * n, kinds[n % 3], gfn=n % 5) for n in range(60)]
    rf.write_run(path, {"vcpu0": events, "vcpu1": events}, control=[(300, "heartbeat", {})], row_group_rows=7)
    everything = shown(path)
    rows = [event for event in everything if event["actor"] != CONTROL]

    assert shown(path, actors=frozenset({"vcpu1"})) == [event for event in rows if event["actor"] == "vcpu1"]
    assert shown(path, actors=frozenset({CONTROL})) == [event for event in everything if event["actor"] == CONTROL]
    assert shown(path, kinds=frozenset({"tlb_fill", "heartbeat"})) == [
        event for event in everything if event["kind"] in {"tlb_fill", "heartbeat"}
    ]
    assert shown(path, since_ns=200, until_ns=300) == [event for event in everything if 200 <= event["time_ns"] <= 300]
    assert shown(path, since_ns=201) == [event for event in everything if event["time_ns"] >= 201]
    assert shown(path, gfn=3) == [event for event in rows if event["gfn"] == 3]
    assert shown(path, gfn=3, kinds=frozenset({"tlb_fill"}), actors=frozenset({"vcpu0"}), since_ns=100, until_ns=400) == [
        event
        for event in rows
        if event["gfn"] == 3 and event["kind"] == "tlb_fill" and event["actor"] == "vcpu0" and 100 <= event["time_ns"] <= 400
    ]
    assert shown(path, kinds=frozenset({"halt"})) == []
    assert shown(path, since_ns=10**9) == []


def test_an_unknown_kind_can_be_selected(tmp_path: Path) -> None:
    """By the name under which it is shown."""
    rf.write_run(tmp_path / "run", {"vcpu0": [rf.event(1), rf.event(2, 1000)]})
    assert [event["kind"] for event in shown(tmp_path / "run", kinds=frozenset({"unknown_1000"}))] == ["unknown_1000"]


def test_until_reads_no_further(tmp_path: Path) -> None:
    """What is behind is left for a later call, which goes on where this one ended."""
    rf.write_run(tmp_path / "run", {"vcpu0": rf.numbered(20), "vcpu1": rf.numbered(5)}, row_group_rows=4)
    archive = Archive.open(tmp_path / "run")
    view = View(archive, Selection())
    for end_ns, expected in ((65, range(0, 70, 10)), (65, ()), (90, range(70, 100, 10)), (None, range(100, 200, 10))):
        events = [event for page in view.pages((), end_ns) for event in event_dicts(page, archive.actors)]
        assert [event["time_ns"] for event in events if event["actor"] == "vcpu0"] == list(expected)


def test_control_events_do_not_pile_up_in_one_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that leaves two events of a long run still gives pages of bounded size."""
    monkeypatch.setattr(log_view, "CONTROL_EVENTS_MAX", 3)
    control = [(10 * n, "heartbeat", {"n": n}) for n in range(1, 21)]
    rf.write_run(tmp_path / "run", {"vcpu0": [rf.event(5), rf.event(100), rf.event(100)]}, complete=False, control=control)
    archive = Archive.open(tmp_path / "run")
    pages = list(View(archive, Selection()).pages())
    assert max(len(page.control) for page in pages) == 3
    events = [event for page in pages for event in event_dicts(page, archive.actors)]
    assert [event["time_ns"] for event in events] == sorted([0, 5, 100, 100] + [time for time, _, _ in control])
    assert [event["n"] for event in events if "n" in event] == list(range(1, 21))


def test_a_control_clock_that_falls_changes_the_place_only(tmp_path: Path) -> None:
    """The line is shown behind the one before it in the file, with its own time."""
    rf.write_run(
        tmp_path / "run",
        {"vcpu0": [rf.event(5), rf.event(25)]},
        complete=False,
        control=[(20, "heartbeat", {"n": 1}), (1, "heartbeat", {"n": 2})],
    )
    assert [event["time_ns"] for event in shown(tmp_path / "run")] == [0, 5, 20, 1, 25]


def test_a_control_event_keeps_its_fields_beside_the_views_own() -> None:
    """A field whose name the view needs gets another one; nothing is lost."""
    line = {
        "timestamp": "x",
        "t_ns": 5,
        "event": "finding",
        "kind": "stale-use",
        "actor": "vcpu1",
        "time_ns": 3,
        "gfn": 7,
        "seq": 1,
    }
    assert control_event(line) == {
        "time_ns": 5,
        "actor": CONTROL,
        "kind": "finding",
        "timestamp": "x",
        "about_kind": "stale-use",
        "about_actor": "vcpu1",
        "about_time_ns": 3,
        "gfn": 7,
        "about_seq": 1,
    }


def test_a_control_event_about_a_frame_is_selected_by_it(tmp_path: Path) -> None:
    """The findings at the end of a run."""
    fields = {"kind": "stale-use", "invariant": "I3", "actor": "vcpu0"}
    rf.write_run(
        tmp_path / "run", {"vcpu0": []}, control=[(1, "finding", {**fields, "gfn": 3}), (2, "finding", {**fields, "gfn": 4})]
    )
    assert [event["time_ns"] for event in shown(tmp_path / "run", gfn=4)] == [2]


def test_the_marked_event_is_the_findings_own(tmp_path: Path) -> None:
    """Not what another actor did at the time, nor what the actor did in the same nanosecond."""
    finding = rf.event(20, Kind.FINDING, gfn=1, arg0=1, arg1=3)
    rf.write_run(tmp_path / "run", {"vcpu0": [rf.event(10), rf.event(20), finding, rf.event(20)], "vcpu1": [finding]})
    for events in (shown(tmp_path / "run", here=("vcpu0", 20)), json_lines(tmp_path / "run", here=("vcpu0", 20))):
        assert [(event["actor"], event["seq"]) for event in events if "here" in event] == [("vcpu0", 2)]
    assert [event["seq"] for event in shown(tmp_path / "run", here=("vcpu0", 10)) if "here" in event] == [0]


def test_texts_of_a_damaged_column_are_not_kept_for_ever() -> None:
    """Memory is bounded whatever the words are."""
    texts = Texts(str)
    assert [texts[word] for word in range(10_000)] == [str(word) for word in range(10_000)]
    assert len(texts) < 5_000
