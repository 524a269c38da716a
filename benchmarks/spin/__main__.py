# SPDX-License-Identifier: GPL-2.0-only
"""`python -m benchmarks.spin`; see run.py."""

from benchmarks.spin.run import main

if __name__ == "__main__":
    raise SystemExit(main())
