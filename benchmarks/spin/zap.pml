/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A Promela twin of the smallest scenario of model/ that has it all: vCPUs on a slot that is deleted by the split fast zap.
 *
 * It follows model/{vcpu,mmu,tdp_mmu,roots,requests,rcu,locks,memslots,kvm_main,flush_shadow,userspace,oracle}.py step by step:
 * one statement for each primitive on a shared word. A d_step joins a primitive with work that nobody else can see or disturb
 * (the own TLB, own variables) and with the oracle's looks, which are no steps of the protocol.
 *
 * At the start, as behind the warm stage of model/stages.py: the slot exists, all vCPUs are outside the guest, have loaded and
 * flushed the same valid root (NV + 1 references), and all gfns of the slot are mapped in it and in every vCPU's TLB. Then each
 * vCPU makes NA guest accesses, and ctl deletes the slot, retires its incarnation and clears its frames' tags. A vCPU that has
 * done its part keeps its root, leaves kvm->srcu and only acknowledges IPIs. At the end the references must balance.
 *
 * Where it is coarser than the model:
 *	- a root is a flat array of leafs: no child tables, hence no FROZEN entries; no accessed and dirty bits;
 *	- pages come from nowhere, not from a cache that is topped up from a locked pool;
 *	- words that never change or are never contended here have no steps: mmu_invalidate_seq, generations, slots_lock;
 *	- sequence numbers would make the state space infinite. Where the model remembers one (of an SRCU section, of a guest entry) to
 *	  see whether somebody has moved on, the twin marks the word itself, and moving on clears the mark. Tickets restart at 0 when
 *	  nobody holds one;
 *	- refcount_inc_not_zero() is one statement, as is a load together with the cmpxchg that relies on it while waiting;
 *	  tdp_mmu_pages_lock is no ticket lock;
 *	- a vCPU that retries need not pause until something has changed: states that repeat cost nothing in a search of states.
 * It is sequentially consistent: no-entry-barrier, which needs store buffers, has no counterpart. A livelock is a cycle of states,
 * at which a search for safety does not look.
 *
 * Size:
 *	NV		vCPUs; default 2
 *	NG		gfns of the slot; default 2
 *	NA		guest accesses a vCPU, of gfns 0, 1, ... in turn; default as many as there are gfns
 * Scenario:
 *	ZAP_ONLY	the quirk is disabled from the start: only the slot's leafs are zapped, roots stay valid
 *	TOGGLER		a process that disables the quirk once, at any time
 *	SPLIT		the patch as posted: the predicate is evaluated twice, which TOGGLER turns into the bug; without it, split-once
 *	LAST_CREATE	the slot is created again, on the same frames
 *	LIVE_SLOT	a second slot of one gfn behind the first; it stays, and nothing of it is mapped at the start
 *	COLD		the slot's last gfn is not mapped at the start
 *	YIELD		ctl is asked once to reschedule: the back half yields in front of its second entry
 *	RECYCLE		a freed root's page may be the next root, once no RCU section is open
 * Planted bugs, named as in model/mutations.py:
 *	REQUEST_WITHOUT_ACK, NO_REQUEST, REQUEST_BEFORE_INVALIDATE, NO_FLUSH_ON_LOAD, NO_SRCU_WAIT, ZAP_ONLY_WITHOUT_FLUSH,
 *	FAULT_INTO_INVALIDATED_ROOT, RETURN_BEFORE_BACK_HALF, BACK_HALF_AFTER_COMMIT, ADVANCE_AFTER_YIELD, NO_GIFT,
 *	PUT_BEFORE_ZAP, ITERATOR_WITHOUT_REFERENCE
 * What they need: FAULT_INTO_INVALIDATED_ROOT a LIVE_SLOT, NO_SRCU_WAIT and ZAP_ONLY_WITHOUT_FLUSH the ZAP_ONLY branch (the former
 * also COLD), ADVANCE_AFTER_YIELD a YIELD and two gfns, PUT_BEFORE_ZAP and ITERATOR_WITHOUT_REFERENCE each other.
 * NO_FLUSH_ON_LOAD does harm only with RECYCLE.
 * Oracle:
 *	USE_ONLY	check.level = "use": stale uses and leftover mappings alone, no rule of the protocol
 *	The number in the text of an assertion is the rule's: assert((ok) || 3 == 0) is I3, and < 0 marks a rule of the protocol.
 */

#ifndef NV
#define NV 2
#endif
#ifndef NG
#define NG 2
#endif
#ifdef LIVE_SLOT
#define GFNS (NG + 1)
#else
#define GFNS NG
#endif
#ifndef NA
#define NA GFNS
#endif

/* A root is a page, and page 0 is none. One DELETE makes one root obsolete, and one other can be made. */
#define ROOTS 2

/* A slot object is also the incarnation that its mappings carry; INVALID_COPY is the one of FIRST while that is on its way out. */
#define NO_SLOT 0
#define FIRST 1
#define INVALID_COPY 2
#define SECOND 3
#define LIVE 4

#define OUTSIDE_GUEST_MODE 0
#define IN_GUEST_MODE 1
#define EXITING_GUEST_MODE 2

#define REQ_MMU_FREE_OBSOLETE_ROOTS 1
#define REQ_TLB_FLUSH 2

/* mmu_lock.cnts: the writer's byte, the waiting writer's bit, readers from there on up. */
#define QW_LOCKED 1
#define QW_WAITING 2
#define QR_BIAS 4
/* More than there can be actors in the queue. */
#define TICKETS 8

/* A page: free, in use, or freed and in its grace period. */
#define SP_FREE 0
#define SP_ROOT 1
#define SP_RCU 2

/* Somebody else waits for this section, or this guest entry, to end; see the header. */
#define MARKED 2

/* A use or a mapping that outlived its slot, reported at every check level; and a rule of the protocol. */
#define FINDING(rule, ok) assert((ok) || rule == 0)
#ifdef USE_ONLY
#define PROTOCOL(rule, ok) skip
#else
#define PROTOCOL(rule, ok) assert((ok) || rule < 0)
#endif

/* struct kvm */
byte active_set;		/* which set of memslots */
byte memslot[2];		/* the slot's object in either set */
bool mmu_valid_gen;
bool quirk_disabled;
byte tdp_mmu_roots;		/* head of the list */
byte cnts;			/* mmu_lock, a qrwlock */
byte ticket_next;
byte ticket_owner;
bool tdp_mmu_pages_lock;

/* struct kvm_mmu_page; index 0 is unused */
byte link_next[ROOTS + 1];
byte refcount[ROOTS + 1];
bool role_invalid[ROOTS + 1];
bool scheduled_to_zap[ROOTS + 1];
byte sp_state[ROOTS + 1];
byte leaf[(ROOTS + 1) * GFNS];	/* the incarnation that an entry maps, 0: nonpresent */

/* struct kvm_vcpu */
byte mode[NV];
byte requests[NV];
byte ipi_sent[NV];
byte ipi_acked[NV];
byte srcu[NV];			/* 0 outside; 1 inside; MARKED */
byte root_hpa[NV];
byte tlb[NV * (ROOTS + 1) * GFNS];	/* tagged by the root's page */

/* userspace */
bool retired;			/* FIRST's incarnation */
byte frame_tag[GFNS];

/* for the oracle alone */
byte in_guest[NV];		/* 0 outside; 1 inside; MARKED */
byte root_ref[NV];
byte flushed[NV];
bool zapping[ROOTS + 1];
bool flush_owed;
byte vcpus_done;
byte n;				/* loops within one step; 0 between steps */
byte sum;

#ifdef RECYCLE
byte rcu_readers;
#define RCU_READ_LOCK rcu_readers = rcu_readers + 1;
#define RCU_READ_UNLOCK rcu_readers = rcu_readers - 1;
#define USABLE(page) (sp_state[page] == SP_FREE || (sp_state[page] == SP_RCU && rcu_readers == 0))
#else
/* Nobody waits for a grace period, so nobody can tell where a section begins and ends. */
#define RCU_READ_LOCK
#define RCU_READ_UNLOCK
#define USABLE(page) (sp_state[page] == SP_FREE)
#endif
#ifdef YIELD
bool need_resched = true;
#endif

#define SPTE(root, gfn) leaf[(root) * GFNS + (gfn)]
#define TLB(vcpu, root, gfn) tlb[((vcpu) * (ROOTS + 1) + (root)) * GFNS + (gfn)]
#define PENDING(request) ((requests[me] & request) != 0)

/* Waiting with interrupts on: a vCPU that waits still acknowledges. ctl gets no IPIs. */
#define WAIT_AS_VCPU(condition, action) \
	do \
	:: ipi_sent[me] != ipi_acked[me] -> ipi_acked[me] = ipi_sent[me] \
	:: d_step { condition -> action } -> break \
	od
#define WAIT_AS_CTL(condition, action) \
	d_step { condition -> action }

inline ack_ipis()
{
	if
	:: ipi_sent[me] != ipi_acked[me] -> ipi_acked[me] = ipi_sent[me]
	:: else
	fi
}

/* --- locks.py */

/* Spin has no jumps to a d_step, as out of a loop in front of it; to an `if` of one branch it has, at no cost. */
inline take_ticket()
{
	d_step { ticket = ticket_next; ticket_next = (ticket_next + 1) % TICKETS }
}

inline dequeue()
{
	if
	:: d_step {
			ticket = 0;
			ticket_owner = (ticket_owner + 1) % TICKETS;
			if
			:: ticket_owner == ticket_next -> ticket_owner = 0; ticket_next = 0
			:: else
			fi
		}
	fi
}

#define READ_LOCK(WAIT) \
	if \
	:: d_step { (cnts & (QW_LOCKED | QW_WAITING)) == 0 -> cnts = cnts + QR_BIAS } \
	:: d_step { (cnts & (QW_LOCKED | QW_WAITING)) != 0 -> cnts = cnts + QR_BIAS }; \
		cnts = cnts - QR_BIAS; \
		take_ticket(); \
		WAIT(ticket_owner == ticket, skip); \
		cnts = cnts + QR_BIAS; \
		WAIT((cnts & QW_LOCKED) == 0, skip); \
		dequeue() \
	fi

inline read_unlock()
{
	cnts = cnts - QR_BIAS
}

inline write_lock()
{
	if
	:: d_step { cnts == 0 -> cnts = QW_LOCKED }
	:: cnts != 0 ->
		take_ticket();
		WAIT_AS_CTL(ticket_owner == ticket, skip);
		if
		:: d_step { cnts == 0 -> cnts = QW_LOCKED }
		:: cnts != 0 ->
			cnts = cnts | QW_WAITING;
			WAIT_AS_CTL(cnts == QW_WAITING, cnts = QW_LOCKED)
		fi;
		dequeue()
	fi
}

inline write_unlock()
{
	cnts = cnts - QW_LOCKED
}

/* --- rcu.py */

inline srcu_read_lock()
{
	srcu[me] = 1
}

inline srcu_read_unlock()
{
	srcu[me] = 0
}

/* Within a d_step. */
inline check_readers()
{
	n = 0;
	do
	:: n < NV -> PROTOCOL(27, srcu[n] != MARKED); n++
	:: else -> break
	od;
	n = 0
}

inline synchronize_srcu()
{
#ifdef NO_SRCU_WAIT
	/* Deliberate bug (no-srcu-wait). What remains is the look at who is inside, and who still is. */
	d_step {
		n = 0;
		do
		:: n < NV && srcu[n] == 1 -> srcu[n] = MARKED; n++
		:: n < NV && srcu[n] != 1 -> n++
		:: else -> break
		od;
		check_readers()
	}
#else
	do
	:: d_step { v < NV && srcu[v] == 1 -> srcu[v] = MARKED };
		d_step { srcu[v] != MARKED -> v++ }
	:: d_step { v < NV && srcu[v] != 1 -> v++ }
	:: d_step { v == NV -> v = 0; check_readers() } -> break
	od
#endif
}

/* --- requests.py, the sender */

/* Within a d_step. */
inline check_acks()
{
	n = 0;
	do
	:: n < NV -> PROTOCOL(26, in_guest[n] != MARKED); n++
	:: else -> break
	od;
	n = 0
}

inline make_all_cpus_request(request, wait)
{
	do
	:: d_step {
			v < NV ->
			/* For I26: the guest entry that is under way before the request. */
			if
			:: in_guest[v] == 1 -> in_guest[v] = MARKED
			:: else
			fi;
			requests[v] = requests[v] | request
		};
		d_step {
			if
			:: mode[v] == IN_GUEST_MODE -> mode[v] = EXITING_GUEST_MODE; cpumask = cpumask | (1 << v)
			:: mode[v] == EXITING_GUEST_MODE && wait -> cpumask = cpumask | (1 << v)
			:: else
			fi;
			v++
		}
	:: d_step { v == NV -> v = 0 } -> break
	od;
	do
	:: d_step { v < NV && (cpumask & (1 << v)) != 0 -> ipi_sent[v] = ipi_sent[v] + 1; v++ }
	:: d_step { v < NV && (cpumask & (1 << v)) == 0 -> v++ }
	:: d_step { v == NV -> v = 0 } -> break
	od;
	do
	:: d_step { v < NV && (!wait || (cpumask & (1 << v)) == 0 || ipi_acked[v] == ipi_sent[v]) -> v++ }
	:: d_step { v == NV -> v = 0; cpumask = 0; check_acks() } -> break
	od
}

/* --- roots.py and oracle.py */

/* Within a d_step: a root that goes, or that has been zapped, is empty. */
inline check_root_empty(r)
{
	n = 0;
	do
	:: n < GFNS -> FINDING(7, SPTE(r, n) == 0); n++
	:: else -> break
	od;
	n = 0
}

/* Within a d_step. `who` is a vCPU, or NV for ctl. */
inline check_final_put(r, who)
{
	PROTOCOL(9, role_invalid[r]);
	PROTOCOL(10, !scheduled_to_zap[r] && !zapping[r]);
	n = 0;
	do
	:: n < NV -> PROTOCOL(8, n == who || root_ref[n] != r); n++
	:: else -> break
	od;
	check_root_empty(r)
}

/* Within a d_step: the references are those of the vCPUs, and the TDP MMU's own one while the root is valid. */
inline check_root_references(r)
{
	n = 0;
	sum = (role_invalid[r] -> 0 : 1);
	do
	:: n < NV && root_ref[n] == r -> sum++; n++
	:: n < NV && root_ref[n] != r -> n++
	:: else -> break
	od;
	PROTOCOL(8, refcount[r] == sum);
	n = 0;
	sum = 0
}

/* Within a d_step: none of the roots on the list, or none of the valid ones, maps FIRST. */
inline check_roots(rule, valid_only)
{
	sum = tdp_mmu_roots;
	do
	:: sum != 0 ->
		n = 0;
		do
		:: n < NG -> FINDING(rule, (valid_only && role_invalid[sum]) || SPTE(sum, n) != FIRST); n++
		:: else -> break
		od;
		sum = link_next[sum]
	:: else -> break
	od;
	n = 0
}

inline list_del(r)
{
	if
	:: tdp_mmu_roots == r -> tdp_mmu_roots = link_next[r]
	:: tdp_mmu_roots != r && tdp_mmu_roots != 0 ->
		/* There are two pages, so the one in front of it is the head. */
		link_next[tdp_mmu_roots] = link_next[r]
	:: else
	fi
}

#define PUT_ROOT(r, who, WAIT) \
	if \
	:: d_step { refcount[r] > 1 -> refcount[r] = refcount[r] - 1 } \
	:: d_step { refcount[r] == 1 -> refcount[r] = 0; check_final_put(r, who) }; \
		WAIT(!tdp_mmu_pages_lock, tdp_mmu_pages_lock = true); \
		if :: d_step { list_del(r) } fi; \
		tdp_mmu_pages_lock = false; \
		sp_state[r] = SP_RCU \
	:: d_step { refcount[r] == 0 -> PROTOCOL(8, false) } \
	fi

/* tdp_mmu_next_root() without the put of the previous one: the first root from `from` on that still has a reference. */
inline next_root(from)
{
	RCU_READ_LOCK
	root = from;
#ifndef ITERATOR_WITHOUT_REFERENCE
	do
	:: d_step { root != 0 && refcount[root] != 0 -> refcount[root] = refcount[root] + 1 } -> break
	:: d_step { root != 0 && refcount[root] == 0 -> root = link_next[root] }
	:: root == 0 -> break
	od;
#endif
	RCU_READ_UNLOCK
}

#ifdef ITERATOR_WITHOUT_REFERENCE
/* Deliberate bug (iterator-without-reference). */
#define PUT_PREVIOUS(r)
#else
#define PUT_PREVIOUS(r) PUT_ROOT(r, NV, WAIT_AS_CTL);
#endif

inline find_valid_root()
{
	found = tdp_mmu_roots;
	do
	:: found != 0 && !role_invalid[found] ->
		if
		:: d_step { refcount[found] != 0 -> refcount[found] = refcount[found] + 1 } -> break
		:: d_step { refcount[found] == 0 -> found = link_next[found] }
		fi
	:: d_step { found != 0 && role_invalid[found] -> found = link_next[found] }
	:: found == 0 -> break
	od
}

#ifdef NO_GIFT
/* Deliberate bug (no-gift). */
#define GIFT 0
#else
#define GIFT 1
#endif

inline alloc_root()
{
	READ_LOCK(WAIT_AS_VCPU);
	RCU_READ_LOCK
	find_valid_root();
	RCU_READ_UNLOCK
	if
	:: found == 0 ->
		WAIT_AS_VCPU(!tdp_mmu_pages_lock, tdp_mmu_pages_lock = true);
		find_valid_root();
		if
		:: found == 0 ->
			d_step {
				/* Of two usable pages the one that was used before: it was freed last. */
				if
				:: USABLE(1) -> found = 1
				:: else -> assert(USABLE(2)); found = 2
				fi;
				sp_state[found] = SP_ROOT;
				role_invalid[found] = false;
				scheduled_to_zap[found] = false;
				zapping[found] = false;
				link_next[found] = tdp_mmu_roots;
				refcount[found] = 1 + GIFT
			};
			tdp_mmu_roots = found
		:: else
		fi;
		tdp_mmu_pages_lock = false
	:: else
	fi;
	d_step { root_ref[me] = found; read_unlock() }
}

/* --- mmu.py, the vCPU's root */

/* Within a d_step: every translation that is tagged with the root. */
inline flush_tlb_current(r)
{
	n = 0;
	do
	:: n < GFNS -> TLB(me, r, n) = 0; n++
	:: else -> break
	od;
	n = 0;
	flushed[me] = r
}

/* Within a d_step. */
inline flush_tlb_all()
{
	n = 0;
	do
	:: n < (ROOTS + 1) * GFNS -> TLB(me, 0, n) = 0; n++
	:: else -> break
	od;
	n = 0
}

inline free_obsolete_roots()
{
	if
	:: root_hpa[me] != 0 && role_invalid[root_hpa[me]] ->
		READ_LOCK(WAIT_AS_VCPU);
		d_step { root_ref[me] = 0; flushed[me] = 0 };
		PUT_ROOT(root_hpa[me], me, WAIT_AS_VCPU);
		read_unlock();
		root_hpa[me] = 0
	:: else
	fi
}

inline serve_reload_request()
{
	if
	:: PENDING(REQ_MMU_FREE_OBSOLETE_ROOTS) ->
		requests[me] = requests[me] & ~REQ_MMU_FREE_OBSOLETE_ROOTS;
		free_obsolete_roots()
	:: else
	fi
}

inline mmu_reload()
{
	serve_reload_request();
	if
	:: root_hpa[me] == 0 ->
		alloc_root();
		d_step {
			root_hpa[me] = found;
#ifndef NO_FLUSH_ON_LOAD
			flush_tlb_current(found);
#endif
			found = 0
		}
	:: else
	fi
}

/* --- vcpu.py */

proctype vcpu(byte me)
{
	byte ticket, done, found, slot, old;
	bool fault;

	srcu_read_lock();
enter:
	ack_ipis();
	/* 1. Requests; obsolete roots before the TLB. */
	if
	:: requests[me] != 0 ->
		serve_reload_request();
		if
		:: PENDING(REQ_TLB_FLUSH) -> d_step { requests[me] = requests[me] & ~REQ_TLB_FLUSH; flush_tlb_all() }
		:: else
		fi
	:: else
	fi;
	/* 2. A root, freshly flushed if it is a new one. */
	mmu_reload();
	/* 3, 4. Interrupts off from here. */
	mode[me] = IN_GUEST_MODE;
	srcu_read_unlock();
	/* 5. The last check. */
	if
	:: mode[me] == EXITING_GUEST_MODE -> goto cancel
	:: mode[me] != EXITING_GUEST_MODE ->
		if
		:: requests[me] != 0 -> goto cancel
		:: requests[me] == 0
		fi
	fi;
	d_step { in_guest[me] = 1; PROTOCOL(21, flushed[me] == root_hpa[me]) };
	/* 6. The guest: one access after the other. */
guest:
	if
	:: ipi_sent[me] != ipi_acked[me] -> goto leave
	:: ipi_sent[me] == ipi_acked[me] && done == NA -> goto leave
	:: d_step {
			ipi_sent[me] == ipi_acked[me] && done < NA && TLB(me, root_hpa[me], done % GFNS) != 0 ->
			old = TLB(me, root_hpa[me], done % GFNS)
		}
	:: ipi_sent[me] == ipi_acked[me] && done < NA && TLB(me, root_hpa[me], done % GFNS) == 0 ->
		if
		:: d_step {
				SPTE(root_hpa[me], done % GFNS) != 0 ->
				PROTOCOL(12, sp_state[root_hpa[me]] == SP_ROOT);
				old = SPTE(root_hpa[me], done % GFNS);
				TLB(me, root_hpa[me], done % GFNS) = old
			}
		:: d_step { SPTE(root_hpa[me], done % GFNS) == 0 -> fault = true } -> goto leave
		fi
	fi;
	/* The touch: the incarnation, then the frame. */
	FINDING(3, old != FIRST || !retired);
	d_step { FINDING(3, frame_tag[done % GFNS] == old); old = 0; done++ };
	goto guest;

leave:
	in_guest[me] = 0;
	mode[me] = OUTSIDE_GUEST_MODE;
	ack_ipis();
	srcu_read_lock();
	if
	:: d_step { fault -> fault = false } -> goto page_fault
	:: !fault && done < NA -> goto enter
	:: d_step { !fault && done == NA -> vcpus_done++ } -> goto idle
	fi;

cancel:
	mode[me] = OUTSIDE_GUEST_MODE;
	ack_ipis();
	srcu_read_lock();
	goto enter;

page_fault:
	slot = active_set;
	d_step { slot = (done % GFNS < NG -> memslot[slot] : LIVE) };
	if
	:: d_step { slot == NO_SLOT -> done++ };
		/* MMIO: userspace emulates the access. */
		if
		:: done < NA -> goto enter
		:: d_step { done == NA -> vcpus_done++ } -> goto idle
		fi
	:: d_step { slot == INVALID_COPY -> slot = 0 } -> goto retry
	:: slot != NO_SLOT && slot != INVALID_COPY
	fi;
	READ_LOCK(WAIT_AS_VCPU);
	/* is_page_fault_stale() */
	if
	:: role_invalid[root_hpa[me]] ->
		/* Who sees the root obsolete sees the request as well. */
		PROTOCOL(5, PENDING(REQ_MMU_FREE_OBSOLETE_ROOTS));
#ifndef FAULT_INTO_INVALIDATED_ROOT
		d_step { slot = 0; read_unlock() };
		goto retry
#endif
	:: !role_invalid[root_hpa[me]]
	fi;
	/* kvm_tdp_mmu_map() */
	RCU_READ_LOCK
	old = SPTE(root_hpa[me], done % GFNS);
	if
	:: old == slot
	:: old != slot ->
		/* The cmpxchg; if it fails, the access faults again. `old` tells which it was. */
		d_step {
			PROTOCOL(6, !role_invalid[root_hpa[me]]);
			if
			:: SPTE(root_hpa[me], done % GFNS) == old -> SPTE(root_hpa[me], done % GFNS) = slot; old = slot
			:: else -> old = NO_SLOT
			fi
		}
	fi;
	RCU_READ_UNLOCK
	d_step { slot = 0; read_unlock() };
	if
	:: d_step { old != NO_SLOT -> old = 0 } -> goto enter
	:: old == NO_SLOT -> goto retry
	fi;

retry:
	/* RET_PF_RETRY: leave kvm->srcu, or the memslot update that we wait for waits for us. */
	srcu_read_unlock();
	srcu_read_lock();
	goto enter;

idle:
	srcu_read_unlock();
end_idle:
	do
	:: ipi_sent[me] != ipi_acked[me] -> ipi_acked[me] = ipi_sent[me]
	od
}

/* --- mmu.py and tdp_mmu.py, the zap */

/* Deliberate bugs (no-request, request-without-ack). */
#if defined(NO_REQUEST)
#define MAKE_RELOAD_REQUEST
#elif defined(REQUEST_WITHOUT_ACK)
#define MAKE_RELOAD_REQUEST make_all_cpus_request(REQ_MMU_FREE_OBSOLETE_ROOTS, false);
#else
#define MAKE_RELOAD_REQUEST make_all_cpus_request(REQ_MMU_FREE_OBSOLETE_ROOTS, true);
#endif

inline front_half()
{
	/* F1 */
	mmu_valid_gen = !mmu_valid_gen;
#ifdef REQUEST_BEFORE_INVALIDATE
	MAKE_RELOAD_REQUEST
#endif
	/* F2 */
	root = tdp_mmu_roots;
	do
	:: root != 0 && !role_invalid[root] ->
		d_step { check_root_references(root); scheduled_to_zap[root] = true };
		role_invalid[root] = true;
		root = link_next[root]
	:: d_step { root != 0 && role_invalid[root] -> root = link_next[root] }
	:: root == 0 -> break
	od;
#ifndef REQUEST_BEFORE_INVALIDATE
	/* F3 */
	MAKE_RELOAD_REQUEST
#endif
	/* Nobody is in the guest on an invalid root. F4: no shadow pages. */
	if
	:: d_step {
			n = 0;
			do
			:: n < NV -> PROTOCOL(4, in_guest[n] == 0 || !role_invalid[root_hpa[n]]); n++
			:: else -> break
			od;
			n = 0
		}
	fi
}

inline zap_root()
{
	zapping[root] = true;
	do
#ifdef YIELD
	/* Some progress since the start, and asked to reschedule. */
	:: g > 0 && g < GFNS && need_resched ->
		read_unlock();
		need_resched = false;
		READ_LOCK(WAIT_AS_CTL);
#ifdef ADVANCE_AFTER_YIELD
		/* Deliberate bug (B08). */
		g++
#endif
	:: (g == 0 || !need_resched) && g < GFNS ->
#else
	:: g < GFNS ->
#endif
		/* The iterator's load, then the cmpxchg; a failed one hands over what it found. */
		if
		:: d_step { SPTE(root, g) == 0 -> g++ }
		:: d_step { SPTE(root, g) != 0 -> old = SPTE(root, g) };
			do
			:: d_step { SPTE(root, g) == old -> SPTE(root, g) = 0; old = 0 } -> break
			:: d_step { SPTE(root, g) != old -> old = SPTE(root, g) }
			od;
			g++
		fi
	:: d_step { g >= GFNS -> g = 0 } -> break
	od;
	zapping[root] = false
}

inline back_half()
{
	READ_LOCK(WAIT_AS_CTL);
	/* K1 */
	next_root(tdp_mmu_roots);
	do
	:: root != 0 ->
		/* K2 */
		if
		:: scheduled_to_zap[root] ->
			d_step { scheduled_to_zap[root] = false; PROTOCOL(9, role_invalid[root]) };
#ifdef PUT_BEFORE_ZAP
			/* Deliberate bug (put-before-zap): K4 before K3. */
			zapping[root] = true;
			PUT_ROOT(root, NV, WAIT_AS_CTL);
#endif
			/* K3 */
			zap_root();
			d_step { check_root_empty(root) };
#ifndef PUT_BEFORE_ZAP
			/* K4 */
			PUT_ROOT(root, NV, WAIT_AS_CTL)
#endif
		:: else
		fi;
		previous = root;
		next_root(link_next[previous]);
		PUT_PREVIOUS(previous)
		previous = 0
	:: d_step {
			root == 0 ->
			sum = tdp_mmu_roots;
			do
			:: sum != 0 && role_invalid[sum] ->
				check_root_empty(sum);
				PROTOCOL(7, !scheduled_to_zap[sum]);
				sum = link_next[sum]
			:: sum != 0 && !role_invalid[sum] -> sum = link_next[sum]
			:: else -> break
			od;
			sum = 0
		} -> break
	od;
	/* K5 */
	read_unlock()
}

/* kvm_unmap_gfn_range() and kvm_mmu_zap_memslot_pages_and_flush() */
inline zap_only()
{
	next_root(tdp_mmu_roots);
	do
	:: root != 0 ->
		do
		:: d_step { g < NG && SPTE(root, g) == 0 -> g++ }
		:: g < NG && SPTE(root, g) != 0 ->
			d_step { SPTE(root, g) = 0; flush = (flush || !role_invalid[root]); flush_owed = flush; g++ }
		:: d_step { g == NG -> g = 0 } -> break
		od;
		previous = root;
		next_root(link_next[previous]);
		PUT_PREVIOUS(previous)
		previous = 0
	:: root == 0 -> break
	od;
#ifndef ZAP_ONLY_WITHOUT_FLUSH
	/* Otherwise a deliberate bug (B36). */
	if
	:: flush ->
		make_all_cpus_request(REQ_TLB_FLUSH, true);
		flush_owed = false
	:: else
	fi;
#endif
	if
	:: d_step { flush = false; PROTOCOL(16, !flush_owed) }
	fi
}

/* --- flush_shadow.py, kvm_main.py, memslots.py and userspace.py */

#if defined(RETURN_BEFORE_BACK_HALF) || defined(BACK_HALF_AFTER_COMMIT)
/* Deliberate bugs: somebody else runs it, later. */
#define BACK_HALF deferred = true
#else
#define BACK_HALF back_half()
#endif

inline flush_shadow_memslot()
{
#ifndef SPLIT
	zap_all = !quirk_disabled;
#endif
	write_lock();
#ifdef SPLIT
	zap_all = !quirk_disabled;
#endif
	if
	:: zap_all -> front_half(); front_ran = true
	:: else -> zap_only()
	fi;
	write_unlock();
#ifdef SPLIT
	/* As posted, the predicate is evaluated again (B41). */
	zap_all = !quirk_disabled;
#endif
	if
	:: zap_all -> BACK_HALF
	:: else
	fi;
	d_step {
		/* A front half has its back half; no valid root maps the slot. */
		sum = tdp_mmu_roots;
		do
		:: sum != 0 -> FINDING(23, !front_ran || zap_all || !scheduled_to_zap[sum]); sum = link_next[sum]
		:: else -> break
		od;
		check_roots(1, true);
		front_ran = false;
		zap_all = false
	}
}

inline swap_active_memslots(slot)
{
	memslot[1 - active_set] = slot;
	active_set = 1 - active_set;
	synchronize_srcu();
	/* kvm_copy_active_memslot() */
	memslot[1 - active_set] = slot
}

inline run_deferred_back_half()
{
#if defined(RETURN_BEFORE_BACK_HALF) || defined(BACK_HALF_AFTER_COMMIT)
	if
	:: d_step { deferred -> deferred = false } -> back_half()
	:: else
	fi
#else
	skip
#endif
}

proctype ctl()
{
	byte ticket, v, g, cpumask, root, previous, old;
	bool zap_all, front_ran, flush, deferred;

	/* DELETE */
	swap_active_memslots(INVALID_COPY);
	flush_shadow_memslot();
	swap_active_memslots(NO_SLOT);
	/* The commit: no root at all maps the slot. */
	d_step { check_roots(2, false) };
#ifndef RETURN_BEFORE_BACK_HALF
	run_deferred_back_half();
#endif
	retired = true;
	do
	:: d_step { g < NG -> frame_tag[g] = 0; g++ }
	:: d_step { g == NG -> g = 0 } -> break
	od;
#ifdef LAST_CREATE
	do
	:: d_step { g < NG -> frame_tag[g] = SECOND; g++ }
	:: d_step { g == NG -> g = 0 } -> break
	od;
	run_deferred_back_half();
	swap_active_memslots(SECOND);
#endif
	/* The balance. */
	vcpus_done == NV;
	d_step {
		g = tdp_mmu_roots;
		do
		:: g != 0 -> check_root_references(g); g = link_next[g]
		:: else -> break
		od;
		n = 0
	}
}

#ifdef TOGGLER
proctype toggler()
{
	quirk_disabled = true;
	/* No end, which would be one more step. */
end_toggler:
	false
}
#endif

init {
	byte i;

	d_step {
		memslot[0] = FIRST;
		memslot[1] = FIRST;
		tdp_mmu_roots = 1;
		sp_state[1] = SP_ROOT;
		refcount[1] = NV + GIFT;
#ifdef ZAP_ONLY
		quirk_disabled = true;
#endif
		n = 0;
		do
		:: n < NG ->
			frame_tag[n] = FIRST;
#ifdef COLD
			if
			:: n < NG - 1 -> SPTE(1, n) = FIRST
			:: else
			fi;
#else
			SPTE(1, n) = FIRST;
#endif
			n++
		:: else -> break
		od;
#ifdef LIVE_SLOT
		frame_tag[NG] = LIVE;
#endif
		sum = 0;
		do
		:: sum < NV ->
			root_hpa[sum] = 1;
			root_ref[sum] = 1;
			flushed[sum] = 1;
			n = 0;
			do
			:: n < NG -> TLB(sum, 1, n) = SPTE(1, n); n++
			:: else -> break
			od;
			sum++
		:: else -> break
		od;
		n = 0;
		sum = 0
	};
	atomic {
		do
		:: i < NV -> run vcpu(i); i++
		:: else -> i = 0; break
		od;
		run ctl();
#ifdef TOGGLER
		run toggler();
#endif
	}
}
