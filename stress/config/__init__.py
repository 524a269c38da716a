# SPDX-License-Identifier: GPL-2.0-only
"""The scenario file: its schema, the rules between its keys, and reading it."""

from __future__ import annotations

from stress.config.check import gfn_ranges, pages_needed
from stress.config.load import config_hash, load_config, resolved_toml
from stress.config.schema import Check, Config, Evidence, Log, Perturb, Run, Slot, Toggler, Vm, Workload

__all__ = [
    "Check",
    "Config",
    "Evidence",
    "Log",
    "Perturb",
    "Run",
    "Slot",
    "Toggler",
    "Vm",
    "Workload",
    "config_hash",
    "gfn_ranges",
    "load_config",
    "pages_needed",
    "resolved_toml",
]
