"""Train a conformer flow; `molflowctl train-conformers`.

A run is a folder (`flow_trainer.py`). An epoch shows every molecule once, in one of its
conformers drawn at random. A validation reports the loss and, on some molecules, how near drawn
conformers come to the ensemble:

    recall      mean over the ensemble's conformers of the RMSD to the nearest drawn one
    precision   mean over the drawn conformers of the RMSD to the nearest of the ensemble
    stereo      share of the drawn ones with every stereocentre and double bond right
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from lightning_fabric import Fabric
from rdkit import Chem
from torch import Tensor

from molflowctl.chem.ensemble import rmsd_matrix
from molflowctl.chem.geometry import add_conformer
from molflowctl.chem.stereo import stereo_kept
from molflowctl.compute.parallel import pmap
from molflowctl.data.conformer_data import ConformerDataset
from molflowctl.errors import UserError
from molflowctl.flows.noise import BatchNoise
from molflowctl.models.conformer import BOND_WEIGHT, ConformerFlow, Placed, draw_positions
from molflowctl.models.conformer_graph import Graphs
from molflowctl.tasks.training.flow_trainer import FlowTrainer, How
from molflowctl.tasks.training.settings import ConformerTrainConfig

__all__ = ["ConformerTrainer", "Group", "compare", "featurise"]

LOSS_WEIGHTS = {"positions": 1.0, "bonds": BOND_WEIGHT}
_REFERENCES = 10  # conformers of an ensemble that drawn ones are compared with


@dataclass(frozen=True)
class Group:
    """Molecules of one size: their rows in the data set, and their graphs."""

    rows: Tensor
    graphs: Graphs

    def __len__(self) -> int:
        return len(self.rows)


def featurise(
    data: ConformerDataset, split: str, hydrogens: str, jobs: int = 1
) -> dict[int, Group]:
    """The molecules of a split as graphs, by number of atoms.

    Arguments:
        hydrogens: "explicit" or "implicit", where only heavy atoms count and molecules whose stereo
            a hydrogen tells, `[H]/N=C/C`, are left out.
    """
    rows = data.indices(split).tolist()
    chunks = [[(k, data.smiles[k]) for k in rows[i : i + 256]] for i in range(0, len(rows), 256)]
    found: dict[int, list[Group]] = {}
    for outcome in pmap(_Graphs(hydrogens), chunks, jobs, chunk=1):
        if outcome.value is None:
            raise UserError(f"the data set cannot be learned from: {outcome.error}")
        for n, group in outcome.value.items():
            found.setdefault(n, []).append(group)
    return {
        n: Group(torch.cat([p.rows for p in parts]), Graphs.stack([p.graphs for p in parts]))
        for n, parts in sorted(found.items())
    }


@dataclass(frozen=True)
class _Graphs:
    hydrogens: str

    def __call__(self, chunk: list[tuple[int, str]]) -> dict[int, Group]:
        found: dict[int, list[tuple[int, Graphs]]] = {}
        for row, smiles in chunk:
            mol = Chem.MolFromSmiles(smiles)
            if mol is None:
                raise UserError(f"the SMILES of molecule {row + 1}, {smiles}, cannot be read.")
            if self.hydrogens == "implicit" and any(a.GetAtomicNum() == 1 for a in mol.GetAtoms()):
                continue  # a hydrogen that a double bond's stereo needs: no flow of heavy atoms
            try:
                graph = Graphs.of(Chem.AddHs(mol) if self.hydrogens == "explicit" else mol)
            except ValueError as error:
                raise UserError(f"molecule {row + 1}, {smiles}: {error}") from None
            found.setdefault(graph.size, []).append((row, graph))
        return {
            n: Group(torch.tensor([row for row, _ in pairs]), Graphs.stack([g for _, g in pairs]))
            for n, pairs in found.items()
            if n > 1
        }


class ConformerTrainer(FlowTrainer[ConformerFlow, ConformerDataset, Group]):
    """One training run of a conformer flow; see `FlowTrainer`.

    Arguments:
        jobs: processes that read the molecules.

    Raises:
        UserError: as `FlowTrainer`, and for more than one process.
    """

    config: ConformerTrainConfig
    flow_class = ConformerFlow
    loss_weights = LOSS_WEIGHTS

    def __init__(
        self,
        config: ConformerTrainConfig,
        out: str | Path,
        *,
        jobs: int = 1,
        **how: Unpack[How],
    ) -> None:
        self.jobs = jobs
        super().__init__(config, out, **how)

    def _fabric(self, device: str) -> Fabric:
        fabric = super()._fabric(device)
        if fabric.world_size > 1:
            raise UserError("conformer flows are trained by one process: run it without torchrun.")
        return fabric

    def _data(self, parent: ConformerFlow | None, resume: bool) -> ConformerDataset:
        data = ConformerDataset.load(self.config.data)
        return data if len(data.indices("validation")) else data.holding_out(0.05)

    def _by_size(self, split: str) -> dict[int, Group]:
        return featurise(self.data, split, self.config.hydrogens, self.jobs)

    def _new_flow(self, parent: ConformerFlow | None) -> ConformerFlow:
        c = self.config
        sizes = Counter({n: len(group) for n, group in self.batches.items()})
        elements = {
            z for g in self.batches.values() for z in g.graphs.atoms[..., 0].unique().tolist()
        }
        if parent:
            if absent := sorted(elements - set(parent.elements)):
                raise UserError(f"{c.data} has the elements {absent} that {c.init} lacks.")
            if parent.hydrogens != c.hydrogens:
                raise UserError(
                    f"{c.init} is a flow with {parent.hydrogens} hydrogens, the run has "
                    f"hydrogens={c.hydrogens}."
                )
            wanted = c.network.model_dump(exclude={"conditional"}, exclude_unset=True)
            flow = parent.grown(**wanted).train() if wanted else parent
            flow.card = self._child_card(flow)
            flow.learnt_from(sizes)
            return flow
        torch.manual_seed(c.seed)
        return ConformerFlow(
            elements=sorted(elements),
            sizes={str(n): count for n, count in sizes.items()},
            hydrogens=c.hydrogens,
            position_scale=c.position_scale,
            network=c.network.model_dump(exclude={"conditional"}),
        )

    def _minibatch(self, group: Group, rows: Tensor, choice: BatchNoise) -> tuple[Tensor, ...]:
        """Parts of the graphs, then the positions of one conformer of each."""
        graphs, device = group.graphs.select(rows), self.fabric.device
        positions = self.data.dense(
            group.rows[rows],
            choice.uniform(len(rows)),
            graphs.size,
            boltzmann=self.config.boltzmann_weighted,
        )
        parts = (graphs.atoms, graphs.pairs, graphs.centres, graphs.real, positions)
        return tuple(part.to(device, non_blocking=True) for part in parts)

    @staticmethod
    def _encode(flow: ConformerFlow, batch: tuple[Tensor, ...]) -> tuple[Placed, Tensor]:
        *graphs, positions = batch
        placed = flow.on(Graphs(*graphs))
        return placed, placed.encode(positions)

    @staticmethod
    def _validation_times(rows: Tensor, count: int) -> Tensor:
        """By the golden ratio: neighbours in the data, which are alike, are far apart in time."""
        return (rows + 0.5) * 0.6180339887 % 1.0

    def _sampled(self, label: str, flow: ConformerFlow) -> dict[str, float]:
        if label != "ema":
            return {}
        return compare(flow, self.data, self.held_out, self.config)


def compare(
    flow: ConformerFlow,
    data: ConformerDataset,
    groups: dict[int, Group],
    config: ConformerTrainConfig,
) -> dict[str, float]:
    """Recall, precision (angstrom) and stereo of conformers drawn for some of the molecules."""
    sizes = [n for n, group in groups.items() for _ in range(len(group))]
    places = [k for group in groups.values() for k in range(len(group))]
    some = np.random.default_rng(config.seed).permutation(len(sizes))[: config.samples]
    recall, precision, right = [], [], []
    for n in sorted({sizes[k] for k in some}):
        chosen = torch.tensor([places[k] for k in some if sizes[k] == n])
        rows, graphs = groups[n].rows[chosen], groups[n].graphs.select(chosen)
        drawn = draw_positions(
            flow,
            graphs,
            range(config.draws * len(rows)),
            seed=config.seed,
            steps=config.sample_nfe,
        ).view(config.draws, len(rows), n, 3)
        if not drawn.isfinite().all():
            return dict.fromkeys(("recall", "precision", "stereo"), math.nan)
        for k, row in enumerate(rows.tolist()):
            reference = data.mol(row)
            for conformer in list(reference.GetConformers())[_REFERENCES:]:
                reference.RemoveConformer(conformer.GetId())
            mol = flow.with_placed_atoms(data.heavy_mol(row))
            for positions in drawn[:, k].double().numpy():
                right.append(stereo_kept(mol, add_conformer(mol, positions)))
            table = rmsd_matrix(mol, reference)
            recall.append(table.min(0).mean())
            precision.append(table.min(1).mean())
    return {
        "recall": float(np.mean(recall)),
        "precision": float(np.mean(precision)),
        "stereo": float(np.mean(right)),
    }
