r"""A network in place of an oracle too slow for the loop; trained by `molflowctl surrogate`.

    surrogate = Surrogate.load("gap/")            # score -p surrogate:gap/ does the same
    surrogate(mol)                                # its value, or PropertyError: far from ...
    surrogate.interval(mol, 0.9)                  # the value and the half-width of 90 % of cases

It knows the molecular graph alone: counts of circular substructures (Morgan, radius 2) and RDKit's
descriptors, so a conformer is not needed and does not matter. A property of a geometry is learned
as the one that molecules of the training library had.

Half-widths are split conformal: `q_level s(x)`, with `s` the ensemble's standard deviation and
`q_level` the `ceil((n + 1) level)`-th smallest `|y - m| / s` of n molecules held out for it. They
cover at least that share of molecules like those of the library, whatever the network is like.

A molecule is far from the training set if its distance to the `NEIGHBOURS` nearest is larger than
that of 99 % of the training molecules to theirs. The distance is one minus the mean of

    sum_i min(a_i, b_i) / sum_i max(a_i, b_i)          counts a, b of substructures

in which, unlike with bits, a chain of thirty atoms is not one of ten. Such a molecule gets a reason
and no value.

References:
    Rogers, Hahn, J. Chem. Inf. Model. 50, 742 (2010), doi:10.1021/ci100050t (Morgan, count
    similarity); Lei, G'Sell, Rinaldo, Tibshirani, Wasserman, J. Am. Stat. Assoc. 113, 1094 (2018)
    (conformal intervals, locally weighted).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import Mol, rdFingerprintGenerator
from rdkit.Chem import rdMolDescriptors as rd

from molflowctl.chem.identity import unlabelled
from molflowctl.errors import UserError
from molflowctl.io.escaping import shown
from molflowctl.io.plain_files import check_regular, read_json
from molflowctl.properties.registry import (
    Property,
    PropertyError,
    register_function,
    register_maker,
)

__all__ = [
    "FAR",
    "KIND",
    "LEVELS",
    "NEIGHBOURS",
    "Counts",
    "Surrogate",
    "card_digest",
    "conformal_multiplier",
    "descriptor_names",
    "features",
    "network_inputs",
    "surrogate_property",
]

Array = NDArray[np.float64]

BITS = 2048
NEIGHBOURS = 5
LEVELS = (0.5, 0.9)
FAR = "far from the training set"
KIND = "surrogate"

_CARD, _ARRAYS = "card.json", "weights.safetensors"
_RADIUS = 2
_VSA = {"SlogP_VSA": rd.SlogP_VSA_, "SMR_VSA": rd.SMR_VSA_, "PEOE_VSA": rd.PEOE_VSA_}
_LARGEST = 6.0  # standard deviations of a descriptor, beyond which it counts as this


def descriptor_names() -> list[str]:
    """What `features` computes beside the counts, in order, as this RDKit names it."""
    names = [name for name in rd.Properties.GetAvailableProperties() if name != "NumAtoms"]
    probe = Chem.MolFromSmiles("C")
    return names + [f"{name}{i}" for name, of in _VSA.items() for i in range(len(of(probe)))]


def features(mol: Mol) -> tuple[NDArray[np.uint8], Array]:
    """Counts of substructures (2048,), folded, and descriptors, of the graph.

    Raises:
        PropertyError: a descriptor is not a number.
    """
    plain = unlabelled(mol)
    counts = _generator().GetCountFingerprintAsNumPy(plain)
    descriptors = [*_descriptors().ComputeProperties(plain)]
    for of in _VSA.values():
        descriptors += of(plain)
    values = np.array(descriptors, dtype=np.float64)
    if not np.isfinite(values).all():
        raise PropertyError("a descriptor of it is not a number")
    return np.minimum(counts, 255).astype(np.uint8), values


@cache
def _generator() -> Any:
    return rdFingerprintGenerator.GetMorganGenerator(radius=_RADIUS, fpSize=BITS)


@cache
def _descriptors() -> Any:
    names = [name for name in rd.Properties.GetAvailableProperties() if name != "NumAtoms"]
    return rd.Properties(names)


@dataclass(frozen=True)
class Counts:
    """Count fingerprints of many molecules, those that are not zero.

    Attributes:
        starts: (n,) where each molecule's begin.
        bits, values: which, and how often.
    """

    starts: NDArray[np.int64]
    bits: NDArray[np.int16]
    values: NDArray[np.uint8]

    @classmethod
    def of(cls, dense: NDArray[np.uint8]) -> Self:
        """From (n, 2048); every molecule has at least one."""
        rows, bits = np.nonzero(dense)
        starts = np.searchsorted(rows, np.arange(len(dense)))
        return cls(starts, bits.astype(np.int16), dense[rows, bits])

    def similarities(self, counts: NDArray[np.uint8]) -> Array:
        """Of one molecule (2048,) to each of these, (n,): sum of minima over sum of maxima."""
        shared = np.add.reduceat(np.minimum(self.values, counts[self.bits]), self.starts, dtype=int)
        total = np.add.reduceat(self.values, self.starts, dtype=int)
        return shared / (total + int(counts.sum(dtype=int)) - shared)

    def distance(self, counts: NDArray[np.uint8], skip: int | None = None) -> float:
        """One minus the mean similarity to the `NEIGHBOURS` nearest, without the one to skip."""
        similarities = self.similarities(counts)
        if skip is not None:
            similarities = np.delete(similarities, skip)
        nearest = np.partition(similarities, -NEIGHBOURS)[-NEIGHBOURS:]
        return 1.0 - float(nearest.mean())


class Surrogate:
    """A property predicted from the graph; callable as any property's `compute`.

    Args:
        card: what it is: `property`, `unit`, `descriptors` (names), `threshold` (largest distance),
            `conformal` (multiplier by level as text), and how well it did.
        arrays: the ensemble's weights, `centre` and `scale` of the descriptors, and the training
            molecules' `starts`, `bits` and `values`.

    Attributes:
        version: a digest of what decides values, so that stored ones are of this surrogate.
        digest: of all of the card and the arrays, to be found again when it is loaded.
    """

    def __init__(self, card: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        self.card = dict(card)
        self.arrays = dict(arrays)
        deciding = {name: self.card[name] for name in ("property", "unit", "threshold")}
        self.version = card_digest(deciding, self.arrays)
        self._training = Counts(*(self.arrays[name] for name in ("starts", "bits", "values")))

    @property
    def digest(self) -> int:
        return card_digest(self.card, self.arrays)

    @property
    def name(self) -> str:
        """Of its column: `surrogate_` and the property's."""
        return f"surrogate_{self.card['property']}"

    def __call__(self, mol: Mol) -> float:
        return self._predicted(mol)[0]

    def interval(self, mol: Mol, level: float = 0.9) -> tuple[float, float]:
        """The value, and the half-width that covers the true one in that share of cases.

        Args:
            level: 0.5 or 0.9.

        Raises:
            PropertyError: the molecule is far from the training set, or has no descriptors.
        """
        value, deviation = self._predicted(mol)
        return value, self.card["conformal"][str(level)] * deviation

    def distance(self, mol: Mol) -> float:
        """To the training set, 0 to 1; more than the card's `threshold` is too far."""
        return self._training.distance(features(mol)[0])

    def inputs(self, counts: NDArray[np.uint8], descriptors: Array) -> NDArray[np.float32]:
        """What the network sees, of counts (n, 2048) and descriptors (n, d)."""
        return network_inputs(counts, descriptors, self.arrays["centre"], self.arrays["scale"])

    def as_property(self, name: str | None = None) -> Property:
        """For `properties.score`, under its own name or another."""
        return Property(
            name or self.name,
            self.card["unit"],
            self.version,
            f"{self.card['property']} by a network, test error {self.card['test']['mae']:.3g}",
            self,
            engine="surrogate",
            geometry=False,
        )

    def save(self, folder: Path) -> None:
        """Write `card.json` and `weights.safetensors` into an existing folder."""
        from safetensors.numpy import save

        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        (folder / _ARRAYS).write_bytes(save(arrays))
        (folder / _CARD).write_text(json.dumps(self.card, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """From a folder that `molflowctl surrogate` wrote.

        Raises:
            UserError: it is not one, it is damaged, or this RDKit lacks one of its descriptors.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        folder = Path(folder)
        try:
            card = read_json(folder / _CARD)
            if card.get("kind") != KIND:
                raise UserError(f"{folder} holds no surrogate: its {_CARD} is of something else.")
            check_regular(folder / _ARRAYS)
            arrays = load_file(folder / _ARRAYS)
            if card["descriptors"] != descriptor_names():
                raise UserError(
                    f"{folder} was trained with other descriptors than this RDKit's: train it "
                    f"again, or install rdkit {shown(str(card['versions']['rdkit']), 20)}."
                )
            if card["digest"] != card_digest(card, arrays):
                raise UserError(
                    f"{folder}: its {_CARD} and {_ARRAYS} do not belong together, or one of them "
                    "was changed since: train it again."
                )
            if not all(np.isfinite(a).all() for a in arrays.values() if a.dtype.kind == "f"):
                raise UserError(f"{folder}/{_ARRAYS} holds numbers that are not finite.")
            return cls(card, arrays)
        except FileNotFoundError as error:
            raise UserError(
                f"no surrogate in {folder}: there is no {Path(error.filename).name}; make one with "
                "molflowctl surrogate."
            ) from None
        except UserError:  # which is a ValueError
            raise
        except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
            raise UserError(f"{folder} cannot be read as a surrogate: {error!r}.") from None

    def _predicted(self, mol: Mol) -> tuple[float, float]:
        from molflowctl.models.surrogate import predict  # whose package imports torch

        if mol.GetNumAtoms() == 0:
            raise PropertyError("no atoms")
        counts, descriptors = features(mol)
        if self._training.distance(counts) > self.card["threshold"]:
            raise PropertyError(FAR)
        mean, deviation = predict(self.arrays, self.inputs(counts[None], descriptors[None]))
        return float(mean[0]), float(deviation[0])


@register_maker("surrogate:")
def surrogate_property(folder: str) -> Property:
    """The property `surrogate:FOLDER`, the network in that folder.

    Raises:
        UserError: see `Surrogate.load`.
    """
    card = Path(folder) / _CARD
    return _stored(Path(folder), card.stat().st_mtime_ns if card.is_file() else 0)


register_function(
    "surrogate",
    description="what a network learned of a slow oracle; no value far from its training set",
    arguments={"folder": "of `molflowctl surrogate`"},
    example='surrogate("gap/")',
)(surrogate_property)


@lru_cache(maxsize=8)
def _stored(folder: Path, changed: int) -> Property:
    return Surrogate.load(folder).as_property()


def network_inputs(
    counts: NDArray[np.uint8], descriptors: Array, centre: Array, scale: Array
) -> NDArray[np.float32]:
    """log(1 + counts), and descriptors in standard deviations, side by side."""
    standardised = np.clip((descriptors - centre) / scale, -_LARGEST, _LARGEST)
    return np.concatenate([np.log1p(counts, dtype=np.float32), standardised], 1, dtype=np.float32)


def card_digest(card: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> int:
    """Of all that is said and of the arrays.

    48 bits and never 0, so that a database's integer can hold it.
    """
    said = {name: value for name, value in card.items() if name != "digest"}
    text = json.dumps(said, sort_keys=True).encode()
    hashed = hashlib.blake2b(text, digest_size=6)
    for name in sorted(arrays):
        hashed.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return int.from_bytes(hashed.digest(), "little") or 1


def conformal_multiplier(ratios: Sequence[float] | Array, level: float) -> float:
    """The `ceil((n + 1) level)`-th smallest ratio, the largest where there are too few."""
    ordered = np.sort(np.asarray(ratios, dtype=np.float64))
    return float(ordered[min(len(ordered), int(np.ceil((len(ordered) + 1) * level))) - 1])
