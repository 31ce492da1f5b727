"""Exact flows that several solvers are tried on."""

import pytest
import torch

from molflowctl.flows.flow import Flow
from molflowctl.flows.state import State


class Pair(Flow):
    """Two unit Gaussians as parts of one state, which learns their means."""

    def __init__(self) -> None:
        super().__init__()
        self.means = torch.nn.ParameterDict({"a": torch.zeros(1), "b": torch.zeros(1)})

    def noise_like(self, x, noise):
        return x.map(lambda part: noise.normal(*part.shape))

    def start(self, batch, noise):
        return self.noise_like(State(a=torch.empty(batch, 1), b=torch.empty(batch, 1)), noise)

    def endpoint(self, x, t):
        t = t[:, None]
        k = t / (t**2 + (1 - t) ** 2)
        # A mean of `m` moves the endpoint by `m - t k m`.
        return State(**{name: k * y + (1 - t * k) * self.means[name] for name, y in x.items()})


@pytest.fixture
def pair():
    """The class `Pair`."""
    return Pair
