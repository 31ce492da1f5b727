"""Design around what is given: scaffolds, linkers and analogues of known drugs.

    python benchmarks/denovo/around.py druglike -n 100 --seed 2901 -o benchmarks/denovo/around

- scaffolds: of 20 drugs the scaffold of Murcko at its pose is kept, bonded to the rest where the
  drug is; the rest is drawn.
- linkers: of 10 drugs a linker is drawn anew between two fragments at their poses in a conformer.
- leads: 20 drugs are varied at several levels of noise.
- plain: molecules without a core, by the same sampler; how many of them have each scaffold anyway.
- cost: seconds of a draw around each scaffold over those of a plain draw of the same sizes.

Every share is of attempts unless it says otherwise. What is delivered is read back from a MOL block
and checked by RDKit from its own atoms, bonds and coordinates: the core with a dummy at each bond
to the rest is to have the isomeric SMILES that it has in the drug. A flow whose network is told of
the core is also drawn as if it were not. The drugs are of common knowledge; those are taken whose
elements, charges and sizes `druglike` has. A run that was stopped goes on where it was; every
row says its seed and the commit that made it.
"""

from __future__ import annotations

import functools
import itertools
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from core_check import CoreCheck
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from molflowctl import properties
from molflowctl.chem.graphs import Failure, Molecule, canonical_smiles, from_mol
from molflowctl.io.atomic import write_file
from molflowctl.io.record import commit, read_record, versions, write_json
from molflowctl.models.around.core import Core, embedded
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.models.generation import Sampling, draw_states, draws
from molflowctl.models.molecule_flow import MoleculeFlow
from molflowctl.properties.similarity import Similarity
from molflowctl.tasks.evaluation.bootstrap import bootstrap

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
PLAIN = 5  # plain attempts for each attempt around one thing
VARIED = 16  # attempts at each noise, at most
CHECKED = 25  # molecules of each thing that PoseBusters checks, 10 times as many plain ones
UNTOLD = (5, 3)  # drugs and linkers for what a told network does when it is not told
COST = (32, 6, 3)  # molecules, evaluations of the network and repetitions of a draw that is timed


@dataclass(frozen=True)
class Row:
    """What `n` attempts around one thing gave: counts of molecules unless it says otherwise."""

    task: str
    name: str
    form: str  # told, not told, plain, or a level of noise
    n: int
    valid: int
    unique: int
    kept: int = 0  # the core is there: graph, stereo, and bonds to the rest only where they may be
    filled: int = 0  # and a bond to the rest at each place
    near: int = 0  # and each of its fragments is near its pose
    rmsd: float = float("nan")  # angstrom, the largest of the core to its pose, as delivered
    resized: int = 0  # delivered with a number of atoms that was not drawn
    checked: int = 0  # by PoseBusters
    posebusters: int = 0  # that pass its checks of graph and geometry
    similarity: float = float("nan")  # mean Tanimoto of the valid to the drug
    found: bool = False  # the drug itself is among them
    failed: dict[str, int] = field(default_factory=dict)
    scaffolds: dict[str, int] = field(default_factory=dict)  # of plain molecules: that have it
    seconds: float = float("nan")
    ratio: float = float("nan")  # of the cost to that of a plain draw
    seed: int = 0
    commit: str = ""  # that made it


@dataclass(frozen=True)
class Given:
    """A drug with a conformer, and those of its atoms that are kept, in the order of the core."""

    name: str
    mol: Chem.Mol
    kept: list[int]

    def core(self) -> Core:
        return Core.part_of(self.mol, self.kept, exact=True)


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


def around_scaffold(name: str) -> Given:
    mol = drug(name)
    return Given(name, mol, scaffold(mol))


def around_linker(name: str) -> Given:
    """All of a drug but the linker."""
    mol = drug(name)
    query = Chem.MolFromSmarts(LINKERS[name])
    (linker,) = {frozenset(match) for match in mol.GetSubstructMatches(query)}
    return Given(name, mol, [a for a in range(mol.GetNumAtoms()) if a not in linker])


def judged(
    flow: MoleculeFlow, of: tuple[str, str, str], n: int, jobs: int, seed: int, given: Given | None
) -> Row:
    """`n` attempts of a flow, around what is given of a drug."""
    began = time.monotonic()
    results = [drawn.result for drawn in draws(flow, Sampling(), seed=seed, count=n, jobs=jobs)]
    valid = [result for result in results if isinstance(result, Molecule)]
    mols = [found.mol for found in valid]
    told: dict[str, Any] = {}
    if of[0] != "plain":
        start = Similarity([DRUGS[of[1]]])
        told["similarity"] = float(np.mean([start(mol) for mol in mols])) if mols else np.nan
        known = canonical_smiles(Chem.MolFromSmiles(DRUGS[of[1]]))
        told["found"] = known in {found.smiles for found in valid}
    if given is not None:
        check = CoreCheck(given.mol, given.kept)
        checked = [check(Chem.MolToMolBlock(mol)) for mol in mols]
        told |= {
            name: sum(getattr(c, name) for c in checked) for name in ("kept", "filled", "near")
        }
        told["rmsd"] = max((c.rmsd for c in checked), default=np.nan)
    if of[0] != "leads":
        some = mols[: CHECKED * (10 if of[0] == "plain" else 1)]
        passed = properties.score(some, ["posebusters_pass"], timeout=None).values
        told["checked"] = len(some)
        told["posebusters"] = int(np.nansum(passed["posebusters_pass"])) if some else 0
    if of[0] == "plain":
        told["scaffolds"] = having(mols)
    return Row(
        *of, n, len(valid), len({found.smiles for found in valid}),
        resized=sum(mol.GetNumHeavyAtoms() not in flow.sizes for mol in mols),
        failed=dict(Counter(r.reason for r in results if isinstance(r, Failure))),
        seconds=time.monotonic() - began, **told,
    )  # fmt: skip


def having(mols: list[Chem.Mol]) -> dict[str, int]:
    """How many molecules have the scaffold of each drug, wherever they go on from it."""
    scaffolds = {
        name: MurckoScaffold.GetScaffoldForMol(Chem.MolFromSmiles(smiles))
        for name, smiles in DRUGS.items()
    }
    return {name: sum(mol.HasSubstructMatch(s) for mol in mols) for name, s in scaffolds.items()}


def cost(plain: MoleculeFlow, around: MoleculeFlow, seed: int) -> float:
    """Processor time of draws around a core over that of plain ones of the same size."""
    number, nfe, repeated = COST
    size = int(np.median([n for n, count in around.sizes.items() for _ in range(int(count))]))
    index = np.arange(number)

    def seconds(flow: MoleculeFlow) -> float:
        began = time.process_time()
        draw_states(flow, Sampling(nfe=nfe), seed, index, size)
        return time.process_time() - began

    seconds(around)  # what is made once for each size
    return statistics.median(seconds(around) / seconds(plain) for _ in range(repeated))


def forms(flow: MoleculeFlow) -> dict[str, MoleculeFlow]:
    """The flow, and one that is not told of the core, where it is."""
    if not (isinstance(flow, DeNovoFlow) and flow.conditional):
        return {"not told": flow}
    arguments = flow.arguments | {"network": {**flow.arguments["network"], "conditional": False}}
    deaf = DeNovoFlow(**arguments)
    deaf.load_state_dict(flow.state_dict(), strict=False)
    deaf.card = dict(flow.card)
    return {"told": flow, "not told": deaf.to(flow.device).eval()}


def asked(
    base: MoleculeFlow, n: int, only: int | None, jobs: int, seed: int, untold: bool = True
) -> Iterator[tuple[tuple[str, str, str], Callable[[], Row]]]:
    """Every row that there is to be, and what makes it; those of a told network come first."""

    def row(
        flow: MoleculeFlow, of: tuple[str, str, str], number: int, given: Given | None = None
    ) -> tuple[tuple[str, str, str], Callable[[], Row]]:
        return of, lambda: judged(flow, of, number, jobs, seed, given)

    def priced(flow: MoleculeFlow, name: str, form: str) -> Row:
        around = flow.around(around_scaffold(name).core())
        return Row("cost", name, form, 0, 0, 0, ratio=cost(flow, around, seed))

    drugs, linkers = list(DRUGS)[:only], list(LINKERS)[:only]
    for form, flow in forms(base).items():
        if flow is not base and not untold:
            return
        fewer = None if flow is base else UNTOLD
        for name in drugs[: fewer and fewer[0]]:
            given = around_scaffold(name)
            yield row(flow.around(given.core()), ("scaffolds", name, form), n, given)
        if flow is base:
            yield row(flow, ("plain", "", "plain"), n * PLAIN)
        for name in linkers[: fewer and fewer[1]]:
            given = around_linker(name)
            atoms = given.mol.GetNumAtoms()
            near = range(atoms - RESIZED, atoms + RESIZED + 1)
            sizes = {size: count for size, count in flow.sizes.items() if size in near}
            around = flow.around(given.core(), sizes=sizes)
            yield row(around, ("linkers", name, form), n, given)
        if flow is not base:
            continue
        for name, noise in itertools.product(drugs, NOISES):
            varied = flow.around(None, like=from_mol(drug(name), False), noise=noise)
            yield row(varied, ("leads", name, f"{noise:g}"), min(n, VARIED))
        for name in drugs[: UNTOLD[0]]:
            yield ("cost", name, form), functools.partial(priced, flow, name, form)


def main(
    flow: Annotated[str, typer.Argument(help="A flow, by name or folder.")] = "druglike",
    n: Annotated[int, typer.Option("-n", min=1, help="Attempts around each thing.")] = 100,
    only: Annotated[int | None, typer.Option(help="The first so many of each task.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    jobs: Annotated[int, typer.Option("-j", min=1, help="Worker processes.")] = 1,
    untold: Annotated[
        bool, typer.Option(help="Draw a told flow also as if it were not, last of all.")
    ] = True,
    out: Annotated[Path, typer.Option("-o", help="Folder of the results.")] = Path(__file__).parent
    / "around",
) -> None:
    """Draw around scaffolds, fragments and leads, and write `results.json` and `table.md`."""
    torch.set_num_threads(1)
    base = MoleculeFlow.from_pretrained(flow)
    made: dict[str, Any] = {
        "config": {"flow": flow, "n": n, "only": only},
        "weights_sha256": base.card.get("weights_sha256"),
    }
    file = out / "results.json"
    earlier = read_record(file) or {}
    rows = []
    if all(earlier.get(key) == value for key, value in made.items()):
        rows = [Row(**{k: _number(v) for k, v in row.items()}) for row in earlier["rows"]]
    made["versions"] = versions()
    made["hardware"] = f"{platform.machine()}, 1 thread, {jobs} jobs"
    there = {(row.task, row.name, row.form) for row in rows}
    out.mkdir(parents=True, exist_ok=True)

    def save(complete: bool) -> None:
        found = figures(rows)
        told = {"complete": complete, "figures": found, "rows": [asdict(row) for row in rows]}
        write_json(file, {**made, **told})
        write_file(out / "table.md", table(found))

    for of, make in asked(base, n, only, jobs, seed, untold):
        if of not in there:
            rows.append(replace(make(), seed=seed, commit=commit()))
            print(rows[-1], flush=True)
            save(False)
    save(True)
    print((out / "table.md").read_text())


def _number(value: Any) -> Any:
    return float("nan") if value is None else value


def figures(rows: list[Row]) -> dict[str, dict[str, Any]]:
    """Means over the drugs with 95 % intervals, by task and form: a drug is what is resampled.

    Of plain draws it is a molecule. What is relative to them takes their share as it was measured.
    """
    of_molecules: dict[str, Callable[[Row], tuple[int, int]]] = {
        "valid": lambda r: (r.valid, r.n),
        "unique": lambda r: (r.unique, r.valid),
        "PoseBusters": lambda r: (r.posebusters, r.checked),
    }
    shares: dict[str, Callable[[Row], float]] = {
        "valid": lambda r: r.valid / r.n if r.n else np.nan,
        "unique": lambda r: r.unique / r.valid if r.valid else np.nan,
        "core": lambda r: r.kept / r.valid if r.valid else np.nan,
        "every place taken": lambda r: r.filled / r.valid if r.valid else np.nan,
        "in place": lambda r: r.near / r.n if r.n else np.nan,
        "PoseBusters": lambda r: r.posebusters / r.checked if r.checked else np.nan,
        "similarity": lambda r: r.similarity,
        "cost": lambda r: r.ratio,
    }
    of_task = {
        "scaffolds": ("valid", "unique", "core", "every place taken", "PoseBusters"),
        "linkers": ("valid", "unique", "core", "every place taken", "in place", "PoseBusters"),
        "plain": ("valid", "unique", "PoseBusters"),
        "leads": ("valid", "unique", "similarity"),
        "cost": ("cost",),
    }
    plain = next((row for row in rows if row.task == "plain"), None)
    found: dict[str, dict[str, Any]] = {}
    for task, form in dict.fromkeys((row.task, row.form) for row in rows):
        some = [row for row in rows if (row.task, row.form) == (task, form)]
        told: dict[str, Any] = {"drugs": len(some), "n": sum(row.n for row in some)}
        for name in of_task[task]:
            values = np.array([shares[name](row) for row in some])
            if task == "plain":
                part, whole = of_molecules[name](some[0])
                values = np.arange(whole) < part
            told[name] = asdict(bootstrap(values))
            if plain is not None and name in ("valid", "PoseBusters") and task != "plain":
                told[f"{name}, relative"] = asdict(bootstrap(values / shares[name](plain)))
        if task in ("scaffolds", "linkers"):
            told["largest RMSD"] = float(np.nanmax([row.rmsd for row in some] + [0.0]))
            told["drug found"] = sum(row.found for row in some)
            told["libraries without a molecule"] = sum(row.valid == 0 for row in some)
            told["molecules of a wrong size"] = sum(row.resized for row in some)
        if task == "plain" and plain is not None:
            hits = np.array(list(plain.scaffolds.values())) / plain.n
            told["has the scaffold"] = asdict(bootstrap(hits))
            told["scaffolds never drawn"] = int((hits == 0).sum())
        found[f"{task}, {form}"] = told
    varied = [[r.similarity for r in rows if (r.task, r.name) == ("leads", name)] for name in DRUGS]
    if any(varied):
        found["leads"] = {"falls at each step": sum(_falls(s) for s in varied if s)}
    return found


def _falls(values: list[float]) -> bool:
    return all(after < before for before, after in itertools.pairwise(values))


def table(found: dict[str, dict[str, Any]]) -> str:
    """One line for each figure."""
    lines = ["| | figure | value |", "|---|---|---|"]
    for of, told in found.items():
        for name, value in told.items():
            text = f"{value:g}" if not isinstance(value, dict) else (
                f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
            )  # fmt: skip
            lines.append(f"| {of} | {name} | {text} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
