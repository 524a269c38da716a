# SPDX-License-Identifier: GPL-2.0-only
"""`zaptorture log`: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from stress.cli import app
from stress.log.control import ControlLog
from stress.log.schema import Kind
from tests.log import run_folder as rf

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "read-a-log.md"
S = 1_000_000_000


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two actors with one finding, a stale use at 1.5 s that its actor reports at once."""
    path = tmp_path / "2026-12-01T10-00-00-quick-7"
    retired = 2
    events = [
        rf.event(n * S // 10, Kind.GUEST_ACCESS, gfn=0x1F0 + n % 4, arg0=1, arg1=retired if n == 15 else 0) for n in range(20)
    ]
    finding = rf.event(15 * S // 10, Kind.FINDING, gfn=0x1F2, arg0=1, arg1=3)
    rf.write_run(
        path,
        {"vcpu3": [*events[:16], finding, *events[16:]], "ctl": [rf.event(15 * S // 10 + 20, Kind.ZAP_FRONT_END, arg0=1)]},
        control=[(S // 2, "process_start", {"actor": "vcpu3", "pid": 77}), (S, "heartbeat", {})],
    )
    return path


def invoke(*arguments: str | Path) -> SimpleNamespace:
    """Exit code, stdout and stderr of a command run in this process."""
    result = CliRunner().invoke(app, ["log", *map(str, arguments)])
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def lines(*arguments: str | Path) -> list[dict[str, Any]]:
    """The objects that the command prints, and nothing else."""
    ended = invoke(*arguments)
    assert (ended.code, ended.err) == (0, "")
    return [json.loads(line) for line in ended.out.splitlines()]


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "stress.cli", "log", *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def test_it_prints_json_lines(run: Path) -> None:
    """All events of all actors and of the control log, in order of time."""
    shown = lines(run)
    assert [event["time_ns"] for event in shown] == sorted(event["time_ns"] for event in shown)
    assert [sum(event["actor"] == name for event in shown) for name in ("vcpu3", "ctl", "control")] == [21, 1, 7]


def test_options_select(run: Path) -> None:
    """Each option alone, and together."""
    assert [event["kind"] for event in lines(run, "--actor", "ctl")] == ["zap_front_end"]
    assert {event["actor"] for event in lines(run, "--actor", "ctl", "--actor", "control")} == {"ctl", "control"}
    assert {event["kind"] for event in lines(run, "--kind", "finding", "--kind", "heartbeat")} == {"finding", "heartbeat"}
    assert {event["gfn"] for event in lines(run, "--gfn", "0x1f2")} == {0x1F2}
    assert lines(run, "--gfn", "498") == lines(run, "--gfn", "0x1f2")
    assert [event["seq"] for event in lines(run, "--since", "1.7s", "--until", "1800ms", "--actor", "vcpu3")] == [18, 19]
    assert lines(run, "--since", "0", "--until", "1m") == lines(run)


def test_times_are_exact(run: Path) -> None:
    """To the nanosecond: 0.3 has no exact binary form."""
    for text in ("0.3", "0.3s", "300ms", "300000us", "300000000ns", "0.005m"):
        assert [event["time_ns"] for event in lines(run, "--since", text, "--until", text)] == [300_000_000]


def test_around_a_finding(run: Path) -> None:
    """Within the window on both sides; only the finding's own event is marked."""
    shown = lines(run, "--around", "1")
    assert [(event["kind"], event.get("here")) for event in shown] == [
        ("guest_access", None),
        ("finding", True),
        ("zap_front_end", None),
    ]
    assert len(lines(run, "--around", "1", "--window", "100ms")) == 5
    assert [event["kind"] for event in lines(run, "--around", "1", "--actor", "ctl")] == ["zap_front_end"]
    assert len(lines(run, "--around", "1", "--since", "1500ms")) == 3


def test_trace_is_the_kernels_text(run: Path) -> None:
    """Header first, then a line for each event, with the pids of the control log."""
    ended = invoke(run, "--format", "trace", "--around", "1")
    header = [line for line in ended.out.splitlines() if line.startswith("#")]
    assert header[:3] == ["# tracer: nop", "#", "# entries-in-buffer/entries-written: 22/22   #P:3"]
    assert ended.out.splitlines()[len(header) :] == [
        "           vcpu3-77      [000] d....     1.500000: guest_access: gfn=0x1f3 observed_tag=1 access=retired",
        "           vcpu3-77      [000] .....     1.500000: tracing_mark_write: finding 1",
        "           vcpu3-77      [000] .....     1.500000: finding: gfn=0x1f2 finding=stale-use invariant=3",
        "             ctl-0       [001] .....     1.500000: zap_front_end: mmu_valid_gen=1",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--actor", "vcpu4"], '--actor = "vcpu4": not in this run (did you mean "vcpu3"?); there are vcpu3, ctl, control.'),
        (
            ["--kind", "kvm_pagefault"],
            '--kind = "kvm_pagefault": no such kind (did you mean "kvm_page_fault"?); there are guest_access, ',
        ),
        (["--gfn", "zz"], '--gfn = "zz": expected a guest frame number, such as 0x1f2 or 498.'),
        (["--gfn", "-1"], '--gfn = "-1": expected a guest frame number'),
        (["--gfn", str(2**63)], f'--gfn = "{2**63}": expected a guest frame number'),
        (["--since", "soon"], '--since = "soon": expected a time such as "12.5s", with unit ns, us, ms, s, m, h.'),
        (["--until", "1d"], '--until = "1d": expected a time'),
        (["--window", "x"], '--window = "x": expected a time'),
        (["--since", "2s", "--until", "1999ms"], "--since 2s is after --until 1999ms."),
        (["--around", "2"], "--around = 2: the log of this run has 1 finding."),
        (["--around", "0"], "--around = 0: findings are numbered from 1."),
        (["--around", "1", "--follow"], "--around: is for a run that has ended"),
        (["--format", "jso"], '--format = "jso": expected json or trace (did you mean "json"?).'),
    ],
)
def test_wrong_use_is_one_line_and_2(run: Path, arguments: list[str], message: str) -> None:
    """What was found, what is accepted, and the nearest of it; nothing on standard output."""
    ended = invoke(run, *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(message)
    assert ended.err.count("\n") == 1


def test_a_run_without_findings_says_so(tmp_path: Path) -> None:
    """Nothing to look around."""
    rf.write_run(tmp_path / "run", {"vcpu0": rf.numbered(3)})
    assert invoke(tmp_path / "run", "--around", "1").err == "--around = 1: the log of this run has no finding.\n"


@pytest.mark.parametrize("arguments", [[], ["--follow"]])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    """As is a file, or nothing at all."""
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file", tmp_path / "none"):
        ended = invoke(path, *arguments)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert ended.err.startswith(str(path))


def test_nothing_selected_is_said(run: Path) -> None:
    """An empty output could also mean a broken command."""
    ended = invoke(run, "--since", "1h")
    assert (ended.code, ended.out) == (0, "")
    assert ended.err == "no event is selected; the log's last one is at 1.900000 s\n"


def test_problems_go_to_stderr(tmp_path: Path) -> None:
    """What is known before reading comes once, what reading finds comes too, and the rest is shown."""
    path = tmp_path / "run"
    rf.write_run(path, {"vcpu0": rf.numbered(40), "ctl": rf.numbered(10)}, complete=False, row_group_rows=10, file_rows=20)
    file = path / "events" / "vcpu0-00001.parquet"
    data = bytearray(file.read_bytes())
    with pq.ParquetFile(file, pre_buffer=False) as parquet:
        times = parquet.metadata.row_group(0).column(1)
    data[times.data_page_offset + times.total_compressed_size - 1] ^= 0xFF
    file.write_bytes(data)
    (path / "events" / "ctl-00001.parquet.part").touch()
    ended = invoke(path)
    shown = [json.loads(line) for line in ended.out.splitlines()]
    assert ended.code == 0
    assert sum(event["actor"] == "ctl" for event in shown) == 10
    assert 20 <= sum(event["actor"] == "vcpu0" for event in shown) < 40
    said = ended.err.splitlines()
    assert len(said) == len(set(said))
    assert [line for line in said if line.startswith("control.jsonl: ")]
    assert [line for line in said if line.startswith("events/ctl-00001.parquet.part: ")]
    assert [line for line in said if line.startswith("events/vcpu0-00001.parquet: ")]


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    """As `| head` does, in the midst of much output."""
    rf.write_run(tmp_path / "run", {"vcpu0": rf.numbered(200_000)})
    with subprocess.Popen(command(tmp_path / "run"), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert json.loads(process.stdout.readline())["kind"] == "kvm_entry"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_a_full_disk_is_one_line_and_4(run: Path) -> None:
    """The output is not what it claims to be."""
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(command(run), env=environment(), stdout=full, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (4, b"output lost: No space left on device\n")


def test_a_closed_stdout_takes_everything(run: Path) -> None:
    """Nobody asked for the output."""
    shell = f"{shlex.join(command(run))} >&-"
    ended = subprocess.run(["sh", "-c", shell], env=environment(), stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


# --- a live run


@pytest.fixture
def live(tmp_path: Path) -> SimpleNamespace:
    """A run that goes on: its only process is this one."""
    now = [0]
    folder = rf.write_run(tmp_path / "run", {"vcpu0": rf.numbered(5, start_ns=10)}, complete=False)
    control = ControlLog(folder.control, lambda: now[0])
    control.emit("process_start", actor="vcpu0", pid=os.getpid())
    return SimpleNamespace(path=folder.path, control=control, now=now)


@pytest.fixture
def following(live: SimpleNamespace) -> Any:
    """`log --follow` on it, which has shown the first event."""
    pipes = {"bufsize": 0, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command(live.path, "--follow"), env=environment(), **pipes)
    with process:
        assert json.loads(process.stdout.readline())["kind"] == "run_start"
        yield process
        process.kill()


def test_following_ends_with_the_verdict(live: SimpleNamespace, following: Any) -> None:
    """All that was written, the verdict last, exit code 0."""
    live.now[0] = 10 * S
    live.control.emit("verdict", verdict="PASS", reason="")
    out, _ = following.communicate()
    shown = [json.loads(line) for line in out.splitlines()]
    assert [event["kind"] for event in shown] == ["process_start", *["kvm_entry"] * 5, "verdict"]
    assert following.returncode == 0


def test_ctrl_c_ends_following(live: SimpleNamespace, following: Any) -> None:
    """Exit code 130, no traceback; the first line on standard error has said when events become readable."""
    following.send_signal(signal.SIGINT)
    _, err = following.communicate()
    assert following.returncode == 130
    assert err == b"following; events become readable when their file is closed, every couple of seconds\n"


def test_a_reader_that_goes_away_ends_following(live: SimpleNamespace, following: Any) -> None:
    """Though the run writes nothing more."""
    following.stdout.close()
    assert following.wait() == 0


def test_following_a_run_with_a_damaged_manifest_is_refused(live: SimpleNamespace) -> None:
    """Its actors are not known, so nobody can be waited for."""
    (live.path / "manifest.json").write_text("{", encoding="utf-8")
    ended = invoke(live.path, "--follow")
    assert (ended.code, ended.out, ended.err) == (2, "", f"{live.path}: its manifest.json cannot be read; leave --follow out.\n")


def test_following_waits_for_a_run_that_only_begins(live: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the model is compiled there is a folder and no more; then manifest and control log come."""
    kept = {name: (live.path / name).read_bytes() for name in ("control.jsonl", "manifest.json")}
    for name in kept:
        (live.path / name).unlink()

    def pause(_seconds: float) -> None:
        if kept:
            name, data = kept.popitem()
            (live.path / name).write_bytes(data)
        else:
            ControlLog(live.path / "control.jsonl", lambda: S).emit("verdict", verdict="PASS", reason="")

    monkeypatch.setattr(sys.modules["stress.cli.log"], "pause", pause)
    ended = invoke(live.path, "--follow")
    assert ended.code == 0
    assert [json.loads(line)["kind"] for line in ended.out.splitlines()][-1] == "verdict"


def test_following_does_not_wait_for_ever(live: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in which no run begins."""
    (live.path / "manifest.json").unlink()
    monkeypatch.setattr(sys.modules["stress.cli.log"], "pause", lambda _seconds: None)
    ended = invoke(live.path, "--follow")
    assert (ended.code, ended.out) == (4, "")
    assert ended.err.endswith("the run did not start.\n")


# --- the how-to guide


def commands_of_page() -> list[list[str]]:
    """The arguments of every command in the guide, without what it is piped into."""
    typed = re.findall(r"^zaptorture log (\S+) ?(.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(re.split(r" ?[|>]", options)[0]) for _, options in typed]


def test_every_command_of_the_guide_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a run that has the actors that it names."""
    path = tmp_path / "run"
    stale = rf.event(5, Kind.GUEST_ACCESS, gfn=0x1F2, arg0=1, arg1=2)
    rf.write_run(path, {"vcpu1": [stale], "vcpu3": rf.numbered(9), "ctl": rf.numbered(3)}, control=[(1, "heartbeat", {})])
    page = commands_of_page()
    assert len(page) > 8
    for options in page:
        ended = invoke(path, *options)
        assert ended.code == 0, (options, ended.err)


def test_the_python_example_of_the_guide_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As it stands, but for the folder."""
    fault = rf.event(5, Kind.KVM_PAGE_FAULT, gfn=0x1F2, arg0=2, arg1=1)
    rf.write_run(tmp_path / "run", {"vcpu3": [fault]})
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    exec(compile(re.sub(r'"runs/[^"]+"', repr(str(tmp_path / "run")), code), str(PAGE), "exec"), {})
    assert capsys.readouterr().out == "5 vcpu3 fixed\n"
