# SPDX-License-Identifier: GPL-2.0-only
"""Every actor of a run by its id, in one entry point: the native engine compiles it once."""

from __future__ import annotations

from model.constants import PHASE_KILLED
from model.jit import entry, kernel
from model.layout import ACTOR_CTL, ACTOR_RCU, MAX_ACTORS, MAX_VCPUS, Vm
from model.rcu import rcu_thread
from model.trace import now
from model.userspace import controller_main, controller_taken_over, toggler_main
from model.vcpu import vcpu_main, vcpu_taken_over

__all__ = ["actor_main", "read_clock", "run_actor"]


@kernel
def actor_main(vm: Vm, me: int) -> None:
    """Play actor `me` from its start to its end, or from where its thread was killed."""
    if not 0 <= me < MAX_ACTORS:
        # Never; but knowing it, the compiler drops the wrap-around of negative indices everywhere below.
        return
    killed = vm.actor.phase[me] == PHASE_KILLED
    if me < MAX_VCPUS:
        if killed:
            vcpu_taken_over(vm, me)
        else:
            vcpu_main(vm, me)
    elif me == ACTOR_CTL:
        if killed:
            controller_taken_over(vm, me)
        else:
            controller_main(vm, me)
    elif me == ACTOR_RCU:
        rcu_thread(vm, me)
    else:
        toggler_main(vm, me)


@entry
def run_actor(vm: Vm, me: int) -> None:
    """The compiled form of actor_main()."""
    actor_main(vm, me)


@entry
def read_clock() -> int:
    """The compiled clock, for calibration: see model/trace.py:now()."""
    return now()
