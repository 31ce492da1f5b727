"""What a molecule is worth: registered properties and the way to compute many of them."""

from molflowctl.properties import (  # noqa: F401  (importing them registers)
    alerts,
    charges,
    descriptors,
    rings,
    similarity,
    substructure,
    surrogate,
    validity,
)
from molflowctl.properties.docking import scores  # noqa: F401  (the same)
from molflowctl.properties.energies import forcefield, xtb_properties  # noqa: F401  (the same)
from molflowctl.properties.evaluate import Scores, score
from molflowctl.properties.likeness import (  # noqa: F401  (the same)
    moments,
    new_part,
    pharmacophore,
    shape,
)
from molflowctl.properties.registry import Property, PropertyError, get, names, register

__all__ = ["Property", "PropertyError", "Scores", "get", "names", "register", "score"]
