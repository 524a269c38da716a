# SPDX-License-Identifier: GPL-2.0-only
"""Scripts: what an actor does, item by item, where accesses and operations are not drawn. Explored scenarios are made of these.

    vCPU        gfn << 1 | write: one guest access; SCRIPT_EXIT: leave the guest; SCRIPT_HALT: leave it and block for a while
    ctl         change << 8 | slot: one memslot operation, change being KVM_MR_CREATE, KVM_MR_DELETE or KVM_MR_MOVE
    toggler     0: change the quirk

An actor's script lies in `vm.script[actor]`; only the actor moves its place in it.
"""

from __future__ import annotations

from model.constants import SCRIPT_HALT
from model.jit import kernel
from model.layout import Vm

__all__ = ["next_in_script", "script_halts", "script_is_over"]


@kernel
def script_is_over(vm: Vm, me: int) -> bool:
    """Has this actor done all of its items?"""
    return vm.actor.script_next[me] >= vm.script_length[me]


@kernel
def next_in_script(vm: Vm, me: int) -> int:
    """The next item, which is taken, or -1 at the end; SCRIPT_HALT stays, for script_halts()."""
    if script_is_over(vm, me):
        return -1
    item = vm.script[me, vm.actor.script_next[me]]
    if item != SCRIPT_HALT:
        vm.actor.script_next[me] += 1
    return item


@kernel
def script_halts(vm: Vm, me: int) -> bool:
    """Is the next item a halt? It is taken."""
    if script_is_over(vm, me) or vm.script[me, vm.actor.script_next[me]] != SCRIPT_HALT:
        return False
    vm.actor.script_next[me] += 1
    return True
