# SPDX-License-Identifier: GPL-2.0-only
"""Reading a scenario: what is accepted, and the one line that says why something is not."""

from __future__ import annotations

import errno
import os
import tomllib
from pathlib import Path

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stress.config import Config, config_hash, load_config, resolved_toml
from stress.config.keys import config_keys
from stress.errors import UsageError

KEYS = sorted(key.name.replace("[]", ".0") for key in config_keys(Config))

VALUES = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(st.characters(exclude_categories=["Cs"])),
        st.datetimes(),
        st.dates(),
        st.sampled_from(["delete", "move", "split", "off", "use", "10s", "3h", 1, 4, 64, 0.5, 2**63, 10**400]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc_.\n", min_size=1), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture
def write(tmp_path):
    """A scenario file with the given text."""

    def write_file(text: str | bytes, name: str = "scenario.toml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_file


def complaint(path: Path, *overrides: str, **options) -> str:
    with pytest.raises(UsageError) as caught:
        load_config(path, overrides, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message.replace(f"{path.parent}/", "")


def test_an_empty_file_gives_the_defaults(write) -> None:
    """Every key has a default, so that an empty file is a scenario; its name is the file's."""
    config = load_config(write("", "quick.toml"), seed=7)
    assert config.scenario == "quick"
    assert config.vm == Config().vm
    assert config.slots == Config().slots
    assert config.duration_s == 10.0


@pytest.mark.parametrize(
    ("stem", "name"),
    [("a b", "a-b"), (".hidden", "hidden"), ("größe", "gr--e"), ("..", "unnamed"), ("x" * 80, "x" * 64)],
)
def test_a_file_name_becomes_a_scenario_name_that_fits_into_a_folder_name(write, stem: str, name: str) -> None:
    """Characters that would trouble a folder name are replaced."""
    assert load_config(write("", f"{stem}.toml")).scenario == name


def test_a_drawn_seed_is_part_of_the_config(write) -> None:
    """Nothing downstream has to draw: two loads without a seed differ, a given seed stays."""
    path = write("")
    seeds = {load_config(path).run.seed for _ in range(4)}
    assert None not in seeds
    assert len(seeds) > 1
    assert load_config(path, ["run.seed=5"]).run.seed == 5
    assert load_config(path, ["run.seed=5"], seed=6).run.seed == 6


def test_overrides_apply_in_order_and_options_last(write) -> None:
    """A later --set wins; --duration wins over all of them."""
    path = write('[run]\nduration = "1s"\n[vm]\nnr_vcpus = 2')
    config = load_config(path, ["vm.nr_vcpus=3", "vm.nr_vcpus = 5", "run.duration=3s"], duration="2m")
    assert config.vm.nr_vcpus == 5
    assert config.duration_s == 120.0


def test_an_override_is_toml_or_else_a_string(write) -> None:
    """Numbers, lists and quoted strings are TOML; a bare word is a string."""
    path = write("")
    config = load_config(path, ["variant=held", 'check.level="use"', 'slots.0.ops=["delete"]', "slots.0.base_gfn=0x10"])
    assert (config.variant, config.check.level, config.slots[0].base_gfn) == ("held", "use", 16)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [('"500ms"', 0.5), ('"10s"', 10), ('"2m"', 120), ('"72h"', 259200), ("3", 3), ("0.5", 0.5), ('"7"', 7)],
)
def test_durations(write, text: str, seconds: float) -> None:
    """A duration has a unit, or is a number of seconds."""
    assert load_config(write(f"[run]\nduration = {text}")).duration_s == seconds


def test_a_resolved_config_loads_as_itself(write) -> None:
    """The file kept in the run folder is a scenario that means the same, name included."""
    text = '[[slots]]\nbase_gfn=0\nnpages=4\nops=["move"]\nmove_to=64\n[[slots]]\nbase_gfn=512\nnpages=1'
    config = load_config(write(text, "two.toml"))
    again = load_config(write(resolved_toml(config), "config.toml"))
    assert again == config
    assert config_hash(again) == config_hash(config)


def test_the_hash_names_everything_but_the_seed(write) -> None:
    """Two runs of one scenario share it; any other key changes it."""
    path = write("")
    assert config_hash(load_config(path, seed=1)) == config_hash(load_config(path, seed=2))
    assert config_hash(load_config(path)) != config_hash(load_config(path, ["vm.levels=3"]))
    assert len(config_hash(Config())) == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[vm]\nnr_vcpus = 0", "s.toml: vm.nr_vcpus = 0: expected an integer from 1 to 64."),
        ("[vm]\nnr_vcpus = true", "s.toml: vm.nr_vcpus = true: expected an integer from 1 to 64."),
        ("[vm]\nnr_vcpus = 4.0", "s.toml: vm.nr_vcpus = 4.0: expected an integer from 1 to 64."),
        ("[vm]\nnr_vcpu = 4", 's.toml: vm.nr_vcpu: unknown key; did you mean "nr_vcpus"?'),
        ("nr_vcpus = 4", 's.toml: nr_vcpus: unknown key; did you mean "vm.nr_vcpus"?'),
        ("[check]\nzzz = 1", "s.toml: check.zzz: unknown key; expected one of level."),
        ('"a\\nb" = 1', 's.toml: "a\\nb": unknown key; expected one of scenario, variant, bugs, '),
        ("[vm]\ntlb_entries = 100", "s.toml: vm.tlb_entries = 100: expected a power of two from 1 to 1024."),
        ("[perturb]\nprobability = nan", "s.toml: perturb.probability = nan: expected a number from 0 to 1."),
        ('variant = "spilt"', 's.toml: variant = "spilt": expected one of "split", "split-once", "unsplit", "held".'),
        ("vm = 3", "s.toml: vm = 3: expected a table."),
        ("slots = 3", "s.toml: slots = 3: expected 1 to 8 tables."),
        ("slots = []", "s.toml: slots = []: expected 1 to 8 tables."),
        ("slots = [1]", "s.toml: slots.0 = 1: expected a table."),
        ("[[slots]]\nbase_gfn = 0", "s.toml: slots.0.npages: missing; expected an integer from 1 to 65536."),
        ('scenario = "../x"', 's.toml: scenario = "../x": expected a name of 1 to 64 letters'),
        ('scenario = "x\\n"', 's.toml: scenario = "x\\n": expected a name of 1 to 64 letters'),
        ('[run]\nduration = "10d"', 's.toml: run.duration = "10d": expected a time from "10ms" to "720h"'),
        ("[run]\nduration = 1979-05-27", 's.toml: run.duration = 1979-05-27: expected a time from "10ms" to "720h"'),
        (f"[run]\nseed = 0x{'f' * 6000}", "s.toml: run.seed = 0xfffffff"),
        ("a = = 3", "s.toml: not valid TOML: Invalid value (at line 1, column 5)."),
        (f"a = {'9' * 6000}", "s.toml: not valid TOML: Exceeds the limit"),
        (f"a = {'[' * 3000}", "s.toml: nested too deeply; expected a scenario file (TOML)."),
        (b"\xff\xfe", "s.toml: byte 0xff at offset 0 is not UTF-8; expected a scenario file (TOML)."),
        (b"#" * (1 << 21), "s.toml: larger than 1048576 bytes; expected a scenario file (TOML)."),
    ],
)
def test_a_bad_file_is_one_line(write, text: str | bytes, message: str) -> None:
    """File, key, value and what is accepted, in one line."""
    assert complaint(write(text, "s.toml")).startswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("vm.nr_vcpus", '--set "vm.nr_vcpus": expected KEY=VALUE, such as vm.nr_vcpus=8.'),
        ("", '--set "": expected KEY=VALUE'),
        ("=3", '--set "=3": expected KEY=VALUE'),
        ("a..b=3", '--set "a..b=3": expected KEY=VALUE'),
        ("vm.nr_vcpus=0", "--set vm.nr_vcpus = 0: expected an integer from 1 to 64."),
        ("vm.nr_vcpus=", '--set vm.nr_vcpus = "": expected an integer from 1 to 64.'),
        ("vm.nr_vcpus=4\nfoo=3", '--set vm.nr_vcpus = "4\\nfoo=3": expected an integer from 1 to 64.'),
        ("vm.nr_vcpu=3", '--set vm.nr_vcpu: unknown key; did you mean "nr_vcpus"?'),
        ("vm=3", "--set vm = 3: expected a table."),
        ("vm.levels.x=3", '--set "vm.levels.x=3": vm.levels takes no key below it, not "x".'),
        ("slots.0.npages=0", "--set slots.0.npages = 0: expected an integer from 1 to 65536."),
        ("slots.1.npages=1", '--set "slots.1.npages=1": slots takes 0 to 0, not "1".'),
        ("slots.-1.npages=1", '--set "slots.-1.npages=1": slots takes 0 to 0, not "-1".'),
        (f"slots.{'9' * 5000}.npages=1", '--set "slots.9999'),
        ("slots.x=1", '--set "slots.x=1": slots takes 0 to 0, not "x".'),
        ("slots.0.npages=\udcff", '--set slots.0.npages = "\\udcff": expected an integer'),
    ],
)
def test_a_bad_override_is_one_line_that_names_the_option(write, override: str, message: str) -> None:
    """What came from --set is not blamed on the file."""
    assert complaint(write("[vm]\nlevels = 3"), override).startswith(message)


def test_bad_options_name_themselves(write) -> None:
    """So do --seed and --duration, even where the file's own table is broken."""
    path = write("", "s.toml")
    assert complaint(path, seed=-1) == "--seed = -1: expected an integer from 0 to 2^63 - 1."
    assert complaint(path, duration="soon").startswith('--duration = "soon": expected a time')
    assert complaint(write("run = 3", "s.toml"), seed=1) == "s.toml: run = 3: expected a table."


def test_a_missing_file_suggests_its_neighbour(write, tmp_path: Path) -> None:
    """A slip in the name is the likely reason."""
    write("", "quick.toml")
    assert complaint(tmp_path / "qiuck.toml") == 'qiuck.toml: no such file; did you mean "quick.toml"?'
    assert complaint(tmp_path / "quick") == 'quick: no such file; did you mean "quick.toml"?'
    assert complaint(tmp_path / "zzz.toml") == "zzz.toml: no such file."
    assert complaint(tmp_path / "none" / "x.toml") == "x.toml: no such file."


def test_what_is_no_readable_file_is_said(tmp_path: Path) -> None:
    """A folder, a name too long, an endless device, a file without permission."""
    assert complaint(tmp_path).endswith("is a folder; expected a scenario file (TOML).")
    assert complaint(tmp_path / ("x" * 300)).endswith("cannot be read: File name too long.")
    assert complaint(Path("/dev/zero")).endswith("larger than 1048576 bytes; expected a scenario file (TOML).")


def test_a_file_without_permission_is_said(write, monkeypatch) -> None:
    """The system's own words follow the name."""
    path = write("", "s.toml")

    def refuse(*args, **kwargs):  # root could read any file
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refuse)
    assert complaint(path) == "s.toml: cannot be read: Permission denied."


def nested(name: str, value: object) -> dict:
    raw: object = value
    for part in reversed(name.split(".")):
        raw = [{"base_gfn": 0, "npages": 1} | raw] if part == "0" else {part: raw}
    return raw


@given(name=st.sampled_from(KEYS) | st.sampled_from(["vm", "slots", "slots.0", "run", "nope", "vm.nope"]), value=VALUES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_of_any_key_is_accepted_or_refused_in_one_line(tmp_path: Path, name: str, value: object) -> None:
    """No TOML value ends in anything but a config or a line that names the file and the key."""
    path = tmp_path / "any.toml"
    text = tomli_w.dumps(nested(name, value if name != "slots.0" or isinstance(value, dict) else {"npages": value}))
    path.write_text(text, encoding="utf-8")
    try:
        config = load_config(path)
    except UsageError as error:
        assert len(str(error).splitlines()) == 1
        assert str(error).startswith(f"{path}: ")
        assert len(str(error)) < 1000
    else:
        assert load_config(path, seed=config.run.seed) == config
        tomllib.loads(resolved_toml(config))


@given(st.text() | st.builds("{}={}".format, st.sampled_from(KEYS), st.text()))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_override_is_accepted_or_refused_in_one_line(tmp_path: Path, override: str) -> None:
    """Whatever stands behind --set ends in a config or in one line."""
    path = tmp_path / "any.toml"
    path.touch()
    try:
        load_config(path, [override])
    except UsageError as error:
        assert len(str(error).splitlines()) == 1
