"""Conformers per second beside the network of the `etflow` package, at equal steps.

    python benchmarks/conformers/speed_peer.py -o benchmarks/conformers/speed_peer.json

A peer in speed alone: ET-Flow's network at the size published for GEOM-QM9 (20 layers of width 160,
8 heads; the package's own configuration of `qm9-o3`), with random weights, moved by as many Euler
steps as `qm9-conformers` takes of its own sampler. Both place the conformers of the same molecules,
all atoms, in batches of one size and with one thread, a batch of the one after the same batch of
the other, so that what else the machine does hurts both alike. ET-Flow gets the complete graph,
which is what its extended bond graph comes to within its cutoff of 10 angstrom on molecules of
QM9's size; building graphs and reading molecules is in neither time.

The wheel is fetched by pip, without what it depends on, and only its network is imported. That
imports `radius_graph` from torch-cluster, which is not called where edges are given; where
torch-cluster is not installed an empty module stands in for it.

References:
    Hassan et al., ET-Flow, 2024, arXiv 2410.22388.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rdkit import Chem

from molflowctl.io.library import read_molecules
from molflowctl.models.conformer import ConformerFlow, draw_positions
from molflowctl.models.conformer_graph import Graphs

REFERENCES = Path(__file__).parents[2] / "data" / "qm9-references.sdf.gz"
PEER = "etflow==0.1.2"
PUBLISHED = {
    "hidden_channels": 160, "num_layers": 20, "num_rbf": 64, "rbf_type": "expnorm",
    "trainable_rbf": True, "activation": "silu", "neighbor_embedding": True, "cutoff_lower": 0.0,
    "cutoff_upper": 10.0, "max_z": 100, "node_attr_dim": 10, "edge_attr_dim": 1,
    "attn_activation": "silu", "num_heads": 8, "distance_influence": "both", "reduce_op": "sum",
    "qk_norm": True, "output_layer_norm": True, "clip_during_norm": True, "so3_equivariant": False,
}  # fmt: skip


def peer_network(folder: Path) -> torch.nn.Module:
    """ET-Flow's network with random weights, from a wheel unpacked into `folder`."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-qq",
        "--no-deps",
        "--target",
        str(folder),
        PEER,
    ]
    subprocess.run(pip, check=True)
    package: Any = types.ModuleType("etflow")  # whose own __init__ asks for much more
    package.__path__ = [str(folder / "etflow")]
    sys.modules["etflow"] = package
    importlib.import_module("torch_geometric")  # which looks for torch-cluster by itself
    if importlib.util.find_spec("torch_cluster") is None:
        absent: Any = types.ModuleType("torch_cluster")
        absent.radius_graph = None
        sys.modules["torch_cluster"] = absent
    torch.manual_seed(0)
    module = importlib.import_module("etflow.networks.torchmd_net")
    return module.TorchMDDynamics(**PUBLISHED).eval()


@torch.no_grad()
def peer_conformers(network: torch.nn.Module, mols: list[Chem.Mol], steps: int) -> torch.Tensor:
    """Positions `(B, N, 3)` after `steps` Euler steps of the peer's velocity."""
    count, n = len(mols), mols[0].GetNumAtoms()
    numbers = torch.tensor([[a.GetAtomicNum() for a in mol.GetAtoms()] for mol in mols]).flatten()
    one = torch.cartesian_prod(torch.arange(n), torch.arange(n))
    one = one[one[:, 0] != one[:, 1]].T
    edges = torch.cat([one + n * k for k in range(count)], 1)
    batch = torch.arange(count).repeat_interleave(n)
    nodes, kinds = torch.zeros(count * n, 10), torch.ones(edges.shape[1], 1)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count * n, 3, generator=generator)
    for k in range(steps):
        t = torch.full((count * n, 1), k / steps)
        x = x + network(numbers, t, x, edges, batch, edge_attr=kinds, node_attr=nodes) / steps
    return x.view(count, n, 3)


def batches(mols: list[Chem.Mol], most: int) -> list[list[Chem.Mol]]:
    """Molecules of one size, at most so many together."""
    sizes: dict[int, list[Chem.Mol]] = {}
    for mol in mols:
        sizes.setdefault(mol.GetNumAtoms(), []).append(mol)
    return [same[k : k + most] for same in sizes.values() for k in range(0, len(same), most)]


def main(
    reference: Annotated[Path, typer.Option(help="SDF of molecules to place.")] = REFERENCES,
    model: Annotated[str, typer.Option(help="A conformer flow.")] = "qm9-conformers",
    n: Annotated[int, typer.Option("-n", min=1, help="Conformers to place.")] = 256,
    steps: Annotated[int, typer.Option(min=1, help="Evaluations of either network.")] = 25,
    batch: Annotated[int, typer.Option(min=1, help="Conformers at once.")] = 64,
    out: Annotated[Path | None, typer.Option("-o", help="JSON of the figures.")] = None,
) -> None:
    """Time both networks on the same molecules."""
    torch.set_num_threads(1)
    mols = [r.mol for r in read_molecules(reference) if r.mol is not None][:n]
    flow = ConformerFlow.from_pretrained(model)
    with tempfile.TemporaryDirectory() as folder:
        peer = peer_network(Path(folder))
        own, theirs = [], []
        for k, some in enumerate(batches(mols, batch)):
            graphs = Graphs.stack([Graphs.of(mol) for mol in some])
            seconds = []
            for repeat in range(2):  # the first of all calls warms up
                began = time.perf_counter()
                draw_positions(flow, graphs, range(len(some)), seed=repeat, steps=steps)
                middle = time.perf_counter()
                peer_conformers(peer, some, steps)
                seconds.append((middle - began, time.perf_counter() - middle))
            fastest = [min(column) for column in zip(*seconds, strict=True)]
            own.append(fastest[0])
            theirs.append(fastest[1])
            print(
                f"batch {k + 1}: {len(some)} of {some[0].GetNumAtoms()} atoms, "
                f"{fastest[0]:.2f} s, peer {fastest[1]:.2f} s",
                file=sys.stderr,
            )
    found = {
        "molecules": len(mols),
        "steps": steps,
        "batch": batch,
        "threads": 1,
        "flow": model,
        "parameters": sum(p.numel() for p in flow.parameters()),
        "per_second": len(mols) / sum(own),
        "peer": PEER,
        "peer_parameters": sum(p.numel() for p in peer.parameters()),
        "peer_per_second": len(mols) / sum(theirs),
        "ratio": sum(theirs) / sum(own),
        "median_ratio_of_batches": statistics.median(
            b / a for a, b in zip(own, theirs, strict=True)
        ),
    }
    found = {k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()}
    print(json.dumps(found, indent=2))
    if out is not None:
        out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
