# SPDX-License-Identifier: GPL-2.0-only
"""zaptorture: concurrency stress tester for KVM's MMU zap protocol."""

__all__ = ["__version__"]

__version__ = "0.1.0"
