# SPDX-License-Identifier: GPL-2.0-only
"""The scenario file: its schema, the rules between its keys, and reading it."""

from __future__ import annotations

from stress.config.bugs import bug_overrides
from stress.config.check import gfn_ranges, pages_needed
from stress.config.load import config_from, config_hash, load_config, resolved_toml, set_key
from stress.config.schema import (
    Check,
    Config,
    Evidence,
    Explore,
    Log,
    Nemesis,
    Perturb,
    Run,
    Script,
    Slot,
    Toggler,
    Vm,
    Workload,
    parse_duration,
)
from stress.config.script import check_script, controller_item, vcpu_item

__all__ = [
    "Check",
    "Config",
    "Evidence",
    "Explore",
    "Log",
    "Nemesis",
    "Perturb",
    "Run",
    "Script",
    "Slot",
    "Toggler",
    "Vm",
    "Workload",
    "bug_overrides",
    "check_script",
    "config_from",
    "config_hash",
    "controller_item",
    "gfn_ranges",
    "load_config",
    "pages_needed",
    "parse_duration",
    "resolved_toml",
    "set_key",
    "vcpu_item",
]
