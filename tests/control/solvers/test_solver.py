"""A tilt: what may start where."""

import pytest
import torch

from molflowctl.control.composition import Gate, ScoreSum
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.solvers.solver import Tilt, compatible
from molflowctl.errors import UserError
from molflowctl.flows.mixture import MixtureFlow

LINE = MixtureFlow([1.0], [[0.0]], [1.0])
SPECS = {
    "states": {"weights": [1.0], "means": [[0.0, 0.0]], "sds": [1.0]},
    "path": {"weights": [1.0], "means": [[0.0]], "sds": [1.0], "path": "cosine"},
    "noise covariance": {
        "weights": [1.0], "means": [[0.0]], "sds": [1.0], "covariance": [[2.0]],
    },
}  # fmt: skip
NOTHING = Reward(lambda x: x[:, 0])


@pytest.mark.parametrize("difference", SPECS)
def test_flows_that_differ_are_told_apart(difference):
    other = MixtureFlow(**SPECS[difference])
    for first, second in ((LINE, other), (other, LINE)):
        with pytest.raises(
            UserError, match=f"do not go together: they differ in their {difference}"
        ):
            compatible(first, second)
        with pytest.raises(UserError, match=f"differ in their {difference}"):
            Tilt(first, NOTHING, second)
    compatible(other, MixtureFlow(**SPECS[difference]))


def test_the_last_of_many_is_looked_at_too():
    with pytest.raises(UserError, match="path"):
        compatible(LINE, LINE, MixtureFlow(**SPECS["path"]))


@pytest.mark.parametrize("kind", [ScoreSum, Gate])
def test_a_flow_made_of_flows_goes_with_its_parts(kind):
    whole = kind([LINE, LINE], [1.0, 1.0])
    compatible(LINE, whole)
    compatible(whole, LINE)
    with pytest.raises(UserError, match="path"):
        compatible(whole, MixtureFlow(**SPECS["path"]))


def test_a_tilt_starts_at_its_base_unless_told():
    near = LINE.trainable(4, 1)
    assert Tilt(LINE, NOTHING).flow is LINE
    assert Tilt(LINE, NOTHING, near).flow is near
    assert torch.equal(Tilt(LINE, NOTHING).reward.value(torch.ones(1, 1)), torch.ones(1))
