r"""Steer and merge conformer flows; `molflowctl finetune-conformers` and `merge-conformers`.

The reward is the negative energy of a conformer above the lowest known of its molecule, kcal/mol
(`tasks/steering/conformer_energy.py`). Fine-tuning maximises

    U(r) - kl KL(p || flow),

`U` a utility, `kl` in kcal/mol, so that a mean has the optimum `p(x|m) ~ flow(x|m) exp(r/kl)`. A
vibration that holds `e` on average in the flow then holds `e kl / (kl + 2 e)`: where a flow's
conformers lie 10 kcal/mol above the minimum in 40 vibrations, `kl = 0.5` halves that. A merge
maximises `strength U(r) - sum_i w_i D_i(p, p_i)`; an intersection begins from the averaged scores
of its parts (`control/merging.py`). The scores of trained flows at the end of the path are no good
for it: bond lengths of two flows differ by less than the noise of any time at which their scores
can be trusted, and nearer to the data errors of the endpoint, over the square of that noise, move
atoms by angstroms (`intersection: mirror`; at epsilon 0.1 nothing moved, at 0.02 all broke).

That optimum also prefers the lowest of a molecule's conformers, and loses the others. By default
fine-tuning steers from a late time on (`earliest`), when it is decided which of them becomes: each
is cooled for itself and keeps its weight (`control/solvers/adjoint.py`). A merge, which is about
these weights, steers from the start.

Both run over molecules of the training split. The inner solver is adjoint matching: forces and
scores are at hand, geometry is smooth in them, and gradients know nothing of the constant that each
molecule's reward is free of.

A run is a folder as that of `finetune` is (`tasks/steering/finetune.py`): the flow, its lineage in
the card, the table, and `rounds/` with the flow after every step, the conformers that were drawn
with their energies, and the energies they count from: what a resumed run goes on from.

References:
    De Santi et al., Flow Density Control, 2025, arXiv 2511.22640.
    De Santi et al., Reward-Guided Flow Merging, 2026, arXiv 2602.08012.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from rdkit import Chem

from molflowctl.chem.graphs import EXACT
from molflowctl.compute.parallel import WorkerPool
from molflowctl.control.anchors import Annealed, FromPrior
from molflowctl.control.merging import RewardGuidedMerging
from molflowctl.control.mirror import Constant, FlowDensityControl
from molflowctl.control.objectives.density import Density, Flowing, as_density
from molflowctl.control.objectives.divergences import KL
from molflowctl.control.objectives.ratios import DenoisingDifference
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.operators import Contrast, Operator, parse
from molflowctl.control.solvers.adjoint import AdjointMatching
from molflowctl.control.solvers.reinforce import ReinforceAdjointMatching
from molflowctl.control.solvers.solver import InnerSolver
from molflowctl.control.solvers.weighted import WeightedFlowMatching
from molflowctl.control.store import digest
from molflowctl.data.conformer_data import ConformerDataset
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.state import Ragged, on_cpu
from molflowctl.io.locks import one_writer
from molflowctl.models.conformer import ConformerFlow
from molflowctl.models.ensembles import Ensembles, SummedEnsembles
from molflowctl.properties.programs import program_versions
from molflowctl.tasks.generate.flows import load_as
from molflowctl.tasks.steering.circuit import places
from molflowctl.tasks.steering.conformer_energy import ConformerEnergies, lowest_energies
from molflowctl.tasks.steering.objectives import utility
from molflowctl.tasks.steering.run_folder import Hooks, RunFolder, Table, seed_of
from molflowctl.tasks.steering.sample_store import SampleStore
from molflowctl.tasks.steering.scored_conformers import References, ScoredConformers
from molflowctl.tasks.steering.settings import (
    ConformerFinetuneConfig,
    ConformerMergeConfig,
    ConformerSteeringConfig,
)

__all__ = ["ConformerRow", "finetune_conformers", "merge_conformers"]

# The programs behind an energy and the relaxations by it.
_ENGINES = {"GFN2-xTB": "xtb-relax", "GFN1-xTB": "xtb-relax", "MMFF94": "openmm"}


@dataclass(frozen=True)
class ConformerRow:
    """One line of the table, of fresh conformers of a flow: energies above the molecules' lowest.

    Energies are in kcal/mol: the median, the ninth decile, and the mean of the reward.
    """

    step: int
    label: str
    median: float
    high: float
    reward: float
    failed: int
    oracle_calls: int
    minutes: float


class _Course:
    """What the two tasks share: molecules, energies, table and solver."""

    def __init__(
        self,
        config: ConformerSteeringConfig,
        flow: ConformerFlow,
        mols: list[Chem.Mol],
        pool: WorkerPool,
        folder: RunFolder,
        kind: str,
        hooks: Hooks,
    ) -> None:
        self.config, self.pool = config, pool
        self.began = time.monotonic()
        self.table = Table(folder.out / f"{kind}.csv", hooks.report)
        self.store = SampleStore(folder.rounds, hooks.say)
        references = self._references(mols, hooks)
        lowest = references.lowest
        for name, reason in references.reasons.items():
            hooks.say(f"left out: {name} has no {config.energy} energy to count from: {reason}")
        known = np.isfinite(lowest)
        mols, lowest = [mol for mol, k in zip(mols, known, strict=True) if k], lowest[known]
        self.energies = ConformerEnergies(
            mols,
            lowest,
            flow.position_scale,
            pool,
            method=config.energy,
            softness=config.energy_cap,
            timeout=config.timeout,
        )
        for mol in mols:
            mol.RemoveAllConformers()
        self.reward = self.energies.reward()
        self.molecules = Ensembles(flow, mols).molecules
        self.names: dict[int, str] = {}  # of the flows that the run begins with, by id
        self._drawn: dict[int, tuple[Flow, Ragged]] = {}

    def _references(self, mols: list[Chem.Mol], hooks: Hooks) -> References:
        """The energies to count from: those of an interrupted run, or of relaxations now."""
        label, method = "lowest energies", self.config.energy
        drawn = {"method": method, "seed": self.config.seed, "molecules": _digest(mols)}
        asked = {"programs": program_versions(_ENGINES[method])}
        if kept := self.store.load(label, drawn, asked, References):
            return kept[0]
        hooks.say(f"{len(mols)} molecules; relaxing them for the energies to count from")
        found = References(*lowest_energies(mols, method, self.pool))
        self.store.save(label, drawn, asked, found, 0)
        return found

    def on(self, flow: ConformerFlow, name: str) -> Ensembles:
        """A flow that the run begins with, on the molecules of this run."""
        placed = Ensembles(flow, self.molecules)
        self.names[id(placed)] = name
        return placed

    def solver(self) -> InnerSolver:
        c = self.config
        if c.solver == "adjoint":
            return AdjointMatching(
                c.iterations,
                c.batch,
                c.trajectory_steps,
                c.passes,
                lr=c.lr,
                average=0.9,
                clip=0.9,
                earliest=c.earliest,
            )
        if c.solver == "reinforce":
            return ReinforceAdjointMatching(c.train_steps, c.batch, c.lr, latest=0.99)
        return WeightedFlowMatching(steps=c.train_steps, batch=c.batch, lr=c.lr)

    def control(self) -> dict[str, Any]:
        """Settings of the mirror ascent: by forces from the prior, by values along a walk."""
        by_forces = self.config.solver == "adjoint"
        return {
            "plan": 1 if by_forces else 30,
            "anchor": FromPrior() if by_forces else Annealed(),
            "points": self.config.n_samples,
            "nfe": self.config.nfe,
            "draw": self.drawn,
        }

    def drawn(self, flow: Flow, n: int, seed: int, nfe: int) -> Ragged:
        """Conformers of a flow, the same ones whenever it is asked, and a line in the table."""
        if id(flow) not in self._drawn:
            label = self.names.get(id(flow), "steered")
            count = n if id(flow) in self.names else max(n, self.config.n_samples)
            x = self._population(flow, count, seed, nfe)
            if not self._drawn:
                self.energies.count_from(x)
            self._drawn[id(flow)] = flow, x
            self.note(label, x)
        return self._drawn[id(flow)][1]

    def _population(self, flow: Flow, n: int, seed: int, nfe: int) -> Ragged:
        """Conformers with their energies, as they are kept or drawn now."""
        label = f"round {len(self.table.rows)}"
        drawn = {"flow": digest(flow), "n": n, "seed": seed, "evaluations": nfe}
        method = self.config.energy
        asked = {
            "energy": method,
            "energy_cap": self.config.energy_cap,
            "lowest": hashlib.sha256(self.energies.lowest.tobytes()).hexdigest(),
            "programs": program_versions(_ENGINES[method]),
        }
        if kept := self.store.load(label, drawn, asked, ScoredConformers):
            return self.energies.take(*kept)
        x = on_cpu(flow.draw_states(n, seed=seed, nfe=nfe))
        sample = self.energies.sample(x)
        self.store.save(label, drawn, asked, sample, self.energies.calls)
        return x

    def note(self, label: str, x: Ragged) -> None:
        reward = float(self.reward.value(x).mean())
        above = np.concatenate([self.energies.above(group) for group in x.groups])
        median, high = np.nanquantile(above, [0.5, 0.9])
        self.table.add(
            ConformerRow(
                len(self.table.rows), label, float(median), float(high), reward,
                int(np.isnan(above).sum()), self.energies.calls, self.minutes(),
            )
        )  # fmt: skip

    def minutes(self) -> float:
        return (time.monotonic() - self.began) / 60

    def summary(self) -> dict[str, Any]:
        return {
            "energy": self.config.energy,
            "molecules": len(self.molecules),
            "rounds": [vars(row) for row in self.table.rows],
            "oracle_calls": self.energies.calls,
            "oracle_failed": self.energies.failed,
            "minutes": self.minutes(),
        }


@one_writer(lambda config, *_, **__: config.out, folder=True)
def finetune_conformers(
    config: ConformerFinetuneConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    hooks: Hooks | None = None,
) -> ConformerFlow:
    """Steer `config.flow` towards low energies and write the result to `config.out`.

    Raises:
        UserError: for an unknown flow, data or utility, an output that exists or holds the flow, a
            resume with other settings, or molecules that have no energy.
    """
    hooks = hooks or Hooks()
    utility(config.utility, Reward(lambda x: x))  # before any work
    base = load_as(ConformerFlow, config.flow, config.device)
    mols = training_molecules(config, {config.flow: base})
    folder = _folder(config, {config.flow: base}, resume, overwrite)
    with WorkerPool(config.jobs) as pool:
        course = _Course(config, base, mols, pool, folder, "finetune", hooks)
        begin = course.on(folder.beginning(base), "base")
        p0 = as_density(begin)
        objective = utility(config.utility, course.reward) - config.kl_weight * KL(p0)
        flow = FlowDensityControl(
            objective,
            course.solver(),
            steps=config.mirror_steps,
            step_size=Constant(1 / config.kl_weight),
            folder=folder.rounds,
            **course.control(),
        ).run(begin, prior=p0, seed=config.seed)
        return _finish(course, flow, folder, "finetune", {"maximise": objective.name})


@one_writer(lambda config, *_, **__: config.out, folder=True)
def merge_conformers(
    config: ConformerMergeConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    hooks: Hooks | None = None,
) -> ConformerFlow:
    """Merge the flows of `config.circuit` and write the result to `config.out`.

    Raises:
        UserError: as `finetune_conformers`, and for a circuit that is none, weights that do not
            fit, or flows that do not go together.
    """
    hooks = hooks or Hooks()
    utility(config.utility, Reward(lambda x: x))
    names = places(config)
    flows = {name: load_as(ConformerFlow, place, config.device) for name, place in names.items()}
    _operator(config, flows)  # before any work
    mols = training_molecules(config, flows)
    folder = _folder(config, {names[k]: flow for k, flow in flows.items()}, resume, overwrite)
    with WorkerPool(config.jobs) as pool:
        first = next(iter(flows.values()))
        course = _Course(config, first, mols, pool, folder, "merge", hooks)
        parts = {}
        for name, flow in flows.items():
            begin = folder.beginning(flow)
            begin.card["name"] = name
            parts[name] = course.on(begin, name)
        operator = _operator(config, parts)

        def score_sum(flows: Sequence[Flow], weights: Sequence[float]) -> Flow:
            summed = SummedEnsembles(flows, weights)  # type: ignore[arg-type]
            course.names[id(summed)] = "score sum"
            return summed

        merged = RewardGuidedMerging(
            operator,
            course.solver(),
            utility=config.reward_weight * utility(config.utility, course.reward)
            if config.reward_weight
            else None,
            steps=config.mirror_steps,
            intersection=config.intersection,
            score_sum=score_sum,
            matching=WeightedFlowMatching(
                steps=config.mirror_steps * config.train_steps, batch=config.batch, lr=config.lr
            ),
            density=lambda flow: _density(flow, config.epsilon),
            folder=folder.rounds,
            learning=partial(hooks.progress, "learning"),
            **course.control(),
        ).run(seed=config.seed)
        objective = {"merge": repr(operator)}
        if config.reward_weight:
            objective["beside"] = f"{config.reward_weight:g} {' + '.join(config.utility)}"
        return _finish(course, merged, folder, "merge", objective)


def training_molecules(
    config: ConformerSteeringConfig, flows: Mapping[str, ConformerFlow]
) -> list[Chem.Mol]:
    """Molecules of the training split that all flows can do, with their conformers.

    Raises:
        UserError: if there are none, or a flow does not place hydrogens.
    """
    for name, flow in flows.items():
        if flow.hydrogens != "explicit":
            raise UserError(
                f"{name} places heavy atoms alone, which have no energy: steer a flow with "
                f"explicit hydrogens."
            )
    data = ConformerDataset.load(config.data)
    rows = data.indices("train").tolist()
    mols: list[Chem.Mol] = []
    for place in np.random.default_rng(seed_of(config.seed, 1)).permutation(len(rows)):
        if len(mols) == config.molecules:
            break
        mol = data.mol(rows[place])
        if mol.GetNumConformers() and not any(
            flow.unsupported_reason(mol) for flow in flows.values()
        ):
            mols.append(mol)
    if not mols:
        raise UserError(f"{config.data} has no training molecules that the flow could place.")
    return mols


def _folder(
    config: ConformerSteeringConfig, flows: dict[str, ConformerFlow], resume: bool, overwrite: bool
) -> RunFolder:
    return RunFolder(
        config,
        list(flows),
        list(flows.values()),
        resume=resume,
        overwrite=overwrite,
    )


def _finish(
    course: _Course, flow: Flow, folder: RunFolder, kind: str, objective: dict[str, str]
) -> ConformerFlow:
    """Judge the result, write it, and hand it over."""
    assert isinstance(flow, Ensembles)
    config = course.config
    course.drawn(flow, config.n_samples, seed_of(config.seed, 3), config.nfe)
    objective |= {"r": f"-({config.energy} above the lowest known, kcal/mol)"}
    folder.finish(flow, kind, objective, course.summary())
    return flow.flow


def _digest(mols: Sequence[Chem.Mol]) -> str:
    """Of molecules and their conformers."""
    sha = hashlib.sha256()
    for mol in mols:
        sha.update(mol.ToBinary(EXACT))
    return sha.hexdigest()


def _operator(config: ConformerMergeConfig, flows: Mapping[str, Flow]) -> Operator:
    operator = parse(config.circuit, flows)
    if not isinstance(operator, Operator):
        raise UserError(f"{config.circuit!r} is a single flow: merging takes two or more.")
    if config.weights is None:
        return operator
    if isinstance(operator, Contrast):
        if len(config.weights) != 1:
            raise UserError("a contrast has one weight, of what the second flow takes away.")
        first, second = operator.parts
        return Contrast(first, second, config.weights[0])
    return type(operator)(*operator.parts, weights=config.weights)


def _density(flow: Flow, epsilon: float) -> Density:
    known = as_density(flow)
    if not isinstance(known, Flowing):
        return known
    # Solvers by forces need scores; log-ratios are for the log.
    return replace(known, epsilon=epsilon, ratio_of=DenoisingDifference(times=8))
