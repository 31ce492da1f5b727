"""Circuits of the command line: the flows they name, the operator they spell, what fits together.

Whatever does not go together is refused here, before a molecule is drawn.
"""

from __future__ import annotations

import ast

from molflowctl.control import (
    Contrast,
    Critic,
    Interpolation,
    Intersection,
    Operator,
    Union,
    parse,
)
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow, flow_names
from molflowctl.io.expressions import parse_circuit
from molflowctl.io.plain_files import quoted
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.models.feynman_kac import FeynmanKacFlow
from molflowctl.models.molecule_flow import MoleculeFlow
from molflowctl.models.score_sum import ScoreSumFlow
from molflowctl.tasks.steering.objectives import composition
from molflowctl.tasks.steering.settings import ConformerMergeConfig, MergeConfig

__all__ = ["check_gate", "check_networks", "heaviest", "operator_of", "places", "score_sum_of"]

UNTRAINED = ("score-sum", "feynman-kac")


def places(config: MergeConfig | ConformerMergeConfig) -> dict[str, str]:
    """Names in the circuit to flows of the zoo or folders, in the order of the circuit.

    A name of the zoo has hyphens where a circuit, in which they are operators, has underscores.
    """
    try:
        tree = ast.walk(parse_circuit(config.circuit))
    except ValueError as error:
        raise UserError(f"{error}.") from None
    names = sorted({(n.lineno, n.col_offset, n.id) for n in tree if isinstance(n, ast.Name)})
    shelves = flow_names()
    found = {}
    for *_, name in names:
        hyphened = name.replace("_", "-")
        found[name] = config.flows.get(name, hyphened if hyphened in shelves else name)
    unused = [name for name in config.flows if name not in found]
    if unused:
        raise UserError(
            f"{unused[0]} is given a flow, but is not in the circuit {quoted(config.circuit)}."
        )
    return found


def operator_of(config: MergeConfig, flows: dict[str, MoleculeFlow]) -> Operator:
    """The operator that the settings ask for.

    Raises:
        UserError: if it is none, its weights do not fit, or the flows do not go together.
    """
    operator = parse(config.circuit, flows)
    if not isinstance(operator, Operator):
        raise UserError(f"{config.circuit!r} is a single flow: merging takes two or more.")
    weights = config.weights
    if config.interpolate:
        if type(operator) is not Intersection:
            raise UserError(f"{config.circuit!r}: an interpolation is between parts joined by &.")
        found = Interpolation(
            *operator.parts, weights=weights, potential=Critic(steps=300, later=40),
            features=composition,
        )  # fmt: skip
        if any(isinstance(part, Operator) for part in operator.parts):
            raise UserError(f"{config.circuit!r}: an interpolation is between flows, not circuits.")
        if config.reward is None and found.weights[0] >= sum(found.weights[1:]):
            raise UserError(
                f"the weights {found.weights} hold an interpolation at its first part: give the "
                f"others more, for instance --weights 1,2, or change the order."
            )
        return found
    if config.features:
        raise UserError("features= are of an interpolation: --interpolate.")
    if weights is None:
        return operator
    if isinstance(operator, Contrast):
        if len(weights) != 1:
            raise UserError("a contrast has one weight, of what the second flow takes away.")
        first, second = operator.parts
        return Contrast(first, second, weights[0])
    return type(operator)(*operator.parts, weights=weights)


def score_sum_of(config: MergeConfig, operator: Operator) -> ScoreSumFlow:
    """The merge without training.

    Raises:
        UserError: if it is not of flows joined by & alone, or there is a reward, or one network is
            to learn what only a swarm can draw.
    """
    flows = [part for part in operator.parts if isinstance(part, DeNovoFlow)]
    flat = len(flows) == len(operator.parts)
    plain = flat and (type(operator) is Intersection or isinstance(operator, Contrast))
    if not plain or config.reward is not None:
        raise UserError(
            f"{config.circuit!r}: scores are added of flows joined by & alone, or of a - b, "
            "without a reward."
        )
    weights = list(operator.weights)
    if isinstance(operator, Contrast):
        weights[1] *= -1
    if config.solver == "score-sum":
        return ScoreSumFlow.of(flows, weights)
    return FeynmanKacFlow.of(flows, weights, particles=config.particles, until=config.ratio_latest)


def check_networks(config: MergeConfig, flows: dict[str, MoleculeFlow]) -> None:
    """Raise `UserError` for a way to merge that reads networks of this package, and another."""
    ways = {
        f"solver={config.solver}": config.solver in UNTRAINED,
        "union=gate": config.union == "gate",
        "intersection=score-sum": config.intersection == "score-sum",
        "--interpolate without features=": config.interpolate and not config.features,
    }
    asked = next((way for way, chosen in ways.items() if chosen), None)
    for name, flow in flows.items():
        if asked and not isinstance(flow, DeNovoFlow):
            raise UserError(
                f"{asked} is for de-novo flows of this package, and {name} is of kind "
                f"{flow.kind!r}: leave it out."
            )


def check_gate(config: MergeConfig, operator: Operator) -> None:
    """Raise `UserError` unless it is a union of flows, without a reward."""
    flat = all(isinstance(part, DeNovoFlow) for part in operator.parts)
    if type(operator) is not Union or not flat or config.reward is not None:
        raise UserError(
            f"{config.circuit!r}: a gate chooses among flows joined by |, without a reward: leave "
            f"union=gate out."
        )


def heaviest(operator: Operator, flows: dict[str, MoleculeFlow]) -> str:
    """Name of the flow that a walk starts from, or of the heaviest one inside that part."""
    part: Flow | Operator = operator
    while isinstance(part, Operator):
        most = max(range(len(part.parts)), key=part.weights.__getitem__)
        part = part.parts[0 if isinstance(part, Interpolation) else most]
    return next(name for name, flow in flows.items() if flow is part)
