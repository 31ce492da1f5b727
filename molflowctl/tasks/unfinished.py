"""A library that a run writes record by record, and that a later run goes on from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from molflowctl.errors import UserError
from molflowctl.io.library_writers import SDFWriter
from molflowctl.tasks.memory import Memory

__all__ = ["Resumable", "write_library"]


class Resumable(Protocol):
    """A run that can go on from what an earlier one left."""

    @property
    def earlier(self) -> Path | None:
        """The library it goes on from; None for a new one."""
        ...

    def copy_earlier(self, writer: SDFWriter) -> None:
        """Write again what the earlier run has done."""
        ...

    def finish(self, writer: SDFWriter | Memory) -> None:
        """Write the last record, of a library that is whole or as far as it got."""
        ...


def write_library(
    run: Resumable,
    fill: Callable[[SDFWriter | Memory], None],
    out: str,
    *,
    replace: bool,
    into: Memory | None = None,
) -> None:
    """Copy what an earlier run has done, and let `fill` write the rest, to `out` or into memory.

    After Ctrl-C what was written stays, with its record, and `KeyboardInterrupt` goes on.

    Raises:
        UserError: the library is there and `replace` is off, or it cannot be written.
    """
    writer = into or SDFWriter(out, overwrite=replace)
    try:
        if isinstance(writer, SDFWriter):
            run.copy_earlier(writer)
    except BaseException:  # Ctrl-C included: half a copy must not take the place of the whole
        writer.discard()
        raise
    with writer:
        writer.extends = run.earlier == Path(out)
        try:
            fill(writer)
        except KeyboardInterrupt:
            with contextlib.suppress(UserError):  # of a full disk: an older record stays
                run.finish(writer)
            raise
        run.finish(writer)
