# SPDX-License-Identifier: GPL-2.0-only
"""Every benchmark runs and prints its table; no figure is checked."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.{module}", "--quick", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "- machine: " in done.stdout
    return done.stdout


def test_the_naive_version_prints_a_line_for_each_number_of_processes() -> None:
    """Plain Python: 1 and 2 processes in the quick mode."""
    lines = [line for line in run("naive").splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in lines] == ["processes", "---------", "1", "2"]


@pytest.mark.slow
def test_the_hot_path_table_compares_all_contenders() -> None:
    """The compiled model checks its own counters against what was meant to be measured; the twin needs a compiler."""
    output = run("hot_path")
    contenders = ["compiled model", "compiled, instrumented, no noise", "plain Python"]
    if shutil.which("cc"):
        contenders.append("C11 twin")
    for name in contenders:
        assert f"| {name} " in output


@pytest.mark.slow
def test_the_run_table_has_a_table_for_each_question() -> None:
    """vCPUs, check level, log policy, noise; no table of start-up times in the quick mode."""
    output = run("run_table")
    for title in ("vCPUs", "check level", "log policy", "noise"):
        assert f"**{title}" in output


@pytest.mark.slow
def test_the_detection_table_has_a_line_for_each_planted_bug() -> None:
    """One of them in the quick mode."""
    assert "| planted bug" in run("detection")


@pytest.mark.slow
def test_the_check_log_tables_compare_all_contenders_and_sizes() -> None:
    """All ways to apply the stale-use rule find the same in a run with a planted bug before they are measured."""
    output = run("check_log")
    assert "all contenders find the same" in output
    for name in ("check (all rules)", "Python, json", "Python, msgspec", "DuckDB, window in time order", "DuckDB, hash join"):
        assert f"| {name} " in output
    assert "**check alone, by size of the log" in output
    assert "- goal " in output


@pytest.mark.slow
def test_the_campaign_table_compares_it_with_a_shell() -> None:
    """Two runs each way in the quick mode."""
    output = run("campaign")
    for name in ("campaign, start to end of a run", "campaign, whole command over its runs", "one by one from a shell"):
        assert f"| {name} " in output
