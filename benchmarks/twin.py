# SPDX-License-Identifier: GPL-2.0-only
"""Builds twin.c against the record of model/layout.py and makes its loops callable."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model import constants, layout, lockdep, locks, mutations, spte

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FLAGS", "build", "compiler", "layout_header"]

FLAGS = ("-std=c11", "-O3", "-march=native", "-fno-strict-aliasing", "-Wall", "-Wextra")
_SOURCE = Path(__file__).with_name("twin.c")


def compiler() -> str | None:
    """The C compiler, or None."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def layout_header() -> str:
    """layout.h: the record as `struct vm`, and those of the model's constants that the twin names."""
    lines = ["#include <stddef.h>", "#include <stdint.h>"]
    names = set(re.findall(r"\b[A-Z][A-Z0-9_]{2,}\b", _SOURCE.read_text(encoding="utf-8")))
    for module in (constants, layout, lockdep, locks, mutations, spte):
        lines += [f"#define {name} {vars(module)[name]}" for name in sorted(names) if isinstance(vars(module).get(name), int)]
    outer = []
    end = 0
    fields: Any = layout.VM.fields
    for name in layout.VM.names or ():
        kind, offset = fields[name][:2]
        base, shape = kind.subdtype or (kind, ())
        if base.names is not None:
            lines.append(_row(f"vm_{name}", base))
        if offset > end:
            outer.append(f"\tchar pad_before_{name}[{offset - end}];")
        size = "".join(f"[{n}]" for n in shape)
        outer.append(f"\t{'int64_t' if base.names is None else f'struct vm_{name}'} {name}{size};")
        end = offset + kind.itemsize
    lines += ["struct vm {", *outer, "};", f'_Static_assert(sizeof(struct vm) <= {layout.VM.itemsize}, "layout");']
    # A wrong offset in the middle would move the last field.
    last = (layout.VM.names or ())[-1]
    lines.append(f'_Static_assert(offsetof(struct vm, {last}) == {fields[last][1]}, "layout");')
    return "\n".join(lines) + "\n"


def _row(name: str, dtype: np.dtype[np.void]) -> str:
    parts: list[str] = []
    fields: Any = dtype.fields
    end = 0
    for n, field in enumerate(dtype.names or ()):
        offset = fields[field][1]
        if offset > end:
            parts.append(f"\tchar pad{n}[{offset - end}];")
        parts.append(f"\tint64_t {field};")
        end = offset + layout.WORD_BYTES
    if dtype.itemsize > end:
        parts.append(f"\tchar pad[{dtype.itemsize - end}];")
    return "\n".join([f"struct {name} {{", *parts, "};"])


def build() -> ctypes.CDLL | None:
    """Compile and load the twin, or return None where no compiler is."""
    cc = compiler()
    if cc is None:
        return None
    with tempfile.TemporaryDirectory(prefix="zaptorture-twin-") as folder:
        (Path(folder) / "layout.h").write_text(layout_header(), encoding="utf-8")
        library = Path(folder) / "twin.so"
        command = [cc, *FLAGS, "-shared", "-fPIC", "-fvisibility=default", f"-I{folder}", str(_SOURCE), "-o", str(library)]
        subprocess.run(command, check=True)  # noqa: S603 - the compiler that was found, on our own source
        twin = ctypes.CDLL(str(library))
    for name, arguments in (("run_accesses", 2), ("run_faults", 3), ("run_zap", 1)):
        function = getattr(twin, name)
        function.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * arguments]
        function.restype = None
    return twin
