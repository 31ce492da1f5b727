"""The results of the de-novo benchmark and their files: JSON, Markdown, CSV, figure and run
record."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from rdkit.Chem import Mol

from molflowctl.chem.graphs import FAILURE_REASONS
from molflowctl.errors import UserError
from molflowctl.io.atomic import replacing_file, write_file
from molflowctl.io.record import record_path, versions, write_json
from molflowctl.tasks.evaluation.bootstrap import Estimate
from molflowctl.tasks.evaluation.denovo_figure import draw_figure
from molflowctl.tasks.evaluation.denovo_metrics import Distance
from molflowctl.viz.pictures import draw_grid

__all__ = ["Cost", "Report", "published_rows"]

LABELS = {
    "atom_stability": "stable atoms, own bonds",
    "molecule_stability": "stable molecules, own bonds",
    "valid": "valid",
    "unique": "unique, of the valid",
    "novel": "novel, of the unique",
    "valid_and_unique": "valid and unique",
    "edm_atom_stability": "stable atoms, bonds from distances",
    "edm_molecule_stability": "stable molecules, bonds from distances",
    "edm_valid": "valid, bonds from distances",
    "edm_valid_and_unique": "valid and unique, bonds from distances",
    "mmff_drop_kcal_mol": "MMFF94 energy drop, median, kcal/mol",
    "mmff_rmsd_angstrom": "MMFF94 heavy-atom RMSD, median, angstrom",
    "mmff_failed": "MMFF94 without result",
    "gfn2_drop_kcal_mol": "GFN2-xTB energy drop, median, kcal/mol",
    "gfn2_rmsd_angstrom": "GFN2-xTB heavy-atom RMSD, median, angstrom",
    "gfn2_failed": "GFN2-xTB without result",
    "internal_diversity": "internal diversity: 1 less the similarity of two molecules",
    "pains_alerts": "PAINS alerts, per molecule",
    "brenk_alerts": "Brenk alerts, per molecule",
}
LIKENESS_LABELS = {
    "large_ring": "a ring of seven atoms and more",
    "four_ring": "a four-membered ring",
    "unseen_ring": "a ring system that MOSES' training set does not have",
    "nearest": "nearest known molecule, Tanimoto similarity",
    "copies": "is one of the known molecules",
    "fragments": "BRICS fragments, cosine",
    "scaffolds": "Murcko scaffolds, cosine",
}
POSEBUSTERS_LABELS = {
    "all_but_energy": "passes all checks but energy",
    "all": "passes all checks; no answer counts as failed",
    "none_failed": "fails no check; no answer does no harm",
    "all_answered": "passes all checks, of those with an answer",
    "no_answer": "no answer: no conformers to compare with, or out of time",
}
UNITS = {"property": "", "bond length": "angstrom", "angle": "degree"}
PUBLISHED_COLUMNS = ("atom_stability", "molecule_stability", "valid", "valid_and_unique")


@dataclass(frozen=True)
class Cost:
    """Wall time for several numbers of attempts.

    attempts: ascending. seconds: for each.
    """

    attempts: Sequence[int]
    seconds: Sequence[float]

    @property
    def exponent(self) -> float:
        """Slope of log time over log attempts, least squares: 1 is linear; NaN for fewer than 2."""
        if len(self.attempts) < 2:
            return math.nan
        return float(np.polyfit(np.log(self.attempts), np.log(self.seconds), 1)[0])


@dataclass
class Report:
    """All results; shares are between 0 and 1.

    complete: every section that was asked for is there.
    likeness_floor: what an equal draw of the known molecules scores in `likeness`.
    random: molecules for the picture, drawn at random.
    values: what the distances were computed from, for the figure: `{part: {name: (n,)}}`.
    """

    source: str
    config: dict[str, Any]
    complete: bool = False
    flow_card: dict[str, Any] | None = None
    explicit: bool = False
    failures: dict[str, int] = field(default_factory=dict)
    rates: dict[str, Estimate] = field(default_factory=dict)
    posebusters: dict[str, Estimate] = field(default_factory=dict)
    relaxations: dict[str, Estimate] = field(default_factory=dict)
    chemistry: dict[str, Estimate] = field(default_factory=dict)
    likeness: dict[str, Estimate] = field(default_factory=dict)
    likeness_floor: dict[str, Estimate] = field(default_factory=dict)
    distances: list[Distance] = field(default_factory=list)
    random: list[Mol] = field(default_factory=list)
    values: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    quality: list[dict[str, Estimate | float]] = field(default_factory=list)
    cost: Cost | None = None
    identity: list[dict[str, Any]] = field(default_factory=list)
    seconds_per_1000: float | None = None

    def metrics(self) -> list[tuple[str, str, Estimate]]:
        """Every estimate: its group, what it is, itself."""
        rows = [("sample", LABELS[name], estimate) for name, estimate in self.rates.items()]
        rows += [
            ("PoseBusters", POSEBUSTERS_LABELS.get(name, name.replace("_", " ")), estimate)
            for name, estimate in self.posebusters.items()
        ]
        rows += [("relaxation", LABELS[name], e) for name, e in self.relaxations.items()]
        rows += [("chemistry", LABELS[name], e) for name, e in self.chemistry.items()]
        return rows

    def as_json(self) -> dict[str, Any]:
        """What `results.json` holds; NaN is null."""
        hydrogens = "explicit" if self.explicit else "implicit"
        content = {
            "source": self.source,
            "complete": self.complete,
            "hydrogens": hydrogens,
            "attempts": self.rates["valid"].n,
            "failures": self.failures,
            "rates": self.rates,
            "posebusters": self.posebusters,
            "relaxations": self.relaxations,
            "chemistry": self.chemistry,
            "likeness": self.likeness,
            "likeness_of_an_equal_draw": self.likeness_floor,
            "distances": self.distances,
            "seconds_per_1000": self.seconds_per_1000,
            "quality_against_evaluations": self.quality,
            "cost_against_n": None
            if self.cost is None
            else asdict(self.cost) | {"exponent": self.cost.exponent},
            "score_identity": self.identity,
            "published": published_rows() if self._is_published_protocol() else [],
        }
        return _plain(content)

    def markdown(self) -> str:
        """The tables for people."""
        attempts = self.rates["valid"].n
        kind = "explicit" if self.explicit else "implicit"
        lines = [
            f"# {self.source}",
            "",
            f"{attempts:,} attempts, {kind} hydrogens, {self._how()}. "
            "In brackets: 95 % bootstrap interval over molecules.",
            "",
            *([] if self.complete else ["Interrupted: sections are missing.", ""]),
            *_table(
                ("", "", "n"),
                [
                    (f"{group}: {label}", _shown(estimate, label), f"{estimate.n:,}")
                    for group, label, estimate in self.metrics()
                ],
            ),
        ]
        if self.failures:
            lines += ["", "## Why attempts are not valid", ""]
            lines += _table(
                ("reason", "share", ""),
                [
                    (reason, f"{count / attempts:.2%}", FAILURE_REASONS.get(reason, ""))
                    for reason, count in self.failures.items()
                ],
            )
        if self.likeness:
            lines += ["", "## Rings and fragments against known molecules", ""]
            lines += _table(
                ("", "sample", "an equal draw of the test split"),
                [
                    (label, _shown(e, label), _shown(self.likeness_floor[name], label))
                    for name, e in self.likeness.items()
                    for label in [LIKENESS_LABELS[name]]
                ],
            )
        if self.distances:
            lines += [
                "",
                "## Distance to the test split",
                "",
                "Wasserstein-1, in the unit of the quantity; floor: what as many independent draws "
                "from the test split would score.",
                "",
                *_table(
                    ("", "unit", "distance", "floor", "values"),
                    [
                        (
                            f"{d.group}: {d.name}",
                            UNITS[d.group],
                            f"{d.wasserstein:.4g}",
                            f"{d.floor:.2g}",
                            f"{d.n:,}",
                        )
                        for d in self.distances
                    ],
                ),
            ]
        if self.quality:
            lines += ["", "## Quality against network evaluations", "", *self._quality_table()]
        if self.cost is not None:
            lines += ["", f"## Cost against n: time grows as n^{self.cost.exponent:.2f}", ""]
            lines += _table(
                ("attempts", "seconds", "seconds per 1,000"),
                [
                    (f"{n:,}", f"{s:.1f}", f"{1000 * s / n:.1f}")
                    for n, s in zip(self.cost.attempts, self.cost.seconds, strict=True)
                ],
            )
        if self.identity:
            lines += [
                "",
                "## Score identity",
                "",
                "Of an exact flow: -E<s, x_t>/d = 1 (Stein) and -E<s, x_0>/((1-t) E|s|^2) = 1 "
                "(denoising), with the standard error.",
                "",
                *_table(
                    ("t", "part", "Stein", "denoising", "states"),
                    [
                        (
                            f"{row['time']:g}",
                            row["part"],
                            f"{row['stein']:.4f} +- {row['stein_error']:.4f}",
                            f"{row['denoising']:.4f} +- {row['denoising_error']:.4f}",
                            f"{row['molecules']:,}",
                        )
                        for row in self.identity
                    ],
                ),
            ]
        if self._is_published_protocol():
            lines += [
                "",
                "## Beside published results on QM9, per cent",
                "",
                *self._published_table(),
            ]
        return "\n".join([*lines, ""])

    def write(self, out: Path, reference: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Write the files of the folder `out`, and `<out>.run.json` beside it.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_file(out / "table.md", self.markdown())
            self._write_csv(out / "table.csv")
            draw_figure(self.rates, self.posebusters, self.values, reference, out / "figure.png")
            if self.random:
                draw_grid(self.random, out / "random.png", n=len(self.random), columns=6)
            write_json(out / "results.json", self.as_json())
            card = self.flow_card or {}
            record = {
                "command": "benchmark denovo",
                "config": self.config,
                "flow": {"name": self.source, "weights_sha256": card.get("weights_sha256")},
                "versions": versions(),
                "counts": {"attempts": self.rates["valid"].n, "failed": self.failures},
            }
            write_json(record_path(out), record)
        except OSError as error:
            raise UserError(f"cannot write {out}: {error.strerror or error}") from error

    def _how(self) -> str:
        if self.seconds_per_1000 is None:
            return "read from the file"
        config = self.config
        return (
            f"{config['sampler']} sampler with {config['nfe']} network evaluations, "
            f"seed {config['seed']}, {'relaxed with MMFF94, ' if config['relax'] else ''}"
            f"{self.seconds_per_1000:.1f} s per 1,000 with {config['jobs']} workers"
        )

    def _is_published_protocol(self) -> bool:
        return self.config["data"] == "qm9" and "edm_valid" in self.rates

    def _quality_table(self) -> list[str]:
        names = [name for name in self.quality[0] if name != "evaluations"]
        labels = [LABELS.get(name, name.replace("_", " ")) for name in names]
        rows = []
        for row in self.quality:
            cells = [f"{row['evaluations']}"]
            for name in names:
                value = row[name]
                cells.append(_shown(value, name) if isinstance(value, Estimate) else f"{value:.1f}")
            rows.append(cells)
        return _table(["evaluations", *labels], rows)

    def _published_table(self) -> list[str]:
        from_file = self.seconds_per_1000 is None  # which does not tell its evaluations
        nfe = "" if from_file else str(self.config["nfe"])
        rows = []
        for prefix, how, protocol in (
            ("edm_", "bonds from distances", "that of the published rows"),
            ("", "own bonds", "bonds and charges as generated; valid: one fragment, no radical"),
        ):
            cells = [_percent(100 * self.rates[prefix + name].value) for name in PUBLISHED_COLUMNS]
            rows.append([f"**this sample**, {how}", nfe, *cells, "", protocol])
        for row in published_rows():
            cells = [_percent(row[name]) for name in PUBLISHED_COLUMNS]
            count = "" if row["evaluations"] is None else str(row["evaluations"])
            rows.append([row["model"], count, *cells, row["figures_from"], row["protocol"]])
        head = ("", "evaluations", "stable atoms", "stable molecules", "valid", "valid and unique")
        return _table([*head, "figures from", "protocol"], rows)

    def _write_csv(self, path: Path) -> None:
        with (
            replacing_file(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            table = csv.writer(file)
            table.writerow(("group", "name", "value", "low", "high", "n", "unit", "floor"))
            for group, label, e in self.metrics():
                unit = label.rsplit(", ", 1)[-1] if label.endswith(("kcal/mol", "angstrom")) else ""
                table.writerow((group, label, *_digits(e.value, e.low, e.high), e.n, unit, ""))
            for d in self.distances:
                value, floor = _digits(d.wasserstein, d.floor)
                row = (f"distance, {d.group}", d.name, value, "", "", d.n, UNITS[d.group], floor)
                table.writerow(row)


def published_rows() -> list[dict[str, Any]]:
    """Published results on QM9, rates in per cent, None where not given.

    Keys: `model`, `evaluations`, those of `PUBLISHED_COLUMNS`, `figures_from` and `protocol`.
    """
    asset = resources.files("molflowctl") / "assets" / "qm9_published.csv"
    with asset.open(encoding="utf-8") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        row["evaluations"] = int(row["evaluations"]) if row["evaluations"] else None
        for name in PUBLISHED_COLUMNS:
            row[name] = float(row[name]) if row[name] else None
    return rows


def _shown(estimate: Estimate, name: str) -> str:
    if math.isnan(estimate.value):
        return "-"
    if name.endswith(("kcal_mol", "kcal/mol", "angstrom", "per molecule", "cosine", "similarity")):
        return f"{estimate.value:.3g} ({estimate.low:.3g} to {estimate.high:.3g})"
    low, high = 100 * estimate.low, 100 * estimate.high
    return f"{100 * estimate.value:.2f} % ({low:.2f} to {high:.2f})"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _digits(*values: float) -> list[str]:
    return ["" if math.isnan(value) else f"{value:.6g}" for value in values]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def _plain(value: Any) -> Any:
    """The same with dataclasses as mappings and NaN as None, for JSON."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
