"""The script that finds molecules with a double bond that may be E or Z."""

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "conformers" / "double_bonds.py"
ROWS = """SMILES,SPLIT
CC=CC(=O)NC1CC1,train
CC=NNC(=O)c1ccccc1,train
CC=CCO,test
C=CCNC(=O)C1CC1,train
CC1=CCCN(C)C1,train
CC(=O)Nc1ccccc1,train
"""


def test_double_bonds_that_may_be_e_or_z_are_found(tmp_path):
    """Not those of test molecules, of rings, or with an end that has no substituent."""
    source, out = tmp_path / "moses.csv", tmp_path / "found.smi"
    source.write_text(ROWS)
    main = runpy.run_path(str(SCRIPT))["main"]
    main(out=out, n=10, seed=0, source=str(source))
    found = [line.split() for line in out.read_text().splitlines()]
    assert {smiles for smiles, _ in found} == {"CC=CC(=O)NC1CC1", "CC=NNC(=O)c1ccccc1"}
    assert [name for _, name in found] == ["double-bond-0", "double-bond-1"]
    main(out=out, n=1, seed=0, source=str(source))
    assert out.read_text().splitlines() == [" ".join(found[0])]
