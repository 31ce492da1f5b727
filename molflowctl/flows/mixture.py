r"""A flow whose data are a Gaussian mixture: velocity, score and density in closed form.

With components `N(m_k, s_k^2 I)` and noise `N(0, C)`, `x_t` has components
`N(a m_k, a^2 s_k^2 I + b^2 C)`, so every quantity that control estimates is known exactly here: no
pre-training error, and optima in closed form. A learned correction `b_t net(x, t)` of the endpoint,
zero at first, is what training and control move.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from molflowctl.flows.covariance import Dense
from molflowctl.flows.flow import Flow
from molflowctl.flows.guided import Guided
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.path import CosinePath, LinearPath, Path

__all__ = ["GuidedMixtureFlow", "MixtureFlow", "Scalar", "perceptron", "time_features"]

PATHS: dict[str, Path] = {"linear": LinearPath(), "cosine": CosinePath()}
FREQUENCIES = 4


class MixtureFlow(Flow):
    """The exact flow of a Gaussian mixture, with an optional learned correction.

    Arguments:
        weights: of the K components; positive, scaled to add up to one.
        means: K points in d dimensions.
        sds: K standard deviations, the same in all directions.
        covariance: `(d, d)` of the noise; None for the identity.
        path: "linear" or "cosine".
        width, depth: hidden layers of the correction; a width of 0 means none.

    Raises:
        ValueError: if the parts do not fit together.
    """

    kind: ClassVar[str] = "mixture"

    log_weights: Tensor
    means: Tensor
    variances: Tensor
    basis: Tensor
    spread: Tensor

    def __init__(
        self,
        weights: list[float],
        means: list[list[float]],
        sds: list[float],
        covariance: list[list[float]] | None = None,
        path: str = "linear",
        width: int = 0,
        depth: int = 2,
    ) -> None:
        super().__init__(
            weights=weights, means=means, sds=sds, covariance=covariance, path=path, width=width,
            depth=depth,
        )  # fmt: skip
        w, m, s = (torch.tensor(v, dtype=torch.float32) for v in (weights, means, sds))
        if not len(w) == len(m) == len(s) or m.ndim != 2 or min(w.min(), s.min()) <= 0:
            raise ValueError(
                "a mixture needs as many positive weights and standard deviations as means, and "
                "every mean a list of coordinates"
            )
        d = m.shape[1]
        c = torch.eye(d) if covariance is None else torch.tensor(covariance)
        if covariance is not None:
            self.covariance = Dense(c)
        spread, basis = torch.linalg.eigh(c.double())
        self.path = PATHS[path]
        self.register_buffer("log_weights", (w / w.sum()).log())
        self.register_buffer("means", m)
        self.register_buffer("variances", s.square())
        # Components are round, so the noise's own axes make every covariance diagonal.
        self.register_buffer("basis", basis.float(), persistent=False)
        self.register_buffer("spread", spread.float(), persistent=False)
        self.net = perceptron(d, width, depth, d) if width else None

    @property
    def dimension(self) -> int:
        """`d`."""
        return self.means.shape[1]

    def trainable(self, width: int = 64, depth: int = 2) -> MixtureFlow:
        """The same flow with a correction, zero so far; a flow that has one as it is."""
        if self.net is not None:
            return self
        return MixtureFlow(**{**self.arguments, "width": width, "depth": depth}).to(self.device)

    def value_network(self, width: int = 64, depth: int = 2) -> nn.Module:
        return Scalar(perceptron(self.dimension, width, depth, 1)).to(self.device)

    def state_space(self) -> str:
        return f"vectors of {self.dimension} dimensions"

    def start(self, batch: int, noise: BatchNoise) -> Tensor:
        x: Tensor = self.noise_like(self.means.new_empty(batch, self.dimension), noise)
        return x

    def endpoint(self, x: Tensor, t: Tensor) -> Tensor:
        a, b, _, _ = (torch.as_tensor(c, dtype=x.dtype)[..., None] for c in self._times(t))
        gap, variance = self._components(x, a, b)
        posterior = self._log_posterior(gap, variance).softmax(-1)[..., None]
        shrink = a[..., None] * self.variances.to(x)[:, None] / variance
        means = self.means.to(x) @ self.basis.to(x)
        exact = (posterior * (means + shrink * gap)).sum(-2) @ self.basis.to(x).T
        return exact if self.net is None else exact + b * self.net(time_features(x, t))

    def log_density(self, x: Tensor) -> Tensor:
        """`log p_1(x)` of the mixture, `(B,)`, natural logarithm.

        Raises:
            ValueError: with a correction, whose density has no closed form
                (`flows/likelihood.py` integrates it).
        """
        if self.net is not None:
            raise ValueError("a corrected mixture has no closed form: integrate its likelihood")
        one = x.new_ones(1)
        gap, variance = self._components(x, one, one - 1)
        return self._log_posterior(gap, variance).logsumexp(-1)

    def exact_sample(self, n: int, seed: int = 0) -> Tensor:
        """`n` independent points of the mixture itself, `(n, d)`, without any integration."""
        noise = BatchNoise(seed, self.device)
        pick = torch.multinomial(self.log_weights.exp(), n, True, generator=noise.generator)
        spread = self.variances[pick].sqrt()[:, None]
        return self.means[pick] + spread * noise.normal(n, self.dimension)

    def _times(self, t: Tensor) -> Any:
        return self.path.coefficients(t)

    def _components(self, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """`x - a m_k` along the noise's axes and the variances there, both `(B, K, d)`."""
        basis = self.basis.to(x)
        gap = (x @ basis)[:, None] - a[..., None] * (self.means.to(x) @ basis)
        variance = (a.square() * self.variances.to(x))[..., None]
        return gap, variance + (b.square()[..., None] * self.spread.to(x)).expand_as(gap)

    def _log_posterior(self, gap: Tensor, variance: Tensor) -> Tensor:
        """Log of weight times density of each component, `(B, K)`."""
        quadratic = gap.square() / variance + variance.log() + math.log(2 * math.pi)
        return self.log_weights.to(gap) - 0.5 * quadratic.sum(-1)


class GuidedMixtureFlow(Guided, MixtureFlow):
    """A Gaussian mixture's flow along the gradient of a value of its noisy states."""

    kind: ClassVar[str] = "mixture-guided"

    def log_density(self, x: Tensor) -> Tensor:
        """Raise `ValueError` for any states: with a value, the density has no closed form."""
        raise ValueError("a guided mixture has no closed form: integrate its likelihood")


class Scalar(nn.Module):
    """A number `(B,)` for each `x (B, d)` and `t (B,)`."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Values at states `(B, d)` and times `(B,)`, `(B,)`."""
        value: Tensor = self.net(time_features(x, t))
        return value.squeeze(-1)


def perceptron(inputs: int, width: int, depth: int, outputs: int) -> nn.Sequential:
    """A network on `time_features` of `inputs` dimensions, zero at first."""
    layers: list[nn.Module] = []
    for k in range(depth):
        layers += [nn.Linear(width if k else inputs + 2 * FREQUENCIES + 1, width), nn.SiLU()]
    last = nn.Linear(width, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def time_features(x: Tensor, t: Tensor) -> Tensor:
    """`x (B, d)` with `t (B,)` and its first sines and cosines beside it."""
    angle = t[:, None] * (math.pi * torch.arange(1, FREQUENCIES + 1, device=t.device))
    return torch.cat([x, t[:, None], angle.sin(), angle.cos()], -1).to(x)
