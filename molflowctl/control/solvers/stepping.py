"""A whole tilt in mirror steps, for inner solvers that learn from scored samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from molflowctl.control.bank import ReplayBuffer
from molflowctl.control.objectives.density import as_density
from molflowctl.control.solvers.solver import Tilt
from molflowctl.control.walk import Annealing
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.state import on_cpu, select

__all__ = ["Noised", "Stepping", "noised"]


class Noised(NamedTuple):
    """A minibatch of a bank, `(B, ...)`, at random times.

    Attributes:
        x1: the states; xt: they with noise of the times t, `(B,)`.
        group, rows: where in the bank they are.
    """

    x1: Any
    xt: Any
    t: Tensor
    group: int
    rows: Tensor

    def of(self, values: list[Tensor]) -> Tensor:
        """Theirs of the values of a bank's points, `(B,)`."""
        return values[self.group][self.rows].to(self.t.device)


def noised(
    bank: ReplayBuffer,
    flow: Flow,
    draw_times: Callable[[Tensor], Tensor],
    steps: int,
    size: int,
    seed: int,
) -> Iterator[Noised]:
    """Minibatches of a bank, one for each step, noised along the path of a flow.

    Arguments:
        draw_times: numbers in [0, 1), `(size,)`, to times.
    """
    noise = BatchNoise(seed, flow.device)
    rows_of = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        group, rows = bank.minibatch(size, rows_of)
        x1 = select(bank.states[group], rows).to(flow.device)
        t = draw_times(noise.uniform(size))
        yield Noised(x1, flow.path.sample(flow.noise_like(x1, noise), x1, t), t, group, rows)


class Stepping(ABC):
    """An inner solver that takes a tilt in steps, each from a bank of samples of where it is.

    Attributes:
        title: of the solver, for messages.
        rounds: mirror steps of a whole tilt.
        points: drawn from the current flow per round.
        nfe: of the network per point.
    """

    title: ClassVar[str]
    rounds: int
    points: int
    nfe: int

    @abstractmethod
    def mirror_step(
        self, flow: Flow, bank: ReplayBuffer, strength: float, seed: int = 0, rate: float = 1.0
    ) -> Flow:
        """The flow of `p exp(strength * r) / Z`, for `p` the flow that the bank was drawn from.

        Arguments:
            flow: the current flow; it stays as it is.
            bank: its samples with their rewards.
            strength: of the tilt, in units of one over reward.
            rate: factor of the learning rate.
        """

    def solve(self, tilt: Tilt) -> Flow:
        """The flow of `base exp(reward) / Z`.

        From the bank of a tilt it is one mirror step; without one, `rounds` steps of equal
        strength, where every sample drawn on the way stays in use (control/walk.py).

        Raises:
            UserError: for a running reward, which has no values here, or if a fit diverges.
        """
        if tilt.running is not None:
            raise UserError(f"{self.title} has no use for a running reward.")
        if tilt.bank is not None:
            rate = 1 - 0.75 * tilt.behind
            return self.mirror_step(tilt.flow, tilt.bank, 1.0, seed=tilt.seed, rate=rate)
        flow: Flow = tilt.base.trainable()
        walk: Annealing | None = None
        for k in range(self.rounds):
            seed = tilt.seed * 1000 + k
            x = on_cpu(flow.draw_states(self.points, seed=seed, nfe=self.nfe))
            if walk is None:
                walk = Annealing(as_density(tilt.base), x)
            else:
                walk.went(x)
            sample = walk.sample()
            bank = ReplayBuffer.of(sample.states, tilt.reward.value(sample), sample.weights)
            # Each step adds gradient noise to the last one's: the late ones tread more softly.
            rate = 1 - 0.75 * k / self.rounds
            flow = self.mirror_step(flow, bank, 1 / self.rounds, seed=seed, rate=rate)
            walk.reward = ((k + 1) / self.rounds) * tilt.reward
        return flow
