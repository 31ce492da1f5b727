"""From one stereoisomer to its records: drawn, relaxed, pruned together, weighed.

What several models draw of it, a flow and ETKDGv3, is relaxed by itself and pruned as one ensemble.
Each model draws its share of `n`, the first one more where they do not divide.

With a limit of seconds the conformers are relaxed one after another, the models in turn, until the
time is over; a limit that is not reached changes nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rdkit import Chem

from molflowctl.chem.axial import declare_axes
from molflowctl.chem.ensemble import boltzmann_weights, force_field, keep_conformers, prune
from molflowctl.chem.relaxation import BECAME
from molflowctl.chem.spin import declare
from molflowctl.models.conformer import ConformerFlow
from molflowctl.tasks.conformers.drawing import Drawn, draw_rounds, relax_drawn
from molflowctl.tasks.conformers.jobs import ETKDG, Job
from molflowctl.tasks.conformers.pose import draw_posed, relax_posed
from molflowctl.tasks.conformers.settings import ConformersConfig
from molflowctl.tasks.preparation.relaxing import xtb_energies

__all__ = ["BY", "LOST", "Finished", "draw_by_flows", "finish", "shares"]

BY = "by "  # how counts of stereoisomers by their models begin
ROUNDS = 20  # of drawing again what broke its stereo
LATE = "not relaxed in time"
LOST = (BECAME, "the relaxation failed", LATE)  # what can become of a draw that is relaxed


@dataclass(frozen=True)
class Finished:
    """The records of a stereoisomer, and what became of its draws; `note` if it is not all well."""

    records: list[Any]
    counts: dict[str, int]
    note: str = ""


def shares(n: int, models: tuple[str, ...]) -> dict[str, int]:
    """How many of `n` conformers each model draws."""
    return {m: n // len(models) + (k < n % len(models)) for k, m in enumerate(models)}


def draw_by_flows(
    flows: Mapping[str, ConformerFlow], job: Job, config: ConformersConfig
) -> dict[str, Drawn]:
    """What the flows among the models of a job draw, each its share."""
    return {
        name: _draw(flows[name], job, count, config)
        for name, count in shares(config.n, job.models).items()
        if name != ETKDG and count
    }


def _draw(flow: ConformerFlow | None, job: Job, count: int, config: ConformersConfig) -> Drawn:
    """Conformers with the right stereo, or as many as `ROUNDS` rounds give."""
    bare = Chem.MolFromSmiles(job.smiles)
    declare(bare, job.multiplicity)
    mol = Chem.AddHs(bare) if flow is None else flow.with_placed_atoms(bare)
    declare_axes(mol, job.axes)
    if job.placing is not None:
        return draw_posed(mol, job.placing, count, seed=config.seed + 1_000_003 * job.number)
    return draw_rounds(
        flow, mol, count, job.number, config,
        seed=config.seed, rounds=ROUNDS, relaxed=config.relax != "none",
    )  # fmt: skip


@dataclass
class _Ensemble:
    """What has come through the relaxation so far; energies in kcal/mol, by one method."""

    mol: Chem.Mol | None = None
    energies: list[float] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    method: str = ""

    def add(self, relaxed: Chem.Mol, energies: np.ndarray, failures: list[str], by: str) -> None:
        """Take the conformers that did not fail, drawn by a model."""
        if self.mol is None:
            self.mol = Chem.Mol(relaxed)
            self.mol.RemoveAllConformers()
        for conformer, energy, failure in zip(
            relaxed.GetConformers(), energies, failures, strict=True
        ):
            if failure:
                self.lost.append(failure)
                continue
            self.mol.AddConformer(Chem.Conformer(conformer), assignId=True)
            self.energies.append(float(energy))
            self.models.append(by)


def finish(
    job: Job,
    drawn: Mapping[str, Drawn],
    config: ConformersConfig,
    make: Callable[..., Any],
    began: float,
) -> Finished:
    """Draw what ETKDGv3 is to draw, then hydrogens, relaxation, pruning, weights, records.

    Arguments:
        drawn: by the flows among the models of the job.
        make: `sdf_record` or `pack`.
        began: when drawing it began, by `time.monotonic`.
    """
    wanted = shares(config.n, job.models)
    found = dict(drawn)
    if wanted.get(ETKDG):
        found[ETKDG] = _draw(None, job, wanted[ETKDG], config)
    counts = {
        BY + " and ".join("ETKDGv3" if name == ETKDG else name for name in found): 1,
        "drawn": sum(part.drawn for part in found.values()),
        "wrong stereo": sum(part.wrong for part in found.values()),
    }
    mols = {name: Chem.Mol(part.mol) for name, part in found.items()}
    right = sum(mol.GetNumConformers() for mol in mols.values())
    if right == 0:
        return Finished([], counts, f"none of {counts['drawn']} conformers has the right stereo")
    note = "" if right == config.n else f"only {right} of {config.n} conformers"
    ensemble = _relaxed(mols, job, config, began)
    if lost := ensemble.lost:
        counts |= {name: lost.count(name) for name in LOST[2:]}
        counts[LOST[0]] = sum(failure.startswith(BECAME) for failure in lost)
        counts[LOST[1]] = len(lost) - counts[LOST[0]] - counts[LATE]
        reasons = "; ".join(f"{k} x {reason}" for reason, k in Counter(lost).most_common())
        if not ensemble.energies:
            return Finished([], counts, f"no conformer came through the relaxation: {reasons}")
        note = "; ".join(filter(None, [note, f"dropped: {reasons}"]))
    mol, energies, method = ensemble.mol, np.array(ensemble.energies), ensemble.method
    assert mol is not None
    tags: dict[str, object] = {"smiles": job.smiles, "energy_method": method, **job.tags}
    if method == "UFF":
        note = "; ".join(filter(None, [note, "by UFF: MMFF94 has no parameters for it"]))
    if job.multiplicity is not None:
        tags["multiplicity"] = job.multiplicity
    places = list(range(len(energies)))
    weights = np.full(len(energies), np.nan)
    if method or config.energy == "gfn2":
        in_place = job.placing is not None
        places, energies, method, failed = _chosen(mol, energies, method, config, in_place)
        if not places:
            return Finished([], counts, f"no conformer got an energy: {failed}")
        note = "; ".join(filter(None, [note, failed]))
        tags["energy_method"] = method
        weights = boltzmann_weights(energies, config.temperature_K)
    else:
        note = "no force field knows it: conformers as drawn, without energies"
    counts["pruned"] = len(ensemble.energies) - len(weights)
    mol = keep_conformers(mol, places)
    records = [
        make(
            Chem.Mol(mol, False, conformer.GetId()),
            job.title,
            tags
            | {
                "relative_energy_kcal_mol": round(float(energies[k] - energies[0]), 6),
                "boltzmann_weight": float(weights[k]),
                "drawn_by": ensemble.models[places[k]],
            },
        )
        for k, conformer in enumerate(mol.GetConformers())
    ]
    return Finished(records, counts, note)


def _relaxed(
    mols: Mapping[str, Chem.Mol], job: Job, config: ConformersConfig, began: float
) -> _Ensemble:
    """All conformers relaxed, or as many as there is time for, one at least."""
    ensemble = _Ensemble()

    def relax(name: str, part: Chem.Mol) -> None:
        if job.placing is not None:
            relaxed, energies, method, failures = relax_posed(part, job.placing)
        else:
            relaxed, energies, method, failures = relax_drawn(part, config.relax)
        ensemble.method = method
        ensemble.add(relaxed, energies, failures, name)

    if config.time_limit is None:
        for name, mol in mols.items():
            if mol.GetNumConformers():
                relax(name, mol)
        return ensemble
    ids = {name: [c.GetId() for c in mol.GetConformers()] for name, mol in mols.items()}
    turns = sorted((k, name) for name, some in ids.items() for k in range(len(some)))
    for k, name in turns:
        if ensemble.energies and time.monotonic() - began > config.time_limit:
            ensemble.lost.append(LATE)
        else:
            relax(name, Chem.Mol(mols[name], False, ids[name][k]))
    return ensemble


def _chosen(
    mol: Chem.Mol, energies: np.ndarray, method: str, config: ConformersConfig, in_place: bool
) -> tuple[list[int], np.ndarray, str, str]:
    """Places of the distinct low conformers, their energies by what was asked for, its name.

    The last is what failed. Of two of one shape the one that the relaxation had lower stays, so
    that GFN2-xTB energies are computed of those alone that differ.
    """
    threshold, window = config.rmsd_threshold, config.energy_window
    asked = {"mmff": "MMFF94", "gfn2": "GFN2-xTB", None: method}[config.energy]
    if asked == method or (asked, method) == ("MMFF94", "UFF"):
        places = prune(mol, energies, threshold, window, in_place=in_place)
        return places, energies[places], method, ""
    known = energies if method else np.zeros(len(energies))
    places = prune(mol, known, threshold, np.inf, in_place=in_place)
    distinct = keep_conformers(mol, places)
    if config.energy == "mmff":
        again, method, failures = force_field(distinct, "none")
    else:
        again, method, failures = xtb_energies(distinct)
    kept = prune(distinct, again, 0.0, window)
    lost = Counter(failure for failure in failures if failure)
    failed = "; ".join(f"no energy of {k}: {reason}" for reason, k in lost.most_common())
    return [places[k] for k in kept], again[kept], method, failed
