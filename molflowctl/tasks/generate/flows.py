"""The flow that molecules are drawn from: loaded, what it was trained on, the sizes asked of it."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from molflowctl.data.known import load_hashes
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.models.molecule_flow import MoleculeFlow
from molflowctl.models.network import in_precision

__all__ = [
    "load_as",
    "load_flow",
    "parse_atoms",
    "training_hashes",
]

F = TypeVar("F", bound=Flow)
MOST_ATOMS = 1000  # that a molecule may be asked to have


def load_flow(name: str, device: str = "auto", precision: str = "float32") -> MoleculeFlow:
    """A flow of whole molecules, see `load_as`, its products in a `Precision`."""
    return in_precision(load_as(MoleculeFlow, name, device), precision)


def load_as(kind: type[F], name: str, device: str = "auto") -> F:
    """A flow of a kind by name or folder, on the wanted device.

    Raises:
        UserError: for an unknown flow, or a device that is not there.
    """
    import torch

    flow = kind.from_pretrained(name)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return flow.to(torch.device(device)).eval()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None


def training_hashes(flow: MoleculeFlow) -> tuple[str, np.ndarray] | None:
    """What a flow was trained on: the data set's name and hashes of its molecules, if these ship.

    A part of a data set (`data subset`) counts as the whole.
    """
    data = flow.card.get("data", {})
    for name in filter(None, (data.get("name"), data.get("parent", {}).get("name"))):
        name = name.removesuffix("-explicit")
        try:
            return name, load_hashes(name)
        except UserError:  # nothing of that name
            continue
    return None


def parse_atoms(text: str | None) -> range | None:
    """`7-9` or `8` as a range of sizes.

    Raises:
        UserError: for anything else.
    """
    if text is None:
        return None
    low, dash, high = text.partition("-")
    ends = [end.strip() for end in (low, high if dash else low)]
    if not all(end.isascii() and end.isdigit() for end in ends):
        raise UserError(f"--atoms takes a number or a range such as 7-9, got {text!r}.")
    first, last = (int(end[:20]) for end in ends)
    if not 0 < first <= last:
        raise UserError(f"--atoms {text} is empty: give the smaller number first, 1 or more.")
    if last > MOST_ATOMS:
        raise UserError(f"--atoms {text[:80]}: at most {MOST_ATOMS:,} atoms.")
    return range(first, last + 1)
