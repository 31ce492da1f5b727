"""Conformers of one molecule as a model draws them, and what follows: hydrogens, relaxation.

`conformers` writes what is made here, and `benchmark conformers` measures the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rdkit import Chem

from molflowctl.chem.ensemble import embed, force_field
from molflowctl.chem.geometry import add_conformer
from molflowctl.chem.graphs import EXACT
from molflowctl.chem.identity import MOST_PLACINGS, placings, without_labels
from molflowctl.chem.relaxation import what_became
from molflowctl.chem.salts import is_several
from molflowctl.chem.stereo import stereo_kept
from molflowctl.models.conformer import ConformerFlow, draw_positions
from molflowctl.models.conformer_graph import Graphs
from molflowctl.properties.geometries.crowded import is_crowded
from molflowctl.properties.geometries.starting import draw
from molflowctl.tasks.preparation.relaxing import relax_ensemble
from molflowctl.tasks.shared_settings import ConformerDrawing

__all__ = ["Drawn", "draw_rounds", "relax_drawn", "with_hydrogens"]

STRIDE = 1 << 24  # numbers of draws kept apart for one molecule
PAIRS_AT_ONCE = 40_000  # atom pairs in one batch of the network


@dataclass(frozen=True)
class Drawn:
    """Conformers of a molecule, in bytes, as they were drawn.

    Attributes:
        mol: with the atoms that the model places.
        drawn: how many were drawn; wrong: of these, with wrong stereo or none that is finite.
        first: of each of the first round, whether it was right.
    """

    mol: bytes
    drawn: int
    wrong: int
    first: tuple[bool, ...]


def draw_rounds(
    flow: ConformerFlow | None,
    mol: Chem.Mol,
    n: int,
    number: int,
    config: ConformerDrawing,
    *,
    seed: int,
    rounds: int,
    keep_wrong: bool = False,
    relaxed: bool = False,
) -> Drawn:
    """`n` conformers; what breaks the stereo of `mol` is drawn again, in up to `rounds` rounds.

    Arguments:
        flow: None for ETKDGv3.
        mol: with the atoms that the model places; changed in place.
        number: of the molecule, which with the seed decides what is drawn.
        keep_wrong: keep what breaks the stereo, in place of drawing it again.
        relaxed: what is drawn will be, so that fewer steps do, see `draw_positions`.
    """
    shape, ways = mol, [list(range(mol.GetNumAtoms()))]
    if flow is None or flow.hydrogens == "explicit":
        shape, ways = _without_labels(mol) or (shape, ways)
    graph = None if flow is None else Graphs.of(shape)
    drawn = wrong = 0
    first: list[bool] = []
    good: list[np.ndarray] = []
    for k in range(rounds):
        missing = n - len(good)
        if not missing:
            break
        start = number * STRIDE + drawn
        if flow is None or graph is None:
            make = draw if is_several(mol) or any(map(is_crowded, mol.GetAtoms())) else embed
            make(shape, missing, seed=seed + 7919 * start)
            found = [conformer.GetPositions() for conformer in shape.GetConformers()]
        else:
            found = _sample(flow, graph, range(start, start + missing), config, seed, relaxed)
        drawn += missing
        mol.RemoveAllConformers()
        for positions in found:
            finite = bool(np.isfinite(positions).all())
            placed = [positions[places] for places in ways] if finite else []
            ways_kept = (x for x in placed if stereo_kept(mol, add_conformer(mol, x)))
            right = next(ways_kept, None)
            wrong += right is None
            if k == 0:
                first.append(right is not None)
            if right is not None:
                good.append(right)
            elif keep_wrong:
                good += placed[:1]
    mol.RemoveAllConformers()
    for positions in good:
        add_conformer(mol, positions)
    return Drawn(mol.ToBinary(EXACT), drawn, wrong, tuple(first))


def _without_labels(mol: Chem.Mol) -> tuple[Chem.Mol, list[list[int]]] | None:
    """A labelled molecule as its plain SMILES gives it, and how its atoms may stand there.

    None if it has no isotopes, or more ways to stand than are tried: the conformers of a seed are
    those of the plain molecule, whatever is labelled.
    """
    if (unlabelled := without_labels(mol)) is None:
        return None
    plain = Chem.MolFromSmiles(Chem.MolToSmiles(Chem.RemoveHs(unlabelled)))
    if plain is None:
        return None
    shape = Chem.AddHs(plain)
    ways = placings(mol, shape)
    return (shape, ways) if 0 < len(ways) < MOST_PLACINGS else None


def _sample(
    flow: ConformerFlow,
    graph: Graphs,
    index: range,
    config: ConformerDrawing,
    seed: int,
    relaxed: bool,
) -> list[np.ndarray]:
    """Positions of the draws `index`, angstrom, in batches of a bounded size."""
    batch = max(1, PAIRS_AT_ONCE // graph.size**2) * (1 if flow.device.type == "cpu" else 32)
    found: list[np.ndarray] = []
    for start in range(index.start, index.stop, batch):
        part = range(start, min(start + batch, index.stop))
        positions = draw_positions(
            flow,
            graph,
            part,
            seed=seed,
            sampler=config.sampler,
            steps=config.steps,
            scale=config.noise_scale,
            relaxed=relaxed,
        )
        found.extend(np.ascontiguousarray(p) for p in positions.double().numpy())
    return found


def with_hydrogens(mol: Chem.Mol) -> tuple[Chem.Mol, list[str]]:
    """A copy with all hydrogens, those that were missing placed and relaxed; failures of that.

    Failures are a text for each conformer, empty for what is well.
    """
    whole = Chem.AddHs(mol, addCoords=True)
    if whole.GetNumAtoms() == mol.GetNumAtoms():
        return whole, [""] * mol.GetNumConformers()
    return whole, force_field(whole, "hydrogens")[-1]


def relax_drawn(mol: Chem.Mol, relax: str) -> tuple[Chem.Mol, np.ndarray, str, list[str]]:
    """With all hydrogens and relaxed: the molecule, energies, by what, failures.

    They are those of `relax_ensemble`; without relaxation a conformer fails where its hydrogens do,
    or where it has become another molecule with them.
    """
    if relax == "mmff":  # which gains nothing from hydrogens that were relaxed before all the rest
        return relax_ensemble(Chem.AddHs(mol, addCoords=True), relax)
    whole, placed = with_hydrogens(mol)
    relaxed, energies, method, failures = relax_ensemble(whole, relax)
    if relax == "none":
        failures = [
            placed[k]
            or ("" if stereo_kept(relaxed, c.GetId()) else what_became(relaxed, c.GetId()))
            for k, c in enumerate(relaxed.GetConformers())
        ]
    return relaxed, energies, method, failures
