"""What the package ships of a data set, made from its prepared folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from molflowctl.data.datasets import MoleculeDataset
from molflowctl.errors import UserError
from molflowctl.tasks.evaluation.reference import write_reference

__all__ = ["export_assets"]


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
