# SPDX-License-Identifier: GPL-2.0-only
"""Pages of the view as lines of text, many at a time; the layout `json` (JSON Lines) is here, `trace` in `ftrace.py`.

Events of one kind in which the same columns are set have the same shape. So a page is sorted by shape, one `%` template
for each shape is filled from the columns, and the lines are put back into order. That is several times faster than a
dict and an encoder for each event.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from stress.log.naming import WORD_COLUMNS, event_fields, kind_label, named_value
from stress.log.schema import NULL, Field

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from stress.log.view import Page

__all__ = ["JsonLayout", "Layout", "Lines", "Shape", "Texts"]

TEXTS_KEPT_MAX = 4096
_PATTERN_BITS = len(WORD_COLUMNS)
_SHAPES_16_BITS = 1 << 16
# 1000 kinds; a damaged file may show all that an int16 holds, each with any columns set.
SHAPES_KEPT_MAX = 1000 << _PATTERN_BITS


class Texts(dict[int, str]):
    """Texts of a field's words, made when they are first asked for."""

    def __init__(self, text: Callable[[int], str]) -> None:
        """Start empty; `text` makes one."""
        super().__init__()
        self._text = text

    def __missing__(self, word: int) -> str:
        """Make the text, and keep it unless there are too many."""
        text = self._text(word)
        if len(self) < TEXTS_KEPT_MAX:
            self[word] = text
        return text


class Shape(NamedTuple):
    """How the lines of one shape are made.

    Attributes:
        template: with a `%` conversion for each value.
        values: the column of each value, and what it becomes; None leaves the number.
    """

    template: str
    values: tuple[tuple[str, Mapping[int, str] | Sequence[str] | None], ...]


class Layout(Protocol):
    """A form of output."""

    def shape(self, kind: int, columns: tuple[str, ...]) -> Shape:
        """The shape of events of a kind in which these of `WORD_COLUMNS` are set; every line ends with a newline."""

    def derived(self, columns: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Columns that shapes use beside those of the page."""

    def control(self, event: dict[str, Any]) -> str:
        """The line of a control event."""

    def marked(self, line: str) -> str:
        """The line of an event that is to be marked."""


class Lines:
    """Turns pages into text."""

    def __init__(self, layout: Layout) -> None:
        """Any number of pages."""
        self._layout = layout
        self._shapes: dict[int, Shape] = {}

    def text(self, page: Page) -> str:
        """All lines of a page."""
        lines = self._event_lines(page)
        for row in page.here:
            lines[row] = self._layout.marked(lines[row])
        if not page.control:
            return "".join(lines)
        parts, start = [], 0
        for at, event in page.control:
            parts += lines[start:at]
            parts.append(self._layout.control(event))
            start = at
        return "".join(parts + lines[start:])

    def _event_lines(self, page: Page) -> list[str]:
        columns = {"actor": page.actor, **page.columns, **self._layout.derived(page.columns)}
        lines = np.empty(page.rows, object)
        keys = _keys(page)
        order = np.argsort(keys, kind="stable")
        cuts = (np.flatnonzero(np.diff(keys[order])) + 1).tolist()
        for rows in np.split(order, cuts) if page.rows else ():
            shape = self._shape(int(keys[rows[0]]))
            values = [_values(columns[name][rows].tolist(), texts) for name, texts in shape.values]
            template = shape.template
            lines[rows] = [template % row for row in zip(*values, strict=True)]
        made: list[str] = lines.tolist()
        return made

    def _shape(self, key: int) -> Shape:
        shape = self._shapes.get(key)
        if shape is None:
            kind = key >> _PATTERN_BITS
            kind -= _SHAPES_16_BITS if kind >= _SHAPES_16_BITS >> 1 else 0
            shape = self._layout.shape(kind, tuple(name for bit, name in enumerate(WORD_COLUMNS) if key >> bit & 1))
            if len(self._shapes) < SHAPES_KEPT_MAX:
                self._shapes[key] = shape
        return shape


def _keys(page: Page) -> npt.NDArray[Any]:
    """Kind and set columns of each event in one number."""
    keys = page.columns["kind"].view(np.uint16).astype(np.int32) << _PATTERN_BITS
    for bit, name in enumerate(WORD_COLUMNS):
        keys |= (page.columns[name] != NULL).astype(np.int32) << bit
    # 16 bits are sorted by their digits, in a tenth of the time; no known kind needs more.
    return keys.astype(np.uint16) if page.rows and int(keys.max()) < _SHAPES_16_BITS else keys


def _values(words: list[int], texts: Mapping[int, str] | Sequence[str] | None) -> list[Any]:
    return words if texts is None else list(map(texts.__getitem__, words))


class JsonLayout:
    """JSON Lines: one object a line."""

    def __init__(self, actors: Sequence[str]) -> None:
        """Of events of these actors."""
        self._actors = [json.dumps(actor) for actor in actors]

    def shape(self, kind: int, columns: tuple[str, ...]) -> Shape:
        """time_ns, actor, seq, kind, then the fields."""
        members = ['"time_ns":%d', '"actor":%s', '"seq":%d', f'"kind":"{kind_label(kind)}"']
        values: list[tuple[str, Any]] = [("time_ns", None), ("actor", self._actors), ("seq", None)]
        for field in event_fields(kind):
            if field.column in columns:
                named = bool(field.values or field.flags)
                members.append(f'"{field.name}":%{"s" if named else "d"}')
                values.append((field.column, _json_texts(field) if named else None))
        return Shape("{" + ",".join(members) + "}\n", tuple(values))

    def derived(self, columns: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:  # noqa: ARG002 - the protocol's
        """None."""
        return {}

    def control(self, event: dict[str, Any]) -> str:
        """The event as it is."""
        return json.dumps(event, separators=(",", ":")) + "\n"

    def marked(self, line: str) -> str:
        """With `"here":true` as its last member."""
        return line.removesuffix("}\n") + ',"here":true}\n'


def _json_texts(field: Field) -> Texts:
    return Texts(lambda word: json.dumps(named_value(field, word)))
