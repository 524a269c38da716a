# SPDX-License-Identifier: GPL-2.0-only
"""The disk budget holds at the cost of the oldest clean runs, never of evidence."""

from __future__ import annotations

import shutil

import pytest

from stress.campaign.disk import DiskBudget, size_of
from stress.verdict import Verdict

from .fakes import FakeExecutor, begin, campaign_file, finding, records, supervise, write_run

KIB = 1024


def runs_of(folder, kinds, log_bytes=64 * KIB):
    for number, kind in enumerate(kinds):
        run = folder / "runs" / f"{number:06}-a-1"
        violation = kind == "v"
        write_run(run, "VIOLATION" if violation else "PASS", findings=[finding()] if violation else [])
        (run / "config.toml").write_text("x")
        (run / "events" / "vcpu0-00000.parquet").write_bytes(bytes([1]) * log_bytes)
        if kind == "?":
            (run / "verdict.json").unlink()


def budget(folder, bytes_max, planted=()):
    return DiskBudget(folder, bytes_max, lambda name: int(name[:6]) in planted)


def test_oldest_clean_runs_are_thinned_first(tmp_path):
    """Logs go, config, manifest and verdict stay; a finding's run and one that nobody understands are left alone."""
    runs_of(tmp_path, "pv?ppp")
    disk = budget(tmp_path, size_of(tmp_path) - 40 * KIB)
    thinned, holds = disk.thin(busy=set())
    assert holds
    assert thinned == ["000000-a-1", "000003-a-1"]
    left = {path.name for path in (tmp_path / "runs" / "000000-a-1").iterdir()}
    assert left == {"config.toml", "manifest.json", "verdict.json", "thinned.json"}
    for number in (1, 2, 4, 5):
        assert (tmp_path / "runs" / f"00000{number}-a-1" / "events" / "vcpu0-00000.parquet").exists()
    assert abs(disk.used - size_of(tmp_path)) < 8 * KIB


def test_summaries_go_when_thinning_is_not_enough(tmp_path):
    """When only evidence would fit, clean runs are removed; when evidence alone is too much, the budget does not hold."""
    runs_of(tmp_path, "pvpp")
    evidence = size_of(tmp_path / "runs" / "000001-a-1")
    thinned, holds = budget(tmp_path, int(evidence / 0.85)).thin(busy=set())
    assert holds
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["000001-a-1"]
    assert len(thinned) == 6
    thinned, holds = budget(tmp_path, evidence // 2).thin(busy=set())
    assert (thinned, holds) == ([], False)
    assert (tmp_path / "runs" / "000001-a-1" / "events" / "vcpu0-00000.parquet").exists()


def test_runs_that_are_on_and_planted_ones(tmp_path):
    """What is being written is left alone; a planted bug's finding is no evidence."""
    runs_of(tmp_path, "pvp")
    disk = budget(tmp_path, size_of(tmp_path) - 40 * KIB, planted={1})
    assert disk.thin(busy={"000000-a-1"})[0] == ["000001-a-1"]


def test_within_the_budget_nothing_is_touched(tmp_path):
    """No limit, or room left: no run is looked at."""
    runs_of(tmp_path, "pp")
    before = size_of(tmp_path)
    assert budget(tmp_path, 0).thin(set()) == ([], True)
    assert budget(tmp_path, before + 1).thin(set()) == ([], True)
    shutil.rmtree(tmp_path / "runs" / "000000-a-1")
    assert budget(tmp_path, 0).used < before


@pytest.mark.parametrize("finds", [False, True])
def test_a_campaign_keeps_its_budget(tmp_path, finds):
    """Clean runs make room for ever; findings do not, and a campaign that only finds ends with an error that says so."""

    def script(_number, job):
        run = tmp_path / "c" / "runs" / job.name / "events"
        run.mkdir(parents=True)
        (run / "vcpu0-00000.parquet").write_bytes(bytes([1]) * 200 * KIB)
        return {"verdict": "VIOLATION", "findings": [finding()]} if finds else {}

    text = 'scenarios = ["a"]\nrepeats = 30\n[finding]\nreproduce = ""\n[limits]\ndisk_mb = 2\n'
    begin(campaign_file(tmp_path / "file", text), tmp_path / "c")
    supervisor = supervise(tmp_path / "c", FakeExecutor(script))
    verdict, reason = supervisor.run()
    assert size_of(tmp_path / "c") < 2.6 * (1 << 20)
    if finds:
        assert verdict is Verdict.VIOLATION
        assert "the evidence of findings alone takes 2 MiB, limits.disk_mb = 2" in reason
        assert supervisor.state.ended < 30
    else:
        assert verdict is Verdict.PASS
        assert supervisor.state.ended == 30
        assert supervisor.state.thinned > 15
        assert any(record["event"] == "thinned" for record in records(tmp_path / "c"))
