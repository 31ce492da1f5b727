"""Steering and merging around a core: it stays, whatever the flow learns."""

import json

import pytest
import torch

from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.models.around.core import Core
from molflowctl.models.around.flow import AroundFlow, GuidedAroundFlow
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.models.generation import Sampling, draws
from molflowctl.tasks.steering.finetune import finetune
from molflowctl.tasks.steering.merge import merge
from molflowctl.tasks.steering.settings import FinetuneConfig, MergeConfig

CORE = "[*:1]C1CC1"
SMALL = {
    "mirror_steps": 1, "n_samples": 64, "base_samples": 128, "test_samples": 64, "nfe": 12,
    "train_steps": 8, "batch": 32, "core": (CORE,),
}  # fmt: skip


def check_cores(flow: AroundFlow) -> None:
    """Every attempt has the core, bonded where it may be, valid or not."""
    core = Core.from_smiles(CORE)
    drawn = list(draws(flow, Sampling(nfe=12), seed=9, count=24))
    for attempt in drawn:
        assert tuple(attempt.graph.numbers[:3]) == core.numbers
        assert (attempt.graph.bonds[:3, :3] == core.bond_matrix()).all()
        assert not attempt.graph.bonds[1:3, 3:].any()


@pytest.mark.parametrize(
    ("solver", "kind"), [("reinforce", AroundFlow), ("guidance", GuidedAroundFlow)]
)
def test_a_steered_flow_keeps_its_core(tiny_flow, tmp_path, solver, kind) -> None:
    settings = {"flow": str(tiny_flow), "out": tmp_path / "out", "reward": "logp"}
    finetune(FinetuneConfig(**settings, **SMALL, solver=solver, value_steps=8))
    flow = Flow.load(tmp_path / "out")
    assert type(flow) is kind
    check_cores(flow)
    before = DeNovoFlow.load(tiny_flow).state_dict()
    if solver == "guidance":
        assert flow.value.network.out[-1].weight.any()  # zero at first
    else:
        assert any(not torch.equal(w, before[n]) for n, w in flow.flow.state_dict().items())
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["finetune"]["prior"]["valid"] > 0


@pytest.mark.parametrize("circuit", ["a & b", "a | b"])
def test_both_parts_of_a_merge_have_one_core(tiny_flow, tmp_path, circuit) -> None:
    other = DeNovoFlow.load(tiny_flow)
    with torch.no_grad():
        for part in other.parameters():
            part.mul_(1.01)
    other.save(tmp_path / "b")
    flows = {"a": str(tiny_flow), "b": str(tmp_path / "b")}
    more = {"matching_steps": 4, "ratio_times": 2, "mirror_nfe": 12}
    merge(MergeConfig(circuit=circuit, flows=flows, out=tmp_path / "out", **SMALL, **more))
    check_cores(Flow.load(tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"core": ("C(",)}, "no SMILES"),
        ({"core": ("CCBr",)}, "Br"),
        ({"utility": ("entropy:1",)}, "entropy around a core"),
        ({"core": None, "like": "CCO"}, "--like needs --replace"),
        ({"core": None, "like": "CCO", "keep": "C"}, "needs --replace"),
    ],
    ids=str,
)
def test_a_core_that_does_not_go_is_said_before_the_prior_is_drawn(
    tiny_flow, tmp_path, changes, words
) -> None:
    settings = {"flow": str(tiny_flow), "out": tmp_path / "out", "reward": "logp", **SMALL}
    with pytest.raises(UserError, match=words):
        finetune(FinetuneConfig(**settings | changes))
    assert not (tmp_path / "out").exists()


def test_sums_of_scores_are_merged_without_a_core(tiny_flow, tmp_path) -> None:
    settings = {"flows": {"a": str(tiny_flow), "b": str(tiny_flow)}, "out": tmp_path / "out"}
    with pytest.raises(UserError, match="generate --core"):
        merge(MergeConfig(circuit="a & b", **settings, **SMALL, solver="score-sum"))
