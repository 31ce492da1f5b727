"""A data set drawn again by weights, and a flow that learns it: `molflowctl finetune --data`.

A flow's training molecules are draws of what it was to learn. An objective of densities is solved
on them exactly, by mirror ascent on their weights (`control.weighted.optimal_weights`); what is
left for the flow is to learn the weighted molecules, as it learned the molecules. That costs one
oracle call a molecule and no draws, and no round of it can break a molecule; but it knows only what
the data hold, and the effective sample size says how much that is.

Sizes of molecules are weighed with the molecules, so that the new flow draws other sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from molflowctl.config import TrainConfig
from molflowctl.datasets import MoleculeDataset, split_by_molecule
from molflowctl.errors import UserError
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.tasks.own_library import VALIDATION
from molflowctl.tasks.train import Trainer

__all__ = ["chosen_rows", "learn", "redraw"]

_PROVENANCE = ("source", "doi", "citation", "licence", "hydrogens", "position_unit")


def chosen_rows(data: MoleculeDataset, flow: DeNovoFlow, limit: int, seed: int) -> list[int]:
    """Rows of the training split, `limit` of them at random if there are more, as `data subset`.

    Raises:
        UserError: if the flow lacks an element or a charge, or treats hydrogens in another way.
    """
    for what, found, known in (
        ("elements", data.numbers, flow.elements),
        ("charges", data.charges, flow.charges),
    ):
        if absent := sorted(set(found.unique().tolist()) - set(known)):
            raise UserError(f"the data have {what} {absent} that the flow lacks.")
    if data.card.get("hydrogens") != flow.hydrogens:
        raise UserError(
            f"the flow has {flow.hydrogens} hydrogens, the data {data.card.get('hydrogens')} ones."
        )
    rows = data.indices("train").numpy()
    if limit < len(rows):
        rows = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
    return rows.tolist()


def redraw(
    data: MoleculeDataset, rows: list[int], shares: np.ndarray, seed: int
) -> MoleculeDataset:
    """As many molecules as `rows`, drawn by their shares with the least variance.

    A share `p` of `n` comes `floor(n p)` or `ceil(n p)` times (systematic resampling). Copies of a
    molecule are on one side of the split.

    Arguments:
        shares: of the rows, one in sum, (n,).
    """
    n = len(rows)
    ends = np.cumsum(shares) / np.sum(shares)
    at = (np.arange(n) + np.random.default_rng(seed).random()) / n
    drawn = np.minimum(np.searchsorted(ends, at, side="right"), n - 1)
    result = data.select(torch.tensor(rows)[drawn])
    if len(set(result.smiles)) < 2:
        raise UserError(
            "the objective leaves one molecule of the data: give the divergences more weight."
        )
    result.split = split_by_molecule(result.smiles, VALIDATION, seed)
    result.card = {key: data.card[key] for key in _PROVENANCE if key in data.card} | {
        "title": f"molecules of {data.card.get('name')}, drawn again by an objective",
        "parent": {key: data.card.get(key) for key in ("name", "molecules", "sha256")},
        "distinct": len(set(result.smiles)),
    }
    return result


def learn(
    init: str,
    data: Path,
    out: Path,
    *,
    epochs: float,
    minutes: float | None,
    seed: int,
    device: str,
    report: Callable[[dict[str, float]], Any],
) -> DeNovoFlow:
    """Let a flow go on learning from a data set; a run in `out` is resumed."""
    settings = {
        "init": init, "data": str(data), "name": out.parent.name, "epochs": epochs, "seed": seed,
    }  # fmt: skip
    if minutes is not None:
        settings["minutes"] = minutes
    config = TrainConfig.read("own.yaml", [f"{key}={value}" for key, value in settings.items()])
    trainer = Trainer(config, out, resume=out.exists(), device=device, report=report)
    return DeNovoFlow.load(trainer.run())
