"""A library on a page: the records of an SDF file, as the commands that write one show it."""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice

from molflowctl.io.expressions import number_of
from molflowctl.io.library import read_molecules
from molflowctl.viz.pictures import write_html

__all__ = ["PICTURED", "library_page", "plain"]

PICTURED = 250  # molecules of a page, some ten kilobytes each


def plain(value: object) -> object:
    """A number where the text is one."""
    if not isinstance(value, str):
        return value
    number = number_of(value)
    return number if math.isfinite(number) else value


def library_page(library: str, html: str, title: str) -> None:
    """Write the first records of a library as a page; conformers of a molecule are numbered.

    Raises:
        UserError: if the library cannot be read, or the page not be written.
    """
    found = [
        record for record in islice(read_molecules(library), PICTURED) if record.mol is not None
    ]
    count: Counter[str] = Counter()
    names = []
    for record in found:
        count[record.name] += 1
        names.append(f"{record.name} {count[record.name]}")
    rows = [{name: plain(value) for name, value in record.tags.items()} for record in found]
    mols = [record.mol for record in found if record.mol is not None]
    noun = "conformers" if any(n > 1 for n in count.values()) else "molecules"
    write_html(mols, html, names, rows, title=title, noun=noun)
