# SPDX-License-Identifier: GPL-2.0-only
"""`zaptorture check` from the command line: exit codes, several runs, JSON, explanations, and paths that are no runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from stress.check import compiled
from stress.cli import app
from stress.log.schema import Kind
from tests.check import sample as sm

ROOT = Path(__file__).parents[2]
PASSED, VIOLATION, USAGE, INCONCLUSIVE = 0, 1, 2, 3


def invoke(*arguments: str | Path) -> SimpleNamespace:
    """`zaptorture check` in this process; it never shows a traceback."""
    result = CliRunner().invoke(app, ["check", *map(str, arguments)])
    assert "Traceback" not in result.stdout + result.stderr
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr, lines=result.stdout.splitlines())


@pytest.fixture
def good(tmp_path) -> Path:
    """A correct run."""
    return sm.named().write(tmp_path / "good-run-1", manifest={"scenario": "good"})


@pytest.fixture
def bad(tmp_path) -> Path:
    """A run with five stale uses."""
    log = sm.named()
    for access in log.of(Kind.GUEST_ACCESS)[10:15]:
        access.arg1 |= sm.RETIRED
    return log.write(tmp_path / "bad-run-1", manifest={"scenario": "bad"})


@pytest.fixture
def part(tmp_path) -> Path:
    """A run that was killed."""
    return sm.named().write(tmp_path / "part-run-1", manifest={"scenario": "part"}, complete=False)


# --- one run


def test_a_correct_run_passes(good):
    """One line, which begins with the verdict; exit code 0."""
    result = invoke(good)
    assert (result.code, len(result.lines), result.err) == (PASSED, 1, "")
    assert result.lines[0].startswith("PASS good: ")
    assert result.lines[0].endswith(f"run {good})")
    assert "0 findings" in result.lines[0]


def test_a_violation_is_told(bad):
    """The first findings with their evidence, how many there are by rule, the verdict last; exit code 1."""
    result = invoke(bad)
    assert result.code == VIOLATION
    told = [line for line in result.lines if line.startswith("finding ")]
    assert [line.split(":")[0] for line in told] == ["finding 1", "finding 2", "finding 3"]
    assert all("stale-use [I3]" in line for line in told)
    assert "findings by rule: I3 5" in result.lines
    assert "disagreement: the run said PASS" in result.lines
    assert result.lines[-1].startswith("VIOLATION stale-use [I3]: ")
    assert "; 5 findings (" in result.lines[-1]
    evidence = result.lines[result.lines.index(told[0]) + 1]
    assert "guest_access" in evidence
    assert "[events/vcpu" in evidence


def test_what_could_not_be_judged_is_told(part):
    """Each problem of the log on a line of its own; exit code 3."""
    result = invoke(part)
    assert result.code == INCONCLUSIVE
    assert [line.split(":")[0] for line in result.lines] == ["not judged", "INCONCLUSIVE part"]
    assert "the run was killed" in result.lines[0]


def test_an_order_within_the_window_is_told(tmp_path):
    """It is no finding, but nobody has to guess that it was seen."""
    log = sm.named()
    release = next(
        release
        for release in log.of(Kind.LOCK_RELEASE, arg0=7)
        if (taken := log.after(release, Kind.LOCK_ACQUIRE, arg0=7)).actor != release.actor
        and not log.between(release, taken, *Kind, actor=release.actor)
    )
    release.time_ns = taken.time_ns + 77
    result = invoke(log.write(tmp_path / "run"))
    assert result.code == PASSED
    assert result.lines[0].startswith(f"ambiguous, inside the clock's window of {sm.WINDOW_NS} ns: invariant [lockdep]")
    assert result.lines[0].endswith("only 77 ns apart")


def test_the_first_check_of_a_version_says_that_it_compiles(good, monkeypatch):
    """A wait of seconds is explained; later there is nothing to say."""
    monkeypatch.setattr(compiled, "is_kept", lambda name: False)
    assert invoke(good).lines[0].startswith("compiling the checker")
    monkeypatch.setattr(compiled, "is_kept", lambda name: True)
    assert len(invoke(good).lines) == 1


# --- several runs


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (("good", "good"), PASSED),
        (("good", "part"), INCONCLUSIVE),
        (("part", "good"), INCONCLUSIVE),
        (("bad", "part", "good"), VIOLATION),
        (("good", "bad"), VIOLATION),
    ],
)
def test_of_several_runs_the_most_severe_verdict_counts(names, code, request):
    """One verdict line a run, in the order given; the exit code is that of the worst."""
    paths = [request.getfixturevalue(name) for name in names]
    result = invoke(*paths)
    assert result.code == code
    verdicts = {"good": "PASS good", "part": "INCONCLUSIVE part", "bad": "VIOLATION stale-use"}
    last = [line for line in result.lines if line.startswith(("PASS", "INCONCLUSIVE", "VIOLATION"))]
    assert [line.startswith(verdicts[name]) for name, line in zip(names, last, strict=True)] == [True] * len(names)
    assert all(str(path) in line for path, line in zip(paths, last, strict=True))


# --- JSON


def test_json_is_one_object_a_run(good, bad, part):
    """Standard output has nothing else; what is for people goes to stderr."""
    result = invoke("--json", good, bad, part)
    assert result.code == VIOLATION
    objects = [json.loads(line) for line in result.lines]
    assert [data["verdict"] for data in objects] == ["PASS", "VIOLATION", "INCONCLUSIVE"]
    assert [data["folder"] for data in objects] == [str(good), str(bad), str(part)]
    assert len(objects[1]["findings"]) == 5
    assert objects[1]["findings"][0]["evidence"][0]["kind"] == "guest_access"
    assert [problem["code"] for problem in objects[2]["problems"]] == ["not-closed"]
    assert result.err.splitlines()[-1].startswith("INCONCLUSIVE part")


# --- explanations


def test_a_finding_is_explained(bad):
    """Two columns of time around it, the deciding event marked, and the verdict."""
    result = invoke(bad, "--explain", "2")
    assert result.code == VIOLATION
    assert result.lines[0].startswith("finding 2: stale-use [I3]")
    assert result.lines[1].split()[0] == "us"
    assert {"vcpu0", "vcpu1"} & set(result.lines[1].split())
    assert "ctl" in result.lines[1].split()
    marked = [line for line in result.lines if " 0.000 > " in line]
    assert len(marked) == 1
    assert "guest_access" in marked[0]
    assert result.lines[-1].startswith("VIOLATION ")


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5"])
def test_an_impossible_number_of_a_finding_is_refused(number, good):
    """Numbers begin with 1."""
    result = invoke(good, "--explain", number)
    assert result.code == USAGE
    assert "--explain" in result.err


@pytest.mark.parametrize(("name", "number"), [("bad", 6), ("bad", 10**9), ("good", 1)])
def test_a_finding_that_does_not_exist_is_refused(name, number, request):
    """The line says how many there are."""
    path = request.getfixturevalue(name)
    result = invoke(path, "--explain", number)
    assert result.code == USAGE
    assert result.err == f"--explain {number}: {path} has {5 if name == 'bad' else 0} findings.\n"


def test_a_finding_is_one_of_one_run(good, bad):
    """With several runs its number would mean nothing."""
    result = invoke(good, bad, "--explain", "1")
    assert (result.code, result.out) == (USAGE, "")
    assert "2 were given" in result.err


# --- what is no run


def test_a_run_must_be_named():
    """Without one there is nothing to do."""
    result = invoke()
    assert (result.code, result.out) == (USAGE, "")
    assert "RUN" in result.err


def test_a_path_that_is_no_folder_is_refused(good, tmp_path):
    """Before anything is judged: one line, exit code 2."""
    file = tmp_path / "file"
    file.write_text("PASS")
    for path in (tmp_path / "nothing", file, good / "manifest.json"):
        result = invoke(good, path)
        assert (result.code, result.out) == (USAGE, "")
        assert result.err.startswith(f"{path}: ")
        assert len(result.err.splitlines()) == 1


def test_a_folder_that_is_no_run_is_refused(good, tmp_path):
    """One line that says what a run would have, and where the nearest one is; exit code 2."""
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, hint in ((empty, "Name the folder of a run."), (tmp_path, "It holds runs"), (good / "events", "Did you mean")):
        result = invoke(path)
        assert (result.code, result.out) == (USAGE, ""), result.err
        assert result.err.startswith(f"{path}: not a run: ")
        assert hint in result.err
        assert len(result.err.splitlines()) == 1


def spoil_bytes(path: Path) -> None:
    for file in path.glob("events/*.parquet"):
        data = bytearray(file.read_bytes())
        for at in range(40, len(data), 97):
            data[at] ^= 0x55
        file.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (spoil_bytes, INCONCLUSIVE),
        (lambda path: [file.write_bytes(file.read_bytes()[:-20]) for file in path.glob("events/*")], INCONCLUSIVE),
        (lambda path: [file.write_bytes(b"") for file in path.glob("events/*")], INCONCLUSIVE),
        (lambda path: shutil.rmtree(path / "events"), INCONCLUSIVE),
        (lambda path: (path / "control.jsonl").write_text('{"event": "finding"\n[]\nnull\n\x00\n'), INCONCLUSIVE),
        (lambda path: (path / "manifest.json").write_text('{"actors": 7, "scenario": ["x"]}'), INCONCLUSIVE),
        (lambda path: (path / "config.toml").write_text("vm = [\n"), INCONCLUSIVE),
        # Nothing that is missing: what is asked of these keys has an answer without them.
        (lambda path: (path / "config.toml").write_text("vm = 7\nrun = []\n"), PASSED),
        (lambda path: (path / "config.toml").write_text("[vm]\nlevels = 'x'\n[run]\nhang_s = 'x'\n"), PASSED),
    ],
)
def test_a_spoiled_run_is_judged_as_far_as_it_goes(spoil, code, good):
    """Whatever is wrong with the folder: lines that say so and a verdict, never a traceback."""
    spoil(good)
    for options in ([], ["--json"]):
        result = invoke(good, *options)
        assert result.code == code, result.out + result.err
        told = result.err if options else result.out
        assert ("not judged: " in told) == (code == INCONCLUSIVE)


def test_the_command_itself(bad, tmp_path):
    """As a process: last line, exit codes, and nothing on stderr."""
    command = [sys.executable, "-m", "stress.cli", "check"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, str(bad)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (VIOLATION, "")
    assert done.stdout.splitlines()[-1].startswith("VIOLATION stale-use [I3]")
    done = subprocess.run([*command, "nothing"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (USAGE, "", "nothing: no such folder. Name the folder of a run.\n")
