"""Which flows have a network that a control can go on to train."""

from __future__ import annotations

from collections.abc import Mapping

from molflowctl.errors import UserError
from molflowctl.models.feynman_kac import FeynmanKacFlow
from molflowctl.models.gated import GatedFlow
from molflowctl.models.guided import GuidedFlow
from molflowctl.models.molecule_flow import MoleculeFlow

__all__ = [
    "check_learnable",
]


def check_learnable(flows: Mapping[str, MoleculeFlow]) -> None:
    """Check that what the flows draw is what their networks say.

    Raises:
        UserError: which names a flow that only swarms can draw from, or one that only chooses.
    """
    for name, flow in flows.items():
        if isinstance(flow, FeynmanKacFlow):
            raise UserError(
                f"{name} was merged by feynman-kac: it can be drawn from, but no network has what "
                f"it draws. Steer or merge its parts, or train on a library of it (train --data)."
            )
        if isinstance(flow, GatedFlow):
            raise UserError(
                f"{name} chooses among flows that stay as they are, and has no network that could "
                f"learn. Steer or merge its parts, or merge them by --set union=regression."
            )
        if isinstance(flow, GuidedFlow):
            raise UserError(
                f"{name} is guided by a value, and its network stays as it is. Go on with "
                f"finetune --set solver=guidance, or train on a library of it (train --data)."
            )
