# SPDX-License-Identifier: GPL-2.0-only
"""Tests of `zaptorture recheck`: verdicts then and today, what is new, what is missed, and folders that say nothing."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from stress.cli import app
from stress.log.schema import Kind
from tests.check import sample as sm

if TYPE_CHECKING:
    from pathlib import Path

OK, VIOLATION, USAGE, HARNESS_ERROR = 0, 1, 2, 4


def invoke(*arguments: str | Path) -> SimpleNamespace:
    """`zaptorture recheck` in this process; it never shows a traceback."""
    result = CliRunner().invoke(app, ["recheck", *map(str, arguments)])
    assert "Traceback" not in result.stdout + result.stderr
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr, lines=result.stdout.splitlines())


def write(path: Path, verdict: str | None = "PASS", rules: tuple[str, ...] = (), *, stale: int = 0, **options: Any) -> Path:
    """A run folder whose log has so many stale uses, with a verdict of old."""
    log = sm.named()
    for access in log.of(Kind.GUEST_ACCESS)[10 : 10 + stale]:
        access.arg1 |= sm.RETIRED
    run = log.write(path, **options)
    if verdict is not None:
        findings = [{"kind": "stale-use", "invariant": rule} for rule in rules]
        (run / "verdict.json").write_text(json.dumps({"verdict": verdict, "reason": "", "findings": findings}))
    return run


def kept(folder: Path) -> dict[str, tuple[str, str]]:
    """Recorded verdict and today's outcome of each run, out of recheck.json."""
    runs = json.loads((folder / "recheck.json").read_text())["runs"]
    return {run["run"]: (run["recorded"], run["outcome"]) for run in runs}


def test_runs_that_were_right_stay_right(tmp_path):
    """A table, then the worst verdict; exit code 0."""
    write(tmp_path / "runs" / "a")
    write(tmp_path / "runs" / "b")
    ended = invoke(tmp_path)
    assert ended.code == OK
    assert [line.split() for line in ended.lines[-3:-1]] == [["recorded", "PASS"], ["PASS", "2"]]
    assert ended.lines[-1] == f"PASS {tmp_path}: 2 runs judged"
    assert kept(tmp_path) == {"a": ("PASS", "PASS"), "b": ("PASS", "PASS")}


def test_a_violation_that_was_passed_then_is_new(tmp_path):
    """The reason to judge old folders again; exit code 1."""
    write(tmp_path / "a")
    write(tmp_path / "b", stale=5)
    ended = invoke(tmp_path)
    assert ended.code == VIOLATION
    assert "new: b: today's checker finds I3 (5); recorded was PASS" in ended.lines
    assert ended.lines[-1] == f"VIOLATION {tmp_path}: 2 runs judged"


def test_a_violation_that_is_known_is_not_new(tmp_path):
    """Both agree; exit code 1 all the same."""
    write(tmp_path / "a", "VIOLATION", ("I3", "I3"), stale=5)
    ended = invoke(tmp_path)
    assert ended.code == VIOLATION
    assert not any(line.startswith(("new", "missed")) for line in ended.lines)


def test_a_recorded_finding_that_a_whole_log_does_not_show_is_missed(tmp_path):
    """Only of rules that the checker has."""
    write(tmp_path / "a", "VIOLATION", ("I3", "I3", "I5", "I99"), stale=5)
    write(tmp_path / "b", "VIOLATION", ("I5",))
    ended = invoke(tmp_path)
    assert "missed: a: recorded was I5, which today's checker does not find" in ended.lines
    assert "missed: b: recorded was I5, which today's checker does not find" in ended.lines


def test_a_recorded_finding_that_a_part_of_a_log_does_not_show_is_counted(tmp_path):
    """Its events may have been in the other part."""
    write(tmp_path / "a", "VIOLATION", ("I5",), policy="sampled")
    ended = invoke(tmp_path)
    assert not any(line.startswith("missed") for line in ended.lines)
    assert "1 run recorded findings that a log which is not complete does not show" in ended.lines


@pytest.mark.parametrize("options", [{"policy": "sampled"}, {"policy": "window", "first_seq": {"vcpu0": 100}}])
def test_a_log_that_is_a_part_by_choice_is_clean_as_far_as_it_goes(options, tmp_path):
    """The checker alone would call it INCONCLUSIVE; what passed then passes."""
    write(tmp_path / "a", **options)
    ended = invoke(tmp_path)
    assert ended.code == OK
    assert kept(tmp_path) == {"a": ("PASS", "CLEAN")}
    assert ended.lines[-1] == f"PASS {tmp_path}: 1 run judged, 1 of them clean as far as the log goes"


def test_clean_is_not_more_than_it_was(tmp_path):
    """What was inconclusive then still is, and so is a finding that the log does not show."""
    write(tmp_path / "a", "INCONCLUSIVE", policy="sampled")
    assert invoke(tmp_path).lines[-1].startswith("INCONCLUSIVE ")
    write(tmp_path / "b", "VIOLATION", ("I3",), policy="sampled")
    ended = invoke(tmp_path)
    assert (ended.code, ended.lines[-1].split()[0]) == (OK, "INCONCLUSIVE")


def test_a_part_by_choice_with_a_finding_is_a_violation(tmp_path):
    """What the log holds counts."""
    write(tmp_path / "a", policy="sampled", stale=1)
    ended = invoke(tmp_path)
    assert (ended.code, kept(tmp_path)) == (VIOLATION, {"a": ("PASS", "VIOLATION")})


def test_a_log_that_is_a_part_by_accident_is_inconclusive(tmp_path):
    """A killed run is not clean, whatever its policy."""
    write(tmp_path / "a", None, policy="window", complete=False)
    ended = invoke(tmp_path)
    assert (ended.code, kept(tmp_path)) == (OK, {"a": ("none", "INCONCLUSIVE")})
    assert ended.lines[-1].startswith("INCONCLUSIVE ")


def test_thinned_runs_are_counted_and_not_judged(tmp_path):
    """Their events are gone."""
    write(tmp_path / "a")
    thin = write(tmp_path / "b", "VIOLATION", ("I3",))
    (thin / "thinned.json").write_text("{}")
    ended = invoke(tmp_path)
    assert ended.code == OK
    assert kept(tmp_path)["b"] == ("VIOLATION", "THINNED")
    assert ended.lines[-1] == f"PASS {tmp_path}: 1 run judged, 1 thinned and not judged"


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path):
    """Exit code 4, with the reason; a violation beside it counts more."""
    write(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "verdict.json").write_text("{")
    ended = invoke(tmp_path)
    assert ended.code == HARNESS_ERROR
    assert any(line.startswith("not read: b: ") for line in ended.lines)
    assert ended.lines[-1] == f"HARNESS_ERROR {tmp_path}: 1 run judged, 1 not readable"
    write(tmp_path / "c", stale=1)
    assert invoke(tmp_path).code == VIOLATION


@pytest.mark.parametrize("content", ["{}", "[]", '{"verdict": "MAYBE", "findings": []}', '{"verdict": "PASS", "findings": [{}]}'])
def test_a_damaged_verdict_counts_as_none(content, tmp_path):
    """The log is judged all the same."""
    (write(tmp_path / "a") / "verdict.json").write_text(content)
    assert invoke(tmp_path).code == OK
    assert kept(tmp_path) == {"a": ("none", "PASS")}


def test_what_is_no_run_folder_is_passed_over(tmp_path):
    """Files, and folders without any part of a run."""
    write(tmp_path / "a")
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").write_text("x")
    assert (invoke(tmp_path).code, list(kept(tmp_path))) == (OK, ["a"])


@pytest.mark.parametrize("name", ["empty", "nowhere"])
def test_a_folder_without_runs_is_refused(name, tmp_path):
    """One line and exit code 2; nothing is written."""
    (tmp_path / "empty").mkdir()
    ended = invoke(tmp_path / name)
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (USAGE, "", 1)
    assert ended.err.endswith("Name the folder of a campaign, or one of run folders.\n")
    assert list((tmp_path / "empty").iterdir()) == []


def test_json_is_what_is_kept(tmp_path):
    """One object on standard output; the lines go to standard error."""
    write(tmp_path / "a", stale=1)
    ended = invoke(tmp_path, "--json")
    found = json.loads(ended.out)
    assert found == json.loads((tmp_path / "recheck.json").read_text())
    assert (found["verdict"], found["runs"][0]["new"], ended.code) == ("VIOLATION", {"I3": 1}, VIOLATION)
    assert "VIOLATION" in ended.err.splitlines()[-1]


def test_what_was_found_counts_where_nothing_can_be_written(tmp_path):
    """A folder on a read-only disk can still be judged."""
    write(tmp_path / "a")
    (tmp_path / "recheck.json").mkdir()
    ended = invoke(tmp_path)
    assert (ended.code, ended.lines[-1]) == (OK, f"PASS {tmp_path}: 1 run judged")
    assert "cannot write" in ended.err
