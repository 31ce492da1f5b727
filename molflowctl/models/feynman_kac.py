r"""De-novo flows multiplied without training, by correctors of Feynman and Kac.

Up to the time `until`, what is drawn has the density `prod q_{i,t}^w_i` of the parts' noised
densities, as far as steps are short and the swarm that is carried for each molecule is large
(`flows/feynman_kac.py`); from there on their averaged endpoint leads, as in a sum of scores
(`models/score_sum.py`), which has no density at any time that could be named. Numbers of atoms are
those of the heaviest part. The price is as many networks at every evaluation as there are parts,
times the swarm.

No network has the draws of a swarm: such a flow can be drawn from, but not steered or merged.

References:
    Skreta et al., Feynman-Kac Correctors in Diffusion, 2025, arXiv 2503.02819.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from molflowctl.errors import UserError
from molflowctl.flows.feynman_kac import draw_product
from molflowctl.flows.noise import Noise
from molflowctl.flows.samplers import Ancestral, Sampler
from molflowctl.flows.state import State
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.models.score_sum import ScoreSumFlow

__all__ = ["FeynmanKacFlow"]


class FeynmanKacFlow(ScoreSumFlow):
    """`prod p_i^w_i` of several flows. Sizes are drawn as the first part draws them.

    Arguments:
        parts, weights: as in `ScoreSumFlow`.
        particles: in the swarm of each molecule.
        until: time up to which weights are collected, in (0, 1). Beyond it two flows differ by
            their errors in geometry, one of the swarm is taken and the averaged endpoint leads on.
    """

    kind = "denovo-feynman-kac"

    def __init__(
        self,
        parts: list[dict[str, Any]],
        weights: list[float],
        particles: int = 8,
        until: float = 0.8,
    ) -> None:
        super().__init__(parts, weights)
        if particles < 2 or not 0 < until < 1:
            raise ValueError(f"{particles} particles up to t = {until}")
        self.arguments |= {"particles": particles, "until": until}
        self.particles, self.until = particles, until

    @classmethod
    def of(cls, flows: Sequence[DeNovoFlow], weights: Sequence[float], **more: Any) -> Self:
        whole = super().of(flows, weights, **more)
        whole.card.pop("sampling", None)  # a churn that it cannot be drawn with
        return whole

    def check_sampler(self, sampler: Sampler) -> None:
        """Check that it is the memoryless ancestral one: its noising is all that the parts share.

        Raises:
            UserError: if it is another.
        """
        if sampler != Ancestral():
            raise UserError(
                "Feynman-Kac correctors belong to the ancestral sampler with a stochasticity of 1: "
                "--sampler ancestral --stochasticity 1."
            )

    def transport(self, x0: State, sampler: Sampler, grid: Sequence[float], noise: Noise) -> State:
        """See `Flow.transport`; the swarms begin from noise of their own, in the shape of `x0`."""
        self.check_sampler(sampler)
        cut = max(k for k, t in enumerate(grid) if t <= self.until)
        x = draw_product(
            self, self.endpoints, self.shares, x0, grid[: cut + 1], noise, particles=self.particles
        )
        return super().transport(x, sampler, list(grid[cut:]), noise)
