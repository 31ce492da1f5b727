import os
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem
from rdkit.Geometry import Point3D

from molflowctl.chem import EXACT
from molflowctl.errors import UserError
from molflowctl.properties.cache import Cache, default_cache, molecule_key

KEY, OTHER = b"a" * 32, b"b" * 32


def embed(smiles, seed=1):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=seed)
    return mol


def test_values_and_reasons_survive(tmp_path):
    values = np.array([1.5, -2.0, 5e-324, 0.1 + 0.2])
    with Cache(tmp_path / "c.sqlite") as cache:
        cache.put(KEY, "p", 1, values)
        cache.put(KEY, "q", 1, "it is too large")
    with Cache(tmp_path / "c.sqlite") as cache:
        assert cache.get(KEY, "p", 1).tobytes() == values.tobytes()
        assert cache.get(KEY, "q", 1) == "it is too large"
        for absent in ((OTHER, "p", 1), (KEY, "r", 1), (KEY, "p", 2)):
            assert cache.get(*absent) is None
        assert cache.hits == 2
        cache.put(KEY, "q", 1, np.ones(2))  # in place of what was there
        cache.flush()
        assert cache.get(KEY, "q", 1).tolist() == [1, 1]


def test_similarity_versions_fit(tmp_path):
    with Cache(tmp_path / "c.sqlite") as cache:
        cache.put(KEY, "p", 2**48 - 1, np.ones(1))
        cache.flush()
        assert cache.get(KEY, "p", 2**48 - 1) is not None


def test_an_interrupted_run_loses_a_second_at_most(tmp_path):
    code = (
        "import os, sys, time, numpy as np; from molflowctl.properties.cache import Cache\n"
        "cache = Cache(sys.argv[1])\n"
        "for n in range(600): cache.put(bytes([n % 256, n // 256]), 'p', 1, np.array([float(n)]))\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "c.sqlite"], check=False)
    with Cache(tmp_path / "c.sqlite") as cache:
        assert [cache.get(bytes([n % 256, n // 256]), "p", 1)[0] for n in range(512)] == list(
            range(512)
        )


WRITER = """
import sys
import numpy as np
from molflowctl.properties.cache import Cache
who = int(sys.argv[2])
with Cache(sys.argv[1]) as cache:
    for n in range(500):
        cache.put(bytes([who, n % 256, n // 256]), "p", 1, np.array([float(who * 1000 + n)]))
        if n % 10 == 0:
            cache.flush()
"""


def test_several_writers_at_a_time(tmp_path):
    path = tmp_path / "new" / "c.sqlite"  # created by whoever comes first
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, str(who)]) for who in range(3)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    with Cache(path) as cache:
        for who in range(3):
            for n in range(500):
                assert cache.get(bytes([who, n % 256, n // 256]), "p", 1) == [who * 1000 + n]


def test_a_file_created_by_several_at_once(tmp_path):
    def enter(path):
        together.wait()
        Cache(path).close()

    with ThreadPoolExecutor(8) as threads:
        for n in range(30):
            together = threading.Barrier(8)
            list(threads.map(enter, [tmp_path / f"{n}.sqlite"] * 8))


def damaged(path):
    with Cache(path) as cache:
        for n in range(2000):
            cache.put(n.to_bytes(32, "big"), "p", 1, np.ones(3))
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xaa" * (len(content) - 4096)
    path.write_bytes(content)


def truncated(path):
    damaged(path)
    path.write_bytes(path.read_bytes()[:3000])


def foreign(path):
    file = sqlite3.connect(path)
    file.execute("CREATE TABLE diary (day TEXT)")
    file.commit()
    file.close()


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b"this is not a database at all" * 100),
        damaged,
        truncated,
        foreign,
        lambda path: path.mkdir(),
    ],
    ids=["garbage", "damaged", "truncated", "foreign", "folder"],
)
def test_file_that_is_no_cache_is_named(tmp_path, make):
    path = tmp_path / "c.sqlite"
    make(path)
    with pytest.raises(
        UserError, match=r"the score cache .*c\.sqlite cannot be used: .*--no-cache"
    ):
        use(path)


def use(path):
    with Cache(path) as cache:
        cache.get(KEY, "p", 1)
        cache.put(KEY, "p", 1, np.ones(3))


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be used"):
        Cache(tmp_path / "file" / "c.sqlite")


def test_default_place(monkeypatch, tmp_path):
    monkeypatch.setenv("MOLFLOWCTL_CACHE", str(tmp_path / "mine"))
    assert default_cache() == tmp_path / "mine" / "scores.sqlite"
    monkeypatch.delenv("MOLFLOWCTL_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "molflowctl" / "scores.sqlite"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "molflowctl" / "scores.sqlite"
    assert os.fspath(default_cache()).endswith("scores.sqlite")


def test_key_is_of_structure_and_coordinates():
    mol, other = embed("CC(F)O"), embed("CC(F)O", seed=2)
    tagged = Chem.Mol(mol)
    tagged.SetProp("_Name", "a title")
    moved = Chem.Mol(mol)
    x = moved.GetConformer().GetAtomPosition(0)
    moved.GetConformer().SetAtomPosition(0, Point3D(x.x + 1e-12, x.y, x.z))
    copy = Chem.Mol(mol.ToBinary(EXACT))
    for coordinates in (False, True):
        keys = {molecule_key(m, coordinates) for m in (mol, tagged, copy)}
        assert len(keys) == 1
    assert molecule_key(mol, False) == molecule_key(other, False) == molecule_key(moved, False)
    assert len({molecule_key(m, True) for m in (mol, other, moved)}) == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CC", "CO"),
        ("CC", "C=C"),
        ("N", "[NH4+]"),
        ("[CH3]", "C"),
        ("C", "[13CH4]"),
        ("C[C@H](F)O", "C[C@@H](F)O"),
        ("C/C=C/C", "C/C=C\\C"),
        ("CCO", "OCC"),  # in the order of the atoms, since values may depend on it
    ],
)
def test_key_differs(one, other):
    assert molecule_key(Chem.MolFromSmiles(one), False) != molecule_key(
        Chem.MolFromSmiles(other), False
    )
