# SPDX-License-Identifier: GPL-2.0-only
"""Between fork and exit: the gate, the tie to the parent, and the context that compiled primitives read."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from model import context as ctx
from model.layout import ACTOR_CTL, VM, empty_vm, views
from stress.config import Perturb
from stress.engine.process import FieldTable, bind_context

from . import command as cmd


@pytest.fixture
def record(monkeypatch):
    """A record; what a test binds in the context is undone."""
    before = ctx.context.copy()
    yield empty_vm()
    ctx.context[:] = before


def test_every_word_has_the_name_of_its_field():
    """Rows, groups and arrays: a byte offset of the record leads back to the field."""
    fields = FieldTable()
    vm_record = np.zeros((1,), VM)
    vm, base = views(vm_record), vm_record.ctypes.data
    words = {
        "mmu_lock.cnts": vm.mmu_lock.cnts[0:1],
        "slots_lock.ticket_owner": vm.slots_lock.ticket_owner[0:1],
        "actor.ipi_acked": vm.actor.ipi_acked[63:64],
        "vcpu.mode": vm.vcpu.mode[5:6],
        "run.destroyed": vm.run.destroyed[0:1],
        "sp.refcount": vm.sp.refcount[8191:8192],
        "pt": vm.pt[8191, 511:512],
        "frame_tag": vm.frame_tag[0:1],
        "tlb_spte": vm.tlb_spte[63, 0:1],
        "ring": vm.ring[0, 0, 0:1],
    }
    assert {fields.field_of(word.ctypes.data - base) for word in words.values()} == set(words)
    for name, word in words.items():
        assert fields.field_of(word.ctypes.data - base) == name


def test_the_context_points_at_the_actors_own_words(record):
    """wait_word, need_resched and the site counters are those of the actor that is bound."""
    vm = views(record)
    fields = FieldTable()
    bind_context(record, fields, ACTOR_CTL, Perturb(), seed=1)
    assert ctx.context[ctx.CTX_BASE] == record.ctypes.data
    assert ctx.context[ctx.CTX_WAIT] == vm.actor.wait_word[ACTOR_CTL:].ctypes.data
    assert ctx.context[ctx.CTX_NEED_RESCHED] == vm.actor.need_resched[ACTOR_CTL:].ctypes.data
    assert ctx.context[ctx.CTX_SITES] == vm.site[ACTOR_CTL].ctypes.data
    assert ctx.context[ctx.CTX_PERIOD] == 0


@pytest.mark.parametrize("probability", [1.0, 0.5, 0.1, 0.0005, 1e-9])
def test_the_mean_distance_of_disturbances(probability, record):
    """A uniform draw from 1 to the period has the mean that was asked for, and the countdown begins inside it."""
    bind_context(record, FieldTable(), 0, Perturb(probability=probability), seed=1)
    period = int(ctx.context[ctx.CTX_PERIOD])
    assert (period + 1) / 2 == pytest.approx(1 / probability, rel=0.26)
    assert 1 <= ctx.context[ctx.CTX_COUNTDOWN] <= period


def test_actors_draw_apart(record):
    """Each actor has its own stream, decided by the run's seed alone."""

    def state(actor, seed):
        bind_context(record, FieldTable(), actor, Perturb(probability=0.1), seed)
        return int(ctx.context[ctx.CTX_RNG])

    assert len({state(actor, seed) for actor in range(67) for seed in range(5)}) == 67 * 5
    assert state(3, 4) == state(3, 4)


def child(main: str) -> subprocess.CompletedProcess:
    """A parent that forks one child which plays `main`, and prints how it ended."""
    script = (
        "import os, signal, sys\n"
        "from stress.engine.process import enter_child, run_child\n"
        "me, gate = os.getpid(), os.pipe()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        f"    {main}\n"
        "    os._exit(0)\n"
        "os.close(gate[0])\n"
        "print('open', flush=True)\n"
        "os.close(gate[1])\n"
        "print('ended', os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script], env=cmd.environment(), capture_output=True, text=True, timeout=cmd.TIMEOUT_S, check=False
    )


def test_the_gate_holds_until_it_is_opened():
    """Nobody begins before the parent has forked all: it opens the gate by closing its end."""
    ended = child("run_child(me, gate, lambda: os.write(1, b'plays\\n'))")
    assert ended.stdout.splitlines() == ["open", "plays", "ended 0"], ended.stderr


def test_a_child_whose_parent_is_gone_already():
    """The tie to the parent comes too late for it: the child ends by itself."""
    assert child("enter_child(1)").stdout.splitlines()[-1] == "ended 1"


def test_a_child_leaves_signals_to_its_parent():
    """Ctrl-C and SIGTERM reach the whole group; only the parent acts on them."""
    ended = child("enter_child(me); os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGTERM)")
    assert ended.stdout.splitlines()[-1] == "ended 0", ended.stderr


def test_a_child_dies_with_its_parent(tmp_path):
    """SIGKILL of the parent while the child plays its part."""
    script = (
        "import os, signal\n"
        "from stress.engine.process import run_child\n"
        "me, gate = os.getpid(), os.pipe()\n"
        "ready = os.pipe()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    run_child(me, gate, lambda: (os.write(ready[1], b'x'), signal.pause()))\n"
        "os.close(gate[1])\n"
        "os.read(ready[0], 1)\n"
        "print(pid, flush=True)\n"
        "os.kill(me, signal.SIGKILL)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], env=cmd.environment(), stdout=subprocess.PIPE, text=True, timeout=cmd.TIMEOUT_S, check=False
    )
    assert process.returncode == -9
    cmd.assert_gone({"child": int(process.stdout)})
