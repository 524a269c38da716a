# SPDX-License-Identifier: GPL-2.0-only
"""The process that looks after one run on a worker of a cluster: `python -m stress.campaign.remote JOB OUTPUT ENDED PARENT`.

A worker runs its tasks in threads, and an engine needs a main thread, signals and processes of its own; so each run gets a process,
which executes it just as a campaign on one machine does, with the same limits. It dies with the worker, and the run with it.
SIGTERM asks the run to end, SIGINT ends it.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import msgspec

from stress.campaign.executor import Ended, RunJob
from stress.campaign.local import LocalExecutor
from stress.engine.child import enter_child
from stress.log.folder import write_atomic

__all__ = ["look_after"]

POLL_S = 0.5


def look_after(job: RunJob, output: str) -> Ended:
    """Execute a run within its limits.

    Args:
        job: the run.
        output: file that takes what it prints.

    Context: the main thread of a process that does nothing else.
    """
    asked: list[bool] = []
    executor = LocalExecutor([()], output)
    signal.signal(signal.SIGTERM, lambda *_: asked.append(False))
    signal.signal(signal.SIGINT, lambda *_: asked.append(True))
    executor.start(job)
    ended: list[Ended] = []
    while not ended:
        if asked:
            executor.stop(now=any(asked))
        ended = executor.poll(POLL_S)
    executor.close()
    return ended[0]


def main() -> None:
    """Execute the job of a file, and leave in another one how it ended."""
    job_file, output, ended_file, parent = sys.argv[1:]
    enter_child(int(parent))
    ended = look_after(msgspec.json.decode(Path(job_file).read_bytes(), type=RunJob), output)
    write_atomic(Path(ended_file), msgspec.json.encode(ended))


if __name__ == "__main__":
    main()
