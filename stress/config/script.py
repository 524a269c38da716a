# SPDX-License-Identifier: GPL-2.0-only
"""The items of a script, as text and as the numbers that model/script.py knows; and what a script must be to mean something."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from model.constants import KVM_MR_CREATE, KVM_MR_DELETE, KVM_MR_MOVE, SCRIPT_EXIT, SCRIPT_HALT
from model.layout import SCRIPT_MAX
from stress.config.tables import BadValueError

if TYPE_CHECKING:
    from stress.config.schema import Config

__all__ = ["check_script", "controller_item", "vcpu_item"]

EXPLORED_VCPUS_MAX = 8
_CHANGES = {"create": KVM_MR_CREATE, "delete": KVM_MR_DELETE, "move": KVM_MR_MOVE}


def vcpu_item(text: str) -> int:
    """The number of a vCPU's item.

    Raises:
        ValueError: it is none.
    """
    if text == "exit":
        return SCRIPT_EXIT
    if text == "halt":
        return SCRIPT_HALT
    match = re.fullmatch(r"([rw])([0-9]{1,12})", text)
    if match is None:
        raise ValueError(text)
    return int(match[2]) << 1 | (match[1] == "w")


def controller_item(text: str) -> int:
    """The number of an item of the controller.

    Raises:
        ValueError: it is none.
    """
    match = re.fullmatch(r"(create|delete|move) ([0-9])", text)
    if match is None:
        raise ValueError(text)
    return _CHANGES[match[1]] << 8 | int(match[2])


def check_script(config: Config) -> None:
    """Refuse a script that could not be played.

    Raises:
        BadValueError: the first rule broken.
    """
    script = config.script
    if len(script.vcpus) != config.vm.nr_vcpus:
        expected = f"a list for each of the {config.vm.nr_vcpus} vCPUs of vm.nr_vcpus"
        raise BadValueError(("script", "vcpus"), script.vcpus, expected)
    if config.vm.nr_vcpus > EXPLORED_VCPUS_MAX:
        raise BadValueError(("vm", "nr_vcpus"), config.vm.nr_vcpus, f"1 to {EXPLORED_VCPUS_MAX} beside a script")
    nr_gfns = 1 << (config.vm.levels * config.vm.bits_per_level)
    for vcpu, items in enumerate(script.vcpus):
        if len(items) > SCRIPT_MAX:
            raise BadValueError(("script", "vcpus", vcpu), items, f"{SCRIPT_MAX} items at most")
        for index, item in enumerate(items):
            path = ("script", "vcpus", vcpu, index)
            try:
                number = vcpu_item(item)
            except ValueError:
                raise BadValueError(path, item, '"r" or "w" and a gfn such as "r0", or "exit" or "halt"') from None
            if number >> 1 >= nr_gfns:
                raise BadValueError(path, item, f"a gfn below {nr_gfns}, of vm.levels and vm.bits_per_level")
    _check_operations(config)
    if (config.toggler.mode != "off") != (script.toggler > 0):
        raise BadValueError(("script", "toggler"), script.toggler, 'a number above 0 exactly when toggler.mode is not "off"')


def _check_operations(config: Config) -> None:
    present = [True] * len(config.slots)
    if len(config.script.ctl) > SCRIPT_MAX:
        raise BadValueError(("script", "ctl"), config.script.ctl, f"{SCRIPT_MAX} items at most")
    for index, item in enumerate(config.script.ctl):
        path = ("script", "ctl", index)
        try:
            number = controller_item(item)
        except ValueError:
            raise BadValueError(path, item, '"create", "delete" or "move" and the number of a slot, such as "delete 0"') from None
        change, slot = number >> 8, number & 0xFF
        if slot >= len(config.slots):
            raise BadValueError(path, item, f"a slot below {len(config.slots)}")
        if present[slot] == (change == KVM_MR_CREATE):
            state = "is there" if present[slot] else "is not there"
            raise BadValueError(path, item, f"another operation, since slot {slot} {state} by then")
        if change == KVM_MR_MOVE and config.slots[slot].move_to is None:
            raise BadValueError(path, item, f'a slot with "move" in its ops and move_to, which slots.{slot} has not')
        present[slot] = change != KVM_MR_DELETE
