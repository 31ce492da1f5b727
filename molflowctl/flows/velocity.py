r"""A network of one's own as a flow: whatever it predicts on a Gaussian path.

On `x_t = a_t x_1 + b_t x_0`, noise `x_0 ~ N(0, C)` drawn independently of the data `x_1`, all that
networks are trained to predict is one knowledge, the endpoint `D = E[x_1 | x_t]`, in other units
(`W = a' b - a b'`):

    prediction      the network's                                   endpoint
    "velocity"      v = E[dx_t/dt | x_t]                            (b v - b' x) / W
    "endpoint"      D                                               D
    "noise"         e = E[x_0 | x_t]                                (x - b e) / a
    "score"         s = grad log p_t(x_t)                           (x + b^2 C s) / a
    "v-prediction"  a e - b D, diffusers' (of paths with a^2 + b^2 = 1)     a x - b v

    model = VelocityFlow(network, LinearPath(), "velocity", shape=(2,))
    tuned = FlowDensityControl(objective, AdjointMatching()).run(model)

That needs the independence: where noise was paired with data (optimal transport, alignment), the
network's velocity is that of its coupling, and its score is another. `calibration` measures it.

References:
    Lipman et al., Flow matching for generative modeling, 2022, arXiv 2210.02747.
    Tong et al., Improving and generalizing flow-based generative models with minibatch optimal
        transport, 2023, arXiv 2302.00482 (torchcfm).
    Salimans, Ho, Progressive distillation, 2022, arXiv 2202.00512 (v-prediction).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from molflowctl.errors import UserError
from molflowctl.flows.covariance import Covariance, Isotropic
from molflowctl.flows.flow import Flow
from molflowctl.flows.guided import Guided
from molflowctl.flows.mixture import Scalar, perceptron
from molflowctl.flows.noise import BatchNoise, Noise
from molflowctl.flows.path import LinearPath, expand_time
from molflowctl.flows.path import Path as ProbabilityPath
from molflowctl.flows.schedule import SchedulePath
from molflowctl.flows.state import State, batch_of, concatenate, dot, first_part, times

__all__ = [
    "CalibrationRow",
    "GuidedVelocityFlow",
    "VelocityFlow",
    "calibration",
    "from_scheduler",
]

Prediction = Literal["velocity", "endpoint", "noise", "score", "v-prediction"]
Shape = Sequence[int] | Mapping[str, Sequence[int]]
Call = Literal["x, t", "t, x", "x and t joined"] | Callable[[nn.Module, Any, Tensor], Any]

# Where the path has less signal, noise and score say nothing of the endpoint: an error of theirs
# counts by 1/a. They are asked at the time where it has this much.
SIGNAL = 0.005
_OTHER = 0xCA11B
SMALL = 64  # coordinates up to which a likelihood takes exact traces


class VelocityFlow(Flow):
    """A flow of a network that is there already.

    Arguments:
        network: any module; it is not copied, and not changed: solvers train copies of it.
        path: of its training, see flows/path.py and flows/schedule.py.
        prediction: what it predicts, see above.
        shape: of one state, `(2,)` or `(3, 32, 32)`, or of each named part,
            `{"positions": (5, 3), "types": (5, 4)}`: then the network takes and gives a `State`.
        call: how it is called, with states `(B, *shape)` and times `(B,)`: `"x, t"`; `"t, x"`
            (torchcfm's `UNetModel`); `"x and t joined"` (torchcfm's `MLP`: one tensor `(B, d + 1)`
            with the time last); or a function `(network, x, t)`, where a condition or a time of
            another sense has its place: `lambda net, x, t: -net(x, 1 - t)`. On a `SchedulePath`
            the time is the timestep, int64. An answer with a `.sample` is that.
        covariance: of the noise; the identity by default.
        value: makes a network `(x, t) -> (B,)`, zero everywhere, that solvers by values learn; None
            for a perceptron, where the shape is `(d,)`.

    The network stays in evaluation mode, also while it is trained: dropout would be noise in a
    control. States are in the units of its training.

    Raises:
        UserError: if the parts do not fit together; the message names the culprit.
    """

    kind: ClassVar[str] = "velocity"

    # An error of the endpoint counts by the inverse square of it: at 0.05 two networks, trained on
    # Gaussians of spread 0.6, led an intersection by adjoint matching away from both, at 0.2 to it.
    near_data = 0.2

    def __init__(
        self,
        network: nn.Module,
        path: ProbabilityPath | None = None,
        prediction: Prediction = "velocity",
        *,
        shape: Shape,
        call: Call = "x, t",
        covariance: Covariance | None = None,
        value: Callable[[], nn.Module] | None = None,
    ) -> None:
        path = LinearPath() if path is None else path
        described = [network, path, prediction, shape, call]
        if not isinstance(network, nn.Module):
            raise UserError(
                f"a VelocityFlow is of a torch.nn.Module, not of {network!r}. A saved flow of this "
                f"kind holds the weights of a network that is yours to build: "
                f"VelocityFlow(network, path, ...).stored(folder) reads them. A subclass with a "
                f"kind and arguments of its own is found by name (docs/own-flow.md)."
            )
        if prediction not in get_args(Prediction):
            known = ", ".join(get_args(Prediction))
            raise UserError(f"a network predicts one of {known}, not {prediction!r}.")
        if not isinstance(path, ProbabilityPath):
            raise UserError(f"{path!r} is no path: give LinearPath() or another of flows/path.py.")
        if prediction == "v-prediction":
            a, b, _, _ = path.coefficients(0.5)
            if not math.isclose(a * a + b * b, 1, rel_tol=1e-4):
                raise UserError(f"a v-prediction is of paths that keep the variance, not {path!r}.")
        if isinstance(call, str) and call not in _CALLS:
            raise UserError(f"call is one of {', '.join(map(repr, _CALLS))} or a function.")
        super().__init__(**dict(zip(_DESCRIBED, map(_plain, described), strict=True)))
        self.network, self.path, self.prediction = network, path, prediction
        self.shape = dict(shape) if isinstance(shape, Mapping) else tuple(shape)
        self.call, self.value_of = call, value
        self.covariance = Isotropic() if covariance is None else covariance
        self.earliest = _earliest(path) if prediction in ("noise", "score") else 0.0
        shapes = list(self.shape.values()) if isinstance(self.shape, dict) else [self.shape]
        if sum(math.prod(part) for part in shapes) > SMALL:
            self.trace = "hutchinson"
        self.eval()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.network.eval()
        return self

    def trainable(self) -> VelocityFlow:
        """This flow; a copy with gradients if the network was frozen."""
        if any(p.requires_grad for p in self.network.parameters()):
            return self
        flow = copy.deepcopy(self)
        flow.network.requires_grad_(True)
        return flow

    def state_space(self) -> str:
        if isinstance(self.shape, dict):
            return f"states of the shapes {self.shape}"
        if len(self.shape) == 1:
            return f"vectors of {self.shape[0]} dimensions"
        return f"tensors of the shape {self.shape}"

    def start(self, batch: int, noise: BatchNoise) -> Any:
        def empty(shape: Sequence[int]) -> Tensor:
            return torch.empty(batch, *shape, device=self.device)

        if isinstance(self.shape, dict):
            return self.noise_like(State(**{k: empty(v) for k, v in self.shape.items()}), noise)
        return self.noise_like(empty(self.shape), noise)

    def predict(self, x: Any, t: Tensor) -> Any:
        """What the network says at `(x, t)`, in its own units.

        Raises:
            UserError: if it is no state of the shape of `x`.
        """
        asked = self.path.timestep(t) if isinstance(self.path, SchedulePath) else t
        call = _CALLS[self.call] if isinstance(self.call, str) else self.call
        found = call(self.network, x, asked)
        found = found if isinstance(found, Tensor | State) else getattr(found, "sample", found)
        if _shapes(found) != _shapes(x):
            raise UserError(
                f"the network gave {_shapes(found)} for states of {_shapes(x)}: say by `call` how "
                f"to ask it."
            )
        return found

    def endpoint(self, x: Any, t: Tensor) -> Any:
        t = self._asked(t)
        said = self.predict(x, t)
        a, b, _, _ = self.path.coefficients(t)
        match self.prediction:
            case "endpoint":
                return said
            case "velocity":
                return self.path.endpoint(said, x, t)
            case "noise":
                return times(1 / a, x - times(b, said))
            case "score":
                return times(1 / a, x + times(b**2, self.covariance.power(said, 1.0)))
        return times(a, x) - times(b, said)

    def velocity(self, x: Any, t: Tensor) -> Any:
        if self.prediction == "velocity" and not isinstance(self.path, SchedulePath):
            return self.predict(x, t)
        return super().velocity(x, t)

    def loss(self, x1: Any, t: Tensor, noise: Noise) -> Tensor:
        """The squared error of what the network predicts, `(B,)`: what it was trained by."""
        t = self._asked(t)
        x0 = self.noise_like(x1, noise)
        xt = self.path.sample(x0, x1, t)
        a, b, _, _ = self.path.coefficients(t)
        said = self.predict(xt, t)
        match self.prediction:
            case "endpoint":
                return self.endpoint_error(said, x1, t)
            case "velocity":
                gap = said - self.path.velocity(x1, xt, t)
            case "noise":
                gap = said - x0
            case "score":
                gap = times(b, self.covariance.power(said, 0.5)) + self.covariance.power(x0, -0.5)
            case _:
                gap = said - (times(a, x0) - times(b, x1))
        return dot(gap, gap)

    def draw_times(self, uniform: Tensor) -> Tensor:
        return self._asked(uniform)

    def grid(self, steps: int) -> list[float]:
        """Times of a generation; on a schedule those of `steps` timesteps, each once.

        Raises:
            UserError: for more steps than timesteps.
        """
        grid = super().grid(steps)
        if not isinstance(self.path, SchedulePath):
            return grid
        if steps > self.path.steps:
            raise UserError(f"{steps} steps of a schedule of {self.path.steps}: take fewer.")
        return [*self.path.level(torch.tensor(grid[:-1], dtype=torch.float64)).tolist(), 1.0]

    def endpoint_error(self, endpoint: Any, target: Any, t: Tensor) -> Tensor:
        """See `Flow`, `(B,)`; of networks of noise and score in units of noise."""
        if self.prediction not in ("noise", "score"):
            return super().endpoint_error(endpoint, target, t)
        gap = endpoint - target
        ratio = torch.as_tensor(self.path.signal_to_noise(self._asked(t)))
        return dot(gap, gap) * ratio.clamp(max=20)

    def value_network(self) -> nn.Module:
        if self.value_of is not None:
            return self.value_of().to(self.device)
        if isinstance(self.shape, dict) or len(self.shape) != 1:
            raise UserError(
                f"no value network is known for {self.state_space()}: give "
                f"VelocityFlow(..., value=function), which makes a module (x, t) -> (B,) that is "
                f"zero at first, or use a solver without values."
            )
        return Scalar(perceptron(self.shape[0], 64, 2, 1)).to(self.device)

    def guided(self) -> Flow:
        return GuidedVelocityFlow.of(self)

    def stored(self, folder: str | Path) -> Flow:
        """A copy of this flow with the weights of a folder that one like it was saved to.

        Raises:
            UserError: if the folder is none, or of another network.
        """
        return copy.deepcopy(self).filled(folder).to(self.device)

    def _asked(self, t: Tensor) -> Tensor:
        """The times at which the network is asked."""
        if isinstance(self.path, SchedulePath):
            t = self.path.level(t)
        return t.clamp_min(self.earliest) if self.earliest else t


class GuidedVelocityFlow(Guided, VelocityFlow):
    """A network's flow along the gradient of a value of its noisy states."""

    kind: ClassVar[str] = "velocity-guided"

    @classmethod
    def of(cls, flow: Flow) -> Self:
        """A flow with a value that is zero; its network is a copy."""
        assert isinstance(flow, VelocityFlow)
        own = copy.deepcopy(flow)
        guided = cls(
            network=own.network,
            path=own.path,
            prediction=own.prediction,
            shape=own.shape,
            call=own.call,
            covariance=own.covariance,
            value=own.value_of,
        )
        return guided.to(flow.device).eval()


def from_scheduler(network: nn.Module, scheduler: Any, shape: Shape, **more: Any) -> VelocityFlow:
    """The flow of a diffusion model of diffusers: its network and its scheduler.

    Arguments:
        network: for instance a `UNet2DModel`.
        scheduler: with `alphas_cumprod` and a `config.prediction_type` of "epsilon", "sample" or
            "v_prediction".
        more: what `VelocityFlow` takes besides.

    Raises:
        UserError: for a scheduler of another path or prediction.
    """
    path = SchedulePath.of(scheduler)
    said = getattr(scheduler.config, "prediction_type", "epsilon")
    known = {"epsilon": "noise", "sample": "endpoint", "v_prediction": "v-prediction"}
    if said not in known:
        raise UserError(f"{type(scheduler).__name__} predicts {said!r}; known: {', '.join(known)}.")
    prediction: Any = known[said]
    return VelocityFlow(network, path, prediction, shape=shape, **more)


@dataclass(frozen=True)
class CalibrationRow:
    """Whether a flow's endpoint is the mean of the data given the noised data, at one time.

    Attributes:
        t: the time.
        slope: of the data on the endpoint; 1 for a flow of independent noise.
        error: its standard error.
    """

    t: float
    slope: float
    error: float


@torch.no_grad()
def calibration(
    flow: Flow, x1: Any, times_at: Sequence[float] = (0.2, 0.4, 0.6, 0.8), *, seed: int = 0
) -> list[CalibrationRow]:
    """Whether a flow is one of independent noise, as steering and merging need it.

    Data are noised independently; if `D` is `E[x_1 | x_t]`, then `x_1 - D` is orthogonal to every
    function of `x_t`, so that the slope `E<x_1, D - m> / E<D, D - m>`, with `m` the mean of `D`, is
    1. The network of another coupling, or on another path or scale, is too sure or too timid.

    Arguments:
        x1: data, a tensor `(N, ...)` or a `State`; a few hundred will do.
        times_at: between 0 and 1.
    """
    found = []
    noise = BatchNoise(seed ^ _OTHER, flow.device)  # not the noise that `x1` may be drawn from
    x1 = x1.to(flow.device)
    for time in times_at:
        t = expand_time(time, batch_of(x1), first_part(x1))
        if isinstance(getattr(flow, "path", None), SchedulePath):
            t = flow.path.level(t)  # type: ignore[attr-defined]
        end = flow.endpoint(flow.path.sample(flow.noise_like(x1, noise), x1, t), t)
        n = batch_of(end)
        mean = _mean(end)
        centred = end - concatenate([mean] * n)
        spread = float(dot(centred, centred).double().mean())
        lack = dot(x1 - end, centred).double()
        slope = 1 + float(lack.mean()) / spread
        found.append(CalibrationRow(time, slope, float(lack.std()) / math.sqrt(n) / spread))
    return found


def _mean(x: Any) -> Any:
    """The mean over the batch, as a batch of one."""

    def mean(part: Tensor) -> Tensor:
        return part.mean(0, keepdim=True)

    return x.map(mean) if isinstance(x, State) else mean(x)


def _shapes(x: Any) -> str:
    """The shape of a tensor, or of every part of a state, for comparison and for messages."""
    if isinstance(x, Tensor):
        return str(tuple(x.shape))
    return repr(x) if isinstance(x, State) else f"a {type(x).__name__}"


_DESCRIBED = ("network", "path", "prediction", "shape", "call")


def _plain(argument: Any) -> Any:
    """An argument as JSON can hold it, for a card."""
    if isinstance(argument, Mapping):
        return {name: list(shape) for name, shape in argument.items()}
    if isinstance(argument, str):
        return argument
    if isinstance(argument, Sequence):
        return list(argument)
    if isinstance(argument, ProbabilityPath):
        return repr(argument)
    named = argument if hasattr(argument, "__qualname__") else type(argument)
    return f"{named.__module__}.{named.__qualname__}"


def _space_first(network: nn.Module, x: Any, t: Tensor) -> Any:
    return network(x, t)


def _time_first(network: nn.Module, x: Any, t: Tensor) -> Any:
    return network(t, x)


def _joined(network: nn.Module, x: Tensor, t: Tensor) -> Any:
    return network(torch.cat([x, t[:, None].to(x)], -1))


_CALLS: dict[str, Callable[[nn.Module, Any, Tensor], Any]] = {
    "x, t": _space_first,
    "t, x": _time_first,
    "x and t joined": _joined,
}


def _earliest(path: ProbabilityPath) -> float:
    """The time at which the path has a signal of `SIGNAL`; 0 if it begins with more."""

    def signal(t: float) -> float:
        return float(path.coefficients(t)[0])

    if signal(0.0) >= SIGNAL:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if signal(middle) < SIGNAL else (low, middle)
    return high
