"""Settings of `train`, `train-conformers` and `surrogate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from molflowctl.errors import UserError
from molflowctl.flows.card import LARGEST, MOST_WEIGHTS
from molflowctl.io.config import Config
from molflowctl.tasks.shared_settings import (
    Jobs,
    Minutes,
    Overwrite,
    Part,
    Positive,
    Seed,
    Share,
    SmilesColumn,
)

__all__ = ["ConformerTrainConfig", "NetworkConfig", "SurrogateConfig", "TrainConfig"]


_SQUARES = 8  # of its width that each block of a network has as weights, at least


def _size(name: str, default: int, least: int, meaning: str) -> Any:
    """A size of a network, at most as large as a flow's card may say."""
    return Field(default=default, ge=least, le=LARGEST[name], description=meaning)


class NetworkConfig(Config):
    """Sizes of `EquivariantNetwork`."""

    width: int = _size("width", 192, 8, "features of an atom [channels]")
    pair_width: int = _size("pair_width", 64, 4, "features of a pair of atoms [channels]")
    heads: int = _size("heads", 8, 1, "of attention, which must divide the width [heads]")
    vectors: int = _size(
        "vectors", 16, 1, "vectors that an atom carries, which rotate with the molecule [channels]"
    )
    depth: int = _size("depth", 6, 1, "blocks, one after another [layers]")
    radial: int = _size("radial", 32, 2, "radial basis functions of a distance [functions]")
    triangles: int = _size(
        "triangles", 0, 0, "of triangle products of pairs; 0 for none [channels]"
    )
    conditional: bool = Field(
        default=False,
        description="of de-novo flows: the network is told which part of a molecule is given",
    )

    def model_post_init(self, context: Any) -> None:
        if self.width % self.heads:
            raise UserError(f"a network's {self.heads} heads must divide its width, {self.width}.")
        least = self.depth * (_SQUARES * self.width**2 + self.pair_width**2)
        if least > MOST_WEIGHTS:
            raise UserError(
                f"a network of width {self.width:,}, pair_width {self.pair_width:,} and depth "
                f"{self.depth:,} has {least:,} weights at least, and a flow holds "
                f"{MOST_WEIGHTS:,}: make one of them smaller."
            )


class TrainConfig(Config, command="train", old_names={
    "steps": "train_steps", "constant": "lr_decay_start", "sample_steps": "sample_nfe",
}):  # fmt: skip
    """What `molflowctl train` does."""

    name: str = Field(default="qm9", description="name of the flow, in its card")
    data: Path = Field(
        default=Path("datasets/qm9-implicit"),
        description="a prepared data set, or with `init` an SDF file",
    )
    init: str | None = Field(
        default=None, description="flow to start from, by name or folder; null for a new one"
    )
    position_scale: Positive = Field(
        default=1.2, description="length of the state's unit of positions [angstrom]"
    )
    category_scale: Positive = Field(
        default=0.5,
        description="length of the one-hot vectors of types, charges and bonds [state units]",
    )
    network: NetworkConfig = Field(default=NetworkConfig(), description="sizes of the network")
    known_share: Share = Field(
        default=0.35,
        description=(
            "of the examples that give a random part of the molecule, to a conditional network "
            "[share]"
        ),
    )
    optimiser: Literal["muon", "adamw"] = Field(default="muon", description="rule of the optimiser")
    lr: Positive = Field(
        default=2e-3, description="learning rate, the largest of the run [per step]"
    )
    batch_atoms: int = Field(
        default=1728,
        ge=1,
        description="atoms in a batch, all of whose molecules have one size [atoms]",
    )
    train_steps: int | None = Field(
        default=None,
        ge=1,
        description="length of the run; null where minutes or epochs give it [optimiser steps]",
    )
    minutes: Minutes = Field(
        default=None,
        description="length of the run, over all resumes; null where train_steps or epochs give it "
        "[minutes]",
    )
    epochs: float | None = Field(
        default=None,
        gt=0,
        description="length of the run, where neither train_steps nor minutes are set [passes over "
        "the data]",
    )
    warmup_steps: int = Field(
        default=200,
        ge=0,
        description="over which the learning rate rises from zero [optimiser steps]",
    )
    lr_decay_start: Share = Field(
        default=0.35,
        description="of the run, after which the learning rate falls as a cosine; constant until "
        "then [share]",
    )
    times_from: Part = Field(
        default=0.0,
        description=(
            "earliest time at which the data are learned; with init, 0.9 teaches a flow the "
            "geometry of its data and holds it to what it was before [flow time]"
        ),
    )
    parts_only: bool = Field(
        default=False,
        description=(
            "with init, true teaches a conditional flow what completes random parts of the "
            "molecules, and holds what it draws without a part to what it was [true/false]"
        ),
    )
    clip: Positive = Field(
        default=1.0, description="largest norm of the gradient; what is longer is shortened [norm]"
    )
    ema: Part = Field(
        default=0.995,
        description="decay of the running mean of the weights, per step; the mean is what ships "
        "[share]",
    )
    precision: Literal["auto", "float32", "bf16"] = Field(
        default="auto",
        description="of the arithmetic; auto: bf16 where the device has it, else float32",
    )
    seed: Seed = Field(default=0, description="of the weights, batches and noise [number]")
    validate_minutes: Positive = Field(default=5.0, description="between two validations [minutes]")
    checkpoint_minutes: Positive = Field(
        default=3.0, description="between two checkpoints [minutes]"
    )
    sample_every: int = Field(
        default=2, ge=0, description="between two samples that are judged; 0 for none [validations]"
    )
    samples: int = Field(default=128, ge=1, description="drawn for each such sample [molecules]")
    sample_nfe: int = Field(
        default=50, ge=1, description="with which they are drawn [network evaluations]"
    )

    def model_post_init(self, context: Any) -> None:
        if self.times_from and self.init is None:
            raise UserError(
                f"times_from={self.times_from:g} teaches nothing of earlier times, which a flow to "
                "start from has to know: name one with init, or leave times_from out."
            )
        if self.parts_only and (self.init is None or self.times_from):
            raise UserError(
                "parts_only=true holds a flow to start from at all times: name one with init, and "
                "leave times_from out."
            )
        if self.train_steps is None and self.minutes is None and self.epochs is None:
            raise UserError(
                "a training needs its length as train_steps or minutes (or epochs): "
                "--set train_steps=1000."
            )
        if self.train_steps is not None and self.minutes is not None:
            raise UserError(
                "a training has its length as train_steps or minutes, not both: give one and unset "
                "the other, for instance --set train_steps=1000 --set minutes=null."
            )


class SurrogateConfig(Config, command="surrogate"):
    """What `molflowctl surrogate` does."""

    library: str = Field(description="scored: SDF with tags, CSV or Parquet with columns")
    property: str = Field(description="the column to learn")
    out: Path = Field(description="folder of the surrogate")
    smiles_column: SmilesColumn = None
    members: int = Field(
        default=4,
        ge=2,
        le=100,
        description="in the ensemble, whose spread tells what is not known [networks]",
    )
    width: int = Field(default=256, ge=8, le=8192, description="of their two hidden layers [units]")
    epochs: int = Field(default=25, ge=1, description="of training [passes over the library]")
    dropout: Part = Field(
        default=0.3, description="of the hidden units that are left out at random [share]"
    )
    seed: Seed = Field(default=0, description="of the split and the networks [number]")
    jobs: Jobs = 1
    overwrite: Overwrite = False


class ConformerTrainConfig(
    TrainConfig, command="train-conformers", old_names={"boltzmann": "boltzmann_weighted"}
):
    """What `molflowctl train-conformers` does: the settings of a training, these among them."""

    name: str = Field(default="qm9-conformers", description="name of the flow, in its card")
    data: Path = Field(
        default=Path("datasets/qm9-conformers"),
        description="ensembles to learn from, as `molflowctl data prepare-conformers` makes them",
    )
    hydrogens: Literal["explicit", "implicit"] = Field(
        default="explicit",
        description="explicit: the flow places them; implicit: they are added to the heavy atoms",
    )
    boltzmann_weighted: bool = Field(
        default=False, description="draw conformers by their weights, not all alike"
    )
    samples: int = Field(
        default=64, ge=1, description="whose conformers are drawn and compared [molecules]"
    )
    sample_nfe: int = Field(
        default=20, ge=1, description="with which they are drawn [network evaluations]"
    )
    draws: int = Field(default=4, ge=1, description="of each of them [conformers]")

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        if self.network.conditional:
            raise UserError("network.conditional is of de-novo flows: leave it out.")
        if self.parts_only:
            raise UserError("parts_only is of de-novo flows: leave it out.")
