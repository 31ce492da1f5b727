"""What the package ships of a data set, made from its prepared folders."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from rdkit import Chem, rdBase

from molflowctl.compute.parallel import WorkerPool
from molflowctl.data.datasets import MoleculeDataset
from molflowctl.errors import UserError
from molflowctl.properties.rings import ring_systems
from molflowctl.tasks.evaluation.reference import write_reference

__all__ = ["export_assets", "export_ring_systems", "export_test_smiles"]


def export_assets(folders: Sequence[str | Path], assets: str | Path | None = None) -> list[Path]:
    """Write what is shipped of a data set, from its prepared forms. Returns the files.

        NAME_train_hashes.npy      sorted hashes of the training molecules
        NAME_sizes.json            {hydrogens: {number of atoms: training molecules}}
        NAME_test_reference.npz    distributions of the test split, see `evaluation.reference`

    NAME is the name in the card, without `-explicit`. Hashes and distributions are those of the
    form with explicit hydrogens where there is one: it has every molecule of the other.

    Args:
        folders: data sets, one for each form of hydrogens that there is.
        assets: folder to write to; None: the package's own.

    Raises:
        UserError: a folder is no data set, the forms are of different data sets, of the same
            hydrogens or were split differently.
    """
    forms: dict[str, MoleculeDataset] = {}
    names: set[str] = set()
    for folder in folders:
        dataset = MoleculeDataset.load(folder)
        names.add(dataset.card["name"].removesuffix("-explicit"))
        forms[dataset.card["hydrogens"]] = dataset
    if len(names) != 1 or len(forms) != len(folders):
        raise UserError(
            "Give the forms of one data set, each once, not "
            + ", ".join(str(folder) for folder in folders)
        )
    whole = forms.get("explicit") or forms["implicit"]
    hashes = whole.train_hashes()
    if not all(np.isin(form.train_hashes(), hashes).all() for form in forms.values()):
        raise UserError(
            f"{' and '.join(str(f) for f in folders)} have different training molecules."
        )
    assets = Path(assets or Path(str(resources.files("molflowctl"))) / "assets")
    assets.mkdir(parents=True, exist_ok=True)
    parts = ("train_hashes.npy", "sizes.json", "test_reference.npz")
    files = [assets / f"{name}_{part}" for name in names for part in parts]
    np.save(files[0], hashes)
    sizes = {hydrogens: forms[hydrogens].sizes() for hydrogens in sorted(forms)}
    files[1].write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")
    write_reference(whole, files[2])
    return files


def export_ring_systems(
    smiles: Sequence[str],
    file: str | Path,
    jobs: int = 1,
    progress: Callable[[int], object] = lambda done: None,
) -> Counter[str]:
    """Write the ring systems of molecules, each once, and return how many molecules have each.

    The file is gzipped text: RDKit's version, which decides how a system is written, then one
    SMILES a line. `molflowctl.properties.rings` reads it.

    Args:
        jobs: worker processes.
        progress: called with the thousands of molecules done.
    """
    chunks = [smiles[k : k + 1000] for k in range(0, len(smiles), 1000)]
    found: Counter[str] = Counter()
    with WorkerPool(jobs) as pool:
        for outcome in pool.map(_ring_systems, chunks, chunk=1, progress=progress):
            if outcome.value is None:
                raise UserError(f"ring systems cannot be told: {outcome.error}")
            found.update(outcome.value)
    text = "\n".join([rdBase.rdkitVersion, *sorted(found)]) + "\n"
    Path(file).write_bytes(gzip.compress(text.encode(), mtime=0))
    return found


def export_test_smiles(smiles: Sequence[str], file: str | Path, n: int = 10_000) -> None:
    """Write `n` of the test molecules, drawn at random, for `evaluation.likeness`."""
    chosen = np.random.default_rng(0).permutation(len(smiles))[:n]
    text = "".join(f"{smiles[k]}\n" for k in chosen)
    Path(file).write_bytes(gzip.compress(text.encode(), mtime=0))


def _ring_systems(smiles: Sequence[str]) -> Counter[str]:
    """How many of some molecules have each ring system."""
    found: Counter[str] = Counter()
    with rdBase.BlockLogs():
        for text in smiles:
            if (mol := Chem.MolFromSmiles(text)) is not None:
                found.update(set(ring_systems(mol)))
    return found
