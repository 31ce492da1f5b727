"""The flows that ship with the package; importing this makes them known by name."""

from __future__ import annotations

from pathlib import Path

from molflowctl.flows.flow import Flow, flow_names
from molflowctl.models.around.flow import AroundFlow
from molflowctl.models.conformer import ConformerFlow
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.models.feynman_kac import FeynmanKacFlow
from molflowctl.models.gated import GatedFlow
from molflowctl.models.guided import GuidedFlow
from molflowctl.models.score_sum import ScoreSumFlow

__all__ = [
    "AroundFlow",
    "ConformerFlow",
    "DeNovoFlow",
    "FeynmanKacFlow",
    "Flow",
    "GatedFlow",
    "GuidedFlow",
    "ScoreSumFlow",
    "flow_names",
]

Flow.shelves.append(Path(__file__).parent / "weights")
