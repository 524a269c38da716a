# SPDX-License-Identifier: GPL-2.0-only
"""`zaptorture query`: its three formats, what it refuses, and how it ends."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from typer.testing import CliRunner

from stress.cli import app
from stress.log.schema import Kind
from tests.engine.command import wait_for
from tests.log import run_folder as rf

ROOT = Path(__file__).parents[2]
BUSY = "select count(*) from range(1000000000) a, range(1000) b where a.range * b.range % 7 = 3"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A whole run of two actors."""
    events = {"vcpu0": [rf.event(5, Kind.KVM_ENTRY, root=3, arg0=1), rf.event(25, Kind.KVM_EXIT, gfn=9, root=3, arg0=2)], "ctl": []}
    control = [(7, "counters", {"deletes": 3})]
    return rf.write_run(tmp_path / "run", events, control=control).path


def invoke(*arguments: str | Path) -> SimpleNamespace:
    """Exit code, stdout and stderr of a command run in this process."""
    result = CliRunner().invoke(app, ["query", *map(str, arguments)])
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def output(*arguments: str | Path) -> str:
    ended = invoke(*arguments)
    assert (ended.code, ended.err) == (0, "")
    return ended.out


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "stress.cli", "query", *map(str, arguments)]


def environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}


# --- formats


def test_a_table_for_people(run: Path) -> None:
    """Numbers to the right, texts to the left, null is empty, and how many rows there were."""
    assert output(run, "select actor, seq, gfn, kind, seq + 0.5 as half, time_ns / 3 as third from events") == (
        "actor  seq  gfn  kind       half  third\n"
        "-----  ---  ---  ---------  ----  -----\n"
        "vcpu0    0       kvm_entry   0.5  1.667\n"
        "vcpu0    1    9  kvm_exit    1.5  8.333\n"
        "(2 rows)\n"
    )


def test_a_table_without_rows_has_its_columns(run: Path) -> None:
    """So that one sees what was asked."""
    assert output(run, "select actor, seq from events where seq > 9") == "actor  seq\n-----  ---\n(0 rows)\n"


def test_a_table_stays_a_table(run: Path) -> None:
    """Whatever a cell holds: no line breaks, no escape sequences, no end of the screen."""
    shown = output(
        run, "select 'a\nb\x1b[31m' as x, repeat('y', 500) as y, [1, null] as z, {'k': 1.50} as s, true as t, 1e300 as f"
    )
    lines = shown.splitlines()
    assert len(lines) == 4
    assert lines[2].split() == ["a\\nb\\x1b[31m", "y" * 117 + "...", "[1,null]", '{"k":1.50}', "true", "1e+300"]
    assert lines[3] == "(1 row)"


def test_a_long_table_begins_before_it_ends(run: Path) -> None:
    """Widths are those of the first rows; later ones are not cut."""
    lines = output(run, "select range as n from range(10000) order by n desc").splitlines()
    assert lines[2] == "9999"
    assert lines[-2:] == ["   0", "(10,000 rows)"]
    assert output(run, "select if(range < 9000, 'a', 'longer') as n from range(10000)").splitlines()[-2] == "longer"


def test_csv(run: Path) -> None:
    """As other programs read it: a header, quotes where needed, empty for null, floats in full."""
    shown = output(
        run, "select 'a,\"b\n' as x, null as y, [1, 2] as z, 1 / 3 as third, 2::hugeint as h, 'ü' as u", "--format", "csv"
    )
    assert list(csv.reader(io.StringIO(shown))) == [
        ["x", "y", "z", "third", "h", "u"],
        ['a,"b\n', "", "[1,2]", repr(1 / 3), "2", "ü"],
    ]
    assert output(run, "select actor, seq from events", "--format", "csv") == "actor,seq\nvcpu0,0\nvcpu0,1\n"


def test_json_lines(run: Path) -> None:
    """One object a row; numbers are exact, JSON stays JSON, columns of one name are all there."""
    large = 2**127 - 1
    columns = f"1 as a, 2 as a, null as n, 2.50 as d, {large} as h, date '2026-12-01' as day, 'x' as a_1"
    shown = output(run, f"select {columns}", "--format", "json")
    assert shown == f'{{"a":1,"a_1":2,"n":null,"d":2.50,"h":{large},"day":"2026-12-01","a_1_1":"x"}}\n'
    counters = output(run, "select event, fields from control where event = 'counters'", "--format", "json")
    assert json.loads(counters) == {"event": "counters", "fields": {"deletes": 3}}
    assert output(run, "select 1 where false", "--format", "json") == ""


# --- what it says


def test_a_log_that_is_not_whole_says_so(tmp_path: Path) -> None:
    """On standard error, a few lines, and the result is there all the same."""
    run = rf.write_run(tmp_path / "run", {"vcpu0": rf.numbered(3), "ctl": []}, policy="window", complete=False).path
    ended = invoke(run, "select count(*) as n from events", "--format", "csv")
    assert (ended.code, ended.out) == (0, "n\n3\n")
    assert 1 <= len(ended.err.splitlines()) <= 4


def test_a_kind_that_does_not_exist_is_pointed_out(run: Path) -> None:
    """Finding nothing looks like good news."""
    ended = invoke(run, "select count(*) as n from events where kind = 'kvm_exits'", "--format", "csv")
    assert (ended.code, ended.out) == (0, "n\n0\n")
    assert ended.err == 'no kind is called "kvm_exits"; did you mean "kvm_exit"?\n'


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["none", "select 1"], "none: "),
        ([".", "select 1"], ".: not a run"),
        (["run", "select 1", "--format", "jsn"], '--format = "jsn": expected table, csv, json (did you mean "json"?).\n'),
        (["run", "select 1", "--without", "x"], '--without "x": no such file in the run; expected one such as '),
        (["run", "selec"], 'SQL: syntax error at or near "selec" (line 1, at selec)\n'),
        (["run", "copy control to 'x.csv'"], "SQL: COPY statement: expected one SELECT"),
        (["run", "select error('a\nb\x1b')"], "SQL: a b\\x1b\n"),
    ],
)
@pytest.mark.parametrize("layout", [[], ["--format", "json"]])
def test_wrong_use_is_one_line_and_2(
    arguments: list[str], line: str, layout: list[str], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On standard error; nothing on standard output."""
    monkeypatch.chdir(run.parent)
    ended = invoke(*layout, *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(line)
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["run"], ["run", "select 1", "more"], ["run", "select 1", "--nonsense"]])
def test_a_wrong_command_line_is_2(arguments: list[str]) -> None:
    """As of every command."""
    ended = invoke(*arguments)
    assert ended.code == 2
    assert "Traceback" not in ended.err


def test_a_damaged_file_is_one_line_and_2(run: Path) -> None:
    """With the option that helps."""
    path = run / "events" / "vcpu0-00000.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    ended = invoke(run, "select count(*) from events")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines()[-1].endswith('To do without it: --without "events/vcpu0-00000.parquet".')
    without = invoke(run, "select count(*) as n from events", "--without", "events/vcpu0-00000.parquet", "--format", "csv")
    assert (without.code, without.out) == (0, "n\n0\n")


def test_errors_leave_nothing_else_on_stderr(run: Path, tmp_path: Path) -> None:
    """Neither a traceback nor what a library has to say at the interpreter's end."""
    (tmp_path / "tmp").mkdir()
    for sql, told in (("selec", 1), ("select 1", 0), ("select error('x') from range(100000)", 1)):
        ended = subprocess.run(command(run, sql), env=environment(tmp_path / "tmp"), capture_output=True, text=True, check=False)
        assert len(ended.stderr.splitlines()) == told, ended.stderr
    assert list((tmp_path / "tmp").iterdir()) == []


def test_no_temporary_folder_is_one_line_and_4(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on standard output, where rows are."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    ended = invoke(run, "select 1", "--format", "json")
    assert (ended.code, ended.out) == (4, "")
    assert ended.err == "/nowhere: no temporary folder: No such file or directory.\n"


# --- how it ends


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_query(sent: signal.Signals, code: int, run: Path, tmp_path: Path) -> None:
    """While DuckDB computes: the shell's exit code for it, not a word, nothing left."""
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        command(run, BUSY), env=environment(tmp_path / "tmp"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    # It has begun when it has used more processor time than all that comes before.
    wait_for(lambda: list((tmp_path / "tmp").iterdir()), "the temporary folder")
    begun_s = psutil.Process(process.pid).cpu_times().user
    wait_for(lambda: psutil.Process(process.pid).cpu_times().user > begun_s + 1, "work")
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "", "")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_ctrl_c_stops_the_output(run: Path, tmp_path: Path) -> None:
    """Between rows too."""
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        command(run, "from range(1000000000000)", "--format", "csv"),
        env=environment(tmp_path / "tmp"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"range\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("layout", ["table", "csv", "json"])
def test_a_reader_that_leaves_ends_it_quietly(layout: str, run: Path, tmp_path: Path) -> None:
    """`| head`: the rest of the rows, which would take days, is not computed."""
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        command(run, "from range(1000000000000)", "--format", layout),
        env=environment(tmp_path / "tmp"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline()
    process.stdout.close()
    assert (process.wait(timeout=60), process.stderr.read()) == (0, b"")
    process.stderr.close()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_full_disk_behind_stdout_is_one_line_and_4(run: Path, tmp_path: Path) -> None:
    """Rows that are lost are no success."""
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            command(run, "select 1"), env=environment(tmp_path), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (ended.returncode, ended.stderr) == (4, b"output lost: No space left on device\n")


def test_help_names_the_views() -> None:
    """Enough to begin with."""
    shown = invoke("--help").out
    for word in ("events", "control", "findings", "slots", "roots", "counters", "--format", "--without"):
        assert word in shown
