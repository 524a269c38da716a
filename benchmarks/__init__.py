# SPDX-License-Identifier: GPL-2.0-only
"""Measurements that print tables; nothing here is a test, and no figure fails a build."""
