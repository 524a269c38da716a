# SPDX-License-Identifier: GPL-2.0-only
"""explore, replay, shrink and reproduce as a user types them: what is printed, what is written, the exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPLIT_ZAP = "configs/explore/split-zap.toml"
BARRIER = "configs/explore/entry-barrier.toml"
B01 = [SPLIT_ZAP, "--bug", "B01", "--strategy", "pct", "--seed", "7"]
ONE = ["script.vcpus=[['w0']]", "vm.nr_vcpus=1", "script.rcu=false", "script.ctl=['delete 0']"]
SMALL = [SPLIT_ZAP, *(part for key in ONE for part in ("--set", key))]


def typed(*arguments, timeout=240):
    command = [sys.executable, "-m", "stress.cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout)
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def explored(*arguments):
    """Exit code and the object that --json prints."""
    code, lines, _ = typed("explore", *arguments, "--json")
    return code, json.loads(lines[-1])


@pytest.fixture(scope="module")
def failure(tmp_path_factory):
    out = tmp_path_factory.mktemp("failures")
    code, lines, _ = typed("explore", *B01, "--out", out)
    assert code == 1, lines
    (file,) = out.iterdir()
    assert f"    zaptorture replay {file} --diagram" in lines
    assert re.match(
        r"VIOLATION invariant \[I6\]: vcpu\d .*installed into an obsolete root \(execution [\d,]+ of split-zap\)$", lines[-1]
    )
    return file


# --- searches


def test_a_bounded_search_is_complete_and_says_within_what():
    """PASS with the number of interleavings and the bounds."""
    code, lines, _ = typed("explore", *SMALL, "--strategy", "depth-first", "--set", "explore.preemptions_max=1")
    assert code == 0
    assert re.match(
        r"PASS split-zap: all [\d,]+ interleavings with at most 1 preemptions: no finding; complete within: ", lines[-1]
    )


def test_a_search_over_states_is_complete_under_both_memory_models():
    """The smallest scenario, all of it, sequentially consistent and with store buffers."""
    for memory in ("sc", "tso"):
        code, found = explored(BARRIER, "--strategy", "states", "--memory", memory)
        assert (code, found["verdict"], found["complete"]) == (0, "PASS", True), found
        assert found["states"] > 10_000


def test_a_missing_entry_barrier_shows_under_tso_alone(tmp_path):
    """Without the receiver's barrier the mode is still in the store buffer when the requests are read: never so under sc."""
    bug = (BARRIER, "--bug", "no-entry-barrier", "--strategy", "states", "--out", tmp_path)
    code, found = explored(*bug, "--memory", "tso")
    assert (code, found["ending"]["kind"], found["ending"]["rule"]) == (1, "stale-use", "I3")
    code, found = explored(*bug, "--memory", "sc")
    assert (code, found["complete"]) == (0, True)


@pytest.mark.parametrize("strategy", ["dpor", "states"])
def test_a_search_that_was_cut_short_claims_nothing(strategy):
    """INCONCLUSIVE, with what was done, and exit code 3."""
    code, lines, _ = typed("explore", SPLIT_ZAP, "--strategy", strategy, "--budget", "1000")
    assert code == 3
    assert re.match(
        r"INCONCLUSIVE split-zap: no finding in [\d,]+ (executions|states), but the search is not complete: ", lines[-1]
    )


def test_sampling_never_claims_to_be_complete():
    """PASS, but with the words that say what it is; and PCT prints its bound."""
    code, lines, _ = typed("explore", SPLIT_ZAP, "--strategy", "pct", "--budget", "500")
    assert code == 0
    assert lines[-1].startswith("PASS split-zap: no finding in 500 sampled executions, ")
    assert lines[-1].endswith("not all interleavings")
    assert any(
        re.match(
            r"pct: n = 4, k = [\d,]+: one execution finds a bug of depth 3 within the first k steps with probability >= ", line
        )
        for line in lines
    )


def test_the_failure_does_not_depend_on_the_number_of_workers(tmp_path):
    """The lowest execution that fails is reported, whoever found it and whatever others found meanwhile."""
    found = [explored(*B01, "--jobs", jobs, "--out", tmp_path)[1] for jobs in (1, 2, 3)]
    assert len({one["executions"] for one in found}) == 1
    assert len({json.dumps(one["ending"]) for one in found}) == 1
    schedules = [json.loads(Path(ROOT / one["failure"]).read_bytes())["schedule"] for one in found]
    assert schedules[0] == schedules[1] == schedules[2]


def test_trees_split_among_workers_cover_the_same():
    """A depth-first search finds the same number of schedules with one worker and with two, but for those that split the tree."""
    counts = [
        explored(*SMALL, "--strategy", "depth-first", "--set", "explore.preemptions_max=1", "--jobs", jobs)[1] for jobs in (1, 2)
    ]
    assert counts[0]["complete"]
    assert counts[1]["complete"]
    assert counts[0]["executions"] == counts[1]["executions"]
    assert counts[0]["traces"] == counts[1]["traces"]


def test_every_execution_twice_is_the_same():
    """--twice replays each schedule at once and compares every step and result."""
    for strategy in ("random", "pct", "depth-first", "dpor"):
        code, found = explored(SPLIT_ZAP, "--strategy", strategy, "--twice", "--budget", "300")
        assert code in {0, 3}, found


def test_the_interpreted_engine_finds_the_same(tmp_path):
    """The same strategy, seed and number: the same failing execution, word for word."""
    native = explored(*B01, "--out", tmp_path)[1]
    interpreted = explored(*B01, "--engine", "interpreted", "--out", tmp_path)[1]
    assert native["executions"] == interpreted["executions"]
    files = [json.loads(Path(ROOT / one["failure"]).read_bytes()) for one in (native, interpreted)]
    for key in ("schedule", "digest", "events_digest", "ending"):
        assert files[0][key] == files[1][key]


def test_coverage_is_reported():
    """Windows by name with who entered them, those that nobody entered, and pairs in both orders."""
    _, lines, _ = typed("explore", SPLIT_ZAP, "--strategy", "random", "--budget", "2000", "--report", "--seed", "3")
    text = "\n".join(lines)
    assert re.search(r"F2-F3 \(roots invalid, no request\) +vcpu0 [\d,]+, vcpu1 [\d,]+", text)
    assert re.search(r"leafs being zapped +never opened", text)
    assert re.search(r"conflicting sites seen in both orders: \d\d+ pairs", text)
    assert "    cmpxchg vcpu.mode | store_release vcpu.mode" in lines


# --- what is wrong


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["configs/scenarios/quick.toml"],
            "configs/scenarios/quick.toml: script.vcpus = []: expected a list for each of the 4 vCPUs",
        ),
        ([SPLIT_ZAP, "--bug", "B42"], '--bug "B42": expected a planted bug; did you mean "B41"?'),
        ([SPLIT_ZAP, "--strategy", "pcd"], '--set explore.strategy = "pcd": expected one of "random", "pct", "depth-first"'),
        (
            [SPLIT_ZAP, "--budget", "soon"],
            '--budget "soon": expected a time such as "10s", or a number of executions such as 5000.',
        ),
        ([SPLIT_ZAP, "--engine", "fast"], '--engine "fast": expected native or interpreted.'),
        ([SPLIT_ZAP, "--strategy", "states", "--engine", "interpreted"], 'explore.strategy = "states": it needs the native engine'),
        ([SPLIT_ZAP, "--set", "script.ctl=['delete 5']"], '--set script.ctl = "delete 5": expected a slot below 2.'),
        (
            [SPLIT_ZAP, "--set", "script.ctl=['create 0']"],
            '--set script.ctl = "create 0": expected another operation, since slot 0 is',
        ),
        ([SPLIT_ZAP, "--set", "script.vcpus=[['x0'],[]]"], '--set script.vcpus = "x0": expected "r" or "w" and a gfn'),
    ],
)
def test_wrong_use_is_one_line(arguments, line):
    """Where, what was found, what is accepted; exit code 2, and nothing was searched."""
    code, lines, errors = typed("explore", *arguments)
    assert code == 2
    assert errors[-1].startswith(line)
    assert not any(text.startswith(("PASS", "VIOLATION")) for text in lines)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    """The failure is not lost silently."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    code, _, errors = typed("explore", *B01, "--out", blocked)
    assert code == 2
    assert errors[-1].startswith(f"--out = {blocked}: expected a folder that may be written")


# --- replay


def test_a_failure_replays_in_both_engines(failure):
    """The same events, the same finding, bit for bit."""
    for engine in ("interpreted", "native"):
        code, lines, _ = typed("replay", failure, "--engine", engine)
        assert code == 1
        assert re.match(r"VIOLATION invariant \[I6\]: .* \(replayed: [\d,]+ steps, bit for bit\)$", lines[-1])


def changed(failure, tmp_path, **fields):
    content = json.loads(failure.read_bytes()) | fields
    file = tmp_path / "changed.json"
    file.write_text(json.dumps(content))
    return file


def test_a_replay_that_differs_says_in_what(failure, tmp_path):
    """Another schedule, another hash, another ending: HARNESS_ERROR, exit code 4."""
    content = json.loads(failure.read_bytes())
    for fields, why in (
        ({"digest": "0" * 16}, "digest"),
        ({"events_digest": "0" * 16}, "events"),
        ({"schedule": content["schedule"][2:]}, "it ends as"),
        ({"schedule": [["rcu", 5], *content["schedule"]]}, "it ends as diverged"),
        ({"ending": content["ending"] | {"rule": "I7"}}, "it ends as invariant [I6]"),
    ):
        code, lines, _ = typed("replay", changed(failure, tmp_path, **fields))
        assert code == 4, fields
        assert "the replay differs: " in lines[-1]
        assert why in lines[-1]


def test_a_changed_model_is_refused_unless_forced(failure, tmp_path):
    """The schedule of another model may mean something else; --force tries anyway."""
    other = changed(failure, tmp_path, model_hash="0" * 16)
    code, _, errors = typed("replay", other)
    assert code == 2
    assert "made with model 0000000000000000" in errors[-1]
    assert errors[-1].endswith("--force tries anyway.")
    assert typed("replay", other, "--force")[0] == 1


def test_what_is_no_failure_file_is_said(tmp_path, failure):
    """Missing, no JSON, another format, unknown keys, an actor that does not play."""
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for file, why in (
        (tmp_path / "none.json", "no such file"),
        (broken, "not a failure file"),
        (changed(failure, tmp_path, format=9), "format = 9: expected 1"),
    ):
        code, _, errors = typed("replay", file)
        assert code == 2
        assert why in errors[-1]
    code, _, errors = typed("replay", changed(failure, tmp_path, schedule=[["vcpu7", 3]]))
    assert code == 2
    assert '"vcpu7" does not play here' in errors[-1]


# --- shrink


def test_a_failure_shrinks_to_the_historic_interleaving(failure, tmp_path):
    """B01 in two context switches: the fault stands before mmu_lock, the update passes, the fault installs; and it replays."""
    small = tmp_path / "small.json"
    code, lines, _ = typed("shrink", failure, "--out", small)
    assert code == 1, lines
    content = json.loads(small.read_bytes())
    assert content["context_switches"] <= 2
    assert len(content["config"]["script"]["vcpus"]) == 1
    assert content["config"]["script"]["ctl"] == ["delete 0"]
    assert typed("replay", small)[0] == 1


def test_what_does_not_replay_is_not_shrunk(failure, tmp_path):
    """A search would find something small all the same, but it would not be this failure."""
    content = json.loads(failure.read_bytes())
    code, lines, _ = typed("shrink", changed(failure, tmp_path, schedule=content["schedule"][2:]))
    assert code == 4
    assert "the failure does not replay, so there is nothing to shrink: it ends as " in lines[-1]


# --- reproduce


def test_a_finding_of_a_run_becomes_a_minimal_schedule(tmp_path):
    """From real processes to a schedule of the same kind and rule, with its diagrams, in the run's own folder."""
    code, *_ = typed("run", "configs/busted/request-without-ack.toml", "--out", tmp_path / "runs", "--seed", "3")
    assert code == 1
    (run,) = (tmp_path / "runs").iterdir()
    finding = json.loads((run / "verdict.json").read_bytes())["findings"][0]
    code, lines, _ = typed("reproduce", run)
    assert code == 1, lines
    content = json.loads((run / "failure.json").read_bytes())
    assert (content["ending"]["kind"], content["ending"]["rule"]) == (finding["kind"], finding["invariant"])
    assert max(map(len, (run / "failure.txt").read_text().splitlines())) <= 72
    assert (run / "failure.svg").read_text().startswith("<")
    assert typed("replay", run / "failure.json")[0] == 1


def test_a_run_without_a_finding_cannot_be_reproduced(tmp_path):
    """One line, exit code 2; so is a folder that is no run."""
    (tmp_path / "verdict.json").write_text('{"verdict": "PASS", "findings": []}')
    code, _, errors = typed("reproduce", tmp_path)
    assert (code, "no finding to reproduce" in errors[-1]) == (2, True)
    code, _, errors = typed("reproduce", tmp_path / "none")
    assert (code, "no verdict.json" in errors[-1]) == (2, True)


def test_what_cannot_be_reproduced_says_what_was_tried(tmp_path):
    """A finding that the scenario cannot have: INCONCLUSIVE, exit code 3, and nothing is written."""
    (tmp_path / "config.toml").write_text((ROOT / "configs/scenarios/quick.toml").read_text())
    finding = {"kind": "stale-use", "invariant": "I3", "detail": "none", "slot": 1}
    (tmp_path / "verdict.json").write_text(json.dumps({"verdict": "VIOLATION", "findings": [finding]}))
    code, lines, _ = typed("reproduce", tmp_path, "--budget", "4s")
    assert code == 3
    assert re.search(r"not reproduced within 4s; tried [\d,]+ executions of \d+ scenarios", lines[-1])
    assert not (tmp_path / "failure.json").exists()
