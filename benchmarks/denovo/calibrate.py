"""The reward that makes draws of a flow as like a reference set as a small tilt can make them.

    molflowctl generate druglike --attempts 2048 --nfe 60 -o drawn.sdf.gz
    python benchmarks/denovo/calibrate.py drawn.sdf.gz

Of all densities whose features have the means of the reference, the one nearest to the flow in KL
is `p(x) exp(sum_k a_k f_k(x)) / Z` (Jaynes, Phys. Rev. 106, 620 (1957)), and `a` minimises the
convex `log E_p exp(a . (f - target))`. The features are the properties that `benchmark denovo`
compares, each and its square, and whether a molecule has an odd ring. What is printed is the sum as
a reward for `molflowctl finetune`, with the nats that it is to be given:

    molflowctl finetune druglike --reward "$(cat reward.txt)" --kl-nats ... -o calibrated/

The reference are 5,000 random molecules of the MOSES test split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rdkit import Chem
from scipy.optimize import minimize

from molflowctl.properties.rings import four_membered_rings, largest_ring, unseen_ring_systems
from molflowctl.tasks.evaluation.reference import (
    descriptors,
    load_reference,
    quantiles,
    wasserstein,
)

# Whether a molecule has it, as a reward says it, and the share that is aimed at: of the test split,
# and of unseen ring systems, which that has none of, as few as a reward can be relied on for.
RINGS = {
    "unseen_ring_systems > 0": (lambda mol: unseen_ring_systems(mol) > 0, 0.005),
    "largest_ring > 6": (lambda mol: largest_ring(mol) > 6, 0.02),
    "four_membered_rings > 0": (lambda mol: four_membered_rings(mol) > 0, 0.014),
}


def features(mols: list[Chem.Mol]) -> dict[str, np.ndarray]:
    """Of each molecule, by the expression of a reward that is the same."""
    heavy = [Chem.RemoveHs(mol) for mol in mols]
    found = {name: np.array([float(f(m)) for m in heavy]) for name, (f, _) in RINGS.items()}
    return found | descriptors(heavy)


def tilt(f: np.ndarray, target: np.ndarray, ridge: float = 1e-4) -> np.ndarray:
    """The multipliers `a` of features `(n, k)` whose tilted means are nearest to `target`."""
    centred = f - target

    def dual(a: np.ndarray) -> tuple[float, np.ndarray]:
        scores = centred @ a
        top = scores.max()
        weights = np.exp(scores - top)
        mean = weights @ centred / weights.sum()
        return float(top + np.log(weights.mean()) + ridge * a @ a), mean + 2 * ridge * a

    found = minimize(dual, np.zeros(f.shape[1]), jac=True, method="L-BFGS-B")
    return np.asarray(found.x)


def main(
    library: Annotated[Path, typer.Argument(help="SDF of the flow's draws.")],
    out: Annotated[Path, typer.Option(help="File of the reward.")] = Path("reward.txt"),
    data: Annotated[str, typer.Option(help="Whose test split to be like.")] = "druglike",
) -> None:
    """Print the reward, and the distances to the reference before and after the tilt."""
    mols = [mol for mol in Chem.ForwardSDMolSupplier(gunzipped(library)) if mol is not None]
    values = features(mols)
    reference = {k: np.asarray(v) for k, v in load_reference(data)["descriptors"].items()}
    columns, targets, terms = [], [], []
    for name, column in values.items():
        if name in RINGS:
            columns.append(column)
            targets.append(RINGS[name][1])
            terms.append(("where({}, {:.4g}, 0)", name, 1.0, 0.0))
            continue
        middle, spread = reference[name].mean(), reference[name].std()
        for power in (1, 2):
            columns.append(((column - middle) / spread) ** power)
            targets.append((((reference[name] - middle) / spread) ** power).mean())
        terms.append(("", name, spread, middle))
    f, target = np.stack(columns, 1), np.array(targets)
    scale = f.std(0)
    a = tilt(f / scale, target / scale) / scale
    scores = f @ a
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    nats = float(weights @ np.log(np.maximum(weights * len(weights), 1e-300)))
    typer.echo(f"{len(mols)} molecules; {nats:.3f} nats, {1 / (weights**2).sum():.0f} count")
    for name in RINGS:
        share, tilted = values[name].mean(), weights @ values[name]
        typer.echo(f"{name:26s} {100 * share:6.2f} % -> {100 * tilted:6.2f} %")
    rng = np.random.default_rng(0)
    drawn = rng.choice(len(mols), 20 * len(mols), p=weights)
    for name, sample in reference.items():
        row = quantiles(sample)
        before = wasserstein(values[name], row)
        after = wasserstein(values[name][drawn], row)
        typer.echo(f"{name:26s} {before:6.3f}   -> {after:6.3f}")
    parts, k = [], 0
    for form, name, spread, middle in terms:
        if form:
            parts.append(form.format(name, a[k]))
            k += 1
            continue
        square = a[k + 1] / spread**2
        line = a[k] / spread - 2 * middle * square
        parts.append(f"({line:.5g}) * {name} + ({square:.5g}) * {name} * {name}")
        k += 2
    reward = " + ".join(parts)
    out.write_text(reward + "\n")
    typer.echo(f"\n{reward}\n\nwritten: {out}   next: molflowctl finetune FLOW --reward \"$(cat "
               f"{out})\" --kl-nats {nats:.3f}")  # fmt: skip


def gunzipped(path: Path):
    """The file, whatever it is."""
    import gzip

    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


if __name__ == "__main__":
    typer.run(main)
