"""Steer and merge pre-trained flow models of 3-D molecules towards an objective.

>>> from molflowctl import Flow
>>> molecules = Flow.from_pretrained("qm9").sample(64, seed=0)
"""

import os
from typing import TYPE_CHECKING, Any

from molflowctl.flows.hooks import on_operators

# A molecule is to be the same in every batch. MKL rounds by how an array lies in memory, and so by
# a molecule's place in the batch, unless told otherwise before its first use; it costs no speed.
# On AVX-512 it was not seen; with AVX2 alone products of 5 x 16 matrices did.
os.environ.setdefault("MKL_CBWR", "AUTO")


def _operators() -> None:
    import molflowctl.control.operators  # noqa: F401  (which registers them)


on_operators(_operators)  # so that `a & b` works wherever a flow came from

if TYPE_CHECKING:
    from molflowctl.models import Flow

__all__ = ["Flow", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Flow brings in torch, seconds that `molflowctl --help` must not wait for.
    if name == "Flow":
        from molflowctl.models import Flow

        return Flow
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
