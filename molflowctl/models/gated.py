r"""De-novo flows among which a learned posterior chooses: their union, training none of them.

The mixture `sum a_i p_i` has the endpoint

    E[x_1 | x_t = x] = sum_i w_i(x, t) E_i[x_1 | x_t = x],    w_i(x, t) ~ a_i p_{i,t}(x),

so that a posterior is all there is to learn: from which part a noisy state came. What its number of
atoms tells of that is known from the parts' histograms; the rest is read off the features of the
parts' own networks, by telling noised samples of the parts apart. Every evaluation takes as many
networks as there are parts.

References:
    De Santi et al., Reward-Guided Flow Merging, 2026, arXiv 2602.08012 (unions).
    Dhariwal, Nichol, 2021, arXiv 2105.05233 (classifiers of noisy states).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molflowctl.control.bank import ReplayBuffer
from molflowctl.control.solvers.fitting import Fitting
from molflowctl.control.solvers.weighted import stratified
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.state import State, batch_of, groups_of, select, times
from molflowctl.models.denovo import DeNovoFlow, network_inputs
from molflowctl.models.network import EquivariantNetwork, Reader, Seen
from molflowctl.models.score_sum import ScoreSumFlow

__all__ = ["GatedFlow"]

_COUNTS = 1_000_000  # of the mixture's histogram
_LEAST = 1e-9


class GatedFlow(ScoreSumFlow):
    """The mixture of several flows, and of their numbers of atoms.

    Arguments:
        parts: the arguments of each flow.
        weights: one per part, positive; scaled to add up to one.
    """

    kind = "denovo-gate"

    def __init__(self, parts: list[dict[str, Any]], weights: list[float]) -> None:
        super().__init__(parts, weights)
        if min(weights) <= 0:
            raise ValueError(f"the weights {weights} are no shares of a mixture")
        # How likely each number of atoms is, by part.
        totals = [sum(part["sizes"].values()) for part in parts]
        known = sorted({int(n) for part in parts for n in part["sizes"]})
        self._sizes = {
            n: [
                part["sizes"].get(str(n), 0) / total
                for part, total in zip(parts, totals, strict=True)
            ]
            for n in known
        }
        self.sizes = {
            n: round(_COUNTS * sum(a * p for a, p in zip(self.shares, shares, strict=True))) or 1
            for n, shares in self._sizes.items()
        }
        self.votes = nn.ModuleList(Reader(network) for network in self._networks)
        self.network.requires_grad_(False)
        self.others.requires_grad_(False)

    @classmethod
    def learned(
        cls,
        flows: Sequence[DeNovoFlow],
        weights: Sequence[float],
        drawn: Sequence[Any],
        *,
        seed: int = 0,
        **fit: Any,
    ) -> Self:
        """The mixture of flows, from draws of each of them.

        Arguments:
            flows, weights, drawn: one each for every part, in any order.
            seed: of the heads, before they learn, and of what they learn from.
            fit: what `fit` takes besides.

        Raises:
            UserError: as `of` and `fit` do.
        """
        order = sorted(range(len(flows)), key=lambda k: -weights[k])  # as `of` has it
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            whole = cls.of(flows, weights)
        return whole.fit([drawn[k] for k in order], seed=seed, **fit)

    def see(self, x: State, t: Tensor) -> list[Seen]:
        """What the network of every part makes of states."""
        known = self.known(x)
        return [network.see(*network_inputs(x, t), known) for network in self._networks]

    def logits(self, x: State, t: Tensor) -> Tensor:
        """`log w_i(x, t)` up to a constant, `(B, parts)`."""
        return self._logits(self.see(x, t), x, t)

    def _logits(self, seen: list[Seen], x: State, t: Tensor) -> Tensor:
        votes = torch.stack([vote(s, t) for vote, s in zip(self.votes, seen, strict=True)], -1)
        sizes = self._sizes.get(x["positions"].shape[1], [1.0] * len(self.shares))
        known = [a * max(p, _LEAST) for a, p in zip(self.shares, sizes, strict=True)]
        return votes + torch.tensor(known).log().to(votes)

    def start_as(self, flows: Sequence[Flow], shares: Sequence[float]) -> Self:
        raise UserError("a gate draws the numbers of atoms of its parts' mixture, and no others.")

    def endpoint(self, x: State, t: Tensor) -> State:
        seen = self.see(x, t)
        shares = self._logits(seen, x, t).softmax(-1).unbind(-1)
        ends = (
            self.endpoint_of(self.named(network.predict(s.h, s.e, s.x)), x, t)
            for network, s in zip(self._networks, seen, strict=True)
        )
        first, *others = (times(share, end) for share, end in zip(shares, ends, strict=True))
        return sum(others, start=first)

    def fit(
        self,
        drawn: Sequence[Any],
        *,
        steps: int = 1500,
        batch: int = 192,
        lr: float = 2e-3,
        seed: int = 0,
        watch: Callable[[int, int], object] = lambda done, total: None,
        file: Path | None = None,
    ) -> Self:
        """This flow with its posterior learned.

        Arguments:
            drawn: states of each part, in the order of the parts.
            steps, batch, lr: of the optimiser; the rate falls along a cosine.
            watch, file: see `Fitting.run`.

        Raises:
            UserError: if the fit diverges, or the file is of another one.
        """
        banks = [ReplayBuffer.of(x, torch.zeros(sum(map(batch_of, groups_of(x))))) for x in drawn]
        fitting = Fitting(self, lr, steps, cosine=True)
        noise, rows_of = BatchNoise(seed, self.device), torch.Generator().manual_seed(seed)
        size = max(1, batch // len(banks))

        def loss(flow: Self) -> Tensor:
            total = torch.zeros((), device=flow.device)
            for k, (bank, share) in enumerate(zip(banks, flow.shares, strict=True)):
                group, rows = bank.minibatch(size, rows_of)
                x1 = select(bank.states[group], rows).to(flow.device)
                t = flow.draw_times(stratified(size, noise))
                xt = flow.path.sample(flow.noise_like(x1, noise), x1, t)
                part = torch.full((size,), k, device=flow.device)
                total = total + share * F.cross_entropy(flow.logits(xt, t), part)
            return total

        return fitting.run(loss, [noise.generator, rows_of], watch, file)

    @property
    def _networks(self) -> list[EquivariantNetwork]:
        others = [part.network for part in self.others if isinstance(part, DeNovoFlow)]
        return [self.network, *others]
