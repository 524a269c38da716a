# SPDX-License-Identifier: GPL-2.0-only
"""Signatures: which findings are one and the same, so that a week's soak ends in three entries and not in thirty thousand.

A finding is named by its rule (kind and invariant) and its site: the sentence of the check that saw it, without the numbers in
it, and the role of the actor that saw it. The protocol's variant and the planted bugs belong to the name as well: the same
sentence about another protocol is another finding.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["folded", "signature_of", "title_of"]

SIGNATURE_DIGITS = 10
# A run may know that there was a finding, and no more: its actor was killed while it wrote it down.
UNKNOWN = {"kind": "unknown", "invariant": "?", "actor": "somebody", "detail": "a finding of which there is no record"}
_NUMBER = re.compile(r"\b(0x[0-9a-f]+|-?[0-9][0-9.]*)\b")
_OTHERS = re.compile(r" \(.*", re.DOTALL)  # what the others did meanwhile differs each time
_ROLE = re.compile(r"[0-9]+$")


def title_of(finding: Mapping[str, Any], variant: str, bugs: str) -> str:
    """The finding's name in one line.

    Args:
        finding: as in verdict.json.
        variant: of the protocol.
        bugs: planted ones, joined by commas.
    """
    site = _NUMBER.sub("N", _OTHERS.sub("", finding["detail"]))
    planted = f" with {bugs}" if bugs else ""
    return f"{finding['kind']} [{finding['invariant']}] {_ROLE.sub('', finding['actor'])}: {site} ({variant}{planted})"


def signature_of(title: str) -> str:
    """A short name for folders and tables."""
    return hashlib.sha256(title.encode()).hexdigest()[:SIGNATURE_DIGITS]


def folded(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Signature and title of each different finding in a row with a violation, in the order in which they were seen."""
    titles = dict.fromkeys(title_of(finding, row["variant"], row["bugs"]) for finding in row["findings"] or [UNKNOWN])
    return [(signature_of(title), title) for title in titles]
