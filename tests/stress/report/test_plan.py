# SPDX-License-Identifier: GPL-2.0-only
"""The plan of a dry run."""

from __future__ import annotations

from stress.config import Config, Evidence, Log, Nemesis, Perturb, Slot, Toggler, Vm
from stress.report.plan import VARIANTS, plan_lines


def test_the_plan_names_what_the_config_decides() -> None:
    """Every table leaves its mark."""
    config = Config(
        scenario="hot-slot",
        variant="split",
        bugs=("request-without-ack",),
        vm=Vm(nr_vcpus=3, levels=3, bits_per_level=4, quirk_slot_zap_all=False),
        slots=(Slot(base_gfn=16, npages=8, ops=("delete", "move"), move_to=64), Slot(base_gfn=0, npages=1)),
        toggler=Toggler(mode="flip"),
        perturb=Perturb(probability=0.001),
        nemesis=Nemesis(acts=("kill-vcpu", "hog"), dead_ms_max=7),
        evidence=Evidence(deletes=1000),
        log=Log(policy="sampled"),
    )
    plan = "\n".join(plan_lines(config))
    for expected in [
        "scenario hot-slot, 10 s",
        "variant split (both halves, quirk evaluated twice)",
        "planted bugs: request-without-ack",
        "actors: 3 vCPUs, controller, quirk toggler",
        "geometry: 3 levels of 16 entries",
        "frames: 9 of 65,536",
        "slot 0: 8 pages at gfn 0x10, delete and move (to gfn 0x40 and back)",
        "slot 1: 1 pages at gfn 0x0, static",
        "a delete zaps leafs, toggled",
        "perturbation: 0.001 of all primitives, yield:spin:sleep = 6:3:1",
        "nemesis: kill-vcpu, hog; one about every 200 ms, for up to 100 ms, dead for up to 7 ms",
        "evidence: deletes >= 1,000",
        "log: all events, but one guest access in 64",
    ]:
        assert expected in plan


def test_every_variant_has_words() -> None:
    """A new one must not break the plan."""
    for variant in VARIANTS:
        assert VARIANTS[variant] in "\n".join(plan_lines(Config(variant=variant)))
