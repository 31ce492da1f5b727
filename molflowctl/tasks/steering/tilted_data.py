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

import numpy as np
import torch

from molflowctl.control.population import Population
from molflowctl.data.datasets import MoleculeDataset, split_by_molecule
from molflowctl.errors import UserError
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.models.molecule_flow import MoleculeFlow
from molflowctl.properties.cache import Cache
from molflowctl.tasks.loop_surrogate import Learning
from molflowctl.tasks.preparation.own_library import VALIDATION
from molflowctl.tasks.steering.population import PopulationSampler
from molflowctl.tasks.steering.settings import FinetuneConfig
from molflowctl.tasks.training.settings import TrainConfig
from molflowctl.tasks.training.train import Trainer

__all__ = ["chosen_rows", "judged_rows", "learn", "redraw"]

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


def judged_rows(
    config: FinetuneConfig,
    flow: MoleculeFlow,
    data: MoleculeDataset,
    rows: list[int],
    assay: PopulationSampler,
    cache: Cache,
    say: Callable[[str], object],
) -> tuple[Population, list[int]]:
    """Molecules of the data, judged: by the oracle, or beyond its budget by a surrogate.

    Those that fail are left out: the others as states, and which row each is of.
    """
    oracle, budget = assay.oracle, config.oracle_budget
    left = len(rows) if budget is None else budget - assay.calls - config.test_samples
    if budget is None or left >= len(rows) or not isinstance(oracle, Learning):
        say(f"scoring {len(rows):,} molecules of {config.data}")
        return assay.judge("data", flow, data, rows, cache)
    # What the prior's invalid molecules left over is for molecules outside the surrogate's range.
    first = budget - config.base_samples - config.test_samples
    order = np.random.default_rng(config.seed).permutation(len(rows))
    asked, others = ([rows[k] for k in sorted(part)] for part in np.split(order, [first]))
    say(f"scoring {first:,} of {len(rows):,} molecules of {config.data} by the oracle")
    points, known = assay.judge("data", flow, data, asked, cache)
    judge = oracle.stand_in(spare=left - first)
    if judge is None:
        say("no surrogate: the others are left out")
        return points, known
    more, there = assay.judge("data", flow, data, others, cache, judge)
    say(
        f"{judge.predicted:,} by the surrogate; {judge.calls + judge.refused:,} outside its range, "
        f"{judge.calls:,} of which were asked of the oracle, the others left out"
    )
    return Population.joined([points, more]), known + there


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
    config: FinetuneConfig,
    data: MoleculeDataset,
    rows: list[int],
    shares: np.ndarray,
    objective: str,
    folder: Path,
    say: Callable[[str], None],
) -> DeNovoFlow:
    """The flow `config.flow` after learning the rows of the data by their shares.

    `folder` gets the molecules drawn again as `data` and the run as `training`, which is resumed if
    it is there.
    """
    tilted, run = folder / "data", folder / "training"
    if not tilted.exists():
        drawn = redraw(data, rows, shares, config.seed)
        drawn.card["objective"] = objective
        drawn.save(tilted)
    settings: dict[str, object] = {
        "init": config.flow,
        "data": tilted,
        "name": config.out.name,
        "seed": config.seed,
        "epochs": config.epochs,
        "minutes": "null" if config.minutes is None else config.minutes,
    }
    trainer = Trainer(
        TrainConfig.read("own.yaml", [f"{key}={value}" for key, value in settings.items()]),
        run,
        resume=run.exists(),
        device=config.device,
        report=lambda row: say(
            f"learning: {row['progress']:4.0%} after {row['minutes']:.1f} min, "
            f"loss of molecules held out {row['ema_loss']:.4f}"
        ),
    )
    return DeNovoFlow.load(trainer.run())
