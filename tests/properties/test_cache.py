import os
import random
import sqlite3
import struct
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import rdkit
from rdkit import Chem
from rdkit.Chem import AllChem
from rdkit.Geometry import Point3D

from molflowctl.chem.graphs import EXACT
from molflowctl.chem.spin import declare
from molflowctl.errors import UserError
from molflowctl.properties import get, names, programs, score
from molflowctl.properties.cache import Cache, default_cache, geometry_key, graph_key

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


def misspelt(path):
    """SQLite quotes the statement in its message, and the byte is no UTF-8."""
    with Cache(path):
        pass
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE", b"CREATE T\xdaBLE"))


@pytest.mark.parametrize(
    "make",
    [
        misspelt,
        lambda path: path.write_bytes(b"this is not a database at all" * 100),
        damaged,
        truncated,
        foreign,
        lambda path: path.mkdir(),
    ],
    ids=["misspelt", "garbage", "damaged", "truncated", "foreign", "folder"],
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
    assert default_cache() == tmp_path / "mine" / "scores-2.sqlite"
    monkeypatch.delenv("MOLFLOWCTL_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "molflowctl" / "scores-2.sqlite"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "molflowctl" / "scores-2.sqlite"
    assert os.fspath(default_cache()).endswith("scores-2.sqlite")


def another_layout(path, statement):
    Cache(path).close()
    file = sqlite3.connect(path)
    file.execute(statement)
    file.commit()
    file.close()


@pytest.mark.parametrize("layout", [0, 1, 3])
def test_another_layout_is_named_and_left_alone(tmp_path, layout):
    path = tmp_path / "c.sqlite"
    another_layout(path, f"PRAGMA user_version = {layout}")
    before = path.read_bytes()
    with pytest.raises(UserError, match=f"has layout {layout or 1}, this program writes 2") as told:
        Cache(path)
    assert "\n" not in str(told.value)
    assert path.read_bytes() == before


def test_a_cache_of_before_is_not_read(tmp_path):
    """Its keys told two spellings of one molecule apart, and no version of a program."""
    path = tmp_path / "c.sqlite"
    file = sqlite3.connect(path)
    file.execute(
        "CREATE TABLE results (molecule BLOB, property TEXT, version INTEGER, numbers BLOB,"
        " reason TEXT, PRIMARY KEY (molecule, property, version)) WITHOUT ROWID"
    )
    file.execute(f"PRAGMA application_id = {0x6D666374}")
    file.commit()
    file.close()
    with pytest.raises(UserError, match="layout 1"):
        Cache(path)


def test_a_fifo_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "c.sqlite")
    with pytest.raises(UserError, match="it is not a file"):
        Cache(tmp_path / "c.sqlite")


ROWS = {(n.to_bytes(32, "big"), f"p{n % 3}"): n for n in range(400)}


def stored(n):
    return f"reason {n}" if n % 5 == 0 else np.array([n / 7, -n, 0.948][: 1 + n % 3])


def fill(path):
    cache = Cache(path)
    for (key, name), n in ROWS.items():
        cache.put(key, name, 1, stored(n), "rdkit 2026.09.1")
    cache.flush()
    return cache


def served(path):
    """What is read, and whether the file was refused."""
    found = {}
    try:
        with Cache(path) as cache:
            for (key, name), n in ROWS.items():
                result = cache.get(key, name, 1, "rdkit 2026.09.1")
                if result is not None:
                    found[n] = result
            damaged = cache.damaged
    except UserError:
        return found, -1
    return found, damaged


@pytest.mark.parametrize(("where", "times"), [("file", 150), ("log", 40)])
def test_no_corruption_is_served(tmp_path, where, times):
    """A byte, a run of bytes or a piece of another place, at random places."""
    path = tmp_path / "whole.sqlite"
    cache = fill(path)
    if where == "file":
        cache.close()
    whole = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    cache.close()
    target = "whole.sqlite" if where == "file" else "whole.sqlite-wal"
    rng = random.Random(where)
    outcomes = Counter()
    for number in range(times):
        folder = tmp_path / str(number)
        folder.mkdir()
        content = bytearray(whole[target])
        start = rng.randrange(len(content))
        length = rng.choice([1, 1, 8, 200])
        if number % 10 == 9:
            source = rng.randrange(len(content))
            content[start : start + 512] = content[source : source + 512]
        else:
            for place in range(start, min(start + length, len(content))):
                content[place] ^= rng.randrange(1, 256)
        for name, data in whole.items():
            if not name.endswith("-shm"):
                (folder / name).write_bytes(content if name == target else data)
        found, damaged = served(folder / "whole.sqlite")
        for n, result in found.items():
            wanted = stored(n)
            if isinstance(wanted, str):
                assert result == wanted
            else:
                assert isinstance(result, np.ndarray)
                assert result.tobytes() == wanted.tobytes()
        outcomes["refused"] += damaged < 0
        outcomes["damaged"] += damaged > 0
        outcomes["fewer"] += len(found) < len(ROWS)
    assert outcomes["fewer"] > times / 3, outcomes  # the corruptions did reach what is read
    if where == "file":  # the log has checksums of SQLite's own
        assert outcomes["damaged"] > 20, outcomes


def test_a_damaged_row_is_computed_again(tmp_path):
    path = tmp_path / "c.sqlite"
    ethanol = [Chem.MolFromSmiles("CCO")]
    with Cache(path) as cache:
        true = score(ethanol, ["qed"], cache=cache)["qed"][0]
    file = sqlite3.connect(path)
    ((value,),) = file.execute("SELECT value FROM results").fetchall()
    wrong = value[:1] + struct.pack("<d", 1.05)
    file.execute("UPDATE results SET value = ?", (wrong,))
    file.commit()
    file.close()
    with Cache(path) as cache:
        assert score(ethanol, ["qed"], cache=cache)["qed"][0] == true
        assert (cache.hits, cache.damaged) == (0, 1)
    with Cache(path) as cache:  # and was put right
        assert score(ethanol, ["qed"], cache=cache)["qed"][0] == true
        assert (cache.hits, cache.damaged) == (1, 0)


@pytest.mark.parametrize(
    ("program", "names", "again"),
    [
        ("tblite", ["qed", "xtb-energy", "mmff-energy"], ["xtb-energy"]),
        ("rdkit", ["qed", "xtb-energy", "mmff-energy"], ["qed", "xtb-energy", "mmff-energy"]),
        ("openmm", ["qed", "xtb-energy", "mmff-energy"], []),
    ],
)
def test_versions_of_programs_are_in_the_key(tmp_path, monkeypatch, program, names, again):
    mols = [embed("CO")]
    with Cache(tmp_path / "c.sqlite") as cache:
        score(mols, names, cache=cache)
        assert cache.hits == 0
    before = programs._version
    monkeypatch.setattr(
        programs, "_version", lambda name: "99.0" if name == program else before(name)
    )
    with Cache(tmp_path / "c.sqlite") as cache:
        score(mols, names, cache=cache)
        assert cache.hits == len(names) - len(again)


def test_versions_are_those_installed():
    text = programs.program_versions("xtb")
    assert text == f"rdkit {rdkit.__version__}, tblite {metadata.version('tblite')}"
    anybody = programs.program_versions("numpy-like-engine")
    for name in ("rdkit", "tblite", "numpy"):
        assert f"{name} " in anybody
    assert f"pytest {metadata.version('pytest')}" in programs.program_versions("pytest")


def test_every_engine_of_the_package_is_known():
    engines = {get(name).engine for name in names()}
    assert engines <= set(programs._PROGRAMS), engines - set(programs._PROGRAMS)


def test_geometry_key_is_of_structure_and_coordinates():
    mol, other = embed("CC(F)O"), embed("CC(F)O", seed=2)
    tagged = Chem.Mol(mol)
    tagged.SetProp("_Name", "a title")
    for atom in tagged.GetAtoms():
        atom.SetAtomMapNum(atom.GetIdx() + 1)
    moved = Chem.Mol(mol)
    x = moved.GetConformer().GetAtomPosition(0)
    moved.GetConformer().SetAtomPosition(0, Point3D(x.x + 1e-12, x.y, x.z))
    copy = Chem.Mol(mol.ToBinary(EXACT))
    triplet = Chem.Mol(mol)
    declare(triplet, 3)
    assert len({geometry_key(m) for m in (mol, tagged, copy)}) == 1
    assert len({graph_key(m) for m in (mol, tagged, copy, other, moved)}) == 1
    assert len({geometry_key(m) for m in (mol, other, moved, triplet)}) == 4


DIFFERENT = [
    ("CC", "CO"),
    ("CC", "C=C"),
    ("N", "[NH4+]"),
    ("[CH3]", "C"),
    ("C", "[13CH4]"),
    ("C[C@H](F)O", "C[C@@H](F)O"),
    ("C/C=C/C", "C/C=C\\C"),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_keys_of_different_molecules_differ(one, other):
    one, other = map(Chem.MolFromSmiles, (one, other))
    assert graph_key(one) != graph_key(other)
    assert geometry_key(one) != geometry_key(other)


def test_a_geometry_counts_in_the_order_of_its_atoms():
    """Values may depend on it, in the last digits; those of a graph do not."""
    one, other = map(Chem.MolFromSmiles, ("CCO", "OCC"))
    assert graph_key(one) == graph_key(other)
    assert geometry_key(one) != geometry_key(other)
