# SPDX-License-Identifier: GPL-2.0-only
"""The log of a run: the only contract between the engines that write it and the checker that judges it.

- `schema`: what an event is (kinds, columns, version).
- `ring`: the per-actor rings in shared memory, read side.
- `events`: the columnar files.
- `drain`: the process that carries events from the rings to the files.
- `control`: the control log (JSON Lines) of the parent process.
- `folder`: the run folder.
- `archive`: a run folder opened for reading, and what is wrong with it; `parquet`, `footer`, `merge`, `control_reader`, `problems`
  are its parts.
- `naming`: what the words of an event are called.
- `view`, `frame`: the merged, filtered view; `lines`, `ftrace`: its layouts; `follow`: a live run.
- `query`: SQL over views of a run; `query_views`, `query_guard` are its parts.

Nothing in this package imports `model/`; a test of the engine holds the model's event ids equal to `schema.Kind`.
"""
