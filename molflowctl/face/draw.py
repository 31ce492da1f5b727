"""Molecules from a flow, and conformers of given molecules."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from molflowctl.compute.workers import cores
from molflowctl.face.library import Library, Molecules, given
from molflowctl.face.showing import bar, say_fewer

if TYPE_CHECKING:
    from molflowctl.models import Flow

__all__ = ["conformers", "generate"]


def generate(
    flow: str | os.PathLike[str] | Flow = "qm9",
    n: int = 100,
    *,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    progress: bool = True,
    **settings: Any,
) -> Library:
    """Draw valid molecules, with hydrogens, one conformer and four descriptors each.

    Examples:
        >>> mols = generate("druglike", n=100, seed=0)
        >>> mols[0], mols.frame()

    Arguments:
        flow: a shipped flow (`molflowctl flows`), a folder, or a flow of molecules itself.
        n: valid molecules to deliver.
        seed: attempt `i` is a function of (flow, seed, i), here as on the command line.
        out: an SDF to write as well, with its run record; None for none.
        jobs: worker processes; None for one per core.
        progress: show a bar on standard error.
        settings: any other of `molflowctl settings generate`, such as `relax="mmff"`.

    Returns:
        The library; its values are `smiles`, `inchikey`, `formula`, `qed`, `sa_score`, `logp`, and
        `mw` in dalton. What failed is counted in `notes`.

    Raises:
        UserError: for a flow, setting or file that cannot be used.

    Warns:
        FewerResults: the flow gave fewer molecules than were asked for.
    """
    from molflowctl.errors import UserError
    from molflowctl.models.molecule_flow import MoleculeFlow
    from molflowctl.tasks.generate import denovo
    from molflowctl.tasks.generate.settings import GenerateConfig
    from molflowctl.tasks.memory import Memory

    name, loaded = named_flow(flow)
    if loaded is not None and not isinstance(loaded, MoleculeFlow):
        raise UserError(
            f"a flow of kind {loaded.kind!r} draws no molecules. A flow of conformers places the "
            "atoms of given ones: conformers(mols, model=flow)."
        )
    config = GenerateConfig.parse(
        {"n": n, "seed": seed, **settings, "flow": name, "jobs": jobs or cores(),
         "out": "-" if out is None else os.fspath(out)},
        where="generate()",
    )  # fmt: skip
    memory = Memory()
    with bar(progress, "molecules") as show:
        total = config.attempts or config.n
        state = denovo.generate(
            config,
            flow=loaded,
            progress=lambda s: show(s.attempts if config.attempts else s.valid, total),
            into=memory if out is None else None,
        )
    failed = [f"{count:,} attempts failed: {why}" for why, count in state.failures.items()]
    notes = [*state.notes, *failed]
    if state.fewer:
        say_fewer(f"{state.valid:,} molecules of {state.attempts:,} attempts", failed)
    if out is not None:
        return Library.read(out)
    made = {"command": "generate", "config": config.model_dump(mode="json")}
    return Library(memory.entries, notes, made)


def conformers(
    molecules: Molecules,
    n: int = 50,
    *,
    model: str | os.PathLike[str] | Flow = "auto",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    progress: bool = True,
    **settings: Any,
) -> Library:
    """Low-energy conformers of given molecules, each molecule's sorted by energy.

    Examples:
        >>> confs = conformers("CC[C@H](O)C#N", n=20)
        >>> confs.frame()[["relative_energy_kcal_mol", "boltzmann_weight"]]

    Stereo that is given holds in every conformer; what is left open is enumerated.

    Arguments:
        molecules: SMILES or RDKit molecules, one or many; a DataFrame with a column of these; a
            library; or a file. Conformers that they have already do not matter.
        n: drawn of each stereoisomer, before those alike are left out.
        model: a conformer flow by name, by folder or itself; "etkdg", RDKit's ETKDGv3; both with
            a comma between them; or "auto", what the benchmark found best for such a molecule.
        seed: same seed, same conformers, here as on the command line.
        out: an SDF to write as well, with its run record; None for none.
        jobs: worker processes; None for one per core.
        progress: show a bar on standard error.
        settings: any other of `molflowctl settings conformers`, such as `relax="gfn2"`.

    Returns:
        One record per conformer, those of a molecule next to one another, with `smiles`,
        `energy_method`, `relative_energy_kcal_mol`, `boltzmann_weight` and `drawn_by`.

    Raises:
        UserError: for molecules, a model, a setting or a file that cannot be used.

    Warns:
        FewerResults: some of the molecules could not be done; `notes` says which, and why.
    """
    from molflowctl.errors import UserError
    from molflowctl.models.conformer import ConformerFlow
    from molflowctl.tasks.conformers import conformers as task
    from molflowctl.tasks.conformers.settings import ConformersConfig
    from molflowctl.tasks.memory import Memory

    name, loaded = named_flow(model)
    if loaded is not None and not isinstance(loaded, ConformerFlow):
        raise UserError(
            f"a flow of kind {loaded.kind!r} places no atoms of given molecules: it draws its own, "
            "generate(flow, n=100)."
        )
    source = given(
        molecules,
        smiles_column=settings.get("smiles_column"),
        name_column=settings.get("name_column"),
    )
    config = ConformersConfig.parse(
        {"n": n, "seed": seed, **settings, "model": name, "jobs": jobs or cores(),
         "source": str(source), "out": "-" if out is None else os.fspath(out)},
        where="conformers()",
    )  # fmt: skip
    memory = Memory()
    with bar(progress, "molecules") as show:
        state = task.generate_conformers(
            config,
            progress=show,
            given=None if isinstance(source, str) else source,
            flow=loaded,
            into=memory if out is None else None,
        )
    if state.failed:
        say_fewer(f"{state.failed:,} of the molecules failed", state.notes)
    if out is not None:
        return Library.read(out)
    made = {"command": "conformers", "config": config.model_dump(mode="json")}
    return Library(memory.entries, state.notes, made)


def named_flow(flow: str | os.PathLike[str] | Flow) -> tuple[str, Flow | None]:
    """The name that records show, and the flow itself where it is given as such."""
    if isinstance(flow, str | os.PathLike):
        return os.fspath(flow), None
    return str(flow.card.get("name") or "a flow in memory"), flow
