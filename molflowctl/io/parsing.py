"""From the text of a molecule, a SMILES or a MOL block, to the molecule or to why it is none.

Nothing that RDKit raises leaves this file. What is no molecule is refused and not guessed at: query
atoms and bonds, R groups and other attachment points, repeat units of polymers, positions that
vary.

A drawing whose header says 3D is read as the drawing that it is (`is_flat_drawing`), so that its
wedges count and its coordinates do not pass for a geometry.
"""

from __future__ import annotations

import io
import re
from typing import NamedTuple

import numpy as np
from rdkit import Chem, rdBase

from molflowctl.chem.geometry import COVALENT_RADII
from molflowctl.chem.spin import declare, said_by_extension

__all__ = [
    "FLAT",
    "LARGE_BLOCK",
    "LARGE_SMILES",
    "LONGEST_SMILES",
    "MOST_ATOMS",
    "MOST_RINGS",
    "Parsed",
    "is_flat_drawing",
    "parse_block",
    "parse_smiles",
    "split_smiles",
]

LONGEST_SMILES = 20_000  # characters
# Up to here RDKit sanitises, canonicalises and finds rings in under a second and 260 MB, whatever
# the graph. One ring of 5,000 atoms takes 12 s, 1,000 atoms with 1,000 rings take 6 s and 2.6 GB,
# and from some 10,000 atoms on the recursion of its canonical SMILES ends the process.
MOST_ATOMS = 1_000  # heavy ones: hydrogens at the end of a bond cost nothing
MOST_RINGS = 500  # independent ones: bonds - atoms + fragments
# Texts above these may cost RDKit time or the process: who reads files has them read elsewhere.
LARGE_SMILES, LARGE_BLOCK = 2_000, 90_000
_WITH_HYDROGENS = 4  # times as many atoms
_BYTES = 30  # of a MOL block an atom with its bond takes, at least

FLAT = "a drawing: all its atoms are in one plane, though its header says 3D"
_FLAT = 1e-3  # angstrom
_ALIKE = 0.005  # spread of the bond lengths of a drawing, as a share of their mean
_DUMMY = Chem.MolFromSmarts("[#0]")
_END = re.compile(r"\s+|,\s*")
_CX = re.compile(r"\|[^|]*\|")
_SMARTS_ATOM = re.compile(r"\[\d*#\d+[^\]]*\]")
# RDKit keeps a mass number in 16 bits: [65536C] would be a plain carbon.
_NO_ISOTOPE = re.compile(r"(?:\[|\bMASS=)(\d{4,})")
_GROUP_LABEL = re.compile(r"_(R|AP)\d+")  # of CXSMILES
_REPEATED = {"SRU", "MON", "MER", "COP", "CRO", "MOD", "GRA", "ANY", "MIX"}


class Parsed(NamedTuple):
    """A sanitised molecule, or None and in `error` why; `note` says what it was taken for."""

    mol: Chem.Mol | None
    error: str = ""
    note: str = ""


def split_smiles(text: str) -> tuple[str, str, str]:
    """SMILES, CXSMILES extension with its bars, and name of a line; the last two may be empty.

    White space ends the SMILES, and so does a comma, which no SMILES has.
    """
    fields = _END.split(text.strip(), maxsplit=1)
    smiles, rest = [*fields, ""][:2]
    if found := _CX.match(rest):
        return smiles, found[0], rest[found.end() :].strip()
    return smiles, "", rest.strip()


def parse_smiles(smiles: str, extension: str = "") -> Parsed:
    """The molecule of a SMILES, without conformer; hydrogens as they are written.

    extension: of CXSMILES, with its bars: enhanced stereo, radicals with their spin and labels
        count, coordinates do not.
    """
    if not smiles:
        return Parsed(None, "no SMILES")
    if len(smiles) > LONGEST_SMILES:
        return Parsed(
            None,
            f"a SMILES of {len(smiles):,} characters; at most {LONGEST_SMILES:,} are read",
        )
    if not smiles.isascii() or not smiles.isprintable():
        return Parsed(None, f"not a SMILES: {_short(smiles)}")
    if found := _SMARTS_ATOM.search(smiles):
        return Parsed(None, f"{found[0]} is a query of SMARTS, not an atom of SMILES")
    if found := _NO_ISOTOPE.search(smiles):
        return Parsed(None, _no_isotope(found[1]))
    try:
        with rdBase.BlockLogs():
            return _smiles(smiles, extension)
    except Exception:  # RDKit's exceptions have no class in common, nor a message for users
        return Parsed(None, f"not a molecule that RDKit can build: {_short(smiles)}")


def _smiles(smiles: str, extension: str) -> Parsed:
    if len(smiles) > MOST_ATOMS:
        raw = Chem.MolFromSmiles(smiles, sanitize=False)
        if raw is not None and (many := _too_many(raw)):
            return Parsed(None, many)
    settings = Chem.SmilesParserParams()
    settings.removeHs = True
    settings.allowCXSMILES, settings.strictCXSMILES = bool(extension), True
    mol = Chem.MolFromSmiles(f"{smiles} {extension}" if extension else smiles, settings)
    if mol is None:
        settings.sanitize, settings.removeHs, settings.allowCXSMILES = False, False, False
        raw = Chem.MolFromSmiles(smiles, settings)
        if raw is None:
            return Parsed(None, f"not a SMILES: {_short(smiles)}")
        if extension and Chem.MolFromSmiles(smiles) is not None:
            return Parsed(None, f"its CXSMILES extension cannot be read: {_short(extension)}")
        return Parsed(None, _problems(raw))
    if "~" in smiles and any(b.GetBondType() == Chem.BondType.UNSPECIFIED for b in mol.GetBonds()):
        return Parsed(None, "the bond ~ is a query, not a bond")
    # Only what the text can hold is looked for, which is a third of the time.
    if ("*" in smiles or extension) and (reason := _refusal(mol, bool(extension))):
        return Parsed(None, reason)
    if extension:
        mol.RemoveAllConformers()
        declare(mol, said_by_extension(extension))
    return Parsed(mol)


def parse_block(text: bytes, tags: bytes = b"") -> Parsed:
    """The molecule of a MOL block, title and all, in UTF-8; hydrogens as they are in it.

    tags: of the SDF record, for those that RDKit lays on the atoms.
    """
    try:
        with rdBase.BlockLogs():
            return _block(text, tags)
    except Exception:  # RDKit's exceptions have no class in common, nor a message for users
        return Parsed(None, "not a molecule that RDKit can build")


def _block(text: bytes, tags: bytes) -> Parsed:
    record = text + b"\n" + tags + b"\n$$$$\n"
    if b"MASS=" in text and (found := _NO_ISOTOPE.search(text.decode(errors="replace"))):
        return Parsed(None, _no_isotope(found[1]))
    if len(text) > _BYTES * MOST_RINGS:
        raw = _first(record, sanitize=False)
        if raw is not None and (many := _too_many(raw)):
            return Parsed(None, many)
    mol = _first(record, sanitize=True)
    if mol is None:
        raw = _first(record, sanitize=False)
        return Parsed(None, _problems(raw) if raw is not None else "not a readable MOL block")
    if reason := _refusal(mol, b"M  STY" in text or b"M  V30" in text):
        return Parsed(None, reason)
    if is_flat_drawing(mol) and np.ptp(mol.GetConformer().GetPositions()[:, 2]) >= _FLAT:
        return Parsed(_laid_flat(mol), "", FLAT)
    if is_flat_drawing(mol):
        title, program, rest = text.split(b"\n", 2)
        drawn = _first(b"\n".join([title, program.replace(b"3D", b"2D"), rest, b"$$$$\n"]), True)
        if drawn is not None:
            drawn.GetConformer().Set3D(False)
            return Parsed(drawn, "", FLAT)
    return Parsed(mol)


def _first(record: bytes, sanitize: bool) -> Chem.Mol | None:
    supplier = Chem.ForwardSDMolSupplier(io.BytesIO(record), sanitize=sanitize, removeHs=False)
    return next(iter(supplier), None)


def is_flat_drawing(mol: Chem.Mol) -> bool:
    """Whether a conformer that says 3D is a drawing: flat, where no geometry would be.

    All atoms have one z, and hydrogens are left out, or an atom has four neighbours, or a bond is
    not as long as bonds are. What shows all its hydrogens and may well be flat, such as benzene or
    water, is a geometry. In another plane hydrogens may be left out, as in a crystal's benzene;
    there it is a drawing also if an sp3 atom with three neighbours is flat, or all bonds are of one
    length, double and single ones alike.
    """
    if mol.GetNumConformers() == 0 or not mol.GetConformer().Is3D() or mol.GetNumAtoms() < 2:
        return False
    x = mol.GetConformer().GetPositions()
    laid = np.ptp(x[:, 2]) < _FLAT
    if not laid and not _spread(x)[2] < _FLAT:
        return False
    if any(atom.GetDegree() > 3 or (laid and atom.GetTotalNumHs()) for atom in mol.GetAtoms()):
        return True
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    ends = np.array([[b.GetBeginAtomIdx(), b.GetEndAtomIdx()] for b in mol.GetBonds()], int)
    i, j = ends.reshape(-1, 2).T
    lengths = np.linalg.norm(x[i] - x[j], axis=1)
    ratio = lengths / (COVALENT_RADII[numbers[i]] + COVALENT_RADII[numbers[j]])
    if ((ratio < 0.75) | (ratio > 1.25)).any():
        return True
    # Beyond: not of one z, hydrogens left out. Acetylene lies in every plane.
    if laid or _spread(x)[1] < _FLAT or not any(atom.GetTotalNumHs() for atom in mol.GetAtoms()):
        return False
    if any(
        atom.GetDegree() == 3 and atom.GetHybridization() == Chem.HybridizationType.SP3
        for atom in mol.GetAtoms()
    ):
        return True
    kinds = {bond.GetBondType() for bond in mol.GetBonds()}
    return len(kinds) > 1 and bool(np.ptp(lengths) < _ALIKE * lengths.mean())


def _spread(x: np.ndarray) -> np.ndarray:
    """How far positions reach from their mean along its three axes, angstrom, falling."""
    found = np.linalg.svd(x - x.mean(0), compute_uv=False) / np.sqrt(len(x))
    return np.pad(found, (0, 3 - len(found)))


def _laid_flat(mol: Chem.Mol) -> Chem.Mol:
    """A drawing in another plane, turned to that of x and y.

    Its wedges are lost: nothing says from which side it was seen. Double bonds keep their sides.
    """
    drawn = Chem.Mol(mol)
    x = drawn.GetConformer().GetPositions()
    x -= x.mean(0)
    axes = np.linalg.svd(x, full_matrices=False)[2]
    turned = np.zeros_like(x)
    turned[:, :2] = x @ axes[:2].T
    drawn.GetConformer().SetPositions(turned)
    drawn.GetConformer().Set3D(False)
    for atom in drawn.GetAtoms():
        atom.SetChiralTag(Chem.CHI_UNSPECIFIED)
    Chem.AssignStereochemistry(drawn, cleanIt=True, force=True)
    return drawn


def _too_many(mol: Chem.Mol) -> str:
    n, heavy = mol.GetNumAtoms(), mol.GetNumHeavyAtoms()
    if heavy > MOST_ATOMS or n > _WITH_HYDROGENS * MOST_ATOMS:
        of, number = ("heavy atoms", heavy) if heavy > MOST_ATOMS else ("atoms", n)
        return f"{number:,} {of}; at most {MOST_ATOMS:,} heavy ones are read"
    rings = mol.GetNumBonds() - n + len(Chem.GetMolFrags(mol))
    return f"{rings:,} rings; at most {MOST_RINGS:,} are read" if rings > MOST_RINGS else ""


def _refusal(mol: Chem.Mol, groups: bool) -> str:
    """Why what was read is no single molecule; empty if it is one.

    groups: the text may hold substance groups, link nodes or bonds that end somewhere in a ring.
    """
    if mol.HasQuery():
        for atom in mol.GetAtoms():
            if atom.HasQuery():
                stands = "stands for more than one kind of atom"
                return f"atom {atom.GetIdx() + 1} is a query, {_smarts(atom)}, which {stands}"
        for bond in mol.GetBonds():
            if bond.HasQuery():
                ends = f"{bond.GetBeginAtomIdx() + 1} and {bond.GetEndAtomIdx() + 1}"
                return f"the bond between the atoms {ends} is a query, not a bond"
    for (index,) in mol.GetSubstructMatches(_DUMMY, maxMatches=1):
        return f"atom {index + 1} is an R group or attachment point{_label(mol, index)}, no atom"
    if not groups:
        return ""
    for atom in mol.GetAtoms():
        if atom.HasProp("atomLabel") and _GROUP_LABEL.fullmatch(atom.GetProp("atomLabel")):
            named = _label(mol, atom.GetIdx())
            return f"atom {atom.GetIdx() + 1} is an R group or attachment point{named}, no atom"
    for group in Chem.GetMolSubstanceGroups(mol):
        if group.HasProp("TYPE") and group.GetProp("TYPE") in _REPEATED:
            return "it has the repeat unit of a polymer, or a mixture, which is no molecule"
    if mol.HasProp("_molLinkNodes"):
        return "it has a unit that repeats a number of times (LINKNODE), which is no molecule"
    for bond in mol.GetBonds():
        if bond.HasProp("_MolFileBondEndPts"):
            return "a bond ends at any of several atoms, which is no molecule"
    return ""


def _smarts(atom: Chem.Atom) -> str:
    try:
        return str(atom.GetSmarts())
    except RuntimeError:  # some queries have no SMARTS
        return "of a MOL block"


def _no_isotope(digits: str) -> str:
    return f"{_short(digits)[1:-1]} is no mass number: an isotope has at most three digits"


def _label(mol: Chem.Mol, index: int) -> str:
    atom = mol.GetAtomWithIdx(index)
    for name in ("atomLabel", "_MolFileRLabel", "dummyLabel"):
        if atom.HasProp(name):
            text = str(atom.GetPropsAsDict().get(name, ""))
            return f" ({'R' + text if text.isdigit() else text})" if text and text != "*" else ""
    return ""


def _problems(mol: Chem.Mol) -> str:
    if mol.HasQuery() and (reason := _refusal(mol, False)):
        return reason
    problems = [problem.Message() for problem in Chem.DetectChemistryProblems(mol)]
    return "; ".join(problems[:3]) or "RDKit cannot sanitise the molecule"


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}...")
