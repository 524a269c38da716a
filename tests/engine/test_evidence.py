# SPDX-License-Identifier: GPL-2.0-only
"""state.json: there is one exactly where there is a finding, it says who took it, and it agrees with the finding."""

from __future__ import annotations

import json

import pytest

from model import constants
from model.finding import report
from model.layout import ACTOR_CTL, empty_vm, views
from model.vm import SlotSettings, VmSettings, setup_vm
from stress.engine.evidence import state_of
from stress.engine.process import FieldTable
from stress.log.events import Clock

from . import command as cmd
from .test_faults import DEADLOCK_IN_S, MMU_LOCK, sabotage

BUSTED = cmd.ROOT / "configs" / "busted"
SETTINGS = VmSettings(nr_vcpus=2, levels=2, bits_per_level=4, slots=(SlotSettings(0, 32),), nr_pages=40, seed=1)
NOW_NS = 5_000


def state_in(folder):
    return json.loads((folder / "state.json").read_text(encoding="utf-8"))


def busted(name, tmp_path):
    """The first finding of a planted bug, and the state beside it."""
    ended = cmd.run(BUSTED / f"{name}.toml", tmp_path / "runs", "--seed", "1")
    assert ended.code == 1, ended.told()
    finding, state = ended.result["findings"][0], state_in(ended.folder)
    assert (state["taken_by"], state["time_ns"]) == (finding["actor"], finding["time_ns"])
    assert state["took_ns"] > 0
    assert state["vcpus"].keys() == {"vcpu0", "vcpu1"}
    assert state["actors"].keys() == {"vcpu0", "vcpu1", "ctl", "rcu"}
    return finding, state


def roots_of(state):
    return {root["page"]: root for root in state["roots"]}


def test_a_stale_use_leaves_its_vcpu_in_the_guest(tmp_path):
    """The finder is in the guest on the obsolete root that the finding names; the slot of the finding is gone."""
    finding, state = busted("no-request", tmp_path)
    vcpu = state["vcpus"][finding["actor"]]
    assert (vcpu["mode"], vcpu["in_guest"], vcpu["requests"]) == ("IN_GUEST_MODE", True, [])
    assert (vcpu["root"]["page"], vcpu["root"]["invalid"], vcpu["root"]["state"]) == (finding["root"], True, "root")
    assert (vcpu["root_ref"], vcpu["flushed"]) == (finding["root"], finding["root"])
    assert roots_of(state)[finding["root"]]["invalid"]
    assert state["actors"][finding["actor"]]["holds"] == []
    assert finding["incarnation"] not in [slot["incarnation"] for slot in state["memslots"]["slots"]]
    assert {"id": 0, "base_gfn": 0, "npages": 32, "flags": []}.items() <= state["memslots"]["slots"][0].items()


def test_a_finding_under_locks_names_their_holder(tmp_path):
    """In F2 the controller holds slots_lock and mmu_lock, the slot is INVALID, and the root lacks the reference of the finding."""
    finding, state = busted("no-gift", tmp_path)
    assert finding["actor"] == "ctl"
    assert {"slots_lock", "mmu_lock (write)"} <= set(state["actors"]["ctl"]["holds"])
    assert [name for name, lock in state["locks"].items() if lock["owner"] == "ctl"] == ["mmu_lock", "slots_lock"]
    assert state["locks"]["mmu_lock"]["cnts"] & 0xFF == 0xFF
    assert state["locks"]["mmu_lock"]["readers"] == []
    users = [vcpu for vcpu in state["vcpus"].values() if vcpu["root_ref"] == finding["root"]]
    assert roots_of(state)[finding["root"]]["refcount"] == len(users)
    assert [slot["flags"] for slot in state["memslots"]["slots"]] == [[], ["KVM_MEMSLOT_INVALID"]]


def test_a_run_without_a_finding_has_no_state(tmp_path):
    """Neither does a PASS freeze anything."""
    ended = cmd.run(cmd.small(tmp_path), tmp_path / "runs")
    assert ended.code == 0, ended.told()
    assert not (ended.folder / "state.json").exists()


def test_the_parent_takes_the_state_of_a_hang(tmp_path):
    """Nobody finds a deadlock from within: who holds what, and who waits for what, from outside."""
    ended = cmd.run_with(
        sabotage(MMU_LOCK), cmd.small(tmp_path), tmp_path / "runs", sets=("run.duration=1h", "check.level=use", DEADLOCK_IN_S)
    )
    assert ended.code == 1, ended.told()
    state = state_in(ended.folder)
    assert (state["taken_by"], state["took_ns"]) == ("parent", 0)
    assert state["time_ns"] >= ended.result["findings"][0]["time_ns"]
    for vcpu in ("vcpu0", "vcpu1"):
        assert state["actors"][vcpu]["waits_for"].startswith("mmu_lock."), state
        assert state["actors"][vcpu]["holds"] == ["srcu"]
    # For the readers of kvm->srcu, or for mmu_lock itself if it came past them before their first fault.
    assert state["actors"]["ctl"]["waits_for"] in {"actor.srcu_seq", "mmu_lock.cnts", "mmu_lock.ticket_owner"}
    assert state["locks"]["slots_lock"]["owner"] == "ctl"
    assert state["locks"]["mmu_lock"]["cnts"] & 0xFF == 0xFF
    assert state["locks"]["mmu_lock"]["owner"] is None


# --- in names


@pytest.fixture
def record():
    record = empty_vm()
    setup_vm(views(record), SETTINGS)
    return record


def state(record):
    return state_of(views(record), [0, 1, ACTOR_CTL], FieldTable(), record.ctypes.data, Clock("c", 1_000_000_000, 0), NOW_NS)


def test_a_finder_that_died_on_the_way(record):
    """Its finding was counted and never became whole: the parent looks."""
    vm = views(record)
    vm.run.nr_findings[0] = 1
    vm.frozen.by[0] = 1
    assert (state(record)["taken_by"], state(record)["time_ns"], state(record)["took_ns"]) == ("parent", NOW_NS, 0)


def test_a_whole_look_is_taken_as_it_is(record):
    """What came behind it is not in it; its times are the finder's."""
    vm = views(record)
    report(vm, 1, 4, 8, -1, -1, -1, -1, -1, 54, 1)
    vm.vcpu.requests[0] = 1
    vm.finding.time[0], vm.frozen.until[0] = 3_000, 3_700
    taken = state(record)
    assert (taken["taken_by"], taken["time_ns"], taken["took_ns"]) == ("vcpu1", 3_000, 700)
    assert taken["vcpus"]["vcpu0"]["requests"] == []


def test_every_phase_has_a_name(record):
    """One without would cost the run its evidence: a killed actor's among them."""
    for name, phase in vars(constants).items():
        if name.startswith("PHASE_"):
            views(record).actor.phase[1] = phase
            assert state(record)["actors"]["vcpu1"]["phase"] == name.removeprefix("PHASE_").lower()


def test_words_become_names(record):
    """Requests, quirks, generation, readers and the word that an actor waits for; a bit without a name stays a number."""
    vm = views(record)
    vm.vcpu.requests[0] = 0b100011
    vm.kvm.disabled_quirks[0] = 1 << 7
    vm.memslots.generation0[0] = 12 | 1 << 62
    vm.actor.held[1] = 1 << 3 | 1 << 1
    vm.actor.wait_word[1] = vm.mmu_lock.ticket_owner.ctypes.data
    vm.slots_lock.owner[0] = ACTOR_CTL + 1
    taken = state(record)
    assert taken["vcpus"]["vcpu0"]["requests"] == ["KVM_REQ_MMU_FREE_OBSOLETE_ROOTS", "KVM_REQ_TLB_FLUSH", "0x20"]
    assert taken["mmu"]["disabled_quirks"] == ["KVM_X86_QUIRK_SLOT_ZAP_ALL"]
    assert (taken["memslots"]["generation"], taken["memslots"]["update_in_progress"]) == (12, True)
    assert taken["actors"]["vcpu1"]["holds"] == ["srcu", "mmu_lock (read)"]
    assert taken["actors"]["vcpu1"]["waits_for"] == "mmu_lock.ticket_owner"
    assert taken["locks"]["mmu_lock"]["readers"] == ["vcpu1"]
    assert taken["locks"]["slots_lock"]["owner"] == "ctl"
    assert taken["vcpus"]["vcpu0"]["root"] is None
