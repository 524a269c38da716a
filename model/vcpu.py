# SPDX-License-Identifier: GPL-2.0-only
"""A vCPU: the entry sequence of vcpu_enter_guest() (arch/x86/kvm/x86.c) and the guest that runs behind it.

kvm->srcu is held all the time except in guest mode and while the vCPU is blocked. Interrupts are off from before mode :=
IN_GUEST_MODE until after mode := OUTSIDE_GUEST_MODE; an IPI that arrives in between makes the guest exit and is acknowledged
once they are on again.
"""

from __future__ import annotations

from model.atomics import atomic_add, attempt, load, load_acquire, nap_us, retry_pause, smp_mb, smp_wmb, store, store_release
from model.constants import (
    C_ACKS_IN_GUEST,
    C_CANCELLED_ENTRIES,
    C_GUEST_ACCESSES,
    C_GUEST_ENTRIES,
    C_HALTS,
    C_TLB_FILLS,
    C_TLB_HITS,
    EV_HALT,
    EV_KVM_ENTRY,
    EV_KVM_EXIT,
    EV_VCPU_DESTROY,
    EXIT_CANCELLED,
    EXIT_FAULT,
    EXIT_IPI,
    EXIT_SIGNAL,
    EXIT_VOLUNTARY,
    EXITING_GUEST_MODE,
    IN_GUEST_MODE,
    INVARIANT,
    KVM_REQ_MMU_FREE_OBSOLETE_ROOTS,
    KVM_REQ_TLB_FLUSH,
    OUTSIDE_GUEST_MODE,
    PHASE_DONE,
    PHASE_RUNNING,
    RET_PF_EMULATE,
    RET_PF_RETRY,
)
from model.finding import report
from model.jit import kernel
from model.layout import Vm
from model.mmu import kvm_mmu_free_obsolete_roots, kvm_mmu_page_fault, kvm_mmu_reload, kvm_mmu_unload
from model.mutations import NO_ENTRY_BARRIER, planted
from model.oracle import guest_touch
from model.pages import drain_memory_caches
from model.rcu import srcu_read_lock, srcu_read_unlock
from model.requests import kvm_check_request, kvm_request_pending
from model.rng import rng_bits, rng_next
from model.script import next_in_script, script_halts, script_is_over
from model.tlb import hw_walk, kvm_flush_tlb_all, tlb_lookup
from model.trace import trace
from model.wait import ack_ipis, ipi_pending, wait_while

__all__ = ["guest_access", "guest_run", "vcpu_enter_guest", "vcpu_main", "vcpu_run", "vcpu_taken_over"]

DETAIL_ENTRY_WITHOUT_FLUSH = 90

# The guest's own timer: one retried access in so many is given up for another one.
_RETRY_GIVE_UP = 1 << 30
# Accesses between two looks at whether the run is over, a power of two less one.
_LONG_STAY_MASK = 4095
# Outside the guest, between two looks for IPIs.
_NAP_US = 100


@kernel
def guest_access(vm: Vm, me: int, root: int, gfn: int, write: bool) -> bool:
    """One guest instruction that touches memory: TLB or walk, fill, touch.

    Returns:
        False on an EPT violation, before anything was touched.

    Context: guest mode, interrupts off: no acknowledgement happens inside.
    """
    spte = tlb_lookup(vm, me, root, gfn, write)
    hit = spte != 0
    if hit:
        vm.counter[me, C_TLB_HITS] += 1
    else:
        spte = hw_walk(vm, me, root, gfn, write)
        if spte == 0:
            return False
        vm.counter[me, C_TLB_FILLS] += 1
    vm.counter[me, C_GUEST_ACCESSES] += 1
    guest_touch(vm, me, gfn, root, spte, write, hit)
    return True


@kernel
def guest_run(vm: Vm, me: int) -> int:
    """Run guest instructions until an IPI, an EPT violation or the guest's own wish to leave.

    Returns:
        EXIT_IPI, EXIT_FAULT (the access is in vcpu.retry_gfn and vcpu.retry_write) or EXIT_VOLUNTARY.
    """
    root = vm.vcpu.root_hpa[me]
    rng = vm.actor.rng[me]
    gfn = vm.vcpu.retry_gfn[me]
    write = vm.vcpu.retry_write[me] != 0
    left = vm.cfg.accesses_per_entry_max[0]
    counted = left
    reason = EXIT_VOLUNTARY
    while left > 0:
        if ipi_pending(vm, me):
            reason = EXIT_IPI
            break
        if gfn < 0 and vm.cfg.scripted[0] != 0:
            step = next_in_script(vm, me)
            if step < 0:
                # The guest's own wish to leave, or the end of its script.
                break
            gfn = step >> 1
            write = step & 1 != 0
        elif gfn < 0:
            rng = rng_next(rng)
            chosen = rng_bits(rng)
            write = chosen < vm.cfg.write_threshold[0]
            rng = rng_next(rng)
            if rng_bits(rng) < vm.cfg.hole_threshold[0]:
                gfn = vm.cfg.hole_gfn[0]
            else:
                rng = rng_next(rng)
                which = (rng_bits(rng) * vm.cfg.nr_ranges[0]) >> 32
                rng = rng_next(rng)
                gfn = vm.range.base_gfn[which] + ((rng_bits(rng) * vm.range.npages[which]) >> 32)
        if not guest_access(vm, me, root, gfn, write):
            reason = EXIT_FAULT
            break
        gfn = -1
        left -= 1
        if left & _LONG_STAY_MASK == 0:
            # A long stay shows that it goes on, and ends with the run.
            vm.vcpu.accesses[me] += counted - left
            vm.actor.progress[me] += 1
            counted = left
            if load_acquire(vm.run.stop, 0) != 0:
                break
    vm.actor.rng[me] = rng
    vm.vcpu.retry_gfn[me] = gfn
    vm.vcpu.retry_write[me] = 1 if write else 0
    if left < counted:
        vm.vcpu.accesses[me] += counted - left
        vm.actor.progress[me] += 1
    return reason


@kernel
def _kvm_vcpu_exit_request(vm: Vm, me: int) -> bool:
    return load(vm.vcpu.mode, me) == EXITING_GUEST_MODE or kvm_request_pending(vm, me)


@kernel
def _vcpu_exit_guest(vm: Vm, me: int, root: int, reason: int) -> None:
    """The second part of vcpu_enter_guest(): out of the guest, and back under kvm->srcu."""
    trace(vm, me, EV_KVM_EXIT, vm.vcpu.retry_gfn[me], root, -1, -1, reason, -1)
    store_release(vm.vcpu.in_guest, me, 0)
    # A VM exit serialises: a sender that sees us outside must not meet an access of ours that is still on its way.
    store_release(vm.vcpu.mode, me, OUTSIDE_GUEST_MODE)
    smp_wmb()
    # Interrupts on: what is pending is acknowledged now.
    if reason == EXIT_IPI:
        vm.counter[me, C_ACKS_IN_GUEST] += 1
    ack_ipis(vm, me)
    srcu_read_lock(vm, me)


@kernel
def vcpu_enter_guest(vm: Vm, me: int) -> int:
    """Serve requests, make sure of a root, enter the guest unless somebody asks otherwise, come back.

    Returns:
        Why the guest left, or EXIT_CANCELLED if it was not entered.

    Context: kvm->srcu held on entry and on return, dropped in between.

    Source: vcpu_enter_guest(), arch/x86/kvm/x86.c.
    """
    ack_ipis(vm, me)
    # 1. Requests; obsolete roots before the TLB.
    if kvm_request_pending(vm, me):
        if kvm_check_request(vm, me, KVM_REQ_MMU_FREE_OBSOLETE_ROOTS):
            kvm_mmu_free_obsolete_roots(vm, me)
        if kvm_check_request(vm, me, KVM_REQ_TLB_FLUSH):
            kvm_flush_tlb_all(vm, me)
    # 2. A root, freshly flushed if it is a new one.
    kvm_mmu_reload(vm, me)
    # 3, 4. Interrupts off from here. Pairs with the cmpxchg of the mode in kvm_make_all_cpus_request().
    store_release(vm.vcpu.mode, me, IN_GUEST_MODE)
    srcu_read_unlock(vm, me)
    # Between the mode and the requests: either the sender sees us in the guest, or we see its request.
    # Deliberate bug (no-entry-barrier): the mode may still be in the store buffer when the requests are read.
    if not planted(vm, NO_ENTRY_BARRIER):
        smp_mb()
    # 5. The last check.
    if _kvm_vcpu_exit_request(vm, me):
        store(vm.vcpu.mode, me, OUTSIDE_GUEST_MODE)
        smp_wmb()
        ack_ipis(vm, me)
        srcu_read_lock(vm, me)
        vm.counter[me, C_CANCELLED_ENTRIES] += 1
        trace(vm, me, EV_KVM_EXIT, -1, vm.vcpu.root_hpa[me], -1, -1, EXIT_CANCELLED, -1)
        return EXIT_CANCELLED
    # In guest means from here on, not from the mode on: until here the entry could be cancelled.
    vm.vcpu.entry_seq[me] += 1
    # Release: who sees us in the guest sees which entry it is.
    store_release(vm.vcpu.in_guest, me, 1)
    root = vm.vcpu.root_hpa[me]
    if vm.cfg.check_level[0] > 0 and vm.vcpu.flushed[me] != root:
        report(vm, me, INVARIANT, 21, -1, -1, -1, root, -1, DETAIL_ENTRY_WITHOUT_FLUSH, vm.vcpu.flushed[me])
    vm.counter[me, C_GUEST_ENTRIES] += 1
    trace(vm, me, EV_KVM_ENTRY, -1, root, -1, -1, vm.vcpu.entry_seq[me], -1)
    # 6. The guest.
    reason = guest_run(vm, me)
    _vcpu_exit_guest(vm, me, root, reason)
    return reason


@kernel
def _handle_ept_violation(vm: Vm, me: int) -> bool:
    """Returns False if the fault must be retried."""
    result = kvm_mmu_page_fault(vm, me, vm.vcpu.retry_gfn[me], vm.vcpu.retry_write[me] != 0)
    if result == RET_PF_EMULATE:
        # MMIO: userspace emulates the access, the guest goes on behind it.
        vm.vcpu.retry_gfn[me] = -1
        vm.actor.progress[me] += 1
    elif result == RET_PF_RETRY:
        vm.actor.retries[me] += 1
        if vm.cfg.scripted[0] == 0:
            rng = rng_next(vm.actor.rng[me])
            vm.actor.rng[me] = rng
            if rng_bits(rng) < _RETRY_GIVE_UP:
                # The guest's timer interrupt came first; another task runs.
                vm.vcpu.retry_gfn[me] = -1
        return False
    else:
        vm.actor.progress[me] += 1
    return True


@kernel
def _kvm_vcpu_halt(vm: Vm, me: int) -> None:
    """Block outside the guest, root kept, kvm->srcu dropped; a request with NO_WAKEUP leaves the vCPU asleep."""
    rng = rng_next(vm.actor.rng[me])
    vm.actor.rng[me] = rng
    duration_us = 1 + ((rng_bits(rng) * vm.cfg.halt_us_max[0]) >> 32)
    vm.counter[me, C_HALTS] += 1
    trace(vm, me, EV_HALT, -1, vm.vcpu.root_hpa[me], -1, -1, duration_us, -1)
    srcu_read_unlock(vm, me)
    while duration_us > 0:
        nap_us(min(duration_us, _NAP_US))
        duration_us -= _NAP_US
        # Asleep, but with interrupts on.
        ack_ipis(vm, me)
    srcu_read_lock(vm, me)


@kernel
def _goes_on(vm: Vm, me: int, entries: int) -> bool:
    if vm.cfg.scripted[0] != 0:
        # An access that faulted is made before the script counts as over.
        return vm.vcpu.retry_gfn[me] >= 0 or not script_is_over(vm, me)
    return vm.cfg.entries_max[0] == 0 or entries < vm.cfg.entries_max[0]


@kernel
def vcpu_run(vm: Vm, me: int) -> None:
    """KVM_RUN, again and again, until the run stops or the vCPU has done its part.

    Context: kvm->srcu held on entry and on return.
    """
    entries = 0
    while load_acquire(vm.run.stop, 0) == 0 and _goes_on(vm, me, entries):
        attempt()
        reason = vcpu_enter_guest(vm, me)
        entries += 1
        if reason == EXIT_FAULT and not _handle_ept_violation(vm, me):
            # RET_PF_RETRY: leave kvm->srcu, or the memslot update that we wait for waits for us.
            srcu_read_unlock(vm, me)
            retry_pause()
            srcu_read_lock(vm, me)
        if vm.cfg.halt_threshold[0] != 0:
            rng = rng_next(vm.actor.rng[me])
            vm.actor.rng[me] = rng
            if rng_bits(rng) < vm.cfg.halt_threshold[0]:
                _kvm_vcpu_halt(vm, me)
        elif vm.cfg.scripted[0] != 0 and script_halts(vm, me):
            _kvm_vcpu_halt(vm, me)


@kernel
def vcpu_main(vm: Vm, me: int) -> None:
    """A vCPU from its first KVM_RUN until the run stops, then its destruction."""
    store(vm.actor.phase, me, PHASE_RUNNING)
    vm.vcpu.retry_gfn[me] = -1
    _vcpu_thread(vm, me)


@kernel
def vcpu_taken_over(vm: Vm, me: int) -> None:
    """A vCPU whose thread was killed in the guest: the end of that thread, then KVM_RUN from another one.

    SIGKILL kicks the vCPU out of the guest, KVM_RUN returns -EINTR and the thread is gone. The vCPU is not: userspace has its file
    open, so it keeps its root, the reference on it, and its requests, which are served before it enters again.

    Context: the record as the thread left it in guest mode, no lock held, no other thread in this vCPU.
    """
    store(vm.actor.phase, me, PHASE_RUNNING)
    # The thread that was killed.
    _vcpu_exit_guest(vm, me, vm.vcpu.root_hpa[me], EXIT_SIGNAL)
    srcu_read_unlock(vm, me)
    # Nobody runs the vCPU, but the CPU that it was on still takes the IPIs that were meant for it.
    dead_us = vm.actor.dead_us[me]
    while dead_us > 0 and load_acquire(vm.run.stop, 0) == 0:
        nap_us(min(dead_us, _NAP_US))
        dead_us -= _NAP_US
        ack_ipis(vm, me)
    # vcpu_load() by another thread on another CPU flushes what that CPU may hold of this vCPU: vmx_vcpu_load_vmcs(). The guest
    # instruction that the kill cut off is made again as a whole, not from a half-filled TLB.
    kvm_flush_tlb_all(vm, me)
    _vcpu_thread(vm, me)


@kernel
def _vcpu_thread(vm: Vm, me: int) -> None:
    """KVM_RUN until the run stops, then the vCPU's destruction."""
    srcu_read_lock(vm, me)
    vcpu_run(vm, me)
    kvm_mmu_unload(vm, me)
    srcu_read_unlock(vm, me)
    drain_memory_caches(vm, me)
    trace(vm, me, EV_VCPU_DESTROY, -1, -1, -1, -1, -1, -1)
    vm.actor.progress[me] += 1
    atomic_add(vm.run.vcpus_running, 0, -1)
    # A kick may still be on its way: keep acknowledging until the VM is gone.
    wait_while(vm, me, vm.run.destroyed, 0, 0)
    store(vm.actor.phase, me, PHASE_DONE)
