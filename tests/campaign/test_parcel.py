# SPDX-License-Identifier: GPL-2.0-only
"""A run folder arrives whole or not at all, and nothing else does."""

from __future__ import annotations

import io
import json
import tarfile

import pytest

from stress.campaign.disk import THINNED_FILE
from stress.campaign.parcel import pack, unpack
from stress.errors import HarnessError

from .fakes import write_run


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "there" / "000000-a-7"
    write_run(folder)
    (folder / "events" / "vcpu0-0.parquet").write_bytes(b"PAR1" * 5000)
    return folder


@pytest.fixture
def runs(tmp_path):
    (tmp_path / "here" / "beside").mkdir(parents=True)
    return tmp_path / "here"


def test_what_is_packed_is_unpacked(run, runs):
    """The same files with the same content, and nothing beside them."""
    unpack(pack(run), runs / run.name, runs / "beside")
    assert content(runs / run.name) == content(run)
    assert not list((runs / "beside").iterdir())


def test_a_large_folder_goes_without_its_events(run, runs):
    """Summary and control log arrive, and a marker says what does not."""
    unpack(pack(run, bytes_max=8192), runs / run.name, runs / "beside")
    arrived = content(runs / run.name)
    assert set(arrived) == {"verdict.json", "manifest.json", "control.jsonl", THINNED_FILE}
    thinned = json.loads(arrived[THINNED_FILE])
    assert thinned["removed"] == ["events"]
    assert "sent from a worker" in thinned["why"]


def parcel_of(member: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("verdict.json"), io.BytesIO())
        tar.addfile(member, io.BytesIO(b"x" * member.size))
    return buffer.getvalue()


def outside(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


@pytest.mark.parametrize(
    "member",
    [
        outside("../escaped"),
        outside("events/../../../escaped"),
        outside("escaped", tarfile.SYMTYPE, "/etc/passwd"),
        outside("escaped", tarfile.SYMTYPE, "../../escaped"),
        outside("escaped", tarfile.FIFOTYPE),
    ],
    ids=["parent", "deep-parent", "absolute-link", "parent-link", "fifo"],
)
def test_what_is_no_part_of_a_run_folder_is_refused(member, runs):
    """Nothing is written outside, and there is no run folder either."""
    with pytest.raises(HarnessError, match="cannot be unpacked"):
        unpack(parcel_of(member), runs / "000000-a-7", runs / "beside")
    assert [path.name for path in runs.rglob("*")] == ["beside"]


@pytest.mark.parametrize("part", [b"", b"no gzip at all", None], ids=["empty", "garbage", "torn"])
def test_a_damaged_parcel_leaves_nothing(part, run, runs):
    """Half a folder never stands in a run folder's place."""
    whole = pack(run)
    with pytest.raises(HarnessError, match="cannot be unpacked"):
        unpack(whole[: len(whole) // 2] if part is None else part, runs / run.name, runs / "beside")
    assert [path.name for path in runs.rglob("*")] == ["beside"]


def test_a_run_folder_is_never_replaced(run, runs):
    """What stands there already was counted or is evidence."""
    write_run(runs / run.name, verdict="VIOLATION")
    with pytest.raises(HarnessError):
        unpack(pack(run), runs / run.name, runs / "beside")
    assert json.loads((runs / run.name / "verdict.json").read_text())["verdict"] == "VIOLATION"
