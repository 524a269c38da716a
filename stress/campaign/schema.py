# SPDX-License-Identifier: GPL-2.0-only
"""The campaign file as frozen structs: every key with its type, bounds, default, unit and meaning.

This is the one place where a default or a bound is written. docs/reference/campaign.md is held equal to it by a test.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import field

from stress.config.keys import Table, key
from stress.config.schema import DURATION_ACCEPTS, MAX_INT64, SCENARIO_PATTERN

__all__ = ["Campaign", "Limits", "OnFinding", "Power", "Soak", "Stop"]

MAX_RUNS = 10**7
MAX_MB = 2**31
ACCEPTS_KEYS = "a table of keys of a scenario, such as vm.nr_vcpus = 8"
ACCEPTS_TIME = f"{DURATION_ACCEPTS}; or empty"


class Limits(Table, frozen=True):
    """What the campaign may take of the machine."""

    cpus: Annotated[int, key("CPUs of one run; runs beside each other never share a core.", ge=1, le=4096)] = 2
    share_cpus: Annotated[bool, key("Runs may share cores: none is placed, and --jobs may ask for more than the machine has.")] = (
        False
    )
    memory_mb: Annotated[int, key("A run that takes more is ended.", ge=64, le=MAX_MB, unit="MiB")] = 2048
    overtime: Annotated[str, key("A run that is not over so long after its duration is ended.", accepts=DURATION_ACCEPTS)] = "2m"
    total_time: Annotated[str, key("The campaign starts no run after this time; empty is no limit.", accepts=ACCEPTS_TIME)] = ""
    disk_mb: Annotated[
        int,
        key(
            "Size of the campaign's folder; beyond it the oldest runs without a finding are thinned to summaries. 0 is no limit.",
            ge=0,
            le=MAX_MB,
            unit="MiB",
        ),
    ] = 0
    harness_retries: Annotated[
        int, key("A run that ended in an error of the harness is tried again so often; a violation never is.", ge=0, le=100)
    ] = 2


class Stop(Table, frozen=True):
    """When to stop early."""

    violations: Annotated[int, key("After so many runs with a finding; 0 is never.", ge=0, le=MAX_INT64)] = 0


class OnFinding(Table, frozen=True):
    """What happens on a finding that was not seen before; one that was is only counted."""

    reproduce: Annotated[str, key("Look so long for a schedule that shows it; empty looks for none.", accepts=ACCEPTS_TIME)] = "60s"
    commands: Annotated[
        tuple[tuple[str, ...], ...],
        key(
            "Commands to run, each a list of program and arguments, without a shell; "
            "{title}, {signature}, {run} and {campaign} are replaced.",
            accepts='a list of lists of words, such as [["logger", "{title}"]]',
        ),
    ] = ()


class Soak(Table, frozen=True):
    """What `zaptorture soak` does differently."""

    segment: Annotated[
        str,
        key(
            "A longer scenario is cut into runs of this length, each with its own log and seed.",
            accepts=DURATION_ACCEPTS,
        ),
    ] = "60s"
    sample: Annotated[
        str, key("Time between two looks at memory, descriptors, threads, shared memory and disk.", accepts=DURATION_ACCEPTS)
    ] = "10s"
    order: Annotated[Literal["file", "shuffled"], key("Scenarios in the file's order, or in another one in each rotation.")] = (
        "shuffled"
    )


class Power(Table, frozen=True):
    """Planted bugs between the other runs: how fast this machine, at this load, finds what it should."""

    folder: Annotated[str, key("Folder of the planted scenarios, relative to the campaign file.", accepts="a folder")] = "."
    scenarios: Annotated[
        tuple[str, ...], key('Their names, as in "scenarios"; empty plants none.', accepts="a list of names of scenarios")
    ] = ()
    every: Annotated[int, key("One planted run after so many others.", ge=1, le=MAX_RUNS, unit="runs")] = 20
    set: Annotated[dict[str, Any], key("Keys set in all of them.", accepts=ACCEPTS_KEYS)] = field(default_factory=dict)


class Campaign(Table, frozen=True):
    """One campaign."""

    scenarios: Annotated[
        tuple[str, ...],
        key(
            "Their names: NAME, N*NAME for N runs with different seeds, or a pattern such as zap-*.",
            accepts="a list of one or more names of scenarios",
        ),
    ]
    campaign: Annotated[
        str,
        key(
            "Name of the campaign; the file's name when absent.",
            pattern=SCENARIO_PATTERN,
            accepts='a name of 1 to 64 letters, digits, "_", "-" or ".", not starting with "-" or "."',
        ),
    ] = "unnamed"
    folder: Annotated[str, key("Folder of the scenarios, relative to this file.", accepts="a folder")] = "."
    repeats: Annotated[int, key("How often everything is run, each time with fresh seeds.", ge=1, le=MAX_RUNS)] = 1
    seed: Annotated[int, key("All seeds are derived from it; drawn when absent.", ge=0, le=MAX_INT64)] | None = None
    quantiles: Annotated[
        bool, key("Quantiles of holds, waits, latencies and grace periods are taken from each run's log into the results.")
    ] = False
    set: Annotated[dict[str, Any], key("Keys set in every scenario.", accepts=ACCEPTS_KEYS)] = field(default_factory=dict)
    matrix: Annotated[
        dict[str, Any],
        key(
            "For each key of a scenario the values to try; every combination is run. "
            "A value that is a table sets several keys at once.",
            accepts="a table of keys of a scenario with lists of values, such as vm.nr_vcpus = [2, 8]",
        ),
    ] = field(default_factory=dict)
    exclude: Annotated[
        tuple[dict[str, Any], ...],
        key("Combinations to leave out: those that have all values of one of these tables.", accepts="a list of tables of keys"),
    ] = ()
    expect: Annotated[
        dict[str, str],
        key(
            "For scenarios with a planted bug the kind and rule of the finding that they must end in.",
            accepts='a table of scenario names, such as no-request = "stale-use [I3]"',
        ),
    ] = field(default_factory=dict)
    limits: Limits = Limits()
    stop: Stop = Stop()
    finding: OnFinding = OnFinding()
    soak: Soak = Soak()
    power: Power = Power()
