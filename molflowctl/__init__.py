"""Steer and merge pre-trained flow models of 3-D molecules towards an objective.

>>> from molflowctl import Flow
>>> molecules = Flow.from_pretrained("qm9").sample(64, seed=0)
"""

from typing import TYPE_CHECKING, Any

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
