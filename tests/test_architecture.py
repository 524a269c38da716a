# SPDX-License-Identifier: GPL-2.0-only
"""House rules that a reviewer would otherwise have to remember: layers, licence headers, sizes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("model", "stress") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LINES_MAX = 600

# What each layer may import of the project itself, besides its own modules; the longest matching name rules.
# `stress` alone is the package's version.
LAYERS: dict[str, set[str]] = {
    "model": set(),
    "stress": set(),
    "stress.verdict": set(),
    "stress.errors": {"stress.verdict"},
    "stress.config": {"stress.errors", "model.constants", "model.layout", "model.mutations"},
    "stress.log": {"stress.errors"},
    "stress.buildcache": set(),
    "stress.jit": {"stress.buildcache"},
    "stress.check": {"stress.errors", "stress.jit", "stress.log", "stress.verdict"},
    "stress.engine": {"stress", "stress.buildcache", "stress.config", "stress.errors", "stress.log", "stress.verdict", "model"},
    "stress.explore": {"stress", "stress.buildcache", "stress.config", "stress.engine", "stress.errors", "stress.jit", "model"},
    "stress.campaign": {
        "stress",
        "stress.check",
        "stress.config",
        "stress.engine",
        "stress.errors",
        "stress.log",
        "stress.verdict",
    },
    "stress.report": {
        "stress",
        "stress.campaign",
        "stress.check",
        "stress.config",
        "stress.engine",
        "stress.errors",
        "stress.explore",
        "stress.log",
        "stress.verdict",
        "model.constants",
        "model.layout",
    },
    "stress.cli": {
        "stress",
        "stress.campaign",
        "stress.check",
        "stress.config",
        "stress.engine",
        "stress.errors",
        "stress.explore",
        "stress.log",
        "stress.report",
        "stress.verdict",
    },
}

# The model does no I/O and starts no process; the log knows nothing of how events come about.
FORBIDDEN = {
    "model": {"multiprocess", "multiprocessing", "psutil", "pyarrow", "rich", "structlog", "subprocess", "typer"},
    "stress.log": {"greenlet", "llvmlite", "numba"},
    "stress.check": {"greenlet", "multiprocess", "psutil"},
    "stress.campaign": {"numba", "llvmlite", "greenlet"},
    "stress.config": {"numba", "llvmlite", "greenlet"},
    "stress.report": {"numba", "llvmlite", "greenlet"},
    "stress.cli": {"numba", "llvmlite", "greenlet"},
}

# The only modules that speak to the compiler; everything else marks its functions through model.jit.
NUMBA_MODULES = {
    "model.atomics",
    "model.context",
    "model.jit",
    "model.native",
    "model.trace",
    "stress.buildcache",
    "stress.check.compiled",
    "stress.engine.compiled",
    "stress.explore.compiled",
    "stress.explore.native",
    "stress.jit",
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at the top, inside a function or for annotations only."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its layer"
            assert node.module is not None
            # `from stress import cli` imports the module stress.cli.
            modules = {f"{node.module}.{alias.name}" for alias in node.names}
            found = {name for name in modules if is_module(name)}
            names |= found | ({node.module} if len(found) < len(modules) else set())
    return names


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def layer(name: str) -> str:
    return max((known for known in LAYERS if within(name, known)), key=len)


def allowed(module: str, imported: str) -> bool:
    own = layer(module)
    if layer(imported) == own:
        return True
    return any(imported == other if other == "stress" else within(imported, other) for other in LAYERS[own])


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_down(path: Path) -> None:
    """A layer imports only what LAYERS gives it, and none of what FORBIDDEN takes from it."""
    module = module_name(path)
    for imported in imports(path):
        if within(imported, "model") or within(imported, "stress"):
            assert allowed(module, imported), f"{module} imports {imported}, which is not below it"
        for package, outsiders in FORBIDDEN.items():
            if within(module, package):
                assert imported.partition(".")[0] not in outsiders, f"{module} imports {imported}"
        assert not within(imported, "tests")


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_few_modules_know_the_compiler(path: Path) -> None:
    """Compile options and LLVM have one home each."""
    if module_name(path) not in NUMBA_MODULES:
        assert not {name.partition(".")[0] for name in imports(path)} & {"numba", "llvmlite"}


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_has_its_licence_and_fits_in_a_sitting(path: Path) -> None:
    """The licence in the first line, then what the file holds, and no second noun."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# SPDX-License-Identifier: GPL-2.0-only"
    assert lines[1].startswith('"""')
    assert len(lines) <= LINES_MAX


def test_the_rules_notice_a_breach() -> None:
    """A check that never fails would be none."""
    assert allowed("stress.engine.run", "model.vcpu")
    assert allowed("stress.cli", "stress.report.text")
    assert not allowed("stress.log.ring", "model.layout")
    assert not allowed("model.vcpu", "stress.errors")
    assert not allowed("stress.errors", "stress.cli")
    assert not allowed("stress.report.text", "stress.cli")
    assert not allowed("stress.engine.run", "stress.report.text")
    assert not allowed("stress.config.load", "model.vcpu")


def test_one_test_command() -> None:
    """README, CI and the test environment say the same."""
    command = "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox"
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
