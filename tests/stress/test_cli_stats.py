# SPDX-License-Identifier: GPL-2.0-only
"""`zaptorture stats` from the command line, on small run folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from stress.cli import app
from stress.log.schema import Kind
from tests.log import run_folder as rf

ROOT = Path(__file__).parents[2]
DELETE, FAULTED, FIXED, MMU_READ, TLB_HIT = 2, 2, 2, 3, 4
SECOND = 10**9

EVENTS = {
    "vcpu0": [
        rf.event(1000, Kind.KVM_ENTRY),
        rf.event(1500, Kind.GUEST_ACCESS, arg0=1, arg1=TLB_HIT),
        rf.event(2000, Kind.KVM_EXIT, arg0=FAULTED),
        rf.event(2100, Kind.LOCK_ACQUIRE, arg0=MMU_READ),
        rf.event(2350, Kind.LOCK_RELEASE, arg0=MMU_READ),
        rf.event(3000, Kind.KVM_PAGE_FAULT, arg0=FIXED),
        rf.event(4000, Kind.KVM_ENTRY),
        rf.event(SECOND + 1000, Kind.KVM_EXIT, arg0=1),
        rf.event(SECOND + 1000, Kind.VCPU_DESTROY),
    ],
    "ctl": [
        rf.event(500, Kind.SLOT_OP_BEGIN, arg0=DELETE),
        rf.event(2500, Kind.FLUSH_SHADOW_BEGIN),
        rf.event(2600, Kind.FLUSH_SHADOW_END),
        rf.event(5500, Kind.SLOT_OP_END, arg0=DELETE),
    ],
    "rcu": [],
}


def invoke(*arguments: str | Path) -> SimpleNamespace:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A whole run of half a dozen events."""
    return rf.write_run(tmp_path / "some-run-1", EVENTS).path


def row(text: str, label: str) -> list[str]:
    return next(line.removeprefix(label).split() for line in text.splitlines() if line.startswith(f"{label} "))


def test_the_tables_of_a_whole_run(run: Path) -> None:
    """The headline, then a row for each thing that was measured; nothing on standard error but word of the compiler."""
    ended = invoke("stats", run)
    assert ended.code == 0
    assert ended.out.splitlines()[0] == "some-run-1: policy all, 3 actors, 13 events in 1.00s"
    assert row(ended.out, "page faults")[0] == "1"
    assert row(ended.out, "TLB hits") == ["100.0%"]
    assert row(ended.out, "fixed") == ["1", *["1.00us"] * 7]
    assert row(ended.out, "mmu_lock (read) vcpu") == ["1", *["250ns"] * 7]
    assert row(ended.out, "delete") == ["1", *["5.00us"] * 7]
    assert "unpaired" not in ended.out
    assert ended.err in ("", "compiling the statistics, once for this version; later calls start at once\n")


def test_json_is_one_object_in_nanoseconds(run: Path) -> None:
    """All that the tables show, and what they leave out."""
    ended = invoke("stats", run, "--json")
    data = json.loads(ended.out)
    assert (ended.code, ended.out.count("\n")) == (0, 1)
    assert (data["run"], data["complete"], data["problems"]) == ("some-run-1", True, [])
    (delete,) = [one for one in data["durations"] if one["name"] == "delete"]
    assert (delete["count"], delete["median_ns"], delete["total_ns"]) == (1, 5000, 5000)
    assert {one["name"] for one in data["durations"] if one["table"] == "overlaps"} == {"flush_shadow"}


def test_a_partial_log_says_so_first(tmp_path: Path) -> None:
    """What is there is shown, what it cut in two is counted, and the exit code is that of a command that did its work."""
    events = {"vcpu0": EVENTS["vcpu0"][5:], "ctl": EVENTS["ctl"]}
    run = rf.write_run(tmp_path / "run", events, policy="window", first_seq={"vcpu0": 5})
    ended = invoke("stats", run.path)
    assert ended.code == 0
    assert ended.out.startswith("incomplete: ")
    assert row(ended.out, "page fault vcpu") == ["0", "1"]


def test_a_killed_run_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    """Without the lines that end a control log, and without a file."""
    run = rf.write_run(tmp_path / "run", EVENTS, complete=False)
    next(run.events.glob("ctl-*")).unlink()
    ended = invoke("stats", run.path)
    assert ended.code == 0
    assert ended.out.startswith("incomplete: ")
    assert row(ended.out, "not known")[0] == "1"


def test_a_damaged_file_is_one_problem(run: Path) -> None:
    """And no traceback."""
    damaged = next(run.glob("events/vcpu0-*"))
    damaged.write_bytes(b"PAR1" + os.urandom(100) + b"PAR1")
    ended = invoke("stats", run, "--json")
    assert ended.code == 0
    assert any(damaged.name in problem["where"] for problem in json.loads(ended.out)["problems"])
    assert "Traceback" not in ended.err


def test_a_run_without_events(tmp_path: Path) -> None:
    """Nothing divides by nothing."""
    ended = invoke("stats", rf.write_run(tmp_path / "run", {"vcpu0": [], "ctl": []}).path)
    assert ended.code == 0
    assert "0 events in 0ns" in ended.out


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_path_that_is_no_run_is_a_usage_error(flags: list[str], tmp_path: Path) -> None:
    """One line on standard error and exit code 2."""
    for path in (tmp_path / "none", tmp_path, Path(__file__)):
        ended = invoke("stats", path, *flags)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["stats", "--help"], ["stats", "none"]])
def test_errors_of_use_do_not_wait_for_the_compiler(arguments: list[str]) -> None:
    """Neither help nor a usage error imports Numba."""
    code = "import sys, stress.cli\ntry: stress.cli.main()\nfinally: print('numba' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, check=False)
    assert ended.stdout.endswith(b"False\n")


def test_a_reader_that_leaves_changes_nothing(run: Path) -> None:
    """`| head` ends without a traceback."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "stress.cli", "stats", str(run)]
    with open(write_end, "wb") as pipe:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        ended = subprocess.run(command, env=environment, stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert ended.returncode == 0
    assert b"Traceback" not in ended.stderr
