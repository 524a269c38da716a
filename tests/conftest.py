# SPDX-License-Identifier: GPL-2.0-only
"""Shared by all tests: one Hypothesis profile."""

from __future__ import annotations

from hypothesis import settings

# Wall time is no property of the code under test: a busy machine must not fail a test.
settings.register_profile("zaptorture", deadline=None)
settings.load_profile("zaptorture")
