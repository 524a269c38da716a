# SPDX-License-Identifier: GPL-2.0-only
"""The plan follows from file and seed alone: every combination, every repetition, a seed of its own for each run."""

from __future__ import annotations

import pytest

from stress.campaign.load import Loaded, load_campaign, what_changed
from stress.campaign.plan import Plan
from stress.campaign.select import places_where
from stress.errors import UsageError

from .fakes import PLANTED, SCENARIO, campaign_file

LONG = SCENARIO.replace("100ms", "10m")


def plan_of(tmp_path, text, seed=7, soak=False, **scenarios):
    return Plan(load_campaign(campaign_file(tmp_path, text, **scenarios)), seed, soak=soak)


def test_every_combination_of_the_matrix(tmp_path):
    """Scenarios times values, in the file's order, with each run's config changed accordingly."""
    text = (
        'scenarios = ["a", "b"]\nrepeats = 2\n[set]\nrun.duration = "1s"\n'
        '[matrix]\nvm.nr_vcpus = [2, 8]\n"variant" = ["split", "held"]\n'
    )
    plan = plan_of(tmp_path, text, a=SCENARIO, b=SCENARIO)
    assert plan.total == 16
    runs = [plan.run(index) for index in range(16)]
    points = [(run.config.scenario, run.config.vm.nr_vcpus, run.config.variant) for run in runs]
    assert points[:4] == [("a", 2, "split"), ("a", 2, "held"), ("a", 8, "split"), ("a", 8, "held")]
    assert points[:8] == points[8:]
    assert len(set(points)) == 8
    assert {run.config.duration_s for run in runs} == {1.0}
    assert len({run.config.run.seed for run in runs}) == 16


def test_a_table_in_the_matrix_sets_keys_together(tmp_path):
    """An axis whose values are tables is a label over several keys."""
    text = (
        'scenarios = ["a"]\n[matrix]\nsize = [{"slots.0.npages" = 16, vm.nr_vcpus = 2}, {"slots.0.npages" = 64, vm.nr_vcpus = 3}]\n'
    )
    plan = plan_of(tmp_path, text)
    assert [(run.config.slots[0].npages, run.config.vm.nr_vcpus) for run in map(plan.run, range(2))] == [(16, 2), (64, 3)]
    assert plan.tests[0].facts["size"] == "slots.0.npages=16 vm.nr_vcpus=2"


def test_exclusions_and_weights(tmp_path):
    """Excluded combinations are gone; 3*a is a three times, each with a seed of its own."""
    text = (
        'scenarios = ["3*a", "b"]\n[matrix]\nvm.nr_vcpus = [2, 4]\nvariant = ["split", "held"]\n'
        '[[exclude]]\nvm.nr_vcpus = 4\nvariant = "held"\n'
    )
    plan = plan_of(tmp_path, text, a=SCENARIO, b=SCENARIO)
    names = [plan.run(index).config.scenario for index in range(plan.total)]
    assert (names.count("a"), names.count("b")) == (9, 3)
    assert not any(item.config.vm.nr_vcpus == 4 and item.config.variant == "held" for item in plan.tests)
    assert len({plan.run(index).config.run.seed for index in range(plan.total)}) == 12


def test_no_two_runs_have_one_seed(tmp_path):
    """Whoever names a scenario twice, by name, weight or pattern, planted or not, gets runs with seeds of their own."""
    text = 'scenarios = ["a", "2*a", "*a"]\n[power]\nscenarios = ["3*p"]\nevery = 1\n'
    plan = plan_of(tmp_path, text, a=SCENARIO, p=PLANTED)
    assert plan.total == 8
    assert len({plan.run(index).config.run.seed for index in range(8)}) == 8


def test_a_seed_depends_on_nothing_beside_its_run(tmp_path):
    """Another scenario or value in the file leaves the seeds of all others alone; another campaign seed changes all."""
    few = plan_of(tmp_path / "few", 'scenarios = ["b"]\n[matrix]\nvm.nr_vcpus = [4]\n', b=SCENARIO)
    many = plan_of(tmp_path / "many", 'scenarios = ["a", "b"]\n[matrix]\nvm.nr_vcpus = [2, 4, 8]\n', a=SCENARIO, b=SCENARIO)
    other = plan_of(tmp_path / "few", 'scenarios = ["b"]\n[matrix]\nvm.nr_vcpus = [4]\n', seed=8, b=SCENARIO)
    seeds = {(run.item.key): run.config.run.seed for run in map(many.run, range(many.total))}
    assert few.run(0).config.run.seed == seeds[few.run(0).item.key]
    assert few.run(0).config.run.seed != other.run(0).config.run.seed


def test_planted_runs_come_in_between(tmp_path):
    """After each `every` tests one planted run, in turn; what they find is not expected of the tests."""
    text = 'scenarios = ["a"]\nrepeats = 7\n[power]\nscenarios = ["p", "q"]\nevery = 3\n'
    plan = plan_of(tmp_path, text, a=SCENARIO, p=PLANTED, q=PLANTED)
    assert plan.total == 9
    names = [plan.run(index).config.scenario for index in range(9)]
    assert names == ["a", "a", "a", "p", "a", "a", "a", "q", "a"]
    assert [plan.run(index).item.planted for index in (3, 7, 8)] == [True, True, False]
    assert len({plan.run(index).config.run.seed for index in range(9)}) == 9


def test_a_soak_rotates_with_fresh_seeds_and_cuts_long_scenarios(tmp_path):
    """Each rotation has every scenario once more, in another order; ten minutes become ten segments."""
    plan = plan_of(tmp_path, 'scenarios = ["a", "b"]\n[soak]\nsegment = "60s"\n', soak=True, a=SCENARIO, b=LONG)
    assert plan.total is None
    assert len(plan.tests) == 11
    rotations = [[plan.run(index) for index in range(start, start + 11)] for start in (0, 11, 22)]
    for rotation in rotations:
        assert sorted(run.item.key for run in rotation) == sorted(item.key for item in plan.tests)
    assert len({run.config.run.seed for rotation in rotations for run in rotation}) == 33
    assert len({tuple(run.item.key for run in rotation) for rotation in rotations}) == 3
    assert {run.config.duration_s for run in rotations[0] if run.config.scenario == "b"} == {60.0}


def test_the_plan_survives_its_way_through_plan_json(tmp_path):
    """What was kept gives the same runs as the file."""
    text = 'scenarios = ["2*a"]\n[power]\nscenarios = ["p"]\nevery = 1\n'
    loaded = load_campaign(campaign_file(tmp_path, text, a=SCENARIO, p=PLANTED))
    again = Loaded.from_content("kept", loaded.content())
    one, two = (Plan(each, 3, soak=False) for each in (loaded, again))
    assert [one.run(index).toml for index in range(4)] == [two.run(index).toml for index in range(4)]


def test_a_filter_is_sql_over_what_is_known(tmp_path):
    """`vcpus>=4 and variant='held'` keeps those runs; nothing else of the plan changes."""
    plan = plan_of(tmp_path, 'scenarios = ["a"]\n[matrix]\nvm.nr_vcpus = [2, 4, 8]\nvariant = ["split", "held"]\n')
    facts = [item.facts for item in plan.tests]
    assert places_where("vcpus>=4 and variant='held'", facts) == {3, 5}
    assert places_where("nr_vcpus = 2", facts) == {0, 1}


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("vcpu >= 4", 'vcpu is not known; did you mean "vcpus"?'),
        ("vcpus >= ", "expected an SQL condition over scenario, "),
        ("vcpus > 100", "none of the 1 planned runs is such"),
        ("1=1); copy plan to 'x'; select (1", "expected an SQL condition"),
    ],
)
def test_a_filter_that_is_none(tmp_path, monkeypatch, condition, message):
    """One line says what is wrong; nothing is executed beside the condition."""
    monkeypatch.chdir(tmp_path)
    plan = plan_of(tmp_path / "c", 'scenarios = ["a"]\n')
    with pytest.raises(UsageError) as caught:
        places_where(condition, [item.facts for item in plan.tests])
    assert message in str(caught.value)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "scenarios: missing"),
        ("scenarios = []", "scenarios = []: expected one or more names"),
        ('scenarios = ["b"]', 'scenarios.0 = "b": '),
        ('scenarios = ["b*"]', "no scenario in"),
        ('scenarios = ["a"]\nrepeat = 2', 'repeat: unknown key; did you mean "repeats"?'),
        ('scenarios = ["a"]\n[limits]\ncpus = 0', "limits.cpus = 0: expected an integer from 1"),
        ('scenarios = ["a"]\n[limits]\novertime = "soon"', 'limits.overtime = "soon": expected a time'),
        ('scenarios = ["a"]\n[matrix]\nvm.nr_vcpus = 4', "matrix.vm.nr_vcpus = 4: expected a list"),
        ('scenarios = ["a"]\n[matrix]\nvm.nr_vcpus = [4, 0]', "a with vm.nr_vcpus=0: vm.nr_vcpus = 0: expected an integer"),
        ('scenarios = ["a"]\n[set]\nvm.vcpus = 4', "a: vm.vcpus: unknown key"),
        ('scenarios = ["a"]\n[set]\nrun.seed = 4', "set.run.seed = 4: expected no seed"),
        ('scenarios = ["a"]\n[set]\n"slots.3.npages" = 4', "slots takes 0 to 0, not"),
        ('scenarios = ["a"]\n[expect]\nx = "stale-use [I3]"', "expect.x: no such scenario here; expected one of a."),
        ('scenarios = ["a"]\n[expect]\na = "VIOLATION"', 'expect.a = "VIOLATION": expected a kind and a rule'),
        ('scenarios = ["a"]\n[finding]\ncommands = [["x", "{what}"]]', "expected no other braces than {title}"),
        ('scenarios = ["a"]\n[finding]\ncommands = [[]]', "expected a program and its arguments"),
        ('scenarios = ["a"]\n[matrix]\nvm.nr_vcpus = [4]\n[[exclude]]\nvm.nr_vcpus = 4', "exclude: leaves no run"),
        ('scenarios = ["a"]\n[[exclude]]\nvm.nr_vcpu = 4', "exclude.0.vm.nr_vcpu: no key of the matrix; expected one of scenario."),
        ('scenarios = ["a"]\n[power]\nscenarios = ["a"]', "power.scenarios: a plants no bug"),
        ('scenarios = ["a"', "not valid TOML"),
    ],
)
def test_a_file_that_is_wrong_gets_one_line(tmp_path, text, message):
    """Where, what was found and what is accepted."""
    with pytest.raises(UsageError) as caught:
        plan_of(tmp_path, text)
    assert message in str(caught.value)
    assert "campaign.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_changed_names_keys_and_values():
    """Old and new value of each key that differs, keys that came and went among them."""
    before = {"campaign": {"repeats": 1, "matrix": {"x": [1, 2]}}, "scenarios": {"a": {}}}
    after = {"campaign": {"repeats": 2, "matrix": {"x": [1]}}, "scenarios": {"a": {"variant": "held"}}}
    assert what_changed(before, after) == [
        "campaign.matrix.x.1: 2 became nothing",
        "campaign.repeats: 1 became 2",
        "scenarios.a.variant: nothing became 'held'",
    ]
    assert what_changed(before, before) == []
