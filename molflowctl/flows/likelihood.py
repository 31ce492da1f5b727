r"""Log-likelihood of a flow by the instantaneous change of variables."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from molflowctl.flows.flow import Flow

__all__ = ["log_likelihood"]


def log_likelihood(
    flow: Flow,
    x1: Any,
    *,
    steps: int = 50,
    trace: Literal["exact", "hutchinson"] = "exact",
    probes: int = 1,
    seed: int = 0,
) -> Tensor:
    """`log p_1(x1)`, `(B,)`, natural logarithm."""
    raise NotImplementedError
