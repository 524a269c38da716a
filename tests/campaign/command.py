# SPDX-License-Identifier: GPL-2.0-only
"""Real campaigns by the command line, and what is left of their processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from stress.campaign.journal import read_journal

from .fakes import campaign_file

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 280

# Short runs of the whole engine, in the build that most tests have in the cache.
SHORT = """
[vm]
nr_vcpus = 2
levels = 2
bits_per_level = 4

[[slots]]
base_gfn = 0
npages = 16
ops = ["delete"]

[perturb]
probability = 0.001

[run]
duration = "200ms"
"""
BROKEN = SHORT.replace('duration = "200ms"', 'duration = "20s"') + '\n[check]\nlevel = "use"\n'
BROKEN = 'bugs = ["no-request"]\n' + BROKEN


def argv(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "stress.cli", *map(str, arguments)]


def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, **options)


def short_campaign(folder: Path, text: str, **scenarios: str) -> Path:
    return campaign_file(folder, text, **({"short": SHORT, "broken": BROKEN} | scenarios))


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout.rstrip().rpartition("\n")[2]


def told(done: subprocess.CompletedProcess[str]) -> str:
    return f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"


def own_processes(out: Path) -> list[str]:
    """Processes that work for a campaign: they hold its output file open, or name its folder on their command line."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        try:
            files = [entry.path for entry in process.open_files()]
            if str(out) in " ".join(process.info["cmdline"] or []) or any(path.startswith(str(out)) for path in files):
                found.append(f"{process.pid} {' '.join(process.info['cmdline'] or [])[:80]}")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def ends(out: Path) -> list[dict]:
    """The rows so far; none before there is a journal."""
    if not (out / "journal.jsonl").exists():
        return []
    return [record for record, _ in read_journal(out / "journal.jsonl") if record["event"] == "end"]
