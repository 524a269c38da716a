# SPDX-License-Identifier: GPL-2.0-only
"""The documentation says what the code says: commands run, paths and links lead somewhere, no name or id is missing."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model.lockdep import LOCK_NAMES
from model.mutations import MUTATIONS
from stress.check import rules as checked
from stress.cli import app
from stress.engine.outcome import DETAILS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "changelog.d").glob("*.md")])
PAGES_WITH_COMMANDS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(DOCS.glob("how-to/*.md")),
    *sorted(DOCS.glob("tutorial/*.md")),
]
MODEL = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "model").glob("*.py"))}


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def rows(path: Path) -> list[list[str]]:
    """The cells of every table row of a page."""
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in text_of(path).splitlines() if line.startswith("| ")]


def code_words(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


# --- commands


def fenced_lines(page: Path) -> list[str]:
    """Lines inside fences without a language: what one types, or sees."""
    lines, inside = [], None
    for line in text_of(page).splitlines():
        if line.startswith("```"):
            inside = line.removeprefix("```") if inside is None else None
        elif inside == "":
            lines.append(line)
    return lines


def commands(page: Path) -> list[list[str]]:
    """The arguments of every `zaptorture` command on a page."""
    parts = [part.strip() for line in fenced_lines(page) for part in line.split("&&")]
    typed = ("zaptorture ", ".venv/bin/zaptorture ")
    return [shlex.split(part, comments=True)[1:] for part in parts if part.startswith(typed)]


def created_by_example(page: Path) -> set[str]:
    """Files that the page itself tells the reader to create."""
    return {shlex.split(line)[2] for line in fenced_lines(page) if line.startswith("cp ")}


# Run folders that pages name, and the scenario that makes one like it.
RUN_FOLDER = "runs/2026-12-01T10-00-00-quick-7"
RUN_FOLDERS = {
    RUN_FOLDER: "configs/scenarios/quick.toml",
    "runs/2026-12-01T10-20-00-request-without-ack-7": "configs/busted/request-without-ack.toml",
}
# A failure file that pages name, and the exploration that makes one like it.
FAILURE_FILE = "failures/2026-12-01T10-30-00-split-zap-7.json"
FAILURE_BUG = ["configs/explore/split-zap.toml", "--bug", "B01", "--strategy", "pct", "--seed", "7"]
# A campaign's folder that pages name.
CAMPAIGN_FOLDER = "campaigns/2026-12-01T10-00-00-smoke"
# A log may be of any verdict; whoever reads it has said so by the exit code. What fails as it should says so by 1.
EXIT_CODES = {"check": {0, 1, 3}, "explore": {0, 1}, "replay": {1}, "shrink": {1}, "reproduce": {1}}
EXPLORING = ("explore", "replay", "shrink", "reproduce")


@pytest.fixture(scope="session")
def run_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Short runs with their whole logs, for the pages that read one."""
    folders = {}
    for name, scenario in RUN_FOLDERS.items():
        out = tmp_path_factory.mktemp("runs")
        options = ["--set", "log.policy=all", "--duration", "300ms", "--seed", "7", "--out", str(out)]
        command = [sys.executable, "-m", "stress.cli", "run", scenario, *options]
        subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
        folders[name] = str(next(out.iterdir()))
    return folders


@pytest.fixture(scope="session")
def failure_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A failure, for the pages that replay one."""
    out = tmp_path_factory.mktemp("failures")
    command = [sys.executable, "-m", "stress.cli", "explore", *FAILURE_BUG, "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
    return str(next(out.iterdir()))


@pytest.fixture(scope="session")
def campaign_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A campaign of one short run, for the pages that look at one."""
    folder = tmp_path_factory.mktemp("campaign")
    (folder / "one.toml").write_text('folder = "."\nscenarios = ["short"]\n', encoding="utf-8")
    quick = text_of(ROOT / "configs" / "scenarios" / "quick.toml").partition("[evidence]")[0]
    (folder / "short.toml").write_text(quick + '[run]\nduration = "300ms"\n', encoding="utf-8")
    command = [sys.executable, "-m", "stress.cli", "campaign", str(folder / "one.toml"), "--out", str(folder / "out")]
    subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
    return str(folder / "out")


def run_command(arguments: list[str], folder: Path) -> None:
    """Run one for real; an exploration is a short one, and leaves its failure in a folder of its own."""
    typed = [*arguments, "--budget", "300", "--out", str(folder)] if arguments[0] == "explore" else arguments
    command = [sys.executable, "-m", "stress.cli", *typed]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    codes = EXIT_CODES.get(arguments[0], {0}) | ({3} if arguments[0] == "explore" else set())
    assert done.returncode in codes, f"{shlex.join(arguments)}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=page_name)
def test_every_command_is_accepted(
    page: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A command that a page shows can be typed as it stands; a run or a campaign only plans, a reader reads a short one."""
    monkeypatch.chdir(ROOT)
    for arguments in commands(page):
        if created_by_example(page) & set(arguments):
            continue
        if RUN_FOLDERS.keys() & set(arguments):
            folders = request.getfixturevalue("run_folders")
            run_command([folders.get(argument, argument) for argument in arguments], tmp_path)
            continue
        if arguments[0] in EXPLORING:
            file = request.getfixturevalue("failure_file") if FAILURE_FILE in arguments else ""
            run_command([file if argument == FAILURE_FILE else argument for argument in arguments], tmp_path)
            continue
        if CAMPAIGN_FOLDER in arguments:
            folder = request.getfixturevalue("campaign_folder")
            run_command([folder if argument == CAMPAIGN_FOLDER else argument for argument in arguments], tmp_path)
            continue
        plans = arguments[0] in {"run", "campaign", "soak"} and "--dry-run" not in arguments
        planned = [*arguments, "--dry-run"] if plans else arguments
        result = CliRunner().invoke(app, planned)
        assert result.exit_code == 0, f"{page_name(page)}: zaptorture {shlex.join(arguments)}\n{result.output}"


def test_the_notebook_example_runs(run_folders: dict[str, str], tmp_path: Path) -> None:
    """What the page tells a notebook's user to type judges the run and draws a picture."""
    page = text_of(DOCS / "how-to" / "post-process-a-log.md")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    environment = os.environ | {"MPLBACKEND": "svg", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code.replace(RUN_FOLDER, run_folders[RUN_FOLDER])]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("PASS", "INCONCLUSIVE"))
    assert "<svg" in (tmp_path / "accesses.svg").read_text(encoding="utf-8")


def rule_rows() -> list[list[str]]:
    """The checker's rules as the reference page shows them."""

    def order(detail: checked.Detail) -> tuple[int, int, str]:
        return (0, int(detail.rule[1:]), "") if detail.rule.startswith("I") else (1, 0, detail.rule)

    number = re.compile(r"\{a[^}]*\}")
    return [
        [detail.rule, detail.kind, number.sub("n", detail.sentence).replace("{lock}", "a lock")]
        for detail in sorted(checked.DETAILS.values(), key=order)
    ]


def test_the_reference_lists_every_rule_of_the_checker() -> None:
    """Each way to break a rule, with the sentence that a finding shows."""
    documented = [row for row in rows(REFERENCE / "check.md") if re.fullmatch(r"I\d+|lockdep|oracle", row[0])]
    assert documented == rule_rows()


def test_commands_are_found() -> None:
    """The reader of the pages above does not pass by finding nothing."""
    assert ["run", "configs/scenarios/quick.toml"] in commands(ROOT / "README.md")
    assert ["run", "configs/busted/request-without-ack.toml", "--set", "bugs=[]"] in commands(
        DOCS / "tutorial" / "first-stale-use.md"
    )


# --- paths and links


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_config_path_exists(page: Path) -> None:
    """A scenario that a page names is there."""
    for path in sorted(set(re.findall(r"configs/[\w./-]+\.toml", text_of(page))) - created_by_example(page)):
        assert (ROOT / path).is_file(), f"{page_name(page)} names {path}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_link_resolves(page: Path) -> None:
    """A link within the project leads to a file, and to a heading if it names one."""
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.is_file(), f"{page_name(page)} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", text_of(linked), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("folder", ["tutorial", "how-to", "reference", "explanation", "design"])
def test_every_page_can_be_reached(folder: str) -> None:
    """README or another page links to each page."""
    linked = set()
    for page in PAGES:
        linked |= {
            (page.parent / target.partition("#")[0]).resolve()
            for target in re.findall(r"\]\(([^)\s]+\.md[^)\s]*)\)", text_of(page))
        }
    for page in (DOCS / folder).glob("*.md"):
        assert page.resolve() in linked, f"nothing links to {page_name(page)}"


# --- planted bugs and historic ones


def test_every_planted_bug_is_documented() -> None:
    """A row for each mutation, with the historic bug that the code names, and none for a mutation that is gone."""
    documented = {}
    for row in rows(REFERENCE / "planted-bugs.md"):
        name = row[0].strip("`")
        if len(row) == 6 and row[0].startswith("`"):
            documented[name] = row[2]
    assert documented == {name: mutation.bug for name, mutation in MUTATIONS.items()}


def test_every_historic_id_is_explained() -> None:
    """Whoever meets B01 in the code or on a page can look it up."""
    explained = {row[0] for row in rows(REFERENCE / "historic-bugs.md")}
    sources = [*PAGES, *MODEL, *(ROOT / "stress").rglob("*.py"), *(ROOT / "configs").rglob("*.toml")]
    for path in sources:
        assert set(re.findall(r"\bB\d\d\b", text_of(path))) <= explained, page_name(path)


# --- names


def decorated_kernels(tree: ast.Module) -> set[str]:
    """Model functions of a module: those marked with @kernel."""
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(mark, ast.Name) and mark.id == "kernel" for mark in node.decorator_list)
    }


def test_every_public_model_function_is_placed() -> None:
    """Each has its kernel name on the page, or stands among the functions of our own."""
    page = code_words(text_of(REFERENCE / "kvm-names.md"))
    for path, tree in MODEL.items():
        public = {name for name in decorated_kernels(tree) if not name.startswith("_")}
        assert public <= page, f"{page_name(path)}: {sorted(public - page)}"


def test_every_name_on_the_page_exists() -> None:
    """A function that the table places in a module is defined there."""
    checked = 0
    for row in rows(REFERENCE / "kvm-names.md"):
        module = re.match(r"`(model/\w+\.py)`", row[-1])
        if len(row) != 3 or module is None:
            continue
        path = ROOT / module[1]
        defined = {node.name for node in MODEL[path].body if isinstance(node, ast.FunctionDef)}
        names = code_words(row[0] if row[1].startswith("the same") else row[1])
        assert names, row
        assert names <= defined, f"{module[1]} does not define {sorted(names - defined)}"
        checked += 1
    assert checked > 50


def test_every_lock_has_its_card() -> None:
    """A heading for each lock that lockdep knows, in the order in which they nest."""
    headings = re.findall(r"^### (.+)$", text_of(REFERENCE / "locks.md"), re.MULTILINE)
    assert len(headings) == len(LOCK_NAMES)
    for heading, name in zip(headings, LOCK_NAMES, strict=True):
        assert heading.startswith(name)


# --- findings


def calls(function: str) -> list[ast.Call]:
    return [
        node
        for tree in MODEL.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function
    ]


def reported_invariants() -> set[str]:
    """Every rule that a model function may report: given to report() itself, or to a helper that passes it on."""
    found = set()
    pending = [("report", 3)]
    seen = set()
    while pending:
        function, position = pending.pop()
        if (function, position) in seen:
            continue
        seen.add((function, position))
        for call in calls(function):
            argument = call.args[position]
            if isinstance(argument, ast.Constant):
                found.add(f"I{argument.value}")
            elif isinstance(argument, ast.Name) and argument.id == "LOCKDEP":
                found.add("lockdep")
            else:
                assert isinstance(argument, ast.Name), ast.dump(argument)
                helper = enclosing_function(call)
                pending.append((helper.name, [parameter.arg for parameter in helper.args.args].index(argument.id)))
    return found


def enclosing_function(call: ast.Call) -> ast.FunctionDef:
    for tree in MODEL.values():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and call in ast.walk(node):
                return node
    raise AssertionError(ast.dump(call))


def test_every_reported_invariant_is_documented() -> None:
    """The table of invariants has a row for each rule that a finding may name; I25 is the watchdog's."""
    documented = {row[0] for row in rows(REFERENCE / "findings.md") if re.fullmatch(r"I\d+|lockdep", row[0])}
    assert documented == reported_invariants() | {"I25"}


def test_every_detail_is_documented() -> None:
    """The page has the sentences that findings print."""
    documented = {int(row[0]): row[1] for row in rows(REFERENCE / "findings.md") if row[0].isdigit()}
    expected = {code: re.sub(r"\{observed[^}]*\}", "n", text).replace("{lock}", "L") for code, text in DETAILS.items()}
    assert documented == expected


def test_every_detail_code_has_a_sentence() -> None:
    """A code that a model function passes is known to the harness."""
    codes = set()
    for tree in MODEL.values():
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.startswith("DETAIL_"):
                assert isinstance(node.value, ast.Constant)
                codes.add(node.value.value)
    assert codes == set(DETAILS)
