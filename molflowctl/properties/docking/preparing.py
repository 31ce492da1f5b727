"""A receptor's file from a PDB, a PDBQT or a target of dockstring, and a ligand or numbers.

A PDB is prepared by meeko: hydrogens that it lacks are added by the templates of its residues, and
those on carbon are folded in. Waters, ligands and everything else that is no part of the receptor
are left out and counted; metal ions that meeko has templates for stay. Nothing is fetched.

References:
    Meeko: molecule parameterization and software interoperability for docking and beyond,
    J. Chem. Inf. Model. (2025), doi:10.1021/acs.jcim.5c02271; Garcia-Ortegon, Simm,
    Tripp, Hernandez-Lobato, Bender, Bacallado, DOCKSTRING, J. Chem. Inf. Model. 62, 3486 (2022),
    doi:10.1021/acs.jcim.1c01334: 58 targets of DUD-E with boxes.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rdkit import rdBase

from molflowctl.errors import UserError
from molflowctl.io.atomic import write_files
from molflowctl.io.plain_files import read_plain
from molflowctl.properties.docking.engine import check_installed
from molflowctl.properties.docking.receptor import DockingConfig, atoms_of, box_around

__all__ = ["TARGET", "Prepared", "prepare"]

TARGET = "dockstring:"
_LIMIT = 100_000_000  # bytes of a PDB
_WATERS = frozenset(["HOH", "WAT", "DOD", "SOL"])


@dataclass
class Prepared:
    """What was made: of how many atoms, in which box, and what was left out of it by name."""

    atoms: int
    center: tuple[float, float, float]
    size: tuple[float, float, float]
    left_out: Counter[str] = field(default_factory=Counter)


def prepare(
    receptor: str,
    out: Path,
    *,
    ligand: str | None = None,
    center: tuple[float, float, float] | None = None,
    size: tuple[float, float, float] | None = None,
    skip_residues: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> Prepared:
    """Write a receptor's YAML file and, unless a PDBQT was given, its PDBQT beside it.

    Args:
        receptor: a `.pdb` or `.pdbqt` file, or `dockstring:NAME`, which brings a box of its own.
        out: the YAML file.
        ligand: file of a ligand in its place, to put the box around.
        center, size: of the box, angstrom, in place of a ligand; of a target, what is to differ.
        skip_residues: leave out residues that meeko cannot prepare, in place of an error.
        settings: of `DockingConfig`: margin, exhaustiveness, max_evals, seed, n_poses, time_limit.

    Raises:
        UserError: anything that cannot be used, or an output that is there.
    """
    if out.suffix not in (".yaml", ".yml"):
        raise UserError(f"-o {out}: the receptor's file ends in .yaml.")
    asked = DockingConfig.parse({"receptor": "-", **settings}, where="docking prepare")
    left_out: Counter[str] = Counter()
    made: Path | None = out.with_suffix(".pdbqt")
    if receptor.startswith(TARGET):
        text, box = _target(receptor.removeprefix(TARGET))
    else:
        file = Path(receptor)
        text, box = _read(file), None
        if file.suffix.lower() == ".pdbqt":
            made = None
        else:
            check_installed()
            text, left_out = _from_pdb(text, file, skip_residues)
    kinds, _ = atoms_of(text, str(made or receptor))
    if ligand is not None:
        if center is not None or size is not None:
            raise UserError("the box: give --ligand, or --center and --size, and not both.")
        box = box_around(Path(ligand), asked.margin)
    elif box is not None:
        box = center or box[0], size or box[1]
    elif center is not None and size is not None:
        box = center, size
    else:
        raise UserError("where is the box? Give --ligand known.sdf, or --center and --size.")
    there = [path for path in (out, made) if path and path.exists()]
    if there and not overwrite:
        raise UserError(f"{there[0]} exists: --overwrite replaces it.")
    named = made.name if made else os.path.relpath(receptor, out.parent)
    config = DockingConfig.parse(
        {**settings, "receptor": named, "center": box[0], "size": box[1]}, where="docking prepare"
    )
    kept = {k: v for k, v in config.model_dump(mode="json").items() if v is not None}
    del kept["margin"]
    contents: dict[Path, bytes | str] = {
        out: yaml.safe_dump(kept, sort_keys=False, default_flow_style=None)
    }
    if made:
        contents[made] = text
    write_files(contents)
    return Prepared(len(kinds), *box, left_out)


def _read(file: Path) -> str:
    if file.suffix.lower() not in (".pdb", ".ent", ".pdbqt"):
        raise UserError(f"{file}: a receptor is a .pdb, a .pdbqt or {TARGET}NAME.")
    try:
        return read_plain(file, _LIMIT).decode("ascii", errors="replace")
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}.") from None


def _from_pdb(text: str, file: Path, skip_residues: bool) -> tuple[str, Counter[str]]:
    """PDBQT of a PDB, and the residues that were left out, counted by name."""
    from meeko import (
        MoleculePreparation,
        PDBQTWriterLegacy,
        Polymer,
        PolymerCreationError,
        ResidueChemTemplates,
    )

    templates = ResidueChemTemplates.create_from_defaults()
    known = {*templates.residue_templates, *templates.ambiguous}
    lines, left = _parts(text, known)
    unknown = sorted({line[17:20].strip() for line in lines} - known)
    if unknown and not skip_residues:
        raise UserError(
            f"{file}: meeko has no template for {', '.join(unknown)}: mend the structure, or leave "
            "such residues out with --skip-residues."
        )
    left += Counter(_residues([line for line in lines if line[17:20].strip() in unknown]).values())
    lines = [line for line in lines if line[17:20].strip() not in unknown]
    if not lines:
        raise UserError(f"{file} holds no residue of a protein or nucleic acid.")
    logging.getLogger("meeko").setLevel(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            rdBase.BlockLogs(),
        ):
            polymer = Polymer.from_pdb_string(
                "\n".join(lines), templates, MoleculePreparation(), allow_bad_res=skip_residues,
                default_altloc="A",
            )  # fmt: skip
    except PolymerCreationError as error:
        said = re.findall(r"\['[^]]*'\]", str(error))
        raise UserError(
            f"{file}: meeko cannot prepare "
            + (f"residues {', '.join(said)[:300]}" if said else " ".join(str(error).split())[:300])
            + ": atoms are missing or lie too close; mend them, or leave such residues out with "
            "--skip-residues."
        ) from None
    names = _residues(lines)
    for key in polymer.get_ignored_monomers():
        left[f"{names.get(key, '')} {key}".strip()] += 1
    rigid, _ = PDBQTWriterLegacy.write_string_from_polymer(polymer)
    return rigid, left


def _parts(text: str, known: set[str]) -> tuple[list[str], Counter[str]]:
    """Lines of the first model's receptor, and residues that are none of it, by name."""
    lines: list[str] = []
    others: list[str] = []
    for line in text.splitlines():
        if line.startswith("ENDMDL"):
            break
        name = line[17:20].strip()
        if line.startswith("ATOM") and name not in _WATERS:
            lines.append(line)
        elif line.startswith(("ATOM", "HETATM")):
            # An ion is one atom by the name of its element.
            ion = name in known and name == line[12:16].strip().upper() and name not in _WATERS
            (lines if ion else others).append(line)
    return lines, Counter(_residues(others).values())


def _residues(lines: list[str]) -> dict[str, str]:
    """Names by chain and number, `A:12`."""
    return {f"{line[21].strip()}:{line[22:27].strip()}": line[17:20].strip() for line in lines}


def _target(name: str) -> tuple[str, tuple[Any, Any]]:
    """PDBQT and box of a target of dockstring, from its installed package; nothing is imported."""
    try:
        files = importlib.metadata.distribution("dockstring").files or []
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"{TARGET}{name} is in the package dockstring: pip install --no-deps dockstring."
        ) from None
    found = {Path(file).name: Path(str(file.locate())) for file in files}
    targets = sorted(n.removesuffix("_target.pdbqt") for n in found if n.endswith("_target.pdbqt"))
    if name not in targets:
        raise UserError(f"no target {name} in dockstring; there are {', '.join(targets)}.")
    numbers = dict(re.findall(r"(\w+)\s*=\s*([-\d.]+)", found[f"{name}_conf.txt"].read_text()))
    center, size = (tuple(float(numbers[f"{w}_{a}"]) for a in "xyz") for w in ("center", "size"))
    return found[f"{name}_target.pdbqt"].read_text(), (center, size)
