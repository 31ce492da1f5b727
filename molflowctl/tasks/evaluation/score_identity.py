r"""Is the score of a flow the score of its data? Three identities that need no density.

With `x_t = t x_1 + (1-t) x_0` and noise `x_0 ~ N(0, I)` drawn independently of the data, the score
of the true marginals is `s(x_t) = grad log p_t = -E[x_0 | x_t] / (1-t)`, so that

    (i)    E[s(x_t)] = 0                                        (p_t vanishes at infinity)
    (ii)   E<s(x_t), x_t> = -d                                  (Stein's identity for h(x) = x)
    (iii)  E<s(x_t), -x_0/(1-t)> = E|s(x_t)|^2                  (denoising score matching's optimum)

with `d` the free dimensions: positions live in the `3(N-1)`-dimensional space of zero centroid.
Control of a flow rests on these; a flow trained on coupled noise and data breaks them. Each is
measured for each part of the state: they hold for every coordinate of the joint score.

What is averaged is the residual `e = s + x_0/(1-t) = t (x1_hat - x_1)/(1-t)^2` against 1, `x_t` and
`s`: the mean of the noise's own share is known and need not be sampled (a control variate). Small
times say little: there the score is almost `-x_t`, whatever the flow predicts.

References:
    Stein, Estimation of the mean of a multivariate normal distribution, Ann. Statist. 9, 1981.
    Hyvarinen, Estimation of non-normalized statistical models by score matching, JMLR 6, 2005.
    Vincent, A connection between score matching and denoising autoencoders, Neural Comput., 2011.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from molflowctl.data.datasets import MoleculeDataset
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.noise import BatchNoise, Noise
from molflowctl.flows.path import expand_time
from molflowctl.flows.state import AnyState, State, times
from molflowctl.models.generation import Sampling, draw_states
from molflowctl.models.molecule_flow import MoleculeFlow

__all__ = ["score_identity", "score_ratios"]

BATCH = 256
TIMES = (0.2, 0.4, 0.6, 0.8, 0.95)


def score_identity(
    flow: MoleculeFlow,
    dataset: MoleculeDataset | None,
    n: int = 1024,
    times: Sequence[float] = TIMES,
    seed: int = 0,
) -> list[dict[str, float | str]]:
    """Measure the score of a de-novo flow on `n` molecules, one row for each time and part.

    Arguments:
        dataset: its validation split is noised; hydrogens are left out if the flow has none. None
            for the flow's own samples (50 evaluations), which tests the flow against itself.
        n: molecules; all there are, if those are fewer.
        times: in (0, 1).

    Returns:
        the rows of `score_ratios`, by time.

    Raises:
        UserError: for times outside (0, 1), fewer than 2 molecules, or elements that the flow does
            not know.
    """
    if not all(0 < t < 1 for t in times):
        raise UserError(f"times have to lie between 0 and 1, not at them: got {list(times)}.")
    if n < 2:
        raise UserError(f"{n} molecules are too few to measure a mean: give 2 or more.")
    flow = flow.eval()
    states = list(_own(flow, n, seed) if dataset is None else _noiseless(flow, dataset, n, seed))
    noise = BatchNoise(seed, flow.device)
    return [row for t in times for row in score_ratios(flow, states, t, noise)]


@torch.no_grad()
def score_ratios(
    flow: Flow, states: Iterable[AnyState], t: float, noise: Noise
) -> list[dict[str, float | str]]:
    """The three identities at time `t` for data states `x_1`, one row for each part.

    Arguments:
        states: batches of any shapes; `positions` of a `State` have zero centroid.

    Returns:
        for each part `time`, `part`, `molecules`, `dimensions` (the mean of `d`), and

        - `mean`: `|E sum_nodes e|^2 / E|s|^2`, without the bias of the sample's size; 0 by (i). For
          positions, whose centroid is fixed, it is 0 whatever the flow does.
        - `stein`: `-E<s, x_t> / d`; 1 by (ii).
        - `denoising`: `-E<s, x_0> / ((1-t) E|s|^2)`; 1 by (iii).

        with the standard error of each (`mean_error`, ...), that of `mean` as if (i) held.
    """
    columns: dict[str, list[tuple[Tensor, ...]]] = {}
    for x1 in states:
        x0 = flow.noise_like(x1, noise)
        xt = flow.path.sample(x0, x1, t)
        score = flow.score_function(xt, expand_time(t, len(_parts(xt)[0][1]), _parts(xt)[0][1]))
        residual = score + times(1 / (1 - t), x0)
        for (name, x), (_, s), (_, e) in zip(
            _parts(xt), _parts(score), _parts(residual), strict=True
        ):
            dimensions = x[0].numel() - (3 if name == "positions" else 0)
            x, s, e = (part.double().flatten(1, -2) for part in (x, s, e))  # (B, nodes, channels)
            row = (
                torch.full((len(x),), dimensions, dtype=torch.float64),
                *((a * b).sum((1, 2)).cpu() for a, b in ((e, x), (s, e), (s, s))),
                e.sum(1).cpu(),
            )
            columns.setdefault(name, []).append(row)
    rows: list[dict[str, float | str]] = []
    for name, parts in columns.items():
        free, ex, se, ss, total = (torch.cat(column) for column in zip(*parts, strict=True))
        mean, mean_error = _squared_mean(total)
        stein, stein_error = _ratio(ex, free)
        denoising, denoising_error = _ratio(se, ss)
        rows.append(
            {
                "time": t,
                "part": name,
                "molecules": len(free),
                "dimensions": free.mean().item(),
                "mean": mean / ss.mean().item(),
                "mean_error": mean_error / ss.mean().item(),
                "stein": 1 - stein,
                "stein_error": stein_error,
                "denoising": 1 - denoising,
                "denoising_error": denoising_error,
            }
        )
    return rows


def _ratio(above: Tensor, below: Tensor) -> tuple[float, float]:
    """`E[above] / E[below]` and its standard error, to first order in `1/n`."""
    ratio = above.sum() / below.sum()
    error = (above - ratio * below).square().sum().sqrt() / below.sum()
    return ratio.item(), error.item()


def _squared_mean(x: Tensor) -> tuple[float, float]:
    """An unbiased `|E x|^2` of `(n, K)` samples, and its standard error where that is 0."""
    n = len(x)
    gram = x.T @ x
    square = (x.sum(0).square().sum() - gram.trace()) / (n * (n - 1))
    return square.item(), math.sqrt(2 * (gram / n).square().sum().item() / (n * (n - 1)))


def _parts(x: AnyState) -> list[tuple[str, Tensor]]:
    """Named parts with at least one axis of nodes, `(B, ..., channels)`."""
    parts = x.items() if isinstance(x, State) else [("state", x)]
    return [(name, part[:, None] if part.ndim == 2 else part) for name, part in parts]


def _noiseless(
    flow: MoleculeFlow, dataset: MoleculeDataset, n: int, seed: int
) -> Iterator[AnyState]:
    """Encoded molecules of the validation split, drawn without replacement."""
    if flow.hydrogens == "implicit" and (dataset.numbers == 1).any():
        dataset = dataset.without_hydrogens()
    groups = dataset.by_size("validation")
    rows = torch.cat([batch.rows for batch in groups.values()]) if groups else torch.empty(0)
    if len(rows) < 2:
        raise UserError("the data set has fewer than 2 molecules in its validation split.")
    unknown = set(dataset.numbers.unique().tolist()) - set(flow.elements)
    if unknown:
        raise UserError(f"the flow does not know the elements {sorted(unknown)} of the data set.")
    chosen = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:n]]
    for batch in groups.values():
        places = torch.isin(batch.rows, chosen).nonzero()[:, 0]
        parts = (batch.numbers, batch.charges, batch.bonds, batch.positions)
        for start in range(0, len(places), BATCH):
            some = places[start : start + BATCH]
            yield flow.encode(*(part[some].to(flow.device) for part in parts))


def _own(flow: MoleculeFlow, n: int, seed: int) -> Iterator[AnyState]:
    """States that the flow draws; their sizes are quantiles of its histogram."""
    sizes = flow.draw_sizes((np.arange(n) + 0.5) / n)
    for atoms in np.unique(sizes).tolist():
        index = np.flatnonzero(sizes == atoms)
        for start in range(0, len(index), BATCH):
            some = index[start : start + BATCH]  # rounded: data have one-hots for categories
            yield flow.round(draw_states(flow, Sampling(), seed, some, atoms))
