# SPDX-License-Identifier: GPL-2.0-only
"""The footer of a file of events, read and checked by ourselves.

pyarrow gives the same numbers, but ends the process where a damaged footer contradicts itself: what its metadata objects
throw is not caught on the way to Python. Nothing in a Parquet file protects the footer, so every number in it that the
reader or pyarrow relies on is held against what the writer leaves: the schema, one chunk of each column in each row
group, chunks one behind the other from the first byte to the footer, seqs that grow.

The footer is a struct in Thrift's compact encoding; Parquet's `parquet.thrift` numbers its fields.
"""

from __future__ import annotations

import itertools
import json
import os
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from stress.log.reading import open_regular, reason
from stress.log.schema import COLUMNS, METADATA_KEY, SCHEMA_VERSION

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DamageError", "Footer", "Group", "OtherVersionError", "footer_checksum", "read_footer"]

# The writer's row groups have 64 Ki rows and its footers 12 KB; these bound what damage may ask of memory and time.
ROW_GROUP_ROWS_MAX = 1 << 20
FOOTER_BYTES_MAX = 1 << 20
VERSION_NULLABLE = 1  # the format version whose columns may hold nulls

_MAGIC = b"PAR1"
_TAIL_BYTES = 8  # length of the footer, magic
_DEPTH_MAX = 16

# Physical types and whether a column's values may be missing, as parquet.thrift numbers them.
_INT32, _INT64 = 1, 2
_REQUIRED, _OPTIONAL = 0, 1
_TYPES = [_INT32 if name == "kind" else _INT64 for name in COLUMNS]
_NAMES = [name.encode() for name in COLUMNS]
_NEVER_NULL = ("seq", "time_ns", "kind")
_SEQ, _TIME = 0, 1  # places of the columns whose statistics are used

# Numbers of fields.
_FILE_SCHEMA, _FILE_ROWS, _FILE_GROUPS, _FILE_PAIRS = 2, 3, 4, 5
_FILE_ENCRYPTION = 8
_ELEMENT_TYPE, _ELEMENT_REPETITION, _ELEMENT_NAME, _ELEMENT_CHILDREN = 1, 3, 4, 5
_PAIR_KEY, _PAIR_VALUE = 1, 2
_GROUP_CHUNKS, _GROUP_ROWS = 1, 3
_CHUNK_PATH, _CHUNK_META, _CHUNK_CRYPTO, _CHUNK_ENCRYPTED = 1, 3, 8, 9
_META_TYPE, _META_PATH, _META_VALUES, _META_BYTES, _META_DATA, _META_DICTIONARY, _META_STATISTICS = 1, 3, 5, 7, 9, 11, 12
_STATISTICS_MAX, _STATISTICS_MIN = 5, 6
_STATISTICS_OLD = {_STATISTICS_MAX: 1, _STATISTICS_MIN: 2}  # fields that later ones took the place of; both are written

# Types of the compact encoding.
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)


class DamageError(Exception):
    """A file, or a part of it, cannot be read; the message says why."""


class OtherVersionError(DamageError):
    """A file is of a format that is not known here."""

    def __init__(self, version: int) -> None:
        super().__init__(f"format version {version}: this program reads 1 to {SCHEMA_VERSION}")
        self.version = version


class Group(NamedTuple):
    """A row group: its rows and the lowest and highest seq and time."""

    rows: int
    first_seq: int
    last_seq: int
    first_ns: int
    last_ns: int


class Footer(NamedTuple):
    """What the reader needs of a footer.

    Attributes:
        actor: the actor that the file names.
        version: the format's version.
        groups: the row groups, at least one.
        checksum: of the footer's bytes.
    """

    actor: str
    version: int
    groups: tuple[Group, ...]
    checksum: int


def read_footer(path: Path) -> Footer:
    """Read and check a file's footer.

    Raises:
        DamageError: the file is not one that the writer left.
    """
    data, start = _footer_bytes(path)
    try:
        file, _ = _struct(data, 0, 0)
        return _checked(file, start, zlib.crc32(data))
    # A damaged byte changes a field's number or type, or sends the decoder behind the end.
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamageError("its footer is damaged") from error


def footer_checksum(path: Path) -> int:
    """The checksum of a file's footer as it is now.

    Raises:
        DamageError: there is none.
    """
    return zlib.crc32(_footer_bytes(path)[0])


def _footer_bytes(path: Path) -> tuple[bytes, int]:
    """The footer, and where it begins in the file."""
    try:
        with open_regular(path) as file:
            size_bytes = file.seek(0, os.SEEK_END)
            if size_bytes < len(_MAGIC) + _TAIL_BYTES:
                raise DamageError(f"{size_bytes} bytes are too few for a Parquet file")
            file.seek(-_TAIL_BYTES, os.SEEK_END)
            tail = file.read(_TAIL_BYTES)
            if tail[4:] != _MAGIC:
                raise DamageError("cut off, or no Parquet file")
            footer_bytes = int.from_bytes(tail[:4], "little")
            start = size_bytes - _TAIL_BYTES - footer_bytes
            if footer_bytes > FOOTER_BYTES_MAX or start < len(_MAGIC):
                raise DamageError(f"its footer would be {footer_bytes} bytes long")
            file.seek(start)
            return file.read(footer_bytes), start
    except OSError as error:
        raise DamageError(reason(error)) from error


def _checked(file: dict[int, Any], end: int, checksum: int) -> Footer:
    """The footer of a file whose pages end at byte `end`."""
    if _FILE_ENCRYPTION in file:
        raise DamageError("it is encrypted")
    actor, version, first_seq = _about({pair[_PAIR_KEY]: pair[_PAIR_VALUE] for pair in file[_FILE_PAIRS]})
    _check_schema(file[_FILE_SCHEMA], version)
    offset = len(_MAGIC)
    groups = []
    for group in file[_FILE_GROUPS]:
        rows, chunks = group[_GROUP_ROWS], group[_GROUP_CHUNKS]
        if not 0 < rows <= ROW_GROUP_ROWS_MAX or len(chunks) != len(COLUMNS):
            raise DamageError(f"a row group of {rows} rows and {len(chunks)} columns")
        metas = [chunk[_CHUNK_META] for chunk in chunks]
        if any(field in chunk for chunk in chunks for field in (_CHUNK_PATH, _CHUNK_CRYPTO, _CHUNK_ENCRYPTED)):
            raise DamageError("its pages are elsewhere, or encrypted")
        for meta, name, kind in zip(metas, _NAMES, _TYPES, strict=True):
            start = meta.get(_META_DICTIONARY) or meta[_META_DATA]
            if (meta[_META_TYPE], meta[_META_PATH], meta[_META_VALUES], start) != (kind, [name], rows, offset):
                raise DamageError("its footer contradicts itself")
            if not start <= meta[_META_DATA] < start + meta[_META_BYTES]:
                raise DamageError("its footer contradicts itself")
            offset += meta[_META_BYTES]
        groups.append(Group(rows, *_range(metas[_SEQ]), *_range(metas[_TIME])))
    if not groups or offset > end or sum(group.rows for group in groups) != file[_FILE_ROWS]:
        raise DamageError("its row groups do not make up the file")
    _check_ranges(groups, first_seq)
    return Footer(actor, version, tuple(groups), checksum)


def _about(pairs: dict[bytes, bytes]) -> tuple[str, int, int]:
    """The actor, the version and the first seq that the writer put into the file's metadata."""
    try:
        about = json.loads(pairs[METADATA_KEY])
        actor, version, first_seq = about["actor"], about["schema_version"], about["first_seq"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DamageError("its metadata is not that of an event log") from error
    if type(version) is not int or type(actor) is not str or type(first_seq) is not int:
        raise DamageError("its metadata is not that of an event log")
    if not VERSION_NULLABLE <= version <= SCHEMA_VERSION:
        raise OtherVersionError(version)
    return actor, version, first_seq


def _check_schema(elements: list[dict[int, Any]], version: int) -> None:
    root, *columns = elements
    found = [
        (element[_ELEMENT_NAME], element[_ELEMENT_TYPE], element[_ELEMENT_REPETITION], _ELEMENT_CHILDREN in element)
        for element in columns
    ]
    optional = [version == VERSION_NULLABLE and name not in _NEVER_NULL for name in COLUMNS]
    wanted = [
        (name, kind, _OPTIONAL if null else _REQUIRED, False) for name, kind, null in zip(_NAMES, _TYPES, optional, strict=True)
    ]
    if found != wanted or root[_ELEMENT_CHILDREN] != len(COLUMNS):
        raise DamageError(f"its columns are not those of format version {version}")


def _range(meta: dict[int, Any]) -> tuple[int, int]:
    statistics = meta[_META_STATISTICS]
    low, high = statistics[_STATISTICS_MIN], statistics[_STATISTICS_MAX]
    twins = all(statistics.get(old, statistics[new]) == statistics[new] for new, old in _STATISTICS_OLD.items())
    if len(low) != 8 or len(high) != 8 or not twins:
        raise DamageError("its footer contradicts itself")
    return int.from_bytes(low, "little", signed=True), int.from_bytes(high, "little", signed=True)


def _check_ranges(groups: list[Group], first_seq: int) -> None:
    """The seqs grow from row to row and so from row group to row group; a row's number is no larger than its seq's distance."""
    if groups[0].first_seq != first_seq or first_seq < 0:
        raise DamageError("its metadata and its statistics name different first events")
    if any(group.last_seq - group.first_seq + 1 < group.rows or group.first_ns > group.last_ns for group in groups):
        raise DamageError("its statistics contradict its rows")
    if any(group.last_seq >= after.first_seq for group, after in itertools.pairwise(groups)):
        raise DamageError("its row groups are not in the order of seq")


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """The fields of the struct at `at`, by their numbers, and the place behind it."""
    if depth > _DEPTH_MAX:
        raise ValueError("too deep")
    fields: dict[int, Any] = {}
    number = 0
    while True:
        head = data[at]
        at += 1
        if head == 0:
            return fields, at
        kind = head & 15
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(data, at)
        if kind in _INTEGERS:
            head = data[at]
            if head < 128:
                at += 1
                fields[number] = (head >> 1) ^ -(head & 1)
            else:
                fields[number], at = _integer(data, at)
        elif kind in (_TRUE, _FALSE):
            fields[number] = kind == _TRUE
        else:
            fields[number], at = _value(data, at, kind, depth)


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind == _STRUCT:
        return _struct(data, at, depth + 1)
    if kind == _BINARY:
        size, at = _varint(data, at)
        if at + size > len(data):
            raise ValueError("behind the end")
        return data[at : at + size], at + size
    if kind in (_LIST, _SET):
        return _list(data, at, depth + 1)
    if kind in _INTEGERS:
        return _integer(data, at)
    if kind in (_TRUE, _FALSE, _BYTE):
        return data[at], at + 1
    if kind == _DOUBLE:
        return data[at : at + 8], at + 8
    raise ValueError("a type that no footer has")


def _list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    if depth > _DEPTH_MAX:
        raise ValueError("too deep")
    head = data[at]
    size, at = head >> 4, at + 1
    if size == 15:
        size, at = _varint(data, at)
    if size > len(data) - at:  # every element takes a byte
        raise ValueError("behind the end")
    values = []
    for _ in range(size):
        value, at = _value(data, at, head & 15, depth)
        values.append(value)
    return values, at


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("too long a number")
