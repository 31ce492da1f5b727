r"""A flow that is drawn along the gradient of a value of its noisy states.

If `V_t(x) = log E[W | x_t = x]` for points `x_1` of the flow's density `p`, then `p_t exp(V_t)` is
what noise makes of `p W`, and the endpoint of its flow is

    E[x_1 | x_t = x] + d_t(x),    d_t(x) = (b^2 / a) C grad V_t(x) .

So a value is all there is to learn about a tilt: the flow stays what it is.

References:
    Dhariwal, Nichol, 2021, arXiv 2105.05233 (guidance by the gradient of a network of noisy
    states). Uehara et al., 2024, arXiv 2402.15194 (the optimal drift is the gradient of the soft
    value).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from molflowctl.flows.flow import Flow
from molflowctl.flows.path import Path
from molflowctl.flows.state import State, times

__all__ = ["Guided", "guidance"]


def guidance(
    flow: Flow, value: nn.Module, x: Any, t: Tensor, window: tuple[float, float] = (0, 1)
) -> Any:
    """`d_t(x)`, of the shape of `x`.

    Arguments:
        flow: whose path and noise covariance count.
        value: `V`, `(x, t) -> (B,)`, in nats.
        x: states; t: their times, `(B,)`.
        window: the times outside which it is zero.
    """
    return _guided(flow, lambda y: (y, value(y, t)), x, t, window)[1]


def _guided(
    flow: Flow,
    look: Callable[[Any], tuple[Any, Tensor]],
    x: Any,
    t: Tensor,
    window: tuple[float, float],
) -> tuple[Any, Any]:
    """What `look`, `x -> (a state, V)`, says first, and `d_t(x)`."""
    parts = _parts(x)
    # Where `x` is differentiated, for a likelihood for instance, so is this.
    follow = torch.is_grad_enabled() and any(part.requires_grad for part in parts.values())
    with torch.enable_grad():
        leaves = {
            name: part if follow and part.requires_grad else part.detach().requires_grad_()
            for name, part in parts.items()
        }
        seen, value = look(_like(x, leaves))
        slopes = torch.autograd.grad(
            value.sum(), list(leaves.values()), create_graph=follow, materialize_grads=True
        )
    slope = _like(x, dict(zip(leaves, slopes, strict=True)))
    a, b, _, _ = map(torch.as_tensor, flow.path.coefficients(t))
    reach = torch.where(_within(t, window), b.square() / a.clamp_min(1e-3), 0.0)
    if not follow:
        seen = _like(seen, {k: v.detach() for k, v in _parts(seen).items()})
    return seen, flow.covariance.power(times(reach, slope), 1.0)


class Guided(Flow):
    """What a kind of flow is mixed with, before it, to be guided by a value, zero at first.

    Attributes:
        value: `V`, of what is seen of states (`see`) and their times to `(B,)`, in nats.
        window: the times between which it guides. Hardly anything of an outcome is known early,
            and `b^2 / a` multiplies the error of what is; near the data all is decided.
    """

    window: ClassVar[tuple[float, float]] = (0.05, 1.0)
    value: nn.Module

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for kind in cls.__bases__:
            if kind is not Guided and issubclass(kind, Flow):
                kind.guided_as = cls

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.requires_grad_(False)
        self.value = _Anchored(self.reader(), self.path)

    @classmethod
    def of(cls, flow: Flow) -> Self:
        """A flow with a value that is zero."""
        guided = cls(**flow.arguments).to(flow.device)
        guided.load_state_dict(flow.state_dict(), strict=False)
        guided.card = {k: flow.card[k] for k in ("sampling",) if k in flow.card}
        return guided.eval()

    def guided(self) -> Self:
        return copy.deepcopy(self)

    def draw_times(self, uniform: Tensor) -> Tensor:
        """Times to learn at, `(B,)`, more of them early, where errors count by `b^2 / a`."""
        first, last = self.window
        return first * (last / first) ** uniform

    def reader(self) -> nn.Module:
        """A new network, of what is seen and its times to `(B,)`, zero everywhere."""
        return self.value_network()

    def see(self, x: Any, t: Tensor) -> Any:
        """What the value reads of states: themselves, or what the flow's network makes of them."""
        return x

    def end_seen(self, seen: Any, x: Any, t: Tensor) -> Any:
        """The unguided endpoint, of the shape of `x`, from what is seen of the states."""
        return super().endpoint(x, t)

    def endpoint(self, x: Any, t: Tensor) -> Any:
        if not bool(_within(t, self.window).any()):
            return super().endpoint(x, t)  # what is not asked for is not worked out

        def look(y: Any) -> tuple[Any, Tensor]:
            seen = self.see(y, t)
            return self.end_seen(seen, y, t), self.value(seen, t)

        end, shift = _guided(self, look, x, t, self.window)
        return end + shift


class _Anchored(nn.Module):
    """A value that is zero where the signal is, as `V_0 = log E[W]` is: a network times `a`.

    What an error of the network does to the endpoint is then bounded early.
    """

    def __init__(self, network: nn.Module, path: Path) -> None:
        super().__init__()
        self.network, self.path = network, path

    def forward(self, seen: Any, t: Tensor) -> Tensor:
        value: Tensor = self.network(seen, t)
        return torch.as_tensor(self.path.coefficients(t)[0]) * value


def _parts(x: Any) -> dict[str, Tensor]:
    """The parts of a state, or a tensor as the only one."""
    return dict(x.items()) if isinstance(x, State) else {"": x}


def _like(x: Any, parts: dict[str, Tensor]) -> Any:
    """A state of other parts, or the only one where `x` is a tensor."""
    return State(x.given, **parts) if isinstance(x, State) else parts[""]


def _within(t: Tensor, window: tuple[float, float]) -> Tensor:
    return (t >= window[0]) & (t <= window[1])
