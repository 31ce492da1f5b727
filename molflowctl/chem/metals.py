"""Complexes of metals: molecules whose ligands stand around a metal, however they are drawn.

A complex may be drawn in pieces, ferrocene as an iron ion beside two rings that hold a charge. It
is no salt then: no piece of it is the molecule, and no field knows where the pieces go. A metal
atom that has no bond is the middle of a complex if it has no charge, or if beside it there is

    carbon with a charge       cyclopentadienides, carbonyls, cyanides, carbenes, alkyls
    two charged nitrogens      porphyrins, phthalocyanines, corroles
    two acetates on amines     EDTA, DTPA, DOTA
    an uncharged donor         amines, pyridines, nitriles, phosphines, thioethers
    an uncharged hydrocarbon   benzene, alkenes, dienes

Acetates, sulfates, chlorides, hydrates and their like are salts: iron fumarate, copper sulfate.
"""

from __future__ import annotations

from functools import cache

from rdkit import Chem

__all__ = ["TRANSITION_METALS", "metal_complex"]

# Groups 3 to 11 and the f block: which way their ligands point depends on the metal's electrons.
TRANSITION_METALS = frozenset([*range(21, 30), *range(39, 48), *range(57, 80), *range(89, 112)])
_MIDDLES = TRANSITION_METALS | {30, 48, 80}  # zinc, cadmium and mercury have ligands, too
_CHARGED_CARBON, _CHARGED_NITROGEN = "[#6;-]", "[#7;-]"
_CHELATING = "[NX3;+0;!H2]CC(=O)[O-]"
# Not of amides, sulfonamides and nitro groups, whose lone pair is engaged.
_DONORS = (
    "[NX3;+0;!$(N-C=[O,S,N]);!$(N-S=O);!$(N-[#7]=O)]", "[nX2;+0]", "[NX2;+0;$(N=[#6])]",
    "[NX1;+0]#C", "[PX3;+0]", "[AsX3;+0]", "[SX2;H0;+0;!$(S-C=[O,S])]",
)  # fmt: skip
_UNSATURATED = "[#6]=,:,#[#6]"


def metal_complex(mol: Chem.Mol) -> str:
    """The metal in the middle of a complex that is drawn in pieces, `iron (Fe)`; else empty.

    Args:
        mol: sanitised; hydrogens explicit or not.
    """
    bare = [
        atom
        for atom in mol.GetAtoms()
        if atom.GetAtomicNum() in _MIDDLES
        and not any(n.GetAtomicNum() > 1 for n in atom.GetNeighbors())
    ]
    if not bare:
        return ""
    others = [
        piece
        for piece in Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False)
        if any(a.GetAtomicNum() not in (1, *_MIDDLES) for a in piece.GetAtoms())
    ]
    if not others:
        return ""
    uncharged = [atom for atom in bare if atom.GetFormalCharge() == 0]
    if not uncharged and not any(map(_is_ligand, others)):
        return ""
    middle = (uncharged or bare)[0]
    name = Chem.GetPeriodicTable().GetElementName(middle.GetAtomicNum()).lower()
    return f"{name} ({middle.GetSymbol()})"


def _is_ligand(piece: Chem.Mol) -> bool:
    """Whether a piece beside a metal ion binds to it, where an anion or a solvent would not."""
    if piece.HasSubstructMatch(_pattern(_CHARGED_CARBON)):
        return True
    if len(piece.GetSubstructMatches(_pattern(_CHELATING))) > 1:
        return True
    if len(piece.GetSubstructMatches(_pattern(_CHARGED_NITROGEN))) > 1:
        azide = _pattern("N=[N+]=[N-]")
        return not piece.HasSubstructMatch(azide)
    if Chem.GetFormalCharge(piece):
        return False
    if all(atom.GetAtomicNum() in (1, 6) for atom in piece.GetAtoms()):
        return piece.HasSubstructMatch(_pattern(_UNSATURATED))
    return any(piece.HasSubstructMatch(_pattern(donor)) for donor in _DONORS)


@cache
def _pattern(smarts: str) -> Chem.Mol:
    return Chem.MolFromSmarts(smarts)
