# SPDX-License-Identifier: GPL-2.0-only
"""The model's parts as C functions without arguments: an actor's whole part, and the end of the VM.

Import only after the build of the primitives has been chosen.
"""

from __future__ import annotations

from model.layout import VM
from model.stages import finish_vm, play
from stress.explore.compiled import record_at, the_board
from stress.explore.native import go_to
from stress.explore.scheduler import leave

_vm_at = record_at(VM)


def actor_callback() -> None:
    """Play whoever's turn it is, then leave for ever."""
    board = the_board()
    me = board.current[0]
    play(_vm_at(board.base[0]), board.actor_of[me])
    go_to(me, leave(the_board(), me))


def finish_callback() -> None:
    """The last stage of an execution."""
    finish_vm(_vm_at(the_board().base[0]))
