"""An attempt is the same molecule in every batch, process and run that it is drawn in."""

from itertools import islice

import numpy as np
import pytest
from rdkit import Chem

from molflowctl.chem.graphs import Failure, Molecule
from molflowctl.data.known import load_sizes
from molflowctl.errors import OldSpelling, UserError
from molflowctl.flows.samplers import focused_grid
from molflowctl.models import generation
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.models.generation import Drawn, Sampling, draws
from molflowctl.models.network import in_precision

COUNT = 48
SAMPLING = Sampling(nfe=10)


def content(drawn: Drawn) -> tuple:
    """Everything an attempt holds, to the last bit."""
    graph, result = drawn.graph, drawn.result
    arrays = (graph.numbers, graph.charges, graph.bonds, graph.positions)
    made = Chem.MolToMolBlock(result.mol) if isinstance(result, Molecule) else result
    return drawn.index, *(array.tobytes() for array in arrays), made


def contents(flow, sampling=SAMPLING, **options) -> list[tuple]:
    return [content(drawn) for drawn in draws(flow, sampling, **options)]


@pytest.fixture(scope="module")
def flow(tiny_flow):
    return DeNovoFlow.load(tiny_flow)


@pytest.fixture(scope="module")
def expected(flow):
    return contents(flow, count=COUNT)


def test_attempts_come_in_order_and_differ(expected):
    assert [index for index, *_ in expected] == list(range(COUNT))
    assert len({positions for *_, positions, _ in expected}) == COUNT


def test_molecules_and_failures_both_occur(expected):
    valid = sum(isinstance(made, str) for *_, made in expected)
    assert 5 < valid < COUNT


@pytest.mark.parametrize("batch", [1, 7, 16, 48])
def test_batch_size_changes_nothing(flow, expected, batch):
    assert contents(flow, Sampling(nfe=10, batch=batch), count=COUNT) == expected


@pytest.mark.parametrize("batch", [1, 7, 48])
def test_batch_size_changes_nothing_in_bf16(flow, batch):
    rounded = in_precision(flow, "bf16")
    assert contents(rounded, Sampling(nfe=10, batch=batch), count=COUNT) == contents(
        rounded, Sampling(nfe=10, batch=16), count=COUNT, jobs=2
    )


def test_worker_processes_change_nothing(flow, expected):
    assert contents(flow, Sampling(nfe=10, batch=8), count=COUNT, jobs=2) == expected


@pytest.mark.parametrize("start", [1, 10, 47])
def test_a_later_start_gives_the_rest(flow, expected, start):
    assert contents(flow, start=start, count=COUNT - start) == expected[start:]


@pytest.mark.parametrize("likely", [None, 0, 1, 20, 48, 1000])
def test_an_endless_stream_begins_like_a_counted_one(flow, expected, likely):
    stream = draws(flow, SAMPLING, expected=likely)
    try:
        assert [content(drawn) for drawn in islice(stream, COUNT)] == expected
    finally:
        stream.close()


@pytest.mark.parametrize("seed", range(5))
def test_attempts_do_not_wait_for_the_rare_sizes(flow, seed):
    """After half the batches of a window four fifths of what was drawn can be delivered."""
    sizes = load_sizes("qm9", "implicit")
    qm9 = DeNovoFlow(**flow.arguments | {"sizes": {str(n): c for n, c in sizes.items()}})
    window = range(generation.WINDOW)
    tasks = list(generation._tasks(qm9, SAMPLING, seed, iter([np.array(window)])))
    assert sorted(i for task in tasks for i in task.index.tolist()) == list(window)
    drawn = {i for task in tasks[: len(tasks) // 2] for i in task.index.tolist()}
    deliverable = next(i for i in window if i not in drawn)
    assert deliverable >= 0.8 * len(drawn)


def test_an_error_costs_one_molecule(flow, expected, monkeypatch):
    assemble, calls = generation.assemble, iter(range(COUNT))

    def sometimes(*arguments):
        if next(calls) == 5:
            raise RuntimeError("Invariant Violation")
        return assemble(*arguments)

    monkeypatch.setattr(generation, "assemble", sometimes)
    found = contents(flow, count=COUNT)
    (lost,) = [row for row in found if row[-1] == Failure("error", "Invariant Violation")]
    assert found[: lost[0]] == expected[: lost[0]]
    assert found[lost[0] + 1 :] == expected[lost[0] + 1 :]


def test_seeds_give_different_molecules(flow, expected):
    other = contents(flow, seed=1, count=COUNT)
    assert not {row[4] for row in other} & {row[4] for row in expected}


@pytest.mark.parametrize("sampler", ["euler-maruyama", "euler", "heun"])
def test_every_sampler_is_independent_of_the_batch(flow, sampler):
    one, other = (
        contents(flow, Sampling(sampler, nfe=6, batch=batch), count=20) for batch in (3, 64)
    )
    assert one == other


@pytest.mark.parametrize("stochasticity", [0.0, 1.0, 3.0])
def test_the_noise_asked_for_goes_before_the_one_recommended(flow, stochasticity):
    asked = contents(flow, Sampling(nfe=6, stochasticity=stochasticity), count=20)
    own = flow.card.get("sampling", {})
    try:
        flow.card["sampling"] = {"churn": stochasticity}
        assert contents(flow, Sampling(nfe=6), count=20) == asked
        assert (contents(flow, Sampling(nfe=6, stochasticity=2.0), count=20) == asked) is False
    finally:
        flow.card["sampling"] = own


def test_the_focus_asked_for_goes_before_the_one_recommended(flow):
    asked, usual = (
        contents(flow, Sampling(nfe=6, focus=focus), count=20) for focus in ((0.65, 0.9), None)
    )
    assert asked != usual
    own = flow.card.get("sampling", {})
    try:
        flow.card["sampling"] = {"focus_from": 0.65, "focus_to": 0.9}
        assert contents(flow, Sampling(nfe=6), count=20) == asked
        assert contents(flow, Sampling(nfe=6, focus=(0.2, 0.4)), count=20) != asked
        euler = Sampling("euler", nfe=6)  # whose steps have no noise to mend anything with
        assert euler.grid(flow) == focused_grid(6)
    finally:
        flow.card["sampling"] = own


def sizes(flow, atoms, count=COUNT):
    stream = draws(flow, Sampling(nfe=2, atoms=atoms, relax="none"), count=count)
    return [len(drawn.graph.numbers) for drawn in stream]


def test_sizes_follow_the_histogram_and_the_range(flow):
    assert set(sizes(flow, None)) == {4, 5, 6} == set(flow.sizes)
    assert set(sizes(flow, range(5, 7))) == {5, 6}
    assert set(sizes(flow, range(5, 60), 16)) == {5, 6}
    assert set(sizes(flow, range(5, 6), 16)) == {5}


def test_size_frequencies_are_those_of_the_data(flow):
    n = 400
    share = flow.sizes[4] / sum(flow.sizes.values())
    found = sizes(flow, None, n).count(4) / n
    assert abs(found - share) < 4 * (share * (1 - share) / n) ** 0.5


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        (Sampling("ancestrel"), ("ancestrel", "ancestral", "heun")),
        (Sampling(nfe=0), ("0 network evaluations",)),
        (Sampling("heun", nfe=1), ("1 network evaluations", "heun")),
        (Sampling(batch=0), ("batch of 0",)),
        (Sampling("heun", stochasticity=2.0), ("stochasticity", "heun")),
        (Sampling(stochasticity=-1.0), ("stochasticity of -1",)),
        (Sampling("heun", focus=(0.5, 0.9)), ("focus", "heun")),
        (Sampling(focus=(0.9, 0.5)), ("from 0.9 to 0.5", "between 0 and 1")),
        (Sampling(focus=(0.5, 1.0)), ("from 0.5 to 1", "between 0 and 1")),
        (Sampling(atoms=range(100, 101)), ("--atoms 100-100", "4 to 6 heavy atoms")),
        (Sampling(atoms=range(1, 4)), ("--atoms 1-3", "4 to 6 heavy atoms")),
    ],
)
def test_what_cannot_be_drawn_is_named(flow, sampling, words):
    with pytest.raises(UserError) as error:
        next(draws(flow, sampling, count=1))
    assert all(word in str(error.value) for word in words)


def test_old_names_of_sampling_draw_the_same_with_a_warning(flow):
    new = flow.sample(2, seed=3, nfe=6, stochasticity=2.0)
    with pytest.warns(OldSpelling, match="evaluations is nfe"), pytest.warns(match="churn"):
        old = flow.sample(2, seed=3, evaluations=6, churn=2.0)
    assert [m.ToBinary() for m in old] == [m.ToBinary() for m in new]
