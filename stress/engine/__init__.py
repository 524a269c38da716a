# SPDX-License-Identifier: GPL-2.0-only
"""The engine of `run`: processes under fire, and a watchdog over them."""
