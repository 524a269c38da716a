// SPDX-License-Identifier: GPL-2.0-only
/*
 * A C11 twin of the model's hot paths: a guest access through the TLB, a page fault, the zap of a leaf.
 *
 * It works on the very record that the model works on: layout.h holds its struct and the model's constants. Every function follows the
 * model's function of the same name: same loads and stores with the same memory orders, same checks, counters and log records.
 * What a benchmark never reaches (a finding, a lock that is contended, a full ring) is one call of die().
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#include "layout.h"

typedef _Atomic int64_t word;

#define LOAD(p) atomic_load_explicit((word *)&(p), memory_order_relaxed)
#define LOAD_ACQUIRE(p) atomic_load_explicit((word *)&(p), memory_order_acquire)
#define STORE(p, v) atomic_store_explicit((word *)&(p), (v), memory_order_relaxed)
#define STORE_RELEASE(p, v) atomic_store_explicit((word *)&(p), (v), memory_order_release)
#define FETCH_ADD(p, v) atomic_fetch_add((word *)&(p), (v))
#define SMP_MB() atomic_thread_fence(memory_order_seq_cst)
#define SMP_RMB() atomic_thread_fence(memory_order_acq_rel)

static int64_t cmpxchg(int64_t *p, int64_t old, int64_t new)
{
	atomic_compare_exchange_strong((word *)p, &old, new);
	return old;
}

#define ROOT_SHIFT 40
#define LONG_STAY_MASK 4095

static _Noreturn void die(void)
{
	abort();
}

/* --- log */

static int64_t now(void)
{
#if defined(__x86_64__)
	return (int64_t)__rdtsc();
#else
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
#endif
}

static void trace(struct vm *vm, int64_t me, int64_t kind, int64_t gfn, int64_t root, int64_t pfn, int64_t incarnation,
		  int64_t arg0, int64_t arg1)
{
	int64_t head = vm->actor[me].ring_head;
	int64_t slots = vm->cfg[0].ring_slots;
	int64_t *record;

	if (vm->cfg[0].log_policy == LOG_WINDOW) {
		if (LOAD(vm->run[0].frozen))
			return;
	} else if (head - LOAD_ACQUIRE(vm->actor[me].ring_tail) >= slots) {
		die();
	}
	record = vm->ring[me][head & (slots - 1)];
	record[0] = now();
	record[1] = kind;
	record[2] = gfn;
	record[3] = root;
	record[4] = pfn;
	record[5] = incarnation;
	record[6] = arg0;
	record[7] = arg1;
	STORE_RELEASE(vm->actor[me].ring_head, head + 1);
}

static void trace_access(struct vm *vm, int64_t me, int64_t kind, int64_t gfn, int64_t root, int64_t pfn, int64_t incarnation,
			 int64_t arg0, int64_t arg1)
{
	if (vm->cfg[0].log_policy == LOG_SAMPLED) {
		if (--vm->actor[me].sample > 0)
			return;
		vm->actor[me].sample = vm->cfg[0].log_sample;
	}
	trace(vm, me, kind, gfn, root, pfn, incarnation, arg0, arg1);
}

/* --- SPTEs */

static bool is_present(int64_t spte)
{
	return spte & SPTE_PRESENT;
}

static int64_t spte_to_pfn(int64_t spte)
{
	return (spte >> PFN_SHIFT) & PFN_MASK;
}

static int64_t spte_to_child_pt(int64_t spte)
{
	return (spte & (SPTE_PRESENT | SPTE_LEAF)) == SPTE_PRESENT ? spte_to_pfn(spte) : 0;
}

static int64_t pages_per_hpage(struct vm *vm, int64_t level)
{
	return INT64_C(1) << ((level - 1) * vm->cfg[0].bits_per_level);
}

static int64_t spte_index(struct vm *vm, int64_t gfn, int64_t level)
{
	int64_t bits = vm->cfg[0].bits_per_level;

	return (gfn >> ((level - 1) * bits)) & ((INT64_C(1) << bits) - 1);
}

/* --- the guest */

static int64_t rng_next(int64_t state)
{
	return (state & INT64_C(0xFFFFFFFF)) * 1791398085 + (state >> 32);
}

static int64_t rng_bits(int64_t state)
{
	return state & INT64_C(0xFFFFFFFF);
}

static bool retired(struct vm *vm, int64_t incarnation)
{
	return LOAD(vm->live[incarnation & (MAX_PLACES - 1)].incarnation) != incarnation;
}

static void guest_touch(struct vm *vm, int64_t me, int64_t gfn, int64_t root, int64_t spte, bool write, bool hit)
{
	int64_t pfn = spte_to_pfn(spte);
	int64_t incarnation = spte >> INCARNATION_SHIFT;
	bool gone = retired(vm, incarnation);
	int64_t tag = LOAD(vm->frame_tag[pfn]);

	if (gone || tag != vm->live[incarnation & (MAX_PLACES - 1)].backing)
		die();
	trace_access(vm, me, EV_GUEST_ACCESS, gfn, root, pfn, incarnation, tag, write | gone << 1 | hit << 2);
}

static int64_t tlb_lookup(struct vm *vm, int64_t me, int64_t root, int64_t gfn, bool write)
{
	int64_t entry = gfn & vm->cfg[0].tlb_mask;
	int64_t spte;

	if (vm->tlb_key[me][entry] != (root << ROOT_SHIFT | gfn))
		return 0;
	spte = vm->tlb_spte[me][entry];
	return write && !(spte & SPTE_DIRTY) ? 0 : spte;
}

static int64_t hw_walk(struct vm *vm, int64_t me, int64_t root, int64_t gfn, bool write)
{
	for (;;) {
		int64_t table = root, level = vm->cfg[0].levels, marked, entry;
		int64_t spte = LOAD(vm->pt[table][spte_index(vm, gfn, level)]);

		while (level > 1) {
			table = spte_to_child_pt(spte);
			if (!table)
				return 0;
			level--;
			spte = LOAD(vm->pt[table][spte_index(vm, gfn, level)]);
		}
		if (vm->cfg[0].check_level > 0 && vm->sp[table].state == SP_FREE)
			die();
		if (!is_present(spte) || !(spte & SPTE_LEAF))
			return 0;
		marked = spte | SPTE_ACCESSED | (write ? SPTE_DIRTY : 0);
		if (marked != spte && cmpxchg(&vm->pt[table][spte_index(vm, gfn, 1)], spte, marked) != spte)
			continue;
		entry = gfn & vm->cfg[0].tlb_mask;
		vm->tlb_key[me][entry] = root << ROOT_SHIFT | gfn;
		vm->tlb_spte[me][entry] = marked;
		trace_access(vm, me, EV_TLB_FILL, gfn, root, spte_to_pfn(marked), marked >> INCARNATION_SHIFT, marked, -1);
		return marked;
	}
}

static bool guest_access(struct vm *vm, int64_t me, int64_t root, int64_t gfn, bool write)
{
	int64_t spte = tlb_lookup(vm, me, root, gfn, write);
	bool hit = spte != 0;

	if (hit) {
		vm->counter[me][C_TLB_HITS]++;
	} else {
		spte = hw_walk(vm, me, root, gfn, write);
		if (!spte)
			return false;
		vm->counter[me][C_TLB_FILLS]++;
	}
	vm->counter[me][C_GUEST_ACCESSES]++;
	guest_touch(vm, me, gfn, root, spte, write, hit);
	return true;
}

static int64_t guest_run(struct vm *vm, int64_t me)
{
	int64_t root = vm->vcpu[me].root_hpa;
	int64_t rng = vm->actor[me].rng;
	int64_t gfn = vm->vcpu[me].retry_gfn;
	bool write = vm->vcpu[me].retry_write;
	int64_t left = vm->cfg[0].accesses_per_entry_max;
	int64_t counted = left;
	int64_t reason = EXIT_VOLUNTARY;

	while (left > 0) {
		if (LOAD_ACQUIRE(vm->actor[me].ipi_sent) != vm->actor[me].ipi_acked) {
			reason = EXIT_IPI;
			break;
		}
		if (gfn < 0) {
			rng = rng_next(rng);
			write = rng_bits(rng) < vm->cfg[0].write_threshold;
			rng = rng_next(rng);
			if (rng_bits(rng) < vm->cfg[0].hole_threshold) {
				gfn = vm->cfg[0].hole_gfn;
			} else {
				int64_t which;

				rng = rng_next(rng);
				which = (rng_bits(rng) * vm->cfg[0].nr_ranges) >> 32;
				rng = rng_next(rng);
				gfn = vm->range[which].base_gfn + ((rng_bits(rng) * vm->range[which].npages) >> 32);
			}
		}
		if (!guest_access(vm, me, root, gfn, write)) {
			reason = EXIT_FAULT;
			break;
		}
		gfn = -1;
		left--;
		if (!(left & LONG_STAY_MASK)) {
			vm->vcpu[me].accesses += counted - left;
			vm->actor[me].progress++;
			counted = left;
			if (LOAD_ACQUIRE(vm->run[0].stop))
				break;
		}
	}
	vm->actor[me].rng = rng;
	vm->vcpu[me].retry_gfn = gfn;
	vm->vcpu[me].retry_write = write;
	if (left < counted) {
		vm->vcpu[me].accesses += counted - left;
		vm->actor[me].progress++;
	}
	return reason;
}

/* --- locks; uncontended, or die */

static void lockdep_acquire(struct vm *vm, int64_t me, int64_t lock_id)
{
	int64_t inner = vm->actor[me].held >> lock_id;

	if (lock_id >= LOCK_MMU_READ && lock_id <= LOCK_MMU_WRITE)
		inner = vm->actor[me].held >> LOCK_MMU_READ;
	if (inner)
		die();
	vm->actor[me].held |= INT64_C(1) << lock_id;
}

static void lockdep_release(struct vm *vm, int64_t me, int64_t lock_id)
{
	if (!(vm->actor[me].held & INT64_C(1) << lock_id))
		die();
	vm->actor[me].held &= ~(INT64_C(1) << lock_id);
}

static void lockdep_assert_held(struct vm *vm, int64_t me, int64_t lock_id)
{
	if (!(vm->actor[me].held & INT64_C(1) << lock_id))
		die();
}

static void read_lock(struct vm *vm, int64_t me)
{
	lockdep_acquire(vm, me, LOCK_MMU_READ);
	if (FETCH_ADD(vm->mmu_lock[0].cnts, QR_BIAS) & (QW_LOCKED | QW_WAITING))
		die();
	trace(vm, me, EV_LOCK_ACQUIRE, -1, -1, -1, -1, LOCK_MMU_READ, 0);
}

static void read_unlock(struct vm *vm, int64_t me)
{
	trace(vm, me, EV_LOCK_RELEASE, -1, -1, -1, -1, LOCK_MMU_READ, 0);
	lockdep_release(vm, me, LOCK_MMU_READ);
	FETCH_ADD(vm->mmu_lock[0].cnts, -QR_BIAS);
}

static void rcu_read_lock(struct vm *vm, int64_t me)
{
	lockdep_acquire(vm, me, LOCK_RCU);
	STORE(vm->actor[me].rcu_seq, vm->actor[me].rcu_seq + 1);
	SMP_MB();
}

static void rcu_read_unlock(struct vm *vm, int64_t me)
{
	SMP_MB();
	STORE(vm->actor[me].rcu_seq, vm->actor[me].rcu_seq + 1);
	lockdep_release(vm, me, LOCK_RCU);
}

static void spin_lock(struct vm *vm, int64_t me)
{
	lockdep_acquire(vm, me, LOCK_POOL);
	if (FETCH_ADD(vm->pool_lock[0].ticket_next, 1) != LOAD_ACQUIRE(vm->pool_lock[0].ticket_owner))
		die();
	STORE(vm->pool_lock[0].owner, me + 1);
	trace(vm, me, EV_LOCK_ACQUIRE, -1, -1, -1, -1, LOCK_POOL, 2);
}

static void spin_unlock(struct vm *vm, int64_t me)
{
	trace(vm, me, EV_LOCK_RELEASE, -1, -1, -1, -1, LOCK_POOL, 2);
	STORE(vm->pool_lock[0].owner, 0);
	lockdep_release(vm, me, LOCK_POOL);
	STORE_RELEASE(vm->pool_lock[0].ticket_owner, vm->pool_lock[0].ticket_owner + 1);
}

/* --- page tables */

static int64_t alloc_page(struct vm *vm, int64_t me)
{
	int64_t page;

	spin_lock(vm, me);
	page = vm->pool[0].head;
	if (!page)
		die();
	vm->pool[0].head = vm->sp[page].next;
	STORE(vm->pool[0].nr_free, vm->pool[0].nr_free - 1);
	vm->sp[page].state = SP_CACHED;
	spin_unlock(vm, me);
	for (int64_t index = 0; index < INT64_C(1) << vm->cfg[0].bits_per_level; index++)
		vm->pt[page][index] = 0;
	vm->sp[page].role_invalid = 0;
	vm->sp[page].scheduled_to_zap = 0;
	vm->sp[page].zapping = 0;
	vm->sp[page].refcount = 0;
	vm->sp[page].link_next = 0;
	vm->counter[me][C_PAGES_ALLOCATED]++;
	trace(vm, me, EV_KVM_MMU_GET_PAGE, -1, page, -1, -1, -1, -1);
	return page;
}

static void mmu_topup_memory_caches(struct vm *vm, int64_t me)
{
	if (vm->actor[me].held & (1 << LOCK_MMU_READ | 1 << LOCK_MMU_WRITE))
		die();
	while (vm->cache_nr[me][0] < vm->cfg[0].levels)
		vm->cache_page[me][vm->cache_nr[me][0]++] = alloc_page(vm, me);
}

static int64_t read_spte(struct vm *vm, int64_t table, int64_t index)
{
	int64_t spte = LOAD(vm->pt[table][index]);

	if (vm->cfg[0].check_level > 0 && vm->sp[table].state == SP_FREE)
		die();
	return spte;
}

static void refresh_sptep(struct vm *vm, int64_t me, struct vm_iter *iter)
{
	iter->table = vm->iter_path[me][iter->level];
	iter->index = spte_index(vm, iter->gfn, iter->level);
	iter->old_spte = read_spte(vm, iter->table, iter->index);
}

static void iter_restart(struct vm *vm, int64_t me, struct vm_iter *iter)
{
	iter->yielded = 0;
	iter->yielded_gfn = iter->next_last_level_gfn;
	iter->level = iter->root_level;
	iter->gfn = iter->next_last_level_gfn & -pages_per_hpage(vm, iter->level);
	refresh_sptep(vm, me, iter);
	iter->valid = 1;
}

static void tdp_iter_start(struct vm *vm, int64_t me, int64_t root, int64_t min_level, int64_t gfn)
{
	struct vm_iter *iter = &vm->iter[me];

	iter->root = root;
	iter->root_level = vm->cfg[0].levels;
	iter->min_level = min_level;
	iter->next_last_level_gfn = gfn;
	vm->iter_path[me][vm->cfg[0].levels] = root;
	iter_restart(vm, me, iter);
}

static bool try_step_down(struct vm *vm, int64_t me, struct vm_iter *iter)
{
	int64_t child;

	if (iter->level == iter->min_level)
		return false;
	iter->old_spte = read_spte(vm, iter->table, iter->index);
	child = spte_to_child_pt(iter->old_spte);
	if (!child)
		return false;
	iter->level--;
	vm->iter_path[me][iter->level] = child;
	iter->gfn = iter->next_last_level_gfn & -pages_per_hpage(vm, iter->level);
	refresh_sptep(vm, me, iter);
	return true;
}

static bool try_step_side(struct vm *vm, struct vm_iter *iter)
{
	if (iter->index == (INT64_C(1) << vm->cfg[0].bits_per_level) - 1)
		return false;
	iter->gfn += pages_per_hpage(vm, iter->level);
	iter->next_last_level_gfn = iter->gfn;
	iter->index++;
	iter->old_spte = read_spte(vm, iter->table, iter->index);
	return true;
}

static bool try_step_up(struct vm *vm, int64_t me, struct vm_iter *iter)
{
	if (iter->level == iter->root_level)
		return false;
	iter->level++;
	iter->gfn &= -pages_per_hpage(vm, iter->level);
	refresh_sptep(vm, me, iter);
	return true;
}

static void tdp_iter_next(struct vm *vm, int64_t me)
{
	struct vm_iter *iter = &vm->iter[me];

	if (iter->yielded) {
		iter_restart(vm, me, iter);
		return;
	}
	if (try_step_down(vm, me, iter))
		return;
	do {
		if (try_step_side(vm, iter))
			return;
	} while (try_step_up(vm, me, iter));
	iter->valid = 0;
}

static void mmu_writeback(struct vm *vm, int64_t me, int64_t gfn, int64_t root, int64_t spte)
{
	int64_t pfn = spte_to_pfn(spte);
	int64_t incarnation = spte >> INCARNATION_SHIFT;
	bool gone = retired(vm, incarnation);
	int64_t tag = LOAD(vm->frame_tag[pfn]);

	vm->counter[me][C_WRITEBACKS]++;
	trace(vm, me, EV_WRITEBACK, gfn, root, pfn, incarnation, tag, gone);
	if (gone || tag != vm->live[incarnation & (MAX_PLACES - 1)].backing)
		die();
}

static void handle_changed_spte(struct vm *vm, int64_t me, struct vm_iter *iter, int64_t old, int64_t new)
{
	if (iter->level > 1) {
		trace(vm, me, EV_SPTE_CHANGE, iter->gfn, iter->table, iter->level, -1, old, new);
		if (spte_to_child_pt(old))
			die();
		return;
	}
	trace(vm, me, EV_SPTE_CHANGE, iter->gfn, iter->table, 1, -1, old, new);
	if (is_present(new) && !is_present(old))
		vm->counter[me][C_SPTES_SET]++;
	if (is_present(old) && !is_present(new)) {
		vm->counter[me][C_SPTES_ZAPPED]++;
		if (vm->cfg[0].ad_writeback && old & (SPTE_ACCESSED | SPTE_DIRTY))
			mmu_writeback(vm, me, iter->gfn, iter->root, old);
	}
	if (is_present(old) && is_present(new) && spte_to_pfn(old) != spte_to_pfn(new) && vm->cfg[0].check_level > 0)
		die();
}

static bool tdp_mmu_set_spte_atomic(struct vm *vm, int64_t me, int64_t new)
{
	struct vm_iter *iter = &vm->iter[me];
	int64_t old = iter->old_spte, seen;

	lockdep_assert_held(vm, me, LOCK_MMU_READ);
	if (old == FROZEN_SPTE && vm->cfg[0].check_level > 0)
		die();
	seen = cmpxchg(&vm->pt[iter->table][iter->index], old, new);
	if (seen != old) {
		iter->old_spte = seen;
		return false;
	}
	handle_changed_spte(vm, me, iter, old, new);
	return true;
}

/* --- the fault */

static int64_t map_target_level(struct vm *vm, int64_t me, int64_t pfn, int64_t incarnation, bool write)
{
	int64_t old = vm->iter[me].old_spte;
	int64_t new = incarnation << INCARNATION_SHIFT | pfn << PFN_SHIFT | SPTE_PRESENT | SPTE_LEAF | SPTE_WRITABLE | SPTE_ACCESSED;

	if (is_present(old) && old & SPTE_LEAF && old >> INCARNATION_SHIFT == incarnation)
		return RET_PF_SPURIOUS;
	if (vm->cfg[0].check_level > 0 && vm->sp[vm->iter[me].root].role_invalid)
		die();
	return tdp_mmu_set_spte_atomic(vm, me, new | (write ? SPTE_DIRTY : 0)) ? RET_PF_FIXED : RET_PF_RETRY;
}

static int64_t kvm_tdp_mmu_map(struct vm *vm, int64_t me, int64_t root, int64_t gfn, int64_t pfn, int64_t incarnation, bool write)
{
	struct vm_iter *iter = &vm->iter[me];
	int64_t result = RET_PF_RETRY;

	rcu_read_lock(vm, me);
	for (tdp_iter_start(vm, me, root, 1, gfn); iter->valid && iter->gfn <= gfn; tdp_iter_next(vm, me)) {
		int64_t old = iter->old_spte;

		if (old == FROZEN_SPTE)
			break;
		if (iter->level == 1) {
			result = map_target_level(vm, me, pfn, incarnation, write);
			break;
		}
		if (!is_present(old)) {
			int64_t page = vm->cache_page[me][--vm->cache_nr[me][0]];

			vm->sp[page].level = iter->level - 1;
			vm->sp[page].gfn = gfn & -pages_per_hpage(vm, iter->level);
			vm->sp[page].state = SP_LINKED;
			if (!tdp_mmu_set_spte_atomic(vm, me, page << PFN_SHIFT | SPTE_PRESENT | SPTE_WRITABLE | SPTE_ACCESSED))
				die();
			FETCH_ADD(vm->kvm[0].tdp_mmu_pages, 1);
		}
	}
	rcu_read_unlock(vm, me);
	return result;
}

static int64_t gfn_to_memslot(struct vm *vm, int64_t me, int64_t gfn)
{
	int64_t active;

	lockdep_assert_held(vm, me, LOCK_SRCU);
	active = LOAD_ACQUIRE(vm->memslots[0].active);
	for (int id = 0; id < MAX_SLOTS; id++) {
		int64_t slot = LOAD(vm->memslot_id[active][id]);

		if (slot && vm->slot[slot].base_gfn <= gfn && gfn < vm->slot[slot].base_gfn + vm->slot[slot].npages)
			return slot;
	}
	return 0;
}

static bool is_page_fault_stale(struct vm *vm, int64_t me, int64_t mmu_seq)
{
	bool obsolete;

	lockdep_assert_held(vm, me, LOCK_MMU_READ);
	obsolete = LOAD(vm->sp[vm->vcpu[me].root_hpa].role_invalid) != 0;
	if (obsolete && vm->cfg[0].check_level > 0 && !(LOAD(vm->vcpu[me].requests) & 1))
		die();
	if (obsolete && !vm->mutation[FAULT_INTO_INVALIDATED_ROOT])
		return true;
	if (LOAD(vm->kvm[0].mmu_invalidate_in_progress))
		return true;
	SMP_RMB();
	return LOAD(vm->kvm[0].mmu_invalidate_seq) != mmu_seq;
}

static int64_t kvm_mmu_page_fault(struct vm *vm, int64_t me, int64_t gfn, bool write)
{
	int64_t root, slot, incarnation, mmu_seq, pfn, result;

	vm->counter[me][C_PAGE_FAULTS]++;
	if (LOAD(vm->kvm[0].zapping))
		vm->counter[me][C_FAULTS_DURING_ZAP]++;
	root = vm->vcpu[me].root_hpa;
	mmu_topup_memory_caches(vm, me);
	slot = gfn_to_memslot(vm, me, gfn);
	if (!slot)
		die();
	incarnation = vm->slot[slot].incarnation;
	if (vm->slot[slot].mem_flags & KVM_MEMSLOT_INVALID)
		die();
	mmu_seq = LOAD(vm->kvm[0].mmu_invalidate_seq);
	SMP_RMB();
	pfn = vm->slot[slot].hva + gfn - vm->slot[slot].base_gfn;

	read_lock(vm, me);
	if (is_page_fault_stale(vm, me, mmu_seq))
		die();
	result = kvm_tdp_mmu_map(vm, me, root, gfn, pfn, incarnation, write);
	read_unlock(vm, me);
	if (result != RET_PF_FIXED)
		die();
	vm->counter[me][C_FAULTS_FIXED]++;
	trace(vm, me, EV_KVM_PAGE_FAULT, gfn, root, pfn, incarnation, FAULT_FIXED, write);
	return result;
}

/* --- the zap */

static bool iter_cond_resched(struct vm *vm, int64_t me)
{
	if (vm->iter[me].next_last_level_gfn == vm->iter[me].yielded_gfn)
		return false;
	if (LOAD(vm->actor[me].need_resched))
		die();
	if (vm->cfg[0].lock_break_on_contention &&
	    LOAD(vm->mmu_lock[0].ticket_next) != LOAD(vm->mmu_lock[0].ticket_owner))
		die();
	return false;
}

static void zap_root_level(struct vm *vm, int64_t me, int64_t root, int64_t zap_level)
{
	struct vm_iter *iter = &vm->iter[me];
	int64_t end = INT64_C(1) << (vm->cfg[0].levels * vm->cfg[0].bits_per_level);

	tdp_iter_start(vm, me, root, zap_level, 0);
	while (iter->valid && iter->gfn < end) {
		if (!iter_cond_resched(vm, me))
			while (is_present(iter->old_spte) && iter->level <= zap_level)
				if (tdp_mmu_set_spte_atomic(vm, me, 0))
					break;
		tdp_iter_next(vm, me);
	}
}

/* --- what hot_path.py calls: the loops of its own compiled drivers */

void run_accesses(struct vm *vm, int64_t me, int64_t entries)
{
	for (int64_t n = 0; n < entries; n++) {
		if (guest_run(vm, me) == EXIT_FAULT)
			kvm_mmu_page_fault(vm, me, vm->vcpu[me].retry_gfn, vm->vcpu[me].retry_write);
		vm->actor[me].ring_tail = vm->actor[me].ring_head;
	}
}

void run_faults(struct vm *vm, int64_t me, int64_t base_gfn, int64_t faults)
{
	for (int64_t gfn = base_gfn; gfn < base_gfn + faults; gfn++) {
		kvm_mmu_page_fault(vm, me, gfn, gfn & 1);
		vm->actor[me].ring_tail = vm->actor[me].ring_head;
	}
}

void run_zap(struct vm *vm, int64_t me)
{
	read_lock(vm, me);
	rcu_read_lock(vm, me);
	zap_root_level(vm, me, vm->vcpu[me].root_hpa, 1);
	rcu_read_unlock(vm, me);
	read_unlock(vm, me);
	vm->actor[me].ring_tail = vm->actor[me].ring_head;
}
