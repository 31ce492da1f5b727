"""Train a conformer flow; `molflowctl train-conformers`.

A run is a folder like that of `tasks/train.py`, with the same schedule, optimisers, checkpoints and
log. An epoch shows every molecule once, in one of its conformers drawn at random. A validation
reports the loss and, on some molecules, how near drawn conformers come to the ensemble:

    recall      mean over the ensemble's conformers of the RMSD to the nearest drawn one
    precision   mean over the drawn conformers of the RMSD to the nearest of the ensemble
    stereo      share of the drawn ones with every stereocentre and double bond right
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rdkit import Chem
from torch import Tensor, nn

from molflowctl.config import ConformerTrainConfig
from molflowctl.conformer_data import ConformerDataset
from molflowctl.ensemble import rmsd_matrix
from molflowctl.errors import UserError
from molflowctl.flows.noise import BatchNoise
from molflowctl.models.conformer import BOND_WEIGHT, ConformerFlow, draw_positions
from molflowctl.models.conformer_graph import Graphs
from molflowctl.parallel import pmap
from molflowctl.stereo import stereo_kept
from molflowctl.tasks.train import Trainer

__all__ = ["ConformerTrainer", "Group", "compare", "featurise"]

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
        hydrogens: "explicit" or "implicit", where only heavy atoms count.
    """
    rows = data.indices(split).tolist()
    chunks = [[(k, data.smiles[k]) for k in rows[i : i + 256]] for i in range(0, len(rows), 256)]
    found: dict[int, list[Group]] = {}
    for outcome in pmap(_Graphs(hydrogens), chunks, jobs, chunk=1):
        if outcome.value is None:
            raise UserError(f"the data set's molecules cannot be read: {outcome.error}")
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
            graph = Graphs.of(Chem.AddHs(mol) if self.hydrogens == "explicit" else mol)
            found.setdefault(graph.size, []).append((row, graph))
        return {
            n: Group(torch.tensor([row for row, _ in pairs]), Graphs.stack([g for _, g in pairs]))
            for n, pairs in found.items()
            if n > 1
        }


class _Losses(nn.Module):
    """The training loss as a module's `forward`, which runs in the precision of the run."""

    def __init__(self, flow: ConformerFlow) -> None:
        super().__init__()
        self.flow = flow

    def forward(
        self, graphs: tuple[Tensor, ...], positions: Tensor, uniform: Tensor, noise: BatchNoise
    ) -> Tensor:
        placed = self.flow.on(Graphs(*graphs))
        return placed.loss(placed.encode(positions), placed.draw_times(uniform), noise)


class ConformerTrainer(Trainer):
    """One training run of a conformer flow; see `Trainer`, whose loop this is.

    Raises:
        UserError: as `Trainer`, and for more than one process.
    """

    def __init__(
        self,
        config: ConformerTrainConfig,
        out: str | Path,
        *,
        resume: bool = False,
        device: str = "auto",
        jobs: int = 1,
        report: Callable[[dict[str, float]], None] = lambda row: None,
    ) -> None:
        self.config: ConformerTrainConfig = config
        self.out, self.report = Path(out), report
        places = (self.out / "checkpoint", self.out / ".checkpoint.old")
        checkpoint = next((place for place in places if place.exists()), None)
        if checkpoint and not resume:
            raise UserError(f"{out} already holds a training run; continue it with --resume.")
        self.fabric = self._fabric(device)
        if self.fabric.world_size > 1:
            raise UserError("conformer flows are trained by one process: run it without torchrun.")
        self.data: ConformerDataset = ConformerDataset.load(config.data)  # type: ignore[assignment]
        self.batches: dict[int, Group] = featurise(  # type: ignore[assignment]
            self.data, "train", config.hydrogens, jobs
        )
        self.held_out = featurise(self.data, "validation", config.hydrogens, jobs)
        if not self.batches or not self.held_out:
            raise UserError(f"{config.data} needs molecules to train on and to validate on.")
        self.flow: ConformerFlow = self._new_flow().to(self.fabric.device)  # type: ignore[assignment]
        self.step, self.elapsed, self.seen, self.epoch = 0, 0.0, 0, 0
        self.average: ConformerFlow = copy.deepcopy(self.flow)  # type: ignore[assignment]
        self.average.requires_grad_(False)
        optimisers = self._optimisers()
        if checkpoint:
            self._load(checkpoint, optimisers)
        module = _Losses(self.flow)
        self.module, *self.optimisers = self.fabric.setup(module, *optimisers)

    def _new_flow(self) -> ConformerFlow:  # type: ignore[override]
        c = self.config
        elements = {
            z for g in self.batches.values() for z in g.graphs.atoms[..., 0].unique().tolist()
        }
        if c.init:
            flow = ConformerFlow.from_pretrained(c.init).train()
            if absent := sorted(elements - set(flow.elements)):
                raise UserError(f"{c.data} has the elements {absent} that {c.init} lacks.")
            if flow.hydrogens != c.hydrogens:
                raise UserError(
                    f"{c.init} is a flow with {flow.hydrogens} hydrogens, the run has "
                    f"hydrogens={c.hydrogens}."
                )
            sha256 = flow.card.get("weights_sha256")
            flow.card = {"parents": [{"name": c.init, "weights_sha256": sha256}]}
            return flow
        torch.manual_seed(c.seed)
        return ConformerFlow(
            elements=sorted(elements),
            sizes={str(n): len(group) for n, group in self.batches.items()},
            hydrogens=c.hydrogens,
            position_scale=c.position_scale,
            network=c.network.model_dump(),
        )

    def _train_step(self, n: int, rows: np.ndarray) -> Tensor:
        c, device = self.config, self.fabric.device
        seed = np.random.SeedSequence([c.seed, self.step]).generate_state(1)[0]
        noise, choice = BatchNoise(int(seed), device), BatchNoise(int(seed) + 1)
        picked, group = torch.from_numpy(rows), self.batches[n]
        graphs = group.graphs.select(picked).to(device)
        positions = self.data.dense(
            group.rows[picked], choice.uniform(len(rows)), n, boltzmann=c.boltzmann
        ).to(device)
        order = noise.uniform(len(rows)).argsort()  # stratified times, in random order
        uniform = (order + noise.uniform(1)) / len(rows)
        lr = self.learning_rate()
        for optimiser in self.optimisers:
            for parameters in optimiser.param_groups:
                parameters["lr"] = lr
            optimiser.zero_grad()
        parts = (graphs.atoms, graphs.pairs, graphs.centres, graphs.real)
        losses = self.module(parts, positions, uniform, noise)
        self.fabric.backward(losses.mean() * (len(rows) * n / c.batch_atoms))
        nn.utils.clip_grad_norm_(self.flow.parameters(), c.clip)
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        self.seen += len(rows)
        decay = min(c.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            averages: list[Tensor] = list(self.average.parameters())
            torch._foreach_lerp_(averages, list(self.flow.parameters()), 1 - decay)
        return losses.detach().mean()

    @torch.no_grad()
    def _validation_loss(self, flow: ConformerFlow, most: int = 2048) -> dict[str, float]:  # type: ignore[override]
        """Both terms of the loss on the validation split, common noise, the sizes in proportion."""
        sums: dict[str, float] = {}
        count = sum(len(g) for g in self.held_out.values())
        total = 0
        for n, group in self.held_out.items():
            k = min(len(group), max(1, round(most * len(group) / count)))
            noise, choice = BatchNoise(n, self.fabric.device), BatchNoise(n)
            rows = torch.arange(k)
            for part in rows.split(256):
                placed = flow.on(group.graphs.select(part))
                positions = self.data.dense(
                    group.rows[part], choice.uniform(len(part)), n, boltzmann=self.config.boltzmann
                )
                uniform = (part + 0.5) * 0.6180339887 % 1.0
                t = placed.draw_times(uniform.to(self.fabric.device))
                x1 = placed.encode(positions.to(self.fabric.device))
                for name, term in placed.losses(x1, t, noise).items():
                    sums[name] = sums.get(name, 0.0) + float(term.sum())
            total += k
        return {name: value / total for name, value in sums.items()}

    def _validate(self, train_loss: float | None, *, sample: bool) -> dict[str, float]:
        c = self.config
        row: dict[str, float] = {
            "minutes": self.elapsed / 60,
            "step": self.step,
            "epoch": self.seen / sum(len(b) for b in self.batches.values()),
            "molecules_per_s": self.seen / max(self.elapsed, 1e-9),
            "lr": self.learning_rate(),
            "train_loss": math.nan if train_loss is None else train_loss,
            "progress": self.progress(),
        }
        flows: dict[str, ConformerFlow] = {"raw": self.flow, "ema": self.average}  # type: ignore[dict-item]
        for label, flow in flows.items():
            flow.eval()
            with self.fabric.autocast():
                terms = self._validation_loss(flow)
                row[f"{label}_loss"] = terms["positions"] + BOND_WEIGHT * terms["bonds"]
                if label == "ema":
                    row |= {f"ema_{name}": value for name, value in terms.items()}
                    if sample:
                        row |= compare(flow, self.data, self.held_out, c)
        self.flow.train()
        self._log(row)
        self.report(row)
        return row


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
            steps=config.sample_steps,
        ).view(config.draws, len(rows), n, 3)
        if not drawn.isfinite().all():
            return dict.fromkeys(("recall", "precision", "stereo"), math.nan)
        for k, row in enumerate(rows.tolist()):
            reference = data.mol(row)
            for conformer in list(reference.GetConformers())[_REFERENCES:]:
                reference.RemoveConformer(conformer.GetId())
            mol = flow.dress(data.heavy_mol(row))
            for positions in drawn[:, k].double().numpy():
                conformer = Chem.Conformer(n)
                conformer.SetPositions(np.ascontiguousarray(positions))
                right.append(stereo_kept(mol, mol.AddConformer(conformer, assignId=True)))
            table = rmsd_matrix(mol, reference)
            recall.append(table.min(0).mean())
            precision.append(table.min(1).mean())
    return {
        "recall": float(np.mean(recall)),
        "precision": float(np.mean(precision)),
        "stereo": float(np.mean(right)),
    }
