# SPDX-License-Identifier: GPL-2.0-only
"""`python -m stress.cli` is the `zaptorture` script."""

from __future__ import annotations

from stress.cli import main

main()
