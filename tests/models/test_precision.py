"""bf16 rounds the products of a network and nothing else: it has eight bits."""

import pytest
import torch

from molflowctl.compute.precision import wants_bf16
from molflowctl.flows.flow import Flow
from molflowctl.flows.noise import BatchNoise
from molflowctl.models import zoo  # noqa: F401  so that names are known
from molflowctl.models.molecule_flow import MoleculeFlow
from molflowctl.models.network import EquivariantTrunk, in_precision

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["qm9", "druglike"])
def flow(request) -> Flow:
    return MoleculeFlow.from_pretrained(request.param)


def test_float32_is_the_flow_itself(flow):
    assert in_precision(flow, "float32") is flow


@torch.no_grad()
def test_an_endpoint_is_that_of_float32_roughly(flow):
    rounded = in_precision(flow, "bf16")
    x = flow.prior(32, 9 if "qm9" in flow.card["name"] else 22, BatchNoise(0))
    gaps = []
    for t in torch.linspace(0, 0.95, 4):
        t = t.expand(32)
        exact, near = flow.endpoint(x, t), rounded.endpoint(x, t)
        for name, part in exact.items():
            assert near[name].dtype == torch.float32
            gap = (near[name] - part).square().mean().sqrt()
            gaps.append(gap / part.square().mean().sqrt())
    assert 0 < max(gaps) < 0.1


def test_the_flow_that_was_given_stays_in_float32(flow):
    rounded = in_precision(flow, "bf16")
    trunks = [m for m in flow.modules() if isinstance(m, EquivariantTrunk)]
    assert trunks
    assert not any(trunk.bf16 for trunk in trunks)
    assert in_precision(rounded, "bf16") is rounded
    assert in_precision(rounded, "float32") is not rounded


def test_auto_is_bf16_where_that_is_fast(monkeypatch):
    for fast in (True, False):
        monkeypatch.setattr(
            "molflowctl.compute.precision.has_fast_bf16", lambda device, fast=fast: fast
        )
        assert wants_bf16("auto", CPU) is fast
        assert wants_bf16("bf16", CPU)
        assert not wants_bf16("float32", CPU)


def test_gradients_are_those_of_float32_to_some_digits(flow):
    """Steering learns through bf16 products; the weights and their gradients are float32."""
    rounded = in_precision(flow, "bf16")
    x, t = flow.prior(16, 9, BatchNoise(0)), torch.full((16,), 0.5)
    gradients = []
    for one in (flow, rounded):
        one.zero_grad()
        one.endpoint(x, t)["positions"].square().mean().backward()
        gradients.append(
            torch.cat([p.grad.flatten() for p in one.parameters() if p.grad is not None])
        )
    exact, near = gradients
    assert near.dtype == torch.float32
    assert torch.cosine_similarity(exact, near, 0) > 0.99
