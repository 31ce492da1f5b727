r"""De-novo flows whose scores are added: a merge without training, and the baseline of merging.

The drift of `sum_i w_i s_i` is that of no density's noise: noising and multiplying do not commute,
so that what is drawn is near `prod p_i^w_i` at best. It takes no training, no oracle, and as many
networks at every evaluation as there are parts. A negative weight takes away what a part finds
likely, as in `(1 + w) s_a - w s_b`, the guidance of a fine-tuned flow by the flow it came from.

References:
    Ho, Salimans, 2022, arXiv 2207.12598 (guidance as a difference of scores).
    Du et al., Reduce, Reuse, Recycle, 2023, arXiv 2302.11552 (why a sum of scores is biased).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor, nn

from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.noise import Noise
from molflowctl.flows.state import State, times
from molflowctl.models.denovo import DeNovoFlow

__all__ = ["ScoreSumFlow"]


class ScoreSumFlow(DeNovoFlow):
    """`sum w_i s_i` of several flows. Sizes are drawn as the first part draws them.

    Arguments:
        parts: the arguments of each flow.
        weights: one per part, the first positive, and their sum; scaled to add up to one.
    """

    kind = "denovo-score-sum"

    def __init__(self, parts: list[dict[str, Any]], weights: list[float]) -> None:
        fit = len(parts) == len(weights) and parts and all(weights)
        if not fit or not (weights[0] > 0 and sum(weights) > 0):
            raise ValueError(f"{len(parts)} flows and the weights {weights}")
        super().__init__(**parts[0])
        self.others = nn.ModuleList(DeNovoFlow(**part) for part in parts[1:])
        self.arguments = {"parts": parts, "weights": weights}
        self.shares = [w / sum(weights) for w in weights]

    @classmethod
    def of(cls, flows: Sequence[DeNovoFlow], weights: Sequence[float], **more: Any) -> Self:
        """The sum of trained flows, the heaviest first, which says how best to draw from it.

        `more` is what a subclass takes.

        Raises:
            UserError: if a flow is a sum itself, or they have different states.
        """
        if any(type(flow) is not DeNovoFlow for flow in flows):
            raise UserError("the scores of plain flows can be added, not those of sums of them.")
        if len({flow.state_space() for flow in flows}) > 1:
            raise UserError("these flows do not go together: they differ in their states.")
        order = sorted(range(len(flows)), key=lambda k: -weights[k])
        ranked = [flows[k] for k in order]
        whole = cls([flow.arguments for flow in ranked], [float(weights[k]) for k in order], **more)
        whole.network.load_state_dict(ranked[0].network.state_dict())
        for copy, flow in zip(whole.others, ranked[1:], strict=True):
            copy.load_state_dict(flow.state_dict())
        whole.card = {k: ranked[0].card[k] for k in ("sampling",) if k in ranked[0].card}
        return whole.to(flows[0].device).eval()

    def loss(self, x1: State, t: Tensor, noise: Noise) -> Tensor:
        """The squared error of the summed endpoint, `(B,)`: the parts' logits do not add up."""
        xt = self.path.sample(self.noise_like(x1, noise), x1, t)
        return self.endpoint_error(self.endpoint(xt, t), x1, t)

    def start_as(self, flows: Sequence[Flow], shares: Sequence[float]) -> Self:
        flow = super().start_as(flows, shares)
        first, *others = self.arguments["parts"]
        sizes = {str(n): count for n, count in flow.sizes.items()}
        parts = [{**first, "sizes": sizes}, *others]
        flow.arguments = {**self.arguments, "parts": parts}
        return flow

    def endpoints(self, x: State, t: Tensor) -> list[State]:
        """`E_i[x_1 | x_t]` of every part."""
        others = [part.endpoint(x, t) for part in self.others if isinstance(part, DeNovoFlow)]
        return [super().endpoint(x, t), *others]

    def endpoint(self, x: State, t: Tensor) -> State:
        first, *others = self.endpoints(x, t)
        total = times(self.shares[0], first)
        for share, end in zip(self.shares[1:], others, strict=True):
            total = total + times(share, end)
        return total
