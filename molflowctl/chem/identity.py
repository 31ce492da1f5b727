"""Which molecule a record is, and which part of a salt is the molecule.

Two records are the same molecule if their `identity` is equal, however they are written:

    counts           element, bond, formal charge, unpaired electron, isotope, fragment, tautomer,
                     stereo (centres, double bonds, axes, AND and OR groups of centres)
    does not count   order of the atoms, hydrogens as atoms or counted, Kekule form, atom maps,
                     title, tags, coordinates, save that these tell the hand of an axis

A labelled hydrogen (`[2H]`) is an atom of its own. Where stereo does not count by definition, as in
novelty, `stereo=False` leaves it out. Nothing else in this package decides what is the same.
"""

from __future__ import annotations

from functools import cache

from rdkit import Chem, rdBase
from rdkit.Chem.MolStandardize import rdMolStandardize

from molflowctl.chem.axial import axes_text, copy_marks
from molflowctl.chem.metals import metal_complex

__all__ = [
    "MOST_PLACINGS",
    "identity",
    "in_canonical_order",
    "normalised",
    "parent",
    "placings",
    "read_identity",
    "same_molecule",
    "unlabelled",
    "without_labels",
]

# Canonical SMILES of a molecule and of what is read back from them can differ: the last counts.
_ROUNDS = 3
MOST_PLACINGS = 1000  # of labelled atoms on a plain molecule
_PLACE = "_place"  # of an atom in the record
_AXES = " axes "


def identity(mol: Chem.Mol, *, stereo: bool = True) -> str:
    """The canonical SMILES of the molecule; with groups of centres, the canonical CXSMILES.

    Where a mark or a geometry tells the hand of an axis (`axial`), which no SMILES does, `axes` and
    the ends of each with `+` or `-` follow; `read_identity` reads it all the same.

    Args:
        mol: a sanitised molecule; it is not changed.
        stereo: False for one name of all stereoisomers. Of a molecule without isotopes this is
            RDKit's canonical non-isomeric SMILES, which the hashes of training molecules are of.

    Raises:
        ValueError: RDKit cannot sanitise the molecule.
    """
    with rdBase.BlockLogs():
        folded = _folded(mol, stereo)
        smiles = _written(folded, stereo)
        for _ in range(_ROUNDS):
            again = Chem.MolFromSmiles(smiles)
            if again is None:  # what RDKit writes but does not read
                break
            before, smiles = smiles, _written(again, stereo)
            if smiles == before or not stereo:
                break
        told = axes_text(folded) if stereo else ""
    return f"{smiles}{_AXES}{told}" if told else smiles


def normalised(mol: Chem.Mol) -> Chem.Mol:
    """The molecule alone: equal for all records of it, in the order of the atoms too.

    It has no atom maps, coordinates, title or tags; hydrogens are counted, labelled ones are atoms.

    Raises:
        ValueError: as `identity`.
    """
    return read_identity(identity(mol)) or _folded(mol, True)


def in_canonical_order(mol: Chem.Mol) -> tuple[Chem.Mol, list[int]]:
    """The normalised molecule with all its hydrogens, and where each of its atoms is in `mol`.

    What a calculation makes of it, such as a conformer, is the same for all records of a molecule,
    and is carried over to the record by the list. Groups of centres are left out.

    Args:
        mol: a sanitised molecule with all hydrogens explicit.

    Raises:
        ValueError: as `identity`, or hydrogens are missing.
    """
    with rdBase.BlockLogs():
        ordered = Chem.RWMol(mol)
        ordered.SetStereoGroups([])
        for atom in ordered.GetAtoms():
            atom.SetIntProp(_PLACE, atom.GetIdx())
        ordered = _folded(ordered, True)
        smiles = Chem.MolToSmiles(ordered)
        for _ in range(_ROUNDS):
            ordered = _reordered(ordered, smiles)
            before, smiles = smiles, Chem.MolToSmiles(ordered)
            if smiles == before:
                break
        places = [atom.GetIntProp(_PLACE) for atom in ordered.GetAtoms()]
        full = Chem.AddHs(ordered)
    if full.GetNumAtoms() != mol.GetNumAtoms():
        raise ValueError("the molecule has hydrogens that are no atoms")
    shown = set(places)
    hidden = {
        place: [n for n in _neighbours(mol, place) if n not in shown] for place in places
    }  # hydrogens of one atom are alike
    for atom in list(full.GetAtoms())[len(places) :]:
        (neighbour,) = _neighbours(full, atom.GetIdx())
        places.append(hidden[places[neighbour]].pop(0))
    for atom in full.GetAtoms():
        atom.ClearProp(_PLACE)
    copy_marks(mol, full, places)
    return full, places


def same_molecule(one: Chem.Mol, other: Chem.Mol, *, stereo: bool = True) -> bool:
    """Whether two records are of one molecule; with `stereo=False`, perhaps of stereoisomers.

    Raises:
        ValueError: as `identity`.
    """
    return identity(one, stereo=stereo) == identity(other, stereo=stereo)


def unlabelled(mol: Chem.Mol) -> Chem.Mol:
    """Without isotopes and atom maps, hydrogens folded: what a descriptor of the graph should see.

    It is the argument itself if there is nothing to take away. Coordinates stay. Centres whose
    stereo was only in the labels lose it.

    Raises:
        ValueError: as `identity`.
    """
    if not any(
        atom.GetIsotope() or atom.GetAtomMapNum() or atom.GetAtomicNum() == 1
        for atom in mol.GetAtoms()
    ):
        return mol
    plain = Chem.Mol(mol)
    for atom in plain.GetAtoms():
        atom.SetIsotope(0)
        atom.SetAtomMapNum(0)
    with rdBase.BlockLogs():
        plain = Chem.RemoveHs(plain, _removal(stereo=False))
        # With the centres that are left open: RDKit's counts of centres go by these notes.
        Chem.AssignStereochemistry(plain, cleanIt=True, force=True, flagPossibleStereoCenters=True)
    return plain


def without_labels(mol: Chem.Mol) -> Chem.Mol | None:
    """A copy without isotopes, its atoms in their order; None if there are none.

    It is for geometries, which depend on no label: stereo that was only in the labels is gone. See
    `placings` for the way back.

    Args:
        mol: sanitised, with explicit hydrogens.
    """
    if not any(atom.GetIsotope() for atom in mol.GetAtoms()):
        return None
    plain = Chem.Mol(mol)
    for atom in plain.GetAtoms():
        atom.SetIsotope(0)
    with rdBase.BlockLogs():
        Chem.AssignStereochemistry(plain, cleanIt=True, force=True)
    return plain


def placings(mol: Chem.Mol, plain: Chem.Mol) -> list[list[int]]:
    """Ways in which the atoms of a labelled molecule may stand where those of the plain one are.

    Each is a list of atoms of `plain`, one for each of `mol`, of the same constitution. By the
    geometry they are alike, but in the stereo of labels, which may hold in some alone.

    Args:
        mol: with explicit hydrogens; plain: the molecule without labels, in any order.
    """
    with rdBase.BlockLogs():
        query = Chem.Mol(mol)
        for atom in query.GetAtoms():
            atom.SetIntProp(_PLACE, atom.GetIdx())
        query = Chem.RemoveHs(query, _removal(stereo=False))  # but for labelled ones
        Chem.RemoveStereochemistry(query)
        for atom in query.GetAtoms():
            atom.SetIsotope(0)
        matches = plain.GetSubstructMatches(query, uniquify=False, maxMatches=MOST_PLACINGS)
    shown = [atom.GetIntProp(_PLACE) for atom in query.GetAtoms()]
    found = []
    for match in matches:
        places = dict(zip(shown, match, strict=True))
        taken = set(match)
        for index in shown:
            free = [n for n in _neighbours(plain, places[index]) if n not in taken]
            for neighbour in _neighbours(mol, index):
                if neighbour not in places and free:
                    places[neighbour] = free.pop(0)
        if len(places) == mol.GetNumAtoms():
            found.append([places[k] for k in range(mol.GetNumAtoms())])
    return found


def read_identity(smiles: str) -> Chem.Mol | None:
    """The molecule of an `identity`; None for the few that RDKit writes but does not read."""
    with rdBase.BlockLogs():
        return Chem.MolFromSmiles(smiles.partition(_AXES)[0])


def _folded(mol: Chem.Mol, stereo: bool) -> Chem.Mol:
    """A copy without atom maps, its hydrogens counted."""
    folded = Chem.Mol(mol)
    for atom in folded.GetAtoms():
        atom.SetAtomMapNum(0)
    if not stereo:
        Chem.RemoveStereochemistry(folded)
    if any(atom.GetAtomicNum() == 1 and atom.GetTotalNumHs() for atom in folded.GetAtoms()):
        folded = Chem.AddHs(folded)  # `[HH]` is `[H][H]`
    return Chem.RemoveHs(folded, _removal(stereo))


def _written(mol: Chem.Mol, stereo: bool) -> str:
    if not stereo:
        isotopes = any(atom.GetIsotope() for atom in mol.GetAtoms())
        return Chem.MolToSmiles(mol, isomericSmiles=isotopes)
    if not mol.GetStereoGroups():
        return Chem.MolToSmiles(mol)
    mol = Chem.RWMol(mol)
    kept = [g for g in mol.GetStereoGroups() if g.GetGroupType() != _ABSOLUTE]
    mol.SetStereoGroups(kept)  # absolute is what a mark means without a group
    return Chem.MolToCXSmiles(mol, Chem.SmilesWriteParams(), _GROUPS)


def _reordered(mol: Chem.Mol, smiles: str) -> Chem.Mol:
    """Read back from the SMILES just written of it, its atoms' places carried over."""
    order = mol.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"]
    as_written = Chem.SmilesParserParams()
    as_written.removeHs = False
    again = Chem.MolFromSmiles(smiles, as_written)
    if again is None:
        raise ValueError(f"RDKit does not read its own {smiles}")
    for atom, index in zip(again.GetAtoms(), order, strict=True):
        atom.SetIntProp(_PLACE, mol.GetAtomWithIdx(index).GetIntProp(_PLACE))
    return Chem.RemoveHs(again, _removal(stereo=True))


def _neighbours(mol: Chem.Mol, index: int) -> list[int]:
    return [atom.GetIdx() for atom in mol.GetAtomWithIdx(index).GetNeighbors()]


_ABSOLUTE = Chem.StereoGroupType.STEREO_ABSOLUTE
_GROUPS = Chem.CXSmilesFields.CX_ENHANCEDSTEREO


@cache
def _removal(stereo: bool) -> Chem.RemoveHsParameters:
    """What `RemoveHs` takes: all but isotopes, hydrides, bridges, and marks of stereo that counts.

    The hydrogen of an imine, `[H]/N=C/C`, is the mark of its double bond.
    """
    parameters = Chem.RemoveHsParameters()
    parameters.removeMapped = True
    parameters.removeWithWedgedBond = True
    parameters.removeDefiningBondStereo = not stereo
    return parameters


# Salts that were drawn with a bond to the metal, `CC(=O)O[Na]`. Complexes and organometallics, of
# which the metal is a part, stay whole.
_SALT_BONDS = "[Li,Na,K,Rb,Cs,Mg,Ca,Sr,Ba;D1,D2]~[N,O,F,S]"
_SALT_HALIDES = "[Li,Na,K,Rb,Cs;D1]~[Cl,Br,I]"


def parent(mol: Chem.Mol, *, neutralise: bool = False) -> Chem.Mol:
    """The largest organic fragment of a salt or mixture, as RDKit's `FragmentParent` chooses it.

    Bonds to alkali and alkaline earth metals count as ionic. An organic fragment (one with carbon)
    comes before any other; among equals the one with more atoms, hydrogens included. Nothing else
    is changed: the fragment keeps its charges, isotopes, stereo, hydrogens, coordinates and title.
    A molecule of one fragment is returned as an equal copy, and so is a complex of a metal that is
    drawn in pieces (`metals`).

    Args:
        mol: a sanitised molecule.
        neutralise: also add or remove protons until no charge is left that can be; coordinates of
            added hydrogens are ideal ones, if the record shows its hydrogens.
    """
    if metal_complex(mol):  # drawn in pieces, none of which is the molecule
        return Chem.Mol(mol)
    with rdBase.BlockLogs():
        found = mol
        if len(Chem.GetMolFrags(mol)) > 1 or any(map(mol.HasSubstructMatch, _salt_bonds())):
            found = _disconnector().Disconnect(mol)
            # True: without the clean-up, which would also redraw the groups of the molecule.
            found = rdMolStandardize.FragmentParent(found, _parameters(), True)
        if neutralise:
            found = _neutral(found)
    return Chem.Mol(found)


def _neutral(mol: Chem.Mol) -> Chem.Mol:
    shows_hydrogens = any(atom.GetAtomicNum() == 1 for atom in mol.GetAtoms())
    # It takes no proton away that is an atom of its own.
    plain = rdMolStandardize.Uncharger().uncharge(Chem.RemoveHs(mol))
    return Chem.AddHs(plain, addCoords=True) if shows_hydrogens else plain


@cache
def _salt_bonds() -> tuple[Chem.Mol, Chem.Mol]:
    return Chem.MolFromSmarts(_SALT_BONDS), Chem.MolFromSmarts(_SALT_HALIDES)


@cache
def _disconnector() -> rdMolStandardize.MetalDisconnector:
    disconnector = rdMolStandardize.MetalDisconnector()
    disconnector.SetMetalNof(_salt_bonds()[0])
    disconnector.SetMetalNon(_salt_bonds()[1])
    return disconnector


@cache
def _parameters() -> rdMolStandardize.CleanupParameters:
    parameters = rdMolStandardize.CleanupParameters()
    parameters.preferOrganic = True
    return parameters
