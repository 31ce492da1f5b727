"""The flow: a path, a prior and a network that predicts where noise came from.

Subclasses say what their states are; everything that trains, samples, steers or stores a flow works
on this interface alone. A flow is stored as a folder: `weights.safetensors` (16-bit floats) and
`card.json` (its kind, constructor arguments, lineage, metrics and the hash of the weights).
"""

from __future__ import annotations

import difflib
import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from molflowctl.compute.plugins import FLOWS, load_installed
from molflowctl.errors import UserError
from molflowctl.flows.card import CARD, read_card, sealed, size_fault
from molflowctl.flows.covariance import Covariance, Isotropic
from molflowctl.flows.hooks import bring_operators
from molflowctl.flows.noise import BatchNoise, Noise
from molflowctl.flows.path import LinearPath
from molflowctl.flows.path import Path as ProbabilityPath
from molflowctl.flows.samplers import SAMPLERS, Sampler, draw, uniform_grid
from molflowctl.flows.state import State, dot
from molflowctl.io.atomic import replacing_folder, write_files
from molflowctl.io.plain_files import check_regular, json_text

__all__ = ["WEIGHTS", "Flow", "flow_names", "operator"]

WEIGHTS = "weights.safetensors"
LARGEST_FILE = 4_000_000_000  # bytes of weights
PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".joblib")


class Flow(nn.Module):
    """A generative flow on states; parametrised by the endpoint `E[x_1 | x_t]`.

    A subclass implements `endpoint` and `start`, that is all that samplers and solvers need. To be
    saved and found again it sets `kind`, takes keyword arguments that JSON can hold and hands them
    to this constructor, which keeps them in `self.arguments`. States are tensors or `State`,
    whichever the subclass says. A network that is trained already needs no subclass, see
    `VelocityFlow` (flows/velocity.py).
    """

    kind: ClassVar[str] = ""
    kinds: ClassVar[dict[str, type[Flow]]] = {}
    guided_as: ClassVar[type[Any] | None] = None  # the kind of `Guided` that guides this one
    # `a & b` and so on, see control/operators.py
    operators: ClassVar[dict[str, Callable[[Any, Any], Any]]] = {}
    shelves: ClassVar[list[Path]] = []  # folders of flows that are found by name

    trace: Literal["exact", "hutchinson"] = "exact"  # what a likelihood can afford
    near_data: float = 0.05  # how long before the end of the path the score of data is read off

    path: ProbabilityPath = LinearPath()
    covariance: Covariance = Isotropic()  # `C` of the prior
    arguments: dict[str, Any]
    card: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        kind = cls.__dict__.get("kind", "")
        if not kind:
            return  # what is inherited names the class it is inherited from
        other = Flow.kinds.get(kind, cls)
        if _name(other) != _name(cls):  # the same again is a module that was reloaded
            raise UserError(
                f"the kind {kind!r} of {_name(cls)} is taken by {_name(other)}: choose another."
            )
        Flow.kinds[kind] = cls

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = arguments
        self.card = {}

    def endpoint(self, x: Any, t: Tensor) -> Any:
        """`E[x_1 | x_t = x]` at times `t` of shape `(B,)`."""
        raise NotImplementedError(f"{type(self).__name__} has no `endpoint`")

    def noise_like(self, x: Any, noise: Noise) -> Any:
        """A draw from the prior `N(0, C)` in the shape of `x`, a tensor or a `State`."""

        def draw(part: Tensor) -> Tensor:
            return noise.normal(*part.shape).to(part)

        return self.covariance.power(x.map(draw) if isinstance(x, State) else draw(x), 0.5)

    def state_space(self) -> str:
        """What the flow's states are, equal for flows whose states can be exchanged."""
        return self.kind

    def start(self, batch: int, noise: BatchNoise) -> Any:
        """`batch` draws from the prior, all of one shape: where a generation starts."""
        raise NotImplementedError(f"{type(self).__name__} has no `start`")

    def velocity(self, x: Any, t: Tensor) -> Any:
        """`E[dx_t/dt | x_t = x]`, of the shape of `x`, at times `t` of shape `(B,)`."""
        return self.path.velocity(self.endpoint(x, t), x, t)

    def score_function(self, x: Any, t: Tensor) -> Any:
        """`C grad log p_t(x)`, the score of statistics, of the shape of `x`."""
        return self.path.score(self.velocity(x, t), x, t)

    def score(self, x: Any, t: Tensor | None = None) -> Any:
        """The former name of `score_function`, a state; molecules are scored by `molflowctl.score`.

        Raises:
            UserError: without times, as if molecules were to be scored.
        """
        if t is None:
            raise UserError(
                "a flow has no properties to score: molecules are scored by "
                "molflowctl.properties.score(mols, [names]); the gradient of a flow's log-density "
                "is score_function(x, t)."
            )
        warnings.warn("Flow.score is now score_function", DeprecationWarning, stacklevel=2)
        return self.score_function(x, t)

    def value_network(self) -> nn.Module:
        """A new network `(x, t) -> (B,)`, zero everywhere, to learn values of noisy states with.

        Raises:
            UserError: if the flow has none.
        """
        raise UserError(
            f"a flow of kind {self.kind!r} has no value network: use another inner solver."
        )

    def guided(self) -> Flow:
        """A copy of this flow with a `value` of noisy states that guides it, see `Guided`.

        The value of a flow that is guided already is kept; any other is zero at first.

        Raises:
            UserError: if it cannot be.
        """
        if self.guided_as is not None:
            guided: Flow = self.guided_as.of(self)
            return guided
        self.value_network()
        raise UserError(f"a flow of kind {self.kind!r} cannot be guided: use another inner solver.")

    def trainable(self) -> Flow:
        """A flow of the same density with parameters to train."""
        return self

    def start_as(self, flows: Sequence[Flow], shares: Sequence[float]) -> Flow:
        """This flow, its draws started as those of the mixture of `flows` with `shares`.

        The prior is one for all; a subclass has more to say where a draw has a shape to choose.
        """
        return self

    def loss(self, x1: Any, t: Tensor, noise: Noise) -> Tensor:
        """The flow-matching loss `|v(x_t, t) - (a' x_1 + b' x_0)|^2` of each element, `(B,)`."""
        x0 = self.noise_like(x1, noise)
        xt = self.path.sample(x0, x1, t)
        gap = self.velocity(xt, t) - self.path.velocity(x1, xt, t)
        return dot(gap, gap)

    def draw_times(self, uniform: Tensor) -> Tensor:
        """Times to learn at, `(B,)`, for `uniform` in [0, 1), `(B,)`.

        A subclass spends them where they matter.
        """
        return uniform

    def grid(self, steps: int) -> list[float]:
        """`steps + 1` times of a generation; a subclass spends steps where they matter."""
        return uniform_grid(steps)

    def endpoint_error(self, endpoint: Any, target: Any, t: Tensor) -> Tensor:
        """Squared error of an endpoint, `(B,)`, for regressions onto a corrected endpoint.

        Divided by `(1-t)^2`, where the error of a velocity is measured, up to a factor of 20.
        """
        gap = endpoint - target
        return dot(gap, gap) * (1 / ((1 - t).square() + 0.02)).clamp(max=20)

    def transport(self, x0: Any, sampler: Sampler, grid: list[float], noise: Noise) -> Any:
        """Carry noise `x0` along the times of `grid` with `sampler`."""
        return draw(self, sampler, x0, grid, noise)

    def draw_states(self, n: int, *, seed: int = 0, sampler: str = "heun", nfe: int = 50) -> Any:
        """`n` data states of one shape, from `evaluations` of the network each.

        Heun's rule draws a Gaussian's variance right with 20 steps, where 40 ancestral ones lose
        15 % of it; a flow that is not exact may gain from an ancestral sampler all the same.
        """
        noise, stepper = BatchNoise(seed, self.device), SAMPLERS[sampler]
        grid = self.grid(nfe // stepper.nfe)
        return self.transport(self.start(n, noise), stepper, grid, noise)

    def sample(self, n: int, *, seed: int = 0, **sampling: Any) -> Any:
        """`n` samples: data states, or what the subclass makes of them."""
        return self.draw_states(n, seed=seed, **sampling)

    @property
    def device(self) -> torch.device:
        """Where the parameters are; the CPU for a flow without any."""
        return next(chain(self.parameters(), self.buffers(), [torch.empty(0)])).device

    def __and__(self, other: Any) -> Any:
        return operator("&")(self, other)

    def __or__(self, other: Any) -> Any:
        return operator("|")(self, other)

    def __sub__(self, other: Any) -> Any:
        return operator("-")(self, other)

    # Storage --------------------------------------------------------------------------------------

    def save(
        self, folder: str | Path, card: dict[str, Any] | None = None, *, half: bool = True
    ) -> Path:
        """Write the folder; `card` adds to what the flow's own card says.

        Floats are stored as float16 unless `half` is off: what a run resumes from must be exact.
        Card and weights are replaced together: in a folder that holds nothing else, as one.

        Raises:
            UserError: if the folder cannot be written; the flow that was there stays. For a class
                without a `kind` of its own, which `load` could not find again.
        """
        if "kind" not in type(self).__dict__ or not self.kind:
            raise UserError(
                f"{type(self).__name__} has no kind, by which a saved flow is found again: write "
                f'kind = "my-flow" in the class, and hand its arguments to super().__init__.'
            )
        folder = Path(folder)
        state = self.state_dict()
        tensors = {k: (_half(v) if half else v).contiguous() for k, v in state.items()}
        weights = save(tensors)
        self.card = {
            **self.card,
            **(card or {}),
            "kind": self.kind,
            "arguments": self.arguments,
            "parameters": sum(p.numel() for p in self.parameters()),
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
        }
        self.card = sealed(self.card)
        text = json_text(self.card) + "\n"
        others = folder.is_dir() and {p.name for p in folder.iterdir()} - {WEIGHTS, CARD}
        if others:
            write_files({folder / WEIGHTS: weights, folder / CARD: text})
        else:
            with replacing_folder(folder) as fresh:
                (fresh / WEIGHTS).write_bytes(weights)
                (fresh / CARD).write_text(text)
        return folder

    def stored(self, folder: str | Path) -> Flow:
        """What this flow became in a folder that one like it was saved to."""
        return Flow.load(folder).to(self.device)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a flow from its folder. Only safetensors are opened, never a pickle.

        Raises:
            UserError: if the folder, its card or its weights are missing, foreign or damaged.
        """
        folder = Path(folder)
        if folder.suffix.lower() in PICKLES:
            if not folder.exists():
                raise UserError(f"{folder} does not exist. Give the folder of a flow.")
            raise UserError(
                f"{folder} looks like a pickle, which can run code when it is opened, so it was "
                f"not read. Give the folder of a flow, with {WEIGHTS} and {CARD}."
            )
        card = read_card(folder)
        arguments, kind = card["arguments"], card["kind"]
        if kind not in Flow.kinds:
            load_installed(FLOWS)
        known = {name: kept for name, kept in Flow.kinds.items() if issubclass(kept, cls)}
        if kind not in known:
            strange = kind not in Flow.kinds
            hint = " A kind of your own is known after --import FILE.py." if strange else ""
            raise UserError(
                f"{folder} holds a flow of kind {kind!r}; expected one of {sorted(known)}.{hint}"
            )
        tensors = _read_weights(folder / WEIGHTS, card.get("weights_sha256"))
        if Flow.kinds[kind].__module__.startswith("molflowctl."):
            stored = sum(tensor.numel() for tensor in tensors.values())
            if wrong_size := size_fault(arguments, stored):
                raise UserError(f"{folder / CARD} has arguments this version rejects: {wrong_size}")
        flow = _built(folder, kind, arguments)
        return flow._filled(folder, card, tensors)  # type: ignore[return-value]

    def filled(self, folder: str | Path) -> Flow:
        """This flow with the weights of a folder that one like it was saved to.

        Raises:
            UserError: if its card or weights are missing, damaged or of another network.
        """
        folder = Path(folder)
        card = read_card(folder)
        tensors = _read_weights(folder / WEIGHTS, card.get("weights_sha256"))
        return self._filled(folder, card, tensors)

    def _filled(self, folder: Path, card: dict[str, Any], tensors: dict[str, Tensor]) -> Flow:
        own = self.state_dict()
        wrong = sorted(own.keys() ^ tensors.keys())
        wrong += [k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape]
        if wrong:
            raise UserError(
                f"{folder / WEIGHTS} does not fit the network its card describes "
                f"({len(wrong)} tensors differ, for instance {wrong[0]!r})."
            )
        self.load_state_dict({k: v.to(own[k].dtype) for k, v in tensors.items()})
        self.card = card
        return self.eval()

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """Load a flow by its name or its folder.

        A bare name is looked up first among those of `flow_names`, so that a folder which happens
        to be called `qm9` does not hide the shipped flow; `./qm9` is always the folder.

        Raises:
            UserError: if nothing of that name is found (with the nearest names), or it is damaged.
        """
        known = flow_names()
        if str(name) in known:
            return cls.load(known[str(name)])
        folder = Path(name)
        if folder.exists() or folder.suffix.lower() in PICKLES:
            return cls.load(folder)
        near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.3)
        hint = f"known: {', '.join(known) or 'none'}."
        if near:
            hint = f"did you mean {' or '.join(near)}?"
        raise UserError(f"there is no flow or folder {str(name)!r}; {hint}")


def flow_names() -> dict[str, Path]:
    """Every flow that is found by name: the shipped ones and those in the folder MOLFLOWCTL_ZOO."""
    load_installed(FLOWS)
    shelves = [*Flow.shelves, *(Path(p) for p in [os.environ.get("MOLFLOWCTL_ZOO")] if p)]
    return {card.parent.name: card.parent for s in shelves for card in sorted(s.glob(f"*/{CARD}"))}


def _built(folder: Path, kind: str, arguments: dict[str, Any]) -> Flow:
    """The flow that a card describes, with weights that mean nothing yet."""
    try:
        return Flow.kinds[kind](**arguments)
    except UserError as error:
        raise UserError(f"{folder / CARD}: {error}") from None
    except Exception as error:  # whatever a constructor makes of arguments that others wrote
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{folder / CARD} has arguments this version rejects: {text}.") from None


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def operator(symbol: str) -> Callable[..., Any]:
    """What stands behind `a & b` or `around`; layers above register it, and are brought in here."""
    bring_operators()
    return Flow.operators[symbol]


def _half(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


def _read_weights(path: Path, expected: str | None) -> dict[str, Tensor]:
    try:
        if (size := check_regular(path)) > LARGEST_FILE:
            raise UserError(f"{path} has {size:,} bytes, which no flow's weights have.")
        with path.open("rb") as file:
            head = file.read(9)
            file.seek(0)
            # Pickles start with the PROTO opcode, zipped torch files with PK; safetensors with the
            # eight bytes of a length and a brace.
            if (head[:1] == b"\x80" or head[:2] == b"PK") and head[8:9] != b"{":
                raise UserError(
                    f"{path} is a pickle, which can run code when it is opened, so it was not read."
                )
            if expected and hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise UserError(
                    f"{path} is damaged or was exchanged: its SHA-256 is not its card's."
                )
        tensors = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path.parent} has a card but no {WEIGHTS}.") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}.") from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(
                f"{path} holds numbers that are not finite (in {name!r}): a training that went "
                f"astray, or damage. Nothing can be drawn from it."
            )
    return tensors
