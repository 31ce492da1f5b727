"""AutoDock Vina in a process of its own, one for each receptor, kept as long as ligands come.

Vina's maps of a box take seconds to make, are kept for all ligands, and cannot be sent from one
process to another. A ligand that hangs or ends the process (Vina is C++) costs itself alone: its
process is replaced. The time limit of a receptor's file counts from the ligand's own begin, without
the maps. A worker that docks is not held to the time limit of its run meanwhile.
"""

from __future__ import annotations

import ctypes
import importlib.util
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from molflowctl.chem.graphs import EXACT
from molflowctl.compute.serving import own_limit
from molflowctl.compute.workers import Outcome, WorkerPool
from molflowctl.errors import UserError
from molflowctl.properties.docking.ligand import ligand_of, pdbqt_of, poses_in, with_conformer
from molflowctl.properties.docking.receptor import Receptor
from molflowctl.properties.registry import PropertyError

__all__ = ["check_installed", "dock"]

Array = NDArray[np.float64]

_RANGE = 5.0  # kcal/mol above the best, poses up to which are kept
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
_SLACK = 0.5  # angstrom that an atom may lie outside the box: more than a step of the grid
_servers: dict[int, WorkerPool] = {}  # by receptor
# Of each receptor and time limit, what was docked last.
_last: dict[tuple[int, float], tuple[bytes, Outcome[Array | str]]] = {}
_vina: Any = None  # of a server: with receptor and maps


def check_installed() -> None:
    """Raise `UserError` where Vina or meeko is missing."""
    missing = [name for name in ("vina", "meeko", "gemmi") if not importlib.util.find_spec(name)]
    if missing:
        raise UserError(
            f"docking needs {' and '.join(missing)}, not installed here: "
            "pip install 'molflowctl[docking]'"
        )


def dock(receptor: Receptor, mol: Chem.Mol) -> Array:
    """Scores and positions of the poses of a normalised molecule, the best first.

    Returns:
        (poses, 1 + 3 atoms): kcal/mol, then x y z in angstrom of each atom of `ligand_of(mol)`.

    Raises:
        PropertyError: a fact about this molecule: it does not fit the box, Vina does not know it.
        TimeoutError: it took longer than the receptor's time limit.
        RuntimeError: its process was killed.
    """
    ligand = ligand_of(mol)
    key, binary = (receptor.version, receptor.time_limit), ligand.ToBinary(EXACT)
    if key not in _last or _last[key][0] != binary:  # else: of a score, and now its efficiency
        server = _servers.get(receptor.version)
        if server is None:
            server = WorkerPool(1, isolate=True, initializer=_begin, initargs=(receptor,))
            _servers[receptor.version] = server
        with own_limit():
            (outcome,) = server.map(_dock, [binary], timeout=receptor.time_limit)
        _last[key] = binary, outcome
    outcome = _last[key][1]
    if outcome.error is not None:
        if outcome.error.startswith("timed out"):
            raise TimeoutError(f"docking {outcome.error}")
        raise RuntimeError(f"docking failed: {outcome.error}")
    if isinstance(outcome.value, str):
        raise PropertyError(outcome.value)
    assert outcome.value is not None
    return outcome.value


def _begin(receptor: Receptor) -> None:
    """Make the maps, in a server."""
    global _vina
    from vina import Vina

    if sys.platform == "linux":
        # Vina holds the interpreter's lock while it docks: the thread that watches the parent
        # would learn of its death when that ligand is done.
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    vina = Vina(sf_name="vina", cpu=1, seed=receptor.seed, verbosity=0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "receptor.pdbqt"
        file.write_text(receptor.pdbqt)
        vina.set_receptor(str(file))
    # Without a ligand, so that there is a map for every atom type.
    vina.compute_vina_maps(list(receptor.center), list(receptor.size))
    _vina = vina, receptor


def _dock(binary: bytes) -> Array | str:
    """As `dock`, in a server; a text is the reason of a `PropertyError`."""
    vina, receptor = _vina
    try:
        with rdBase.BlockLogs():
            ligand = with_conformer(Chem.Mol(binary))
            length = _length(ligand)
            if length > receptor.diagonal:
                return (
                    f"it does not fit the box of {receptor.box}: it is {length:.0f} angstrom long"
                )
            text = pdbqt_of(ligand)
    except PropertyError as error:
        return str(error)
    vina.set_ligand_from_string(text)
    vina.dock(
        exhaustiveness=receptor.exhaustiveness,
        n_poses=receptor.n_poses,
        max_evals=receptor.max_evals or 0,  # 0: Vina's own number
    )
    scores = vina.energies(n_poses=receptor.n_poses, energy_range=_RANGE)[:, 0]
    models = vina.poses(n_poses=receptor.n_poses, energy_range=_RANGE)
    poses = poses_in(models, ligand, text)
    heavy = [atom.GetIdx() for atom in ligand.GetAtoms() if atom.GetAtomicNum() > 1]
    beyond = np.abs(poses[0][heavy] - np.array(receptor.center)) - np.array(receptor.size) / 2
    if beyond.max() > _SLACK:
        return f"it does not fit the box of {receptor.box}"
    return np.column_stack([scores, poses.reshape(len(poses), -1)])


def _length(ligand: Chem.Mol) -> float:
    """The largest distance between two heavy atoms, angstrom."""
    heavy = [atom.GetIdx() for atom in ligand.GetAtoms() if atom.GetAtomicNum() > 1]
    places = ligand.GetConformer().GetPositions()[heavy]
    return float(np.linalg.norm(places[:, None] - places[None], axis=2).max())
