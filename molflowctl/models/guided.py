"""De-novo flows that a learned value guides: the network of the flow stays as it is.

What a value knows it reads off the features of the flow's own network, and it knows more of a
molecule the more of it is decided, when guidance can hardly change it any more. So these flows are
drawn with more noise than others (`Path.ancestral`), which decides again and again. Between the
times of the window every evaluation goes once through the network, for the endpoint and the value,
and once back.
"""

from __future__ import annotations

from typing import ClassVar, Self

from torch import Tensor, nn

from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.guided import Guided
from molflowctl.flows.noise import Noise
from molflowctl.flows.state import State
from molflowctl.models.denovo import DeNovoFlow, network_inputs
from molflowctl.models.network import Reader, Seen

__all__ = ["GuidedFlow"]

# Measured on values of `qm9` that ask for fewer small dipole moments: of the way to the exact
# target their draws went 67, 78 and 83 % with a churn of 1, 2 and 4, 82, 89 and 98 % with 4, 8 and
# 16, and 92 and 99 % with 16 and 32, at no price in valid molecules. Steps with so much noise are
# not quite exact: unguided, the mean falls from 2.80 to 2.69 debye with 16 and to 2.65 with 32,
# which a walk sees and takes back.
CHURN = 16.0


class GuidedFlow(Guided, DeNovoFlow):
    """A de-novo flow along the gradient of a value of its noisy molecules."""

    kind = "denovo-guided"
    window: ClassVar[tuple[float, float]] = (0.3, 0.97)

    @classmethod
    def of(cls, flow: Flow) -> Self:
        guided = super().of(flow)
        sampling = guided.card.get("sampling", {})
        guided.card["sampling"] = {**sampling, "churn": max(CHURN, sampling.get("churn", 1.0))}
        return guided

    def draw_times(self, uniform: Tensor) -> Tensor:
        """Times to learn the value at: the same number everywhere in the window."""
        first, last = self.window
        return first + (last - first) * uniform

    def reader(self) -> nn.Module:
        return Reader(self.network).to(self.device)

    def see(self, x: State, t: Tensor) -> Seen:
        return self.network.see(*network_inputs(x, t), self.known(x))

    def end_seen(self, seen: Seen, x: State, t: Tensor) -> State:
        prediction = self.network.predict(seen.h, seen.e, seen.x)
        return self.endpoint_of(self.named(prediction), x, t)

    def loss(self, x1: State, t: Tensor, noise: Noise) -> Tensor:
        """See `DeNovoFlow.loss`, which a guided flow has no network to lower with.

        Raises:
            UserError: always.
        """
        raise UserError("a guided flow does not learn from data: its network stays as it is.")
