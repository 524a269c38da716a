# SPDX-License-Identifier: GPL-2.0-only
"""Which of the planned runs fulfil a condition: SQL over what is known of them beforehand."""

from __future__ import annotations

from typing import Any

import duckdb

from stress.errors import UsageError, did_you_mean

__all__ = ["places_where"]


def places_where(condition: str, facts: list[dict[str, Any]]) -> set[int]:
    """The places of the runs that fulfil a condition such as `vcpus>=4 and variant='held'`.

    Raises:
        UsageError: it is no condition, or nothing fulfils it.
    """
    columns = list(dict.fromkeys(name for fact in facts for name in fact))
    with duckdb.connect(":memory:", config={"enable_external_access": "false", "threads": "1"}) as connection:
        names = ", ".join(f"{_quoted(name)} {_type(name, facts)}" for name in columns)
        connection.execute(f"create table plan (place bigint, {names})")
        marks = ", ".join("?" * (len(columns) + 1))
        rows = [[place, *(fact.get(name) for name in columns)] for place, fact in enumerate(facts)]
        connection.executemany(f"insert into plan values ({marks})", rows)  # noqa: S608 - marks and names of our own
        connection.execute("set lock_configuration = true")
        try:
            found = connection.execute(f"select place from plan where ({condition})").fetchall()  # noqa: S608 - the user's own
        except duckdb.Error as error:
            raise UsageError(f'--filter "{condition}": {_reason(error, columns)}') from None
    if not found:
        raise UsageError(f'--filter "{condition}": none of the {len(facts)} planned runs is such.')
    return {int(place) for (place,) in found}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _type(name: str, facts: list[dict[str, Any]]) -> str:
    values = [fact[name] for fact in facts if name in fact]
    if all(isinstance(value, bool) for value in values):
        return "boolean"
    if all(isinstance(value, int) for value in values):
        return "bigint"
    return "double" if all(isinstance(value, int | float) for value in values) else "varchar"


def _reason(error: duckdb.Error, columns: list[str]) -> str:
    text = str(error).splitlines()[0]
    unknown = text.partition('column "')[2].partition('"')[0]
    if unknown and unknown not in columns:
        return f"{unknown} is not known; {did_you_mean(unknown, columns) or 'expected ' + ', '.join(columns)}"
    return f"expected an SQL condition over {', '.join(columns)}: {text}"
