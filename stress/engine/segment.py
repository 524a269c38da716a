# SPDX-License-Identifier: GPL-2.0-only
"""The shared-memory segment: an anonymous file inherited by fork, so nothing of it outlives the run's processes.

Only the pages that the geometry needs are reserved, up front: a machine without them says so here and not by a SIGBUS in the
middle of a soak.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from model.layout import ACTOR_CTL, CACHE_LINE_BYTES, MAX_ENTRIES, RING_WORDS, VM
from stress.errors import HarnessError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.vm import VmSettings

__all__ = ["SharedSegment"]

_WORD_BYTES = 8


class SharedSegment:
    """The record `VM` and a few words behind it for the drain's status, in memory that forked processes share."""

    def __init__(self, settings: VmSettings, actors: list[int], status_words: int) -> None:
        """Reserve and map the segment.

        Args:
            settings: says how much of each array is used.
            actors: ids of the actors that take part.
            status_words: int64 words for the drain.

        Raises:
            HarnessError: the machine has not enough memory for it.
        """
        status_offset = -(-VM.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
        size = status_offset + max(status_words, 1) * _WORD_BYTES
        fd = os.memfd_create("zaptorture", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            reserved = 0
            for start, length in [*_used(settings, actors), (status_offset, size - status_offset)]:
                os.posix_fallocate(fd, start, length)
                reserved += length
            self._map = mmap.mmap(fd, size)
        except OSError as error:
            raise HarnessError(
                f"shared memory: {size} bytes to map, of them "
                f"{sum(length for _, length in _used(settings, actors))} to reserve: {error.strerror}; "
                "free memory, or lower vm.nr_vcpus or log.window_events."
            ) from error
        finally:
            os.close(fd)
        self.reserved_bytes = reserved
        self.record: NDArray[np.void] = np.ndarray((1,), VM, buffer=self._map)
        self.status: NDArray[np.int64] = np.ndarray((status_words,), np.int64, buffer=self._map, offset=status_offset)


def _used(settings: VmSettings, actors: list[int]) -> list[tuple[int, int]]:
    """The byte ranges of the record that a run touches."""
    frames = max(slot.npages for slot in settings.slots) * len(settings.slots)
    ranges = [(0, _offset("pt") + settings.nr_pages * MAX_ENTRIES * _WORD_BYTES), (_offset("frame_tag"), frames * _WORD_BYTES)]
    vcpus = [actor for actor in actors if actor < ACTOR_CTL]
    for name, rows, row_bytes in (
        ("tlb_key", vcpus, settings.tlb_entries * _WORD_BYTES),
        ("tlb_spte", vcpus, settings.tlb_entries * _WORD_BYTES),
        ("site", actors, _stride("site")),
        ("ring", actors, settings.ring_slots * RING_WORDS * _WORD_BYTES),
    ):
        ranges += [(_offset(name) + row * _stride(name), max(row_bytes, CACHE_LINE_BYTES)) for row in rows]
    return ranges


def _offset(name: str) -> int:
    fields: Any = VM.fields
    return int(fields[name][1])


def _stride(name: str) -> int:
    fields: Any = VM.fields
    dtype = fields[name][0]
    return int(dtype.itemsize // dtype.shape[0])
