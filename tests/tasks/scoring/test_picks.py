"""Picks of a ranked library, against the rule carried out by hand."""

import csv
import gzip
import random
from pathlib import Path

import numpy as np
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold
from typer.testing import CliRunner

from molflowctl.cli import app
from molflowctl.tasks.scoring.picks import diverse, per_scaffold, scaffold

ASSET = Path(__file__).parents[3] / "molflowctl" / "assets" / "druglike_test_smiles.txt.gz"
SMILES = random.Random(1).sample(gzip.decompress(ASSET.read_bytes()).decode().split(), 150)


def test_maxmin_is_the_rule_carried_out_by_hand() -> None:
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    prints = [generator.GetFingerprint(Chem.MolFromSmiles(s)) for s in SMILES]
    far = np.array([[1 - DataStructs.TanimotoSimilarity(a, b) for b in prints] for a in prints])
    taken = [0]
    while len(taken) < 20:
        least = far[:, taken].min(1)
        least[taken] = -1
        taken.append(int(least.argmax()))
    found = diverse(SMILES, 20, lambda s: s)
    assert found == [SMILES[k] for k in sorted(taken)]
    apart = far[np.ix_(sorted(taken), sorted(taken))][np.triu_indices(20, 1)]
    assert apart.min() > far[:20, :20][np.triu_indices(20, 1)].min()
    assert diverse(SMILES[:5], 20, lambda s: s) == SMILES[:5]


def test_of_each_scaffold_the_first() -> None:
    series = ["c1ccccc1C", "c1ccccc1CC", "CCO", "C1CCNCC1", "CCN", "Oc1ccccc1"]
    assert per_scaffold(series, 1, lambda s: s) == ["c1ccccc1C", "CCO", "C1CCNCC1"]
    assert per_scaffold(series, 2, lambda s: s) == series[:5]
    for smiles in SMILES[:50]:
        by_hand = MurckoScaffold.MurckoScaffoldSmiles(smiles, includeChirality=False)
        assert scaffold(smiles) == by_hand
    assert scaffold("C[C@H]1CCCN1c1ccccc1") == scaffold("C[C@@H]1CCCN1c1ccccc1")


def test_rank_picks(tmp_path) -> None:
    rows = [f"{s},m{n},{n}" for n, s in enumerate(SMILES)]
    (tmp_path / "scored.csv").write_text("\n".join(["smiles,name,x", *rows]) + "\n")

    def rank(*options) -> list[str]:
        out = tmp_path / "best.csv"
        command = ["rank", str(tmp_path / "scored.csv"), "--by", "x", "-o", str(out)]
        result = CliRunner().invoke(app, [*command, "--overwrite", *options])
        assert result.exit_code == 0, result.output
        with open(out) as file:
            return [row["name"] for row in csv.DictReader(file)]

    best = [f"m{n}" for n in range(149, 49, -1)]
    assert rank() == best
    picked = rank("--diverse", "10")
    assert picked == [f"m{n}" for n in sorted((int(p[1:]) for p in picked), reverse=True)]
    assert (len(picked), picked[0]) == (10, "m149")
    assert set(picked) <= set(best)
    assert picked != best[:10]
    one = rank("--per-scaffold", "1", "-n", "1000")
    scaffolds = [scaffold(SMILES[int(name[1:])]) for name in one]
    assert len(set(scaffolds)) == len(scaffolds) == len({scaffold(s) for s in SMILES})
