"""A budget of oracle calls: shared out, never passed, the best flow that was judged at its end."""

import json

import pytest
import torch

from molflowctl.errors import UserError
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.properties.rewards import parse_reward
from molflowctl.tasks import oracle_calls
from molflowctl.tasks.oracle_calls import OracleClock, Purse, Spent, answers
from molflowctl.tasks.steering.finetune import finetune
from molflowctl.tasks.steering.run_folder import Hooks
from molflowctl.tasks.steering.settings import FinetuneConfig

SMALL = {
    "mirror_steps": 9, "n_samples": 96, "base_samples": 128, "test_samples": 64, "nfe": 12,
    "mirror_nfe": 12, "train_steps": 4, "batch": 48, "reward": "logp",
}  # fmt: skip


def weights(flow):
    """As a run writes them, float16."""
    return torch.cat([p.detach().half().flatten() for p in flow.network.parameters()])


@pytest.mark.parametrize("budget", [500, 2000, 12_345])
@pytest.mark.parametrize("steps", [1, 8])
def test_samples_share_a_budget(tmp_path, budget, steps):
    found = FinetuneConfig(
        flow="qm9", out=tmp_path, reward="qed", oracle_budget=budget, mirror_steps=steps
    )
    all_calls = found.base_samples + steps * found.n_samples + found.test_samples
    assert budget - steps < all_calls <= budget
    given = {"flow": "qm9", "out": tmp_path, "reward": "qed", "n_samples": 40}
    told = FinetuneConfig(**given, oracle_budget=budget)
    assert (told.n_samples, told.base_samples) == (40, budget // 4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"oracle_budget": 2000, "base_samples": 2048}, "base_samples 2,048 .* Left out"),
        (
            {"oracle_budget": 200, "data": "datasets/x", "base_samples": 190},
            "a few molecules of the data need: base_samples 190",
        ),
        ({"oracle_budget": 20}, "oracle_budget: .*greater than or equal to 100"),
    ],
)
def test_budgets_that_pay_for_nothing_are_refused(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        FinetuneConfig(**{"flow": "qm9", "out": tmp_path, "reward": "qed"} | changes)


def test_a_run_ends_at_the_best_flow_that_its_budget_has_shown(tiny_flow, tmp_path):
    out, rows, said = tmp_path / "run", [], []
    settings = SMALL | {"flow": str(tiny_flow), "out": out, "oracle_budget": 288}
    hooks = Hooks(report=rows.append, say=said.append)
    finetune(FinetuneConfig(**settings), hooks=hooks)
    record = json.loads((out / "finetune.run.json").read_text())
    assert record["budget_spent"]
    assert record["oracle_calls"] <= 288
    *judged, last = rows
    assert 1 < len(judged) < 9
    # The next round would not have left enough for the result.
    assert judged[-1].oracle_calls + 96 + 64 > 288
    assert all(row.oracle_calls + 96 + 64 <= 288 for row in judged[:-1])
    best = record["mirror_step"]
    assert last.step == best <= judged[-1].step
    kept = tiny_flow if best == 0 else out / "rounds" / f"step-{best:03d}"
    assert torch.equal(weights(DeNovoFlow.load(out)), weights(DeNovoFlow.load(kept)))
    assert any("oracle calls are spent" in line for line in said)
    assert any("oracle: " in line and "to come" in line for line in said)


def test_a_resume_with_a_larger_budget_goes_on(tiny_flow, tmp_path):
    out, rows, again = tmp_path / "run", [], []
    settings = SMALL | {"flow": str(tiny_flow), "out": out, "mirror_steps": 5}
    finetune(FinetuneConfig(**settings, oracle_budget=288), hooks=Hooks(report=rows.append))
    finetune(
        FinetuneConfig(**settings, oracle_budget=5000), resume=True,
        hooks=Hooks(report=again.append),
    )  # fmt: skip
    assert [row.oracle_calls for row in again][: len(rows) - 1] == [
        row.oracle_calls for row in rows[:-1]
    ]
    assert len(again) == 6
    record = json.loads((out / "finetune.run.json").read_text())
    assert (record["budget_spent"], record["mirror_step"]) == (False, 5)


def test_the_purse_keeps_the_best_and_pays_while_it_can():
    told = FinetuneConfig(
        flow="qm9", out="x", reward="qed", oracle_budget=1000, base_samples=300, n_samples=200,
        test_samples=100, mirror_steps=8,
    )  # fmt: skip
    purse = Purse(told, OracleClock(lambda *_: None), lambda _: None)
    for step, (calls, value) in enumerate([(300, 0.0), (500, 2.0), (700, 1.0)]):
        purse.pay(step, calls, f"flow {step}", lambda value=value: value)
    with pytest.raises(Spent):
        purse.pay(3, 900, "flow 3", lambda: 1.5)
    assert purse.best() == "flow 1"
    assert purse.record() == {"oracle_budget": 1000, "budget_spent": True, "mirror_step": 1}


def test_the_clock_tells_the_oracle_from_the_drawing(monkeypatch):
    times = iter([0.0, 40.0, 100.0, 103.0, 106.0])
    monkeypatch.setattr(oracle_calls.time, "monotonic", lambda: next(times))
    passed = []
    clock = OracleClock(lambda *event: passed.append(event))
    for what in ("draw", "oracle"):
        for done in (1, 2):
            clock(f"prior: {what}", done, 2)
    assert (clock.calls, clock.seconds) == (2, 6.0)
    assert clock.left(100) == "oracle: 3 s a molecule; at most 100 to come, about 5 minutes"
    assert "3.0 hours" in clock.left(3600)
    assert len(passed) == 4


def test_quick_oracles_tell_no_time_unasked(monkeypatch):
    clock = OracleClock(lambda *_: None)
    assert clock.left(100, always=True) == ""  # nothing was asked yet
    clock.calls, clock.seconds = 1000, 1.0
    assert clock.left(100) == ""
    assert "0.001 s a molecule" in clock.left(100, always=True)


def test_what_a_slow_oracle_said_is_kept_with_the_run(tmp_path):
    with answers(tmp_path, parse_reward("qed + logp")) as quick:
        assert quick is None
    with answers(tmp_path, parse_reward("sigmoid(homo_lumo_gap_eV, 5, 1)")) as slow:
        assert slow is not None
        assert slow.path == tmp_path / "oracle.sqlite"
