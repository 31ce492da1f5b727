"""Which records failed and why, beside a result: `<out>.failures.csv`, a line for each reason."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from pathlib import Path
from typing import Self

from molflowctl.io.atomic import replacing_file
from molflowctl.io.escaping import cell, shown
from molflowctl.io.library import Record, is_stream

__all__ = ["SHOWN", "Failures"]

SHOWN = 10  # of them are said on the terminal
_COLUMNS = ("file", "line", "record", "name", "reason")


class Failures:
    """Collects what failed; as a context manager writes the file when the block ends well.

    Where nothing failed there is no file: one of an earlier run is removed.

    Attributes:
        path: of the file, None beside a stream. count: lines so far; first: the first of them, for
            the terminal.
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.path = None if is_stream(out) else Path(f"{out}.failures.csv")
        self.count = 0
        self.first: list[str] = []
        self._spool = tempfile.SpooledTemporaryFile(max_size=1 << 20)  # noqa: SIM115

    def add(self, record: Record, reason: str) -> None:
        """A record that failed, or a part of what was asked of it."""
        if self.count < SHOWN:
            name = f" ({record.name})" if record.name.strip() else ""
            place = f"{record.file}:{record.line}"
            self.first.append(f"{shown(place + name)}: {shown(reason)}")
        self.count += 1
        if self.path is not None:
            name = record.name if record.name.strip() else record.title
            values = [record.source, str(record.line), str(record.number), name, reason]
            self._write([cell(value) for value in values])

    def said(self) -> list[str]:
        """The lines for the terminal: the first ones, and where all are."""
        if self.count <= len(self.first) and self.path is None:
            return self.first
        where = f", all in {self.path}" if self.path is not None else ""
        word = "failure" if self.count == 1 else "failures"
        more = f"{self.count:,} {word}{where}" if self.count else ""
        return [*self.first, *([more] if more else [])]

    def _write(self, cells: list[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        self._spool.write(line.getvalue().encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._spool:
            if kind is not None or self.path is None:
                return
            if not self.count:
                self.path.unlink(missing_ok=True)
                return
            self._spool.seek(0)
            with replacing_file(self.path) as fresh, fresh.open("wb") as file:
                file.write(f"{','.join(_COLUMNS)}\n".encode())
                while block := self._spool.read(1 << 20):
                    file.write(block)
