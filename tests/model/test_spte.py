# SPDX-License-Identifier: GPL-2.0-only
"""Tests of model/spte.py."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from model.layout import MAX_FRAMES, MAX_PAGES
from model.spte import (
    FROZEN_SPTE,
    INCARNATION_BITS,
    PFN_BITS,
    is_dirty_spte,
    is_frozen_spte,
    is_last_spte,
    is_shadow_present_pte,
    make_nonleaf_spte,
    make_spte,
    spte_to_child_pt,
    spte_to_incarnation,
    spte_to_pfn,
)

pfns = st.integers(0, (1 << PFN_BITS) - 1)
incarnations = st.integers(0, (1 << INCARNATION_BITS) - 1)


@given(pfn=pfns, incarnation=incarnations, write=st.booleans())
def test_a_leaf_gives_back_what_it_was_made_of(pfn, incarnation, write):
    """Whatever pfn and incarnation, a leaf is a non-negative 64-bit word that holds both and no child."""
    spte = make_spte(pfn, incarnation, write)
    assert 0 <= spte < 1 << 63
    assert is_shadow_present_pte(spte)
    assert is_last_spte(spte)
    assert is_dirty_spte(spte) == write
    assert (spte_to_pfn(spte), spte_to_incarnation(spte), spte_to_child_pt(spte)) == (pfn, incarnation, 0)
    assert not is_frozen_spte(spte)


@given(page=st.integers(1, MAX_PAGES - 1))
def test_a_nonleaf_gives_back_its_table(page):
    """A present non-leaf points to its page and is no leaf."""
    spte = make_nonleaf_spte(page)
    assert is_shadow_present_pte(spte)
    assert not is_last_spte(spte)
    assert spte_to_child_pt(spte) == page
    assert not is_frozen_spte(spte)


def test_frozen_and_nonpresent_have_no_child():
    """A walker that meets FROZEN or nothing goes no further down."""
    for spte in (FROZEN_SPTE, 0):
        assert not is_shadow_present_pte(spte)
        assert spte_to_child_pt(spte) == 0
    assert is_frozen_spte(FROZEN_SPTE)
    assert not is_frozen_spte(0)


def test_every_frame_and_page_of_the_layout_fits():
    """The pfn field is wide enough for the greatest frame and page that the layout knows."""
    assert max(MAX_FRAMES, MAX_PAGES) <= 1 << PFN_BITS
