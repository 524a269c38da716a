# SPDX-License-Identifier: GPL-2.0-only
"""Tests of model/layout.py."""

from __future__ import annotations

import numpy as np
import pytest

from model import layout
from model.layout import CACHE_LINE_BYTES, NR_FIELDS_MAX, VM, actor_name, empty_vm, field_table, views

RECORDS = {name: VM.fields[name][0].base for name in VM.names if VM.fields[name][0].base.names}
# Words that different actors write; each must have its line to itself (or share it with words of the same writer only).
SHARED = {
    "mmu_lock": ("cnts", "ticket_next", "ticket_owner", "owner"),
    "slots_lock": ("ticket_next", "ticket_owner", "owner"),
    "actor": ("ipi_sent", "ipi_acked", "need_resched", "srcu_seq", "rcu_seq", "held", "ring_head", "ring_tail"),
    "vcpu": ("mode", "requests", "root_hpa"),
    "kvm": ("mmu_valid_gen", "mmu_invalidate_seq", "disabled_quirks", "tdp_mmu_roots", "tdp_mmu_pages", "zapping"),
    "sp": ("role_invalid", "refcount"),
    "run": ("stop", "vcpus_running", "rcu_stop", "nr_findings", "destroyed"),
    "rcu": ("pending", "kick", "freed", "queued"),
}


@pytest.mark.parametrize("record", RECORDS)
def test_no_field_is_hidden_by_an_array_attribute(record):
    """`vm.slot.flags` would be ndarray.flags in compiled code: no field may be named like an attribute of an array."""
    assert not set(RECORDS[record].names) & set(dir(np.ndarray))


def test_no_top_field_is_hidden_by_a_record_attribute():
    """The same for the record itself, which compiled code takes as a numpy record."""
    assert not set(VM.names) & set(dir(np.void))


@pytest.mark.parametrize("record", SHARED)
def test_words_of_different_writers_share_no_cache_line(record):
    """Within a row and from row to row, groups start on lines of their own."""
    fields = RECORDS[record].fields
    lines = [fields[name][1] // CACHE_LINE_BYTES for name in SHARED[record]]
    assert len(set(lines)) == len(lines)
    assert all(fields[name][1] % CACHE_LINE_BYTES == 0 for name in SHARED[record])
    assert RECORDS[record].itemsize % CACHE_LINE_BYTES == 0


def test_top_fields_start_cache_lines_and_do_not_overlap():
    """Each field of the record lies behind the one before it, on a line of its own."""
    end = 0
    for name in VM.names:
        dtype, offset = VM.fields[name][:2]
        assert offset % CACHE_LINE_BYTES == 0
        assert offset >= end
        end = offset + dtype.itemsize
    assert end <= VM.itemsize


def test_views_and_record_are_the_same_memory():
    """What is written through the interpreted twin is found in the record, in nested rows too."""
    record = empty_vm()
    vm = views(record)
    vm.mmu_lock.cnts[0] = 7
    vm.vcpu.mode[3] = 1
    vm.pt[2, 1] = 99
    assert record[0]["mmu_lock"]["cnts"][0] == 7
    assert record[0]["vcpu"]["mode"][3] == 1
    assert record[0]["pt"][2, 1] == 99


def test_the_field_table_names_every_word():
    """Every word of the head that belongs to a field has that field's id; only padding has none."""
    names, table = field_table()
    assert len(names) <= NR_FIELDS_MAX
    assert len(set(names)) == len(names)
    covered = set()
    for top in VM.names:
        dtype, start = VM.fields[top][:2]
        if start // 8 >= len(table):
            assert top in names
            continue
        base, count = dtype.base, int(np.prod(dtype.shape))
        parts = [(top, 0)] if base.names is None else [(f"{top}.{part}", base.fields[part][1]) for part in base.names]
        for name, offset in parts:
            for row in range(count):
                word = (start + row * base.itemsize + offset) // 8
                assert names[table[word]] == name
                covered.add(word)
    assert set(np.flatnonzero(table)) == covered


def test_actors_have_names_of_their_own():
    """Log files and findings tell actors apart by name."""
    assert len({actor_name(actor) for actor in range(layout.MAX_ACTORS)}) == layout.MAX_ACTORS


def test_untouched_memory_costs_nothing():
    """The record is large only on paper: its geometry is a limit, not an allocation."""
    assert VM.itemsize > 100 * 2**20
    assert not views(empty_vm()).pt[-1, -1]
