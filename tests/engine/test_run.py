# SPDX-License-Identifier: GPL-2.0-only
"""Runs from the command line to the run folder: verdicts, output, logs, variants, counters, builds."""

from __future__ import annotations

import json
import tomllib

import pytest

from stress import __version__
from stress.config import config_hash, load_config
from stress.log.schema import Kind

from . import command as cmd

QUICK = cmd.ROOT / "configs" / "scenarios" / "quick.toml"


@pytest.fixture
def scenario(tmp_path):
    return cmd.small(tmp_path)


# --- the main job


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """One run of the scenario that the documentation starts with."""
    return cmd.run(QUICK, tmp_path_factory.mktemp("quick") / "runs", "--seed", "7")


def test_quick_passes(quick):
    """The main job: PASS, exit code 0, nothing on stderr, with evidence for what it saw."""
    assert (quick.code, quick.err) == (0, ""), quick.told()
    assert quick.result["verdict"] == "PASS"
    assert quick.result["findings"] == []
    evidence = tomllib.loads((quick.folder / "config.toml").read_text(encoding="utf-8"))["evidence"]
    assert any(evidence.values())
    for name, wanted in evidence.items():
        assert quick.result["counters"][name] >= wanted


def test_first_and_last_line(quick):
    """The first line says what runs and where, the last one is the verdict."""
    config = load_config(QUICK, (), 7, None)
    assert quick.lines[0] == f"zaptorture {__version__} seed 7 config {config_hash(config)} run {quick.folder}"
    assert quick.lines[-1].startswith("PASS quick: ")
    assert sum(line.startswith("PASS") for line in quick.lines) == 1


def test_the_folder_is_whole(quick):
    """All parts of a run folder are there, and none that is half written."""
    names = {path.name for path in quick.folder.iterdir()}
    assert names == {"config.toml", "manifest.json", "control.jsonl", "events", "verdict.json"}
    cmd.assert_valid(quick.folder)
    actors = {"vcpu0", "vcpu1", "vcpu2", "vcpu3", "ctl", "rcu"}
    assert {path.name for path in (quick.folder / "events").iterdir()} == {f"{actor}-00000.parquet" for actor in actors}


def test_the_manifest(quick):
    """It names version, seed, hashes, host and clock."""
    manifest = json.loads((quick.folder / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["version"], manifest["seed"], manifest["scenario"]) == (__version__, 7, "quick")
    assert len(manifest["model_hash"]) == 16
    assert {"cpus", "memory_bytes", "kernel", "python"} <= manifest["host"].keys()
    assert manifest["clock"]["kind"] in {"cycle counter", "CLOCK_MONOTONIC"}
    assert manifest["clock"]["ticks_per_s"] > 0


def test_the_control_log_tells_the_story(quick):
    """Who started and ended, and the verdict as the last word; times never go back."""
    lines = cmd.control_of(quick.folder)
    events = [line["event"] for line in lines]
    assert (events[0], events[-1]) == ("run_start", "verdict")
    assert {"process_start", "warmup_done", "heartbeat", "process_exit", "slot_ops", "actor_log", "log_closed"} <= set(events)
    times = [line["t_ns"] for line in lines]
    assert times == sorted(times)
    assert {line["exitcode"] for line in lines if line["event"] == "process_exit"} == {0}
    cmd.assert_gone({line["actor"]: line["pid"] for line in lines if line["event"] == "process_start"})


def test_windows_hold_the_last_events(quick):
    """Under the policy `window` each busy actor has a window's worth of its newest events, up to the end of the VM."""
    logs = cmd.logs_of(quick.folder)
    recorded = {line["actor"]: line["recorded"] for line in cmd.control_of(quick.folder) if line["event"] == "actor_log"}
    for actor, table in logs.items():
        assert len(table) == min(recorded[actor], 4095), actor  # of a full ring the oldest slot may be torn
        assert table["seq"][-1].as_py() == recorded[actor] - 1
    assert cmd.count(logs["ctl"], Kind.VM_DESTROY) == 1


def test_a_resolved_config_runs_again(quick, tmp_path):
    """The config in a run folder is a scenario of its own, with the same seed and hash."""
    first = quick.lines[0].split()
    again = cmd.run(quick.folder / "config.toml", tmp_path / "again", "--dry-run")
    assert again.code == 0
    assert again.lines[0].split()[:6] == first[:6]
    ran = cmd.run(quick.folder / "config.toml", tmp_path / "again", "--duration", "500ms", sets=no_evidence(quick))
    assert (ran.code, ran.result["verdict"], ran.result["seed"]) == (0, "PASS", 7), ran.told()


def no_evidence(outcome):
    evidence = tomllib.loads((outcome.folder / "config.toml").read_text(encoding="utf-8"))["evidence"]
    return tuple(f"evidence.{name}=0" for name in evidence)


# --- verdicts and output


def test_json_is_the_verdict_file(scenario, tmp_path):
    """With --json stdout is one object, the same as verdict.json; lines for people go to stderr."""
    ended = cmd.run(scenario, tmp_path / "runs", "--json", "--duration", "300ms")
    assert ended.code == 0
    assert len(ended.lines) == 1
    printed = json.loads(ended.lines[0])
    err = ended.err.splitlines()
    assert err[0].startswith("zaptorture ")
    assert err[-1].startswith("PASS small: ")
    (folder,) = (tmp_path / "runs").iterdir()
    assert printed == json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    assert printed["verdict"] == "PASS"


def test_too_little_evidence_is_inconclusive(scenario, tmp_path):
    """A threshold out of reach: exit code 3, and the line names the counter and the key to raise."""
    ended = cmd.run(scenario, tmp_path / "runs", "--duration", "300ms", sets=("evidence.moves=1000000000",))
    assert ended.code == 3, ended.told()
    assert ended.lines[-1].startswith("INCONCLUSIVE small: moves = ")
    assert "below evidence.moves = 1000000000; raise run.duration" in ended.lines[-1]
    assert ended.result["verdict"] == "INCONCLUSIVE"


def test_two_runs_into_one_folder(scenario, tmp_path):
    """Each run has a folder of its own; what was there stays as it is."""
    out = tmp_path / "runs"
    first = cmd.run(scenario, out, "--duration", "200ms", "--seed", "1")
    before = {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()}
    second = cmd.run(scenario, out, "--duration", "200ms", "--seed", "2")
    assert (first.code, second.code) == (0, 0)
    assert sorted(out.iterdir()) == sorted({first.folder, second.folder})
    assert {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()} == before


def test_the_same_folder_name_is_refused(scenario, tmp_path):
    """The same second, scenario and seed: the second run says so, exit code 2, and touches nothing."""
    stopped_clock = (
        "import datetime\n"
        "from stress.engine import run as engine\n"
        "class Clock(datetime.datetime):\n"
        "    now = classmethod(lambda cls, tz=None: datetime.datetime(2026, 12, 1, 10, 0, 0, tzinfo=tz))\n"
        "engine.datetime = Clock\n"
    )
    options = ("--duration", "200ms", "--seed", "1")
    first = cmd.run_with(stopped_clock, scenario, tmp_path / "runs", *options)
    assert first.code == 0, first.told()
    assert first.folder.name == "2026-12-01T10-00-00-small-1"
    verdict = (first.folder / "verdict.json").read_bytes()
    second = cmd.run_with(stopped_clock, scenario, tmp_path / "runs", *options)
    assert (second.code, second.lines) == (2, [])
    assert "already holds a run" in second.err
    assert (first.folder / "verdict.json").read_bytes() == verdict


# --- log policies


def actor_logs(outcome):
    return {line["actor"]: line for line in cmd.control_of(outcome.folder) if line["event"] == "actor_log"}


def test_policy_all_loses_nothing(scenario, tmp_path):
    """Every event that an actor recorded is in its files, from the first to the last, and the log says so."""
    ended = cmd.run(scenario, tmp_path / "runs", "--duration", "500ms", sets=('log.policy="all"', "log.window_events=256"))
    assert ended.code == 0, ended.told()
    assert (ended.result["log"]["complete"], ended.result["log"]["lost"]) == (True, 0)
    cmd.assert_valid(ended.folder)
    recorded = actor_logs(ended)
    logs = cmd.logs_of(ended.folder)
    assert logs.keys() == {"vcpu0", "vcpu1", "ctl", "rcu"} & {actor for actor, line in recorded.items() if line["recorded"]}
    for actor, line in recorded.items():
        assert line["recorded"] == line["logged"] == (len(logs[actor]) if actor in logs else 0)
        if actor in logs:
            assert logs[actor]["seq"][0].as_py() == 0
    accesses = sum(cmd.count(logs[f"vcpu{n}"], Kind.GUEST_ACCESS) for n in range(2))
    assert accesses == ended.result["counters"]["guest_accesses"]


def test_policy_sampled_thins_out_accesses_alone(scenario, tmp_path):
    """One guest access in so many is logged, every fault is, and the log does not call itself complete."""
    ended = cmd.run(scenario, tmp_path / "runs", "--duration", "500ms", sets=('log.policy="sampled"', "log.sample=16"))
    assert ended.code == 0, ended.told()
    assert (ended.result["log"]["complete"], ended.result["log"]["lost"]) == (False, 0)
    cmd.assert_valid(ended.folder)
    logs = cmd.logs_of(ended.folder)
    counters = ended.result["counters"]
    faults, logged = (sum(cmd.count(logs[f"vcpu{n}"], k) for n in range(2)) for k in (Kind.KVM_PAGE_FAULT, Kind.GUEST_ACCESS))
    assert faults == counters["page_faults"]
    assert 0 < logged < counters["guest_accesses"] / 8


def test_policy_window_keeps_the_last(scenario, tmp_path):
    """A small window holds just that many events of each actor, the newest."""
    ended = cmd.run(scenario, tmp_path / "runs", "--duration", "300ms", sets=("log.window_events=64",))
    assert ended.code == 0, ended.told()
    cmd.assert_valid(ended.folder)
    for actor, table in cmd.logs_of(ended.folder).items():
        assert len(table) <= 64
        assert table["seq"][-1].as_py() == actor_logs(ended)[actor]["recorded"] - 1


# --- scenarios


@pytest.mark.parametrize("variant", ["split", "split-once", "unsplit", "held"])
def test_every_variant_passes(variant, scenario, tmp_path):
    """All four are correct while the quirk rests."""
    ended = cmd.run(scenario, tmp_path / "runs", sets=(f'variant="{variant}"', *cmd.NOISE))
    assert ended.code == 0, ended.told()
    assert ended.result["counters"]["deletes"] > 0


@pytest.mark.parametrize("mode", ["flip", "set-once"])
def test_the_toggler_is_harmless_with_one_evaluation(mode, scenario, tmp_path):
    """split-once resolves the predicate once: the quirk may change as it likes."""
    sets = (f'toggler.mode="{mode}"', "toggler.period_us_max=50", *cmd.NOISE)
    ended = cmd.run(scenario, tmp_path / "runs", sets=sets)
    assert ended.code == 0, ended.told()
    counters = ended.result["counters"]
    assert counters["halves_disagreed"] == 0
    assert counters["quirk_toggles"] == 1 if mode == "set-once" else counters["quirk_toggles"] > 100


def test_sixteen_vcpus_on_two_cores(scenario, tmp_path):
    """More vCPUs than cores: every one of them makes progress, and so do the deletes."""
    sets = ("vm.nr_vcpus=16", 'log.policy="window"')
    cores = sorted(cmd.os.sched_getaffinity(0))[:2]
    ended = cmd.run(scenario, tmp_path / "runs", sets=sets, preexec_fn=lambda: cmd.os.sched_setaffinity(0, cores))
    assert ended.code == 0, ended.told()
    recorded = actor_logs(ended)
    assert {f"vcpu{n}" for n in range(16)} <= {actor for actor, line in recorded.items() if line["recorded"] > 0}
    assert ended.result["counters"]["deletes"] > 0


@pytest.mark.parametrize("level", ["use", "protocol", "paranoid"])
def test_every_check_level_passes(level, scenario, tmp_path):
    """A correct protocol has no finding at any level of checking."""
    ended = cmd.run(scenario, tmp_path / "runs", sets=(f'check.level="{level}"', *cmd.NOISE))
    assert ended.code == 0, ended.told()


def test_moves_holes_halts_and_zap_only_are_counted(scenario, tmp_path):
    """What the workload asks for happens: MOVE, MMIO exits, halts; and with the quirk off only leafs are zapped."""
    sets = ("workload.hole_ratio=0.01", "workload.halt_probability=0.01", "workload.halt_us_max=100", "vm.quirk_slot_zap_all=false")
    ended = cmd.run(scenario, tmp_path / "runs", sets=sets)
    assert ended.code == 0, ended.told()
    counters = ended.result["counters"]
    wanted = ("moves", "deletes", "creates", "mmio_exits", "halts", "remote_tlb_flushes", "frames_reused", "tlb_hits")
    assert [name for name in wanted if counters[name] == 0] == []


def test_a_guest_that_only_touches_holes_comes_to_an_end(scenario, tmp_path):
    """Without one guest access the time of a run still begins, with the first exit."""
    ended = cmd.run(scenario, tmp_path / "runs", "--duration", "300ms", sets=("workload.hole_ratio=1.0",))
    assert ended.code == 0, ended.told()
    assert ended.result["counters"]["guest_accesses"] == 0
    assert ended.result["counters"]["mmio_exits"] > 0


# --- noise


def test_noise_is_counted_by_site(scenario, tmp_path):
    """Each primitive on each field says how often it was passed and disturbed; the share is the one that was asked for."""
    ended = cmd.run(scenario, tmp_path / "runs", sets=("perturb.probability=0.01",))
    assert ended.code == 0, ended.told()
    sites = {(site["primitive"], site["field"]): site for site in ended.result["sites"]}
    for site in (("load_acquire", "actor.ipi_sent"), ("fetch_add", "mmu_lock.cnts"), ("cmpxchg", "pt"), ("load", "frame_tag")):
        assert sites[site]["passed"] > 0
    passed, perturbed = (sum(site[what] for site in sites.values()) for what in ("passed", "perturbed"))
    assert perturbed / passed == pytest.approx(0.01, rel=0.2)


def test_a_plain_build_counts_no_sites(scenario, tmp_path):
    """Without noise another build runs, in which primitives are bare instructions."""
    ended = cmd.run(scenario, tmp_path / "runs", "--duration", "300ms")
    assert ended.code == 0, ended.told()
    assert ended.result["sites"] == []


def test_resched_alone_makes_zaps_yield(scenario, tmp_path):
    """With lock breaks on demand only, it is perturbation that makes the halves yield."""
    ended = cmd.run(scenario, tmp_path / "runs", sets=('vm.lock_break="resched"', *cmd.NOISE))
    assert ended.code == 0, ended.told()
    assert ended.result["counters"]["back_half_yields"] > 0
