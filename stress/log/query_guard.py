# SPDX-License-Identifier: GPL-2.0-only
"""What SQL a user may send: one statement that reads.

DuckDB calls a statement a SELECT although a WITH in it inserts, deletes or writes files, and functions in its FROM read any
file or run text as SQL. So its parse tree is looked at, and only what is known to read is let through.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from stress.errors import UsageError, did_you_mean
from stress.log.naming import kind_number
from stress.log.schema import FIELDS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duckdb import DuckDBPyConnection

__all__ = ["check_sql", "unknown_kinds"]

# The names end in _NODE: parts of a statement that yield rows. Others are INSERT_QUERY_NODE, COPY_QUERY_NODE, ...
READING_NODES = frozenset({"CTE_NODE", "RECURSIVE_CTE_NODE", "SELECT_NODE", "SET_OPERATION_NODE"})
TABLE_FUNCTIONS = frozenset(
    {
        "duckdb_columns",
        "duckdb_functions",
        "generate_series",
        "histogram",
        "histogram_values",
        "json_each",
        "json_tree",
        "range",
        "repeat",
        "summary",
        "unnest",
    }
)
EXPECTED = "expected one SELECT, or WITH, FROM, VALUES, DESCRIBE, SUMMARIZE; a run is only read"


def check_sql(connection: DuckDBPyConnection, sql: str) -> Any:
    """Refuse everything but one statement that reads.

    Args:
        connection: to parse with; nothing of the statement is executed.
        sql: the user's text.

    Returns:
        The statement's parse tree.

    Raises:
        UsageError: it is something else, or more than that.
        duckdb.Error: it cannot be parsed.
    """
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise UsageError(f"SQL: {len(statements) or 'no'} statements: {EXPECTED}.")
    statement = statements[0]
    kind = statement.type.name
    if kind == "MULTI":
        raise UsageError("SQL: a PIVOT without its values: name them, as in: pivot ... on kind in ('kvm_entry', 'kvm_exit').")
    if kind != "SELECT":
        raise UsageError(f"SQL: {kind} statement: {EXPECTED}.")
    if statement.named_parameters:
        raise UsageError("SQL: a parameter, such as ? or $1, which has no value here.")
    tree = _tree(connection, sql)
    for node in _objects(tree):
        name = str(node.get("type", ""))
        if name.endswith("_NODE") and name not in READING_NODES:
            raise UsageError(f"SQL: {name.partition('_')[0]} inside of a SELECT: {EXPECTED}.")
        if name == "TABLE_FUNCTION":
            _check_function(node)
    return tree


def unknown_kinds(tree: Any) -> str:
    """A question for whoever compares `kind` with a text that no kind has, or "".

    Args:
        tree: as `check_sql` returned it.
    """
    findings = next(field for field in FIELDS[Kind.FINDING] if field.name == "finding").values.values()
    known = [kind.label for kind in Kind] + list(findings)
    for node in _objects(tree):
        compared = node.get("children", []) if node.get("type") == "COMPARE_IN" else [node.get("left"), node.get("right")]
        operands: list[dict[str, Any]] = [operand for operand in compared if isinstance(operand, dict)]
        if any(operand.get("column_names", [""])[-1] == "kind" for operand in operands):
            for text in (operand["literal"]["text"] for operand in operands if operand.get("type") == "VALUE_CONSTANT"):
                if text not in known and kind_number(text) is None:
                    return f'no kind is called "{text}"; {did_you_mean(text, known)}'.rstrip("; ")
    return ""


def _tree(connection: DuckDBPyConnection, sql: str) -> Any:
    row: Any = connection.execute("select json_serialize_sql(?)", [sql]).fetchone()
    try:
        tree = json.loads(row[0])
    except RecursionError:
        raise UsageError("SQL: nested too deep.") from None
    # What DuckDB cannot describe is not judged, and what is not judged is not run.
    if tree["error"] or len(tree["statements"]) != 1:
        raise UsageError(f"SQL: {tree.get('error_message', 'not one statement')}: {EXPECTED}.")
    return tree["statements"][0]


def _check_function(node: dict[str, Any]) -> None:
    name = str((node.get("function") or {}).get("function_name")).lower()
    if name not in TABLE_FUNCTIONS:
        raise UsageError(f"SQL: {name}() in FROM: expected a view, such as events, or one of {', '.join(sorted(TABLE_FUNCTIONS))}.")


def _objects(tree: Any) -> Iterator[dict[str, Any]]:
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield node
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)
