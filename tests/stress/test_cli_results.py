# SPDX-License-Identifier: GPL-2.0-only
"""`zaptorture campaign results` from the command line: what it prints, in which form, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from stress.cli.results import results
from tests.campaign.journals import campaign, record

if TYPE_CHECKING:
    from pathlib import Path

OK, USAGE, HARNESS_ERROR = 0, 2, 4
WIDTH = 80


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Fifty runs of two variants, every tenth with a finding."""
    records = [
        record(
            number,
            variant=("split", "held")[number % 2],
            verdict="VIOLATION" if number % 10 == 9 else "PASS",
            reason="a reason that is too long for any line of eighty columns, however one cuts it, and goes on and on"
            * (number > 40),
            rates={"guest_accesses_per_s": (1e6, 5e5)[number % 2] + 1000 * number},
            quantiles={"zap_front_p99_ns": 1e5 + number},
        )
        for number in range(50)
    ]
    return campaign(tmp_path_factory.mktemp("campaigns") / "fifty", records)


def invoke(*arguments: str | Path) -> SimpleNamespace:
    """Exit code and output of the command run in this process; it never shows a traceback."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(results)
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert "Traceback" not in result.stdout + result.stderr
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr, lines=result.stdout.splitlines())


def output(*arguments: str | Path) -> list[str]:
    ended = invoke(*arguments)
    assert (ended.code, ended.err) == (OK, "")
    return ended.lines


# --- runs


def test_without_options_the_last_runs_are_shown(folder):
    """One line each, the newest last; how many came before, and all verdicts, in 80 columns."""
    lines = output(folder)
    assert lines[0].split() == ["run", "verdict", "s", "accesses/s", "reason"]
    assert [line.split("-")[0] for line in lines[1:41]] == [f"{number:06}" for number in range(10, 50)]
    assert lines[41:] == ["10 more before them (--limit shows more, --filter chooses)", "50 runs: 45 PASS, 5 VIOLATION"]
    assert max(map(len, lines)) <= WIDTH
    assert lines[40].endswith("…")


def test_limit_and_filter_choose(folder):
    """The count is that of the filter."""
    lines = output(folder, "--limit", "2", "--filter", "verdict = 'VIOLATION'")
    assert [line.split("-")[0] for line in lines[1:3]] == ["000039", "000049"]
    assert lines[3:] == ["3 more before them (--limit shows more, --filter chooses)", "5 runs: 5 VIOLATION"]
    assert output(folder, "--filter", "vcpus > 99") == ["0 runs"]


def test_named_columns_are_not_cut(folder):
    """Whoever asks for one wants to see it."""
    lines = output(folder, "--columns", "index, reason,host_cpu", "--limit", "1")
    assert lines[0].split() == ["index", "reason", "host_cpu"]
    assert "on and on none" in lines[1]


def test_json_has_all_runs_and_columns(folder):
    """One object; --limit and --columns are heeded where they are given."""
    found = json.loads("\n".join(output(folder, "--json")))
    assert (found["campaign"], found["runs"], found["verdicts"]["PASS"], len(found["rows"])) == (str(folder), 50, 45, 50)
    assert found["rows"][9]["verdict"] == "VIOLATION"
    assert found["rows"][9]["log_complete"] is False
    few = json.loads("\n".join(output(folder, "--json", "--limit", "1", "--columns", "run")))
    assert (few["runs"], few["rows"]) == (50, [{"run": "000049-quick-149"}])


def test_csv_has_a_header_and_all_runs(folder):
    """Null is an empty field."""
    table = list(csv.DictReader(io.StringIO("\n".join(output(folder, "--csv")))))
    assert len(table) == 50
    assert (table[0]["run"], table[0]["signature"], table[0]["log_complete"]) == ("000000-quick-100", "", "false")


def test_an_empty_campaign_is_shown(tmp_path):
    """It has no runs, and that is no error."""
    empty = campaign(tmp_path / "empty", [])
    assert output(empty) == ["0 runs"]
    assert output(empty, "--csv", "--columns", "run,verdict") == ["run,verdict"]
    assert output(empty, "--group", "variant") == ["0 runs"]
    assert json.loads(output(empty, "--json")[0])["rows"] == []
    assert output(empty, "--against", empty)[-1].startswith("no group of scenario, variant has runs on both sides")


# --- groups


def test_groups_have_a_line_and_medians(folder):
    """Counts above, medians of rates and quantiles below, a column a group."""
    lines = output(folder, "--group", "variant")
    assert lines[0].split() == ["#", "variant", "runs", "PASS", "VIOLATION", "guest", "p(fail)"]
    assert [line.split()[:6] for line in lines[1:3]] == [
        ["1", "held", "25", "20", "5", "250s"],
        ["2", "split", "25", "25", "0", "250s"],
    ]
    assert lines[2].split()[-1] == "<0.113"
    assert lines[4].split() == ["median", "#1", "#2"]
    assert "guest_accesses_per_s  525k 1.02M" in lines
    assert max(map(len, lines)) <= WIDTH


def test_groups_are_rows_of_json_and_csv(folder):
    """Flat, with the bound as a number."""
    found = json.loads("\n".join(output(folder, "--group", "variant", "--json")))
    assert [group["variant"] for group in found["groups"]] == ["held", "split"]
    assert found["groups"][1]["failure_bound"] == pytest.approx(0.1129, abs=1e-4)
    table = list(csv.DictReader(io.StringIO("\n".join(output(folder, "--group", "variant", "--csv")))))
    assert [row["guest_accesses_per_s"] for row in table] == ["525000.0", "1024000.0"]


def test_many_groups_fit_side_by_side(tmp_path):
    """As many as there is room for; the others below them."""
    many = campaign(tmp_path / "many", [record(number, vcpus=number) for number in range(13)])
    lines = output(many, "--group", "vcpus")
    assert sum(line.startswith("median") for line in lines) == 3
    assert max(map(len, lines)) <= WIDTH


# --- comparisons


def test_against_another_campaign(folder, tmp_path):
    """What became worse or better, with intervals; the rest is counted; exit code 0 whatever it says."""
    records = [
        record(number, variant=("split", "held")[number % 2], rates={"guest_accesses_per_s": 9e5 + 100 * number})
        for number in range(50)
    ]
    now = campaign(tmp_path / "now", records)
    lines = output(now, "--against", folder)
    assert lines[0] == f"{now} (50 runs) against {folder} (50 runs)"
    text = "\n".join(lines)
    assert "scenario=quick variant=split: 25 runs against 25" in text
    words = [" ".join(line.split()) for line in lines]
    assert "worse guest_accesses_per_s 1.02M 902k -11.9 % -12.7 % to -11.0 %" in words
    assert "better guest_accesses_per_s 525k 902k +71.9 % +68.8 % to +75.2 %" in words
    assert lines[-2] == "groups of scenario, variant; 95 % for all comparisons together"
    assert lines[-1] == "1 metric worse, 1 better; 8 show no difference"
    assert max(len(line) for line in lines[1:]) <= WIDTH
    found = json.loads("\n".join(output(now, "--against", folder, "--json")))
    assert [(change["metric"], change["worse"]) for change in found["changes"]] == [
        ("guest_accesses_per_s", False),
        ("guest_accesses_per_s", True),
    ]


def test_against_itself_nothing_differs(folder):
    """All metrics are counted."""
    assert output(folder, "--against", folder)[-1] == "0 metrics worse, 0 better; 12 show no difference"


def test_values_of_an_axis_are_compared(folder):
    """Within one campaign, with the value that is named."""
    text = "\n".join(output(folder, "--compare", "variant=split"))
    assert "other values of variant (25 runs) against variant=split (25 runs)" in text
    assert "variant=held scenario=quick: 25 runs against 25" in text
    assert "worse guest_accesses_per_s 1.02M 525k -48.7 % -49.8 % to -47.7 %" in [
        " ".join(line.split()) for line in text.splitlines()
    ]


# --- wrong use


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--filter", "vcpu = 4"], '--filter "vcpu = 4": no column "vcpu"; did you mean "vcpus"?'),
        (["--columns", "run,verdit"], '--columns verdit: no such column; did you mean "verdict"?'),
        (["--group", "axis"], "--group axis: no such column; "),
        (["--json", "--csv"], "--csv: not with --json; choose one."),
        (["--compare", "variant"], "--compare variant: expected a column and a value, such as variant=split-once."),
        (["--compare", "variant=x", "--against", "y"], "--compare: not with --against; choose one."),
        (["--group", "variant", "--limit", "3"], "--limit: only where runs are printed one by one."),
        (["--group", "variant", "--columns", "run"], "--columns: not with --group; --json has all of it."),
        (["--against", "nowhere"], "nowhere: no campaign: it has no journal.jsonl. Name the folder of a campaign."),
        (["--against", "nowhere", "--csv"], "--csv: not with a comparison; --json has all of it."),
    ],
)
def test_wrong_use_gets_one_line(arguments, said, folder):
    """On standard error, with exit code 2."""
    ended = invoke(folder, *arguments)
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (USAGE, "", 1)
    assert ended.err.startswith(said)


def test_a_damaged_journal_is_an_error_of_the_harness(tmp_path):
    """Whole lines behind a damaged one: somebody changed it."""
    folder = campaign(tmp_path / "c", [record(0), record(1)])
    journal = folder / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"000000-quick", b"damaged-quik"))
    ended = invoke(folder)
    assert ended.code == HARNESS_ERROR
    assert ended.lines[-1].startswith("HARNESS_ERROR ")
