# SPDX-License-Identifier: GPL-2.0-only
"""Writing events as columnar files: one series of Parquet files per actor.

The format is specified in `stress/log/schema.py`. The choices here, measured on a mix of kinds that a run produces:

- **Delta encoding** for `seq` and `time_ns`, which grow in small steps; **dictionaries** for all other columns, since a
  row group repeats few values many times (and has too few rows to overflow a dictionary): 5 to 6 bytes an event. Delta
  encoding of columns in which -1 alternates with large numbers takes twice the space.
- **No nulls**: reading -1 takes two thirds of the time that reading nulls takes.
- **lz4** on top costs little and catches what repeats; zstd is 2 % smaller and 5 % slower.
- **Row groups of 64 Ki rows**: 4 MB of buffer per actor, and a reader can skip by `seq` and `time_ns`.
- **Page checksums** cost less than the noise of the measurement.

A Parquet file can only be read with its footer, which is written last. So a file is closed early, and what a killed
drain loses per actor is the open file: at most `FILE_ROWS_MAX` rows, and at most the time after which the drain closes
it. Stream formats that are readable up to the tear were tried as a spool in front: writing every event twice halves
the throughput. Files are not synced: the promise is about killed processes, not about power cuts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stress.log.schema import (
    COLUMNS,
    METADATA_KEY,
    RECORD_WORDS,
    SCHEMA_VERSION,
    WORD_GFN,
    WORD_KIND,
    WORD_TIME,
    arrow_schema,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FILE_ROWS_MAX", "ROW_GROUP_ROWS", "ActorFile", "Clock"]

NS_PER_S = 1_000_000_000
# r * NS_PER_S with r < ticks_per_s must fit into an int64.
TICKS_PER_S_MAX = (2**63 - 1) // NS_PER_S

ROW_GROUP_ROWS = 1 << 16
# About 9 MB; a gigabyte of log is then about a hundred files.
FILE_ROWS_MAX = 1 << 20

_GROWING = ("seq", "time_ns")

Words = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Clock:
    """Converts an actor's ticks to nanoseconds since the start of the run.

    Attributes:
        kind: which clock it is, as the manifest calls it.
        ticks_per_s: its rate.
        t0_ticks: its reading at the start of the run.
    """

    kind: str
    ticks_per_s: int
    t0_ticks: int

    def __post_init__(self) -> None:
        if not 0 < self.ticks_per_s <= TICKS_PER_S_MAX:
            raise ValueError(f"{self.ticks_per_s} ticks/s: expected 1 to {TICKS_PER_S_MAX}")

    def to_ns(self, ticks: Words) -> Words:
        """Nanoseconds since the start of the run, rounded down; exact.

        Whole seconds and the rest are converted apart: `ticks * 10**9` leaves an int64 after three seconds of a 3 GHz
        clock, and a float64 loses nanoseconds after three months of nanoseconds.
        """
        elapsed = ticks - self.t0_ticks
        if self.ticks_per_s == NS_PER_S:
            return elapsed
        seconds = elapsed // self.ticks_per_s
        rest = elapsed - seconds * self.ticks_per_s
        ns: Words = seconds * NS_PER_S + rest * NS_PER_S // self.ticks_per_s
        return ns


class ActorFile:
    """The files of one actor: buffers a row group, writes it, closes and renames a file when it is full.

    Invariant: `rows_closed` rows are in files under their final names, those of an earlier writer included; `rows_open` more were
    appended since.
    """

    def __init__(self, folder: Path, actor: str, clock: Clock, file_rows_max: int = FILE_ROWS_MAX) -> None:
        """Go on behind the files that are there. Write nothing yet; a file appears with its first row group.

        Args:
            folder: the run's `events` folder.
            actor: the actor's name.
            clock: converts its ticks.
            file_rows_max: rows after which a file is closed, at least one row group.
        """
        self.rows_closed = 0
        self.rows_open = 0
        self.seq_end = 0
        self._folder = folder
        self._actor = actor
        self._clock = clock
        self._file_rows_max = file_rows_max
        self._files = 0
        self._writer: Any = None
        # Column by column, as Parquet wants them; the records' transposed copy is made while they are cached.
        self._words = np.empty((RECORD_WORDS, ROW_GROUP_ROWS), np.int64)
        self._seq = np.empty(ROW_GROUP_ROWS, np.int64)
        self._buffered = 0
        self._take_over()

    def append(self, records: Words, first_seq: int) -> None:
        """Add records, (n, 8), whose seqs count up from `first_seq`.

        Raises:
            OSError: a write failed; the open file is gone and so are the rows in it.
        """
        done = 0
        while done < len(records):
            start = self._buffered
            n = min(ROW_GROUP_ROWS - start, len(records) - done)
            self._words[:, start : start + n] = records[done : done + n].T
            self._seq[start : start + n] = np.arange(first_seq + done, first_seq + done + n)
            self._buffered += n
            self.rows_open += n
            done += n
            if self._buffered == ROW_GROUP_ROWS:
                self._flush()
                if self.rows_open >= self._file_rows_max:
                    self.close()

    def close(self) -> None:
        """Finish the open file and give it its final name; a later append opens the next one.

        Raises:
            OSError: a write failed; the open file is gone and so are the rows in it.
        """
        if self.rows_open == 0:
            return
        self._flush()
        try:
            self._writer.close()
            self._part.rename(self._part.with_suffix(""))
        except BaseException:
            self.abort()
            raise
        self._writer = None
        self._files += 1
        self.rows_closed += self.rows_open
        self.rows_open = 0

    def abort(self) -> None:
        """Drop the open file and what is buffered; closed files stay. Gives a full disk its space back."""
        if self._writer is not None:
            # A writer that is dropped while open would try once more to write its footer.
            self._writer.is_open = False
            self._writer = None
        self._part.unlink(missing_ok=True)
        self._buffered = 0
        self.rows_open = 0

    def _take_over(self) -> None:
        import pyarrow.parquet as pq  # noqa: PLC0415 - it starts threads: only in the drain's process

        while (path := self._part.with_suffix("")).exists():
            footer = pq.read_metadata(path)
            self.rows_closed += footer.num_rows
            self.seq_end = json.loads(footer.metadata[METADATA_KEY])["first_seq"] + footer.num_rows
            self._files += 1
        # What a writer that was killed had not closed has no footer.
        self._part.unlink(missing_ok=True)

    @property
    def _part(self) -> Path:
        return self._folder / f"{self._actor}-{self._files:05d}.parquet.part"

    def _flush(self) -> None:
        import pyarrow as pa  # noqa: PLC0415 - it starts threads: only in the drain's process

        n, self._buffered = self._buffered, 0
        if n == 0:
            return
        words = self._words[:, :n]
        columns = [
            pa.array(self._seq[:n]),
            pa.array(self._clock.to_ns(words[WORD_TIME])),
            pa.array(words[WORD_KIND].astype(np.int16)),
            *(pa.array(column) for column in words[WORD_GFN:]),
        ]
        try:
            if self._writer is None:
                self._writer = self._open()
            self._writer.write_batch(pa.record_batch(columns, schema=self._writer.schema), ROW_GROUP_ROWS)
        except BaseException:
            self.abort()
            raise

    def _open(self) -> Any:
        import pyarrow.parquet as pq  # noqa: PLC0415 - as above

        about = {
            "schema_version": SCHEMA_VERSION,
            "actor": self._actor,
            "first_seq": int(self._seq[0]),
            "clock": asdict(self._clock),
        }
        return pq.ParquetWriter(
            self._part,
            arrow_schema().with_metadata({METADATA_KEY: json.dumps(about)}),
            compression="lz4",
            use_dictionary=[name for name in COLUMNS if name not in _GROWING],
            column_encoding=dict.fromkeys(_GROWING, "DELTA_BINARY_PACKED"),
            write_statistics=list(_GROWING),
            write_page_checksum=True,
            # One page a column and row group: the damaged header of a page cannot shift rows unnoticed.
            max_rows_per_page=ROW_GROUP_ROWS,
        )
