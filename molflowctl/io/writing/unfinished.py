"""A library while it is written, and what interrupted runs left of one."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from molflowctl.errors import UserError
from molflowctl.io.atomic import cannot_write, leftovers, open_new, partial_name, publish
from molflowctl.io.locks import OutputLock
from molflowctl.io.record import say_library

__all__ = ["Unfinished", "WholeFile", "unfinished"]

_RECORD = ".run.json"


def unfinished(target: Path) -> list[Path]:
    """What interrupted runs left of a library, oldest first; to be called under its lock.

    A run that was killed after the library got its name and before its record did is ended here.
    """
    alone = leftovers(target, _RECORD)
    for record in alone:
        if not record.with_name(record.name.removesuffix(_RECORD)).exists() and target.exists():
            with contextlib.suppress(OSError):
                publish([(record, Path(f"{target}{_RECORD}"))])
    return leftovers(target)


class Unfinished:
    """A library while it is written, `<name>.<token>.partial`, and its record beside it.

    Attributes: `path`, its place; `record`, where the record of the run goes: the two get their
    names, or are dropped, together, and then it is that of the library, or None. A lock keeps other
    runs off.

    Raises `UserError` for an existing file unless `overwrite`, and for one that cannot be written.
    """

    def __init__(self, target: Path, overwrite: bool) -> None:
        self.target = target
        if target.is_dir():
            raise UserError(f"{target} is a folder; name a file in it")
        self._lock = OutputLock(target).acquire()
        try:
            if os.path.lexists(target) and not overwrite:
                raise UserError(f"{target} exists; choose another name or pass --overwrite")
            unfinished(target)
            self.path = partial_name(target)
            self.record: Path | None = Path(f"{self.path}{_RECORD}")
            self.file = open_new(self.path)
        except OSError as error:
            self._lock.release()
            raise cannot_write(target, error) from error
        except BaseException:
            self._lock.release()
            raise

    def publish(self) -> None:
        """Give library and record their names, and drop what earlier runs left of this one.

        Raises `OSError` if it cannot be done.
        """
        self.file.close()
        pairs = [(self.path, self.target)]
        final = Path(f"{self.target}{_RECORD}")
        if self.record is not None and self.record.exists():
            say_library(self.record, self.path)
            pairs.append((self.record, final))
        publish(pairs)
        self.record = final
        for rest in leftovers(self.target):
            with contextlib.suppress(OSError):
                Path(f"{rest}{_RECORD}").unlink(missing_ok=True)
                rest.unlink()
        self._lock.release()

    def keep(self) -> None:
        """Leave both where they are, for a resume.

        Raises `OSError` if it cannot be done.
        """
        self.file.close()
        self._lock.release()

    def discard(self) -> None:
        """Remove both: first the record, which stands without a library only for a moment."""
        with contextlib.suppress(OSError):  # the rest of a buffer may not fit on the disk either
            self.file.close()
        with contextlib.suppress(OSError):
            Path(f"{self.path}{_RECORD}").unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
        if self.record is not None and self.record != Path(f"{self.target}{_RECORD}"):
            self.record = None
        self._lock.release()


class WholeFile(ABC):
    """A writer whose file appears under its name when it is whole; an error leaves nothing.

    Every `OSError` becomes a `UserError` naming the path; so does an existing file unless
    `overwrite`.
    """

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        self._target = Path(path)
        self._unfinished = Unfinished(self._target, overwrite)

    @property
    def record(self) -> Path | None:
        """Where to write the record of the run, which takes its name with the file."""
        return self._unfinished.record

    @abstractmethod
    def _end(self) -> None:
        """Write what the file still lacks."""

    def close(self) -> None:
        """Write the end of the file, and give it its name."""
        try:
            self._end()
            self._unfinished.publish()
        except OSError as error:
            raise cannot_write(self._target, error) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what was written, if it has not its name yet."""
        self._unfinished.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()
