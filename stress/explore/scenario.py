# SPDX-License-Identifier: GPL-2.0-only
"""From a scenario with a script to the opening of its exploration."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from model.layout import ACTOR_CTL, ACTOR_RCU, ACTOR_TOGGLER
from stress.config import controller_item, vcpu_item
from stress.engine.settings import vm_settings
from stress.explore.opening import Opening

if TYPE_CHECKING:
    from stress.config import Config

__all__ = ["opening_of"]

ACCESSES_PER_ENTRY = 1 << 20  # scripts say themselves where the guest leaves


def opening_of(config: Config) -> Opening:
    """The opening of a scenario whose script has been checked."""
    script = config.script
    vcpus = [tuple(vcpu_item(item) for item in items) for items in script.vcpus]
    scripts = list(enumerate(vcpus))
    scripts.append((ACTOR_CTL, tuple(controller_item(item) for item in script.ctl)))
    if script.rcu:
        scripts.append((ACTOR_RCU, ()))
    if script.toggler:
        scripts.append((ACTOR_TOGGLER, (0,) * script.toggler))
    settings = replace(
        vm_settings(config),
        accesses_per_entry_max=ACCESSES_PER_ENTRY,
        halt_us_max=1,
        cache_pages=max(script.cache_pages, config.vm.levels),
        scripts=tuple(scripts),
    )
    # Every vCPU's cache full, its tables and those of the roots before.
    settings = replace(settings, nr_pages=settings.nr_pages + settings.nr_vcpus * settings.cache_pages)
    warm: tuple[tuple[int, ...], ...] = ()
    if script.warm:
        warm = tuple(_touched(config, items) for items in vcpus)
    return Opening(
        settings,
        present=tuple(range(len(config.slots))),
        warm=warm,
        memory=config.explore.memory,
        steps_max=config.explore.steps_max,
        need_resched=script.need_resched,
    )


def _touched(config: Config, items: tuple[int, ...]) -> tuple[int, ...]:
    """The gfns of a script, each once, as far as a slot is there at the start."""
    gfns = dict.fromkeys(item >> 1 for item in items if item >= 0)
    return tuple(gfn for gfn in gfns if any(slot.base_gfn <= gfn < slot.base_gfn + slot.npages for slot in config.slots))
