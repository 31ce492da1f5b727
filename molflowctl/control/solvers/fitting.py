"""Fit a flow, or what it is steered by, to a loss: what every inner solver does."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.io.atomic import write_file

__all__ = ["Fitting", "fit"]

WARM_UP = 5
KEEP = 60.0  # seconds between the states that a run can be resumed from
M = TypeVar("M", bound=nn.Module)


class Fitting(Generic[M]):
    """AdamW with warm-up on a copy of a flow, or another module, and an average of its weights.

    Arguments:
        flow: stays as it is; it must have parameters.
        lr: learning rate.
        steps: of the whole run, for the schedule.
        cosine: whether the rate falls to 2 % of `lr` along a cosine, or stays.
        average: decay of the exponential average of the weights; None for the plain mean over the
            last half of the steps, in which the gradient noise of a constant rate averages out.

    Raises:
        UserError: if the flow has nothing to train.
    """

    def __init__(
        self,
        flow: M,
        lr: float,
        steps: int,
        *,
        cosine: bool = False,
        average: float | None = None,
    ) -> None:
        self.flow = copy.deepcopy(flow).train()
        self.parameters = [p for p in self.flow.parameters() if p.requires_grad]
        if not self.parameters:
            raise UserError(
                f"a flow of kind {getattr(flow, 'kind', '')!r} has nothing to train here: give it "
                f"a correction, MixtureFlow(...).trainable()."
            )
        self.lr, self.steps, self.cosine, self.decay = lr, steps, cosine, average
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=lr, betas=(0.9, 0.95), weight_decay=0
        )
        self.averages = [p.detach().clone() for p in self.parameters]
        self.step = 0

    def rate(self) -> float:
        """The learning rate of the next step."""
        warm = min(1.0, (self.step + 1) / WARM_UP)
        if not self.cosine:
            return self.lr * warm
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.steps)))
        return self.lr * warm * max(0.02, fall)

    def update(self, loss: Tensor) -> float:
        """One step down the gradient of `loss`, a scalar, whose value is returned.

        Raises:
            UserError: if it is not finite; the weights stay at the last good ones.
        """
        value = float(loss.detach())
        if not math.isfinite(value):
            raise UserError(
                f"the fit diverged at step {self.step} (loss {value}): lower the learning rate or "
                f"the step size."
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        with torch.no_grad():
            # Without a decay the first steps, which still move, do not count.
            late = max(0, self.step - self.steps // 2)
            share = 1 / (late + 1) if self.decay is None else 1 - self.decay
            torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], share)
        self.step += 1
        return value

    def run(
        self,
        loss: Callable[[M], Tensor],
        generators: Sequence[torch.Generator],
        watch: Callable[[int, int], object] = lambda done, total: None,
        file: Path | None = None,
    ) -> M:
        """Every step down `loss(flow)`, a scalar; returns the result.

        Arguments:
            generators: of all random numbers in the loss.
            watch: called after every step, with how many are done, and of how many.
            file: where what has been learned is written once a minute, and is taken up from.

        Raises:
            UserError: if the fit diverges, or the file is of another one.
        """
        if file is not None and file.exists():
            states = self.resume(file)
            try:
                for k, generator in enumerate(generators):
                    generator.set_state(states[f"generator {k}"])
            except (KeyError, RuntimeError) as error:  # of a GPU, for instance, and this is none
                raise self._foreign(file, f"random numbers of another device: {error}") from None
        kept = time.monotonic()
        for step in range(self.step, self.steps):
            self.update(loss(self.flow))
            if file is not None and time.monotonic() - kept >= KEEP:
                states = {f"generator {k}": g.get_state() for k, g in enumerate(generators)}
                self.keep(file, states)
                kept = time.monotonic()
            watch(step + 1, self.steps)
        return self.result()

    def keep(self, file: Path, beside: dict[str, Tensor]) -> None:
        """Write what the steps to come depend on, with tensors of any shape beside."""
        tensors = {"steps": torch.tensor(self.step), **beside}
        for k, (parameter, mean) in enumerate(zip(self.parameters, self.averages, strict=True)):
            moments = self.optimiser.state[parameter]
            tensors |= {
                f"{k}.weights": parameter.detach().contiguous(),
                f"{k}.average": mean.contiguous(),
            }
            for name, moment in (("first", "exp_avg"), ("second", "exp_avg_sq")):
                # A parameter that no loss has reached yet has none.
                known = moments.get(moment, torch.zeros_like(parameter, requires_grad=False))
                tensors[f"{k}.{name}"] = known.contiguous()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, save(tensors))

    def resume(self, file: Path) -> dict[str, Tensor]:
        """Go on after the steps that were done when `keep` wrote the file.

        What was kept beside is returned, tensors of any shape.

        Raises:
            UserError: if it is damaged or of another fit.
        """
        try:
            tensors = load_file(file)
            shapes = [tensors[f"{k}.weights"].shape for k in range(len(self.parameters))]
        except (OSError, SafetensorError, KeyError) as error:
            raise self._foreign(file, str(error)) from None
        if shapes != [parameter.shape for parameter in self.parameters]:
            raise self._foreign(file, "other shapes")
        self.step = int(tensors.pop("steps"))
        with torch.no_grad():
            for k, (parameter, mean) in enumerate(zip(self.parameters, self.averages, strict=True)):
                parameter.copy_(tensors.pop(f"{k}.weights"))
                mean.copy_(tensors.pop(f"{k}.average"))
                self.optimiser.state[parameter] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": tensors.pop(f"{k}.first").to(parameter),
                    "exp_avg_sq": tensors.pop(f"{k}.second").to(parameter),
                }
        return tensors

    @staticmethod
    def _foreign(file: Path, why: str) -> UserError:
        return UserError(
            f"{file} is not what this run has learned ({why}): delete it to learn anew."
        )

    def result(self) -> M:
        """The flow with the averaged weights."""
        for parameter, mean in zip(self.parameters, self.averages, strict=True):
            parameter.data.copy_(mean)
        return self.flow.eval()


def fit(
    flow: Flow, loss: Callable[[Flow, int], Tensor], steps: int, lr: float, *, cosine: bool = False
) -> Flow:
    """The flow after `steps` steps down `loss(flow, step)`, its weights averaged."""
    fitting = Fitting(flow, lr, steps, cosine=cosine)
    for step in range(steps):
        fitting.update(loss(fitting.flow, step))
    return fitting.result()
