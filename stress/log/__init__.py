# SPDX-License-Identifier: GPL-2.0-only
"""The log of a run: the only contract between the engines that write it and the checker that judges it.

- `schema`: what an event is (kinds, columns, version).
- `ring`: the per-actor rings in shared memory, read side.
- `events`: the columnar files.
- `drain`: the process that carries events from the rings to the files.
- `control`: the control log (JSON Lines) of the parent process.
- `folder`: the run folder.

Nothing in this package imports `model/`; a test of the engine holds the model's event ids equal to `schema.Kind`.
"""
