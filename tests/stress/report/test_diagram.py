# SPDX-License-Identifier: GPL-2.0-only
"""Diagrams of executions: text fit for a mail, SVG that any viewer takes, and both telling what the schedule did."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.constants import (
    EV_FINDING,
    EV_FRAME_RETIRE,
    EV_GUEST_ACCESS,
    EV_KVM_ENTRY,
    EV_LOCK_RELEASE,
    EV_SLOT_OP_END,
    EV_SPTE_CHANGE,
    EV_TLB_FILL,
    EV_WRITEBACK,
    STALE_USE,
    STALE_WRITEBACK,
)
from stress.config import load_config
from stress.explore.ending import Ending
from stress.explore.scenario import opening_of
from stress.explore.story import Story, tell
from stress.report import diagram_rows
from stress.report.diagram import text_diagram, wrapped
from stress.report.diagram_rows import LIVES, MADE, RETURNED, STALE, USED, columns_of, rows_of
from stress.report.diagram_state import Life, life_of
from stress.report.diagram_svg import svg_diagram
from stress.report.diagram_words import RETIRED, TLB_HIT, Event

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIGS = Path(__file__).parents[3] / "configs" / "explore"
SVG = "{http://www.w3.org/2000/svg}"
WHOLE = 1 << 20  # a run of so many steps goes on until its actor waits
# One vCPU that starts cold, one DELETE; what both engines must agree about is no matter here.
SMALL = (
    "vm.nr_vcpus=1",
    'script.ctl=["delete 0"]',
    "script.rcu=false",
    "script.warm=false",
    'check.level="use"',
)


def opening(name: str, *overrides: str):
    return opening_of(load_config(CONFIGS / f"{name}.toml", scripted=True, overrides=list(overrides)))


def first_step(story: Story, kind: int) -> int:
    return next(event[0] for event in story.events if event[2] == kind)


@pytest.fixture(scope="session")
def used() -> Story:
    """A guest access whose TLB fill came before a DELETE that waited for nobody, and whose touch came behind it."""
    start = opening("split-zap", *SMALL, 'script.vcpus=[["r1"]]', 'bugs=["request-without-ack"]')
    filled = first_step(tell(start, [("vcpu0", WHOLE)], exactly=False), EV_TLB_FILL)
    story = tell(start, [("vcpu0", filled + 1), ("ctl", WHOLE), ("vcpu0", WHOLE)], exactly=False)
    assert story.ending.signature == ("stale-use", "I3")
    return story


@pytest.fixture(scope="session")
def warm() -> Story:
    """A translation of the warm stage that a DELETE did not flush; all actors take part."""
    start = opening("zap-only", 'bugs=["zap-only-without-flush"]', 'check.level="use"')
    runs = [("rcu", WHOLE), ("vcpu0", 40), ("ctl", 125), ("vcpu1", WHOLE)]
    story = tell(start, runs, exactly=False)
    assert story.ending.signature == ("stale-use", "I3")
    return story


@pytest.fixture(scope="session")
def stuck() -> Story:
    """A vCPU that retries for ever on a root that nobody has asked it to drop."""
    start = opening("split-zap", *SMALL, 'script.vcpus=[["r2"]]', 'bugs=["no-request"]')
    entered = first_step(tell(start, [("vcpu0", WHOLE)], exactly=False), EV_KVM_ENTRY)
    story = tell(start, [("vcpu0", entered - 3), ("ctl", WHOLE), ("vcpu0", WHOLE)], exactly=False)
    assert story.ending.end == "livelock"
    return story


@pytest.fixture(scope="session")
def some(used: Story, warm: Story, stuck: Story) -> list[Story]:
    """Those, an execution that ends well, and a few whose schedules nobody chose, with and without store buffers."""
    stories = [used, warm, stuck, tell(opening("split-zap"), [("ctl", WHOLE)], exactly=False)]
    rng = random.Random(7)
    for memory in ("sc", "tso"):
        start = opening("split-zap", f'explore.memory="{memory}"', 'bugs=["return-before-back-half"]')
        names = [name + end for name in start.names for end in ("", ".drain")] if memory == "tso" else list(start.names)
        for _ in range(3):
            runs = [(rng.choice(names), rng.choice((1, 7, 30, 90))) for _ in range(40)]
            stories.append(tell(start, runs, exactly=False))
    return stories


def texts(picture: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(picture.split("\n", 1)[1]).iter(f"{SVG}text")]


def table_of(lines: list[str]) -> list[str]:
    """The lines between the head and the legend."""
    first = next(n for n, line in enumerate(lines) if line.lstrip().startswith("step "))
    return lines[first : lines.index("", first)]


# --- what a diagram says


def test_rows_follow_the_schedule(some: list[Story]) -> None:
    """Steps never go back, and at each context switch the actor of the schedule goes on; nobody's turn is left out."""
    for story in some:
        rows = [row for row in rows_of(story) if row.actor]
        assert [row.step for row in rows] == sorted(row.step for row in rows)
        if len(rows) > 1 and not any(name.endswith(".drain") for name, _ in story.runs):
            turns = [rows[0].actor, *(row.actor for row in rows if row.switch)]
            assert turns == [name for name, _ in groupby(name for name, _ in story.runs)]


def test_every_actor_with_a_step_has_a_column(some: list[Story], used: Story, warm: Story) -> None:
    """In both renderings, and nobody else; who has none is named above."""
    assert columns_of(used) == ("vcpu0", "ctl")
    assert columns_of(warm) == ("vcpu0", "vcpu1", "ctl", "rcu")
    for story in some:
        names = list(columns_of(story))
        head = table_of(text_diagram(story, width=72))[0]
        assert re.findall(r"ctl|rcu|vcpu\d+|toggler", head) == names
        picture = ET.fromstring(svg_diagram(story).split("\n", 1)[1])
        assert [text.text for text in picture.iter(f"{SVG}text") if text.get("class") == "actor"] == names
    alone = tell(opening("split-zap"), [("ctl", 5)], exactly=False, stop_behind=True)
    assert any("no step of vcpu0, vcpu1, rcu" in line for line in text_diagram(alone))


def test_the_update_is_told_in_the_words_of_the_kernel(used: Story) -> None:
    """Locks, F1 to F3, K1 to K5, both swaps, in this order."""
    expected = [
        "kvm_mmu_load(): new root 16",
        "kvm_tdp_mmu_page_fault(): read_lock(mmu_lock)",
        "SPTE gfn 1 := pfn 1 (inc 16)",
        "TLB fill gfn 1 -> pfn 1 (inc 16)",
        "DELETE slot 0 (inc 16)",
        "swap #1 published: slot 0 INVALID",
        "synchronize_srcu() returns",
        "write_lock(mmu_lock)",
        "F1 mmu_valid_gen := 1",
        "kvm_tdp_mmu_invalidate_roots():",
        "F2 root 16 invalid",
        "kvm_make_all_cpus_request():",
        "F3 request -> vcpu0",
        "IPI -> vcpu0",
        "returns, no ack from vcpu0",
        "write_unlock(mmu_lock)",
        "kvm_tdp_mmu_zap_invalidated_roots():",
        "K1 read_lock(mmu_lock)",
        "K2 root 16 was scheduled",
        "K3 SPTE gfn 1 zapped",
        "K4 puts root 16, 2 left",
        "K5 read_unlock(mmu_lock)",
        "swap #2 published: slot 0 gone",
        "DELETE returned",
        "inc 16 retired",
        "touches gfn 1 -> pfn 1: frame is free",
        "*** stale-use [I3] ***",
    ]
    lines = iter(text_diagram(used, width=72))
    for fact in expected:
        assert any(fact in line for line in lines), fact


def test_locks_and_roots_stand_beside_what_happens(used: Story) -> None:
    """The writer by name, readers by number, slots_lock for all of the operation, a root until nobody may use it."""
    rows = {row.text: row.state for row in rows_of(used)}
    assert rows["F1 mmu_valid_gen := 1"].mmu_lock == "W:ctl"
    assert rows["F1 mmu_valid_gen := 1"].roots == ((16, True),)
    assert rows["F3 request -> vcpu0"].roots == ((16, False),)
    assert rows["write_unlock(mmu_lock)"].mmu_lock == ""
    assert rows["K2 root 16 was scheduled"].mmu_lock == "R:1"
    assert rows["K5 read_unlock(mmu_lock)"].mmu_lock == ""
    assert {rows[text].slots_lock for text in ("swap #1 published: slot 0 INVALID", "F1 mmu_valid_gen := 1")} == {"ctl"}
    assert rows["DELETE returned"].slots_lock == ""


def test_a_preempted_actor_shows_where_it_stands(used: Story, stuck: Story) -> None:
    """Between two events lies what a race is made of."""
    before = next(row for row, following in zip(rows_of(used), rows_of(used)[1:], strict=False) if following.switch)
    assert (before.actor, before.place, before.text) == ("vcpu0", "guest", "access under way ...")
    assert any(row.text.endswith("IN_GUEST_MODE ...") for row in rows_of(stuck))


def test_a_waiting_actor_says_for_what() -> None:
    """The controller that waits for the acknowledgement of a vCPU in the guest."""
    start = opening("split-zap", *SMALL, 'script.vcpus=[["r1", "r1", "r1"]]')
    filled = first_step(tell(start, [("vcpu0", WHOLE)], exactly=False), EV_TLB_FILL)
    rows = rows_of(tell(start, [("vcpu0", filled), ("ctl", WHOLE), ("vcpu0", WHOLE)], exactly=False))
    texts = [(row.actor, row.text) for row in rows]
    waits = texts.index(("ctl", "waits for IPI acks"))
    assert waits < texts.index(("vcpu0", "acks IPI")) < texts.index(("ctl", "all have acked"))
    assert texts.count(("vcpu0", "VM exit, IPI")) == 1


def test_an_end_without_a_finding_names_positions(stuck: Story) -> None:
    """A livelock and a deadlock say where everybody stands; a finding needs no such list."""
    deadlock = replace(stuck, ending=Ending("deadlock", rule="I25", detail="ctl waits in wait_while:50"))
    for story in (stuck, deadlock):
        lines = text_diagram(story, width=72)
        assert any(f"*** {story.ending.end} [I25] ***" in line for line in lines)
        positions = lines[lines.index("at the end:") + 1 :]
        assert [line.strip() for line in positions] == list(story.positions)
        assert set(story.positions) <= {text.strip() for text in texts(svg_diagram(story))}


def test_an_end_without_failure_has_no_finding(some: list[Story]) -> None:
    """Nothing is marked, and what checks the VM's end is not told."""
    story = next(story for story in some if story.ending.end == "complete")
    assert not any(row.finding for row in rows_of(story))
    assert "***" not in "".join(text_diagram(story))


def test_many_rows_are_cut_in_the_middle(used: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beginning and end stay, the cut says how much is missing, and the arrow goes through it."""
    whole = rows_of(used)
    monkeypatch.setattr(diagram_rows, "ROWS_MAX", 14)
    monkeypatch.setattr(diagram_rows, "ROWS_AHEAD", 4)
    rows = rows_of(used)
    assert len(rows) == 15
    assert rows[4].text.startswith(f"... {len(whole) - 14} rows left out, up to step ")
    assert (rows[4].life, rows[5].life, rows[-2].life) == (MADE, LIVES, USED)
    assert (rows[:4], rows[6:]) == (whole[:4], whole[-9:])


def test_the_quirk_that_changes_between_two_looks() -> None:
    """What the update saw, and who changed it in between: B41."""
    overrides = ('variant="split"', 'toggler.mode="flip"', "script.toggler=1", "script.warm=true", 'script.vcpus=[["r0"]]')
    start = opening("split-zap", *SMALL, *overrides)
    unlocks = [event[0] for event in tell(start, [("ctl", WHOLE)], exactly=False).events if event[2] == EV_LOCK_RELEASE]
    story = tell(start, [("ctl", unlocks[1]), ("toggler", WHOLE), ("ctl", WHOLE)], exactly=False)
    assert story.ending.rule == "I23"
    told = [row.text for row in rows_of(story) if "zap all" in row.text or "quirk" in row.text]
    assert told == ["zap all? yes", "quirk SLOT_ZAP_ALL := off", "zap all? no"]


# --- the mapping's life


def test_the_arrow_goes_from_the_fill_to_the_use(used: Story) -> None:
    """Made at the fill, stale from the DELETE's return on, and it ends at the touch, not at the report of it."""
    rows = rows_of(used)
    lives = [row.life for row in rows]
    made, returned, end = lives.index(MADE), lives.index(RETURNED), lives.index(USED)
    assert rows[made].text.startswith("TLB fill gfn 1")
    assert rows[returned].text == "DELETE returned"
    assert rows[end].text.startswith("touches gfn 1")
    assert set(lives[:made]) == {""}
    assert set(lives[made + 1 : returned]) == {LIVES}
    assert set(lives[returned + 1 : end]) == {STALE}
    assert lives[end + 1 :] == [""]
    lines = table_of(text_diagram(used, width=72))
    margin = "".join(line[0] for line in lines).strip()
    assert re.fullmatch(r"o\|+D#+X", margin)
    first, last = (next(line for line in lines if line[0] == sign) for sign in "oX")
    assert "TLB fill" in first
    assert "touches" in last
    picture = ET.fromstring(svg_diagram(used).split("\n", 1)[1])
    kinds = [element.get("class") for element in picture.iter() if (element.get("class") or "").startswith("life")]
    assert {kind: kinds.count(kind) for kind in ("life-made", "life-returned", "life-used")} == dict.fromkeys(
        ("life-made", "life-returned", "life-used"), 1
    )


def test_a_mapping_of_the_warm_stage_comes_from_above(warm: Story) -> None:
    """There is no row in which it was made, so the first one says where it is."""
    rows = rows_of(warm)
    assert (rows[0].actor, rows[0].life) == ("", MADE)
    assert f"in the TLB of {warm.ending.actor}" in rows[0].text
    assert RETURNED in {row.life for row in rows}


def test_an_invariant_has_no_arrow(stuck: Story, used: Story) -> None:
    """What is not about one mapping has no margin."""
    assert {row.life for row in rows_of(stuck)} == {""}
    other = replace(used, ending=replace(used.ending, kind="invariant", rule="I6"))
    assert {row.life for row in rows_of(other)} == {""}


def event(kind: int, *, actor: int = 0, gfn: int = 4, root: int = 9, incarnation: int = 5, arg0: int = -1, arg1: int = -1) -> Event:
    return Event(0, actor, kind, gfn, root, 2, incarnation, arg0, arg1)


SPTE = 5 << 22 | 2 << 5 | 0b11
SET = event(EV_SPTE_CHANGE, incarnation=-1, arg0=0, arg1=SPTE)
OVER = [event(EV_SLOT_OP_END, actor=64, arg0=2), event(EV_FRAME_RETIRE, actor=64, gfn=-1)]
FILL = event(EV_TLB_FILL, arg0=SPTE)
USE = event(EV_GUEST_ACCESS, arg1=RETIRED)
FOUND = event(EV_FINDING, arg0=STALE_USE, arg1=3)
ENDING = Ending("finding", "stale-use", "I3", "vcpu0", gfn=4, pfn=2, incarnation=5, root=9)


@pytest.mark.parametrize(
    ("events", "life"),
    [
        ([SET, FILL, *OVER, USE, FOUND], Life(1, in_tlb=True, returned=2, used=4)),
        # Another vCPU's fill is another mapping.
        ([SET, FILL._replace(actor=1), *OVER, FILL, USE, FOUND], Life(0, in_tlb=False, returned=2, used=5)),
        ([*OVER, USE._replace(arg1=RETIRED | TLB_HIT), FOUND], Life(-1, in_tlb=True, returned=0, used=2)),
        ([*OVER, FILL, USE, FOUND], Life(-1, in_tlb=False, returned=0, used=3)),
    ],
)
def test_what_was_used_is_what_was_stale(events: list[Event], life: Life) -> None:
    """A translation cached in time is the mapping; one that was read too late leads back to its SPTE."""
    assert life_of(ENDING, events) == life


def test_a_write_back_goes_through_the_page_table() -> None:
    """Its mapping is the SPTE, whatever a TLB holds."""
    ending = replace(ENDING, kind="stale-writeback", rule="I2", actor="ctl")
    found = event(EV_FINDING, actor=64, arg0=STALE_WRITEBACK, arg1=2)
    events = [SET, FILL, *OVER, event(EV_WRITEBACK, actor=64, arg1=1), found]
    assert life_of(ending, events) == Life(0, in_tlb=False, returned=2, used=4)


def test_what_is_left_in_a_root_leads_back_to_its_entry() -> None:
    """A finding without an incarnation names the root and the gfn of an entry."""
    ending = Ending("finding", "leftover-mapping", "I7", "ctl", gfn=4, root=9)
    events = [SET, SET._replace(root=8), event(EV_FINDING, actor=64, incarnation=-1)]
    assert life_of(ending, events) == Life(0, in_tlb=False, returned=-1, used=2)


# --- text


@pytest.mark.parametrize("width", [72, 80, 100, 160])
def test_no_line_is_too_long_for_a_mail(some: list[Story], width: int) -> None:
    """Printable ASCII, no tab, no blank at an end, and never wider than asked for."""
    for story in some:
        for line in text_diagram(story, width=width):
            assert len(line) <= width
            assert re.fullmatch(r"[ -~]*", line)
            assert line == line.rstrip()


def test_a_context_switch_is_visible(used: Story) -> None:
    """A line without words stands between two actors, as often as the schedule switches."""
    quiet = [line for line in table_of(text_diagram(used, width=72)) if not re.search(r"[\w*]", line)]
    assert len(quiet) == used.switches == 2


def test_foreign_text_stays_ascii_and_on_its_line(used: Story) -> None:
    """A detail is data: it neither breaks a line nor moves the cursor."""
    story = replace(used, ending=replace(used.ending, detail="a\x1b[2Jb\nc\td \N{SNOWMAN} \N{LATIN SMALL LETTER A WITH DIAERESIS}"))
    lines = text_diagram(story, width=72)
    assert all(re.fullmatch(r"[ -~]{0,72}", line) for line in lines)


@given(st.text("ab_().: ", max_size=200), st.integers(4, 60), st.sampled_from(["", "  "]))
def test_wrapping_loses_nothing(text: str, width: int, indent: str) -> None:
    """All characters but blanks stay, in order, and no line is longer than allowed."""
    lines = wrapped(text, width, indent)
    assert all(len(line) <= max(width, len(text) - len(text.lstrip()) + 1) for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_a_long_name_breaks_behind_an_underscore() -> None:
    """A part of a function's name is still readable."""
    assert wrapped("__kvm_mmu_zap_all_fast_front_half():", 20, "  ") == ["__kvm_mmu_zap_all_", "  fast_front_half():"]


# --- SVG


def test_the_picture_is_self_contained_xml(some: list[Story]) -> None:
    """No script, no reference to anything outside, and every fact of the text is in it."""
    for story in some:
        picture = svg_diagram(story)
        root = ET.fromstring(picture.split("\n", 1)[1])
        assert root.tag == f"{SVG}svg"
        assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
            "svg",
            "title",
            "rect",
            "line",
            "text",
            "circle",
            "polygon",
        }
        assert "href" not in picture
        assert "url(" not in picture
        words = " ".join(texts(picture)).split()
        for row in rows_of(story):
            assert not set(row.text.split()) - set(words)


def test_locks_are_bars(used: Story) -> None:
    """One for each hold: of mmu_lock by readers and by the writer, of slots_lock for the operation."""
    root = ET.fromstring(svg_diagram(used).split("\n", 1)[1])
    bars = [bar for bar in root.iter(f"{SVG}rect") if bar.get("class") == "lock"]
    columns = [float(bar.get("x", "0")) for bar in bars]
    assert sorted(columns.count(x) for x in set(columns)) == [1, 4]
    assert all(float(bar.get("height", "0")) > 0 for bar in bars)


def test_markup_in_a_text_stays_text(used: Story) -> None:
    """What looks like an element is none."""
    detail = "<script>&amp;\"'</script> ]]> \x00\x1b"
    story = replace(used, ending=replace(used.ending, detail=detail))
    root = ET.fromstring(svg_diagram(story).split("\n", 1)[1])
    assert root.find(f".//{SVG}script") is None
    title = root.findtext(f"{SVG}title") or ""
    assert "<script>&amp;\"'</script> ]]> \\x00\\x1b" in title


def everything(story: Story) -> Iterator[str]:
    yield from text_diagram(story)
    yield svg_diagram(story)


def test_the_same_story_is_drawn_the_same(used: Story) -> None:
    """Nothing depends on time or place."""
    assert list(everything(used)) == list(everything(used))
