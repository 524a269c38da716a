# SPDX-License-Identifier: GPL-2.0-only
"""What one does with a failure: replay it and compare, or make it small and replay that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stress.errors import HarnessError, UsageError
from stress.explore.failure import Failure, failure_of
from stress.explore.native import is_available
from stress.explore.scenario import opening_of
from stress.explore.search import follow
from stress.explore.shrink import shrink
from stress.explore.story import tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from stress.explore.story import Story

__all__ = ["replay_failure", "shrink_failure"]


def replay_failure(failure: Failure, engine: str) -> tuple[Story, str]:
    """Replay a failure.

    Args:
        failure: what to replay.
        engine: "native", or "interpreted".

    Returns:
        Its story, and in what the replay differs from the failure; "" if in nothing.

    Raises:
        UsageError: the schedule names an actor that the scenario has not.
        HarnessError: the engine did not start.
    """
    opening = opening_of(failure.config)
    crashed = failure.ending.end == "crashed"
    try:
        story = tell(opening, failure.runs, stop_behind=crashed)
    except ValueError as error:
        raise UsageError(f"schedule: {error}.") from None
    if engine == "native" or crashed:
        followed = follow(opening, failure.runs)
        if crashed:
            return story, "" if followed.end == "crashed" else f"it ends as {followed.end}, not as crashed"
        if (followed.end, followed.digest, followed.events_digest) != (story.ending.end, story.digest, story.events_digest):
            return story, f"the native engine ends as {followed.end} (digest {followed.digest:016x}), the interpreted one does not"
    return story, _difference(failure, story)


def _difference(failure: Failure, story: Story) -> str:
    if story.ending != failure.ending:
        return f"it ends as {story.ending.sentence()}"
    if len(story.steps) != failure.steps:
        return f"{len(story.steps):,} steps instead of {failure.steps:,}"
    if story.digest != failure.digest:
        return f"digest {story.digest:016x} instead of {failure.digest:016x}"
    if story.events_digest != failure.events_digest:
        return f"events {story.events_digest} instead of {failure.events_digest}"
    return ""


def shrink_failure(
    failure: Failure, engine: str | None, seconds: float, on_message: Callable[[str], None]
) -> tuple[Failure, Story, str]:
    """Make a failure small, and replay the result.

    Args:
        failure: what to shrink.
        engine: "native" or "interpreted"; None: whichever there is.
        seconds: after which the smallest so far is taken.
        on_message: told what became smaller.

    Returns:
        The smaller failure, its story, and a line that says how small.

    Raises:
        UsageError: nothing can be made of a failure without a finding or an end.
        HarnessError: the engine did not start, or the failure or the result does not replay.
    """
    if failure.ending.end == "crashed":
        raise UsageError("a crash of compiled code cannot be shrunk: what led to it lies outside of the model.")
    _, differs = replay_failure(failure, "interpreted")
    if differs:
        raise HarnessError(f"the failure does not replay, so there is nothing to shrink: {differs}.")
    chosen = engine or ("native" if is_available() else "interpreted")
    result = shrink(failure.config, failure.runs, failure.ending.signature, chosen, seconds, on_message)
    story = tell(opening_of(result.config), result.runs)
    if story.ending.signature != failure.ending.signature:
        raise HarnessError(f"the shrunk schedule ends as {story.ending.sentence()} when it is replayed.")
    found = failure.found | {"shrunk_from": {"steps": failure.steps, "context_switches": failure.switches}, "tried": result.tried}
    smaller = failure_of(result.config, story, found)
    below = (
        f"all schedules with fewer than {result.preemptions} preemptions were tried"
        if result.fewest and result.preemptions
        else "no fewer are possible"
        if result.fewest
        else f"not all schedules with {result.preemptions} preemptions could be tried in time"
    )
    how = (
        f"{failure.switches} context switches, {failure.steps:,} steps -> {smaller.switches} context switches, "
        f"{smaller.steps:,} steps; {below}"
    )
    return smaller, story, how
