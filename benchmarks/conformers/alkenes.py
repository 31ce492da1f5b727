"""Double bonds with many and large substituents, as SMILES to train a conformer flow on.

    molflowctl data prepare druglike -p "smarts:[#6X3,#7X2;!D1]=!@[#6X3,#7X2;!D1]" --range 1: \\
        --limit 12000 -o datasets/druglike-ez
    python benchmarks/conformers/alkenes.py datasets/druglike-ez -o alkenes.smi
    molflowctl data prepare-conformers alkenes.smi --etkdg-conformers 1 -o datasets/alkenes

MOSES stops at 27 atoms and few of its double bonds have four substituents, where a flow mistakes E
for Z most often. From its molecules with such a bond larger ones are made on paper: a substituent
in place of a hydrogen at the bond, or an acid and an amine joined to an amide, or both. Every
molecule is written as E and as Z, for the network to tell apart. Molecules of the validation and
test splits are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rdkit import Chem, rdBase
from rdkit.Chem import AllChem
from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers, StereoEnumerationOptions

from molflowctl.data.datasets import MoleculeDataset

MOST = 39  # heavy atoms, what `druglike-conformers` takes
SUBSTITUENTS = {
    "C": 2, "CC": 1, "c1ccccc1": 3, "c1ccc(F)cc1": 1, "c1ccc(OC)cc1": 1, "c1cccs1": 1, "Cl": 1,
    "C1CC1": 1, "C(=O)OC": 1, "C#N": 1, "OC": 1, "SC": 1, "S(C)(=O)=O": 1, "N(C)C(C)=O": 1,
}  # fmt: skip
# An acyclic double bond's carbon with one hydrogen; the new substituent is bound in its place.
REPLACE = "[CX3;H1:1]=!@[#6X3,#7X2:2]>>[C;H0:1]({})=[*:2]"
AMIDE = (
    "[#6:1][CX3:2](=[O:3])[OX2H1].[NX3;H1,H2;!$(N[#6X3]=[O,S,N]);!$(N-[#7,#8,#16]):4]"
    ">>[#6:1][C:2](=[O:3])[N:4]"
)
ACID, AMINE = (Chem.MolFromSmarts(part) for part in AMIDE.split(">>")[0].split("."))


def product(reaction: AllChem.ChemicalReaction, *parts: Chem.Mol) -> Chem.Mol | None:
    """What comes first of a reaction, if it is a molecule; its stereo is left open."""
    for (made,) in reaction.RunReactants(parts, maxProducts=1):
        with rdBase.BlockLogs():
            if Chem.SanitizeMol(made, catchErrors=True) == Chem.SANITIZE_NONE:
                return Chem.MolFromSmiles(Chem.MolToSmiles(made, isomericSmiles=False))
    return None


def grown(
    mol: Chem.Mol, acids: list[Chem.Mol], amines: list[Chem.Mol], rng: np.random.Generator
) -> Chem.Mol | None:
    """A larger molecule made of this one, or None: it has no place to grow, or grows too large."""
    names, shares = zip(*SUBSTITUENTS.items(), strict=True)
    found = mol
    if rng.random() < 0.7:
        name = rng.choice(names, p=np.array(shares) / sum(shares))
        found = product(AllChem.ReactionFromSmarts(REPLACE.format(name)), mol) or mol
    coupling = AllChem.ReactionFromSmarts(AMIDE)
    for is_acid, group, others in ((True, ACID, amines), (False, AMINE, acids)):
        if others and found.HasSubstructMatch(group):
            other = others[rng.integers(len(others))]
            pair = (found, other) if is_acid else (other, found)
            if (joined := product(coupling, *pair)) and joined.GetNumAtoms() <= MOST:
                found = joined
            break
    if found is mol or found.GetNumAtoms() > MOST:
        return None
    return found


def isomers(mol: Chem.Mol, seed: int) -> list[str]:
    """E and Z, or two of all stereoisomers where there are more, as they are on paper."""
    options = StereoEnumerationOptions(maxIsomers=2, rand=seed, unique=True)
    return [Chem.MolToSmiles(isomer) for isomer in EnumerateStereoisomers(mol, options=options)]


def main(
    data: Annotated[Path, typer.Argument(help="Prepared molecules with such double bonds.")],
    out: Annotated[Path, typer.Option("-o", help="A .smi file.")],
    n: Annotated[int, typer.Option("-n", min=1, help="Larger molecules, at most.")] = 2200,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Grow training molecules of a data set, each once, and write what came of it as isomers."""
    rng = np.random.default_rng(seed)
    dataset = MoleculeDataset.load(data)
    bare = [Chem.MolFromSmiles(dataset.smiles[k]) for k in dataset.indices("train").tolist()]
    acids = [mol for mol in bare if mol.HasSubstructMatch(ACID)]
    amines = [mol for mol in bare if mol.HasSubstructMatch(AMINE)]
    found: dict[str, list[str]] = {}
    for k in rng.permutation(len(bare)):
        if len(found) == n:
            break
        if larger := grown(bare[k], acids, amines, rng):
            found.setdefault(Chem.MolToSmiles(larger), isomers(larger, int(rng.integers(2**31))))
    lines = [f"{s} alkene-{k}" for k, pair in enumerate(found.values()) for s in pair]
    out.write_text("\n".join(lines) + "\n")
    print(f"{len(found):,} of {len(bare):,} molecules grown, {len(lines):,} isomers -> {out}")


if __name__ == "__main__":
    typer.run(main)
