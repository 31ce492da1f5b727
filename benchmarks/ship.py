"""Put a trained flow on the package's shelf, with the figures the benchmark measured in its card.

    python benchmarks/ship.py runs/qm9/ema qm9 benchmarks/denovo/qm9/results.json
    python benchmarks/ship.py runs/qm9-conformers/ema qm9-conformers benchmarks/conformers/qm9/rows.json

The weights are copied as they are; the card gains name, description, licence, how to retrain, and
metrics, with the commands that lead there. A flow recommends the noise of the sampler that the
benchmark was told to use; one that `finetune` made needs no results: its card holds its own. Where
further folders are named, each a run that began with the one before it and the first with the flow
on the shelf, the flow keeps the data and the training of that one, and tells these as its stages:

    python benchmarks/ship.py runs/late/ema druglike RESULTS.json runs/calibrated runs/late/ema
"""  # noqa: E501

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from molflowctl.flows.card import CARD, sealed
from molflowctl.flows.flow import WEIGHTS
from molflowctl.io.record import record_path
from molflowctl.models.zoo import Flow
from molflowctl.tasks.evaluation.conformers import ConformerBenchmarkConfig
from molflowctl.tasks.evaluation.denovo import BenchmarkConfig
from molflowctl.tasks.preparation.settings import EnsembleConfig
from molflowctl.tasks.training.settings import ConformerTrainConfig, TrainConfig

SHELF = Path(__file__).parents[1] / "molflowctl" / "models" / "weights"
DESCRIPTIONS = {
    "qm9": "small organic molecules (C N O F, up to 9 heavy atoms), implicit hydrogens",
    "qm9-explicit": "the same with explicit hydrogens, for the published QM9 tables",
    "qm9-dipole": "qm9 steered towards a large dipole moment (GFN2-xTB)",
    "qm9-qed": "qm9 steered towards drug-likeness (QED)",
    "druglike": "drug-like molecules (C N O F S Cl Br, 10 to 26 heavy atoms), implicit hydrogens; "
    "the network sees distances alone: mirror images are as likely",
    "druglike-qed": "druglike, steered towards a high QED without odd rings",
    "qm9-conformers": "conformers of QM9-like molecules (H C N O F), all atoms, MMFF94 minima",
    "qm9-conformers-gfn2": "conformers of QM9-like molecules (H C N O F), all atoms, "
    "GFN2-xTB minima",
    "druglike-conformers": "conformers of drug-like molecules (C N O F S Cl Br), heavy atoms, "
    "MMFF94 minima, in the end GFN2-xTB ones; hydrogens are added and relaxed",
}
_DOUBLE_BOND = "'smarts:[#6X3,#7X2;!D1]=!@[#6X3,#7X2;!D1]'"
_TRAIN = "molflowctl train-conformers --config druglike-conformers.yaml"
_DRUGLIKE = "--set batch_atoms=1728 --set lr=1.2e-3 --set ema=0.998"
_RINGS = (
    "'where(unseen_ring_systems > 0, -1, 0) + where(largest_ring > 6, -1, 0) "
    "+ where(four_membered_rings > 0, -1, 0)'"
)
# What `denovo/calibrate.py` wrote.
_LIKE_MOSES = (
    "'where(unseen_ring_systems > 0, -3.303, 0) + where(largest_ring > 6, -1.186, 0) + "
    "where(four_membered_rings > 0, 0.5428, 0) + (11.462) * qed + "
    "(-8.6691) * qed * qed + (0.31259) * logp + (-0.10729) * logp * logp + "
    "(1.448) * sa_score + (-0.35868) * sa_score * sa_score + (0.034459) * mw + "
    "(-3.9276e-05) * mw * mw + (0.0086772) * tpsa + (3.9423e-05) * tpsa * tpsa + "
    "(0.030393) * rotatable_bonds + (-0.028398) * rotatable_bonds * rotatable_bonds + "
    "(-0.38167) * rings + (0.062685) * rings * rings'"
)
# Of flows that were trained in several runs, which no one card tells.
RETRAIN = {
    "druglike": [
        "molflowctl data prepare druglike --limit 35000 -o datasets/druglike-first",
        "molflowctl train --config druglike.yaml --set data=datasets/druglike-first "
        "--set network.triangles=0 --set batch_atoms=1152 --set minutes=96 -o runs/first",
        "molflowctl data prepare druglike --limit 16000 -o datasets/druglike-16000",
        "molflowctl train --init runs/first/ema --data datasets/druglike-16000 "
        "--set network.triangles=16 --set train_steps=1376 --set lr=1.2e-3 --set lr_decay_start=1 "
        "--set ema=0.998 -o runs/second",
        "molflowctl data prepare druglike --known datasets/druglike-16000 --limit 30500 "
        "-o datasets/druglike-30500",
        "molflowctl train --init runs/second/raw --data datasets/druglike-30500 "
        f"--set train_steps=5604 {_DRUGLIKE} --set lr_decay_start=0.45 -o runs/third",
        "molflowctl data prepare druglike --known datasets/druglike-30500 --limit 36500 "
        "-o datasets/druglike-36500",
        "molflowctl train --init runs/third/raw --data datasets/druglike-36500 "
        f"--set train_steps=4002 {_DRUGLIKE} --set lr_decay_start=1 -o runs/fourth",
        "molflowctl train --init runs/fourth/raw --data datasets/druglike-36500 "
        "--set network.conditional=true --set known_share=0.3 "
        f"--set train_steps=10151 {_DRUGLIKE} --set lr_decay_start=0.45 -o runs/fifth",
        "python benchmarks/recommend.py runs/fifth/ema churn=80 focus_from=0.65 focus_to=0.9",
        f"molflowctl finetune runs/fifth/ema --reward {_RINGS} --kl-nats 0.2 "
        "--set base_samples=768 --set n_samples=768 --set test_samples=384 --set mirror_steps=6 "
        "--set mirror_nfe=60 --set nfe=60 --seed 11 -o runs/sixth",
        "molflowctl train --init runs/sixth --data datasets/druglike-36500 --set known_share=0.3 "
        "--set train_steps=1642 --set batch_atoms=1728 --set lr=3e-4 --set lr_decay_start=0.2 "
        "--set ema=0.99 --set seed=6 -o runs/seventh",
        "molflowctl generate runs/seventh/ema --attempts 2048 --nfe 60 --precision bf16 --seed 77 "
        "--relax none -o drawn.sdf.gz",
        "python benchmarks/denovo/calibrate.py drawn.sdf.gz --out reward.txt",
        f"molflowctl finetune runs/seventh/ema --reward {_LIKE_MOSES} --kl-nats 0.311 "
        "--set base_samples=1536 --set n_samples=1536 --set test_samples=512 "
        "--set mirror_steps=5 --set mirror_nfe=60 --set nfe=60 --set train_steps=160 --seed 31 "
        "-o runs/eighth",
        "molflowctl data prepare druglike --limit 1100 --relax gfn2 -o datasets/druglike-gfn2",
        "molflowctl train --init runs/eighth --data datasets/druglike-gfn2 --set known_share=0.3 "
        "--set times_from=0.9 --set train_steps=735 --set batch_atoms=1728 --set lr=4e-4 "
        "--set lr_decay_start=0.3 --set ema=0.98 --set seed=7 -o runs/ninth",
        "molflowctl generate runs/ninth/ema --attempts 4096 --precision bf16 --seed 6101 "
        "-o own.sdf.gz",
        "molflowctl train --init runs/ninth/ema --data own.sdf.gz --set parts_only=true "
        "--set train_steps=1190 --set batch_atoms=1728 --set lr=5e-4 --set lr_decay_start=0.3 "
        "--set ema=0.99 --set precision=bf16 --set seed=8 -o runs/druglike",
    ],
    "qm9-dipole": [
        "molflowctl data prepare qm9 --hydrogens implicit",
        "molflowctl train --config qm9.yaml --set validate_minutes=8.0 --set sample_every=0 "
        "-o runs/qm9",
        "molflowctl finetune runs/qm9/ema --reward dipole_debye --kl-weight 1 "
        "--set mirror_nfe=30 -o runs/qm9-dipole",
    ],
    "druglike-qed": [
        "python benchmarks/denovo/high_qed.py",
    ],
    "druglike-conformers": [
        "molflowctl data prepare druglike --limit 35000 -o datasets/druglike",
        "molflowctl data prepare-conformers datasets/druglike --etkdg-conformers 0 "
        "-o datasets/druglike-conformers",
        f"molflowctl data prepare druglike -p {_DOUBLE_BOND} --range 1: --limit 12000 "
        "-o datasets/druglike-ez",
        "molflowctl data prepare-conformers datasets/druglike-ez --etkdg-conformers 0 "
        "-o datasets/druglike-ez-conformers",
        "molflowctl data prepare qm9 --hydrogens explicit -o datasets/qm9-explicit",
        "molflowctl data prepare-conformers datasets/qm9-explicit --limit 30000 "
        "-o datasets/qm9-conformers",
        "molflowctl data join datasets/druglike-conformers datasets/druglike-ez-conformers "
        "datasets/qm9-conformers -o datasets/druglike-conformers-all",
        f"{_TRAIN} --set minutes=95 -o runs/first",
        f"{_TRAIN} --set init=runs/first/ema --set data=datasets/druglike-ez-conformers "
        "--set minutes=44 --set lr_decay_start=0.8 -o runs/second",
        f"{_TRAIN} --set init=runs/second/ema --set data=datasets/druglike-conformers-all "
        "--set minutes=24 --set lr=1e-3 --set lr_decay_start=0.1 -o runs/third",
        "molflowctl data prepare druglike --limit 5000 -o datasets/druglike-small",
        "molflowctl data prepare-conformers datasets/druglike-small --etkdg-conformers 0 "
        "-o datasets/druglike-small-conformers",
        "python benchmarks/conformers/alkenes.py datasets/druglike-ez -o alkenes.smi",
        "molflowctl data prepare-conformers alkenes.smi --etkdg-conformers 1 -o datasets/alkenes",
        "molflowctl data join datasets/druglike-small-conformers datasets/druglike-ez-conformers "
        "datasets/alkenes -o datasets/stereo",
        f"{_TRAIN} --set init=runs/third/ema --set data=datasets/stereo --set minutes=40 "
        "--set lr=2e-3 --set lr_decay_start=0.4 -o runs/fourth",
        "molflowctl data prepare druglike --limit 36500 -o datasets/druglike-36500",
        "molflowctl data prepare-conformers datasets/druglike-36500 --etkdg-conformers 0 "
        "--relax none -o datasets/druglike-36500-conformers",
        f"{_TRAIN} --set init=runs/fourth/ema --set data=datasets/druglike-36500-conformers "
        "--set network.triangles=16 --set minutes=48 --set lr=1.5e-3 --set lr_decay_start=1 "
        "-o runs/fifth",
        "python benchmarks/conformers/double_bonds.py -n 2900 -o double-bonds.smi",
        "molflowctl data prepare-conformers double-bonds.smi --etkdg-conformers 1 "
        "-o datasets/double-bonds",
        "molflowctl data join datasets/druglike-36500-conformers datasets/double-bonds "
        "-o datasets/druglike-double-bonds",
        f"{_TRAIN} --set init=runs/fifth/raw --set data=datasets/druglike-double-bonds "
        "--set network.triangles=16 --set minutes=37 --set lr=1.5e-3 --set lr_decay_start=0.1 "
        "-o runs/sixth",
        "molflowctl data prepare druglike --limit 1100 --relax gfn2 -o datasets/druglike-gfn2",
        "molflowctl data prepare-conformers datasets/druglike-gfn2 --etkdg-conformers 0 "
        "--relax none -o datasets/druglike-gfn2-conformers",
        f"{_TRAIN} --set init=runs/sixth/ema --set data=datasets/druglike-gfn2-conformers "
        "--set times_from=0.8 --set train_steps=1000 --set minutes=null --set lr=4e-4 "
        "--set lr_decay_start=0.3 --set ema=0.98 --set seed=7 -o runs/seventh",
    ],
}


def changes(config: dict[str, Any], packaged: dict[str, Any], prefix: str = "") -> list[str]:
    """The `--set` options that make `config` of the packaged configuration."""
    options = []
    for key, value in config.items():
        if isinstance(value, dict) and isinstance(packaged[key], dict):
            options += changes(value, packaged[key], f"{prefix}{key}.")
        elif value != packaged[key]:
            options.append(f"--set {prefix}{key}={json.dumps(value)}")
    return options


def retraining(card: dict[str, Any], name: str) -> list[str]:
    """The commands that make a flow again."""
    conformers = card["kind"] == "conformer"
    kind = ConformerTrainConfig if conformers else TrainConfig
    config = kind.of_record(card["training"]["config"])
    if conformers:
        source = card["data"]["made_from"]
        data, train = f"datasets/{name}", "-conformers"
        hydrogens = source.partition("-")[2]
        usual = EnsembleConfig(source="", out="").model_dump(mode="json")
        options = changes(EnsembleConfig.of_record(card["data"]["recipe"]), usual)
        ensembles = f"molflowctl data prepare-conformers datasets/{source}"
        before = [" ".join([ensembles, *options, f"-o {data}"])]
    else:
        hydrogens = card["arguments"]["hydrogens"]
        data, train, before = f"datasets/qm9-{hydrogens}", "", []
    prepare = f"molflowctl data prepare qm9 --hydrogens {hydrogens} -o datasets/qm9-{hydrogens}"
    if name.startswith("druglike"):
        shipped = json.loads((SHELF / "druglike" / CARD).read_text())
        limit = card["data"].get("limit", shipped["data"]["limit"])
        prepare = f"molflowctl data prepare druglike --limit {limit} -o datasets/druglike"
        data = f"datasets/{name}"
    config["data"] = data
    changed = changes(config, kind.read(f"{name}.yaml").model_dump(mode="json"))
    command = f"molflowctl train{train} --config {name}.yaml"
    commands = [
        prepare,
        *before,
        " ".join([command, *changed, f"-o runs/{name}"]),
    ]
    if config["init"] == name:  # it went on from what stood on the shelf before
        commands.insert(-1, f"{command} -o runs/{name}-before")
        commands[-1] = commands[-1].replace(f'init="{name}"', f"init=runs/{name}-before/ema")
    return commands


def denovo_metrics(measured: dict[str, Any], settings: dict[str, Any], name: str) -> dict[str, Any]:
    """The rates of `benchmark denovo`, and the command that measured them."""
    noise = settings.get("stochasticity")
    return {
        "attempts": measured["attempts"],
        "command": f"molflowctl benchmark denovo {name} -n {measured['attempts']} "
        f"--nfe {settings['nfe']} --seed {settings['seed']}"
        + ("" if noise is None else f" --set stochasticity={noise:g}"),
        **{key: round(rate["value"], 4) for key, rate in measured["rates"].items()},
        "posebusters_all_but_energy": round(measured["posebusters"]["all_but_energy"]["value"], 4),
    }


def conformer_metrics(rows: list[dict[str, float] | str], nfe: int | None) -> dict[str, Any]:
    """Means over molecules of `benchmark conformers`, the median for energies."""
    done = [row for row in rows if isinstance(row, dict)]

    def of(key: str, statistic=np.nanmean) -> float:
        values = [row.get(key) for row in done]  # null, or none, where there is no figure
        return round(float(statistic([np.nan if v is None else v for v in values])), 4)

    return {
        "molecules": len(done),
        "nfe": nfe,
        **{
            key: of(key)
            for key in ("amr_r", "amr_p", *(f"cov_{k}_{d}" for d in (0.5, 0.75) for k in "rp"))
        },
        "stereo": of("stereo"),
        "energy_above_reference_kcal_mol": of("energy_kcal_mol", np.nanmedian),
    }


def stage(card: dict[str, Any]) -> dict[str, Any]:
    """What a flow's last run did with it, in a few words and figures."""
    if "finetune" in card:
        run = card["finetune"]
        means = {label: run[label]["mean"] for label in ("prior", "target", "result")}
        return {
            "command": "finetune", "reward": run["reward"], "minutes": round(run["minutes"], 1),
            "kl_nats": run["config"]["kl_nats"], "oracle_calls": run["oracle_calls"], **means,
        }  # fmt: skip
    run, data = card["training"], card["data"]
    told = {key: data[key] for key in ("name", "limit", "relax") if key in data}
    if "made_from" in data:  # ensembles of one geometry, as their molecules have it
        relax = "gfn2" if "gfn2" in data["made_from"] else "mmff"
        told = {"name": data["made_from"], "limit": data["molecules"], "relax": relax}
    elif "read_from" in data:  # molecules as an SDF file has them
        told = {"name": data["read_from"], "limit": data["molecules"], "relax": "none"}
    return {
        "command": "train", "data": told, "minutes": round(60 * run["hours"], 1),
        "times_from": run["config"].get("times_from", 0.0),
        "parts_only": run["config"].get("parts_only", False),
        "lr": run["config"]["lr"], "step": run["step"],
    }  # fmt: skip


def finished(
    card: dict[str, Any], shelf: dict[str, Any], stages: list[dict[str, Any]]
) -> dict[str, Any]:
    """The card of a flow that finishes what stood on the shelf: its data and training are that's.

    Arguments:
        stages: the cards of the flows between the two, and of the last one.
    """
    kept = {key: shelf[key] for key in ("data", "training") if key in shelf}
    before = shelf.get("stages") or ([stage(shelf)] if "finetune" in shelf else [])
    card = {k: v for k, v in card.items() if k not in ("finetune", "objective", "parents")} | kept
    return card | {"stages": [*before, *map(stage, stages)]}


def main(folder: str, name: str, results: str | None = None, *stages: str) -> None:
    """Copy the flow in `folder` to the shelf as `name`."""
    source, target = Path(folder), SHELF / name
    flow = Flow.load(source)  # what cannot be read does not ship
    card = json.loads((source / CARD).read_text())
    card |= {
        "name": name,
        "description": DESCRIPTIONS[name],
    }
    if name in RETRAIN:
        card["retrain"] = RETRAIN[name]
    elif "training" in card:
        card["retrain"] = retraining(card, name)
    if stages:
        shelf = json.loads((target / CARD).read_text())
        card = finished(card, shelf, [json.loads((Path(f) / CARD).read_text()) for f in stages])
    usual = "MIT" if name.startswith("druglike") else "CC0-1.0"  # of MOSES, of QM9
    licence = card.get("data", {}).get("licence", usual)
    card["licence"] = f"MIT (weights); {licence} (data)"
    if "finetune" in card:
        card["finetune"]["config"]["out"] = name
    if results:
        measured = json.loads(Path(results).read_text())
        if flow.kind == "conformer":
            (model,) = (
                m
                for m, sha256 in measured["weights_sha256"].items()
                if sha256 == card["weights_sha256"]
            )
            settings = ConformerBenchmarkConfig.of_record(measured["config"])
            # Measured with them, so drawn with them.
            told = {"noise": settings.get("noise_scale"), "nfe": settings.get("nfe")}
            card["sampling"] = card.get("sampling", {}) | {
                name: value for name, value in told.items() if value is not None
            }
            nfe = card["sampling"].get("nfe")
            card["metrics"] = conformer_metrics(measured["rows"][model], nfe)
        else:
            record = json.loads(record_path(Path(results).parent).read_text())
            if not measured.get("complete", True):
                raise SystemExit(f"{results} is of a benchmark that was interrupted")
            if record["flow"]["weights_sha256"] != card["weights_sha256"]:
                raise SystemExit(f"{results} is of other weights than {folder}")
            settings = BenchmarkConfig.of_record(record["config"])
            # Measured with them, so drawn with them unless the user says otherwise.
            first, last = settings.get("focus") or (None, None)
            told = {
                "churn": settings.get("stochasticity"), "focus_from": first, "focus_to": last,
            }  # fmt: skip
            if told := {name: value for name, value in told.items() if value is not None}:
                card["sampling"] = told
            card["metrics"] = denovo_metrics(measured, settings, name)
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / WEIGHTS, target / WEIGHTS)
    (target / CARD).write_text(json.dumps(sealed(card), indent=2) + "\n")
    print(f"{target}: {(target / WEIGHTS).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
