"""Pictures of molecules and of their properties: grids, before/after figures, a 3-D gallery.

Every function writes one file, all at once, and returns its path.
"""

from __future__ import annotations

import contextlib
import html
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdMolTransforms
from rdkit.Chem.Draw import rdMolDraw2D

from molflowctl.errors import UserError
from molflowctl.io.atomic import replacing_file, write_file

__all__ = [
    "before_after_figure",
    "bin_edges",
    "check_pictures",
    "draw_grid",
    "look",
    "svg_of",
    "with_interval",
    "write_html",
]

PathLike = str | os.PathLike[str]
Cores = Sequence[Sequence[int]] | None

# Okabe and Ito's colours, told apart with any kind of colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_CORE = (0.76, 0.88, 0.96)  # behind the atoms of a core
_MOST_BINS = 40
_NORMAL_95 = 1.96


def check_pictures(html: str | None, grid: str | None, *, replace: bool) -> None:
    """Check, before any work, that the pictures `--html` and `--grid` could be written after it.

    Raises:
        UserError: for another kind of name, a folder that is not there, or, unless they are to be
            replaced, a file that is.
    """
    for option, name, endings in (("--html", html, (".html",)), ("--grid", grid, (".png", ".svg"))):
        if name is None:
            continue
        path = Path(name)
        if path.suffix.lower() not in endings:
            raise UserError(f"{option} {name}: the name must end in {' or '.join(endings)}.")
        if not path.parent.is_dir():
            raise UserError(f"{option} {name}: there is no folder {path.parent}.")
        if path.is_dir():
            raise UserError(f"{option} {name} is a folder; name a file in it.")
        if path.exists() and not replace:
            raise UserError(f"{option} {name} exists; choose another name or pass --overwrite.")


def draw_grid(
    mols: Sequence[Chem.Mol],
    path: PathLike,
    legends: Sequence[str] | None = None,
    n: int = 24,
    columns: int = 6,
    cell: tuple[int, int] = (220, 190),
    cores: Cores = None,
) -> Path:
    """Draw the first `n` molecules in two dimensions, hydrogens hidden, as `.png` or `.svg`.

    legends: a line under each. cell: width and height of one picture in pixels. cores: of each, the
    atoms of its core, counted without hydrogens: marked, and turned as the first one's are.
    """
    marked = [list(core) for core in (cores or [()] * len(mols))[:n]]
    chosen = _in_line(mols[:n], marked)
    if not chosen:
        raise UserError(f"{path}: no molecules to draw")
    texts = list(legends[: len(chosen)]) if legends is not None else [""] * len(chosen)
    columns = min(columns, len(chosen))
    width, height = columns * cell[0], math.ceil(len(chosen) / columns) * cell[1]
    drawers = {".png": rdMolDraw2D.MolDraw2DCairo, ".svg": rdMolDraw2D.MolDraw2DSVG}
    drawer_type = drawers.get(Path(path).suffix.lower())
    if drawer_type is None:
        raise UserError(f"{path}: a grid's name ends in .png or .svg")
    drawer = drawer_type(width, height, *cell)
    options = drawer.drawOptions()
    options.legendFontSize = 15
    options.padding = 0.08
    options.fixedBondLength = 32
    options.setHighlightColour(_CORE)
    options.highlightBondWidthMultiplier = 20
    drawer.DrawMolecules(
        chosen,
        highlightAtoms=marked,
        highlightBonds=list(map(_bonds_of, chosen, marked)),
        legends=texts,
    )
    drawer.FinishDrawing()
    picture = drawer.GetDrawingText()
    return _save(path, picture if isinstance(picture, bytes) else picture.encode())


def before_after_figure(
    values: Mapping[str, Sequence[float] | np.ndarray],
    path: PathLike,
    xlabel: str,
    title: str = "",
    target: float | None = None,
) -> Path:
    """Distributions of one property before and after, with their means and intervals.

    values: for each name, the property of a sample's molecules; NaN (failed) is left out.
    xlabel: the property and its unit. target: a value to mark, such as the mean aimed for.

    Above, each sample's mean with its 95 % interval, `mean +- 1.96 s / sqrt(n)`; below, histograms
    of equal area. The format follows the path's suffix (`.png`, `.svg`, `.pdf`).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    samples = {name: _finite(sample) for name, sample in values.items()}
    empty = [name for name, sample in samples.items() if len(sample) == 0]
    if empty or not samples:
        raise UserError(f"{path}: no values to show for {', '.join(empty) or 'any sample'}")
    figure = Figure(figsize=(7.0, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(
        2, 1, sharex=True, height_ratios=(0.55 + 0.35 * len(samples), 3.4)
    )
    edges = bin_edges(np.concatenate(list(samples.values())), min(map(len, samples.values())))
    for place, (name, sample) in enumerate(samples.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        mean = sample.mean()
        spread = sample.std(ddof=1) if len(sample) > 1 else math.nan
        reach = _NORMAL_95 * spread / math.sqrt(len(sample))
        heights, _ = np.histogram(np.clip(sample, edges[0], edges[-1]), edges, density=True)
        below.stairs(heights, edges, fill=True, color=colour, alpha=0.25)
        below.stairs(heights, edges, color=colour, linewidth=1.6, label=name, zorder=3)
        below.axvline(mean, color=colour, linewidth=1.4, linestyle="--")
        above.errorbar(
            mean, place, xerr=reach, fmt="o", color=colour, markersize=5, capsize=4, linewidth=2
        )
        above.annotate(
            with_interval(mean, reach),
            (mean, place),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=10,
            color=colour,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    if target is not None:
        for axes in (above, below):
            axes.axvline(target, color="#333333", linewidth=1.2, linestyle=":", label="target")
    above.set_yticks(
        range(len(samples)), [f"{name} (n = {len(sample)})" for name, sample in samples.items()]
    )
    above.set_ylim(len(samples) - 0.4, -0.9)
    above.set_title(title or "Mean with 95 % interval", loc="left", fontsize=11)
    above.tick_params(axis="both", length=0, labelbottom=False)
    below.set_xlabel(xlabel, fontsize=11)
    below.set_ylabel("density", fontsize=11)
    below.legend(frameon=False, fontsize=10)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    above.spines[["left", "bottom"]].set_visible(False)
    target_path = Path(path)
    if target_path.suffix.lower().lstrip(".") not in figure.canvas.get_supported_filetypes():
        raise UserError(f"{path}: a figure's name ends in .png, .svg or .pdf")
    with replacing_file(target_path) as temporary:
        figure.savefig(temporary, format=target_path.suffix.lower().lstrip("."))
    return target_path


def write_html(
    mols: Sequence[Chem.Mol],
    path: PathLike,
    titles: Sequence[str],
    properties: Sequence[Mapping[str, object]],
    title: str = "Molecules",
    cores: Cores = None,
    noun: str = "molecules",
) -> Path:
    """Write one HTML page that works offline: a sortable table and a 3-D view of each conformer.

    properties: for each molecule the table's entries by name, numbers or texts; None and NaN mean
        failed and are shown as a dash. A SMILES column is added where there is none.
    title: the page's heading. cores: as of `draw_grid`. noun: what its rows are, many of them.

    The 3-D view and the map of any two properties are chemiscope's, whose script (3.2 MB, it
    contains 3Dmol.js and Plotly) the page holds: it loads nothing and sends nothing.
    A molecule takes 6 to 15 kB: meant for up to some hundreds.

    References:
        G. Fraux, R. Cersonsky, M. Ceriotti (2020), Chemiscope: interactive structure-property
        explorer for materials and molecules, JOSS 5, 2117, https://doi.org/10.21105/joss.02117
    """
    entries = []
    marked = [list(core) for core in cores or [()] * len(mols)]
    drawn = map(_svg, _in_line(mols, marked), marked)
    for mol, name, values, picture in zip(mols, titles, properties, drawn, strict=True):
        shown = {key: _plain(value) for key, value in values.items()}
        if not any(key.lower() == "smiles" for key in shown):
            shown["SMILES"] = Chem.MolToSmiles(Chem.RemoveHs(mol))  # with its stereo
        entries.append(
            {
                "name": name,
                "values": {key: value for key, value in shown.items() if value is not None},
                "picture": picture,
                "structure": _structure(mol) if mol.GetNumConformers() else None,
            }
        )
    page = (resources.files("molflowctl") / "assets/gallery.html").read_text(encoding="utf-8")
    version, script, licences = _chemiscope()
    parts = {
        "{{title}}": html.escape(title),
        "{{noun}}": html.escape(noun),
        "{{look}}": look(),
        "{{data}}": _inside_script(json.dumps(entries, allow_nan=False, separators=(",", ":"))),
        "{{licences}}": _inside_script(licences),
        "{{viewer}}": _inside_script(script),
        "{{version}}": version,
    }
    page = re.sub("|".join(map(re.escape, parts)), lambda mark: parts[mark[0]], page)
    return _save(path, page.encode())


def look() -> str:
    """The colours of all pages, light and dark, as CSS."""
    return (resources.files("molflowctl") / "assets/look.css").read_text(encoding="utf-8")


def _chemiscope() -> tuple[str, str, str]:
    """Version, script and licence texts of the installed chemiscope.

    Read as files, since importing the package would import Jupyter's widgets as well.
    """
    try:
        package = distribution("chemiscope")
        script, *licences = (
            Path(str(package.locate_file(name))).read_text(encoding="utf-8")
            for name in (
                "chemiscope/sphinx/static/chemiscope.min.js",
                f"chemiscope-{package.version}.dist-info/licenses/LICENSE",
                "chemiscope/static/chemiscope-widget.mjs.LICENSE.txt",
            )
        )
    except (PackageNotFoundError, OSError) as error:
        raise UserError(f"the page needs chemiscope (pip install chemiscope): {error}") from error
    return package.version, script, "\n".join(licences)


def _inside_script(text: str) -> str:
    """Text, JavaScript or JSON, with `<` escaped where HTML would see a comment or a tag."""
    return re.sub(r"<(?=!--|/?script)", r"\\u003c", text, flags=re.IGNORECASE)


def _structure(mol: Chem.Mol) -> dict[str, object]:
    """A molecule as chemiscope reads it: elements, positions in angstrom, Kekule bond orders.

    Turned so that the longest principal axis lies across the view and the shortest points at it.
    """
    turned = Chem.Mol(mol, confId=mol.GetConformer().GetId())
    Chem.Kekulize(turned)
    rdMolTransforms.CanonicalizeConformer(turned.GetConformer(), ignoreHs=False)
    orders = {Chem.BondType.DOUBLE: 2, Chem.BondType.TRIPLE: 3}
    x, y, z = np.round(turned.GetConformer().GetPositions(), 3).T.tolist()
    return {
        "size": turned.GetNumAtoms(),
        "names": [atom.GetSymbol() for atom in turned.GetAtoms()],
        "x": x,
        "y": y,
        "z": z,
        "bonds": [
            (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), orders.get(bond.GetBondType(), 1))
            for bond in turned.GetBonds()
        ],
    }


def _in_line(mols: Sequence[Chem.Mol], marked: Sequence[Sequence[int]]) -> list[Chem.Mol]:
    """Copies for drawing, those with atoms marked turned so that these lie as the first one's."""
    flats = [Chem.RemoveHs(mol) for mol in mols]
    pattern: Chem.Mol | None = None
    for flat, atoms in zip(flats, marked, strict=True):
        rdDepictor.Compute2DCoords(flat, canonOrient=True)
        if not atoms:
            rdDepictor.StraightenDepiction(flat)
            continue
        piece = _largest_piece(flat, atoms)
        alone = _drawn_alone(flat, piece)
        pattern = pattern or alone
        if _bonded(alone) == _bonded(pattern):
            with contextlib.suppress(ValueError):  # it stays as it is drawn
                rdDepictor.GenerateDepictionMatching2DStructure(
                    flat, pattern, list(enumerate(piece))
                )
    return [rdMolDraw2D.PrepareMolForDrawing(flat) for flat in flats]


def _largest_piece(flat: Chem.Mol, atoms: Sequence[int]) -> list[int]:
    """Of the atoms those that hang together, in their order; of fragments the largest."""
    kept = set(atoms)
    cut = Chem.RWMol(flat)
    for bond in flat.GetBonds():
        if not kept >= {bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()}:
            cut.RemoveBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
    pieces = [set(piece) for piece in Chem.GetMolFrags(cut)]
    largest = max((piece for piece in pieces if kept >= piece), key=len)
    return [atom for atom in atoms if atom in largest]


def _drawn_alone(flat: Chem.Mol, piece: Sequence[int]) -> Chem.Mol:
    """Some atoms of a molecule as one of their own, drawn in their order."""
    alone = Chem.RWMol(Chem.RenumberAtoms(flat, [*piece, *_others(flat, piece)]))
    Chem.Kekulize(alone, clearAromaticFlags=True)
    for atom in range(alone.GetNumAtoms() - 1, len(piece) - 1, -1):
        alone.RemoveAtom(atom)
    core = alone.GetMol()
    core.UpdatePropertyCache(strict=False)
    rdDepictor.Compute2DCoords(core, canonOrient=True)
    rdDepictor.StraightenDepiction(core)
    return core


def _bonded(mol: Chem.Mol) -> tuple[list[int], set[tuple[int, ...]]]:
    """Elements, and which atoms have bonds: what a drawing is turned by."""
    ends = [sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())) for bond in mol.GetBonds()]
    return [atom.GetAtomicNum() for atom in mol.GetAtoms()], set(map(tuple, ends))


def _others(flat: Chem.Mol, piece: Sequence[int]) -> list[int]:
    return [atom for atom in range(flat.GetNumAtoms()) if atom not in set(piece)]


def _bonds_of(flat: Chem.Mol, atoms: Sequence[int]) -> list[int]:
    """The bonds between atoms."""
    kept = set(atoms)
    return [
        bond.GetIdx()
        for bond in flat.GetBonds()
        if kept >= {bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()}
    ]


def svg_of(mol: Chem.Mol) -> str:
    """A small drawing, the text of an `<svg>`."""
    return _svg(_in_line([mol], [()])[0], ())


def _svg(flat: Chem.Mol, marked: Sequence[int]) -> str:
    """Of a copy for drawing, some atoms marked."""
    drawer = rdMolDraw2D.MolDraw2DSVG(120, 90)
    options = drawer.drawOptions()
    options.clearBackground = False
    options.padding = 0.06
    options.fixedBondLength = 22
    options.bondLineWidth = 1
    options.setHighlightColour(_CORE)
    options.highlightBondWidthMultiplier = 20
    drawer.DrawMolecule(flat, highlightAtoms=list(marked), highlightBonds=_bonds_of(flat, marked))
    drawer.FinishDrawing()
    text = drawer.GetDrawingText()
    return text[text.index("<svg") :]


def _plain(value: object) -> str | float | None:
    """A value as JSON holds it; None if it is missing or not finite."""
    if value is None or isinstance(value, str):
        return value or None
    number = float(value)  # type: ignore[arg-type]
    return number if math.isfinite(number) else None


def _finite(sample: Any) -> np.ndarray:
    numbers = np.asarray(sample, dtype=np.float64)
    return numbers[np.isfinite(numbers)]


def with_interval(mean: float, reach: float) -> str:
    """Mean and half width, both to the half width's second figure: `0.4700 +- 0.0044`."""
    if not reach > 0:
        return f"{mean:.4g}"
    decimals = max(0, 1 - math.floor(math.log10(reach)))
    return f"{mean:.{decimals}f} \u00b1 {reach:.{decimals}f}"


def bin_edges(values: np.ndarray, n: int) -> np.ndarray:
    """Common bin edges: one bin for each value of a count, else Rice's `2 n^(1/3)` bins.

    Far outliers share the outermost bins so that the bulk stays readable.
    """
    if np.array_equal(values, np.round(values)) and np.ptp(values) <= _MOST_BINS:
        return np.arange(values.min() - 0.5, values.max() + 1.0)
    low, high = np.quantile(values, (0.001, 0.999))
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, min(math.ceil(2 * n ** (1 / 3)), _MOST_BINS) + 1)


def _save(path: PathLike, data: bytes) -> Path:
    write_file(path, data)
    return Path(path)
