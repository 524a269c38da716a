# SPDX-License-Identifier: GPL-2.0-only
"""Planted bugs by any of their names: that of the switch, or the id of the historic bug that it revives."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stress.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["bug_overrides"]

# Not a switch but the patch as posted, with somebody who changes the quirk in between.
QUIRK_TOCTOU = ('variant="split"', 'toggler.mode="set-once"', "script.toggler=1")


def bug_overrides(names: Sequence[str]) -> list[str]:
    """The overrides that plant these bugs in a scenario with a script.

    Raises:
        UsageError: a name that no bug has.
    """
    # Imported here: it brings the compiler along, which takes longer than everything else a usage error does.
    from model.mutations import MUTATIONS  # noqa: PLC0415

    overrides: list[str] = []
    bugs: list[str] = []
    for name in names:
        revived = [switch for switch, mutation in MUTATIONS.items() if mutation.bug == name]
        if name == "B41":
            overrides += QUIRK_TOCTOU
        elif name in MUTATIONS:
            bugs.append(name)
        elif revived:
            bugs += revived
        else:
            known = {*MUTATIONS, "B41", *(mutation.bug for mutation in MUTATIONS.values() if mutation.bug)}
            hint = did_you_mean(name, known) or f"one of {', '.join(sorted(known))}"
            raise UsageError(f'--bug "{name}": expected a planted bug; {hint}{"" if hint.endswith("?") else "."}')
    if bugs:
        overrides.append(f"bugs={json.dumps(list(dict.fromkeys(bugs)))}")
    return overrides
