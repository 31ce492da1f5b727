"""The spin multiplicity `2 S + 1` of a molecule: by its number of electrons, or as declared.

An even number of electrons is a singlet (1), an odd one a doublet (2), unless something says
otherwise. How many electrons a Lewis structure leaves unpaired says nothing: a carbene is drawn
with two, and most carbenes and silylenes are singlets all the same. In rising order, these say
otherwise:

    radicals of CXSMILES, `|^4:0|`         ^3 singlet, ^4 triplet, ^6 doublet, ^7 quartet, for the
                                           atoms that follow; ^1, ^2 and ^5 leave the spin open
    `M  RAD` of a MOL block (or `RAD=`)    1 singlet, 2 doublet, 3 triplet, for one atom each
    a tag or column `multiplicity`         of the whole molecule
    the option `--multiplicity`            of every molecule of a run

RDKit writes each carbene as a triplet in `M  RAD`, whatever was meant. A file that says triplet is
taken at its word, and its record gets a note (`HIGH_SPIN`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from rdkit import Chem

__all__ = [
    "HIGH_SPIN",
    "SpinError",
    "declare",
    "declared",
    "multiplicity",
    "said_by_extension",
    "said_by_record",
    "with_spin",
]

HIGH_SPIN = (
    "computed as a triplet or higher, as its M  RAD says; RDKit writes this for every carbene: "
    "if it is a singlet, --multiplicity 1"
)

_DECLARED = "_multiplicity"  # a private property of RDKit's, which no writer puts in a file
_HIGHEST = 15
_ATOM_VALUES = re.compile(r"^M  RAD(?:[ \d]+)$", re.MULTILINE)
_CX_RADICALS = re.compile(r"\^([1-7]):(\d+(?:,\d+)*)")
_CX_LABELS = re.compile(r"\$[^$]*\$")  # text, in which a caret is no radical
_V3000_VALUES = re.compile(r"^M  V30 .* RAD=(\d)", re.MULTILINE)


class SpinError(ValueError):
    """A multiplicity that makes no sense, in itself or for this number of electrons."""


def declare(mol: Chem.Mol, value: int | None) -> None:
    """Say what the multiplicity of a molecule is, in place; None for what follows from electrons.

    Raises:
        SpinError: not a whole number from 1 to 15.
    """
    if value is None:
        mol.ClearProp(_DECLARED)
        return
    if not 1 <= value <= _HIGHEST:
        raise SpinError(f"a multiplicity is a whole number from 1 to {_HIGHEST}, not {value}")
    mol.SetIntProp(_DECLARED, value)


def declared(mol: Chem.Mol) -> int | None:
    """The multiplicity that was said for this molecule; None if it follows from its electrons."""
    return mol.GetIntProp(_DECLARED) if mol.HasProp(_DECLARED) else None


def multiplicity(mol: Chem.Mol) -> int:
    """What a calculation takes: as declared, else 1 for an even number of electrons, 2 for an odd.

    Raises:
        SpinError: what was declared does not go with the number of electrons.
    """
    if mol.NeedsUpdatePropertyCache():  # not sanitised: RDKit has not counted hydrogens yet
        mol = Chem.Mol(mol)
        mol.UpdatePropertyCache(strict=False)
    atoms = [mol.GetAtomWithIdx(index) for index in range(mol.GetNumAtoms())]
    electrons = sum(a.GetAtomicNum() + a.GetTotalNumHs() for a in atoms) - Chem.GetFormalCharge(mol)
    said = declared(mol)
    if said is None:
        return 1 + electrons % 2
    if (electrons - said) % 2 == 0 or said > electrons + 1:
        raise SpinError(f"a multiplicity of {said} does not go with {electrons} electrons")
    return said


def said_by_extension(extension: str) -> int | None:
    """What the radicals of a CXSMILES extension say; None if they leave the spin open.

    As in a record, doublets beside others couple to the lowest spin.

    References:
        ChemAxon, "ChemAxon Extended SMILES and SMARTS": ^1 monovalent, ^2 divalent, ^3 divalent
        singlet, ^4 divalent triplet, ^5 trivalent, ^6 trivalent doublet, ^7 trivalent quartet.
    """
    counts = dict.fromkeys("1234567", 0)
    for kind, atoms in _CX_RADICALS.findall(_CX_LABELS.sub("", extension)):
        counts[kind] += len(atoms.split(","))
    if not any(counts[kind] for kind in "3467"):
        return None
    doublets = counts["1"] + counts["5"] + counts["6"]
    return 1 + 2 * counts["4"] + 3 * counts["7"] + doublets % 2


def said_by_record(block: str, tags: Mapping[str, str]) -> int | None:
    """What a record says: its tag `multiplicity`, else its `M  RAD`; None if neither does.

    Two doublets in one molecule leave open how they couple: then the lowest is meant.

    Raises:
        SpinError: the tag is not a whole number from 1 to 15.
    """
    for name, text in tags.items():
        if name.strip().lower() == "multiplicity" and text.strip():
            return _whole(text.strip())
    values = [int(v) for v in _V3000_VALUES.findall(block)]
    for line in _ATOM_VALUES.findall(block):
        values += [int(v) for v in line.split()[4::2]]  # M RAD count atom value atom value ...
    values = [v for v in values if v]
    if not values:
        return None
    return 1 + 2 * values.count(3) + values.count(2) % 2


def with_spin(mol: Chem.Mol, block: str) -> str:
    """A MOL block whose radicals say what a calculation takes; RDKit writes each as a triplet.

    Arguments:
        block: as RDKit writes it of the molecule.
    """
    pairs = [a.GetIdx() for a in mol.GetAtoms() if a.GetNumRadicalElectrons() == 2]
    if not pairs or "RAD" not in block:
        return block
    try:
        value = "3" if multiplicity(mol) > 2 else "1"
    except SpinError:
        return block

    def of_line(found: re.Match[str]) -> str:
        fields = re.findall(r"....", found.group()[9:])
        fields[1::2] = [f"{value:>4}" if v.strip() == "3" else v for v in fields[1::2]]
        return found.group()[:9] + "".join(fields)

    block = re.sub(r"^(M  V30 .* RAD=)3", rf"\g<1>{value}", block, flags=re.MULTILINE)
    return re.sub(r"^M  RAD[ \d]{3}(?:[ \d]{8})+$", of_line, block, flags=re.MULTILINE)


def _whole(text: str) -> int:
    whole = re.fullmatch(r"(\d{1,9})(?:\.0*)?", text, re.ASCII)  # 1.0 is how tables write numbers
    if whole is None or not 1 <= int(whole[1]) <= _HIGHEST:
        raise SpinError(f"a multiplicity is a whole number from 1 to {_HIGHEST}, not {text[:40]!r}")
    return int(whole[1])
