# SPDX-License-Identifier: GPL-2.0-only
"""The offline checker: the verdict of a run from its log alone. It knows the format of the log and nothing of the model."""

from __future__ import annotations

from stress.check.judge import check_run
from stress.check.result import CheckResult, Event, Finding, Recorded

__all__ = ["CheckResult", "Event", "Finding", "Recorded", "check_run"]
