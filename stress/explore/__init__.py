# SPDX-License-Identifier: GPL-2.0-only
"""The exploring engine: the model's own functions in one thread, one interleaving after another, each of them repeatable."""
