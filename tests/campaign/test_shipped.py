# SPDX-License-Identifier: GPL-2.0-only
"""The campaigns that come with the project: each has a plan, the museum expects what its pieces promise, the smoke test passes."""

from __future__ import annotations

import configparser
import json
import re

import pytest

from stress.campaign.load import load_campaign
from stress.campaign.plan import Plan

from . import command as cmd

CAMPAIGNS = sorted((cmd.ROOT / "configs" / "campaigns").glob("*.toml"))
EXPECTED = re.compile(r"^# Expected: VIOLATION (\S+ \[\w+\])\.", re.MULTILINE)


@pytest.mark.parametrize("path", CAMPAIGNS, ids=lambda path: path.stem)
def test_each_has_a_plan(path):
    """Every combination is one that a run can do, as a campaign and as a soak."""
    loaded = load_campaign(path)
    plan = Plan(loaded, 1, soak=False)
    assert plan.total >= len(plan.tests) > 0
    assert Plan(loaded, 1, soak=True).total is None
    assert len({plan.run(index).name(1) for index in range(plan.total)}) == plan.total


def test_the_museum_expects_what_each_piece_promises():
    """No piece is missing, and each has the finding of its first lines."""
    promised = {
        path.stem: EXPECTED.search(path.read_text(encoding="utf-8"))[1] for path in (cmd.ROOT / "configs" / "busted").glob("*.toml")
    }
    assert load_campaign(cmd.ROOT / "configs" / "campaigns" / "museum.toml").campaign.expect == promised


@pytest.mark.parametrize(
    "options", [("--filter", "variant='split-once'"), pytest.param((), marks=pytest.mark.slow)], ids=["half", "whole"]
)
def test_the_smoke_campaign(options, tmp_path):
    """No finding, no error of the harness, every planted bug found; on a slow machine one threshold may be missed, not all."""
    out = tmp_path / "smoke"
    done = cmd.run("campaign", "configs/campaigns/smoke.toml", "--out", out, *options)
    assert done.returncode in (0, 3), cmd.told(done)
    rows = cmd.ends(out)
    assert [row["index"] for row in rows] == list(range(len(rows)))
    verdicts = {row["run"]: row["run_verdict"] for row in rows}
    assert set(verdicts.values()) <= {"PASS", "INCONCLUSIVE", "VIOLATION"}
    assert list(verdicts.values()).count("INCONCLUSIVE") <= 1, cmd.told(done)
    assert {run for run, verdict in verdicts.items() if verdict == "VIOLATION"} == {
        row["run"] for row in rows if row["role"] == "planted"
    }
    found = json.loads(cmd.run("campaign", "status", out, "--json").stdout)
    assert found["state"]["leaks"] == {}
    assert cmd.own_processes(out) == []


def test_the_unit_is_one():
    """The file tells systemd when it is ready, is watched, and starts what the documentation shows."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(cmd.ROOT / "configs" / "systemd" / "zaptorture-soak.service")
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) > 0
    assert "campaign resume campaigns/weekend" in service["ExecStart"]
    assert "soak configs/campaigns/weekend.toml --for 72h --out campaigns/weekend" in service["ExecStart"]
