# SPDX-License-Identifier: GPL-2.0-only
"""What people see of a run: the plan before it, its progress, and the findings and verdict after it."""
