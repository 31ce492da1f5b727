"""A trained network made larger, with nothing changed yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast

from torch import nn

from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.models.network.layers import Layer
from molflowctl.models.network.trunk import Sizes

__all__ = ["grown"]

FlowT = TypeVar("FlowT", bound=Flow)


def grown(flow: FlowT, grows: Sequence[str], network: dict[str, Any]) -> FlowT:
    """The same flow in a larger network, of which what is new changes nothing yet.

    Arguments:
        flow: with a `network` of layers.
        grows: the arguments of the network that may grow.
        network: arguments that differ.

    Raises:
        UserError: for arguments that may not grow, or less of one.

    Chen, Goodfellow, Shlens, arXiv 1511.05641 (growth that preserves the function).
    """
    known = vars(Sizes()) | flow.arguments["network"]
    if changed := sorted(k for k, v in network.items() if k not in grows and known[k] != v):
        raise UserError(f"a trained network keeps its {', '.join(changed)}: leave them out.")
    arguments = {**flow.arguments, "network": {**flow.arguments["network"], **network}}
    larger = type(flow)(**arguments)
    theirs, state = larger.state_dict(), flow.state_dict()
    if any(k not in theirs or theirs[k].shape != v.shape for k, v in state.items()):
        raise UserError(
            "a trained network can only grow: give more layers, not fewer, and take neither its "
            "triangles nor what it knows of given parts away."
        )
    larger.load_state_dict(state, strict=False)
    before, now = (cast(nn.ModuleList, f.get_submodule("network.layers")) for f in (flow, larger))
    for layer in now[len(before) :]:
        cast(Layer, layer).silence()
    larger.card = flow.card
    return larger.to(flow.device)
