# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/campaign/results.py and groups.py: the table out of the journal, filters over it, and groups of runs."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stress.campaign.bounds import share_upper
from stress.campaign.groups import grouped, verdict_counts
from stress.campaign.results import COLUMNS, RESULTS_FILE, open_results, update_results
from stress.errors import HarnessError, UsageError

from .journals import append, campaign, record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stress.campaign.results import Results


def rows(folder: Path, *columns: str) -> list[tuple]:
    """Some columns of all runs."""
    with open_results(folder) as results:
        return results.all_rows(f"select {', '.join(columns)} from results")


def runs(folder: Path) -> list[int]:
    return [index for (index,) in rows(folder, "index")]


# --- from the journal to the table


def test_a_record_becomes_a_row(tmp_path):
    """Tables inside of a record are written out; whatever else it has is a column by its own name."""
    found = [{"kind": "stale-use", "invariant": "I3"}] * 2
    one = record(
        3,
        verdict="VIOLATION",
        quantiles={"zap_front_p99_ns": 12.5},
        findings=found,
        folded=[["ab12", "a title"], ["cd34", "another"]],
        levels=2,
        later_list=[1],
    )
    folder = campaign(tmp_path / "c", [one])
    with open_results(folder) as results:
        (values,) = results.all_rows("select * from results")
        row = dict(zip(results.columns, values, strict=True))
        kinds = results.kinds
    assert {name: row[name] for name in ("run", "index", "role", "seed", "vcpus", "levels", "verdict", "reason")} == {
        "run": "000003-quick-103",
        "index": 3,
        "role": "test",
        "seed": 103,
        "vcpus": 4,
        "levels": 2,
        "verdict": "VIOLATION",
        "reason": "a reason for VIOLATION",
    }
    assert (row["nr_findings"], row["signature"], row["folder"]) == (2, "ab12", "runs/000003-quick-103")
    assert (row["deletes"], row["deletes_per_s"], row["zap_front_p99_ns"]) == (1000, 100.0, 12.5)
    assert (row["log_complete"], row["host_cpu"], row["compile_s"]) == (False, "none", 0.5)
    assert (kinds["levels"], kinds["deletes"], kinds["deletes_per_s"], kinds["zap_front_p99_ns"]) == (
        "config",
        "counters",
        "rates",
        "quantiles",
    )
    assert not {"event", "up_s", "crc", "findings", "later_list"} & row.keys()


def test_only_runs_that_count_have_rows(tmp_path):
    """A run that has begun, or will be tried again, is none yet."""
    folder = campaign(tmp_path / "c", [record(0)])
    append(folder, [{"index": 1, "attempt": 1, "run": "x"}], "start")
    append(folder, [{"index": 1, "attempt": 1, "run": "x", "reason": "no memory"}], "again")
    assert runs(folder) == [0]


def test_columns_may_differ_from_run_to_run(tmp_path):
    """What a record does not have is null."""
    folder = campaign(tmp_path / "c", [record(0, levels=2), record(1, counters={"moves": 3})])
    assert rows(folder, "levels", "deletes", "moves") == [(2, 1000, None), (None, None, 3)]


def test_a_column_of_several_kinds_is_text(tmp_path):
    """In one batch, and between an old table and its new rows; whole numbers beside others stay numbers."""
    folder = campaign(tmp_path / "c", [record(0, axis=1, other=1, number=1), record(1, axis="a", other=2, number=2)])
    assert rows(folder, "axis", "other", "number") == [("1", 1, 1), ("a", 2, 2)]
    append(folder, [record(2, axis=True, other="b", number=2.5)])
    assert rows(folder, "axis", "other", "number") == [("1", "1", 1), ("a", "2", 2), ("true", "b", 2.5)]


def test_a_counter_that_is_called_like_an_axis_keeps_apart(tmp_path):
    """The axis has the name, in runs without the axis too."""
    folder = campaign(tmp_path / "c", [record(0, deletes=7), record(1)])
    assert rows(folder, "deletes", "counters_deletes") == [(7, 1000), (None, 1000)]


def test_an_empty_campaign_has_the_columns_of_every_campaign(tmp_path):
    """So that a filter is right or wrong before the first run has ended."""
    folder = campaign(tmp_path / "c", [])
    with open_results(folder) as results:
        results.filter("verdict = 'VIOLATION' and vcpus >= 4")
        assert results.all_rows("select * from selected") == []
        assert set(results.columns) == {name for names in COLUMNS.values() for name in names}


def test_a_folder_without_campaign_is_refused(tmp_path):
    """One line that says what was expected."""
    with pytest.raises(UsageError, match=r"no campaign: it has no journal\.jsonl"):
        open_results(tmp_path)


def test_a_folder_may_have_any_name(tmp_path):
    """Wildcards and quotes mean nothing in a name."""
    folder = campaign(tmp_path / "a [1]?*'x", [record(0)])
    assert runs(folder) == runs(folder) == [0]


# --- bringing it up to date


def test_only_the_tail_of_a_journal_is_read(tmp_path):
    """Bytes in the middle of what the table holds are not looked at again."""
    folder = campaign(tmp_path / "c", [record(number) for number in range(5)])
    update_results(folder)
    journal = folder / "journal.jsonl"
    content = journal.read_bytes()
    journal.write_bytes(content.replace(b"000002-quick", b"damaged-quik"))
    append(folder, [record(5)])
    assert runs(folder) == [0, 1, 2, 3, 4, 5]
    assert rows(folder, "run")[2] == ("000002-quick-102",)


def test_without_news_nothing_is_written(tmp_path):
    """Records that are no rows are no news."""
    folder = campaign(tmp_path / "c", [record(0)])
    before = update_results(folder).stat()
    append(folder, [{"about": "clock", "text": "it was set"}], "note")
    after = update_results(folder).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    append(folder, [record(1)])
    assert update_results(folder).stat().st_ino != before.st_ino
    assert [path.name for path in folder.glob("results*")] == [RESULTS_FILE]


def test_a_torn_tail_counts_once_it_is_whole(tmp_path):
    """A line that is being written is none yet."""
    folder = campaign(tmp_path / "c", [record(0), record(1)])
    journal = folder / "journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-10])
    assert runs(folder) == [0]
    journal.write_bytes(whole)
    assert runs(folder) == [0, 1]


@pytest.mark.parametrize("later", [1, 3, 20])
def test_a_journal_that_was_cut_loses_no_rows(later, tmp_path):
    """However far it has grown since: rows that it no longer tells of are kept, those that it tells are taken from it."""
    folder = campaign(tmp_path / "c", [record(number, verdict="INCONCLUSIVE") for number in range(4)])
    update_results(folder)
    journal = folder / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:3]))
    append(folder, [{"state": {}}], "checkpoint")
    append(folder, [record(number) for number in range(3, 3 + later)])
    found = rows(folder, "index", "verdict")
    assert sorted(found) == [(number, "INCONCLUSIVE") for number in range(3)] + [(3 + n, "PASS") for n in range(later)]
    assert sorted(rows(folder, "index", "verdict")) == sorted(found)


def test_an_emptied_journal_loses_no_rows(tmp_path):
    """A campaign that was truncated to nothing goes on with a checkpoint."""
    folder = campaign(tmp_path / "c", [record(0), record(1)])
    update_results(folder)
    (folder / "journal.jsonl").write_bytes(b"")
    assert runs(folder) == [0, 1]
    append(folder, [{"state": {}}], "checkpoint")
    append(folder, [record(2)])
    assert runs(folder) == [0, 1, 2]


def test_the_table_alone_is_enough(tmp_path):
    """Whoever keeps nothing but the table can still read it and compare with it."""
    folder = campaign(tmp_path / "c", [record(0)])
    update_results(folder)
    (folder / "journal.jsonl").unlink()
    assert runs(folder) == [0]


@pytest.mark.parametrize("content", [b"", b"PAR1 no table PAR1"])
def test_a_damaged_table_is_built_anew(content, tmp_path):
    """The journal has it all."""
    folder = campaign(tmp_path / "c", [record(0)])
    update_results(folder).write_bytes(content)
    assert runs(folder) == [0]
    assert pq.read_table(folder / RESULTS_FILE)["index"].to_pylist() == [0]


def test_damage_inside_of_a_table_gets_one_line(tmp_path):
    """It is no mistake in the filter."""
    folder = campaign(tmp_path / "c", [record(number, reason=f"{number}" * 100) for number in range(200)])
    path = update_results(folder)
    content = path.read_bytes()
    path.write_bytes(content[:8] + b"\xff" * 2000 + content[2008:])
    with open_results(folder) as results, pytest.raises(HarnessError, match="Once it is removed, it is built anew"):
        results.all_rows("select * from results")


def test_where_nothing_can_be_written_the_table_is_in_memory(tmp_path):
    """A folder that is read-only can still be asked."""
    folder = campaign(tmp_path / "c", [record(0)])
    (folder / RESULTS_FILE).mkdir()  # it cannot be replaced by a file, whoever asks
    assert runs(folder) == [0]
    with pytest.raises(HarnessError, match="cannot write"):
        update_results(folder)
    assert [path.name for path in folder.glob("results*")] == [RESULTS_FILE]


VALUES = st.one_of(st.integers(-(2**40), 2**40), st.floats(allow_nan=False, width=32), st.text(max_size=4), st.booleans())
RECORDS = st.lists(st.dictionaries(st.sampled_from(["axis", "other"]), VALUES), max_size=6)


@settings(deadline=None, max_examples=40)
@given(st.lists(RECORDS, min_size=1, max_size=4))
def test_step_by_step_gives_the_rows_of_all_at_once(steps):
    """Whatever the columns hold, a table that grew has the same runs, nulls and columns as one that was built at once."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = campaign(Path(temporary) / "c", [])
        number = 0
        for step in steps:
            for axes in step:
                append(folder, [record(number, **axes)])
                number += 1
            update_results(folder)
        grown = pq.read_table(folder / RESULTS_FILE)
        (folder / RESULTS_FILE).unlink()
        built = pq.read_table(update_results(folder))
        assert grown.column_names == built.column_names
        assert grown["index"].to_pylist() == built["index"].to_pylist() == list(range(number))
        for name in {"axis", "other"} & set(built.column_names):
            assert grown[name].is_null().to_pylist() == built[name].is_null().to_pylist()


# --- filters


@pytest.fixture
def three(tmp_path) -> Path:
    """Three runs, one with a finding."""
    return campaign(tmp_path / "c", [record(0), record(1, vcpus=8, verdict="VIOLATION"), record(2, vcpus=16)])


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("true", [0, 1, 2]),
        ("vcpus >= 8", [1, 2]),
        ("VCPUS >= 8 and verdict = 'VIOLATION'", [1]),
        ("vcpus = (select max(vcpus) from results) -- the largest", [2]),
        ("\"check\" = 'protocol' and reason like '%VIOLATION'", [1]),
        ("null", []),
    ],
)
def test_a_filter_keeps_the_rows_of_which_it_is_true(condition, expected, three):
    """Any SQL over the columns."""
    with open_results(three) as results:
        results.filter(condition)
        assert results.all_rows("select index from selected") == [(index,) for index in expected]


def _filtered(results: Results, condition: str) -> list[tuple]:
    results.filter(condition)
    return results.all_rows("select * from selected")


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("vcpu > 3", 'no column "vcpu"; did you mean "vcpus"?'),
        ('verdict = "VIOLATION"', 'no column "VIOLATION"; expected a column; a text stands in single quotes.'),
        ("check = 'use'", 'check is a word of SQL too: write the column as "check".'),
        ("", 'expected a condition over the columns, such as "vcpus >= 4".'),
        ("vcpus >", "syntax error"),
        ("true) or (true", "syntax error"),
        ("true, true", "single expression"),
        ("true; select 1", "syntax error"),
        ("cast(run as int) = 1", "Could not convert string"),
        ("count(*) > 1", "aggregates"),
        ("vcpus = $1", "a parameter"),
        ("exists(with x as (delete from results) select 1)", "DELETE inside of a SELECT"),
        ("exists(select * from read_text('/etc/passwd'))", "read_text() in FROM"),
        ("exists(from '/etc/passwd')", "/etc/passwd"),
    ],
)
def test_a_wrong_filter_gets_one_line(condition, said, three):
    """What was found, where, and what is accepted; nothing is written and no other file is read."""
    with open_results(three) as results:
        with pytest.raises(UsageError) as raised:
            _filtered(results, condition)
        assert str(raised.value).startswith(f'--filter "{condition}": ')
        assert said in str(raised.value)
        assert "\n" not in str(raised.value)
        assert len(results.all_rows("select * from results")) == 3


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Iterator[Results]:
    """The open table of two runs."""
    with open_results(campaign(tmp_path_factory.mktemp("two") / "c", [record(0), record(1, vcpus=8)])) as results:
        yield results


@settings(deadline=None)
@given(condition=st.text(st.sampled_from("vcpus verdict'\"()=<>,;-*/0123 ornulla$[]{}\n\\"), max_size=40))
def test_no_text_does_anything_but_filter(condition, two):
    """Rows or one line, whatever is typed."""
    try:
        two.filter(condition)
        kept = two.all_rows("select index from selected")
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert set(kept) <= {(0,), (1,)}
    assert len(two.all_rows("select * from results")) == 2


def test_columns_are_found_in_any_case_or_suggested(three):
    """As SQL finds them."""
    with open_results(three) as results:
        assert results.known("--columns", ["Run", "vcpus"]) == ["run", "vcpus"]
        with pytest.raises(UsageError, match=r'--columns vpus: no such column; did you mean "vcpus"\?'):
            results.known("--columns", ["vpus"])


# --- groups


def test_a_group_has_counts_time_and_medians(tmp_path):
    """Planted runs, errors of the harness and runs that saw too little count as runs, not in the bound."""
    records = [
        record(0, rates={"deletes_per_s": 1.0}, quantiles={"hold_p99_ns": 5.0}),
        record(1, rates={"deletes_per_s": 3.0}, verdict="INCONCLUSIVE"),
        record(2, rates={"deletes_per_s": 10.0}, verdict="VIOLATION"),
        record(3, rates={}, verdict="HARNESS_ERROR", elapsed_s=0.0),
        record(4, rates={"deletes_per_s": 4.0}, verdict="VIOLATION", role="planted"),
        record(5, vcpus=8, rates={}),
    ]
    with open_results(campaign(tmp_path / "c", records)) as results:
        first, second = grouped(results, ["vcpus"])
        assert verdict_counts(results) == {"PASS": 2, "INCONCLUSIVE": 1, "HARNESS_ERROR": 1, "VIOLATION": 2}
    assert (first.key, first.runs, first.guest_s) == ({"vcpus": 4}, 5, 40.0)
    assert first.verdicts == {"PASS": 1, "INCONCLUSIVE": 1, "HARNESS_ERROR": 1, "VIOLATION": 2}
    assert (first.judged, first.failed) == (2, 1)
    assert first.medians == {"deletes_per_s": 3.5, "hold_p99_ns": 5.0}
    assert (second.key, second.judged, second.failed, second.medians) == ({"vcpus": 8}, 1, 0, {})


@settings(deadline=None)
@given(st.integers(1, 3000), st.data())
def test_the_bound_is_the_largest_probability_that_is_not_refuted(judged, data):
    """With it, so few failures or fewer come up in one campaign of twenty: that is how Clopper and Pearson define it."""
    failed = data.draw(st.integers(0, judged))
    bound = share_upper(failed, judged)
    if failed == judged:
        assert bound == 1.0
    else:
        assert stats.binom.cdf(failed, judged, bound) == pytest.approx(0.05, rel=1e-6)


def test_without_runs_there_is_no_bound(tmp_path):
    """Nothing is known of a group that has only errors of the harness."""
    with open_results(campaign(tmp_path / "c", [record(0, verdict="HARNESS_ERROR")])) as results:
        assert grouped(results, ["vcpus"])[0].failure_bound is None


def test_the_metadata_tells_how_far_the_table_reaches(tmp_path):
    """Up to which byte, and which kind of column each is; any reader of Parquet can see it."""
    folder = campaign(tmp_path / "c", [record(0)])
    metadata = json.loads(pq.read_schema(update_results(folder)).metadata[b"zaptorture"])
    assert metadata["offset"] == (folder / "journal.jsonl").stat().st_size
    assert metadata["kinds"]["deletes_per_s"] == "rates"


def test_the_reference_lists_the_columns_of_every_campaign():
    """With their types, in the table's order."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "results.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(\w+)` \| (string|int64|double|bool) \|", page, re.MULTILINE)
    assert documented == [column for columns in COLUMNS.values() for column in columns.items()]
