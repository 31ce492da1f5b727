"""A real pocket with its ligand, prepared as a user would."""

import gzip
from pathlib import Path

import pytest
import yaml

DATA = Path(__file__).parent / "data"
LIGAND = DATA / "1s2g_ligand.sdf"


@pytest.fixture(scope="session")
def pocket_pdb(tmp_path_factory) -> Path:
    """The pocket of 1S2G as a PDB with hydrogens."""
    file = tmp_path_factory.mktemp("pdb") / "pocket.pdb"
    file.write_bytes(gzip.decompress((DATA / "1s2g_pocket.pdb.gz").read_bytes()))
    return file


@pytest.fixture(scope="session")
def prepared(pocket_pdb, tmp_path_factory) -> Path:
    """Its receptor file, boxed around the ligand."""
    pytest.importorskip("meeko", reason="meeko is not installed: the extra [docking]")
    pytest.importorskip("vina", reason="vina is not installed: the extra [docking]")
    from molflowctl.properties.docking.preparing import prepare

    out = tmp_path_factory.mktemp("receptor") / "pocket.yaml"
    prepare(str(pocket_pdb), out, ligand=str(LIGAND), exhaustiveness=1, n_poses=3)
    return out


@pytest.fixture(scope="session")
def changed():
    """`changed(file, out, **settings)`: a receptor's file with other settings."""

    def write(file: Path, out: Path, **settings: object) -> Path:
        told = yaml.safe_load(file.read_text())
        told |= {"receptor": str(file.parent / told["receptor"]), **settings}
        out.parent.mkdir(exist_ok=True)
        out.write_text(yaml.safe_dump(told))
        return out

    return write


@pytest.fixture(scope="session")
def crystal_ligand() -> Path:
    """2'-deoxyadenosine where the crystal has it."""
    return LIGAND
