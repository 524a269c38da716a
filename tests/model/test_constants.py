# SPDX-License-Identifier: GPL-2.0-only
"""The model's vocabularies equal those of the log's schema: neither may import the other, so a test holds them together."""

from __future__ import annotations

from model import constants, layout, lockdep, spte
from stress.log import schema


def _field(kind, column):
    return next(field for field in schema.FIELDS[kind] if field.column == column)


def test_events_are_the_schemas_kinds():
    """Every event of the model is a kind of the schema with the same number, and the other way round."""
    events = {name.removeprefix("EV_"): number for name, number in vars(constants).items() if name.startswith("EV_")}
    assert events == {kind.name: kind.value for kind in schema.Kind}


def test_lock_names_are_the_schemas():
    """The lock ids of lock events mean in the log what lockdep means."""
    values = dict(enumerate(lockdep.LOCK_NAMES))
    assert _field(schema.Kind.LOCK_ACQUIRE, "arg0").values == values
    assert _field(schema.Kind.LOCK_RELEASE, "arg0").values == values


def test_finding_kinds_are_the_schemas():
    """The kinds of finding have one numbering."""
    values = dict(enumerate(constants.FINDING_KINDS))
    values.pop(0)
    assert {code: name.replace("_", "-") for code, name in _field(schema.Kind.FINDING, "arg0").values.items()} == values


def test_exit_reasons_and_fault_results_are_the_schemas():
    """As many codes on both sides, in the same range."""
    exits = {value for name, value in vars(constants).items() if name.startswith("EXIT_")}
    assert exits == set(_field(schema.Kind.KVM_EXIT, "arg0").values)
    faults = {value for name, value in vars(constants).items() if name.startswith("FAULT_")}
    assert faults == set(_field(schema.Kind.KVM_PAGE_FAULT, "arg0").values)


def test_slot_operations_and_requests_are_the_schemas():
    """CREATE, DELETE, MOVE and the request bits mean the same on both sides."""
    values = _field(schema.Kind.SLOT_OP_BEGIN, "arg0").values
    assert values == {constants.KVM_MR_CREATE: "create", constants.KVM_MR_DELETE: "delete", constants.KVM_MR_MOVE: "move"}
    values = _field(schema.Kind.REQUEST_SET, "arg0").values
    assert values == {
        constants.KVM_REQ_MMU_FREE_OBSOLETE_ROOTS: "mmu_free_obsolete_roots",
        constants.KVM_REQ_TLB_FLUSH: "tlb_flush",
    }


def test_spte_bits_are_the_schemas():
    """A reader of the log decodes an SPTE as the model encodes it."""
    bits = schema.SPTE_BITS
    word = spte.make_spte(5, 9, write=True)
    parts = {name: (word >> low) & ((1 << width) - 1) for name, (low, width) in bits.items()}
    assert parts == {"present": 1, "leaf": 1, "writable": 1, "accessed": 1, "dirty": 1, "pfn": 5, "incarnation": 9}
    assert bits["pfn"] == (spte.PFN_SHIFT, spte.PFN_BITS)
    assert bits["incarnation"] == (spte.INCARNATION_SHIFT, spte.INCARNATION_BITS)
    assert schema.FROZEN_SPTE == spte.FROZEN_SPTE


def test_records_have_the_schemas_length():
    """A ring record of the layout is one of the schema."""
    assert layout.RING_WORDS == schema.RECORD_WORDS


def test_counters_fit():
    """The counters fit their row, and have names of their own."""
    assert len(set(constants.COUNTERS)) == len(constants.COUNTERS) <= layout.NR_COUNTERS
