"""Train a de-novo flow by flow matching; `molflowctl train`.

A run is a folder (`flow_trainer.py`); what it leaves, `ema/` and `raw/`, `generate` takes. A run
that starts from a flow (`init`) can learn from an SDF file, which it keeps as `library/`, and draws
the sizes of its own data from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from molflowctl.data.datasets import Batch, MoleculeDataset
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.state import State
from molflowctl.models.around.part import Part
from molflowctl.models.denovo import LOSS_WEIGHTS, DeNovoFlow, GivenParts
from molflowctl.models.guided import GuidedFlow
from molflowctl.tasks.preparation.own_library import is_library, library_dataset
from molflowctl.tasks.training.flow_trainer import FlowTrainer, How
from molflowctl.tasks.training.parts import random_parts
from molflowctl.tasks.training.settings import TrainConfig

__all__ = ["Trainer", "check_single", "sample_validity"]


class Trainer(FlowTrainer[DeNovoFlow, MoleculeDataset, Batch]):
    """One training run of a de-novo flow; see `FlowTrainer`.

    Arguments:
        validity: of a flow, a number of attempts, of steps and a seed; figures of what it draws.
        progress: called while an SDF file is read: with what, how many records, of how many.
    """

    flow_class = DeNovoFlow
    loss_weights = LOSS_WEIGHTS

    def __init__(
        self,
        config: TrainConfig,
        out: str | Path,
        *,
        validity: Callable[[DeNovoFlow, int, int, int], dict[str, float]] | None = None,
        progress: Callable[[str, int, int], object] = lambda what, done, total: None,
        **how: Unpack[How],
    ) -> None:
        self.validity, self.reading = validity, progress
        super().__init__(config, out, **how)

    def _data(self, parent: DeNovoFlow | None, resume: bool) -> MoleculeDataset:
        c, folder = self.config, self.out / "library"
        if parent is not None:
            check_single(c.init, parent)
        if not is_library(c.data):
            return MoleculeDataset.load(c.data)
        if parent is None:
            raise UserError(
                f"{c.data} is for a flow to go on learning from: say which, --init qm9."
            )
        if self.fabric.is_global_zero:
            library_dataset(
                c.data, folder, parent, seed=c.seed, resume=resume, progress=self.reading
            )
        self.fabric.barrier()
        return MoleculeDataset.load(folder)

    def _by_size(self, split: str) -> dict[int, Batch]:
        return self.data.by_size(split)

    def _new_flow(self, parent: DeNovoFlow | None) -> DeNovoFlow:
        c = self.config
        sizes = {str(n): count for n, count in self.data.sizes("train").items()}
        if parent:
            wanted = {k: getattr(c.network, k) for k in c.network.model_fields_set}
            flow = parent.grown(**wanted).train() if wanted else parent
            for what, found, known in (
                ("elements", self.data.numbers, flow.elements),
                ("charges", self.data.charges, flow.charges),
            ):
                if absent := sorted(set(found.unique().tolist()) - set(known)):
                    raise UserError(f"{c.data} has {what} {absent} that {c.init} lacks.")
            if flow.hydrogens != self.data.card["hydrogens"]:
                raise UserError(
                    f"{c.init} is a flow with {flow.hydrogens} hydrogens, in {c.data} they are "
                    f"{self.data.card['hydrogens']}."
                )
            if c.parts_only and not flow.conditional:
                raise UserError(
                    f"{c.init} is not told of parts, which parts_only=true teaches: add --set "
                    "network.conditional=true, or leave it out."
                )
            if not (c.times_from or c.parts_only):  # else what is drawn stays, its sizes too
                flow.sizes = self.data.sizes("train")
                flow.arguments = flow.arguments | {"sizes": sizes}
            flow.card = self._child_card(flow)
            return flow
        torch.manual_seed(c.seed)
        charge = int(self.data.charges.abs().max())
        return DeNovoFlow(
            elements=sorted(self.data.numbers.unique().tolist()),
            charges=list(range(-charge, charge + 1)),
            sizes=sizes,
            hydrogens=self.data.card["hydrogens"],
            position_scale=c.position_scale,
            category_scale=c.category_scale,
            network=c.network.model_dump(),
        )

    def _minibatch(self, group: Batch, rows: Tensor, choice: BatchNoise) -> tuple[Tensor, ...]:
        """Molecules, and what a conditional network is told of them."""
        share = self.config.known_share
        if self.config.parts_only:  # every second step holds whole molecules, see `Losses`
            share = 0.0 if self.step % 2 else 1.0
        return self._with_parts(group, rows, choice, share)

    def _with_parts(
        self, group: Batch, rows: Tensor, choice: BatchNoise, share: float
    ) -> tuple[Tensor, ...]:
        tensors = (group.numbers, group.charges, group.bonds, group.positions)
        molecules = tuple(x[rows].to(self.fabric.device, non_blocking=True) for x in tensors)
        if not self.flow.conditional:
            return molecules
        numbers, charges, bonds, _ = molecules
        return *molecules, *random_parts(numbers, charges, bonds, choice, share)

    @staticmethod
    def _encode(
        flow: DeNovoFlow, batch: tuple[Tensor, ...]
    ) -> tuple[DeNovoFlow | GivenParts, State]:
        molecules, part = batch[:4], batch[4:]
        x1 = flow.encode(*molecules)
        return GivenParts(flow, Part(*part), x1) if part else flow, x1

    def _judged_on(self) -> dict[str, Callable[..., tuple[Tensor, ...]]]:
        """Of a conditional network what it makes of whole molecules, and of parts of all."""
        shares = {"": 0.0, "given_": 1.0} if self.flow.conditional else {"": 0.0}
        return {kind: partial(self._with_parts, share=share) for kind, share in shares.items()}

    def _sampled(self, label: str, flow: DeNovoFlow) -> dict[str, float]:
        if self.validity is None:
            return {}
        c = self.config
        found = self.validity(flow, c.samples, c.sample_nfe, c.seed)
        return {f"{label}_{name}": value for name, value in found.items()}


def check_single(name: object, flow: Flow) -> DeNovoFlow:
    """The flow; `UserError` for one of several networks, none of which learns by itself."""
    if isinstance(flow, GuidedFlow):
        raise UserError(f"{name} is guided by a value, and its network stays as it is.")
    if not isinstance(flow, DeNovoFlow):
        raise UserError(
            f"{name} is of kind {flow.kind!r}: data are learned by the de-novo flows of this "
            f"package; steer it on its own draws."
        )
    if type(flow) is not DeNovoFlow:
        raise UserError(
            f"{name} is made of several flows, which stay as they are: go on learning from one of "
            f"them, or merge them into one network (--set union=regression, --set distil=600)."
        )
    return flow


def sample_validity(flow: DeNovoFlow, n: int, steps: int, seed: int) -> dict[str, float]:
    """Share of valid molecules among `n` attempts; `n` distinct ones would be unique 1."""
    from molflowctl.chem.graphs import Molecule
    from molflowctl.models.generation import Sampling, draws

    results = [d.result for d in draws(flow, Sampling(nfe=steps), seed=seed, count=n)]
    smiles = [r.smiles for r in results if isinstance(r, Molecule)]
    return {"valid": len(smiles) / n, "unique": len(set(smiles)) / max(len(smiles), 1)}
