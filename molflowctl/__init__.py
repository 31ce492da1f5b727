"""Steer and merge pre-trained flow models of 3-D molecules towards an objective.

>>> from molflowctl import generate, rank, score
>>> molecules = generate("qm9", n=64, seed=0)
>>> best = rank(score(molecules, ["qed", "logp"]), by="qed", n=10)
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from molflowctl.errors import UserError
from molflowctl.flows.hooks import on_operators

# A molecule is to be the same in every batch. MKL rounds by how an array lies in memory, and so by
# a molecule's place in the batch, unless told otherwise before its first use; it costs no speed.
# On AVX-512 it was not seen; with AVX2 alone products of 5 x 16 matrices did.
os.environ.setdefault("MKL_CBWR", "AUTO")


def _operators() -> None:
    import molflowctl.control.operators
    import molflowctl.models.around.flow  # noqa: F401  (`around`)


on_operators(_operators)  # so that `a & b` works wherever a flow came from

# What heavy libraries stand behind waits until it is asked for: seconds that `molflowctl --help`
# must not take.
_PUBLIC = {
    "Flow": "molflowctl.models",
    "Library": "molflowctl.face.library",
    "Property": "molflowctl.properties.registry",
    "Reward": "molflowctl.properties.rewards.reward",
    "conformers": "molflowctl.face.draw",
    "finetune": "molflowctl.face.steer",
    "generate": "molflowctl.face.draw",
    "merge": "molflowctl.face.steer",
    "rank": "molflowctl.face.values",
    "score": "molflowctl.face.values",
    "train": "molflowctl.face.learn",
}

# The reward of a chemist is of molecules; that of `molflowctl.control` is of states.
_NAMES = {"Reward": "PropertyReward"}

if TYPE_CHECKING:
    from molflowctl.face.draw import conformers, generate
    from molflowctl.face.learn import train
    from molflowctl.face.library import Library
    from molflowctl.face.steer import finetune, merge
    from molflowctl.face.values import rank, score
    from molflowctl.models import Flow
    from molflowctl.properties.registry import Property
    from molflowctl.properties.rewards.reward import PropertyReward as Reward

__all__ = [
    "Flow",
    "Library",
    "Property",
    "Reward",
    "UserError",
    "__version__",
    "conformers",
    "finetune",
    "generate",
    "merge",
    "rank",
    "score",
    "train",
]

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), _NAMES.get(name, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
