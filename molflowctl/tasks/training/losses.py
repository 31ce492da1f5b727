"""What a training step asks of a flow: its loss, at times that the run chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from molflowctl.flows.flow import Flow
from molflowctl.flows.noise import BatchNoise

__all__ = ["Losses", "times_after", "times_before"]


class _Timed(Protocol):
    def draw_times(self, uniform: Tensor) -> Tensor: ...


class Losses(nn.Module):
    """The training loss as a module's `forward`, which data-parallel wrappers synchronise.

    Arguments:
        encode: the flow of a batch of molecules, and the states of these.
        times_from: the earliest time at which the data are learned.
        began: what the flow was when it began, which it is held to: at earlier times, or at all
            times if there are none; None for a flow that is not held.
    """

    def __init__(
        self,
        flow: Flow,
        encode: Callable[..., tuple[Any, Any]],
        times_from: float = 0.0,
        began: Flow | None = None,
    ) -> None:
        super().__init__()
        self.flow, self.encode, self.times_from = flow, encode, times_from
        self.began = None if began is None else began.requires_grad_(False).eval()

    def forward(
        self, batch: tuple[Tensor, ...], uniform: Tensor, noise: BatchNoise, hold: bool = False
    ) -> Tensor:
        """The loss per molecule, `(B,)`, of `uniform` numbers in [0, 1), which give the times.

        Arguments:
            hold: to what the flow was, if it is held to that, in place of learning from the data.
        """
        flow, x1 = self.encode(self.flow, batch)
        if self.began is None or not hold:
            return flow.loss(x1, times_after(flow, uniform, self.times_from), noise)  # type: ignore[no-any-return]
        before, _ = self.encode(self.began, batch)
        t = flow.draw_times(uniform)
        if self.times_from:
            t = times_before(flow, uniform, self.times_from)
        xt = flow.path.sample(flow.noise_like(x1, noise), x1, t)
        with torch.no_grad():
            target = before.endpoint(xt, t)
        return flow.endpoint_error(flow.endpoint(xt, t), target, t)  # type: ignore[no-any-return]


def times_after(flow: _Timed, uniform: Tensor, start: float) -> Tensor:
    """Training times of `flow` from `start` on, as dense there as the flow's own."""
    if start == 0:
        return flow.draw_times(uniform)
    earlier = _share_before(flow, start, uniform)
    return flow.draw_times(earlier + (1 - earlier) * uniform).clamp(min=start)


def times_before(flow: _Timed, uniform: Tensor, start: float) -> Tensor:
    """The same before it."""
    return flow.draw_times(_share_before(flow, start, uniform) * uniform).clamp(max=start)


def _share_before(flow: _Timed, start: float, like: Tensor) -> Tensor:
    """Of the flow's training times."""
    every = flow.draw_times(torch.linspace(0, 1, 4001, device=like.device)[:-1])
    return (every < start).to(like).mean()
