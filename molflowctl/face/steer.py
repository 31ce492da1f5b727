"""Flows made of flows: steered towards a property, or merged."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from molflowctl.compute.workers import cores
from molflowctl.errors import UserError
from molflowctl.face.draw import named_flow
from molflowctl.face.values import property_name

if TYPE_CHECKING:
    from molflowctl.models import Flow
    from molflowctl.models.molecule_flow import MoleculeFlow
    from molflowctl.properties.registry import Property
    from molflowctl.properties.rewards.reward import PropertyReward
    from molflowctl.tasks.steering.run_folder import Hooks

__all__ = ["finetune", "merge", "run_folder"]


def finetune(
    flow: str | os.PathLike[str] | Flow,
    reward: str | Property | PropertyReward,
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    jobs: int | None = None,
    progress: bool = True,
    watch: Callable[[Any], object] | None = None,
    **settings: Any,
) -> MoleculeFlow:
    """Steer a flow towards a property, judged by the real program while it learns.

    Examples:
        >>> flow = finetune("qm9", reward="dipole_debye", kl_weight=1)
        >>> flow.card["finetune"]["result"]["mean"], flow.card["finetune"]["verdict"]
        >>> mols = generate(flow, n=100)

    Maximises utilities of `r` less divergences to the given flow, with `r` the reward in standard
    deviations of that flow's molecules. It takes minutes to an hour.

    Arguments:
        flow: a shipped flow, a folder, or a flow of molecules itself, which stays as it is.
        reward: what is to be large: a property, or an expression of several.
        out: folder of the run, with the new flow and all that a resume needs; None keeps nothing.
        overwrite: replace a folder `out` that is there.
        resume: go on with the run in the folder `out`.
        jobs: worker processes; None for one per core.
        progress: show what is done, and what is found, on standard error.
        watch: called with each line of the live table, before every mirror step and at the end.
        settings: any other of `molflowctl settings finetune`, such as `utility="cvar:0.2"` or
            `minimise=True`.

    Returns:
        The new flow, as it is read from the run's folder. What was measured is in its card, under
        "finetune": `prior`, `target` (the best that is possible), `result`, `verdict`.

    Raises:
        UserError: for a flow, property, setting or folder that cannot be used.
    """
    from molflowctl.models.molecule_flow import MoleculeFlow
    from molflowctl.tasks.steering import finetune as task
    from molflowctl.tasks.steering.settings import FinetuneConfig

    name, loaded = named_flow(flow)
    if loaded is not None and not isinstance(loaded, MoleculeFlow):
        raise UserError(f"a flow of kind {loaded.kind!r} draws no molecules to be judged.")
    with run_folder(out) as folder:
        config = FinetuneConfig.parse(
            {**_listed(settings), "flow": name, "reward": property_name(reward),
             "out": folder, "jobs": jobs or cores()},
            where="finetune()",
        )  # fmt: skip
        with _hooks(progress, watch) as hooks:
            task.finetune(config, flow=loaded, resume=resume, overwrite=overwrite, hooks=hooks)
        return _made(folder, config.device, "finetune", out)


def merge(
    circuit: str,
    flows: Mapping[str, str | os.PathLike[str] | Flow] | None = None,
    *,
    reward: str | Property | PropertyReward | None = None,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    jobs: int | None = None,
    progress: bool = True,
    watch: Callable[[Any], object] | None = None,
    **settings: Any,
) -> MoleculeFlow:
    """Merge flows: what all of them find likely, what any does, or what lies between.

    Examples:
        >>> flow = merge("qm9_dipole & qm9_rings")
        >>> flow = merge("a - b", {"a": tuned, "b": "qm9"}, reward="qed")

    Arguments:
        circuit: names of flows with `&` (all), `|` (any), `-` (a and not b) and parentheses. A
            shipped flow's hyphens are underscores here.
        flows: flows by their names in the circuit: shipped, folders, or flows of molecules
            themselves, which stay as they are.
        reward: what is to be large beside: a property or an expression; None for nothing.
        out: folder of the run, with the new flow and all that a resume needs; None keeps nothing.
        overwrite: replace a folder `out` that is there.
        resume: go on with the run in the folder `out`.
        jobs: worker processes; None for one per core.
        progress: show what is done, and what is found, on standard error.
        watch: called with each line of the live table, before every mirror step and at the end.
        settings: any other of `molflowctl settings merge`, such as `weights=[1, 3]`.

    Returns:
        The new flow, as it is read from the run's folder. What was measured is in its card, under
        "merge": `parts` and `result`.

    Raises:
        UserError: for a circuit, flow, property, setting or folder that cannot be used.
    """
    from molflowctl.models.molecule_flow import MoleculeFlow
    from molflowctl.tasks.steering import merge as task
    from molflowctl.tasks.steering.settings import MergeConfig

    names, loaded = dict[str, str](), dict[str, MoleculeFlow]()
    for part, flow in (flows or {}).items():
        names[part], found = named_flow(flow)
        if isinstance(found, MoleculeFlow):
            loaded[part] = found
        elif found is not None:
            raise UserError(f"{part} is a flow of kind {found.kind!r}, which draws no molecules.")
    with run_folder(out) as folder:
        config = MergeConfig.parse(
            {**_listed(settings), "circuit": circuit, "flows": names, "out": folder,
             "reward": None if reward is None else property_name(reward), "jobs": jobs or cores()},
            where="merge()",
        )  # fmt: skip
        with _hooks(progress, watch) as hooks:
            task.merge(config, given=loaded, resume=resume, overwrite=overwrite, hooks=hooks)
        return _made(folder, config.device, "merge", out)


def _listed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that may be several, where one is given."""
    several = ("utility", "divergence", "features", "modalities")
    return {
        name: [value] if name in several and isinstance(value, str) else value
        for name, value in settings.items()
    }


@contextlib.contextmanager
def run_folder(out: str | os.PathLike[str] | None) -> Iterator[Path]:
    """The folder of a run: as asked for, or one that is gone afterwards."""
    if out is not None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="molflowctl-") as folder:
        yield Path(folder) / "flow"


@contextlib.contextmanager
def _hooks(progress: bool, watch: Callable[[Any], object] | None) -> Iterator[Hooks]:
    """What a steering tells: a bar for what is drawn or scored, and its remarks."""
    from molflowctl.compute.progress import progress_bars
    from molflowctl.tasks.steering.run_folder import Hooks

    with progress_bars(not progress) as bars:
        task = bars.add_task("", total=None, visible=False)

        def say(text: str) -> None:
            if progress:
                bars.console.print(text, highlight=False, markup=False, soft_wrap=True)

        def report(row: Any) -> None:
            if watch is not None:
                watch(row)

        def show(what: str, done: int, total: int) -> None:
            bars.update(
                task, description=what, completed=done, total=total, visible=done < total
            )  # fmt: skip

        yield Hooks(report=report, say=say, progress=show)


def _made(folder: Path, device: str, kind: str, out: str | os.PathLike[str] | None) -> MoleculeFlow:
    """The flow that a run has left; its card names no folder that is gone."""
    from molflowctl.tasks.generate.flows import load_flow

    flow = load_flow(str(folder), device)
    if out is None:
        flow.card[kind]["config"]["out"] = None
    return flow
