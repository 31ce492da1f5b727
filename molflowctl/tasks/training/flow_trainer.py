"""The loop that trains a flow by flow matching, whatever it is a flow of.

A run is a folder: `config.yaml`, `log.csv`, `tensorboard/`, `checkpoint/` (resumable) and two
flows, `ema/` (averaged weights) and `raw/`. Every random number is a function of (seed, step), so a
resumed run takes the very steps an uninterrupted one would have taken.

The same code runs on a CPU, one GPU, or several: `torchrun --nproc-per-node 4 -m molflowctl train`.
"""

from __future__ import annotations

import copy
import math
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sized
from pathlib import Path
from typing import Any, Generic, Protocol, TypedDict, TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.noise import BatchNoise
from molflowctl.io.config import of_a_record
from molflowctl.io.locks import OutputLock
from molflowctl.io.record import versions
from molflowctl.tasks.training.checkpoint import read_checkpoint, write_checkpoint
from molflowctl.tasks.training.hardware import launched
from molflowctl.tasks.training.log import TrainingLog
from molflowctl.tasks.training.losses import Losses, times_after
from molflowctl.tasks.training.muon import optimisers_of
from molflowctl.tasks.training.settings import NetworkConfig, TrainConfig

__all__ = ["FlowTrainer", "How"]


class _Dataset(Protocol):
    card: dict[str, Any]


F = TypeVar("F", bound=Flow)
D = TypeVar("D", bound=_Dataset)
B = TypeVar("B", bound=Sized)  # molecules of one size


class How(TypedDict, total=False):
    """How a run goes on, where, and what is told of it, see `FlowTrainer`."""

    resume: bool
    device: str
    report: Callable[[dict[str, float]], None]


class FlowTrainer(ABC, Generic[F, D, B]):
    """One training run of some kind of flow; a subclass says what is trained, and on what.

    Arguments:
        config: what to train.
        out: the run's folder.
        resume: continue the checkpoint found there; without one, start.
        report: called with one dict of figures after each validation.

    Raises:
        UserError: if `out` holds a run and `resume` is off, if there is no such device, or if the
            data, the flow to start from or the checkpoint do not fit.
    """

    # What a resume may change: names, how long and where it runs, and how it is looked at. That the
    # data are the same is known by their hash.
    FREE = (
        *("name", "data", "train_steps", "minutes", "epochs", "precision"),
        *("validate_minutes", "checkpoint_minutes"),
        *("sample_every", "samples", "sample_nfe", "draws"),
    )

    def __init__(
        self,
        config: TrainConfig,
        out: str | Path,
        *,
        resume: bool = False,
        device: str = "auto",
        report: Callable[[dict[str, float]], None] = lambda row: None,
    ) -> None:
        self.config, self.out, self.report = config, Path(out), report
        self.log = TrainingLog(self.out)
        self._lock = OutputLock(self.out, folder=True)
        if int(os.getenv("RANK", "0")) == 0:  # of several processes of one run, one writes
            self._lock.acquire()
        try:
            self._begin(resume, device)
        except BaseException:
            self._lock.release()
            raise

    def _begin(self, resume: bool, device: str) -> None:
        """Data, flow and optimisers, as new or as the checkpoint has them."""
        config, out = self.config, self.out
        # What a run of an earlier version put away and was killed before it removed.
        places = (self.out / "checkpoint", self.out / ".checkpoint.old")
        checkpoint = next((place for place in places if place.exists()), None)
        if (checkpoint or (self.out / "library").exists()) and not resume:
            raise UserError(f"{out} already holds a training run; continue it with --resume.")
        others = ("card.json", "parents.json")  # of a flow or a data set, and of a steering
        if not checkpoint and (found := next((n for n in others if (self.out / n).exists()), "")):
            raise UserError(f"{out} holds something else ({found}): choose another folder.")
        self.fabric = self._fabric(device)
        parent = self.flow_class.from_pretrained(config.init).train() if config.init else None
        self.data = self._data(parent, resume)
        self.batches = self._by_size("train")
        self.held_out = self._by_size("validation")
        if not self.batches or not self.held_out:
            raise UserError(f"{config.data} needs molecules to train on and to validate on.")
        # On the device before the optimisers, whose loaded state goes where the parameters are.
        self.flow = self._new_flow(parent).to(self.fabric.device)
        held = config.times_from or config.parts_only
        began = copy.deepcopy(self.flow) if parent and held else None
        if parent is not None:
            self.config = self._as_parent(self.flow)
        if checkpoint:
            self._check_resume()
        self.step, self.elapsed, self.seen, self.epoch = 0, 0.0, 0, 0
        self.average = copy.deepcopy(self.flow).requires_grad_(False)
        optimisers = optimisers_of(self.flow, config.optimiser, config.lr)
        if checkpoint:
            self._load(checkpoint, optimisers)
        module = Losses(self.flow, self._encode, config.times_from, began)
        self.module, *self.optimisers = self.fabric.setup(module, *optimisers)

    # What is trained ------------------------------------------------------------------------------

    flow_class: type[F]
    loss_weights: dict[str, float]

    def _fabric(self, device: str) -> Fabric:
        return launched(device, self.config.precision)

    @abstractmethod
    def _data(self, parent: F | None, resume: bool) -> D:
        """The data set, for a flow to start from if there is one."""

    @abstractmethod
    def _by_size(self, split: str) -> dict[int, B]:
        """The molecules of a split by their number of atoms."""

    @abstractmethod
    def _new_flow(self, parent: F | None) -> F:
        """The flow to train: a new one, or the parent once it is found to fit the data."""

    @abstractmethod
    def _minibatch(self, group: B, rows: Tensor, choice: BatchNoise) -> tuple[Tensor, ...]:
        """Some molecules of one size, as `_encode` takes them, on the device.

        Arguments:
            choice: for what is drawn of a molecule where there is more than one.
        """

    @staticmethod
    @abstractmethod
    def _encode(flow: F, batch: tuple[Tensor, ...]) -> tuple[Any, Any]:
        """The flow of these very molecules, and their states."""

    def _judged_on(self) -> dict[str, Callable[..., tuple[Tensor, ...]]]:
        """Minibatches to validate on, by what the names of their figures begin with."""
        return {"": self._minibatch}

    @staticmethod
    def _validation_times(rows: Tensor, count: int) -> Tensor:
        """Evenly spread numbers in [0, 1) for some of the `count` molecules of a size."""
        return (rows + 0.5) / count

    @abstractmethod
    def _sampled(self, label: str, flow: F) -> dict[str, float]:
        """Figures of what a flow, `raw` or `ema`, generates."""

    # Schedule -------------------------------------------------------------------------------------

    def progress(self) -> float:
        """Share of the run that is done, 0 to 1."""
        c = self.config
        if c.train_steps:
            return min(1.0, self.step / c.train_steps)
        if c.minutes:
            return min(1.0, self.elapsed / 60 / c.minutes)
        assert c.epochs
        return min(1.0, self._epochs() / c.epochs)

    def _epochs(self) -> float:
        return self.seen / sum(len(batch) for batch in self.batches.values())

    def learning_rate(self) -> float:
        """Linear warm-up, constant, then a cosine to 1 % of the peak."""
        c, share = self.config, self.progress()
        warm = min(1.0, (self.step + 1) / max(c.warmup_steps, 1))
        late = max(0.0, (share - c.lr_decay_start) / max(1 - c.lr_decay_start, 1e-9))
        return c.lr * warm * max(0.01, 0.5 * (1 + math.cos(math.pi * late)))

    def _plan(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        """The batches of an epoch: (atoms per molecule, rows), sizes and rows in random order."""
        rng = np.random.default_rng([self.config.seed, epoch])
        plan = []
        for n, batch in self.batches.items():
            rows = rng.permutation(len(batch))
            count = max(1, self.config.batch_atoms // n)
            plan += [(n, rows[k : k + count]) for k in range(0, len(rows), count)]
        return [plan[k] for k in rng.permutation(len(plan))]

    def _steps(self) -> Iterator[tuple[int, np.ndarray]]:
        """All batches from the current step on."""
        done = self.step
        self.epoch = 0
        while True:
            plan = self._plan(self.epoch)
            if done < len(plan):
                yield from plan[done:]
            done = max(0, done - len(plan))
            self.epoch += 1

    # Run ------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Train to the end and return the folder of the averaged flow."""
        try:
            return self._run()
        finally:
            self.log.close()
            self._lock.release()

    def _run(self) -> Path:
        c = self.config
        if self.fabric.is_global_zero:
            self.out.mkdir(parents=True, exist_ok=True)
            c.dump(self.out / "config.yaml")
        if c.init and self.step == 0:  # what the flow makes of these data before it learns
            self._validate(None, sample=False)
        last, validated, saved, validations = time.monotonic(), self.elapsed, self.elapsed, 0
        mean_loss: float | None = None
        for n, rows in self._steps():
            if self.progress() >= 1:
                break
            loss = self._train_step(n, rows)
            if self.step % 20 == 0:  # reading the loss waits for the device
                value = float(loss)
                if not math.isfinite(value):
                    raise self._diverged()
                mean_loss = value if mean_loss is None else 0.95 * mean_loss + 0.05 * value
            if self.fabric.world_size == 1 or self.step % 20 == 0:  # agreeing on it waits for all
                now = time.monotonic()
                self.elapsed, last = self._common(self.elapsed + now - last), now
            if self.elapsed - validated > 60 * c.validate_minutes:
                validations += 1
                sample = c.sample_every and validations % c.sample_every == 0
                self._validate(mean_loss, sample=bool(sample))
                validated, last = self.elapsed, time.monotonic()
            if self.elapsed - saved > 60 * c.checkpoint_minutes:
                self._save()
                saved, last = self.elapsed, time.monotonic()
        if self.fabric.world_size > 1:  # the steps since the last agreement
            self.elapsed = self._common(self.elapsed + time.monotonic() - last)
        row = self._validate(mean_loss, sample=c.sample_every > 0)
        self._save(row)
        return self.out / "ema"

    def _diverged(self) -> UserError:
        return UserError(f"the training diverged by step {self.step}: lower the lr.")

    def _common(self, value: float) -> float:
        """One clock for all processes, so that they stop at the same step."""
        return value if self.fabric.world_size == 1 else float(self.fabric.broadcast(value))

    def _train_step(self, n: int, rows: np.ndarray) -> Tensor:
        c, world, rank = self.config, self.fabric.world_size, self.fabric.global_rank
        seed = int(np.random.SeedSequence([c.seed, self.step, rank]).generate_state(1)[0])
        noise = BatchNoise(seed, self.fabric.device)
        share = torch.from_numpy(rows[rank::world] if len(rows) >= world else rows)
        batch = self._minibatch(self.batches[n], share, BatchNoise(seed + 1))
        # Stratified times: one in each of B equal parts of [0, 1), in random order.
        order = noise.uniform(len(share)).argsort()
        uniform = (order + noise.uniform(1)) / len(share)
        lr = self.learning_rate()
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = lr
            optimiser.zero_grad()
        losses = self.module(batch, uniform, noise, hold=bool(self.step % 2))
        # Batches of an epoch's end are smaller; molecules, not batches, count the same.
        self.fabric.backward(losses.mean() * (len(rows) * n / c.batch_atoms))
        nn.utils.clip_grad_norm_(self.flow.parameters(), c.clip)
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        self.seen += len(rows)
        decay = min(c.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            averages: list[Tensor] = list(self.average.parameters())
            torch._foreach_lerp_(averages, list(self.flow.parameters()), 1 - decay)
        return losses.detach().mean()

    @torch.no_grad()
    def _validation_loss(
        self, flow: F, minibatch: Callable[..., tuple[Tensor, ...]], most: int = 2048
    ) -> dict[str, float]:
        """Every term of the loss on the validation split, common noise, the sizes in proportion."""
        sums: dict[str, float] = {}
        count = sum(len(group) for group in self.held_out.values())
        total = 0
        for n, group in self.held_out.items():
            k = min(len(group), max(1, round(most * len(group) / count)))
            noise, choice = BatchNoise(n, self.fabric.device), BatchNoise(n)
            for rows in torch.arange(k).split(256):
                placed, x1 = self._encode(flow, minibatch(group, rows, choice))
                uniform = self._validation_times(rows, k).to(self.fabric.device)
                t = times_after(placed, uniform, self.config.times_from)
                for name, term in placed.losses(x1, t, noise).items():
                    sums[name] = sums.get(name, 0.0) + float(term.sum())
            total += k
        return {name: value / total for name, value in sums.items()}

    def _validate(self, train_loss: float | None, *, sample: bool) -> dict[str, float]:
        row: dict[str, float] = {
            "minutes": self.elapsed / 60,
            "step": self.step,
            "epoch": self._epochs(),
            "molecules_per_s": self.seen / max(self.elapsed, 1e-9),
            "lr": self.learning_rate(),
            "train_loss": math.nan if train_loss is None else train_loss,
            "progress": self.progress(),
        }
        if self.fabric.is_global_zero:
            for label, flow in (("raw", self.flow), ("ema", self.average)):
                flow.eval()
                with self.fabric.autocast():
                    for kind, minibatch in self._judged_on().items():
                        terms = self._validation_loss(flow, minibatch)
                        row[f"{label}_{kind}loss"] = sum(
                            self.loss_weights[name] * value for name, value in terms.items()
                        )
                        if label == "ema":
                            row |= {f"ema_{kind}{name}": value for name, value in terms.items()}
                    if sample:
                        row |= self._sampled(label, flow)
            self.flow.train()
            self.log.add(row)
            self.report(row)
        self.fabric.barrier()
        return row

    # Checkpoints ----------------------------------------------------------------------------------

    def _save(self, metrics: dict[str, float] | None = None) -> None:
        if not self.fabric.is_global_zero:
            return
        if not all(p.isfinite().all() for p in self.flow.parameters()):
            raise self._diverged()  # and keep the last good checkpoint
        counters = {"step": self.step, "elapsed": self.elapsed, "seen": self.seen}
        flows = {"raw": self.flow, "ema": self.average}
        known = counters | {"data_sha256": self.data.card["sha256"]}
        write_checkpoint(self.out / "checkpoint", flows, self.optimisers, known)
        shutil.rmtree(self.out / ".checkpoint.old", ignore_errors=True)
        card: dict[str, Any] = {
            "name": self.config.name,
            "data": self.data.card,
            "training": {
                "config": self.config.model_dump(mode="json"),
                "hours": round(self.elapsed / 3600, 3),
                "hardware": f"{self.fabric.world_size} x {self.fabric.device.type}, "
                f"{torch.get_num_threads()} threads",
                "precision": str(self.fabric._precision.precision),
                "versions": versions(),
                **counters,
            },
        }
        if metrics:
            card["training"]["last_validation"] = {
                k: round(v, 5) for k, v in metrics.items() if math.isfinite(v)
            }
        for name, flow in flows.items():
            copy.deepcopy(flow).save(self.out / name, card)

    def _as_parent(self, parent: F) -> TrainConfig:
        """The settings, with what a flow has and no training changes.

        Raises:
            UserError: where the settings ask for something else.
        """
        c, own = self.config, dict(parent.arguments)
        if "network" in own:
            own["network"] = NetworkConfig(**own["network"])
        fixed: dict[str, Any] = {
            k: own[k] for k in ("network", "position_scale", "category_scale") if k in own
        }
        for name, value in fixed.items():
            if name in c.model_fields_set and name != "network" and getattr(c, name) != value:
                raise UserError(
                    f"{name} is {getattr(c, name)}, and that of {c.init} {value}: a flow that goes "
                    f"on learning keeps it, leave {name}= out."
                )
        return c.model_copy(update=fixed)

    def _child_card(self, parent: F) -> dict[str, Any]:
        """The card of a flow that goes on learning from `init`: how it is drawn, and from what."""
        kept = {key: parent.card[key] for key in ("sampling",) if key in parent.card}
        sha256 = parent.card.get("weights_sha256")
        return kept | {"parents": [{"name": self.config.init, "weights_sha256": sha256}]}

    def _check_resume(self) -> None:
        """Refuse settings that would make the steps to come those of another run."""
        path = self.out / "config.yaml"
        if not path.exists():
            return
        with of_a_record():
            earlier = type(self.config).read(path).model_dump(mode="json")
        now = self.config.model_dump(mode="json")
        differ = [
            f"{key} = {earlier[key]}, not {now[key]}"
            for key in now
            if key not in self.FREE and earlier[key] != now[key]
        ]
        if differ:
            raise UserError(
                f"the run in {self.out} was begun with {'; '.join(differ)}: resume it as it was "
                f"begun, or start a new run in another folder."
            )

    def _load(self, folder: Path, optimisers: list[torch.optim.Optimizer]) -> None:
        counters = read_checkpoint(folder, {"raw": self.flow, "ema": self.average}, optimisers)
        self.step, self.elapsed, self.seen = (counters[k] for k in ("step", "elapsed", "seen"))
        if counters.get("data_sha256", self.data.card["sha256"]) != self.data.card["sha256"]:
            raise UserError(
                f"the run in {self.out} began with other data than what is in {self.config.data} "
                "now: go on as it began, or start a new run in another folder."
            )
