"""The default of `molflowctl conformers` against ETKDGv3 and MMFF94, on fifty drugs.

    cd benchmarks/conformers
    python drugs.py -o drugs/drugs.json
    python drugs.py --deep 300 --limit 10 -o drugs/deep.json

Each drug gets 50 conformers from each, by the command's own code on one thread, relaxed by MMFF94.
Figures are the lowest MMFF94 energy found and the thread's seconds. With `--deep N` a search from
N other starts of ETKDGv3 says which minima there are, within 3 kcal/mol of the lowest that anyone
found and 0.5 angstrom of RMSD apart; coverage is the share of them that is within 0.5 angstrom of
a conformer that was delivered. An interrupted run goes on where it was.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rdkit import Chem

from molflowctl.chem.ensemble import embed, force_field, keep_conformers, prune, rmsd_matrix
from molflowctl.io.atomic import write_file
from molflowctl.io.record import versions
from molflowctl.tasks.conformers import conformers as task
from molflowctl.tasks.conformers.finishing import draw_by_flows, finish
from molflowctl.tasks.conformers.jobs import Conformers, read_jobs
from molflowctl.tasks.conformers.settings import ConformersConfig
from molflowctl.tasks.evaluation.bootstrap import bootstrap

MODELS = ("auto", "etkdg")
SAME = 0.01  # kcal/mol by which two searches that found one minimum may differ
WINDOW, APART = 3.0, 0.5  # kcal/mol, angstrom


def found(smiles: str, model: str, flows: dict[str, Any], n: int, seed: int) -> dict[str, Any]:
    """What the command delivers of one molecule: a molecule with conformers, energies, seconds."""
    config = ConformersConfig(
        source=smiles, out="-", model=model, n=n, seed=seed, isomers="first", jobs=1, device="cpu"
    )
    (job,) = read_jobs(config, None, flows, Conformers())
    began = time.process_time()
    done = finish(
        job, draw_by_flows(flows, job, config), config, lambda mol, *_: mol, time.monotonic()
    )
    seconds = time.process_time() - began
    mol = Chem.Mol(done.records[0])
    for other in done.records[1:]:
        mol.AddConformer(other.GetConformer(), assignId=True)
    return {"mol": mol, "energies": force_field(mol, "none")[0], "seconds": seconds}


def minima(mol: Chem.Mol, n: int, seed: int) -> tuple[Chem.Mol, np.ndarray]:
    """Relaxed conformers of many starts, and their energies."""
    mol = Chem.AddHs(Chem.Mol(mol))
    mol.RemoveAllConformers()
    embed(mol, n, seed)
    energies = force_field(mol)[0]
    kept = np.flatnonzero(np.isfinite(energies))
    return keep_conformers(mol, kept.tolist()), energies[kept]


def row_of(smiles: str, flows: dict[str, Any], n: int, deep: int, seed: int) -> dict[str, Any]:
    """The figures of one drug."""
    both = {model: found(smiles, model, flows[model], n, seed) for model in MODELS}
    row: dict[str, Any] = {}
    for model, one in both.items():
        row[model] = {"lowest": float(one["energies"].min()), "seconds": one["seconds"]}
        row[model]["conformers"] = len(one["energies"])
    if deep:
        mol, energies = minima(both["etkdg"]["mol"], deep, seed + 77_777)
        lowest = min(energies.min(), *(row[model]["lowest"] for model in MODELS))
        places = prune(mol, energies, APART, np.inf)
        places = [k for k in places if energies[k] < lowest + WINDOW]
        row["minima"] = len(places)
        if places:
            known = keep_conformers(mol, places)
            for model, one in both.items():
                near = rmsd_matrix(one["mol"], known).min(0) < APART
                row[model]["coverage"] = float(near.mean())
    return row


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Figures of all drugs: shares, means with their 95 % intervals, seconds of each."""
    gaps = np.array([row["auto"]["lowest"] - row["etkdg"]["lowest"] for row in rows.values()])
    times = [sum(row[model]["seconds"] for row in rows.values()) for model in MODELS]
    told: dict[str, Any] = {
        "as_low": float((gaps <= SAME).mean()),
        "lower": float((gaps < -SAME).mean()),
        "gain_kcal_mol": asdict(bootstrap(-gaps, "mean")),
        "seconds": dict(zip(MODELS, times, strict=True)),
        "time_ratio": times[0] / times[1],
    }
    known = [row for row in rows.values() if row.get("minima")]
    if known:
        cover = {m: np.array([row[m]["coverage"] for row in known]) for m in MODELS}
        told["coverage"] = {m: float(shares.mean()) for m, shares in cover.items()}
        told["coverage_gain"] = asdict(bootstrap(cover["auto"] - cover["etkdg"], "mean"))
    return told


def table(rows: dict[str, dict[str, Any]], n: int, deep: int) -> str:
    """Markdown of all drugs and the summary."""
    told = summary(rows)
    gain, seconds = told["gain_kcal_mol"], told["seconds"]
    lines = [
        f"{len(rows)} drugs, {n} conformers each, MMFF94, one thread.",
        "",
        f"- lowest energy at least as low as ETKDGv3 + MMFF94's: {100 * told['as_low']:.0f} "
        f"% of the drugs; lower: {100 * told['lower']:.0f} %",
        f"- lower by {gain['value']:.2f} kcal/mol on average "
        f"({gain['low']:.2f} to {gain['high']:.2f})",
        f"- seconds: {seconds['auto']:.0f} and {seconds['etkdg']:.0f}, "
        f"a ratio of {told['time_ratio']:.2f}",
    ]
    if deep and "coverage" in told:
        cover, more = told["coverage"], told["coverage_gain"]
        lines.append(
            f"- coverage of the minima that {deep} other starts of ETKDGv3 found within {WINDOW:g} "
            f"kcal/mol: {100 * cover['auto']:.0f} and {100 * cover['etkdg']:.0f} %, "
            f"a difference of {100 * more['value']:.1f} ({100 * more['low']:.1f} to "
            f"{100 * more['high']:.1f})"
        )
    lines += ["", "| | default, kcal/mol | ETKDGv3 + MMFF94 | s | s |", "|---|---:|---:|---:|---:|"]
    for name, row in rows.items():
        a, e = (row[model] for model in MODELS)
        lines.append(
            f"| {name} | {a['lowest']:.2f} | {e['lowest']:.2f} | {a['seconds']:.1f} | "
            f"{e['seconds']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main(
    out: Annotated[Path, typer.Option("-o", help="A JSON file; a table beside it.")],
    drugs: Annotated[Path, typer.Option(help="A .smi file.")] = Path(__file__).parent
    / "drugs/drugs.smi",
    n: Annotated[int, typer.Option("-n", min=1, help="Conformers of each.")] = 50,
    deep: Annotated[int, typer.Option(min=0, help="Starts of the deep search.")] = 0,
    limit: Annotated[
        int | None, typer.Option(help="So many drugs, evenly spread [default: all].")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Measure what is not measured yet, and write the table."""
    import torch

    torch.set_num_threads(1)
    settings = {"n": n, "deep": deep, "seed": seed}
    rows: dict[str, dict[str, Any]] = {}
    if out.exists():
        known = json.loads(out.read_text())
        if known["settings"] != settings:
            raise SystemExit(f"{out} is of other settings: {known['settings']}")
        rows = known["rows"]
    lines = [line.split() for line in drugs.read_text().splitlines()]
    flows = {model: task.load_flows(model, "cpu") for model in MODELS}
    weights = {name: flow.card.get("weights_sha256") for name, flow in flows["auto"].items()}
    for smiles, name in lines[:: -(-len(lines) // limit) if limit else 1]:
        if name in rows:
            continue
        rows[name] = row_of(smiles, flows, n, deep, seed)
        record = {"settings": settings, "weights_sha256": weights, "versions": versions()}
        record |= {"summary": summary(rows), "rows": rows}
        write_file(out, json.dumps(record, indent=1) + "\n")
        print(name, rows[name], flush=True)
    write_file(out.with_suffix(".md"), table(rows, n, deep))


if __name__ == "__main__":
    typer.run(main)
