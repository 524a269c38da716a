# SPDX-License-Identifier: GPL-2.0-only
"""Compiled code that goes astray is a finding with the actor's name, never a silent end of the tool."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stress.config import load_config
from stress.explore import parts, search
from stress.explore.compiled import peek, poke, the_board
from stress.explore.native import STACK_BYTES, go_to, is_available
from stress.explore.scenario import opening_of
from stress.explore.scheduler import leave
from stress.explore.search import Budget, explore
from stress.explore.worker import Job

pytestmark = pytest.mark.skipif(not is_available(), reason="the native engine needs x86-64")


def overflows():
    """As an actor whose frames do not fit: it writes below its stack."""
    board = the_board()
    me = board.current[0]
    poke(board.stack_top[me] - STACK_BYTES - 64, 1)


def writes_wildly():
    """An actor that follows a bad pointer."""
    poke(64, 1)


def never_returns():
    """An actor that does not come to its next primitive."""
    board = the_board()
    while peek(board.base[0]) != -1:
        poke(board.base[0], 1)


def does_nothing():
    """An actor that ends at once: what the others are measured against."""
    me = the_board().current[0]
    go_to(me, leave(the_board(), me))


@pytest.fixture
def job():
    config = load_config("configs/explore/split-once.toml", scripted=True)
    return Job(opening_of(config), "native", "random", seed=1)


@pytest.mark.parametrize(
    ("actor", "how"),
    [
        (overflows, "overflowed the stack of vcpu0"),
        (writes_wildly, "touched memory that is not there (0x40)"),
        (never_returns, "does not come to its next primitive: an endless loop"),
    ],
)
def test_a_crash_names_its_actor(job, actor, how, monkeypatch):
    """The end is "crashed", the actor is the one whose turn it was, and how it went is said."""
    monkeypatch.setattr(parts, "actor_callback", actor)
    monkeypatch.setattr(search, "HANG_S", 1.0)
    result = explore(job, Budget(executions=10), 1)
    assert result.failing.end == "crashed"
    assert (result.failing.crash.actor, result.failing.crash.how) == ("vcpu0", how)


def test_an_actor_that_behaves_is_no_crash(job, monkeypatch):
    """The tests above do not find a crash in whatever they are given."""
    monkeypatch.setattr(parts, "actor_callback", does_nothing)
    result = explore(replace(job, opening=job.opening), Budget(executions=10), 1)
    assert result.failing is None or result.failing.crash is None
