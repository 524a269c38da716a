# SPDX-License-Identifier: GPL-2.0-only
"""Engines: processes under fire (run), and interleavings one by one (interleave)."""
