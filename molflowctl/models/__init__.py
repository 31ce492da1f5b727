"""Networks, the flows built on them, and the flows that ship with the package."""

from molflowctl.models.zoo import DeNovoFlow, Flow, flow_names

__all__ = ["DeNovoFlow", "Flow", "flow_names"]
