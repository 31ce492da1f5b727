"""Make the specialised flows of the zoo: choose molecules, train, measure, put on the shelf.

    python benchmarks/denovo/specialise.py                      # all of them
    python benchmarks/denovo/specialise.py qm9-polar -j 2       # one

Each is `qm9` that went on learning from the molecules of its training split that a rule picks out.
The steps are commands of molflowctl, printed as they are run and kept in the flow's card as
`retrain`; an interrupted run goes on where it was. Then base and child draw fresh molecules, the
property's own program judges both, and the figures go into the card as `specialised`: mean, share
within the rule, validity, uniqueness, novelty, with 95 % bootstrap intervals. A flow whose mean is
not clear of the base's, or whose validity fell by more than 5 %, does not ship.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from molflowctl import properties
from molflowctl.chem.graphs import Molecule
from molflowctl.compute.parallel import KEEP_MEMORY, WorkerPool
from molflowctl.compute.progress import progress_bars
from molflowctl.data.known import known, load_hashes
from molflowctl.errors import UserError
from molflowctl.flows.card import CARD, sealed
from molflowctl.flows.flow import WEIGHTS
from molflowctl.io.record import read_record, write_json
from molflowctl.models.generation import Sampling, draws
from molflowctl.models.zoo import DeNovoFlow
from molflowctl.tasks.evaluation.bootstrap import Estimate, bootstrap
from molflowctl.tasks.preparation.subset import Rule

SHELF = Path(__file__).parents[2] / "molflowctl" / "models" / "weights"
DATA = Path("datasets/qm9-implicit")
LEAST_VALID = 0.95  # of the base's validity
SEED = 1000  # of the molecules that judge; no training or steering draws with it


@dataclass(frozen=True)
class Recipe:
    """A rule, how many molecules to look for it in, and how long to learn from what is found."""

    property: str
    range: str
    description: str
    limit: int | None = 20_000
    epochs: float = 25
    init: str = "qm9"

    @property
    def rule(self) -> Rule:
        """Which molecules are learned from."""
        return Rule.parse(self.property, self.range)


RECIPES = {
    "qm9-polar": Recipe(
        "dipole_debye", "4:", "qm9 specialised on dipole moments of 4 debye and more (GFN2-xTB)"
    ),
    "qm9-rings": Recipe(
        "rings", "3:", "qm9 specialised on rigid molecules of three rings and more"
    ),
    "qm9-lowgap": Recipe(
        "homo_lumo_gap_eV", ":3.3", "qm9 specialised on orbital gaps up to 3.3 eV (GFN2-xTB)"
    ),
}


def commands(recipe: Recipe, data: Path, subset: Path, run: Path) -> list[list[str]]:
    """The commands that choose the molecules and train on them."""
    limit = [] if recipe.limit is None else ["--limit", str(recipe.limit)]
    choose = ["data", "subset", str(data), "-p", recipe.property, "--range", recipe.range, *limit]
    train = ["train", "--init", recipe.init, "--data", str(subset)]
    return [
        ["molflowctl", *choose, "-o", str(subset)],
        ["molflowctl", *train, "--set", f"epochs={recipe.epochs:g}", "-o", str(run)],
    ]


def execute(command: list[str], *options: str) -> None:
    """Run a command of molflowctl with the Python of this script."""
    print(f"$ {shlex.join([*command, *options])}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", *command, *options])
    if done.returncode:
        raise SystemExit(done.returncode)


def summary(
    smiles: list[str],
    values: np.ndarray,
    rule: Rule,
    hashes: np.ndarray,
) -> dict[str, Any]:
    """Estimates from a sample.

    Args:
        smiles: of each attempt, empty for an invalid one.
        values: of the property, one for each valid molecule; NaN where its program failed.
        rule: what the values are to follow.
        hashes: of the molecules that are not novel.
    """
    found = values[np.isfinite(values)]
    valid = [s for s in smiles if s]
    distinct = list(dict.fromkeys(valid))
    first = [valid.index(s) == k for k, s in enumerate(valid)]
    estimates = {
        "mean": bootstrap(found),
        "within": bootstrap(rule.keeps(found)),
        "valid": bootstrap(np.array([bool(s) for s in smiles])),
        "unique": bootstrap(np.array(first)),
        "novel": bootstrap(~known(distinct, hashes)),
    }
    unscored = len(valid) - len(found)
    return {name: _rounded(row) for name, row in estimates.items()} | {"unscored": unscored}


def _rounded(estimate: Estimate) -> dict[str, float]:
    return {key: round(value, 5) for key, value in asdict(estimate).items()}


def measured(flow: str, recipe: Recipe, n: int, jobs: int, file: Path) -> dict[str, Any]:
    """`summary` of `n` fresh attempts of a flow, taken from `file` if it is of the same flow."""
    loaded = DeNovoFlow.from_pretrained(flow)
    item = properties.get(recipe.property)
    key = {
        "weights_sha256": loaded.card["weights_sha256"],
        "property": item.name,
        "range": recipe.range,
        "n": n,
        "seed": SEED,
    }
    earlier = read_record(file) or {}
    if all(earlier.get(name) == value for name, value in key.items()):
        return earlier["summary"]
    with WorkerPool(jobs) as pool, progress_bars() as bars:
        stream = draws(loaded, Sampling(), seed=SEED, count=n, pool=pool)
        results = [d.result for d in bars.track(stream, total=n, description=f"{flow}: drawing")]
        molecules = [r for r in results if isinstance(r, Molecule)]
        bar = bars.add_task(f"{flow}: {item.name}", total=len(molecules))
        scores = properties.score(
            [m.mol for m in molecules],
            [item],
            pool=pool,
            progress=lambda done: bars.update(bar, completed=done),
        )
    smiles = [r.smiles if isinstance(r, Molecule) else "" for r in results]
    values = scores[item.columns[0]]
    found = summary(smiles, values, recipe.rule, load_hashes("qm9"))
    write_json(file, {**key, "summary": found})
    return found


def specialise(
    name: str,
    recipe: Recipe,
    *,
    data: Path,
    work: Path,
    shelf: Path,
    n: int,
    jobs: int,
) -> dict[str, Any]:
    """Make, measure and ship one flow; returns its card."""
    subset, run = work / f"{name}-data", work / name
    choose, train = commands(recipe, data, subset, run)
    if not (subset / CARD).exists():
        execute(choose, "-j", str(jobs))
    chosen = json.loads((subset / CARD).read_text())
    if (chosen["rule"], chosen["limit"]) != (str(recipe.rule), recipe.limit):
        raise SystemExit(f"{subset} was made by another recipe: remove it, and {run}")
    execute(train, "--resume")
    source = run / "ema"
    found = {
        who: measured(flow, recipe, n, jobs, work / f"{name}-{who}.json")
        for who, flow in (("base", recipe.init), ("child", str(source)))
    }
    base, child = found["base"], found["child"]
    for who, row in found.items():
        print(
            f"{name} {who}: mean {row['mean']['value']:.3f} ({row['mean']['low']:.3f} to "
            f"{row['mean']['high']:.3f}), within the rule {row['within']['value']:.1%}, valid "
            f"{row['valid']['value']:.1%}, unique {row['unique']['value']:.1%}, novel "
            f"{row['novel']['value']:.1%}"
        )
    if (
        child["mean"]["low"] <= base["mean"]["high"]
        and child["mean"]["high"] >= base["mean"]["low"]
    ):
        raise SystemExit(f"{name}: the mean is not clear of the base's; not shipped")
    if child["valid"]["value"] < LEAST_VALID * base["valid"]["value"]:
        raise SystemExit(f"{name}: too few molecules are valid; not shipped")
    card = json.loads((source / CARD).read_text())
    card["training"]["config"]["data"] = f"datasets/{name}"
    usual = commands(recipe, DATA, Path("datasets") / name, Path("runs") / name)
    card |= {
        "name": name,
        "description": recipe.description,
        "licence": "MIT (weights); CC0-1.0 (data)",
        "retrain": ["molflowctl data prepare qm9 --hydrogens implicit", *map(shlex.join, usual)],
        "specialised": {
            "rule": chosen["rule"],
            "unit": chosen["property"]["unit"],
            "scored": chosen["scored"],
            "learned_from": chosen["kept"],
            "mean_of_these": round(chosen["mean"]["kept"], 5),
            "attempts": n,
            "seed": SEED,
            "base": base,
            "child": child,
            "command": f"python benchmarks/denovo/specialise.py {name}",
        },
    }
    target = shelf / name
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / WEIGHTS, target / WEIGHTS)
    write_json(target / CARD, sealed(card))
    DeNovoFlow.load(target)  # what cannot be read does not ship
    print(f"{target}: {(target / WEIGHTS).stat().st_size / 1e6:.1f} MB")
    return card


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Some of {', '.join(RECIPES)}; without, all.")
    ] = None,
    data: Annotated[Path, typer.Option(help="QM9, prepared with implicit hydrogens.")] = DATA,
    work: Annotated[Path, typer.Option(help="Folder of subsets and runs.")] = Path("runs"),
    shelf: Annotated[Path, typer.Option(help="Where finished flows go.")] = SHELF,
    n: Annotated[int, typer.Option("-n", min=2, help="Attempts that judge a flow.")] = 2000,
    jobs: Annotated[int, typer.Option("-j", min=1, help="Worker processes.")] = 2,
) -> None:
    """Make the specialised flows of the zoo."""
    if absent := sorted(set(names or []) - set(RECIPES)):
        raise typer.BadParameter(f"no recipe for {absent[0]}; there are {', '.join(RECIPES)}.")
    os.environ |= KEEP_MEMORY  # for the processes that are started from here
    try:
        for name in names or RECIPES:
            specialise(name, RECIPES[name], data=data, work=work, shelf=shelf, n=n, jobs=jobs)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    typer.run(main)
