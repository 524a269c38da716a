# SPDX-License-Identifier: GPL-2.0-only
"""The KVM MMU's zap protocol as straight-line Python: state, locks, memslots, TDP MMU, TLB, vCPU, userspace, oracle.

Nothing here starts a process, opens a file or logs through a library. Every function runs interpreted as it stands and is
compiled when compiled code calls it (see docs/design/one-source.md).
"""
