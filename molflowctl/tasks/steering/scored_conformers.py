"""Conformers of a flow with their energies, and molecules' lowest ones, as arrays to be kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from molflowctl.flows.state import AnyState, Ragged, State, batch_of
from molflowctl.tasks.steering.scored_molecules import cut, joined

__all__ = ["Judged", "References", "ScoredConformers"]


@dataclass(frozen=True)
class Judged:
    """What energies say of a state of molecules of one size.

    Attributes:
        values: rewards in kcal/mol, `(B,)`; slopes: their gradient, in the units of the state.
        above: energies over the molecules' references in kcal/mol, `(B,)`, NaN where there is none.
    """

    values: Tensor
    slopes: State
    above: np.ndarray


@dataclass(frozen=True)
class ScoredConformers:
    """Fresh conformers of a flow, a group for each size of molecules, and their energies.

    Arguments:
        x: data states on the CPU; judged: of each group.
        failed: conformers without an energy, of all that the run had asked about.
    """

    x: Ragged
    judged: Sequence[Judged]
    failed: int

    noun: ClassVar[str] = "conformers"

    def __len__(self) -> int:
        return len(self.x)

    def arrays(self) -> dict[str, np.ndarray]:
        """All that there is to know, one conformer after another; see `of_arrays`."""
        groups = [_conditioned(group) for group in self.x.groups]
        places = [group["positions"].numpy() for group, _ in groups]
        slopes = [one.slopes["positions"].numpy() for one in self.judged]
        return {
            "shapes": np.array([place.shape[:2] for place in places], np.int64),
            "molecules": joined([given for _, given in groups]),
            "positions": joined([place.ravel() for place in places]),
            "values": joined([one.values.numpy() for one in self.judged]),
            "slopes": joined([slope.ravel() for slope in slopes]),
            "above": joined([one.above for one in self.judged]),
            "failed": np.array([self.failed]),
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """The same conformers and energies again, equal bit by bit.

        Raises:
            ValueError: if the arrays do not fit together.
            KeyError: if one is missing.
        """
        shapes = [(int(batch), int(atoms)) for batch, atoms in arrays["shapes"]]
        counts = [batch for batch, _ in shapes]
        given, values, above = (cut(arrays[k], counts) for k in ("molecules", "values", "above"))
        sizes = [3 * batch * atoms for batch, atoms in shapes]
        places, slopes = (cut(arrays[k], sizes) for k in ("positions", "slopes"))
        groups, judged = [], []
        for row, (batch, atoms) in enumerate(shapes):
            number = torch.from_numpy(given[row].copy())

            def state(flat: np.ndarray, number=number, shape=(batch, atoms, 3)) -> State:
                return State(number, positions=torch.from_numpy(flat.reshape(shape).copy()))

            groups.append(state(places[row]))
            found = torch.from_numpy(values[row].copy())
            judged.append(Judged(found, state(slopes[row]), above[row]))
        return cls(Ragged(groups), judged, int(arrays["failed"][0]))


@dataclass(frozen=True)
class References:
    """The lowest energies known of molecules.

    Attributes:
        lowest: in kcal/mol, `(M,)`, NaN where there is none.
        reasons: why there is none, by SMILES.
    """

    lowest: np.ndarray
    reasons: dict[str, str]

    noun: ClassVar[str] = "molecules"

    def __len__(self) -> int:
        return len(self.lowest)

    def arrays(self) -> dict[str, np.ndarray]:
        """The energies, and the reasons as text of JSON."""
        reasons = json.dumps(self.reasons).encode()
        return {"lowest": self.lowest, "reasons": np.frombuffer(reasons, np.uint8)}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """The same again. Raises `ValueError` or `KeyError` where the arrays are others."""
        lowest, reasons = arrays["lowest"], json.loads(arrays["reasons"].tobytes().decode())
        if lowest.ndim != 1 or not isinstance(reasons, dict):
            raise ValueError("arrays of other things")
        return cls(lowest, reasons)


def _conditioned(group: AnyState) -> tuple[State, np.ndarray]:
    """A group and the numbers of its molecules."""
    if not isinstance(group, State) or group.given is None:
        raise ValueError(f"{batch_of(group)} conformers do not say of which molecules they are")
    return group, group.given.numpy()
