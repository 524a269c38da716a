# SPDX-License-Identifier: GPL-2.0-only
"""The command line. Each command has a module of its own; this one puts them together."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from stress import __version__
from stress.cli.campaign import campaign_app, soak
from stress.cli.check import check
from stress.cli.explore import explore
from stress.cli.failures import replay, reproduce, shrink
from stress.cli.log import log
from stress.cli.outcome import harness_error
from stress.cli.query import query
from stress.cli.recheck import recheck
from stress.cli.run import run
from stress.cli.stats import stats
from stress.report.progress import Display

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run)
app.command()(explore)
app.command()(replay)
app.command()(shrink)
app.command()(reproduce)
app.add_typer(campaign_app, name="campaign")
app.command()(soak)
app.command()(check)
app.command()(recheck)
app.command()(log)
app.command()(stats)
app.command()(query)


def main() -> None:
    """Entry point of the `zaptorture` script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name need not be printable in the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="zaptorture")
    except OSError as error:  # from printing a help text; everything else is caught by the commands
        raise SystemExit(harness_error("help", f"output lost: {error.strerror}", as_json=False)) from None


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer's call
    if wanted:
        Display(sys.stdout).message(f"zaptorture {__version__}")
        raise typer.Exit


@app.callback()
def _zaptorture(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Stress KVM's MMU zap protocol and find stale mappings."""
