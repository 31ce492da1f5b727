"""Design around what is given: scaffolds, linkers and analogues of known drugs.

    python benchmarks/denovo/around.py druglike -n 100 -j 2

- scaffolds: of 20 drugs the scaffold of Murcko at its pose is kept, bonded to the rest where the
  drug is; the rest is drawn. Beside it, how often a plain draw has the scaffold.
- linkers: of 10 drugs a linker is drawn anew between two fragments at their poses in a conformer.
- leads: 20 drugs are varied at several levels of noise.

Every share is of attempts. What is delivered is checked by RDKit from its own atoms and bonds, not
by what the flow says. A flow whose network is told of the core is also drawn as if it were not.
The drugs are of common knowledge; those are taken whose elements, charges and sizes `druglike` has.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from molflowctl.chem.graphs import Failure, canonical_smiles, from_mol
from molflowctl.io.record import versions, write_json
from molflowctl.models.around.core import Core, embedded
from molflowctl.models.around.flow import AroundFlow
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.models.generation import Sampling, draws
from molflowctl.models.molecule_flow import MoleculeFlow
from molflowctl.properties.similarity import Similarity

DRUGS = {
    "atenolol": "CC(C)NCC(O)COc1ccc(CC(N)=O)cc1",
    "bupropion": "CC(NC(C)(C)C)C(=O)c1cccc(Cl)c1",
    "caffeine": "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "celecoxib": "Cc1ccc(cc1)-c1cc(nn1-c1ccc(cc1)S(N)(=O)=O)C(F)(F)F",
    "chlorphenamine": "CN(C)CCC(c1ccc(Cl)cc1)c1ccccn1",
    "citalopram": "CN(C)CCCC1(OCc2cc(C#N)ccc12)c1ccc(F)cc1",
    "diazepam": "CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21",
    "fluoxetine": "CNCCC(Oc1ccc(cc1)C(F)(F)F)c1ccccc1",
    "ibuprofen": "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "ketoprofen": "CC(C(=O)O)c1cccc(c1)C(=O)c1ccccc1",
    "lamotrigine": "Nc1nnc(c(N)n1)-c1cccc(Cl)c1Cl",
    "moclobemide": "O=C(NCCN1CCOCC1)c1ccc(Cl)cc1",
    "naproxen": "COc1ccc2cc(ccc2c1)C(C)C(=O)O",
    "omeprazole": "COc1ccc2[nH]c(nc2c1)S(=O)Cc1ncc(C)c(OC)c1C",
    "propranolol": "CC(C)NCC(O)COc1cccc2ccccc12",
    "sertraline": "CNC1CCC(c2ccc(Cl)c(Cl)c2)c2ccccc12",
    "sulfamethoxazole": "Cc1cc(NS(=O)(=O)c2ccc(N)cc2)no1",
    "trimethoprim": "COc1cc(Cc2cnc(N)nc2N)cc(OC)c1OC",
    "warfarin": "CC(=O)CC(c1ccccc1)c1c(O)c2ccccc2oc1=O",
    "zolpidem": "Cc1ccc(cc1)-c1nc2ccc(C)cn2c1CC(=O)N(C)C",
}
LINKERS = {  # SMARTS of the atoms between two fragments
    "trimethoprim": "[CH2;!R;$([CH2](c)c)]",
    "moclobemide": "[CX3;!R](=O)[NH][CH2;!R][CH2;!R]",
    "ketoprofen": "[CX3;!R;$(C(c)c)]=O",
    "sulfamethoxazole": "[NH;!R]S(=O)(=O)",
    "fluoxetine": "[O;!R;$(O(c)C)]",
    "omeprazole": "S(=O)[CH2;!R]",
    "propranolol": "[O;!R;$(Oc)][CH2][CH]([OH])[CH2]",
    "atenolol": "[O;!R;$(Oc)][CH2][CH]([OH])[CH2]",
    "bupropion": "C(=O)[CH]([CH3])",
    "chlorphenamine": "[CH2;!R][CH2;!R]",
}
NOISES = (0.1, 0.3, 0.5, 0.7, 0.9)
RESIZED = 3  # atoms by which a linker may be longer or shorter


@dataclass(frozen=True)
class Row:
    """What `n` attempts around one thing gave; shares of attempts unless it says otherwise."""

    task: str
    name: str
    form: str  # told, not told, plain, or a level of noise
    n: int
    valid: float
    unique: float  # of the valid
    kept: float  # of the valid: the core is there, bonded where it may be
    rmsd: float  # angstrom, the largest of the core to its pose; NaN where there is none
    similarity: float  # mean Tanimoto of the valid to the drug
    found: bool  # the drug itself is among them


def drug(name: str) -> Chem.Mol:
    """A drug with a conformer, of heavy atoms."""
    mol = Chem.MolFromSmiles(DRUGS[name])
    embedded(mol, name)
    return mol


def scaffold(mol: Chem.Mol) -> list[int]:
    """Atoms of the scaffold of Murcko."""
    marked = Chem.Mol(mol)
    for atom in marked.GetAtoms():
        atom.SetIntProp("place", atom.GetIdx())
    core = MurckoScaffold.GetScaffoldForMol(marked)
    return sorted(atom.GetIntProp("place") for atom in core.GetAtoms())


def has_core(mol: Chem.Mol, core: Core) -> bool:
    """Whether the first atoms are the core's, with its bonds, and others only where they may be.

    An aromatic bond is single or double, as RDKit happens to write its ring.
    """
    plain = Chem.RemoveHs(mol)
    k, bonds = len(core), {}
    for bond in plain.GetBonds():
        i, j = sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
        if i < k <= j and not core.room[i]:
            return False
        if j < k:
            aromatic = bond.GetIsAromatic()
            bonds[i, j] = {1, 2} if aromatic else {int(bond.GetBondTypeAsDouble())}
    numbers = tuple(plain.GetAtomWithIdx(i).GetAtomicNum() for i in range(k))
    wanted = {(i, j): order for i, j, order in core.bonds}
    return (
        numbers == core.numbers
        and bonds.keys() == wanted.keys()
        and all(order in bonds[place] for place, order in wanted.items())
    )


def judged(flow: MoleculeFlow, of: tuple[str, str, str], n: int, jobs: int, seed: int) -> Row:
    """`n` attempts of a flow, around the core that it has."""
    start = Similarity([DRUGS[of[1]]])
    core = flow.core if isinstance(flow, AroundFlow) else None
    known = canonical_smiles(Chem.MolFromSmiles(DRUGS[of[1]]))
    valid = [
        drawn.result
        for drawn in draws(flow, Sampling(), seed=seed, count=n, jobs=jobs)
        if not isinstance(drawn.result, Failure)
    ]
    kept, rmsd = [True], [np.nan]
    if core is not None:
        kept = [has_core(found.mol, core) for found in valid]
        target = np.array(core.positions)
        places = [f.mol.GetConformer().GetPositions()[: len(core)] for f in valid]
        rmsd = [float(np.sqrt(np.square(x - target).sum(1).mean())) for x in places]
    return Row(
        *of,
        n,
        len(valid) / n,
        len({found.smiles for found in valid}) / max(1, len(valid)),
        float(np.mean(kept)) if valid else np.nan,
        max(rmsd, default=np.nan),
        float(np.mean([start(found.mol) for found in valid])) if valid else np.nan,
        known in {found.smiles for found in valid},
    )


def forms(flow: MoleculeFlow) -> dict[str, MoleculeFlow]:
    """The flow, and one that is not told of the core, where it is."""
    if not (isinstance(flow, DeNovoFlow) and flow.conditional):
        return {"not told": flow}
    arguments = flow.arguments | {"network": {**flow.arguments["network"], "conditional": False}}
    deaf = DeNovoFlow(**arguments)
    deaf.load_state_dict(flow.state_dict(), strict=False)
    deaf.card = dict(flow.card)
    return {"told": flow, "not told": deaf.to(flow.device).eval()}


def main(
    flow: Annotated[str, typer.Argument(help="A flow, by name or folder.")] = "druglike",
    n: Annotated[int, typer.Option("-n", min=1, help="Attempts around each thing.")] = 100,
    only: Annotated[int | None, typer.Option(help="The first so many of each task.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    jobs: Annotated[int, typer.Option("-j", min=1, help="Worker processes.")] = 1,
    out: Annotated[Path, typer.Option("-o", help="Folder of the results.")] = Path(__file__).parent
    / "around",
) -> None:
    """Draw around scaffolds, fragments and leads, and write `results.json` and `table.md`."""
    base = MoleculeFlow.from_pretrained(flow)
    rows = [judged(base, ("plain", next(iter(DRUGS)), "plain"), n, jobs, seed)]

    def add(around: MoleculeFlow, *of: str) -> None:
        rows.append(judged(around, of, n, jobs, seed))  # type: ignore[arg-type]
        print(rows[-1], flush=True)

    for name in list(DRUGS)[:only]:
        mol = drug(name)
        core = Core.part_of(mol, scaffold(mol), exact=True)
        for form, one in forms(base).items():
            add(one.around(core), "scaffolds", name, form)
    for name, pattern in list(LINKERS.items())[:only]:
        mol = drug(name)
        (linker,) = {frozenset(m) for m in mol.GetSubstructMatches(Chem.MolFromSmarts(pattern))}
        core = Core.part_of(
            mol, [a for a in range(mol.GetNumAtoms()) if a not in linker], exact=True
        )
        near = range(mol.GetNumAtoms() - RESIZED, mol.GetNumAtoms() + RESIZED + 1)
        sizes = {size: count for size, count in base.sizes.items() if size in near}
        for form, one in forms(base).items():
            add(one.around(core, sizes=sizes), "linkers", name, form)
    for name in list(DRUGS)[:only]:
        for noise in NOISES:
            like = from_mol(drug(name), False)
            add(base.around(None, like=like, noise=noise), "leads", name, f"{noise:g}")
    out.mkdir(parents=True, exist_ok=True)
    config = {"flow": flow, "n": n, "only": only, "seed": seed}
    weights = base.card.get("weights_sha256")
    found = {"config": config, "weights_sha256": weights, "versions": versions()}
    write_json(out / "results.json", {**found, "rows": [asdict(row) for row in rows]})
    (out / "table.md").write_text(table(rows))
    print(table(rows))


def table(rows: list[Row]) -> str:
    """Means over the drugs, by task and form."""
    lines = [
        "| task | form | drugs | valid | unique | core kept | RMSD max | similarity | drug found |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task, form in dict.fromkeys((row.task, row.form) for row in rows):
        some = [row for row in rows if (row.task, row.form) == (task, form)]

        def mean(name: str, some: list[Row] = some) -> float:
            values = [getattr(row, name) for row in some]
            there = [value for value in values if not np.isnan(value)]
            return float(np.mean(there)) if there else float("nan")

        largest = max((row.rmsd for row in some if not np.isnan(row.rmsd)), default=float("nan"))
        lines.append(
            f"| {task} | {form} | {len(some)} | {mean('valid'):.3f} | {mean('unique'):.3f} "
            f"| {mean('kept'):.3f} | {largest:.3f} | {mean('similarity'):.3f} "
            f"| {sum(row.found for row in some)} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
