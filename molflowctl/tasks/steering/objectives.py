"""Objectives in the words of the command line.

    --utility upper-cvar:0.05 --reward dipole_debye --kl-weight 0.5

A utility is a name with its parameter, and several add up; so do divergences with their weights.
The level of a tail is the share of the molecules in it, at either end.

    mean                    E[r]
    cvar:SHARE              the mean of the worst SHARE, 0.2 for the worst fifth
    upper-cvar:SHARE        the mean of the best SHARE, the super-quantile of level 1 - SHARE
    mean-variance:WEIGHT    E[r] - WEIGHT Var[r]
    entropy:WEIGHT          WEIGHT H(p)
    diversity:WEIGHT        WEIGHT times minus half the mean similarity of two molecules

    kl:WEIGHT, forward-kl:WEIGHT, renyi-ORDER:WEIGHT    by log-densities
    w1:WEIGHT, mmd:WEIGHT                               by features of the molecules
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from rdkit.Chem import GetPeriodicTable
from torch import Tensor

from molflowctl.control.objectives.density import Density
from molflowctl.control.objectives.distances import MMD, Wasserstein1
from molflowctl.control.objectives.divergences import KL, ForwardKL, Renyi
from molflowctl.control.objectives.objective import Functional, Sum
from molflowctl.control.objectives.potentials import Transport
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.objectives.utilities import (
    CVaR,
    Entropy,
    InternalDiversity,
    Mean,
    MeanVariance,
    SuperQuantile,
)
from molflowctl.control.population import population_of
from molflowctl.control.solvers.weighted import optimal_weights
from molflowctl.errors import UserError
from molflowctl.flows.state import State
from molflowctl.io.expressions import number_of
from molflowctl.properties.rewards import Objective
from molflowctl.properties.substructure import elements

__all__ = [
    "check_elements",
    "composition",
    "divergences",
    "needs_fingerprints",
    "utility",
    "weight_of",
]

WEIGHTS = (0.01, 100.0)  # of KL, between which `weight_of` looks
Features = Callable[[Any], Tensor]
UTILITIES: dict[str, Callable[[Reward, float], Functional]] = {
    "mean": lambda r, _: Mean(r),
    "cvar": CVaR,
    "upper-cvar": lambda r, share: SuperQuantile(r, round(1 - share, 12)),
    "mean-variance": MeanVariance,
}
ALONE: dict[str, Callable[[Features, float], Functional]] = {  # of no reward
    "entropy": lambda _, weight: weight * Entropy(),
    "diversity": lambda features, weight: weight * InternalDiversity(features),
}
POINTS = 4096  # that a transport plan is found between, a second or two; more are thinned
# Of the density of the prior, or of its points, for those that compare points.
DIVERGENCES: dict[str, Callable[[Any, Any], Functional]] = {
    "kl": lambda q, _: KL(q),
    "forward-kl": lambda q, _: ForwardKL(q),
    "w1": lambda _, y: Wasserstein1(y, Transport(limit=POINTS), features=composition),
    "mmd": lambda _, y: MMD(y, composition, points=1000),
}


def _no_features(x: Any) -> Tensor:
    raise UserError("diversity is of molecules that were drawn and judged.")


def utility(
    specs: Sequence[str], reward: Reward | None, features: Features = _no_features
) -> Functional:
    """The sum of the utilities that `specs` name.

    Arguments:
        features: states to unit vectors, in which they are alike or not.

    Raises:
        UserError: for an unknown one, a parameter that is missing or out of range, or a utility of
            a reward where there is none.
    """
    return Sum([(1.0, _utility(spec, reward, features)) for spec in specs])


def needs_fingerprints(specs: Sequence[str]) -> bool:
    """Whether one of the utilities asks how alike molecules are."""
    return any(spec.partition(":")[0] == "diversity" for spec in specs)


def divergences(specs: Sequence[str], prior: Density, x: Any = None) -> Functional:
    """The sum of the divergences to `prior` that `specs` name, with their weights, negative.

    Arguments:
        x: points of `prior`, for the divergences that compare points; None to draw some. Of the
            very points that are weighed the distance is 0 at the prior itself.

    Raises:
        UserError: for an unknown one, or a weight that is missing or not positive.
    """
    points = prior if x is None else replace(population_of(x), density=prior)
    return Sum([(-weight, kind(prior, points)) for kind, weight in map(_divergence, specs)])


def weight_of(nats: float, wanted: Functional, x: Any, prior: Density) -> float:
    """The weight of KL to `prior` at which the optimum of `wanted` lies `nats` from it.

    The optimum is that of the best weights on `x`, points of `prior`, which hold no more than the
    logarithm of their number.

    Raises:
        UserError: if even the smallest weight leads less far.
    """
    low, high = (math.log(end) for end in WEIGHTS)
    divergence = KL(prior)

    def spent(log_weight: float) -> float:
        objective = wanted - math.exp(log_weight) * divergence
        best = optimal_weights(objective, x, prior, steps=100, tolerance=1e-5)
        return divergence.value(best)

    if spent(low) < nats:
        raise UserError(
            f"kl_nats {nats:g}: {len(population_of(x))} molecules of the prior show no way to go "
            f"that far."
        )
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) > nats else (low, middle)
    return math.exp((low + high) / 2)


def check_elements(oracle: Objective, known: Sequence[int]) -> None:
    """Check that a reward does not hang on substructures of atoms that a flow lacks.

    Where a flow has none, a reward such as `smarts("[Br]") == 0` is as good as any.

    Arguments:
        known: atomic numbers; hydrogens come with the atoms.

    Raises:
        UserError: which names the pattern and the element that is missing.
    """
    symbol = GetPeriodicTable().GetElementSymbol
    never = {}
    for item in oracle.items:
        pattern = getattr(item.compute, "pattern", None)
        if pattern and (absent := sorted(elements(pattern) - {1, *known})):
            never[item.name] = symbol(absent[0])
    low, high = oracle.bounds(dict.fromkeys(never, (0.0, 0.0)))
    if never and low == high:
        name, element = next(iter(never.items()))
        raise UserError(
            f"{name} is of molecules with {element}, which the flow lacks: it has "
            f"{', '.join(map(symbol, known))}. {oracle} is {low:g} for all of them."
        )


def _utility(spec: str, reward: Reward | None, features: Features) -> Functional:
    name, _, text = spec.partition(":")
    if name in ALONE:
        return ALONE[name](features, _number(spec, text))
    if name not in UTILITIES:
        raise UserError(f"unknown utility {name!r}; {_hint(name, [*UTILITIES, *ALONE])}")
    if reward is None:
        raise UserError(f"the utility {name} is of a reward: name one with --reward.")
    number = math.nan
    if name == "mean":
        if text:
            raise UserError(f"the utility mean takes no parameter, got {spec!r}.")
    else:
        number = _number(spec, text)
    return UTILITIES[name](reward, number)


def _divergence(spec: str) -> tuple[Callable[[Any, Any], Functional], float]:
    name, _, text = spec.partition(":")
    kind = DIVERGENCES.get(name)
    if name.startswith("renyi-"):
        order = _number(spec, name.removeprefix("renyi-"))
        kind = lambda q, _: Renyi(q, order)  # noqa: E731
    if kind is None:
        known = [*DIVERGENCES, "renyi-2"]
        raise UserError(f"unknown divergence {name!r}; {_hint(name, known)}")
    weight = _number(spec, text)
    if weight <= 0:
        raise UserError(f"the weight of {spec!r} must be positive.")
    return kind, weight


def _number(spec: str, text: str) -> float:
    number = number_of(text)
    if not math.isfinite(number):
        raise UserError(f"{spec!r} needs a number: NAME:NUMBER, for instance kl:0.5.")
    return number


def _hint(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=2)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}."


def composition(x: State) -> Tensor:
    """What molecules consist of and how large they are, `(B, m)`, invariant and smooth.

    Atoms of each element, formal charges and bonds of each order, in the state's units, so that
    rings (bonds less atoms and one) are among what is linear in them; the logarithm of the radius
    of gyration. An atom or a bond that is exchanged is of the same distance whatever the size.
    """
    if not isinstance(x, State) or not {"positions", "atoms", "charges", "bonds"} <= set(x):
        raise UserError(
            "distances between molecules are measured on states of the de-novo flows of this "
            "package: choose the divergence kl, or features= of an interpolation."
        )
    counts = [x["atoms"].sum(1), x["charges"].sum(1), x["bonds"].sum(1)[:, 1:]]
    centred = x["positions"] - x["positions"].mean(1, keepdim=True)
    gyration = centred.square().sum(-1).mean(1)
    return torch.cat([*counts, 0.5 * gyration.clamp_min(1e-6).log()[:, None]], 1)
