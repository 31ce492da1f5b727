"""Estimators of log-ratios against closed forms: bias, variance, time.

    python -m benchmarks.analytic.ratios

writes `benchmarks/analytic/ratios/table.md` and `table.csv` in a minute of an idle core.
Every number but the seconds is a function of the seed.

Points are drawn from `p` and from `q`, half each. `bias` is the mean error over points and seeds,
`noise` the standard deviation over seeds at one point, `rms` of all errors; all in nats. The last
problem has a flow that was trained: its truth is the likelihood of what it generates, at four
times the steps, and shows what an imperfect endpoint does to those who believe it.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from molflowctl.control.objectives.classifier import Classifier
from molflowctl.control.objectives.ratios import DenoisingDifference, Ito, Likelihood, Ratio
from molflowctl.flows.flow import Flow
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.flows.noise import BatchNoise

OUT = Path(__file__).parent / "ratios"
COLUMNS = ["problem", "estimator", "spread", "bias", "noise", "rms", "seconds"]

ESTIMATORS: dict[str, Ratio] = {
    "Likelihood(30)": Likelihood(30),
    "Likelihood(30), 1 probe": Likelihood(30, "hutchinson"),
    "DenoisingDifference(32)": DenoisingDifference(32),
    "DenoisingDifference(128)": DenoisingDifference(128),
    "Ito(64)": Ito(64),
    "Ito(256)": Ito(256),
    "Classifier(500 steps)": Classifier(steps=500),
}
SEEDS = {"Likelihood(30)": 1, "Classifier(500 steps)": 2}

TEXT = """# Log-ratios of two flows: which estimator

Errors of `log p(x) - log q(x)` in nats, on {points} points of `p` and `q`, seed {seed}. `spread` is
the standard deviation of the ratio itself, `bias` the mean error, `noise` the standard deviation
over seeds at one point, `rms` of all errors, `seconds` for all the points on a busy core.
`python -m benchmarks.analytic.ratios` makes this table anew.

{table}

The default is `Likelihood`, with the exact trace in low dimension and one probe beyond. Exact, it
has no noise and an error of 2e-3 at most. With a probe its noise is, second for second, about that
of `DenoisingDifference`, and less where the flows are close, as they are in a control (the tilted
and the trained one). Above all it measures what a flow generates: on the trained flow the two
that ask for posterior means are off by what its endpoint lacks of one, an error that no number of
times or steps removes.

`DenoisingDifference` is for states with discrete parts, whose density along the ODE is infinite
while the difference of two losses is not, and for flows that cannot be differentiated. It has
no bias, and its noise falls as one over the root of its times. `Ito` has the same noise and on top
an error of first order in the step: its place is along trajectories that are drawn anyway, where
it costs nothing. A `Classifier` costs a training for every pair of flows and is the least exact
where the two differ most, since there it has points of one side only; it is for flows of different
paths or priors, which the other two cannot compare, and of which samples are all that is known.
"""


@dataclass(frozen=True)
class Problem:
    """Two flows and the truth."""

    name: str
    p: Flow
    q: MixtureFlow
    truth: Ratio | None = None  # None: closed form

    def points(self, n: int, seed: int) -> Tensor:
        half = (
            self.p.exact_sample(n // 2, seed)
            if isinstance(self.p, MixtureFlow) and self.p.net is None
            else self.p.sample(n // 2, seed=seed, sampler="heun", nfe=200)
        )
        return torch.cat([half, self.q.exact_sample(n - n // 2, seed + 1)])

    def exact(self, x: Tensor) -> Tensor:
        if self.truth is not None:
            return self.truth(self.p, self.q, x)
        assert isinstance(self.p, MixtureFlow)
        return self.p.log_density(x) - self.q.log_density(x)


def problems(seed: int) -> Iterator[Problem]:
    line = {"weights": [0.3, 0.7], "means": [[-1.5], [1.0]], "sds": [0.3, 0.5]}
    other = {"weights": [0.6, 0.4], "means": [[-1.0], [1.2]], "sds": [0.5, 0.6]}
    yield Problem("1-D", MixtureFlow(**line), MixtureFlow(**other))

    plane = MixtureFlow([0.5, 0.2, 0.3], [[1.0, 0.0], [-1.0, 2.0], [0.0, -1.5]], [0.4, 0.3, 0.6])
    yield Problem("2-D", plane, MixtureFlow([0.5, 0.5], [[0.5, 0.0], [-1.0, 0.5]], [0.7, 0.9]))

    yield Problem("2-D, tilted by exp(c.x)", tilted(plane, torch.tensor([1.0, 0.5])), plane)

    narrow = {"covariance": [[1.0, 0.6], [0.6, 1.2]], "path": "cosine"}
    yield Problem(
        "2-D, narrow, cosine path, correlated noise",
        MixtureFlow([0.5, 0.5], [[1.0, 0.0], [-1.0, 1.0]], [0.15, 0.2], **narrow),
        MixtureFlow([0.8, 0.2], [[0.9, 0.0], [-1.0, 1.0]], [0.2, 0.15], **narrow),
    )

    corner = torch.ones(16) / 4
    many = [(0.9 * corner).tolist(), (-0.9 * corner).tolist()]
    yield Problem("16-D", MixtureFlow([0.6, 0.4], many, [0.6, 0.7]),
                  MixtureFlow([0.4, 0.6], many, [0.7, 0.7]))  # fmt: skip

    yield Problem(
        "2-D, p trained",
        trained(plane, tilted(plane, torch.tensor([1.0, 0.5])), seed),
        plane,
        Likelihood(120),
    )


def tilted(flow: MixtureFlow, slope: Tensor) -> MixtureFlow:
    """`p exp(c.x) / Z`: a mixture of `N(m + s^2 c, s^2)`, weights times `exp(c.m + s^2 c^2/2)`."""
    weight = flow.log_weights + flow.means @ slope + 0.5 * flow.variances * slope.square().sum()
    return MixtureFlow(
        weight.softmax(0).tolist(),
        (flow.means + flow.variances[:, None] * slope).tolist(),
        flow.variances.sqrt().tolist(),
    )


def trained(base: MixtureFlow, target: MixtureFlow, seed: int, steps: int = 1000) -> MixtureFlow:
    """`base` with a correction that was trained on samples of `target`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        flow = base.trainable(64, 2)
    noise, data = BatchNoise(seed), target.exact_sample(8192, seed)
    optimiser = torch.optim.Adam(flow.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows = torch.randint(len(data), (512,), generator=noise.generator)
        # Away from the end, where the target of a velocity is noise over noise.
        loss = flow.loss(data[rows], 0.98 * noise.uniform(512), noise).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return flow.requires_grad_(False).eval()


def measure(problem: Problem, name: str, points: int, seed: int) -> dict[str, str | float]:
    """One row of the table."""
    x = problem.points(points, seed)
    truth, errors, start = problem.exact(x), [], time.perf_counter()
    for repeat in range(SEEDS.get(name, 4)):
        estimator = replace(ESTIMATORS[name], seed=seed + repeat)  # type: ignore[type-var]
        errors.append(estimator(problem.p, problem.q, x) - truth)
    seconds = (time.perf_counter() - start) / len(errors)
    error = torch.stack(errors).double()
    noise = float(error.var(0).mean().sqrt()) if len(error) > 1 else 0.0
    numbers = [float(truth.std()), float(error.mean()), noise, float(error.square().mean().sqrt())]
    row = [problem.name, name, *(round(n, 4) for n in numbers), round(seconds, 2)]
    return dict(zip(COLUMNS, row, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        measure(problem, name, options.points, options.seed)
        for problem in problems(options.seed)
        for name in ESTIMATORS
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    table = "\n".join(
        f"| {' | '.join(map(str, line))} |"
        for line in (COLUMNS, ["---"] * len(COLUMNS), *(row.values() for row in rows))
    )
    text = TEXT.format(points=options.points, seed=options.seed, table=table)
    (options.out / "table.md").write_text(text)
    print(table)


if __name__ == "__main__":
    main()
