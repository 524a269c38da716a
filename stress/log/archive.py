# SPDX-License-Identifier: GPL-2.0-only
"""Reading a run folder: manifest, control log and events as far as they can be read, and what is wrong with them.

    archive = Archive.open(path)
    for batch in archive.batches(archive.actors.index("vcpu0"), ("time_ns", "kind")):
        ...

A run folder may be damaged in every part, may be written at the moment, and may be of a run that was killed. None of
that is an error: whatever can be read is read, and what is missing or wrong becomes a `Problem`, once. Only a path that
is no run folder is refused.

Opening reads the small files and every footer, no events, and keeps about a kilobyte for each file.
"""

from __future__ import annotations

import contextlib
import os
import re
import tomllib
from typing import TYPE_CHECKING, Any

import msgspec

from stress.errors import UsageError
from stress.log.control_reader import Position, control_lines
from stress.log.folder import RunFolder
from stress.log.footer import DamageError, OtherVersionError, read_footer
from stress.log.merge import Merged, merge
from stress.log.parquet import EVENT_COLUMNS, ActorFiles, Batch, LogFile
from stress.log.problems import PROBLEMS, Problem, Problems
from stress.log.reading import read_whole, reason
from stress.log.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["EVENT_COLUMNS", "PROBLEMS", "Archive", "Batch", "Merged", "Problem"]

SMALL_FILE_BYTES_MAX = 1 << 22
ACTORS_MAX = 1024
INT64_MAX = 2**63 - 1

_FILE_NAME = re.compile(r"(?P<actor>.+)-(?P<number>[0-9]{5,9})\.parquet(?P<part>\.part)?", re.DOTALL)
_VCPU = re.compile(r"vcpu([0-9]{1,9})")
_POLICIES = ("all", "window", "sampled")
# Problems after which events are missing.
_LOSSES = frozenset({"actor-missing", "file-damaged", "gap", "lost-events"})
# What a judgement of an older log has to do without.
_LACKS = {1: "it has no events from request_clear on, and no foreign bit"}


class Archive:
    """A run folder, opened for reading.

    Attributes:
        path: the run folder.
        folder: where its parts lie.
        manifest: manifest.json with at least `actors`, `clock` (with `skew_ns`) and `schema_version`; empty if it is
            missing or damaged.
        config: the parsed config.toml; empty if it is missing or damaged.
        actors: names, in the manifest's order; those of the files, vCPUs first, if the manifest is damaged.
        schema_version: the oldest format among the files, or the manifest's; 0 if nothing tells.
        policy: all, window, sampled or unknown.
        skew_ns: how far the clocks of two actors may be apart; 0 if unknown.
        closed: whether the control log says that the event log was closed; no further files come then.
        recorded: events that each actor recorded; empty until the run has ended, and for ever if it was killed.
        rows: events of each actor that are in readable files, each seq counted once.
        first_ns: lowest time of each actor that has events.
        last_ns: highest time of each actor that has events.
        problems: what is missing or wrong, in the order in which it was noticed. Grows while events are read.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is read yet; see `open`."""
        self.path = path
        self.folder = RunFolder(path)
        self.problems: list[Problem] = []
        self._problems = Problems(self.problems)
        self._scanned = Position()
        self._start()

    @classmethod
    def open(cls, path: Path) -> Archive:
        """Open a run folder.

        Args:
            path: the folder.

        Raises:
            UsageError: it is no folder, cannot be listed or holds no part of a run.
        """
        _check_is_run(path)
        archive = cls(path)
        archive.reload()
        return archive

    def reload(self) -> bool:
        """See what a live run has written since; cheap when it has written nothing.

        Problems that are none any more, such as a log that is not closed, go away. Events that were read before are to be
        asked for with `from_seq`.

        Returns:
            Whether there are new files or lines.
        """
        before = (len(self._seen), self._scanned, bool(self.manifest))
        if not self.manifest:
            # It is written a while after the folder is made; without it even the actors are a guess.
            self._start()
            self._load_manifest()
        if not self.config:
            self._load_config()
        self._scan_files()
        self._scan_control()
        self._judge()
        return before != (len(self._seen), self._scanned, bool(self.manifest))

    @property
    def complete(self) -> bool:
        """Whether every event of every actor is there and, as far as the events were read, readable."""
        return (
            (self.policy == "all" or (self.policy == "window" and self._closed_complete))
            and self.closed
            and bool(self.manifest)
            and self.rows == self.recorded
            and not self._problems.codes & _LOSSES
        )

    def control_events(self) -> Iterator[dict[str, Any]]:
        """The events of the control log that can be read, in the order of the file.

        Each has `t_ns`, a 64-bit number, and `event`; an event of `CONTROL_EVENTS` has its fields. `control_reader.py` reads
        from where an earlier reading ended.
        """
        # What cannot be read was reported when the archive was opened.
        with contextlib.suppress(OSError):
            for event, _ in control_lines(self.folder.control, Position(), self._report_line):
                yield event

    def batches(
        self, actor: int, columns: Sequence[str] = EVENT_COLUMNS, since_ns: int | None = None, from_seq: int = 0
    ) -> Iterator[Batch]:
        """The events of one actor in the order of their seqs, one row group in memory at a time.

        A jump of the seq, where events are missing, ends a batch; `first_seq` shows it. Events that are there twice are
        given once. Unreadable row groups are passed over. `time_ns` never falls: where the clock went backwards it is the
        latest time so far.

        Args:
            actor: index into `actors`.
            columns: at least one of `EVENT_COLUMNS`; fewer take less time.
            since_ns: passes over row groups that end before; the first batch may begin earlier.
            from_seq: passes over all events below it.
        """
        unknown = set(columns) - set(EVENT_COLUMNS)
        if unknown or not columns:
            raise ValueError(f"columns {sorted(unknown)}: expected one or more of {', '.join(EVENT_COLUMNS)}")
        return self._files[actor].batches(tuple(columns), since_ns, from_seq)

    def merged(
        self, columns: Sequence[str] = EVENT_COLUMNS, actors: Sequence[int] | None = None, since_ns: int | None = None
    ) -> Iterator[Merged]:
        """The events of several actors in one order: by time, then by the actor's index, then by seq.

        Args:
            columns: of `EVENT_COLUMNS`.
            actors: indices into `actors`; all if None.
            since_ns: as for `batches`, for each actor.

        Context:
            One row group of each actor is in memory, and a copy of what is merged at the moment.
        """
        wanted = tuple(dict.fromkeys(("time_ns", *columns)))
        indices = range(len(self.actors)) if actors is None else sorted(set(actors))
        return merge({actor: self.batches(actor, wanted, since_ns) for actor in indices}, columns)

    # --- the small files

    def _start(self) -> None:
        self.manifest: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.actors: tuple[str, ...] = ()
        self.schema_version = 0
        self.policy = "unknown"
        self.skew_ns = 0
        self.closed = False
        self.recorded: dict[str, int] = {}
        self.rows: dict[str, int] = {}
        self.first_ns: dict[str, int] = {}
        self.last_ns: dict[str, int] = {}
        self._files: list[ActorFiles] = []
        self._seen: set[str] = set()  # names of files that need no second look
        self._parts: list[str] = []
        self._versions: dict[int, str] = {}  # and a file of each
        self._readable_versions: set[int] = set()
        self._logged: dict[str, int] = {}
        self._closed_complete = False
        self._started = False
        self._scanned = Position()  # end of what was taken in of the control log
        self._wrong: dict[str, str] = {}  # what is wrong with each part of the folder as a whole
        self._problems.clear()

    def _load_manifest(self) -> None:
        try:
            manifest = msgspec.json.decode(read_whole(self.folder.manifest, SMALL_FILE_BYTES_MAX))
            wrong = _wrong_in_manifest(manifest)
        except OSError as error:
            wrong = reason(error)
        except (ValueError, RecursionError) as error:
            wrong = f"not JSON: {reason(error)}"
        self._wrong["manifest"] = wrong
        if not wrong:
            self.manifest = manifest
            self.skew_ns = manifest["clock"]["skew_ns"]
            self._set_actors(manifest["actors"])

    def _set_actors(self, names: Sequence[str]) -> None:
        self.actors = tuple(names)
        self._files = [ActorFiles(self.path, index, actor, self._problems.report) for index, actor in enumerate(names)]

    def _load_config(self) -> None:
        wrong = ""
        try:
            self.config = tomllib.loads(read_whole(self.folder.config, SMALL_FILE_BYTES_MAX).decode())
            wrong = "" if self.config else "empty"
        except OSError as error:
            wrong = reason(error)
        except (ValueError, RecursionError) as error:
            wrong = f"not TOML: {reason(error)}"
        self._wrong["config"] = wrong

    def _scan_control(self) -> None:
        self._wrong["control"] = ""
        try:
            for event, position in control_lines(self.folder.control, self._scanned, self._report_line):
                self._scanned = position
                self._take_in(event)
        except OSError as error:
            self._wrong["control"] = reason(error)

    def _take_in(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "run_start":
                self._started = True
                self._set_policy(event["policy"])
            case "actor_log" if event["actor"] in self.actors:
                self.recorded[event["actor"]] = event["recorded"]
                self._logged[event["actor"]] = event["logged"]
            case "actor_log":
                what = f"it counts events of {event['actor']}, which is no actor of this run"
                self._problems.report("control-damaged", self.folder.control.name, what)
            case "log_closed":
                self.closed = True
                self._closed_complete = event["complete"]
                self._set_policy(event["policy"])

    def _set_policy(self, policy: object) -> None:
        if policy in _POLICIES:
            self.policy = str(policy)

    def _report_line(self, number: int, what: str) -> None:
        if number:
            self._problems.report("control-damaged", self.folder.control.name, f"line {number}: {what}; passed over")
        else:
            # Perhaps a writer is just at work on it: not for ever.
            self._wrong["control"] = what

    # --- the files of events

    def _scan_files(self) -> None:
        self._wrong["events"] = ""
        try:
            with os.scandir(self.folder.events) as entries:
                names = sorted(entry.name for entry in entries)
        except OSError as error:
            self._wrong["events"] = reason(error)
            return
        found = [(name, _FILE_NAME.fullmatch(name)) for name in names]
        if not self.manifest:
            self._set_actors(sorted({match["actor"] for _, match in found if match}, key=_actor_order)[:ACTORS_MAX])
        self._parts = [name for name, match in found if match and match["part"]]
        for name, match in found:
            if name not in self._seen and not (match and match["part"]):
                self._seen.add(name)
                self._take_file(name, match)

    def _take_file(self, name: str, match: re.Match[str] | None) -> None:
        where = f"{self.folder.events.name}/{name}"
        if not match or match["actor"] not in self.actors:
            self._problems.report("foreign-file", where, "no file of an actor of this run; passed over")
            return
        files = self._files[self.actors.index(match["actor"])]
        number = int(match["number"])
        try:
            footer = read_footer(self.folder.events / name)
            if footer.actor == match["actor"]:
                files.add(LogFile.of(footer, where, number))
                self._versions.setdefault(footer.version, where)
                self._readable_versions.add(footer.version)
                return
            self._problems.report("foreign-file", where, f"by its metadata it is of {footer.actor}; passed over")
        except OtherVersionError as other:
            self._versions.setdefault(other.version, where)
        except DamageError as damage:
            self._problems.report("file-damaged", where, str(damage))
        files.unreadable.append(number)

    # --- what it amounts to

    def _judge(self) -> None:
        """Compare what is there with what should be there."""
        if self.policy == "unknown":
            log = self.config.get("log")
            self._set_policy(log.get("policy") if isinstance(log, dict) else None)
        manifest_version = self.manifest.get("schema_version", 0)
        self.schema_version = min(self._readable_versions or self._versions or [manifest_version])
        self._problems.judge([*self._folder_problems(), *self._log_problems(), *self._actor_problems()])

    def _folder_problems(self) -> Iterator[tuple[str, str, str]]:
        control, manifest = self.folder.control.name, self.folder.manifest.name
        if self._wrong["manifest"]:
            yield "manifest-damaged", manifest, f"{self._wrong['manifest']}; its actors are taken from the files' names"
        if self._wrong["config"]:
            yield "config-missing", self.folder.config.name, self._wrong["config"]
        if self._wrong["control"]:
            yield "control-damaged", control, self._wrong["control"]
        elif not self._started:
            yield "control-damaged", control, "no run_start line"
        elif self.policy == "unknown":
            yield "control-damaged", control, f"no log.policy that is one of {', '.join(_POLICIES)}"
        if self._wrong["events"]:
            yield "file-damaged", self.folder.events.name, self._wrong["events"]
        for name in self._parts:
            yield "torn-file", f"{self.folder.events.name}/{name}", "never finished; what is in it cannot be read"

    def _log_problems(self) -> Iterator[tuple[str, str, str]]:
        control, manifest = self.folder.control.name, self.folder.manifest.name
        if self.policy == "window" and not self._closed_complete:
            yield "policy-window", control, "log.policy = window: only the last events of each actor were logged"
        if self.policy == "sampled":
            yield "policy-sampled", control, "log.policy = sampled: guest_access and tlb_fill were thinned out"
        if not self.closed:
            yield "not-closed", control, "no log_closed line: the run was killed or goes on, its last events are not there"
        versions = dict(self._versions)
        if self.manifest:
            versions.setdefault(self.manifest["schema_version"], manifest)
        for version, where in sorted(versions.items()):
            if version != SCHEMA_VERSION:
                what = _LACKS.get(version, f"this program reads 1 to {SCHEMA_VERSION}; use one that is as new as the log")
                yield "schema-version", where, f"format version {version}: {what}"

    def _actor_problems(self) -> Iterator[tuple[str, str, str]]:
        control = self.folder.control.name
        for actor, files in zip(self.actors, self._files, strict=True):
            survey = files.survey(from_start=self.policy != "window")
            self.rows[actor] = survey.rows
            if files.files:
                self.first_ns[actor] = min(file.first_ns for file in files.files)
                self.last_ns[actor] = max(file.last_ns for file in files.files)
            yield from survey.problems
            recorded, logged = self.recorded.get(actor), self._logged.get(actor)
            if not files.files and not files.unreadable and logged != 0:
                yield "actor-missing", actor, "no file of its events"
            if recorded is None or logged is None:
                if self.closed:
                    yield "control-damaged", control, f"no actor_log line of {actor}"
                continue
            if logged < recorded and self.policy != "window":
                yield "lost-events", actor, f"{recorded - logged:,} of its {recorded:,} events were never written"
            if survey.rows > recorded:
                yield "control-damaged", control, f"it counts {recorded:,} events of {actor}, its files hold {survey.rows:,}"
            if files.files and survey.rows < logged and not survey.problems and not files.unreadable:
                yield "gap", actor, f"{logged - survey.rows:,} of the {logged:,} events that were written are not there"


def _check_is_run(path: Path) -> None:
    folder = RunFolder(path)
    parts = {folder.manifest.name, folder.control.name, folder.events.name}
    try:
        with os.scandir(path) as entries:
            names = {entry.name for entry in entries}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {reason(error)}. Name the folder of a run.") from error
    if names & parts:
        return
    missing = f"not a run: no {folder.manifest.name}, {folder.control.name} or {folder.events.name} in it"
    if _has_manifest(path.resolve().parent):
        hint = f"Did you mean {path.resolve().parent}?"
    else:
        run = next((name for name in sorted(names, reverse=True) if _has_manifest(path / name)), None)
        hint = f"It holds runs, such as {path / run}." if run else "Name the folder of a run."
    raise UsageError(f"{path}: {missing}. {hint}")


def _has_manifest(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return RunFolder(path).manifest.exists()
    return False


def _wrong_in_manifest(manifest: object) -> str:
    """What is wrong with the parts of a manifest that are relied on; empty if nothing is."""
    if not isinstance(manifest, dict):
        return "not a JSON object"
    actors, clock, version = (manifest.get(key) for key in ("actors", "clock", "schema_version"))
    if not isinstance(actors, list) or not all(isinstance(name, str) and name for name in actors):
        return "actors: expected a list of names"
    if len(actors) > ACTORS_MAX or len(set(actors)) < len(actors):
        return f"actors: expected at most {ACTORS_MAX} different names"
    if not isinstance(clock, dict) or type(clock.get("skew_ns")) is not int or not 0 <= clock["skew_ns"] <= INT64_MAX:
        return "clock.skew_ns: expected a number of nanoseconds"
    if type(version) is not int or version < 1:
        return "schema_version: expected a number from 1 on"
    return ""


def _actor_order(actor: str) -> tuple[int, int, str]:
    """VCPUs by number, then the others by name."""
    vcpu = _VCPU.fullmatch(actor)
    return (0, int(vcpu[1]), actor) if vcpu else (1, 0, actor)
