# SPDX-License-Identifier: GPL-2.0-only
"""The tester's own trouble: killed and stopped processes, signals, a full disk, too little memory, hangs of the protocol.

Whatever happens, a run ends within 10 s with a verdict that names it, and leaves no process, no shared memory and a log that
can be read. That bound is the timeout of every wait here; nothing else depends on time.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from . import command as cmd

BOUND_S = 10.0
LONG = ("run.duration=1h", "toggler.mode=flip", *cmd.NOISE)
DEADLOCK_IN_S = "run.hang_s=1"


@pytest.fixture
def scenario(tmp_path):
    return cmd.small(tmp_path)


@pytest.fixture
def running(scenario, tmp_path):
    """A long run with all kinds of processes, at some moment behind its first guest access."""
    with cmd.Running(scenario, tmp_path / "runs", sets=(*LONG, 'log.policy="sampled"')) as run:
        folder = run.until_first_access()
        time.sleep(random.random() / 4)  # any moment will do
        yield run, folder
    cmd.assert_gone(run.pids)
    # Nothing has a name there that could outlive a run.
    assert not list(Path("/dev/shm").glob("*zaptorture*"))


# --- killed, stopped


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("name", ["vcpu1", "ctl", "rcu", "drain", "toggler"])
def test_a_process_is_lost(name, number, running):
    """HARNESS_ERROR that names the process, what happened to it, and for an actor the locks that it held."""
    run, folder = running
    os.kill(run.pids[name], number)
    ended = run.end(BOUND_S)
    assert ended.code == 4, ended.told()
    held = "" if name == "drain" else ", holding "
    how = "was killed by SIGKILL" if number == signal.SIGKILL else "was stopped by a signal"
    assert ended.lines[-1].startswith(f"HARNESS_ERROR small: {name} (pid {run.pids[name]}){held}"), ended.told()
    assert how in ended.lines[-1]
    assert ended.result["verdict"] == "HARNESS_ERROR"
    assert cmd.control_of(folder)[-1]["event"] == "verdict"
    cmd.assert_valid(folder)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_lock_of_a_lost_actor_is_named(number, scenario, tmp_path):
    """Who dies with a lock is reported with it: here the controller, who never gives slots_lock back."""
    # Waiting for mmu_lock under slots_lock is where the controller then is, for good.
    with cmd.Running(
        scenario, tmp_path / "runs", sets=("run.duration=1h", "run.hang_s=3600"), env=sabotaged(tmp_path, MMU_LOCK)
    ) as run:
        folder = Path(run.read_line().rpartition(" run ")[2])
        cmd.wait_for(lambda: any(line.get("actor") == "rcu" for line in cmd.control_of(folder)), "the last process")
        run.pids = {line["actor"]: line["pid"] for line in cmd.control_of(folder) if line["event"] == "process_start"}
        cmd.wait_for(lambda: psutil.Process(run.pids["ctl"]).num_ctx_switches().voluntary > 300, "the controller in its wait")
        os.kill(run.pids["ctl"], number)
        ended = run.end(BOUND_S)
    assert ended.code == 4, ended.told()
    assert f"ctl (pid {run.pids['ctl']}), holding slots_lock" in ended.lines[-1], ended.told()


def test_the_parent_is_killed(running):
    """Its children go with it, and the log so far can be read."""
    run, folder = running
    run.process.kill()
    run.process.wait(BOUND_S)
    cmd.assert_gone(run.pids)
    cmd.assert_valid(folder)
    assert not (folder / "verdict.json").exists()


def test_everything_stops_and_goes_on(scenario, tmp_path):
    """Ctrl-Z and fg: that the whole run stood still is nobody's fault."""
    with cmd.Running(scenario, tmp_path / "runs", sets=("run.duration=1500ms", "run.hang_s=0.5")) as run:
        run.until_first_access()
        for _ in range(3):
            os.killpg(run.process.pid, signal.SIGSTOP)
            time.sleep(0.7)  # longer than a hang
            os.killpg(run.process.pid, signal.SIGCONT)
            time.sleep(0.1)
        ended = run.end(cmd.TIMEOUT_S)
    assert ended.code == 0, ended.told()


# --- asked to stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_is_told_to_stop(number, running):
    """A clean stop: the whole process group gets the signal, as from a terminal; the verdict is the one so far."""
    run, folder = running
    os.killpg(run.process.pid, number)
    ended = run.end(BOUND_S)
    assert (ended.code, ended.err) == (0, ""), ended.told()
    assert ended.lines[-1].startswith("PASS small: ")
    assert f"stopped by {signal.Signals(number).name}" in ended.lines[-1]
    assert {line["exitcode"] for line in cmd.control_of(folder) if line["event"] == "process_exit"} == {0}
    cmd.assert_valid(folder)


def test_told_twice(running):
    """The second Ctrl-C of an impatient user changes nothing."""
    run, _ = running
    for _ in range(3):
        os.killpg(run.process.pid, signal.SIGINT)
        time.sleep(0.02)
    ended = run.end(BOUND_S)
    assert (ended.code, ended.err) == (0, ""), ended.told()


# --- full disk, too little memory


def mounted(folder: Path, size_kib: int) -> contextlib.AbstractContextManager[None]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(folder)]
    with contextlib.suppress(OSError):
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            stack = contextlib.ExitStack()
            stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)
            return stack
    pytest.skip("may not mount a tmpfs here")


def test_the_disk_gets_full(scenario, tmp_path):
    """The drain meets ENOSPC: the line says so, and the files that were closed before can be read."""
    with mounted(tmp_path / "disk", size_kib=2048):
        ended = cmd.run(scenario, tmp_path / "disk" / "runs", sets=("run.duration=1h", 'log.policy="all"'))
        assert ended.code == 4, ended.told()
        assert ended.lines[-1].startswith("HARNESS_ERROR small: ")
        assert "No space left on device" in ended.lines[-1]
        cmd.assert_valid(ended.folder)
        assert not list((ended.folder / "events").glob("*.part"))


def test_the_disk_is_full_from_the_start(scenario, tmp_path):
    """Not even the config fits: still one line, no traceback."""
    with mounted(tmp_path / "disk", size_kib=4):
        with contextlib.suppress(OSError):
            (tmp_path / "disk" / "ballast").write_bytes(bytes(1 << 16))
        ended = cmd.run(scenario, tmp_path / "disk" / "runs")
        assert (ended.code, ended.err) == (4, ""), ended.told()
        assert ended.lines[-1].startswith("HARNESS_ERROR")
        assert "No space left on device" in ended.lines[-1]


@pytest.mark.parametrize("name", ["drain", "parent"])
def test_a_write_is_refused(name, scenario, tmp_path):
    """Not ENOSPC but a limit on file size, in the drain or in the process that writes the control log."""
    with cmd.Running(scenario, tmp_path / "runs", sets=(*LONG, 'log.policy="all"')) as run:
        folder = run.until_first_access()
        pid = run.process.pid if name == "parent" else run.pids["drain"]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1024, 1024))
        ended = run.end(BOUND_S)
        assert ended.code == 4, ended.told()
        assert ended.lines[-1].startswith("HARNESS_ERROR small: ")
        assert "File too large" in ended.lines[-1]
        assert str(folder) in ended.lines[-1]
        cmd.assert_valid(folder)
        cmd.assert_gone(run.pids)


def test_too_little_memory(scenario, tmp_path):
    """The segment's pages are reserved before anything else: one line, and no folder."""
    refuse = (
        "import errno, os\n"
        "def refuse(fd, offset, length):\n"
        "    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        "os.posix_fallocate = refuse\n"
    )
    ended = cmd.run_with(refuse, scenario, tmp_path / "runs")
    assert (ended.code, len(ended.lines), ended.err) == (4, 1, ""), ended.told()
    assert ended.lines[0].startswith("HARNESS_ERROR small: shared memory: ")
    assert not (tmp_path / "runs").exists()


def test_no_memory_for_the_mapping(scenario, tmp_path):
    """The system itself refuses the segment."""
    limit = (1 << 20, 1 << 20)
    ended = cmd.run(scenario, tmp_path / "runs", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert (ended.code, len(ended.lines), ended.err) == (4, 1, ""), ended.told()
    assert "shared memory: " in ended.lines[0]
    assert not (tmp_path / "runs").exists()


def test_nothing_of_the_segment_is_left(scenario, tmp_path):
    """A program that calls the engine again and again keeps no segment of the runs before."""
    script = (
        "import gc\n"
        "from pathlib import Path\n"
        "from stress.config import load_config\n"
        "from stress.engine.run import run_scenario\n"
        f"config = load_config(Path({str(scenario)!r}), (), 1, '100ms')\n"
        f"print(run_scenario(config, Path({str(tmp_path / 'runs')!r})).verdict)\n"
        "gc.collect()\n"
        "assert 'memfd' not in Path('/proc/self/maps').read_text()\n"
        "assert not [fd for fd in Path('/proc/self/fd').iterdir() if fd.is_symlink() and 'memfd' in str(fd.readlink())]\n"
    )
    ended = subprocess.run(
        [cmd.sys.executable, "-c", script],
        env=cmd.environment(),
        capture_output=True,
        text=True,
        timeout=cmd.TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


# --- the compiler


@pytest.fixture
def compiling(scenario, tmp_path):
    """A run that has just begun to compile the model into an empty cache."""
    env = cmd.environment(XDG_CACHE_HOME=str(tmp_path / "cache"))
    with cmd.Running(scenario, tmp_path / "runs", env=env) as run:
        run.read_line()
        assert run.read_line().startswith("compiling the model")
        cmd.wait_for(run.children, "the compiler")
        run.pids = {"compiler": run.children()[0].pid}
        yield run
    cmd.assert_gone(run.pids)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_compiler_is_lost(number, compiling):
    """The helper that compiles is a process of the run like any other."""
    os.kill(compiling.pids["compiler"], number)
    ended = compiling.end(BOUND_S)
    assert ended.code == 4, ended.told()
    how = "was killed by SIGKILL" if number == signal.SIGKILL else "was stopped by a signal"
    assert f"compiler (pid {compiling.pids['compiler']}) {how}" in ended.lines[-1]
    assert ended.result["verdict"] == "HARNESS_ERROR"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_while_compiling(number, compiling):
    """Nothing was seen, so nothing is claimed."""
    os.killpg(compiling.process.pid, number)
    ended = compiling.end(BOUND_S)
    assert (ended.code, ended.err) == (3, ""), ended.told()
    name = signal.Signals(number).name
    assert ended.lines[-1].startswith(f"INCONCLUSIVE small: stopped by {name} before the first guest access")


def test_the_parent_is_killed_while_compiling(compiling):
    """The compiler does not go on alone."""
    compiling.process.kill()
    compiling.process.wait(BOUND_S)
    cmd.assert_gone(compiling.pids)


# --- hangs of the protocol

MMU_LOCK = "vm.mmu_lock.cnts[0] = 0xFF  # a writer that never was"
SLOTS_LOCK = "vm.slots_lock.ticket_next[0] = 1  # a ticket that nobody holds"
NOTIFIER = "vm.kvm.mmu_invalidate_in_progress[0] = 1  # an invalidation that never ends"


def sabotage(statement: str) -> str:
    """Python that changes the shared record after it was laid out and before anybody runs."""
    return (
        "from stress.engine import run as engine\n"
        "lay_out = engine.setup_vm\n"
        "def setup_vm(vm, settings):\n"
        "    lay_out(vm, settings)\n"
        f"    {statement}\n"
        "engine.setup_vm = setup_vm\n"
    )


def sabotaged(tmp_path: Path, statement: str) -> dict[str, str]:
    """An environment whose interpreters do that by themselves."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(sabotage(statement), encoding="utf-8")
    return cmd.environment(PYTHONPATH=f"{folder}{os.pathsep}{cmd.ROOT}")


def hung(statement: str, scenario: Path, tmp_path: Path, *sets: str) -> str:
    ended = cmd.run_with(sabotage(statement), scenario, tmp_path / "runs", sets=("run.duration=1h", DEADLOCK_IN_S, *sets))
    assert ended.code == 1, ended.told()
    assert ended.lines[-1].startswith("VIOLATION invariant [I25]: "), ended.told()
    (finding,) = ended.result["findings"]
    assert (finding["kind"], finding["invariant"]) == ("invariant", "I25")
    assert f"{finding['actor']} " in finding["detail"]
    cmd.assert_valid(ended.folder)
    cmd.assert_gone({line["actor"]: line["pid"] for line in cmd.control_of(ended.folder) if line["event"] == "process_start"})
    return finding["detail"]


def test_a_deadlock_is_a_violation(scenario, tmp_path):
    """Nobody gets mmu_lock: every actor's wait reason and locks are named."""
    detail = hung(MMU_LOCK, scenario, tmp_path)
    assert ": waits for mmu_lock." in detail or ": waits for actor.srcu_seq" in detail
    for actor in ("vcpu0", "vcpu1"):
        assert f"{actor} waits for mmu_lock." in detail
    # The controller waits for the readers of kvm->srcu, which wait for mmu_lock; or for that itself, past them before they fault.
    assert re.search(r"ctl waits for (actor\.srcu_seq|mmu_lock\.\w+), holding slots_lock", detail)


def test_a_controller_that_waits_for_ever(scenario, tmp_path):
    """The vCPUs run on; the controller alone hangs, and is named."""
    detail = hung(SLOTS_LOCK, scenario, tmp_path)
    assert "no progress for 1 s: waits for slots_lock.ticket_owner" in detail
    assert "ctl waits for slots_lock.ticket_owner" in detail


def test_a_livelock_is_a_violation(tmp_path):
    """Every fault is retried, again and again."""
    scenario = tmp_path / "static.toml"
    scenario.write_text("[vm]\nnr_vcpus = 2\n[[slots]]\nbase_gfn = 0\nnpages = 32\n", encoding="utf-8")
    assert "retries and no progress" in hung(NOTIFIER, scenario, tmp_path)


def test_a_busy_machine_is_no_hang(scenario, tmp_path):
    """Twice as many processes as cores want the CPU all the time, and hang_s is short: no finding."""
    assert cmd.run(scenario, tmp_path / "runs", sets=("run.duration=100ms", *cmd.NOISE)).code == 0  # compiled by now
    hogs = [subprocess.Popen([cmd.sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        ended = cmd.run(scenario, tmp_path / "runs", sets=("run.duration=3s", "vm.nr_vcpus=8", "run.hang_s=1", *cmd.NOISE))
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    assert ended.code == 0, ended.told()
