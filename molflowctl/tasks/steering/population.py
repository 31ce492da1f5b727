"""Molecules drawn from a flow and judged by an oracle, as states that a control understands.

A `PopulationSampler` draws whole populations over worker processes, decodes and assembles the
molecules there, asks the oracle for their values, and hands back a `Population`: their data states,
grouped by size, with what was said of each. The rewards that it offers to a control read them
there, so that a molecule costs one oracle call, whoever copies or joins its state. With a store,
what an interrupted run has drawn and judged is taken from its folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from rdkit.Chem import Mol, MolFromSmiles
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from torch import Tensor

from molflowctl import properties
from molflowctl.chem.graphs import EXACT, Graph3D, Molecule, assemble
from molflowctl.compute.parallel import WorkerPool
from molflowctl.compute.plugins import source_stamp
from molflowctl.control.objectives.density import Flowing
from molflowctl.control.objectives.ratios import Ito
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.population import Column, Population
from molflowctl.control.store import digest
from molflowctl.data.datasets import MoleculeDataset
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.state import AnyState, Ragged, first_part
from molflowctl.models.generation import Drawn, Sampling, draws
from molflowctl.models.molecule_flow import MoleculeFlow
from molflowctl.properties.cache import Cache
from molflowctl.properties.programs import program_versions
from molflowctl.properties.rewards import Objective
from molflowctl.tasks.loop_surrogate import Learning, StandIn
from molflowctl.tasks.preparation.subset import complete_graph
from molflowctl.tasks.steering.sample_store import SampleStore
from molflowctl.tasks.steering.scored_molecules import ScoredMolecules

__all__ = ["PopulationSampler", "density_of_given_sizes", "draw_sample", "encode"]

PRINT_SIZE = 1024
BLOCK = 1024  # molecules of a data set that are in memory at a time
Progress = Callable[[str, int, int], object]


def _finish(drawn: Drawn) -> tuple[Graph3D | None, str, bytes]:
    if isinstance(drawn.result, Molecule):
        return drawn.graph, drawn.result.smiles, drawn.result.mol.ToBinary(EXACT)
    return drawn.graph, "", b""


def draw_sample(
    flow: MoleculeFlow,
    oracle: Objective | None,
    n: int,
    seed: int,
    *,
    nfe: int,
    pool: WorkerPool,
    timeout: float = 30.0,
    progress: Progress | None = None,
    features: Sequence[str] = (),
    cache: Cache | None = None,
) -> ScoredMolecules:
    """`n` attempts of a flow, and what the oracle says of them; NaN without an oracle.

    `features` are properties that are measured beside; `cache` holds what the oracle said before.
    `progress` is called with "draw" or "oracle", how many are done, and of how many.
    """
    rows = []
    if progress:
        progress("draw", 0, n)  # a clock starts
    stream = draws(flow, Sampling(nfe=nfe), seed=seed, count=n, pool=pool, finish=_finish)
    for row in stream:
        rows.append(row)
        if progress:
            progress("draw", len(rows), n)
    columns = [column for name in features for column in properties.get(name).columns]
    values, beside = np.full(n, math.nan), np.full((n, len(columns)), math.nan)
    found: dict[str, np.ndarray] = {}
    if oracle is not None or features:
        mols = [Mol(binary) if binary else None for _, _, binary in rows]
        valid = np.array([m is not None for m in mols])
        there = [m for m in mols if m is not None]
        scored = (lambda done: progress("oracle", done, len(there))) if progress else None
        if oracle is not None:
            said = oracle.score(there, timeout=timeout, pool=pool, progress=scored, cache=cache)
            values[valid] = said["reward"]
            for name in said.values.keys() - {"reward"}:
                found[name] = np.full(n, math.nan)
                found[name][valid] = said[name]
        if features:
            scores = properties.score(
                there, list(features), timeout=timeout, pool=pool, progress=scored
            )
            beside[valid] = np.stack([scores[column] for column in columns], 1)
    return ScoredMolecules([g for g, _, _ in rows], [s for _, s, _ in rows], values, beside, found)


def encode(flow: MoleculeFlow, graphs: Sequence[Graph3D | None]) -> tuple[Ragged, list[int]]:
    """Data states grouped by size, and the rows of `graphs` in their order; None is left out."""
    groups: dict[int, list[int]] = {}
    for row, graph in enumerate(graphs):
        if graph is not None:
            groups.setdefault(len(graph.numbers), []).append(row)
    states = []
    for n, rows in groups.items():
        first, second = np.triu_indices(n, 1)
        same = [graph for row in rows if (graph := graphs[row]) is not None]
        states.append(
            flow.encode(
                torch.from_numpy(np.stack([g.numbers for g in same])).long(),
                torch.from_numpy(np.stack([g.charges for g in same])).long(),
                torch.from_numpy(np.stack([g.bonds[first, second] for g in same])).long(),
                torch.from_numpy(np.stack([g.positions for g in same])).float(),
            )
        )
    return Ragged(states), [row for rows in groups.values() for row in rows]


def density_of_given_sizes(flow: MoleculeFlow, at_flow: Ragged) -> Flowing:
    """What a flow generates, with log-densities `log p(x | n)` of molecules of `n` atoms.

    A flow draws sizes from a histogram that no control moves, and densities of unlike dimension do
    not compare: of each size, the mean over `at_flow`, molecules of the flow, counts as zero. The
    sums of `Ito` end at `t = 0.8`, where types and bonds are decided and geometry is coarse still;
    four paths on common noise keep their noise below the spread among molecules.
    """
    estimate = Ito(steps=24, paths=4, latest=0.8, width=0.5, common=True).log_density
    known: dict[torch.Size, list[Tensor]] = {}  # by the shape of an element, which tells its size
    for group in at_flow.groups:
        shape = first_part(group).shape[1:]
        known.setdefault(shape, []).append(estimate(flow, group.to(flow.device)))
    levels = {n: float(torch.cat(values).mean()) for n, values in known.items()}

    def log_density(flow: Flow, x: AnyState) -> Tensor:
        # A size that `at_flow` has none of is rare, and no better or worse than others.
        values = estimate(flow, x)
        return values - levels.get(first_part(x).shape[1:], float(values.mean()))

    return Flowing(flow, log_density)


class PopulationSampler:
    """Draws populations and knows what the oracle said of them.

    Arguments:
        oracle: what molecules are worth; None where only validity counts.
        pool: worker processes.
        timeout: seconds that the oracle may take per molecule.
        progress: called with what is done, how many, and of how many.
        features: properties that are measured beside, see `measured`.
        similar: whether to tell how alike molecules are, see `fingerprints`.
        cache: of what the oracle said of molecules, where it is too slow to be asked twice.
        store: keeps every sample, and has those of an interrupted run; None to keep nothing.
        say: called with a line about what is drawn.

    Attributes:
        calls: molecules that the oracle was asked about, now or before the run was interrupted.
    """

    def __init__(
        self,
        oracle: Objective | None,
        pool: WorkerPool,
        *,
        timeout: float = 30.0,
        progress: Progress = lambda what, done, total: None,
        features: Sequence[str] = (),
        similar: bool = False,
        cache: Cache | None = None,
        store: SampleStore | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.oracle, self.pool, self.timeout, self.progress = oracle, pool, timeout, progress
        self.features, self.similar, self.store, self.say = features, similar, store, say
        self.cache = cache
        self.calls = 0

    def sample(
        self, label: str, flow: MoleculeFlow, n: int, seed: int, nfe: int, news: str = ""
    ) -> tuple[ScoredMolecules, Population]:
        """`n` attempts of a flow: the molecules, and their data states with what is known of them.

        Arguments:
            news: what to say before they are drawn; nothing is said of what is kept already.

        Raises:
            UserError: if not a single one could be decoded, or they cannot be kept.
        """
        drawn = self._drawn(label, flow, n, seed, nfe, news)
        if all(graph is None for graph in drawn.graphs):
            raise UserError("every worker process that drew molecules died: is memory short?")
        x, rows = encode(flow, drawn.graphs)
        smiles = [drawn.smiles[row] for row in rows]
        return drawn, self._population(x, smiles, drawn.values[rows], drawn.features[rows])

    def _population(
        self,
        x: Ragged,
        smiles: Sequence[str],
        values: np.ndarray,
        features: np.ndarray,
        judged: bool = True,
    ) -> Population:
        """States with what is known of their molecules, `(N,)` values and `(N, m)` features.

        A state is valid that has a molecule, and all that was asked about it; `judged` says whether
        values are the oracle's.
        """
        there = valid = np.array([bool(name) for name in smiles])
        if self.oracle is not None:
            valid = valid & np.isfinite(values)
        if self.features:
            valid = valid & np.isfinite(features).all(1)
        known = {
            "value": torch.from_numpy(values),
            "judged": torch.full((len(values),), float(judged)),
            "features": torch.from_numpy(features),
            "validity": torch.from_numpy(there).float() - 1,
        }
        if self.similar:
            known["fingerprint"] = _prints(smiles)
        return Population(x, known, torch.from_numpy(valid))

    def _drawn(
        self, label: str, flow: MoleculeFlow, n: int, seed: int, nfe: int, news: str
    ) -> ScoredMolecules:
        """A sample, as it is kept or drawn now."""
        told, asked = self._told(flow, n, seed, nfe), self._asked()
        kept = None if self.store is None else self.store.load(label, told, asked)
        if kept is not None:
            drawn, self.calls = kept
            if isinstance(self.oracle, Learning):
                self._recall(self.oracle, drawn)
            return drawn
        if news:
            self.say(news)
        drawn = draw_sample(
            flow, self.oracle, n, seed, nfe=nfe, pool=self.pool,
            timeout=self.timeout,
            progress=lambda what, now, of: self.progress(f"{label}: {what}", now, of),
            features=self.features, cache=self.cache,
        )  # fmt: skip
        if self.oracle is not None or self.features:
            self.calls += sum(map(bool, drawn.smiles))
        if self.store is not None and any(graph is not None for graph in drawn.graphs):
            self.store.save(label, told, asked, drawn, self.calls)
        return drawn

    @staticmethod
    def _told(flow: MoleculeFlow, n: int, seed: int, nfe: int) -> dict[str, Any]:
        """What decides the molecules of a sample."""
        return {
            "flow": digest(flow),
            "sampling": flow.card.get("sampling"),
            "n": n,
            "seed": seed,
            "evaluations": nfe,
        }

    def _recall(self, oracle: Learning | StandIn, drawn: ScoredMolecules) -> None:
        """Let an oracle learn from a sample that it judged before, whose answers were kept."""
        there = np.isfinite(drawn.values)
        mols = [
            _molecule(graph)
            for graph, ok in zip(drawn.graphs, there, strict=True)
            if ok and graph is not None
        ]
        oracle.value(mols, timeout=self.timeout, pool=self.pool, cache=self.cache)

    def more(
        self, label: str, flow: MoleculeFlow, n: int, seed: int, nfe: int, judge: StandIn
    ) -> Population:
        """`n` further attempts, judged by what stands in for the oracle.

        Molecules that have no value there are left out; the invalid stay.
        """
        told = self._told(flow, n, seed, nfe)
        asked = self._asked() | {"surrogates": judge.digests, "spare": judge.spare}
        kept = None if self.store is None else self.store.load(label, told, asked)
        if kept is not None:
            drawn, self.calls = kept
            self._recall(judge, drawn)
        else:
            drawn = draw_sample(
                flow, judge, n, seed, nfe=nfe, pool=self.pool, timeout=self.timeout,
                progress=lambda what, now, of: self.progress(
                    f"{label}: {what.replace('oracle', 'surrogate')}", now, of
                ),
                cache=self.cache,
            )  # fmt: skip
            self.calls += judge.calls
            if self.store is not None:
                self.store.save(label, told, asked, drawn, self.calls)
        valid = np.array([bool(name) for name in drawn.smiles])
        there = ~valid | np.isfinite(drawn.values)
        x, rows = encode(
            flow, [g if ok else None for g, ok in zip(drawn.graphs, there, strict=True)]
        )
        smiles = [drawn.smiles[row] for row in rows]
        return self._population(x, smiles, drawn.values[rows], drawn.features[rows], judged=False)

    def _asked(self) -> dict[str, Any]:
        """What decides the values of molecules."""
        names = [*(self.oracle.properties if self.oracle else ()), *self.features]
        known = [properties.get(name) for name in names]
        return {
            "reward": None if self.oracle is None else str(self.oracle),
            "features": list(self.features),
            "properties": {
                p.name: [p.version, program_versions(p.engine) + source_stamp(p.compute)]
                for p in known
            },
        }

    def judge(
        self,
        label: str,
        flow: MoleculeFlow,
        data: MoleculeDataset,
        rows: Sequence[int],
        cache: Cache | None = None,
        judge: StandIn | None = None,
    ) -> tuple[Population, list[int]]:
        """Known molecules in place of drawn ones: their data states, and which row each is of.

        Those that fail, or on which the oracle does, are left out. Values in the cache count as
        calls: what a control costs does not depend on what was asked before.

        Arguments:
            judge: in place of the oracle.

        Raises:
            UserError: if none is left.
        """
        assert self.oracle is not None
        oracle = judge or self.oracle
        geometry = any(properties.get(name).geometry for name in self.oracle.properties)
        complete = partial(complete_graph, data.card.get("hydrogens") == "explicit", geometry)
        values = np.full(len(rows), math.nan)
        for start in range(0, len(rows), BLOCK):
            graphs = [data.graph(row) for row in rows[start : start + BLOCK]]
            outcomes = list(self.pool.map(complete, graphs, timeout=self.timeout))
            mols = [Mol(o.value) if isinstance(o.value, bytes) else None for o in outcomes]
            found = oracle.value(mols, timeout=self.timeout, pool=self.pool, cache=cache)
            values[start : start + BLOCK] = found
            if judge is None:
                self.calls += sum(mol is not None for mol in mols)
            by = "oracle" if judge is None else "surrogate"
            self.progress(f"{label}: {by}", start + len(graphs), len(rows))
        if judge is not None:
            self.calls += judge.calls
        if not np.isfinite(values).any():
            raise UserError(f"{self.oracle} failed on all of {len(rows)} molecules of the data.")
        there = np.isfinite(values)
        known = [data.graph(row) if ok else None for row, ok in zip(rows, there, strict=True)]
        x, places = encode(flow, known)
        chosen = [rows[k] for k in places]
        smiles = [data.smiles[row] for row in chosen]
        none = np.empty((len(places), 0))
        return self._population(x, smiles, values[places], none, judge is None), chosen

    def reward(self, name: str, mean: float, std: float, failed: float) -> Reward:
        """What the oracle said, as a reward of states, in standard deviations from a mean.

        Arguments:
            failed: of molecules without a value.
        """

        scaled = Column(
            "value",
            name,
            lambda known: ((known - mean) / std).nan_to_num(nan=failed).float(),
        )
        return Reward(scaled, measured=True, name=name)

    def measured(self, samples: Sequence[ScoredMolecules]) -> Column:
        """The features of populations, `(N, m)`, in standard deviations of the samples.

        A molecule without a value lies at the mean.

        Raises:
            UserError: for a feature that is the same for all the molecules, or failed on them.
        """
        rows = np.concatenate([sample.features for sample in samples])
        rows = rows[np.isfinite(rows).all(1)]
        spread = rows.std(0) if len(rows) else np.zeros(rows.shape[1])
        if not spread.all():
            names = [c for name in self.features for c in properties.get(name).columns]
            name = names[int(np.argmin(spread))]
            raise UserError(f"{name} is the same for all molecules of the parts, or not known.")
        mean, width = torch.from_numpy(rows.mean(0)), torch.from_numpy(spread)
        return Column(
            "features",
            " and ".join(self.features),
            lambda known: ((known - mean) / width).nan_to_num().float(),
        )

    def fingerprints(self) -> Column:
        """Unit vectors that say which circular fragments a molecule has, `(N, 1024)`.

        Morgan fingerprints of radius 2 over their length; all invalid molecules have the same
        vector, orthogonal to those of the valid. They are there if the assay was to tell how
        similar molecules are.
        """
        return Column("fingerprint", "a fingerprint")

    def validity(self) -> Reward:
        """0 for a valid molecule, -1 for any other: densities of molecules hold no others."""
        return Reward(Column("validity", "validity"), measured=True, name="validity")


def _molecule(graph: Graph3D) -> Mol | None:
    made = assemble(graph)
    return made.mol if isinstance(made, Molecule) else None


def _prints(smiles: Sequence[str]) -> Tensor:
    """The unit vectors of `PopulationSampler.fingerprints`, `(N, 1024)`."""
    generator = GetMorganGenerator(radius=2, fpSize=PRINT_SIZE - 1)
    bits = np.zeros((len(smiles), PRINT_SIZE), np.float32)
    for row, name in enumerate(smiles):
        if name:
            bits[row, 1:] = generator.GetFingerprintAsNumPy(MolFromSmiles(name))
        else:
            bits[row, 0] = 1.0
    return torch.from_numpy(bits / np.linalg.norm(bits, axis=1, keepdims=True))
