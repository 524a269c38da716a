# SPDX-License-Identifier: GPL-2.0-only
"""A campaign on a real cluster comes to what it comes to on one machine, whoever dies meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .clusters import Cluster, finish, kill_now, until
from .fakes import campaign_file, records

SCENARIO = """
[[slots]]
base_gfn = 0
npages = 16
ops = ["delete"]

[perturb]
probability = 0.002

[run]
duration = "{duration}"
"""
QUICK = SCENARIO.format(duration="500ms")
LONG = SCENARIO.format(duration="3s")
MUCH_EVIDENCE = f"{QUICK}\n[evidence]\ndeletes = 1000000000\n"
PLAN = (
    'scenarios = ["a", "much"]\nrepeats = 2\nseed = 7\nquantiles = true\n[finding]\nreproduce = ""\n[limits]\nshare_cpus = true\n'
)
FOUND = f'{PLAN}commands = [["touch", "{{campaign}}/told-{{signature}}"]]\n'.replace("[limits]\nshare_cpus = true\n", "")
LONG_PLAN = (
    'scenarios = ["a"]\nrepeats = 3\nseed = 7\n[finding]\nreproduce = ""\n[limits]\nshare_cpus = true\nharness_retries = 0\n'
)
BUG = Path(__file__).parents[2] / "configs" / "busted" / "no-request.toml"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two workers; a test that kills one starts another."""
    running = Cluster(tmp_path_factory.mktemp("cluster"))
    running.add_worker("one")
    running.add_worker("two")
    yield running
    running.close()


@pytest.fixture
def own_cluster(tmp_path):
    """A scheduler alone."""
    folder = tmp_path / "own"
    folder.mkdir()
    running = Cluster(folder)
    yield running
    running.close()


def ends(out):
    return {record["index"]: record for record in records(out) if record["event"] == "end"}


def events(out, name):
    return [record for record in records(out) if record["event"] == name]


def counted_once(out, total):
    assert Counter(record["index"] for record in events(out, "end")) == dict.fromkeys(range(total), 1)


def sums(out):
    return {
        index: (row["run"], row["seed"], row["config_hash"], row["model_hash"], row["verdict"]) for index, row in ends(out).items()
    }


def begun(out):
    return any("run_start" in path.read_text() for path in out.glob("runs/*/control.jsonl"))


@pytest.mark.slow
def test_the_same_campaign(cluster, tmp_path):
    """Runs, seeds, configs and verdicts are those of a campaign on this machine; commands on a finding run here."""
    scenarios = {"a": QUICK, "much": MUCH_EVIDENCE, "bug": BUG.read_text()}
    text = FOUND.replace('"much"]', '"much", "bug"]').replace("repeats = 2", "repeats = 1") + "[limits]\nshare_cpus = true\n"
    file = campaign_file(tmp_path / "file", text, **scenarios)
    here = cluster.zaptorture("campaign", file, "--out", tmp_path / "here", "--jobs", "1")
    assert finish(here)[0] == 1
    code, out, err = finish(cluster.campaign(file, tmp_path / "there"))
    assert code == 1, out + err
    assert "VIOLATION campaign: " in out.splitlines()[-1]
    assert sums(tmp_path / "there") == sums(tmp_path / "here")
    assert Counter(row["verdict"] for row in ends(tmp_path / "there").values()) == {"PASS": 1, "INCONCLUSIVE": 1, "VIOLATION": 1}
    assert all(row["quantiles"] for row in ends(tmp_path / "there").values() if row["verdict"] == "PASS")
    assert len(list((tmp_path / "there").glob("told-*"))) == len(list((tmp_path / "there" / "findings").iterdir()))
    assert events(tmp_path / "there", "session")[0]["executor"] == f"cluster {cluster.address}"
    assert not (tmp_path / "there" / "cluster").exists()
    assert not (tmp_path / "there" / "output.log").exists()
    assert not cluster.processes_left()


def test_a_worker_is_killed(cluster, tmp_path):
    """Its run is made anew, uses up no retry, and everything counts exactly once."""
    file = campaign_file(tmp_path / "file", LONG_PLAN, a=LONG)
    campaign = cluster.campaign(file, tmp_path / "c")
    until(lambda: cluster.runs_of("two"), "a run on the second worker")
    cluster.kill("two")
    cluster.add_worker("two")
    code, out, err = finish(campaign)
    assert code == 0, out + err
    counted_once(tmp_path / "c", 3)
    (dropped,) = events(tmp_path / "c", "dropped")
    assert dropped["why"].endswith("was lost")
    assert ends(tmp_path / "c")[dropped["index"]]["attempt"] == 2
    assert not events(tmp_path / "c", "again")
    assert not cluster.processes_left()


STREAMING = """
import sys
from pathlib import Path
from stress.campaign import cluster
from stress.campaign.folder import open_campaign
from stress.campaign.load import Loaded
from stress.campaign.supervise import Supervisor

folder, kept = open_campaign(Path(sys.argv[1]))
executor = cluster.ClusterExecutor(sys.argv[2], folder.path, str(folder.output), None)
submit, unpack = executor._client.submit, cluster.unpack

def elsewhere(function, job, probe, identity, **options):
    return submit(function, job, probe + "-of-another", identity, **options)

def counted(parcel, target, beside):
    unpack(parcel, target, beside)
    print("unpacked", target.name)

executor._client.submit, cluster.unpack = elsewhere, counted
campaign = Loaded.from_content(kept.where, kept.content).campaign
print(Supervisor(folder, campaign, kept.plan(), executor, None, print, lambda text, elapsed: None).run()[0].value)
"""


@pytest.mark.slow
def test_run_folders_are_sent(cluster, tmp_path):
    """A worker that does not see the campaign's folder keeps nothing: the whole run folder arrives and can be judged."""
    file = campaign_file(tmp_path / "file", PLAN, a=QUICK, much=MUCH_EVIDENCE)
    out = tmp_path / "c"
    begin = (
        "from tests.campaign.fakes import begin; import sys; from pathlib import Path; begin(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", begin, file, out], check=True, cwd=root)
    command = [sys.executable, "-c", STREAMING, out, cluster.address]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=cluster.environment)
    assert done.stdout.splitlines()[-1] == "INCONCLUSIVE", done.stdout + done.stderr
    counted_once(out, 4)
    assert {line.split()[1] for line in done.stdout.splitlines() if line.startswith("unpacked")} == {
        row["run"] for row in ends(out).values()
    }
    for row in ends(out).values():
        folder = out / "runs" / row["run"]
        assert {"verdict.json", "manifest.json", "control.jsonl", "config.toml", "host.json"} <= {
            path.name for path in folder.iterdir()
        }
        assert list(folder.glob("events/*.parquet"))
    code, printed, _ = finish(cluster.zaptorture("check", out / "runs" / ends(out)[0]["run"]))
    assert code in (0, 3), printed
    assert not [path for name in ("one", "two") for path in (cluster.folder / name).rglob("verdict.json")]
    assert not (out / "cluster").exists()


@pytest.mark.slow
def test_a_campaign_is_stopped_and_taken_up_again(cluster, tmp_path):
    """One signal lets runs end in order; the campaign goes on later on the same cluster."""
    file = campaign_file(tmp_path / "file", LONG_PLAN, a=LONG)
    campaign = cluster.campaign(file, tmp_path / "c")
    until(lambda: begun(tmp_path / "c"), "a run on a worker")
    campaign.send_signal(signal.SIGTERM)
    code, out, err = finish(campaign)
    assert code == 3, out + err
    assert "stopped by SIGTERM" in out.splitlines()[-1]
    assert not cluster.processes_left()
    code, out, err = finish(cluster.zaptorture("campaign", "resume", tmp_path / "c", "--scheduler", cluster.address))
    assert code == 0, out + err
    counted_once(tmp_path / "c", 3)


@pytest.mark.slow
def test_the_campaigns_process_is_killed(cluster, tmp_path):
    """Workers end what nobody waits for."""
    file = campaign_file(tmp_path / "file", LONG_PLAN, a=SCENARIO.format(duration="600s"))
    campaign = cluster.campaign(file, tmp_path / "c")
    until(lambda: begun(tmp_path / "c"), "a run on a worker")
    kill_now(campaign)
    until(lambda: not cluster.processes_left(), "no run on any worker")


@pytest.mark.slow
def test_the_scheduler_is_killed(own_cluster, tmp_path):
    """One line, the exit code of an error of the harness, no run left; the campaign goes on without a cluster."""
    own_cluster.add_worker("one")
    file = campaign_file(tmp_path / "file", LONG_PLAN, a=LONG)
    campaign = own_cluster.campaign(file, tmp_path / "c")
    until(lambda: begun(tmp_path / "c"), "a run on a worker")
    own_cluster.kill("scheduler")
    code, out, err = finish(campaign)
    assert code == 4, out + err
    last = out.splitlines()[-1]
    assert last.startswith(f"HARNESS_ERROR campaign: the scheduler {own_cluster.address} is gone: ")
    assert f"zaptorture campaign resume {tmp_path / 'c'}" in last
    assert err == ""
    until(lambda: not [line for line in own_cluster.processes_left() if "dask_worker" not in line], "no run on any worker")
    code, out, err = finish(own_cluster.zaptorture("campaign", "resume", tmp_path / "c"))
    assert code == 0, out + err
    counted_once(tmp_path / "c", 3)


@pytest.mark.slow
def test_a_worker_with_another_version(own_cluster, tmp_path):
    """One that is there from the start is refused before anything runs; one that comes later is given nothing that counts."""
    preload = tmp_path / "other_version.py"
    preload.write_text("import stress\nstress.__version__ = '0.0.1'\n")
    file = campaign_file(tmp_path / "file", LONG_PLAN, a=QUICK)
    campaign = own_cluster.campaign(file, tmp_path / "late")
    until((tmp_path / "late" / "journal.jsonl").exists, "a campaign that waits for workers")
    other = own_cluster.add_worker("other", "--preload", str(preload))
    until(lambda: events(tmp_path / "late", "dropped"), "the other worker's refusal")
    code, out, err = finish(own_cluster.campaign(file, tmp_path / "refused"))
    assert code == 2, out + err
    assert err.startswith(f"--scheduler {own_cluster.address}: worker {other} has zaptorture 0.0.1, model ")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "refused").exists()
    own_cluster.add_worker("good")
    code, out, err = finish(campaign)
    assert code == 0, out + err
    counted_once(tmp_path / "late", 3)
    (dropped,) = events(tmp_path / "late", "dropped")
    assert f"worker {other} has zaptorture 0.0.1" in dropped["why"]


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", "foo://host:1", "tls://127.0.0.1:1"])
def test_a_wrong_address(address, tmp_path):
    """One line, and nothing was created."""
    file = campaign_file(tmp_path / "file", LONG_PLAN, a=QUICK)
    command = [sys.executable, "-m", "stress.cli", "campaign", file, "--out", tmp_path / "c", "--scheduler", address]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"--scheduler {address}: no ")
    assert not (tmp_path / "c").exists()


def test_without_the_extra(tmp_path):
    """One line that says what to install."""
    file = campaign_file(tmp_path / "file", LONG_PLAN, a=QUICK)
    code = "import sys; sys.modules['distributed'] = None; from stress.cli import main; main()"
    command = [sys.executable, "-c", code, "campaign", file, "--out", tmp_path / "c", "--scheduler", "tcp://127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'zaptorture[cluster]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "c").exists()
