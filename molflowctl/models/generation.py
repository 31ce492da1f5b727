"""Molecules from a de-novo flow: an ordered stream over numbered attempts.

Attempt `i` is a function of `(flow, seed, i)`: its size, its noise and therefore its molecule do
not depend on the batch, the worker process or the run it is drawn in. Molecules of one size are
drawn as one batch; on a CPU every worker draws and finishes whole batches on one thread of its own
(two such workers are faster than two threads in one), on a GPU this process draws and the workers
finish.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from rdkit import Chem

from molflowctl.chem.graphs import EXACT, Failure, Graph3D, Molecule, Relaxation, assemble
from molflowctl.compute.parallel import Outcome, WorkerPool
from molflowctl.errors import UserError
from molflowctl.flows.noise import IndexedNoise
from molflowctl.flows.samplers import SAMPLERS, Ancestral, Sampler, focused_grid, window_grid
from molflowctl.flows.state import AnyState, Ragged, State
from molflowctl.io.library import numbered_title

if TYPE_CHECKING:  # which is built on this module
    from molflowctl.models.molecule_flow import MoleculeFlow

__all__ = [
    "Drawn",
    "Sampling",
    "draw_states",
    "draws",
    "give_up_after",
    "likely_attempts",
    "population",
    "sample",
]

# Matrix products round a row alike in every batch whose size is a multiple of this, measured with
# MKL and oneDNN on AVX-512 and AVX2; batches are filled up to one.
GRAIN = 16
WINDOW = 2048  # attempts that are sorted into batches, and put in order again, together
GIVE_UP = 50  # attempts per molecule asked for, see `give_up_after`
EXTRA = 128  # the same beyond the attempts that were expected to do


def likely_attempts(n: int) -> int:
    """Attempts that `n` valid molecules of a good flow will take."""
    return math.ceil(1.04 * n)


def give_up_after(n: int) -> int:
    """Attempts after which a flow is called unable to deliver `n` molecules."""
    return GIVE_UP * max(n, 20)


@dataclass(frozen=True, slots=True)
class Drawn:
    """One attempt: the decoded graph, and the molecule it makes or why it makes none."""

    index: int
    graph: Graph3D | None
    result: Molecule | Failure


@dataclass(frozen=True)
class Sampling:
    """How molecules are drawn.

    Arguments:
        sampler: a name in `SAMPLERS`.
        nfe: of the network, per molecule.
        atoms: allowed numbers of atoms of the flow's state; None for the data's histogram.
        relax: "hydrogens" (those that were added), "mmff" (everything) or "none".
        batch: molecules drawn at once; None for 64 on a CPU, 1024 on a GPU.
        stochasticity: noise of the ancestral sampler, see `Path.ancestral`; None for what the
            flow's card recommends, or 1.
        focus: times between which most steps of the ancestral sampler lie, see `window_grid`; None
            for what the flow's card recommends, or `focused_grid`.
    """

    sampler: str = "ancestral"
    nfe: int = 50
    atoms: range | None = None
    relax: Relaxation = "hydrogens"
    batch: int | None = None
    stochasticity: float | None = None
    focus: tuple[float, float] | None = None

    def check(self, flow: MoleculeFlow) -> None:
        """Raise `UserError` for what cannot be drawn."""
        if self.relax not in (known := sorted(get_args(Relaxation))):
            raise UserError(f"relax is {' or '.join(map(repr, known))}, not {self.relax!r}.")
        if self.sampler not in SAMPLERS:
            raise UserError(f"unknown sampler {self.sampler!r}: one of {', '.join(SAMPLERS)}.")
        if self.stochasticity is not None and self.sampler != "ancestral":
            raise UserError(f"stochasticity is of the ancestral sampler; {self.sampler} has none.")
        if self.stochasticity is not None and not 0 <= self.stochasticity < math.inf:
            raise UserError(
                f"a stochasticity of {self.stochasticity}: it cannot be negative or infinite."
            )
        if self.focus is not None and self.sampler != "ancestral":
            raise UserError(f"a focus is of the ancestral sampler; {self.sampler} has none.")
        if (focus := self._focus(flow)) and not 0 < focus[0] < focus[1] < 1:
            raise UserError(
                f"a focus from {focus[0]:g} to {focus[1]:g}: give two times between 0 and 1, the "
                "earlier one first."
            )
        if self.nfe < SAMPLERS[self.sampler].nfe:
            raise UserError(f"{self.nfe} network evaluations are too few for {self.sampler}.")
        flow.check_sampler(self.stepper(flow))
        if self.batch is not None and self.batch < 1:
            raise UserError(f"a batch of {self.batch} molecules: give 1 or more.")
        if self.atoms is not None and not any(n in self.atoms for n in flow.sizes):
            kind = "heavy atoms" if flow.hydrogens == "implicit" else "atoms, hydrogens included"
            raise UserError(
                f"--atoms {self.atoms.start}-{self.atoms.stop - 1} is impossible for this flow: it "
                f"knows molecules of {min(flow.sizes)} to {max(flow.sizes)} {kind}."
            )

    def stepper(self, flow: MoleculeFlow) -> Sampler:
        """The sampler, with the noise that was asked for or that suits the flow."""
        if self.sampler != "ancestral":
            return SAMPLERS[self.sampler]
        recommended = flow.card.get("sampling", {}).get("churn", 1.0)
        return Ancestral(
            stochasticity=recommended if self.stochasticity is None else self.stochasticity
        )

    def grid(self, flow: MoleculeFlow) -> list[float]:
        """The times of the steps, most of them where it was asked for or suits the flow."""
        steps = self.nfe // SAMPLERS[self.sampler].nfe
        focus = self._focus(flow)
        return window_grid(steps, *focus) if focus else focused_grid(steps)

    def _focus(self, flow: MoleculeFlow) -> tuple[float, float] | None:
        if self.focus is not None or self.sampler != "ancestral":
            return self.focus
        recommended = flow.card.get("sampling", {})
        if not {"focus_from", "focus_to"} <= set(recommended):
            return None
        return recommended["focus_from"], recommended["focus_to"]


@torch.no_grad()
def draw_states(
    flow: MoleculeFlow, sampling: Sampling, seed: int, index: np.ndarray, atoms: int
) -> AnyState:
    """Data states of the attempts `index`, `(B,)`, all of `atoms` atoms."""
    fill = -len(index) % GRAIN
    padded = np.concatenate([index, np.repeat(index[-1:], fill)])
    noise = IndexedNoise(seed, torch.as_tensor(padded, device=flow.device))
    x0 = flow.prior(len(padded), atoms, noise)
    x1 = flow.transport(x0, sampling.stepper(flow), sampling.grid(flow), noise)
    asked = slice(0, len(index))
    return x1.select(asked) if isinstance(x1, State) else x1[asked]


def population(flow: MoleculeFlow, n: int, sampling: Sampling, seed: int) -> Ragged:
    """The data states of attempts 0 to `n - 1`, batch by batch, in this process.

    Raises:
        UserError: for settings the flow cannot serve.
    """
    sampling.check(flow)
    tasks = _tasks(flow, sampling, seed, _windows(0, n, None))
    return Ragged([draw_states(flow, sampling, seed, t.index, t.atoms) for t in tasks])


def draws(
    flow: MoleculeFlow,
    sampling: Sampling,
    *,
    seed: int = 0,
    start: int = 0,
    count: int | None = None,
    expected: int | None = None,
    jobs: int = 1,
    pool: WorkerPool | None = None,
    finish: Callable[[Drawn], Any] | None = None,
) -> Generator[Any, None, None]:
    """Attempts `start, start+1, ...` in order, `count` of them or without end.

    Arguments:
        expected: attempts that will probably be asked for, where there is no `count`; drawing far
            ahead of them would be wasted.
        jobs: worker processes, unless a `pool` is given.
        finish: applied to each `Drawn` in the worker; its result is what is yielded.

    Raises:
        UserError: for settings the flow cannot serve.
    """
    sampling.check(flow)
    own = WorkerPool(jobs) if pool is None else pool
    try:
        tasks = _tasks(flow, sampling, seed, _windows(start, count, expected))
        yield from _stream(flow.eval(), sampling, seed, start, tasks, own, finish)
    finally:
        if pool is None:
            own.close()


@dataclass(frozen=True, slots=True)
class _Task:
    index: np.ndarray
    atoms: int


def _windows(start: int, count: int | None, expected: int | None) -> Iterator[np.ndarray]:
    """Consecutive indices, window after window, up to `count` of them or without end."""
    end = math.inf if count is None else start + count
    likely = end if expected is None else start + expected
    while start < end:
        wanted = min(start + WINDOW, likely) if start < likely else start + EXTRA
        stop = int(min(wanted, end))
        yield np.arange(start, stop)
        start = stop


def _tasks(
    flow: MoleculeFlow, sampling: Sampling, seed: int, windows: Iterator[np.ndarray]
) -> Iterator[_Task]:
    """Batches of one size; those that attempts wait for first, so that the stream keeps flowing."""
    batch = sampling.batch or (64 if flow.device.type == "cpu" else 1024)
    for index in windows:
        # The size has a stream of its own, so that the noise does not depend on --atoms.
        uniform = IndexedNoise(seed ^ 0x5A5A5A5A, torch.from_numpy(index)).uniform().numpy()
        sizes = flow.draw_sizes(uniform, sampling.atoms)
        tasks: list[_Task] = []
        for n in np.unique(sizes).tolist():
            of_size = index[sizes == n]
            tasks += [_Task(of_size[k : k + batch], n) for k in range(0, len(of_size), batch)]
        yield from sorted(tasks, key=lambda task: task.index[0])


def _stream(
    flow: MoleculeFlow,
    sampling: Sampling,
    seed: int,
    start: int,
    tasks: Iterable[_Task],
    pool: WorkerPool,
    finish: Callable[[Drawn], Any] | None,
) -> Iterator[Any]:
    asked: deque[_Task] = deque()

    def remember(task: _Task) -> _Task:
        asked.append(task)
        return task

    explicit = flow.hydrogens == "explicit"
    tasks = map(remember, tasks)
    outcomes: Iterator[Outcome[list[Any]]]
    if flow.device.type == "cpu":
        outcomes = pool.map(_Draw(flow, sampling, seed, explicit, finish), tasks, chunk=1)
    else:
        graphs = (
            (t, flow.decode(draw_states(flow, sampling, seed, t.index, t.atoms))) for t in tasks
        )
        assembled = _Assemble(sampling, explicit, finish, flow.flaw_of())
        outcomes = pool.map(assembled, graphs, chunk=1)

    waiting: dict[int, Any] = {}
    due = start
    for outcome in outcomes:
        task = asked.popleft()
        if outcome.value is None:
            lost = Failure("worker", outcome.error or "")
            failures = [Drawn(int(i), None, lost) for i in task.index]
            results = [finish(f) for f in failures] if finish else failures
        else:
            results = outcome.value
        waiting.update(zip(task.index.tolist(), results, strict=True))
        while due in waiting:
            yield waiting.pop(due)
            due += 1


@dataclass(frozen=True)
class _Assemble:
    """Graphs to finished attempts, in a worker."""

    sampling: Sampling
    explicit: bool
    finish: Callable[[Drawn], Any] | None
    flaw_of: Callable[[Graph3D], str] | None = None

    def __call__(self, item: tuple[_Task, list[Graph3D]]) -> list[Any]:
        task, graphs = item
        relax = self.sampling.relax
        if self.explicit and relax == "hydrogens":  # none were added: the flow placed them itself
            relax = "none"
        drawn = [
            Drawn(int(i), graph, self._result(graph, relax))
            for i, graph in zip(task.index, graphs, strict=True)
        ]
        return [self.finish(d) for d in drawn] if self.finish else drawn

    def _result(self, graph: Graph3D, relax: Relaxation) -> Molecule | Failure:
        result = _assembled(graph, relax, self.explicit)
        flaw = self.flaw_of(graph) if self.flaw_of and isinstance(result, Molecule) else ""
        return Failure("hand", flaw) if flaw else result


def _assembled(graph: Graph3D, relax: Relaxation, explicit: bool) -> Molecule | Failure:
    """`assemble`, where an error of RDKit costs this molecule and not its batch."""
    try:
        return assemble(graph, relax, explicit)
    except (RuntimeError, ValueError) as error:  # its invariants, its sanitisation
        return Failure("error", str(error))


@dataclass(frozen=True)
class _Draw:
    """A task to finished attempts, in a worker with one thread."""

    flow: MoleculeFlow
    sampling: Sampling
    seed: int
    explicit: bool
    finish: Callable[[Drawn], Any] | None

    def __call__(self, task: _Task) -> list[Any]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            states = draw_states(self.flow, self.sampling, self.seed, task.index, task.atoms)
        finally:
            torch.set_num_threads(threads)
        graphs = self.flow.decode(states)
        flaw_of = self.flow.flaw_of()
        return _Assemble(self.sampling, self.explicit, self.finish, flaw_of)((task, graphs))


def sample(
    flow: MoleculeFlow, n: int, sampling: Sampling, *, seed: int = 0, jobs: int = 1
) -> list[Chem.Mol]:
    """`n` valid molecules in the order of their attempts; see `MoleculeFlow.sample`."""
    if n < 1:
        raise UserError(f"{n} molecules were asked for: give 1 or more.")
    mols: list[Chem.Mol] = []
    stream = draws(
        flow, sampling, seed=seed, expected=likely_attempts(n), jobs=jobs, finish=_in_full
    )
    with contextlib.closing(stream):
        for index, binary in stream:
            if binary is not None:
                mols.append(Chem.Mol(binary))
                mols[-1].SetProp("_Name", numbered_title(index))
            if len(mols) == n:
                return mols
            if index + 1 >= give_up_after(n):
                raise UserError(f"{index + 1} attempts gave only {len(mols)} of {n} molecules.")
    raise AssertionError("the stream of attempts has no end")


def _in_full(drawn: Drawn) -> tuple[int, bytes | None]:
    """The molecule in bytes that keep its properties and the last digits of its coordinates."""
    if isinstance(drawn.result, Failure):
        return drawn.index, None
    return drawn.index, drawn.result.mol.ToBinary(EXACT)
