"""Distributions of properties and geometry to compare generated molecules with.

A distribution is kept as its quantiles at the levels (k + 1/2)/200, so that the mean absolute
difference of two rows is the Wasserstein-1 distance between them, in their own unit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import QED, Crippen, Descriptors, rdMolDescriptors
from rdkit.Contrib.SA_Score import sascorer

from molflowctl.chem.graphs import Molecule, assemble, to_mol
from molflowctl.data.datasets import MoleculeDataset
from molflowctl.errors import UserError

__all__ = [
    "DESCRIPTORS",
    "LEVELS",
    "bond_angles",
    "bond_lengths",
    "descriptors",
    "load_reference",
    "quantiles",
    "wasserstein",
    "write_reference",
]

DESCRIPTORS = {
    "qed": QED.qed,
    "logp": Crippen.MolLogP,  # type: ignore[attr-defined]
    "sa_score": sascorer.calculateScore,
    "mw": Descriptors.MolWt,  # type: ignore[attr-defined]  # g/mol
    "tpsa": rdMolDescriptors.CalcTPSA,  # square angstrom
    "rotatable_bonds": rdMolDescriptors.CalcNumRotatableBonds,
    "rings": rdMolDescriptors.CalcNumRings,
}
LEVELS = (np.arange(200) + 0.5) / 200
FEWEST = 100  # values for a distribution worth keeping


def descriptors(mols: Sequence[Chem.Mol]) -> dict[str, np.ndarray]:
    """Each of `DESCRIPTORS` of each molecule, hydrogens disregarded. (n,) float64"""
    heavy = [Chem.RemoveHs(m) for m in mols]
    return {name: np.array([f(m) for m in heavy], float) for name, f in DESCRIPTORS.items()}


def bond_lengths(mols: Sequence[Chem.Mol]) -> dict[str, np.ndarray]:
    """Lengths in angstrom by kind of bond, `C-N`, `C=N`, `C#N`: elements sorted, kekulised."""
    sign = {1: "-", 2: "=", 3: "#"}
    lengths = defaultdict(list)
    for mol in map(_kekulised, mols):
        x = mol.GetConformer().GetPositions()
        for bond in mol.GetBonds():
            a, b = bond.GetBeginAtom(), bond.GetEndAtom()
            kind = sign[int(bond.GetBondTypeAsDouble())].join(
                sorted((a.GetSymbol(), b.GetSymbol()))
            )
            lengths[kind].append(np.linalg.norm(x[a.GetIdx()] - x[b.GetIdx()]))
    return {kind: np.array(lengths[kind]) for kind in sorted(lengths)}


def bond_angles(mols: Sequence[Chem.Mol]) -> dict[str, np.ndarray]:
    """Angles between two bonds of an atom, in degrees, by that atom's element."""
    angles = defaultdict(list)
    for mol in mols:
        x = mol.GetConformer().GetPositions()
        for atom in mol.GetAtoms():
            arms = x[[a.GetIdx() for a in atom.GetNeighbors()]] - x[atom.GetIdx()]
            arms /= np.linalg.norm(arms, axis=1, keepdims=True)
            i, j = np.triu_indices(len(arms), 1)
            cosines = (arms[i] * arms[j]).sum(1).clip(-1, 1)
            angles[atom.GetSymbol()].extend(np.degrees(np.arccos(cosines)))
    return {element: np.array(angles[element]) for element in sorted(angles) if angles[element]}


def quantiles(values: np.ndarray) -> np.ndarray:
    """A sample's quantiles at `LEVELS`. (200,)"""
    return np.quantile(values, LEVELS)


def wasserstein(values: np.ndarray, reference: np.ndarray) -> float:
    """Wasserstein-1 distance of a sample to a row of 200 quantiles, in the sample's unit."""
    return float(np.abs(quantiles(values) - reference).mean())


def write_reference(
    dataset: MoleculeDataset, file: str | Path, most: int = 5000, seed: int = 0
) -> None:
    """Distributions of `most` random test molecules, as `.npz`.

    Hydrogens that the data set leaves out are added and relaxed, all others held, as is done to
    generated molecules.

    Arrays: `descriptors` names (k,), `descriptor_values` (k, n); `bonds` kinds (b,),
    `bond_lengths` (b, 200) angstrom; `angles` elements (a,), `bond_angles` (a, 200) degrees.
    """
    rows = dataset.indices("test").numpy()
    rows = np.random.default_rng(seed).permutation(rows)[:most]
    if dataset.card["hydrogens"] == "explicit":
        mols = [to_mol(dataset.graph(row), explicit=True) for row in rows]
        for mol in mols:
            Chem.SanitizeMol(mol)
    else:
        found = [assemble(dataset.graph(row)) for row in rows]
        mols = [result.mol for result in found if isinstance(result, Molecule)]
    values = descriptors(mols)
    lengths = {k: v for k, v in bond_lengths(mols).items() if len(v) >= FEWEST}
    angles = {k: v for k, v in bond_angles(mols).items() if len(v) >= FEWEST}
    np.savez_compressed(
        file,
        descriptors=np.array(list(values)),
        descriptor_values=np.array(list(values.values()), np.float32),
        bonds=np.array(list(lengths), dtype=np.str_),
        bond_lengths=np.array([quantiles(v) for v in lengths.values()], np.float32),
        angles=np.array(list(angles), dtype=np.str_),
        bond_angles=np.array([quantiles(v) for v in angles.values()], np.float32),
    )


def load_reference(name: str = "qm9") -> dict[str, dict[str, np.ndarray]]:
    """What is shipped: `{"descriptors" | "bonds" | "angles": {name: values or quantiles}}`."""
    asset = resources.files("molflowctl") / "assets" / f"{name}_test_reference.npz"
    if not asset.is_file():
        raise UserError(f"No reference distributions are packaged for {name!r}.")
    with asset.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        parts = {
            "descriptors": "descriptor_values",
            "bonds": "bond_lengths",
            "angles": "bond_angles",
        }
        return {
            part: dict(zip(arrays[part].tolist(), arrays[values], strict=True))
            for part, values in parts.items()
        }


def _kekulised(mol: Chem.Mol) -> Chem.Mol:
    copy = Chem.Mol(mol)
    Chem.Kekulize(copy, clearAromaticFlags=True)
    return copy
