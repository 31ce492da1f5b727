r"""How like known molecules a sample is, as graphs: rings, fragments, scaffolds, neighbours.

    large ring           share of molecules with a ring of seven atoms and more
    four-membered ring   share with a ring of four
    unseen ring system   share with a ring system that no molecule of MOSES' training set has
    fragments            cosine of the counts of BRICS fragments, `sum_f g_f r_f / (|g| |r|)`
    scaffolds            the same of Bemis-Murcko scaffolds
    nearest              mean Tanimoto similarity to the nearest known molecule (Morgan, radius 2)
    exact copies         share that is itself among the known molecules

`g_f` counts a fragment in the sample, `r_f` in the known molecules. What an equal draw of the known
molecules scores stands beside each, since all but the shares depend on the number of molecules.

References:
    Polykovskiy et al., Front. Pharmacol. 11, 565644 (2020) (MOSES: Frag, Scaf and SNN).
    Degen et al., ChemMedChem 3, 1503 (2008) (BRICS).
    Bemis, Murcko, J. Med. Chem. 39, 2887 (1996).
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from importlib import resources

import numpy as np
from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import BRICS, Mol
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold
from scipy import sparse

from molflowctl.chem.graphs import canonical_smiles
from molflowctl.errors import UserError
from molflowctl.properties.rings import four_membered_rings, largest_ring, unseen_ring_systems
from molflowctl.tasks.evaluation.bootstrap import Estimate, bootstrap

__all__ = ["cosine", "fragments", "likeness", "load_known", "scaffold", "with_known"]

LARGE = 7  # atoms; fewer than three in a hundred molecules of MOSES have such a ring
FEWEST = 20  # molecules for a comparison worth printing
_KNOWN = "_test_smiles.txt.gz"


def fragments(mol: Mol) -> list[str]:
    """SMILES of what remains when all BRICS bonds are cut, dummy atoms where the cuts were."""
    with rdBase.BlockLogs():
        cut = BRICS.BreakBRICSBonds(mol)
    return Chem.MolToSmiles(cut, isomericSmiles=False).split(".")


def scaffold(mol: Mol) -> str:
    """SMILES of the rings and what links them, without stereo; empty for a chain."""
    flat = Chem.Mol(mol)
    Chem.RemoveStereochemistry(flat)
    return MurckoScaffold.MurckoScaffoldSmiles(mol=flat)


def likeness(mols: Sequence[Mol], known: Sequence[Mol]) -> dict[str, Estimate]:
    """Every figure of the sample `mols` against the molecules `known`; hydrogens do not matter.

    Intervals are over the molecules of the sample. Few molecules have no figures.
    """
    if len(mols) < FEWEST:
        return {}
    heavy = [Chem.RemoveHs(mol) for mol in mols]
    names = {canonical_smiles(mol) for mol in known}
    found = {
        "large_ring": np.array([largest_ring(m) >= LARGE for m in heavy]),
        "four_ring": np.array([four_membered_rings(m) > 0 for m in heavy]),
        "unseen_ring": np.array([unseen_ring_systems(m) > 0 for m in heavy]),
        "nearest": _nearest(heavy, known),
        "copies": np.array([canonical_smiles(m) in names for m in heavy]),
    }
    return {name: bootstrap(values) for name, values in found.items()} | {
        "fragments": cosine([fragments(m) for m in heavy], [fragments(m) for m in known]),
        "scaffolds": cosine([[scaffold(m)] for m in heavy], [[scaffold(m)] for m in known]),
    }


def with_known() -> list[str]:
    """The names of data sets whose test molecules are packaged."""
    assets = resources.files("molflowctl") / "assets"
    return sorted(f.name.removesuffix(_KNOWN) for f in assets.iterdir() if f.name.endswith(_KNOWN))


def load_known(name: str) -> tuple[list[Mol], list[Mol]]:
    """Test molecules of a shipped data set, and as many others of it for what an equal draw scores.

    Raises:
        UserError: none are packaged for the name.
    """
    asset = resources.files("molflowctl") / "assets" / f"{name}{_KNOWN}"
    if not asset.is_file():
        raise UserError(f"no test molecules are packaged for {name!r}.")
    mols = [Chem.MolFromSmiles(s) for s in gzip.decompress(asset.read_bytes()).decode().split()]
    half = len(mols) // 2
    return mols[:half], mols[half:]


def _nearest(mols: Sequence[Mol], known: Sequence[Mol]) -> np.ndarray:
    generator = GetMorganGenerator(radius=2, fpSize=2048)
    others = generator.GetFingerprints(list(known), numThreads=1)
    prints = generator.GetFingerprints(list(mols), numThreads=1)
    return np.array([max(DataStructs.BulkTanimotoSimilarity(p, others)) for p in prints])


def cosine(sample: Sequence[Sequence[str]], known: Sequence[Sequence[str]]) -> Estimate:
    """Of the summed counts of words; the interval is by the infinitesimal jackknife.

    Efron, The Jackknife, the Bootstrap and Other Resampling Plans, SIAM (1982), chapter 6.
    """
    words = {w: k for k, w in enumerate(sorted({w for row in (*sample, *known) for w in row if w}))}

    def counted(rows: Sequence[Sequence[str]]) -> sparse.csr_matrix:
        places = [(i, words[w]) for i, row in enumerate(rows) for w in row if w]
        i, j = np.array(places, int).reshape(-1, 2).T
        return sparse.csr_matrix((np.ones(len(i)), (i, j)), shape=(len(rows), len(words)))

    table, target = counted(sample), np.asarray(counted(known).sum(0)).ravel()
    total = np.asarray(table.sum(0)).ravel()
    length = max(float(np.linalg.norm(total)), 1e-12)
    target = target / np.linalg.norm(target)
    value = float(total @ target / length)
    # How one molecule more of each kind would change the cosine, to first order. Resampling does
    # not serve: words that come twice by chance lengthen the vector, and every resample is too low.
    change = np.asarray(table @ (target / length - value * total / length**2), float)
    error = 1.96 * float(np.linalg.norm(change - change.mean()))
    return Estimate(value, max(value - error, 0.0), min(value + error, 1.0), len(sample))
