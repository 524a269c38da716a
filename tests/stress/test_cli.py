# SPDX-License-Identifier: GPL-2.0-only
"""The command line without a run: usage errors, the plan, and what happens around a run that a stand-in makes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from typer.testing import CliRunner

from stress import __version__
from stress.cli import app
from stress.errors import HarnessError, UsageError
from stress.verdict import Verdict

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scenario(tmp_path, monkeypatch) -> Path:
    """A valid scenario, in a folder of its own that is also the current one."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "quick.toml"
    path.write_text("[vm]\nnr_vcpus = 2\n", encoding="utf-8")
    return path


def invoke(*arguments: str | Path) -> SimpleNamespace:
    """Exit code, stdout and stderr of a command run in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "stress.cli", *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture
def engine(monkeypatch):
    """Put a stand-in for the engine in place; it does what the given function does."""

    def install(run_scenario) -> None:
        module = ModuleType("stress.engine.run")
        module.run_scenario = run_scenario
        monkeypatch.setitem(sys.modules, "stress.engine.run", module)

    return install


def result(verdict: Verdict, **changes) -> SimpleNamespace:
    facts = {
        "verdict": verdict,
        "reason": "",
        "findings": [],
        "counters": {"guest_accesses": 10, "deletes": 2},
        "folder": Path("runs/x"),
        "elapsed_s": 1.0,
        "to_dict": lambda: {"verdict": verdict.value},
    }
    return SimpleNamespace(**facts | changes)


def test_version() -> None:
    """One line, name and version."""
    assert invoke("--version").out == f"zaptorture {__version__}\n"


def test_run_is_a_subcommand() -> None:
    """Though it is the only one: others will stand beside it."""
    assert "run " in invoke("--help").out
    assert invoke("quick.toml").code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["run"],
        ["run", "a.toml", "b.toml"],
        ["run", "a.toml", "--seed", "x"],
        ["run", "a.toml", "--nonsense"],
        ["run", "a.toml", "--set"],
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str], scenario: Path) -> None:
    """Standard output stays empty, or is the help text."""
    ended = invoke(*arguments)
    assert ended.code == 2
    assert "Traceback" not in ended.err
    assert list(scenario.parent.iterdir()) == [scenario]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.toml"], "none.toml: no such file.\n"),
        (["."], ".: is a folder; expected a scenario file (TOML).\n"),
        (["quick.toml", "--set", "vm.nr_vcpus=0"], "--set vm.nr_vcpus = 0: expected an integer from 1 to 64.\n"),
        (["quick.toml", "--set", "vm.nr_vcpu=1"], '--set vm.nr_vcpu: unknown key; did you mean "nr_vcpus"?\n'),
        (["quick.toml", "--set", "x"], '--set "x": expected KEY=VALUE, such as vm.nr_vcpus=8.\n'),
        (["quick.toml", "--seed", "-1"], "--seed = -1: expected an integer from 0 to 2^63 - 1.\n"),
        (
            ["quick.toml", "--set", 'bugs=["nope"]', "--duration", "x"],
            '--set bugs = "nope": expected a planted bug; one of ',
        ),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--json"], ["--dry-run"]])
def test_a_usage_error_is_one_line_on_stderr_and_creates_nothing(
    arguments: list[str], message: str, flags: list[str], scenario: Path
) -> None:
    """Exit code 2, nothing on standard output, with every flag."""
    ended = invoke("run", *arguments, *flags)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(message)
    assert ended.err.count("\n") == 1
    assert list(scenario.parent.iterdir()) == [scenario]


def test_a_dry_run_prints_the_plan_and_creates_nothing(scenario: Path) -> None:
    """The first line has version, seed and config hash, as that of a run."""
    ended = invoke("run", scenario, "--dry-run", "--seed", "7", "--duration", "2m")
    lines = ended.out.splitlines()
    assert (ended.code, ended.err) == (0, "")
    assert lines[0].startswith(f"zaptorture {__version__} seed 7 config ")
    assert lines[0].endswith(" dry run")
    assert lines[1] == "scenario quick, 120 s"
    assert list(scenario.parent.iterdir()) == [scenario]


def test_a_dry_run_as_json_is_one_object(scenario: Path) -> None:
    """The resolved config and the plan."""
    ended = invoke("run", scenario, "--dry-run", "--json", "--set", "vm.nr_vcpus=3", "--seed", "7")
    plan = json.loads(ended.out)
    assert (ended.code, ended.err) == (0, "")
    assert plan["config"]["vm"]["nr_vcpus"] == 3
    assert (plan["scenario"], plan["seed"], len(plan["config_hash"])) == ("quick", 7, 12)
    assert plan["plan"][0] == "scenario quick, 10 s"


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_last_line_is_the_verdict_and_gives_the_exit_code(verdict: Verdict, scenario: Path, engine) -> None:
    """The engine's messages come first."""

    def run_scenario(config, out, on_progress, on_message):
        assert (config.scenario, config.run.seed, out) == ("quick", 7, Path("elsewhere"))
        on_message("zaptorture ...")
        return result(verdict, reason="because")

    engine(run_scenario)
    ended = invoke("run", scenario, "--seed", "7", "--out", "elsewhere")
    assert ended.code == verdict.exit_code
    assert ended.out.splitlines()[0] == "zaptorture ..."
    assert ended.out.splitlines()[-1].startswith(f"{verdict.value} quick: ")
    assert ended.err == ""


def test_json_is_all_that_stands_on_stdout(scenario: Path, engine) -> None:
    """Messages and the verdict line go to standard error."""

    def run_scenario(config, out, on_progress, on_message):
        on_message("zaptorture ...")
        return result(Verdict.INCONCLUSIVE, reason="too few")

    engine(run_scenario)
    ended = invoke("run", scenario, "--json")
    assert json.loads(ended.out) == {"verdict": "INCONCLUSIVE"}
    assert ended.err.splitlines() == ["zaptorture ...", "INCONCLUSIVE quick: too few (1.0 s, run runs/x)"]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("runs: not a folder."), 2, "runs: not a folder."),
        (HarnessError("too little memory\nfor it"), 4, "HARNESS_ERROR quick: too little memory\\nfor it"),
        (RuntimeError("oops\n"), 4, "HARNESS_ERROR quick: internal error: RuntimeError: oops\\n"),
        (EOFError(), 4, "HARNESS_ERROR quick: internal error: EOFError: "),
        (BrokenPipeError(), 4, "HARNESS_ERROR quick: internal error: BrokenPipeError: "),
        (KeyboardInterrupt(), 130, None),
    ],
)
def test_an_error_out_of_the_engine_never_looks_like_a_violation(
    error: BaseException, code: int, line: str | None, scenario: Path, engine
) -> None:
    """Python's own exit code for a traceback is 1, that of a violation."""

    def run_scenario(config, out, on_progress, on_message):
        raise error

    engine(run_scenario)
    ended = invoke("run", scenario)
    assert ended.code == code
    lines = (ended.out or ended.err).splitlines()
    assert lines == ([line] if line else [])  # no line for Ctrl-C
    if code == 4:
        as_json = invoke("run", scenario, "--json")
        assert json.loads(as_json.out)["verdict"] == "HARNESS_ERROR"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "none.toml"], ["run", "quick.toml", "--dry-run"]])
def test_errors_of_use_do_not_wait_for_the_compiler(arguments: list[str], scenario: Path) -> None:
    """Neither help, nor a usage error, nor a dry run imports Numba."""
    code = "import sys, stress.cli\ntry: stress.cli.main()\nfinally: print('numba' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code, *arguments], env=environment(), capture_output=True, check=False)
    assert ended.stdout.endswith(b"False\n")


def test_a_reader_that_leaves_changes_nothing(scenario: Path) -> None:
    """`| head` ends neither with a traceback nor with the exit code of a violation."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb") as pipe:
        ended = subprocess.run(
            command("run", scenario, "--dry-run"), env=environment(), stdout=pipe, stderr=subprocess.PIPE, check=False
        )
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_full_disk_behind_stdout_is_one_line(scenario: Path) -> None:
    """What was asked for is still done."""
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            command("run", scenario, "--dry-run"), env=environment(), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (ended.returncode, ended.stderr) == (0, b"output lost: No space left on device\n")


def test_a_closed_stderr_keeps_stdout_clean(scenario: Path) -> None:
    """A complaint must not land in the JSON object's place."""
    shell = f"{sys.executable} -m stress.cli run none.toml --json 2>&-"
    ended = subprocess.run(["sh", "-c", shell], env=environment(), capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, b"")


def test_a_file_name_that_is_no_utf_8_can_be_complained_about(scenario: Path) -> None:
    """The terminal gets it escaped."""
    ended = subprocess.run([*command("run"), b"\xff.toml"], env=environment(), capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (2, b"\\udcff.toml: no such file.\n")


def test_ctrl_c_before_a_run_is_quiet(tmp_path: Path) -> None:
    """Waiting for a scenario on a FIFO stands for any moment before the engine takes the signal over."""
    fifo = tmp_path / "fifo.toml"
    os.mkfifo(fifo)
    process = subprocess.Popen(command("run", fifo), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    writer = os.open(fifo, os.O_WRONLY)  # returns when the command has opened its end
    time.sleep(0.1)  # ... and reads
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    os.close(writer)
    assert (process.returncode, out, err) == (130, b"", b"")
