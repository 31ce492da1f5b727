r"""A deep ensemble for regression: several small networks side by side, each with its own doubt.

Member `k` gives a mean `m_k(x)` and a variance `v_k(x)`; together they are the mixture's

    m = mean_k m_k,        s^2 = mean_k (v_k + m_k^2) - m^2

Each is trained from its own start on its own order of the data, by the likelihood of a Gaussian
with every term weighted by `v^(1/2)`, held constant, so that what is hard is not given up early.

The weights are plain arrays: `predict` needs NumPy alone, and gives a row the same result in any
batch up to rounding.

References:
    Lakshminarayanan, Pritzel, Blundell, Simple and scalable predictive uncertainty estimation using
    deep ensembles, NeurIPS 2017, arXiv 1612.01474; Seitzer, Tavakoli, Antic, Martius, On the
    pitfalls of heteroscedastic uncertainty estimation, ICLR 2022, arXiv 2203.09168 (beta = 1/2).
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["predict", "train"]

Array = NDArray[np.float64]
Weights = dict[str, NDArray[np.float32]]

_WEIGHT_DECAY = 0.1
_BATCH = 16, 128  # at least and at most
_STEPS = 32  # in an epoch, at least, where the batch may shrink
_LEAST_VARIANCE, _MOST_VARIANCE = 1e-4, 1e2  # of a standardised target


def train(
    x: NDArray[np.float32],
    y: Array,
    *,
    members: int = 4,
    width: int = 256,
    epochs: int = 25,
    dropout: float = 0.3,
    lr: float = 1e-3,
    seed: int = 0,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Weights:
    """Weights of an ensemble, for `predict`.

    Args:
        x: (n, d) features of the order of 1; y: (n,) targets of any scale.
        members, width: networks, and the width of their two hidden layers.
        epochs: passes over the data, with a cosine decay of the learning rate.
        dropout: share of hidden units left out in a step. It prevents learning by heart, and what
            it shakes the network by goes into the variances: calibrate them.
        progress: called with the epochs done and their number.
    """
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(seed)
    centre, scale = float(y.mean()), float(y.std()) or 1.0
    features = torch.from_numpy(np.ascontiguousarray(x))
    targets = torch.from_numpy(((y - centre) / scale).astype(np.float32))
    sizes = [x.shape[1], width, width, 2]
    parameters: dict[str, torch.Tensor] = {}
    for layer, (inside, outside) in enumerate(pairwise(sizes)):
        weight = torch.randn(members, inside, outside, generator=generator) / inside**0.5
        parameters[f"weight{layer}"] = weight
        parameters[f"bias{layer}"] = torch.zeros(members, 1, outside)
    for parameter in parameters.values():
        parameter.requires_grad_()

    def drop(hidden: torch.Tensor) -> torch.Tensor:
        kept = torch.rand(hidden.shape, generator=generator) >= dropout
        return hidden * kept / (1 - dropout)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        hidden = features[rows]  # (members, batch, d)
        for layer in range(2):
            weight, bias = parameters[f"weight{layer}"], parameters[f"bias{layer}"]
            hidden = drop(F.silu(torch.baddbmm(bias, hidden, weight)))
        mean, raw = torch.baddbmm(parameters["bias2"], hidden, parameters["weight2"]).unbind(-1)
        variance = F.softplus(raw).clamp(_LEAST_VARIANCE, _MOST_VARIANCE)
        terms = 0.5 * ((targets[rows] - mean).square() / variance + variance.log())
        return (variance.detach().sqrt() * terms).mean(1).sum()

    least, most = _BATCH
    batch = min(len(y), most, max(least, len(y) // _STEPS))
    per_epoch = len(y) // batch
    groups: list[dict[str, Any]] = [
        {
            "params": [p for name, p in parameters.items() if name.startswith(kind)],
            "weight_decay": decay,
        }
        for kind, decay in (("weight", _WEIGHT_DECAY), ("bias", 0.0))
    ]
    optimiser = torch.optim.AdamW(groups, lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=lr, total_steps=epochs * per_epoch, pct_start=0.1
    )
    for epoch in range(epochs):
        orders = torch.stack([torch.randperm(len(y), generator=generator) for _ in range(members)])
        for step in range(per_epoch):
            optimiser.zero_grad()
            loss(orders[:, step * batch : (step + 1) * batch]).backward()
            optimiser.step()
            schedule.step()
        progress(epoch + 1, epochs)
    weights = {name: tensor.detach().numpy() for name, tensor in parameters.items()}
    return weights | {"target": np.array([centre, scale], dtype=np.float32)}


def predict(
    weights: Mapping[str, NDArray[np.float32]], x: NDArray[np.float32]
) -> tuple[Array, Array]:
    """Mean and standard deviation of the mixture, each (n,), in the target's unit.

    Args:
        x: (n, d).
    """
    used = x.any(0)  # of one molecule, few of the features are not zero
    hidden = x[None, :, used].astype(np.float64)
    for layer in range(3):
        weight = weights[f"weight{layer}"][:, used] if layer == 0 else weights[f"weight{layer}"]
        hidden = hidden @ weight + weights[f"bias{layer}"]
        if layer < 2:
            hidden = hidden * (0.5 + 0.5 * np.tanh(0.5 * hidden))  # SiLU, which cannot overflow
    means, raw = hidden[..., 0], hidden[..., 1]
    variances = np.clip(np.logaddexp(0.0, raw), _LEAST_VARIANCE, _MOST_VARIANCE)
    mean = means.mean(0)
    deviation = np.sqrt((variances + means**2).mean(0) - mean**2)
    centre, scale = (float(number) for number in weights["target"])
    return centre + scale * mean, scale * deviation
