"""The frame of all HTML pages and their parts: light or dark as the screen is, loading nothing."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from rdkit.Chem import Mol

from molflowctl.viz.pictures import look, svg_of

__all__ = ["Shown", "cell_row", "framed", "molecule_row"]


@dataclass(frozen=True)
class Shown:
    """A molecule of a page: itself, its value and its name or SMILES."""

    mol: Mol
    value: str
    name: str


def framed(title: str, parts: Sequence[str]) -> str:
    """A whole page. title: a text; parts: HTML, below one another."""
    frame = (resources.files("molflowctl") / "assets/page.html").read_text(encoding="utf-8")
    before, body, after = frame.partition("{{body}}")
    head = before.replace("{{title}}", html.escape(title)).replace("{{look}}", look())
    assert body
    return "".join([head, "\n".join(parts), after])


def cell_row(cells: Sequence[str], kind: str = "td") -> str:
    """A row of a table; cells: HTML, the first of them a name."""
    return "<tr>" + "".join(f"<{kind}>{cell}</{kind}>" for cell in cells) + "</tr>"


def molecule_row(molecules: Sequence[Shown]) -> str:
    """Drawings beside one another, as many as the width takes."""
    return '<div class="molecules">' + "".join(map(_figure, molecules)) + "</div>"


def _figure(shown: Shown) -> str:
    caption = f"<b>{html.escape(shown.value)}</b><br>{html.escape(shown.name)}"
    return f"<figure>{svg_of(shown.mol)}<figcaption>{caption}</figcaption></figure>"
