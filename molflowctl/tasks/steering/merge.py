"""Merge de-novo flows by a circuit of operators, with a reward or without; `molflowctl merge`.

    (a & b) | c        what both a and b find likely, or c does

An intersection or contrast is a walk by log-ratios of the parts, from differences of their
denoising losses; with `intersection: score-sum` an intersection begins at the averaged scores of
its parts instead, learned by one network, and walks for validity and a reward alone. A union learns
the parts' endpoints at their samples, or, with `union: gate`, a posterior that chooses among them;
an interpolation leads from the first part towards the others by Wasserstein potentials on features
of the molecules, held by a KL to the first part: a sum of distances alone is best at the heavier
part, or anywhere between two of one weight.

`solver: score-sum` is the baseline that trains nothing (`models/score_sum.py`), or, with `distil`,
only what it takes to have one network; `solver: feynman-kac` corrects it as it draws
(`models/feynman_kac.py`). A reward is in standard deviations of the molecules of the heaviest part,
judged by the real oracle. What comes out is judged on fresh molecules beside the parts.

A run is a folder: the merged flow (`card.json`, `weights.safetensors`), `merge.csv` with a row per
mirror step, `config.yaml`, and `rounds/`, a flow after every step of every operator and all samples
that were drawn and scored. A run that is resumed takes them from there, and draws none again.
"""

from __future__ import annotations

import ast
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from molflowctl import properties
from molflowctl.compute.parallel import WorkerPool
from molflowctl.control.composition import distil
from molflowctl.control.merging import RewardGuidedMerging
from molflowctl.control.objectives.density import Density, Flowing, Tilted, as_density
from molflowctl.control.objectives.density import Sample as Points
from molflowctl.control.objectives.divergences import KL
from molflowctl.control.objectives.objective import Functional, Sum
from molflowctl.control.objectives.potentials import Critic
from molflowctl.control.objectives.ratios import DenoisingDifference
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.objectives.utilities import Mean
from molflowctl.control.operators import (
    Contrast,
    Interpolation,
    Intersection,
    Operator,
    Union,
    parse,
)
from molflowctl.control.solvers.weighted import WeightedFlowMatching
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow, flow_names
from molflowctl.io.expressions import parse_circuit
from molflowctl.io.locks import one_writer
from molflowctl.io.plain_files import quoted
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.models.feynman_kac import FeynmanKacFlow
from molflowctl.models.gated import GatedFlow
from molflowctl.models.molecule_flow import MoleculeFlow
from molflowctl.models.score_sum import ScoreSumFlow
from molflowctl.properties.rewards import parse_reward
from molflowctl.tasks.generate.flows import load_flow
from molflowctl.tasks.steering.finetune import Scale, solver_of
from molflowctl.tasks.steering.learnable import check_learnable
from molflowctl.tasks.steering.objectives import check_elements, composition, utility
from molflowctl.tasks.steering.population import Assay
from molflowctl.tasks.steering.run_folder import Hooks, RunFolder, Table, seed_of
from molflowctl.tasks.steering.sample_store import SampleStore
from molflowctl.tasks.steering.scored_molecules import ScoredMolecules
from molflowctl.tasks.steering.settings import ConformerMergeConfig, MergeConfig

__all__ = ["MergeRow", "merge", "operator_of"]

UNTRAINED = ("score-sum", "feynman-kac")


@dataclass(frozen=True)
class MergeRow:
    """One line of the live table, before a mirror step; the last has the result.

    Mean and utility are of fresh molecules by the oracle, NaN without one; `kl` to the part that
    the walk began at, in nats, is of the tilt that the samples show to be walked.
    """

    step: int
    mean: float
    error: float
    utility: float
    kl: float
    valid: float
    unique: float
    unscored: int
    oracle_calls: int
    minutes: float


@one_writer(lambda config, *_, **__: config.out, folder=True)
def merge(
    config: MergeConfig,
    *,
    given: Mapping[str, MoleculeFlow] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    hooks: Hooks | None = None,
) -> MoleculeFlow:
    """Merge the flows of `config.circuit` and write the result to `config.out`.

    Arguments:
        given: flows by their names in the circuit, in the place of those that `config` says.

    Raises:
        UserError: for a circuit that cannot be read, unknown flows or properties, parts with other
            states, weights outside their meaning, an output that is not to be replaced.
    """
    hooks = hooks or Hooks()
    oracle = None if config.reward is None else parse_reward(config.reward)
    if oracle is not None:
        utility(config.utility, Reward(lambda x: x))  # before any work
        if any(spec.startswith("entropy") for spec in config.utility):
            raise UserError(
                "the entropy is of densities that a merge does not know: finetune what it makes."
            )
    else:
        why = "of a reward: name one with --reward"
        _check_idle(config, "utility", "minimise", "reward_weight", why=why)
    if config.solver != "score-sum":
        why = "of score-sum: feynman-kac has no endpoints to learn, other solvers make one network"
        _check_idle(config, "distil", why=why)
    given = given or {}
    flows = {
        name: given[name] if name in given else load_flow(place, config.device)
        for name, place in places(config).items()
    }
    check_learnable(flows)
    operator = operator_of(config, flows)
    if oracle is not None:
        check_elements(oracle, next(iter(flows.values())).elements)
    for name in config.features:
        properties.get(name)
    solver = solver_of(config, next(iter(flows.values())))
    _check_networks(config, flows)
    summed = _summed(config, operator) if config.solver in UNTRAINED else None
    if config.union == "gate":
        _check_gate(config, operator)
    names = [places(config)[name] for name in flows]
    folder = RunFolder(config, names, list(flows.values()), resume=resume, overwrite=overwrite)
    began = time.monotonic()
    ratio = DenoisingDifference(times=config.ratio_times, latest=config.ratio_latest)
    density = partial(_density, ratio=ratio)
    with WorkerPool(config.jobs) as pool:
        assay = Assay(
            oracle, pool, timeout=config.timeout, progress=hooks.progress,
            features=config.features, store=SampleStore(folder.rounds, hooks.say), say=hooks.say,
        )  # fmt: skip
        samples: dict[str, ScoredMolecules] = {}
        known: dict[int, tuple[ScoredMolecules, Any]] = {}
        for k, (name, flow) in enumerate(flows.items()):
            known[id(flow)] = assay.sample(
                name, flow, config.base_samples, seed_of(config.seed, 1, k), config.nfe,
                news=f"drawing {config.base_samples:,} molecules of {name}",
            )  # fmt: skip
            samples[name] = known[id(flow)][0]
        heaviest = _heaviest(operator, flows)
        base = samples[heaviest]
        aim: Functional | None = None
        scale = Scale(1.0, 0.0, 1.0)
        terms: list[tuple[float, Functional]] = []
        if oracle is not None:
            scale = Scale.of(base, oracle, config.minimise)
            reward = scale.reward(assay, str(oracle), config.failed_reward)
            aim = utility(config.utility, reward, assay.fingerprints)
            terms.append((config.reward_weight, aim))
        # A mixture is as valid as its parts, and learns from them rather than from samples.
        if config.invalid_penalty and (aim is not None or not isinstance(operator, Union)):
            terms.append((config.invalid_penalty, Mean(assay.validity())))
        first = 1 if isinstance(operator, Interpolation) else None
        if isinstance(operator, Interpolation):
            part = density(operator.flows()[0])
            terms.append((-config.kl_weight, KL(part, name="KL to part 1")))
            operator.samples = [Points(known[id(flow)][1]) for flow in operator.flows()]
            if config.features:
                operator.features = assay.measured(list(samples.values()))
        wanted = Sum(terms) if terms else None
        table = Table(folder.out / "merge.csv", hooks.report)
        latest = known[id(flows[heaviest])]

        def draw(flow: Flow, n: int, seed: int, evaluations: int) -> Any:
            nonlocal latest
            assert isinstance(flow, MoleculeFlow)
            latest = known.get(id(flow)) or assay.sample(
                f"round {len(table.rows)}", flow, n, seed, evaluations
            )
            return latest[1]

        def watch(step: int, points: Points) -> None:
            assert isinstance(points.density, Tilted)
            add(*latest, KL(points.density.base).value(points))

        def add(drawn: ScoredMolecules, x: Any, kl: float) -> None:
            value = math.nan if aim is None else aim.value(Points(x))
            failed = drawn.unmeasured + (drawn.unscored if oracle else 0)
            table.add(
                MergeRow(
                    len(table.rows), drawn.mean, drawn.error, value, kl, drawn.valid, drawn.unique,
                    failed, assay.calls, (time.monotonic() - began) / 60,
                )
            )  # fmt: skip

        learning = partial(hooks.progress, "learning")
        file = folder.rounds / "learning.safetensors"

        def gate(parts: Sequence[Any], weights: Sequence[float], seed: int) -> Flow:
            drawn = [known[id(flow)][1] for flow in parts]
            return GatedFlow.learned(parts, weights, drawn, seed=seed, watch=learning, file=file)

        merging = RewardGuidedMerging(
            operator,
            solver,
            utility=wanted,
            base=first,
            steps=config.mirror_steps,
            plan=6 if config.interpolate else 30,  # every planned step trains the critics anew
            points=config.n_samples,
            evaluations=config.mirror_nfe,
            union=config.union,
            gate=gate,
            intersection=config.intersection,
            score_sum=ScoreSumFlow.of,  # type: ignore[arg-type]
            matching=WeightedFlowMatching(
                steps=config.matching_steps, batch=config.batch, lr=config.lr
            ),
            anchor="walk",
            draw=draw,
            sound=assay.sound,
            watch=watch,
            density=density,
            folder=folder.rounds,
            learning=learning,
        )
        if summed is None:
            merged = merging.run(seed=config.seed)
        elif config.distil:
            hooks.say("learning the sum of scores in one network")
            x = draw(summed, config.n_samples, seed_of(config.seed, 2), config.nfe)
            merged = distil(
                [flows[heaviest]], [summed], [x],
                steps=config.distil, batch=config.batch, lr=config.lr, seed=config.seed,
                watch=learning, file=file,
            )  # fmt: skip
        else:
            merged = summed
        assert isinstance(merged, MoleculeFlow)
        merged.card = folder.beginning(flows[heaviest]).card
        if isinstance(merged, FeynmanKacFlow):
            merged.card.pop("sampling", None)  # a churn that it cannot be drawn with
        result, x = assay.sample(
            "result", merged, config.test_samples, seed_of(config.seed, 3), config.nfe
        )
        add(result, x, math.nan)
        file.unlink(missing_ok=True)
    summary = {
        "circuit": repr(operator),
        "parts": {name: s.summary(oracle is not None) for name, s in samples.items()},
        "result": result.summary(oracle is not None),
        "oracle_calls": assay.calls,
        "minutes": (time.monotonic() - began) / 60,
    }
    objective = {"merge": repr(operator)}
    if wanted is not None:
        objective["beside"] = wanted.name
    if oracle is not None:
        objective |= {
            "r": f"{'-' if config.minimise else ''}({oracle} - {scale.mean:.6g}) / {scale.std:.6g}",
        }
    folder.finish(merged, "merge", objective, summary)
    for name, sample in [*samples.items(), ("merged", result)]:
        value = "" if oracle is None else f"  {oracle} {sample.mean:.4g} +- {sample.error:.2g}"
        hooks.say(f"{name}: valid {sample.valid:.1%}, unique {sample.unique:.1%}{value}")
    return merged


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


def _summed(config: MergeConfig, operator: Operator) -> ScoreSumFlow:
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


def _check_idle(config: MergeConfig, *names: str, why: str) -> None:
    """Raise `UserError` for a setting that was made and that nothing would come of."""
    for name in names:
        if getattr(config, name) != MergeConfig.model_fields[name].default:
            raise UserError(f"{name}= is {why}.")


def _check_networks(config: MergeConfig, flows: dict[str, MoleculeFlow]) -> None:
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


def _check_gate(config: MergeConfig, operator: Operator) -> None:
    """Raise `UserError` unless it is a union of flows, without a reward."""
    flat = all(isinstance(part, DeNovoFlow) for part in operator.parts)
    if type(operator) is not Union or not flat or config.reward is not None:
        raise UserError(
            f"{config.circuit!r}: a gate chooses among flows joined by |, without a reward: leave "
            f"union=gate out."
        )


def _density(flow: Flow, ratio: DenoisingDifference) -> Density:
    known = as_density(flow)
    return replace(known, ratio_of=ratio) if isinstance(known, Flowing) else known


def _heaviest(operator: Operator, flows: dict[str, MoleculeFlow]) -> str:
    """Name of the flow that a walk starts from, or of the heaviest one inside that part."""
    part: Flow | Operator = operator
    while isinstance(part, Operator):
        heaviest = max(range(len(part.parts)), key=part.weights.__getitem__)
        part = part.parts[0 if isinstance(part, Interpolation) else heaviest]
    return next(name for name, flow in flows.items() if flow is part)
