"""A receptor to dock into, and the box that is searched: a small YAML file.

    receptor: ca2.pdbqt              # beside this file
    center: [-5.8, 1.1, 16.8]        # of the box, angstrom
    size: [22, 22, 22]
    exhaustiveness: 8                # independent searches
    max_evals: 100000                # evaluations of the score in each; left out, Vina's own number
    seed: 1
    n_poses: 9
    time_limit: 300                  # seconds a ligand may take

In place of `center` and `size`, `ligand: known.sdf` and `margin: 5` put the box around a ligand
that is known to bind. `molflowctl docking prepare` writes such a file and the PDBQT from a PDB.

References:
    Eberhardt, Santos-Martins, Tillack, Forli, AutoDock Vina 1.2.0, J. Chem. Inf. Model. 61, 3891
    (2021), doi:10.1021/acs.jcim.1c00203: search, scoring function, its atom types.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from molflowctl.errors import UserError
from molflowctl.io.config import Config
from molflowctl.io.plain_files import read_plain
from molflowctl.io.reading import read_molecules
from molflowctl.io.yaml_input import read_mapping

__all__ = [
    "MARGIN",
    "DockingConfig",
    "Receptor",
    "atoms_of",
    "box_around",
    "read_config",
    "read_receptor",
]

MARGIN = 5.0
_LARGEST = 50.0  # angstrom: maps of such a box take half a gigabyte
_LIMIT = 50_000_000  # bytes of a PDBQT
_REACH = 8.0  # angstrom, beyond which Vina's scoring function is zero
# Atom types of AutoDock that Vina 1.2 reads, and metals that it takes in a receptor.
_TYPES = frozenset(
    "C,A,N,O,P,S,H,F,I,NA,OA,SA,HD,Mg,Mn,Zn,Ca,Fe,Cl,Br,Si,At,G0,G1,G2,G3,CG0,CG1,CG2,CG3,W,"  # noqa: SIM905
    "Cu,Na,K,Hg,Co,U,Cd,Ni".split(",")
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,40}")

Three = tuple[float, float, float]
Length = Annotated[float, Field(gt=0, le=_LARGEST)]


class DockingConfig(Config, command="docking prepare"):
    """What a receptor's file says."""

    receptor: str = Field(description="file of the rigid receptor, a PDBQT; beside this one")
    center: Three | None = Field(default=None, description="of the box, x y z [angstrom]")
    size: tuple[Length, Length, Length] | None = Field(
        default=None, description="of the box, x y z [angstrom]"
    )
    ligand: str | None = Field(
        default=None,
        description="in place of center and size: a file with a ligand in its place, whose atoms "
        "the box is put around",
    )
    margin: float = Field(
        default=MARGIN, ge=0, le=_LARGEST, description="around the ligand [angstrom]"
    )
    exhaustiveness: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="independent runs of the search; time grows with it [runs]",
    )
    max_evals: int | None = Field(
        default=None,
        ge=1000,
        le=2**31 - 1,
        description="in each of those, where it then ends; null for Vina's own number, some "
        "millions, which grows with the ligand [evaluations of the score]",
    )
    seed: int = Field(default=1, ge=1, le=2**31 - 1, description="of the search, from 1 on [seed]")
    n_poses: int = Field(default=9, ge=1, le=100, description="kept, the best first [poses]")
    time_limit: float = Field(
        default=300.0, gt=0, allow_inf_nan=False, description="for one ligand [seconds]"
    )
    name: str | None = Field(
        default=None, description="in the names of columns; null for the name of this file"
    )


@dataclass(frozen=True)
class Receptor:
    """A receptor with its box, all that decides a score; sent whole to worker processes.

    Attributes:
        name: in the names of columns.
        pdbqt: the text of the rigid receptor.
        center, size: of the box, angstrom.
        exhaustiveness, seed, n_poses, max_evals: of the search; None for Vina's own number of
            evaluations.
        time_limit: seconds a ligand may take, which decides no score.
    """

    name: str
    pdbqt: str
    center: Three
    size: Three
    exhaustiveness: int = 8
    seed: int = 1
    n_poses: int = 9
    time_limit: float = 300.0
    max_evals: int | None = None

    @property
    def version(self) -> int:
        """A digest of what decides scores and poses; 48 bits and never 0, as the cache wants it."""
        deciding = (
            hashlib.sha256(self.pdbqt.encode()).hexdigest(),
            *self.center,
            *self.size,
            self.exhaustiveness,
            self.seed,
            self.n_poses,
            *([] if self.max_evals is None else [self.max_evals]),  # as before there was a limit
        )
        digest = hashlib.blake2b(repr(deciding).encode(), digest_size=6).digest()
        return int.from_bytes(digest, "little") or 1

    @property
    def box(self) -> str:
        """The size of the box in words."""
        return " x ".join(f"{length:g}" for length in self.size) + " angstrom"

    @property
    def diagonal(self) -> float:
        """Of the box, angstrom."""
        return float(np.linalg.norm(self.size))


def read_receptor(path: str | Path) -> Receptor:
    """The receptor of a YAML file, checked.

    Raises:
        UserError: a setting that is wrong or missing, a receptor that is no rigid PDBQT, or a box
            that no atom of it is near.
    """
    path = Path(path)
    config = read_config(path)
    text = _text(path.parent / config.receptor, path)
    _, positions = atoms_of(text, str(path.parent / config.receptor))
    center, size = _box(config, path)
    name = config.name or path.name.split(".")[0]
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{path}: name: {name!r} cannot be part of a column's name; letters, digits, - _ and ."
        )
    outside = np.abs(positions - np.array(center)) - np.array(size) / 2
    if (outside > _REACH).any(axis=1).all():
        raise UserError(
            f"{path}: no atom of the receptor is within {_REACH:g} angstrom of the box "
            f"(center {center[0]:g} {center[1]:g} {center[2]:g}): are both in the same frame?"
        )
    return Receptor(
        name, text, center, size, config.exhaustiveness, config.seed, config.n_poses,
        config.time_limit, config.max_evals,
    )  # fmt: skip


def read_config(path: Path) -> DockingConfig:
    """The settings in a receptor's file.

    Raises:
        UserError: for a file or setting that is wrong, with its line.
    """
    if not path.is_file():
        raise UserError(
            f"no receptor file {path}: `molflowctl docking prepare` writes one from a PDB or PDBQT."
        )
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise UserError(
            f"{path} is not the YAML file of a receptor and its box: `molflowctl docking prepare "
            f"{path.name} --ligand known.sdf -o receptor.yaml` writes one."
        )
    config = DockingConfig.parse(read_mapping(path), where=str(path), file=path)
    given = (config.center is not None) + (config.size is not None)
    if given != (0 if config.ligand else 2):
        raise UserError(
            f"{path}: the box needs center and size, or a ligand with a margin, and not both."
        )
    return config


def _text(file: Path, named_in: Path) -> str:
    if file.suffix.lower() in (".pdb", ".ent", ".cif"):
        raise UserError(
            f"{named_in}: receptor: {file.name} is no PDBQT: "
            f"`molflowctl docking prepare {file.name}` makes one of a PDB."
        )
    try:
        return read_plain(file, _LIMIT).decode("ascii", errors="replace")
    except OSError as error:
        raise UserError(f"{named_in}: receptor: {file}: {error.strerror or error}.") from None


def atoms_of(text: str, file: str) -> tuple[list[str], NDArray[np.float64]]:
    """Atom types and positions (n, 3) in angstrom of a rigid receptor in PDBQT.

    Raises:
        UserError: it is none, with the line that is wrong.
    """
    types, positions = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith(("ROOT", "BRANCH", "BEGIN_RES", "TORSDOF")):
            raise UserError(
                f"{file}, line {number}: {line.split()[0]} belongs to a ligand or a flexible "
                "residue: give the PDBQT of a rigid receptor."
            )
        if not line.startswith(("ATOM", "HETATM")):
            continue
        try:
            place = [float(line[k : k + 8]) for k in (30, 38, 46)]
        except ValueError:
            place = []
        kind = line[77:].split()[0] if line[77:].split() else ""
        if len(place) < 3 or not np.isfinite(place).all():
            raise UserError(f"{file}, line {number}: no coordinates in columns 31 to 54.")
        if kind not in _TYPES:
            raise UserError(
                f"{file}, line {number}: {kind or 'nothing'!r} in columns 78 and 79 is no atom "
                "type of AutoDock: it is not a PDBQT; `molflowctl docking prepare` makes one of a "
                "PDB with hydrogens."
            )
        types.append(kind)
        positions.append(place)
    if not types:
        raise UserError(f"{file} is no PDBQT: it has no line that begins with ATOM or HETATM.")
    return types, np.array(positions)


def _box(config: DockingConfig, path: Path) -> tuple[Three, Three]:
    if config.center is not None and config.size is not None:
        return config.center, config.size
    return box_around(path.parent / str(config.ligand), config.margin)


def box_around(file: Path, margin: float) -> tuple[Three, Three]:
    """Center and size of the box around the first molecule of a file, to 0.001 angstrom.

    Args:
        margin: between its outermost atoms, hydrogens not counted, and each wall, angstrom.

    Raises:
        UserError: it cannot be read, has no coordinates in space, or makes a box that is too large.
    """
    record = next(read_molecules(file))
    if record.mol is None:
        raise UserError(f"{file}: the reference ligand cannot be read: {record.error}.")
    conformers = [c for c in record.mol.GetConformers() if c.Is3D()]
    if not conformers:
        why = f" ({record.note})" if record.note else ""
        raise UserError(
            f"{file}: the reference ligand has no coordinates in space{why}: give an SDF of it in "
            "its place."
        )
    heavy = [atom.GetIdx() for atom in record.mol.GetAtoms() if atom.GetAtomicNum() > 1]
    places = conformers[0].GetPositions()[heavy or slice(None)]
    low, high = places.min(axis=0) - margin, places.max(axis=0) + margin
    center, size = np.round((low + high) / 2, 3), np.round(high - low, 3)
    if size.max() > _LARGEST or size.min() <= 0:
        raise UserError(
            f"{file}: a box of {' x '.join(f'{s:g}' for s in size)} angstrom cannot be searched: "
            f"between 0 and {_LARGEST:g}; choose another margin."
        )
    return tuple(center.tolist()), tuple(size.tolist())
