# SPDX-License-Identifier: GPL-2.0-only
"""Leaks, clock steps, signs of life, cores and bounds: each check fires when it should, and is silent when it should be."""

from __future__ import annotations

import json
import math
import os
import socket

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stress.campaign import vitals as vitals_module
from stress.campaign.bounds import rate_upper, share_lower, share_upper
from stress.campaign.clocks import ClockWatch
from stress.campaign.cores import cores_of_machine, places
from stress.campaign.notify import Heartbeat, notify_systemd
from stress.campaign.trend import SAMPLES_MAX, Series
from stress.campaign.vitals import FLOORS, Vitals
from stress.errors import UsageError

SAMPLES = 360  # an hour of one every ten seconds


def series(values, floor=2.0):
    collected = Series(floor)
    for number, value in enumerate(values):
        collected.add(10.0 * number, float(value))
    return collected


def noise(seed, size=SAMPLES, scale=0.5):
    return np.random.default_rng(seed).normal(0, scale, size)


@pytest.mark.parametrize("seed", range(10))
def test_a_leak_is_seen_in_the_noise(seed):
    """Six MiB an hour under noise of half a MiB, and a descriptor every seven minutes."""
    trend = series(100 + np.linspace(0, 6, SAMPLES) + noise(seed)).trend()
    assert trend is not None
    assert 4.5 < trend.per_hour < 7.5
    assert 0 < trend.low < trend.per_hour
    assert series(10 + np.floor(np.arange(SAMPLES) / 40), floor=3.0).trend() is not None


@pytest.mark.parametrize("seed", range(100))
def test_noise_steps_and_warm_up_are_no_leaks(seed):
    """Flat noise, one step, a warm-up that ends, a sawtooth and a random walk within bounds say nothing."""
    rng = np.random.default_rng(seed)
    ramp = np.minimum(np.arange(SAMPLES), 80) / 8
    step = np.where(np.arange(SAMPLES) > rng.integers(100, 300), 20, 0)
    sawtooth = (np.arange(SAMPLES) % 45) / 5
    for values in (noise(seed), ramp + noise(seed), step + noise(seed), sawtooth + noise(seed), np.full(SAMPLES, 7)):
        assert series(100 + values).trend() is None


def test_growth_below_the_floor_is_not_worth_a_word():
    """A leak of a tenth of the floor over the window is left alone; so is a series that is too short."""
    assert series(np.linspace(0, 0.2, SAMPLES)).trend() is None
    assert series(np.linspace(0, 100, 20)).trend() is None


def test_a_week_takes_no_more_room_than_an_hour():
    """Samples are thinned by half, and a leak is still seen."""
    collected = series(np.linspace(0, 50, 60_000))
    assert len(collected._times) < SAMPLES_MAX
    assert collected.trend() is not None


def test_a_growing_resource_of_ours_is_told_once(tmp_path, monkeypatch):
    """Descriptors that this very process leaks end in one sentence; memory, threads and shared memory stay silent."""
    now = [0.0]
    monkeypatch.setattr(vitals_module.time, "monotonic", lambda: now[0])
    vitals = Vitals(tmp_path, 10.0)
    held = []
    told = []
    try:
        for _ in range(80):
            now[0] += 10.0
            assert vitals.is_due()
            vitals.sample({}, None)
            held.append(os.open("/dev/null", os.O_RDONLY))
            told += vitals.leaks()
    finally:
        for fd in held:
            os.close(fd)
    assert [name for name, _ in told] == ["campaign fds"]
    assert "grows by 3" in told[0][1]
    samples = [json.loads(line) for line in (tmp_path / "resources.jsonl").read_text().splitlines()]
    assert len(samples) == 80
    assert {"campaign uss_mb", "campaign threads", "shared memory bytes", "load_1m", "steal_ratio"} <= samples[0].keys()
    assert {name.rpartition(" ")[2] for name in samples[0] if " " in name} <= FLOORS.keys()


def test_a_busy_machine_is_noted_once_each_time(tmp_path, monkeypatch):
    """Overload is told when it begins and again when it comes back, not at every look."""
    vitals = Vitals(tmp_path, 10.0)
    loads = [0.1, 1e4, 1e4, 0.1, 1e4]
    notes = []
    for load in loads:
        monkeypatch.setattr(vitals_module.os, "getloadavg", lambda load=load: (load, load, load))
        notes.append([about for about, _ in vitals.sample({}, None)])
    assert ["load" in about for about in notes] == [False, True, False, False, True]


def test_clock_steps_and_suspends_are_told_apart():
    """A wall clock that jumps was set; a monotonic clock that stood still while the others ran was suspended."""
    now = {"monotonic": 100.0, "wall": 1e9, "boot": 150.0}
    watch = ClockWatch(lambda: now["monotonic"], lambda: now["wall"], lambda: now["boot"])

    def pass_time(seconds, asleep=0.0, step=0.0):
        now["monotonic"] += seconds
        now["boot"] += seconds + asleep
        now["wall"] += seconds + asleep + step
        return watch.look()

    assert pass_time(1000) == []
    assert pass_time(5, asleep=3600) == [("suspend", "the machine was suspended for 3600 s, which do not count")]
    assert pass_time(5) == []
    assert pass_time(5, step=-3600) == [("clock", "the wall clock was set by -3600 s")]
    assert pass_time(5, step=0.5) == []
    assert [about for about, _ in pass_time(5, asleep=60, step=60)] == ["suspend", "clock"]


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path, monkeypatch, abstract):
    """READY, the watchdog and the status go to the socket that systemd names; without one nothing happens."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify_systemd("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        name = f"@zaptorture-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
        receiver.bind("\0" + name[1:] if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        monkeypatch.setenv("WATCHDOG_USEC", "6000000")
        notify_systemd("READY=1")
        assert receiver.recv(100) == b"READY=1"
        heartbeat = Heartbeat(tmp_path)
        assert heartbeat._interval_s == 2.0
        assert heartbeat.is_due()
        heartbeat.beat("3 runs", running={})
        assert receiver.recv(100) == b"WATCHDOG=1\nSTATUS=3 runs"
    assert not heartbeat.is_due()
    assert json.loads((tmp_path / "heartbeat.json").read_text())["pid"] == os.getpid()
    heartbeat.beat("the other end is gone", running={})


def test_runs_get_whole_cores():
    """No core goes to two runs, and what does not fit is refused with what would."""
    threads = [(0, 4), (1, 5), (2, 6), (3, 7)]
    assert places(threads, 2, None) == [(0, 4), (1, 5), (2, 6), (3, 7)]
    assert places(threads, 1, 2) == [(0, 4), (1, 5)]
    assert places(threads, 3, None) == [(0, 4, 1, 5), (2, 6, 3, 7)]
    with pytest.raises(UsageError, match=r"--jobs 3: 3 runs of 3 CPUs do not fit on 8 .* expected 2 or less"):
        places(threads, 3, 3)
    with pytest.raises(UsageError, match=r"limits\.cpus = 9: this process may use 8 CPUs"):
        places(threads, 9, None)
    assert sorted(cpu for core in cores_of_machine() for cpu in core) == sorted(os.sched_getaffinity(0))


@given(found=st.integers(0, 50), runs=st.integers(1, 5000), seconds=st.floats(1, 1e7))
def test_bounds_bound(found, runs, seconds):
    """They lie on their side of what was seen, shrink with more runs, and follow the rule of three without findings."""
    found = min(found, runs)
    assert share_lower(found, runs) <= found / runs <= share_upper(found, runs) <= 1
    assert share_upper(found, 10 * runs) < share_upper(found, runs) or found >= runs
    assert rate_upper(found, seconds) > found / seconds
    assert math.isclose(rate_upper(0, seconds), -math.log(0.05) / seconds)
    assert math.isclose(share_upper(0, runs), 1 - 0.05 ** (1 / runs))


def test_the_share_bound_holds_as_often_as_it_says():
    """Of many series of runs that fail with a known chance, at most one in twenty lies outside the bound."""
    rng = np.random.default_rng(1)
    for chance in (0.001, 0.02, 0.3):
        found = rng.binomial(200, chance, size=2000)
        missed = np.mean([share_upper(int(count), 200) < chance for count in found])
        assert missed <= 0.065
