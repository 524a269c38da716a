# SPDX-License-Identifier: GPL-2.0-only
"""The scenario that `explore` searches completely, once more for the model checker Spin: zap.pml, and what runs it."""
