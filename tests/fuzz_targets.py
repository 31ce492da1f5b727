"""What `fuzz.py` tries: inputs of each kind, how they are spoilt, and what may come of them.

A target is a class with `samples`, good inputs as bytes, `words` of its language, and `run`, which
reads an input. `run` may return, or raise `UserError`; it raises `Wrong` where what was spoilt
passed for good, and anything else that it raises is a fault of the package.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np


class Wrong(Exception):
    """What was spoilt passed for good, or what is good did not come out whole."""


TARGETS: dict[str, type[Target]] = {}
PLANTED: dict[str, type[Target]] = {}  # faults that the command must see: its own test


class Target:
    """One kind of input; a file of it lies in `self.place`."""

    suffix = ".txt"
    words: tuple[bytes, ...] = (b"-", b"0", b"\n")
    samples: tuple[bytes, ...] = (b"",)

    def __init_subclass__(cls, name: str, planted: bool = False) -> None:
        (PLANTED if planted else TARGETS)[name] = cls

    def __init__(self, place: Path) -> None:
        self.place = place

    def spoil(self, rng: random.Random) -> bytes:
        """An input, made of the samples."""
        content = rng.choice(self.samples)
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 8))):
            content = mutated(content, rng, self.words, self.samples)
        return content

    def run(self, content: bytes, rng: random.Random) -> None:
        raise NotImplementedError

    def file(self, content: bytes, suffix: str | None = None) -> Path:
        path = self.place / f"input{self.suffix if suffix is None else suffix}"
        path.write_bytes(content)
        return path


def mutated(
    content: bytes, rng: random.Random, words: tuple[bytes, ...], samples: tuple[bytes, ...]
) -> bytes:
    """One change of a few bytes, a span, a line, or the length."""
    place, end = rng.randrange(len(content) + 1), rng.randrange(len(content) + 1)
    place, end = min(place, end), max(place, end)
    short = min(end, place + rng.choice((1, 4, 40)))
    lines = content.splitlines(keepends=True)
    line = rng.randrange(len(lines)) if lines else 0
    change = rng.randrange(11)
    if change == 0 and content:
        place = min(place, len(content) - 1)
        flipped = content[place] ^ 1 << rng.randrange(8)
        return content[:place] + bytes([flipped]) + content[place + 1 :]
    if change == 1:
        return content[:place] + content[short:]
    if change == 2:
        return content[:place]
    if change == 3:
        return content[:place] + rng.randbytes(rng.choice((1, 3, 30))) + content[place:]
    if change == 4:
        return content[:place] + rng.choice(words) + content[place:]
    if change == 5:
        return content[:place] + rng.choice(words) + content[short:]
    if change == 6:
        return content[:place] + content[place:short] * rng.choice((2, 50, 5000)) + content[short:]
    if change == 7:
        return content[:place] + rng.choice(words) * rng.choice((2, 500, 20_000)) + content[place:]
    if change == 8:
        other = rng.choice(samples)
        return content[:place] + other[rng.randrange(len(other) + 1) :]
    if change == 9 and lines:
        lines.insert(rng.randrange(len(lines) + 1), lines[line])
        return b"".join(lines)
    if lines:
        del lines[line]
    return b"".join(lines)


# Libraries ----------------------------------------------------------------------------------------

_SMILES = (
    b"CCO ethanol\nc1ccccc1O phenol\nC[C@H](N)C(=O)O alanine\n",
    b"CC(=O)[O-].[Na+] salt\nF/C=C/F\n[13CH4] heavy\n",
    b"smiles name\nC1CC1 a\n",
)


def _sdf() -> bytes:
    from rdkit import Chem
    from rdkit.Chem import AllChem

    from molflowctl.io.library import sdf_record

    text = ""
    for number, smiles in enumerate(("CCO", "C[C@H](N)C(=O)O", "c1ccccc1")):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        AllChem.EmbedMolecule(mol, randomSeed=1)
        text += sdf_record(mol, f"mol-{number}", {"qed": 0.5, "note": "a\nb"})
    return text.encode()


class Library(Target, name="smiles"):
    suffix = ".smi"
    samples = _SMILES
    words = (
        b"[CH200]", b"C[#200]C", b"%99", b"((((", b"[", b"]", b"|&1:1|", b"\0", b"\xff", b"\r",
        b"\x1b[2J",
        b"=cmd", b"[NOT C]", b"*", b"C" * 2000, b"@@", b"[999999999999CH4]", b"\t", b" ",
        b"\xef\xbb\xbf",
    )  # fmt: skip

    def run(self, content: bytes, rng: random.Random) -> None:
        from rdkit import Chem

        from molflowctl.io.library import read_molecules

        suffix = self.suffix
        if rng.random() < 0.1:
            content, suffix = gzip.compress(content), suffix + ".gz"
            if rng.random() < 0.5:
                content = mutated(content, rng, self.words, (content,))
        for record in read_molecules(str(self.file(content, suffix))):
            if (record.mol is None) == (record.error == ""):
                raise Wrong(f"neither a molecule nor a reason: {record.name!r}")
            if record.mol is not None:
                Chem.SanitizeMol(Chem.Mol(record.mol))


class Table(Library, name="csv"):
    suffix = ".csv"
    samples = (
        b"smiles,name,qed\nCCO,a,0.4\nC1CC1,b,0.5\n",
        b'SMILES;id\n"CCO";1\n',
        b"\xef\xbb\xbfcanonical_smiles,name\nCCO,x\n",
    )
    words = (b",", b'"', b";", b"\t", b"smiles", b"name", b"\0", b"\xff", b"\r\n", b"=1+1", b"nan")


class Structures(Library, name="sdf"):
    suffix = ".sdf"
    words = (
        b"$$$$", b"M  END", b"M  RAD", b"M  CHG  1   1   9", b"V3000", b"V2000", b"999", b"-1",
        b"nan",
        b"> <ID>", b"> <qed>", b"R#", b"\0", b"\xff", b"\r", b"1e308", b"\n\n\n", b"  0  0  0",
    )  # fmt: skip

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.samples = (_sdf(),)


# Settings, circuits, rewards ----------------------------------------------------------------------

_HOSTILE = (
    b"2026-13-45", b"!!python/object/apply:os.system [ls]", b"!!int x", b"!!timestamp x",
    b"&a [*a]",
    b"*a", b"&a", b"[", b"{", b"]", b"}", b": ", b"- ", b".inf", b".nan", b"null", b"1" * 5000,
    b"0x" + b"f" * 3000,
    b"<<: x", b"!", b"|", b">", b"'", b'"', b"\t", b"\0", b"\xff", b"\xc2\x85", b"? ", b"#",
    b"1e999", b"---\n",
)  # fmt: skip


class Settings(Target, name="yaml"):
    samples = (
        b"flow: qm9\nreward: qed\nout: tuned\nutility: [mean]\nkl_weight: 1\nmirror_steps: 8\n"
        b"lr: 5e-4\nsolver: reinforce\nmodalities: []\n",
        b"name: qm9\ntrain_steps: 100\nnetwork:\n  width: 192\n  depth: 6\nema: 0.9\n",
        b"circuit: a & b\nout: both\nflows:\n  a: qm9\n  b: mine\nweights: [1, 3]\n",
    )
    words = _HOSTILE

    def run(self, content: bytes, rng: random.Random) -> None:
        from molflowctl.tasks.steering.settings import FinetuneConfig, MergeConfig
        from molflowctl.tasks.training.settings import TrainConfig

        kind = rng.choice((FinetuneConfig, MergeConfig, TrainConfig))
        config = kind.read(self.file(content, ".yaml"))
        config.dump(self.place / "dumped.yaml")
        if kind.read(self.place / "dumped.yaml") != config:
            raise Wrong("the settings do not come back as they were written")


class Change(Target, name="set"):
    samples = (b"lr=1e-3", b"network.depth=3", b"name=mine", b"minutes=null", b"train_steps=10")
    words = (*_HOSTILE, b"=", b".", b"network.")

    def run(self, content: bytes, rng: random.Random) -> None:
        from molflowctl.tasks.training.settings import TrainConfig

        TrainConfig.parse({"train_steps": 1}, [content.decode("latin-1")])


class Circuit(Target, name="circuit"):
    samples = (b"a & b", b"(a | b) - c", b"a & b & c | (a - b)")
    words = (
        b"a",
        b"&",
        b"|",
        b"-",
        b"(",
        b")",
        b"~",
        b"()",
        b"a.b",
        b"lambda:",
        b"1",
        b"\0",
        b" & a",
        b"-a",
    )

    def run(self, content: bytes, rng: random.Random) -> None:
        from molflowctl.control.operators import parse
        from molflowctl.flows.mixture import MixtureFlow
        from molflowctl.tasks.steering.circuit import places
        from molflowctl.tasks.steering.settings import MergeConfig

        text = content.decode("latin-1")
        flows = {name: MixtureFlow([1.0], [[0.0, 0.0]], [1.0]) for name in "abc"}
        parse(text, flows)
        places(MergeConfig.parse({"circuit": text, "out": "x"}))


class Reward(Target, name="reward"):
    samples = (
        b"qed", b"-xtb_energy_hartree", b"sigmoid(qed, 0.6, 0.1)", b"smarts:[#7]",
        b'where(largest_ring > 6, -1, 0) + smarts("C=O") * 2', b"qed > 0.7 and not logp < 3",
        b"geometric_mean(sigmoid(qed, 0.6, 0.1), range(logp, 1, 3, 1), weights=[2, 1])",
        b"{product: [{property: qed, transform: step, threshold: 0.5}, 'ramp(logp, 0, 3)']}",
    )  # fmt: skip
    words = (
        b"(", b")", b",", b"product(", b"9" * 4000, b"0x" + b"f" * 4000, b"1j", b"...", b"nan",
        b"inf", b"1e999",
        b"-", b"qed", b"step(qed,", b"weights=", b"[", b"]", b"**{}", b"*a", b"\0", b"f'{1}'",
        b"b''", b"None", b"and", b"not ", b"<", b"**", b'"', b"where(", b"ligand_efficiency(",
    )  # fmt: skip

    def run(self, content: bytes, rng: random.Random) -> None:
        from molflowctl.io.yaml_input import read_value
        from molflowctl.properties.rewards import parse_reward

        text = content.decode("latin-1")
        spec = read_value(text, "reward") if text.startswith("{") else text
        found = parse_reward(spec)
        columns = {name: np.array([0.5]) for name in ("qed", "logp", "xtb_energy_hartree")}
        if set(found.properties) <= set(columns):
            found.of(columns)
            if str(parse_reward(str(found))) != str(found):
                raise Wrong(f"{found} does not come back as it was written")


# Folders ------------------------------------------------------------------------------------------


class Folder(Target, name="folder", planted=True):
    """A folder with one file spoilt; in half of the cases its card vouches for what it holds."""

    files: tuple[str, ...] = ()
    words = (
        b"{",
        b"}",
        b"[",
        b'"',
        b"Infinity",
        b"NaN",
        b"1e999",
        b"9" * 5000,
        b"-1",
        b"0",
        b"null",
        b"\0",
        b"1000000",
    )

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.good = Path(tempfile.mkdtemp(dir=place)) / "good"
        self.make()
        self.original = {name: (self.good / name).read_bytes() for name in self.files}
        self.loaded = self.load(self.good)

    def make(self) -> None:
        raise NotImplementedError

    def load(self, folder: Path) -> Any:
        """What is read; something comparable."""
        raise NotImplementedError

    def vouch(self, folder: Path) -> None:
        """Let the card confirm the files as they are."""
        raise NotImplementedError

    def spoil(self, rng: random.Random) -> bytes:
        name = rng.choice(self.files)
        content = self.original[name]
        if name == "card.json" and rng.random() < 0.6:
            content = json.dumps(_edited(json.loads(content), rng)).encode()
        for _ in range(rng.choice((0, 1, 1, 2)) if name == "card.json" else rng.choice((1, 1, 3))):
            content = mutated(content, rng, self.words, tuple(self.original.values()))
        return name.encode() + b"\n" + content

    def run(self, content: bytes, rng: random.Random) -> None:
        name, _, content = content.partition(b"\n")
        folder = self.place / "spoilt"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.good, folder)
        (folder / name.decode()).write_bytes(content)
        vouched = False
        if rng.random() < 0.5:
            try:
                self.vouch(folder)
                vouched = True
            except (ValueError, TypeError, RecursionError, AttributeError):
                vouched = False  # there is no card to vouch for
        found = self.load(folder)
        if not vouched and found != self.loaded:
            raise Wrong(f"{name.decode()} was spoilt, and something else was read of it")


def _edited(card: Any, rng: random.Random) -> Any:
    """A JSON value with one of its parts exchanged."""
    strange: tuple[Any, ...] = (
        0, -1, 1, 1.5, 10**6, 10**12, 10**400, 1e308, True, None, "", "x", [], {}, [[]],
        {"a": {}}, "\0", [1] * 1000,
    )  # fmt: skip
    path, node = [], card
    while isinstance(node, dict | list) and node and (not path or rng.random() < 0.75):
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        path.append((node, key))
        node = node[key]
    parent, key = path[-1]
    if rng.random() < 0.15:
        del parent[key]
    else:
        parent[key] = rng.choice(strange)
    return card


SMALL = {"width": 16, "pair_width": 8, "heads": 2, "vectors": 4, "depth": 1, "radial": 4}


class FlowFolder(Folder, name="flow"):
    files = ("card.json", "weights.safetensors")

    def make(self) -> None:
        import torch

        from molflowctl.models.denovo import DeNovoFlow

        torch.manual_seed(0)
        flow = DeNovoFlow([6, 7, 8], [-1, 0, 1], {"4": 2, "5": 3}, network=SMALL)
        flow.save(self.good, {"sampling": {"churn": 2.0}, "data": {"name": "qm9"}})

    def load(self, folder: Path) -> Any:
        import torch

        from molflowctl.flows.flow import Flow
        from molflowctl.models import zoo  # noqa: F401, which makes the kinds known

        flow = Flow.load(folder)
        state = flow.state_dict()
        if not all(bool(torch.isfinite(t).all()) for t in state.values()):
            raise Wrong("weights that are not finite")
        digest = hashlib.sha256(b"".join(t.numpy().tobytes() for t in state.values())).hexdigest()
        return json.dumps(flow.arguments, sort_keys=True), flow.card.get("sampling"), digest

    def vouch(self, folder: Path) -> None:
        from molflowctl.flows.card import sealed

        card = json.loads((folder / "card.json").read_bytes())
        digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
        (folder / "card.json").write_text(json.dumps(sealed(card | {"weights_sha256": digest})))


class DataFolder(Folder, name="data"):
    files = ("card.json", "molecules.safetensors", "smiles.txt.gz")

    def make(self) -> None:
        import torch

        from molflowctl.data.datasets import MoleculeDataset
        from molflowctl.data.flat import pointer_of

        data = MoleculeDataset(
            numbers=torch.tensor([6, 6, 8, 6, 7, 6], dtype=torch.uint8),
            charges=torch.zeros(6, dtype=torch.int8),
            positions=torch.arange(18.0).reshape(6, 3),
            atom_ptr=pointer_of(torch.tensor([3, 3])),
            bond_index=torch.tensor([[0, 1], [1, 2], [0, 1], [1, 2]], dtype=torch.int16),
            bond_order=torch.ones(4, dtype=torch.int8),
            bond_ptr=pointer_of(torch.tensor([2, 2])),
            split=torch.tensor([0, 1], dtype=torch.uint8),
            source_index=torch.arange(2, dtype=torch.int32),
            card={"hydrogens": "implicit", "name": "two"},
        )
        data.smiles = ["CCO", "CNC"]
        data.save(self.good)

    def load(self, folder: Path) -> Any:
        from molflowctl.data.datasets import MoleculeDataset

        data = MoleculeDataset.load(folder)
        for row in range(len(data)):
            data.graph(row)
        tensors = {name: tensor.tolist() for name, tensor in data.tensors().items()}
        return json.dumps([tensors, data.smiles, data.card.get("hydrogens")], sort_keys=True)

    def vouch(self, folder: Path) -> None:
        from molflowctl.data.card import sealed

        card = json.loads((folder / "card.json").read_bytes())
        for key, file in (("sha256", self.files[1]), ("smiles_sha256", self.files[2])):
            card[key] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        (folder / "card.json").write_text(json.dumps(sealed(card)))


class CacheFile(Target, name="cache"):
    """A cache may forget what it knew; it must not say anything else."""

    values: ClassVar = {f"{n:064x}": float(n) / 7 for n in range(200)}

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        from molflowctl.properties.cache import Cache

        path = place / "good.sqlite"
        with Cache(path) as cache:
            for key, value in self.values.items():
                cache.put(bytes.fromhex(key), "qed", 1, np.array([value]))
        import sqlite3

        with sqlite3.connect(path) as file:
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.samples = (path.read_bytes(),)

    def run(self, content: bytes, rng: random.Random) -> None:
        from molflowctl.properties.cache import Cache

        for rest in self.place.glob("input.sqlite*"):
            rest.unlink()
        with Cache(self.file(content, ".sqlite")) as cache:
            for key, value in self.values.items():
                found = cache.get(bytes.fromhex(key), "qed", 1)
                if found is not None and (isinstance(found, str) or found.tolist() != [value]):
                    raise Wrong(f"the cache says {found!r}, not {value}")


# Planted faults -----------------------------------------------------------------------------------


def _plant(name: str, fault: Callable[[], object]) -> None:
    class Planted(Target, name=name, planted=True):
        def run(self, content: bytes, rng: random.Random) -> None:
            fault()


def _hang() -> None:
    while True:
        pass


def _raise(error: Exception) -> None:
    raise error


def _crash() -> None:
    import os

    os.abort()


_plant("traceback", lambda: _raise(KeyError("planted")))
_plant("hang", _hang)
_plant("memory", lambda: bytearray(2 * 10**9))
_plant("crash", _crash)
_plant("wrong", lambda: _raise(Wrong("planted")))
