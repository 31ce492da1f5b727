"""More targets of `fuzz.py`: ensembles, surrogates, packed data sets and Parquet tables."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_targets import Folder, Library, Target, Wrong, mutated

__all__: list[str] = []


class Ensembles(Folder, name="ensembles"):
    files = ("card.json", "ensembles.safetensors", "smiles.txt.gz")

    def make(self) -> None:
        import torch

        from molflowctl.data.conformer_data import ConformerDataset
        from molflowctl.data.flat import pointer_of

        data = ConformerDataset(
            numbers=torch.tensor([6, 1, 1, 1, 1, 8, 1, 1], dtype=torch.uint8),
            atom_ptr=pointer_of(torch.tensor([5, 3])),
            positions=torch.arange(39.0).reshape(13, 3),
            conformer_ptr=pointer_of(torch.tensor([2, 1])),
            energies=torch.tensor([0.0, 1.0, 0.0]),
            weights=torch.tensor([0.75, 0.25, 1.0]),
            split=torch.tensor([0, 1], dtype=torch.uint8),
            source_index=torch.arange(2, dtype=torch.int32),
            smiles=["C", "O"],
            card={"hydrogens": "explicit", "name": "two"},
        )
        data.save(self.good)

    def load(self, folder: Path) -> Any:
        from dataclasses import fields

        from molflowctl.data.conformer_data import ConformerDataset

        data = ConformerDataset.load(folder)
        tensors = [getattr(data, f.name).tolist() for f in fields(data) if f.type == "Tensor"]
        return json.dumps([tensors, data.smiles, data.card.get("hydrogens")], sort_keys=True)

    def vouch(self, folder: Path) -> None:
        from molflowctl.data.card import sealed

        card = json.loads((folder / "card.json").read_bytes())
        for key, file in (("sha256", self.files[1]), ("smiles_sha256", self.files[2])):
            card[key] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        (folder / "card.json").write_text(json.dumps(sealed(card)))


class SurrogateFolder(Folder, name="surrogate"):
    files = ("card.json", "weights.safetensors")

    def make(self) -> None:
        from rdkit import Chem, rdBase

        from molflowctl.models.surrogate import train
        from molflowctl.properties.surrogate import (
            KIND,
            Counts,
            Surrogate,
            descriptor_names,
            features,
            network_inputs,
        )

        texts = ("CCO", "CCN", "CCC", "CCCO", "CCCN", "c1ccccc1", "CC(C)O", "CCOC")
        known = [features(Chem.MolFromSmiles(text)) for text in texts]
        counts, descriptors = (np.array(part) for part in zip(*known, strict=True))
        centre, scale = descriptors.mean(0), descriptors.std(0) + 1
        x = network_inputs(counts, descriptors, centre, scale)
        near = Counts.of(counts)
        arrays = {
            **train(x, np.arange(8.0), members=2, width=8, epochs=1),
            "centre": centre, "scale": scale, "starts": near.starts, "bits": near.bits,
            "values": near.values,
        }  # fmt: skip
        card = {
            "kind": KIND, "property": "logp", "unit": "", "threshold": 1.0, "test": {"mae": 0.5},
            "conformal": {"0.5": 1.0, "0.9": 2.0}, "descriptors": descriptor_names(),
            "versions": {"rdkit": rdBase.rdkitVersion},
        }  # fmt: skip
        surrogate = Surrogate(card, arrays)
        surrogate.card["digest"] = surrogate.digest
        self.good.mkdir(exist_ok=True)
        surrogate.save(self.good)

    def load(self, folder: Path) -> Any:
        from rdkit import Chem

        from molflowctl.properties.registry import PropertyError
        from molflowctl.properties.surrogate import Surrogate

        surrogate = Surrogate.load(folder)
        item = surrogate.as_property()
        try:
            said = surrogate.interval(Chem.MolFromSmiles("CCCCO"))
        except PropertyError as error:
            said = str(error)
        if not isinstance(said, str) and not np.isfinite(said).all():
            raise Wrong(f"a prediction that is no number: {said}")
        return json.dumps([item.name, item.unit, item.version, said])

    def vouch(self, folder: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        from molflowctl.properties.surrogate import card_digest

        try:
            arrays = load_file(folder / "weights.safetensors")
        except SafetensorError:
            raise ValueError("no arrays to vouch for") from None
        card = json.loads((folder / "card.json").read_bytes())
        card["digest"] = card_digest(card, arrays)
        (folder / "card.json").write_text(json.dumps(card))


class Packed(Target, name="packed"):
    """A packed data set: spoilt as a file, or inside its gzip."""

    words = (b"\0", b"\xff", b"[", b"{", b"1000000", b'"F64"', b'"shape":[0]', b"\x1f\x8b")

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        import torch

        from molflowctl.data.datasets import MoleculeDataset
        from molflowctl.data.flat import pointer_of
        from molflowctl.data.packed import pack

        data = MoleculeDataset(
            numbers=torch.tensor([6, 6, 8, 6, 7, 6], dtype=torch.uint8),
            charges=torch.zeros(6, dtype=torch.int8),
            positions=torch.arange(18.0).reshape(6, 3) / 8,
            atom_ptr=pointer_of(torch.tensor([3, 3])),
            bond_index=torch.tensor([[0, 1], [1, 2], [0, 1], [1, 2]], dtype=torch.int16),
            bond_order=torch.ones(4, dtype=torch.int8),
            bond_ptr=pointer_of(torch.tensor([2, 2])),
            split=torch.tensor([0, 1], dtype=torch.uint8),
            source_index=torch.arange(2, dtype=torch.int32),
            card={"hydrogens": "implicit", "name": "two"},
        )
        data.smiles = ["CCO", "CNC"]
        pack(data, place / "good.pack")
        self.samples = ((place / "good.pack").read_bytes(),)

    def spoil(self, rng: random.Random) -> bytes:
        if rng.random() < 0.4:
            return super().spoil(rng)
        inner = gzip.decompress(self.samples[0])
        for _ in range(rng.choice((1, 1, 3))):
            inner = mutated(inner, rng, self.words, (inner,))
        if rng.random() < 0.03:
            inner += bytes(300_000_000)  # a bomb
        return gzip.compress(inner, compresslevel=1)

    def run(self, content: bytes, rng: random.Random) -> None:
        from molflowctl.data.packed import unpack

        data = unpack(self.file(content, ".pack"))
        for row in range(len(data)):
            data.graph(row)
        if not bool(data.positions.isfinite().all()):
            raise Wrong("positions that are not finite")


class Parquet(Library, name="parquet"):
    suffix = ".parquet"
    words = (b"PAR1", b"\0", b"\xff", b"smiles", b"\x15\x04", b"\x7f\xff\xff\xff", b"{", b"SNAPPY")

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        import pandas

        frames = (
            {"smiles": ["CCO", "C1CC1", None], "name": ["a", "b", "c"], "qed": [0.4, 0.5, None]},
            {"SMILES": ["CCO"], "lists": [[1, 2]], "when": pandas.to_datetime(["2020-01-01"])},
        )
        files = []
        for frame in frames:
            file = io.BytesIO()
            pandas.DataFrame(frame).to_parquet(file)
            files.append(file.getvalue())
        self.samples = tuple(files)
