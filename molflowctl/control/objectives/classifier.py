"""The log-ratio of two densities as a classifier learns it, and how well it is calibrated."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molflowctl.control.objectives.ratios import flat, heun_sample
from molflowctl.flows.flow import Flow
from molflowctl.flows.state import AnyState, first_part, select

__all__ = ["Calibration", "Classifier", "Fit"]


@dataclass(frozen=True)
class Calibration:
    """How far held-out points of `p` and `q` bear a classifier out.

    Arguments:
        loss: cross entropy, nats; `log 2` for flows that cannot be told apart.
        error: expected calibration error: the mean gap between the probability that is claimed
            and the share of `p` found, over ten bins of equal numbers of points.
        mass: `E_q[ratio]`, one for a ratio of densities.
    """

    loss: float
    error: float
    mass: float


@dataclass(frozen=True)
class Fit:
    """A classifier that was trained: `logit(x)` is `log p(x) - log q(x)`."""

    logit: Callable[[Any], Tensor]
    calibration: Calibration


@dataclass(frozen=True)
class Classifier:
    """The logit of a network trained to tell points of `p` from points of `q`.

    It sees what the flows really generate, and costs nothing more once it is trained; its error
    is that of a density ratio learned from samples, largest where either flow has few.

    Arguments:
        network: states to logits `(B,)`, trained in place on a copy; None for a perceptron on all
            coordinates of the state.
        samples: drawn from either flow; a fifth is held out.
        steps, batch, lr: of AdamW; the weights of the lowest held-out loss are kept.
        draw: `(flow, n, seed)` to `n` states; None for `flow.sample` by Heun's rule.
        seed: of samples and training.

    References:
        Sugiyama, Suzuki, Kanamori, Density Ratio Estimation in Machine Learning, 2012.
        Guo et al., On Calibration of Modern Neural Networks, 2017, arXiv 1706.04599.
    """

    network: nn.Module | None = None
    samples: int = 8192
    steps: int = 1000
    batch: int = 512
    lr: float = 3e-3
    draw: Callable[[Flow, int, int], Any] | None = None
    seed: int = 0

    def __call__(self, p: Flow, q: Flow, x: Any) -> Tensor:
        with torch.no_grad():
            return self.fit(p, q).logit(x)

    def fit(self, p: Flow, q: Flow) -> Fit:
        """Draw, train, and measure on the points held out."""
        draw = self.draw or heun_sample
        points = [draw(flow, self.samples, 2 * self.seed + k) for k, flow in enumerate((p, q))]
        cut = self.samples - self.samples // 5
        train = [select(part, slice(0, cut)) for part in points]
        held = [select(part, slice(cut, None)) for part in points]
        network = self._train(train, held)
        with torch.no_grad():
            logits = [network(part) for part in held]
        return Fit(network, _calibration(*logits))

    @torch.enable_grad()
    def _train(self, train: list[Any], held: list[Any]) -> nn.Module:
        rows = torch.Generator().manual_seed(self.seed)
        if self.network is not None:
            network = copy.deepcopy(self.network)
        else:
            with torch.random.fork_rng():
                torch.manual_seed(self.seed)
                network = _Perceptron(train)
        best, kept = float("inf"), copy.deepcopy(network.state_dict())
        optimiser = torch.optim.AdamW(network.parameters(), lr=self.lr, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        for step in range(1, self.steps + 1):
            pick = [torch.randint(len(first_part(t)), (self.batch,), generator=rows) for t in train]
            logits = [network(select(t, r)) for t, r in zip(train, pick, strict=True)]
            optimiser.zero_grad()
            _cross_entropy(*logits).backward()
            optimiser.step()
            schedule.step()
            if step % max(1, self.steps // 20) == 0:
                with torch.no_grad():
                    loss = float(_cross_entropy(*(network(part) for part in held)))
                if loss < best:
                    best, kept = loss, copy.deepcopy(network.state_dict())
        network.load_state_dict(kept)
        return network.requires_grad_(False).eval()


class _Perceptron(nn.Module):
    """Three hidden layers on the standardised coordinates of a state, and their squares."""

    shift: Tensor
    scale: Tensor

    def __init__(self, train: list[Any], width: int = 64) -> None:
        super().__init__()
        x = torch.cat([flat(part) for part in train])
        self.register_buffer("shift", x.mean(0))
        self.register_buffer("scale", x.std(0).clamp_min(1e-6))
        d = x.shape[1]
        self.layers = nn.Sequential(
            *(nn.Linear(2 * d, width), nn.SiLU()),
            *(nn.Linear(width, width), nn.SiLU()),
            *(nn.Linear(width, width), nn.SiLU()),
            nn.Linear(width, 1),
        ).to(x)

    def forward(self, x: AnyState) -> Tensor:
        z = (flat(x) - self.shift) / self.scale
        logits: Tensor = self.layers(torch.cat([z, z.square()], -1))
        return logits[:, 0]


def _cross_entropy(of_p: Tensor, of_q: Tensor) -> Tensor:
    return 0.5 * (F.softplus(-of_p).mean() + F.softplus(of_q).mean())


def _calibration(of_p: Tensor, of_q: Tensor) -> Calibration:
    """From the logits of held-out points of either flow."""
    claimed = torch.cat([of_p, of_q]).sigmoid()
    found = torch.cat([torch.ones_like(of_p), torch.zeros_like(of_q)])
    bins = claimed.argsort().tensor_split(10)
    gaps = [(claimed[b].mean() - found[b].mean()).abs() * len(b) for b in bins if len(b)]
    return Calibration(
        loss=float(_cross_entropy(of_p, of_q)),
        error=float(torch.stack(gaps).sum() / len(claimed)),
        mass=float(of_q.double().exp().mean()),
    )
