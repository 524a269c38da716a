# SPDX-License-Identifier: GPL-2.0-only
"""SPTE encoding (arch/x86/kvm/mmu/spte.h): one non-negative 64-bit word.

    bit 0        present
    bit 1        leaf ("last"); a present non-leaf has a page of the pool where a leaf has its pfn
    bit 2        writable
    bit 3, 4     accessed, dirty
    bits 5-21    pfn or page index
    bits 22-61   incarnation of the slot object that the fault looked up (leafs only), 40 bits

The kernel has no incarnation; it stands beside the pfn so that a stale mapping stays recognisable after its frame has got a
new owner. Four bits of it are its place, the other 36 last for eleven weeks at ten thousand slot operations a second
(docs/design/incarnations.md).
"""

from __future__ import annotations

from model.jit import kernel

__all__ = [
    "FROZEN_SPTE",
    "INCARNATION_BITS",
    "PFN_BITS",
    "is_accessed_spte",
    "is_dirty_spte",
    "is_frozen_spte",
    "is_last_spte",
    "is_shadow_present_pte",
    "make_nonleaf_spte",
    "make_spte",
    "spte_to_child_pt",
    "spte_to_incarnation",
    "spte_to_pfn",
]

SPTE_PRESENT = 1 << 0
SPTE_LEAF = 1 << 1
SPTE_WRITABLE = 1 << 2
SPTE_ACCESSED = 1 << 3
SPTE_DIRTY = 1 << 4
PFN_SHIFT = 5
PFN_BITS = 17
PFN_MASK = (1 << PFN_BITS) - 1
INCARNATION_SHIFT = PFN_SHIFT + PFN_BITS
INCARNATION_BITS = 40

# The kernel's value (REMOVED_SPTE before 6.11): not present, and never made by anything else.
FROZEN_SPTE = 0x5A0


@kernel
def make_spte(pfn: int, incarnation: int, write: bool) -> int:
    """A present, writable 4K leaf; a write fault makes it dirty at once."""
    spte = (incarnation << INCARNATION_SHIFT) | (pfn << PFN_SHIFT) | SPTE_PRESENT | SPTE_LEAF | SPTE_WRITABLE | SPTE_ACCESSED
    if write:
        spte |= SPTE_DIRTY
    return spte


@kernel
def make_nonleaf_spte(page: int) -> int:
    """A present entry that points to a page table."""
    return (page << PFN_SHIFT) | SPTE_PRESENT | SPTE_WRITABLE | SPTE_ACCESSED


@kernel
def is_shadow_present_pte(spte: int) -> bool:
    """Present, leaf or not; FROZEN is not present."""
    return spte & SPTE_PRESENT != 0


@kernel
def is_last_spte(spte: int) -> bool:
    """Of a present SPTE: is it a leaf?"""
    return spte & SPTE_LEAF != 0


@kernel
def is_frozen_spte(spte: int) -> bool:
    """Taken out by an owner who has not finished with it."""
    return spte == FROZEN_SPTE


@kernel
def is_accessed_spte(spte: int) -> bool:
    """Has the guest, or the fault on its behalf, used it?"""
    return spte & SPTE_ACCESSED != 0


@kernel
def is_dirty_spte(spte: int) -> bool:
    """Has the guest written through it?"""
    return spte & SPTE_DIRTY != 0


@kernel
def spte_to_pfn(spte: int) -> int:
    """The frame of a leaf."""
    return (spte >> PFN_SHIFT) & PFN_MASK


@kernel
def spte_to_child_pt(spte: int) -> int:
    """The page table below a present non-leaf, else 0 (spte_to_child_pt() returns NULL there)."""
    if spte & (SPTE_PRESENT | SPTE_LEAF) != SPTE_PRESENT:
        return 0
    return (spte >> PFN_SHIFT) & PFN_MASK


@kernel
def spte_to_incarnation(spte: int) -> int:
    """The incarnation that a leaf was made for."""
    return spte >> INCARNATION_SHIFT
