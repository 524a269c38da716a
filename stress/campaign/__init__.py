# SPDX-License-Identifier: GPL-2.0-only
"""Campaigns and soaks: many runs from one file, journaled so that nothing is lost or counted twice, judged as a whole."""
