# SPDX-License-Identifier: GPL-2.0-only
"""How a command ends: errors become one line and an exit code, whatever happens."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from typing import TYPE_CHECKING, Any

import typer

from stress.errors import HarnessError, UsageError, one_line
from stress.report.progress import Display
from stress.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["errors_become_lines", "harness_error", "print_json"]

INTERRUPTED_EXIT_CODE = 130  # what a shell reports for SIGINT; only before a run has taken over the signal


@contextlib.contextmanager
def errors_become_lines(name: str, *, as_json: bool) -> Iterator[None]:
    """Leave with one line and the exit code of whatever goes wrong inside.

    Args:
        name: what the command is about, for the line.
        as_json: print an object too.

    Raises:
        typer.Exit: in place of every error.
    """
    try:
        yield
    except UsageError as error:
        Display(sys.stderr).message(str(error))
        code = error.exit_code
    except HarnessError as error:
        code = harness_error(name, str(error), as_json=as_json)
    except KeyboardInterrupt:
        code = INTERRUPTED_EXIT_CODE
    except typer.Exit:
        raise
    except Exception as error:  # noqa: BLE001 - Python's own exit code for it is 1, which would claim a violation
        Display(sys.stderr).message(traceback.format_exc().rstrip())
        code = harness_error(name, f"internal error: {type(error).__name__}: {error}", as_json=as_json)
    else:
        return
    raise typer.Exit(code)


def harness_error(name: str, reason: str, *, as_json: bool) -> int:
    """Print the verdict line of an error of the harness; its exit code."""
    verdict = Verdict.HARNESS_ERROR
    Display(sys.stderr if as_json else sys.stdout).message(one_line(f"{verdict.value} {name}: {reason}"))
    if as_json:
        print_json({"verdict": verdict.value, "reason": reason, "findings": []})
    return verdict.exit_code


def print_json(data: dict[str, Any]) -> None:
    """Print one object on one line of standard output."""
    Display(sys.stdout).message(json.dumps(data))
