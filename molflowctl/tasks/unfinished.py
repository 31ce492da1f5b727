"""A library that a run writes record by record, and that a later run goes on from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from rdkit import Chem

from molflowctl.errors import UserError
from molflowctl.io.library_writers import SDFWriter, open_writer
from molflowctl.tasks.memory import Memory, Packed

__all__ = ["SDF", "OtherFormat", "Resumable", "write_library"]

SDF = (".sdf", ".sdf.gz")  # which hold all that there is to know, and can be resumed
_VALUES = (*SDF, ".csv", ".parquet")  # which tell failed attempts from molecules


class OtherFormat:
    """Writes what `pack` made in the format of the output's name, in the place of an `SDFWriter`.

    What it writes appears when it is whole: there is nothing that a later run could go on from.

    Attributes: `record`, where the record of the run goes; `extends`, see `SDFWriter`.

    Raises:
        UserError: for a format that there is no writer of, or a file that is there.
    """

    def __init__(self, out: str, overwrite: bool) -> None:
        self._writer = open_writer(out, overwrite)
        self.extends = False

    @classmethod
    def of_run(cls, config: Any) -> Self:
        """For `config.out`, in place of a library there if `config.overwrite`.

        Raises:
            UserError: also where the format has no place for what is asked for: `resume`,
                `keep_invalid`.
        """
        if config.keep_invalid and not config.out.endswith(_VALUES):
            raise UserError(
                f"-o {config.out} has no place for why an attempt failed: leave out "
                f"--keep-invalid, or write {', '.join(_VALUES)}."
            )
        if config.resume:
            raise UserError(f"-o {config.out}: only {' and '.join(SDF)} can be resumed.")
        return cls(config.out, config.overwrite)

    @property
    def record(self) -> Path | None:
        return self._writer.record

    def write_record(self, record: Packed) -> None:
        """Append a molecule, made perhaps in another process."""
        self._writer.write(Chem.Mol(record.binary), record.tags, record.title)

    def flush(self) -> None:
        """Nothing waits to be written."""

    def discard(self) -> None:
        """Nothing is in the way of another run."""

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.__exit__(kind, error, trace)


class Resumable(Protocol):
    """A run that can go on from what an earlier one left."""

    @property
    def earlier(self) -> Path | None:
        """The library it goes on from; None for a new one."""
        ...

    def copy_earlier(self, writer: SDFWriter) -> None:
        """Write again what the earlier run has done."""
        ...

    def finish(self, writer: Any) -> None:
        """Write the last record, of a library that is whole or as far as it got."""
        ...


def write_library(
    run: Resumable,
    fill: Callable[[Any], None],
    out: str,
    *,
    replace: bool,
    into: Memory | OtherFormat | None = None,
) -> None:
    """Copy what an earlier run has done, and let `fill` write the rest.

    After Ctrl-C what was written stays, in an SDF with its record, and `KeyboardInterrupt` goes on.

    Args:
        out: the SDF; `into` takes the place of it.

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
