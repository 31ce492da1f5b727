r"""Flows made of flows without changing any of them.

- `ScoreSum`: endpoints averaged with fixed weights, that is, scores added at every time. It is the
  naive intersection: noise and product do not commute, so its samples are not of
  `prod p_i^w_i`, and control is what closes the gap.
  `distil` makes one network of it.
- `average`: one network with the parts' weights, averaged. Where the parts learned from one flow it
  has about the average endpoint and is a good place to start from.
- `Gate`: endpoints averaged with the posterior of the parts, `w_i(x, t) ~ a_i p_{i,t}(x)`: the
  exact flow of the mixture `sum a_i p_i` if the posterior is right. It is learned by telling noised
  samples of the parts apart.

References:
    Du et al., Reduce, Reuse, Recycle, 2023, arXiv 2302.11552 (why a sum of scores is biased).
    De Santi et al., Reward-Guided Flow Merging, 2026, arXiv 2602.08012 (unions).
    Wortsman et al., Model soups, 2022, arXiv 2203.05482 (weights of one ancestor, averaged).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from molflowctl.control.bank import ReplayBuffer
from molflowctl.control.solvers.fitting import Fitting
from molflowctl.control.solvers.solver import compatible
from molflowctl.control.solvers.weighted import stratified
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.mixture import perceptron, time_features
from molflowctl.flows.noise import BatchNoise, Noise
from molflowctl.flows.state import batch_of, groups_of, select, times

__all__ = ["Composition", "Gate", "ScoreSum", "average", "distil"]

_TRIALS = 4  # batches that choose where to start


class Composition(Flow):
    """Endpoints of several flows, averaged. Stored with all its parts.

    Arguments:
        parts: flows of one kind of states, path and noise, or (read from a card) their kinds and
            arguments.
        weights: one per part, positive; scaled to add up to one.

    Raises:
        UserError: if the parts or the weights do not fit together.
    """

    def __init__(
        self, parts: Sequence[Flow | dict[str, Any]], weights: Sequence[float], **more: Any
    ):
        flows = [part if isinstance(part, Flow) else _built(part) for part in parts]
        fit = all(math.isfinite(w) and w > 0 for w in weights)
        if len(flows) != len(weights) or not flows or not fit:
            raise UserError(
                f"{len(flows)} flows and the weights {list(weights)}: a composition needs one "
                f"positive weight for each."
            )
        compatible(*flows)
        described = [{"kind": flow.kind, "arguments": flow.arguments} for flow in flows]
        super().__init__(parts=described, weights=list(weights), **more)
        self.parts = nn.ModuleList(flows).requires_grad_(False)
        self.path, self.covariance = flows[0].path, flows[0].covariance
        total = sum(weights)
        self.shares = [w / total for w in weights]

    def state_space(self) -> str:
        return self._first.state_space()

    def start(self, batch: int, noise: BatchNoise) -> Any:
        return self._first.start(batch, noise)

    def noise_like(self, x: Any, noise: Noise) -> Any:
        return self._first.noise_like(x, noise)

    def shares_at(self, x: Any, t: Tensor) -> Sequence[float | Tensor]:
        """How much of each part's endpoint is taken at `(x, t)`: numbers or `(B,)` each."""
        raise NotImplementedError

    def endpoint(self, x: Any, t: Tensor) -> Any:
        total = None
        for share, flow in zip(self.shares_at(x, t), self._flows, strict=True):
            term = times(share, flow.endpoint(x, t))
            total = term if total is None else total + term
        return total

    @property
    def _flows(self) -> list[Flow]:
        return list(self.parts)  # type: ignore[arg-type]

    @property
    def _first(self) -> Flow:
        return self._flows[0]


def _built(described: dict[str, Any]) -> Flow:
    return Flow.kinds[described["kind"]](**described["arguments"])


class ScoreSum(Composition):
    """Fixed shares: the sum of the scores `sum w_i s_i` at every time."""

    kind: ClassVar[str] = "score-sum"

    def shares_at(self, x: Any, t: Tensor) -> list[float]:
        return self.shares


class Gate(Composition):
    """Shares from a learned posterior over the parts, for states that are plain vectors.

    Arguments:
        parts, weights: of the mixture, see `Composition`.
        width, depth: hidden layers of the posterior.
    """

    kind: ClassVar[str] = "gate"

    def __init__(
        self,
        parts: Sequence[Flow | dict[str, Any]],
        weights: Sequence[float],
        width: int = 64,
        depth: int = 2,
    ) -> None:
        super().__init__(parts, weights, width=width, depth=depth)
        probe = self._first.start(1, BatchNoise(0, self._first.device))
        if not isinstance(probe, Tensor) or probe.ndim != 2:
            raise UserError(
                "a gate is for flows of plain vectors; merge other flows by regression on samples "
                "of the mixture."
            )
        self.net = perceptron(probe.shape[1], width, depth, len(self.parts)).to(probe.device)

    def logits(self, x: Tensor, t: Tensor) -> Tensor:
        """`log w_i(x, t)` up to a constant, `(B, parts)`."""
        prior = torch.tensor(self.shares, dtype=x.dtype, device=x.device).log()
        logits: Tensor = self.net(time_features(x, t))
        return prior + logits

    def shares_at(self, x: Any, t: Tensor) -> list[Tensor]:
        return list(self.logits(x, t).softmax(-1).unbind(-1))

    def fit(
        self,
        *,
        points: int = 8192,
        steps: int = 1000,
        batch: int = 512,
        lr: float = 5e-3,
        nfe: int = 40,
        seed: int = 0,
    ) -> Gate:
        """This gate with its posterior learned from `points` samples of each part."""
        drawn = [
            flow.draw_states(points, seed=seed * 1000 + k, nfe=nfe)
            for k, flow in enumerate(self._flows)
        ]
        noise = BatchNoise(seed, self.device)
        shares = torch.tensor(self.shares, device=self.device)
        fitting = Fitting(self, lr, steps, cosine=True)
        for _ in range(steps):
            part = torch.multinomial(shares, batch, True, generator=noise.generator)
            row = torch.randint(points, (batch,), generator=noise.generator, device=self.device)
            x1 = torch.stack(drawn)[part, row]
            t = noise.uniform(batch)
            xt = self.path.sample(self.noise_like(x1, noise), x1, t)
            gate = fitting.flow
            assert isinstance(gate, Gate)
            fitting.update(nn.functional.cross_entropy(gate.logits(xt, t), part))
        gate = fitting.result()
        assert isinstance(gate, Gate)
        return gate


def average(flows: Sequence[Flow], shares: Sequence[float]) -> Flow | None:
    """A flow with the weights of several, averaged; None if they are not of one architecture.

    Arguments:
        shares: of the flows, one in sum.
    """
    first, *others = flows
    shapes = [{k: v.shape for k, v in flow.state_dict().items()} for flow in flows]
    if any(type(flow) is not type(first) for flow in others) or any(
        shape != shapes[0] for shape in shapes
    ):
        return None
    mean = copy.deepcopy(first)
    with torch.no_grad():
        for target, *parts in zip(
            mean.parameters(), *(flow.parameters() for flow in flows), strict=True
        ):
            target.copy_(sum(w * part.to(target) for w, part in zip(shares, parts, strict=True)))
    return mean


def distil(
    starts: Sequence[Flow],
    teachers: Sequence[Flow],
    drawn: Sequence[Any],
    shares: Sequence[float] = (1.0,),
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int = 0,
    watch: Callable[[int, int], object] = lambda done, total: None,
    file: Path | None = None,
) -> Flow:
    r"""One flow trained to have the endpoints of `teachers`, each at noisy versions of its samples.

    With one teacher it becomes that flow: one network for what takes several. With more it becomes
    their mixture: the mean of what it is shown at `x` is

        sum_i w_i p_{i,t}(x) x1_hat_i(x) / sum_i w_i p_{i,t}(x),

    the mixture's endpoint. Flow matching on the samples has the same mean, but a target with the
    whole noise of `x_1` given `x_t`; here only which teacher it was is left of that.

    Arguments:
        starts: flows to start from; the one with the least loss is taken.
        drawn: data states of each teacher, of one shape or several.
        shares: of the teachers, one in sum.
        steps, batch, lr: of the optimiser, as in `WeightedFlowMatching`; the batch is shared out.
        watch: called after every step, with how many are done, and of how many.
        file: where what has been learned is written once a minute, and is taken up from.

    Raises:
        UserError: if the fit diverges, or the file is of another one.
    """
    banks = [ReplayBuffer.of(x, torch.zeros(sum(map(batch_of, groups_of(x))))) for x in drawn]

    def loss(student: Flow, noise: BatchNoise, rows_of: torch.Generator) -> Tensor:
        total = torch.zeros((), device=student.device)
        for teacher, bank, share in zip(teachers, banks, shares, strict=True):
            size = max(1, round(batch * share))
            group, rows = bank.minibatch(size, rows_of)
            x1 = select(bank.states[group], rows).to(student.device)
            t = student.draw_times(stratified(size, noise))
            xt = student.path.sample(student.noise_like(x1, noise), x1, t)
            with torch.no_grad():
                target = teacher.endpoint(xt, t)
            errors = student.endpoint_error(student.endpoint(xt, t), target, t)
            total = total + share * errors.mean()
        return total

    @torch.no_grad()
    def before(start: Flow) -> float:
        noise, rows_of = BatchNoise(seed, start.device), torch.Generator().manual_seed(seed)
        return sum(float(loss(start, noise, rows_of)) for _ in range(_TRIALS))

    fitting = Fitting(min(starts, key=before), lr, steps, cosine=True)
    noise = BatchNoise(seed, fitting.flow.device)
    rows_of = torch.Generator().manual_seed(seed)
    return fitting.run(
        lambda flow: loss(flow, noise, rows_of), [noise.generator, rows_of], watch, file
    )
