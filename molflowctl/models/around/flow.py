r"""A flow around what is given: a part of every molecule is known, the rest is drawn.

    around = flow.around(Core.from_smiles("[*:1]c1ccc(cc1)S(N)(=O)=O"))

The known parts of the endpoint are set to what they are. Types, charges and bonds of the core are
its one-hots, and a bond to the rest has the order none but at open atoms, where the orders that
leave a valence too many are out and the others share the probability. Positions of a rigid body are
those of the core, superposed on the predicted ones at every evaluation (Kabsch), so that the flow
commutes with rotations as before. With the endpoint of a part given, its path is exact.

The network of a conditional flow is told all this, and drawn with less noise (`TOLD_CHURN`):
fewer molecules repeat. Others take more (`CHURN`): what does not fit gets another chance.

A molecule is varied by starting at `t = 1 - 0.3 sqrt(noise)` from `a_t x_1 + b_t x_0` (SDEdit: Meng
et al., arXiv 2108.01073).

References:
    Lugmayr et al., RePaint, arXiv 2201.09865 (known parts set while the rest is drawn).
    Kabsch, doi:10.1107/S0567739476001873 (superposition).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from rdkit import Chem
from torch import Tensor, nn

from molflowctl.chem.graphs import Graph3D
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.guided import Guided
from molflowctl.flows.noise import Noise
from molflowctl.flows.samplers import Sampler
from molflowctl.flows.state import State
from molflowctl.models.around.attachments import Attachments, connected
from molflowctl.models.around.core import Core
from molflowctl.models.around.hands import Hands
from molflowctl.models.around.part import Part, of_pairs, told
from molflowctl.models.around.sides import on_their_sides
from molflowctl.models.around.told import Known
from molflowctl.models.denovo import DeNovoFlow, network_inputs
from molflowctl.models.feynman_kac import FeynmanKacFlow
from molflowctl.models.molecule_flow import MoleculeFlow
from molflowctl.models.network import Reader, Seen

__all__ = ["AroundFlow", "GuidedAroundFlow", "rotation_onto", "superposed"]

CHURN = 40.0  # of a network that is not told: benzenesulfonamide, valid 19, 45, 69 % at 1, 10, 40
TOLD_CHURN = 4.0  # at most, if it is told: 90, 93, 94 % unique and 99, 96, 95 % valid at 20, 4, 2
# Of the path, from its end: before it no graph is left. The root makes similarity fall evenly.
FORGOTTEN = 0.3
PARTS = ("positions", "atoms", "charges", "bonds")


class AroundFlow(MoleculeFlow):
    """A flow whose molecules have a core.

    Arguments:
        flow: `{"kind": ..., "arguments": ...}` of the flow that draws the rest.
        core: what is known, as `Core.plain` has it; None where nothing is.
        sizes: as of a flow; of those that have room for the core.
        like: `(numbers, charges, bonds, positions)` of a molecule to vary, core first, as lists;
            bonds as a square matrix.
        noise: how much it is varied, from 0 to 1, where its graph is forgotten.
    """

    kind = "around"

    def __init__(
        self,
        flow: dict[str, Any],
        core: dict[str, Any] | None,
        sizes: dict[str, int],
        like: list[Any] | None = None,
        noise: float | None = None,
    ) -> None:
        super().__init__(flow=flow, core=core, sizes=sizes, like=like, noise=noise)
        inner = Flow.kinds[flow["kind"]](**flow["arguments"])
        if not isinstance(inner, MoleculeFlow) or isinstance(inner, AroundFlow):
            raise ValueError(f"no flow of kind {flow['kind']!r} is drawn around a core")
        if (like is None) != (noise is None) or (noise is not None and not 0 < noise <= 1):
            raise ValueError("a molecule to vary, and a noise above 0 and up to 1")
        self.flow = inner
        self.core = None if core is None else Core.from_plain(core)
        self.like = None if like is None else tuple(torch.tensor(part) for part in like)
        self.noise = noise
        self.elements, self.hydrogens = inner.elements, inner.hydrogens
        self.sizes = {int(n): count for n, count in sizes.items()}
        self.path, self.covariance, self.trace = inner.path, inner.covariance, inner.trace
        self._held: dict[tuple[int, torch.device], _Held] = {}
        for part in inner.modules():
            if isinstance(part, DeNovoFlow):
                part.known_of = self.known

    @classmethod
    def of(
        cls,
        flow: MoleculeFlow,
        core: Core | str | None,
        *,
        like: Graph3D | None = None,
        noise: float | None = None,
        sizes: dict[int, int] | None = None,
    ) -> Self:
        """The flow around a core, with the weights of a trained one.

        Arguments:
            core: known atoms, or a SMILES.
            like: a molecule to vary by `noise`, whose first atoms are the core's; its size is kept.
            sizes: of the molecules; by default those of the flow with room for what it is to bond.

        Raises:
            UserError: for a flow that cannot be held, or a core that it has no place for.
        """
        if isinstance(core, str):
            core = Core.from_smiles(core)
        if isinstance(flow, FeynmanKacFlow | AroundFlow):
            what = (
                "is drawn by swarms" if isinstance(flow, FeynmanKacFlow) else "has a core already"
            )
            raise UserError(f"this flow {what}: take the flow that it was made of.")
        if flow.hydrogens != "implicit":
            raise UserError("a core is of heavy atoms: take a flow whose hydrogens are implicit.")
        _check(flow, core, like)
        wanted = {len(like.numbers): 1} if like is not None else sizes or flow.sizes
        kept = wanted if core is None or like else core.with_room(wanted, usual=not sizes)
        if core is not None and not kept:
            raise UserError(
                f"the core has {len(core)} heavy atoms, and the flow's molecules at most "
                f"{max(flow.sizes)}: there is no room for more."
            )
        around = cls(
            flow={"kind": flow.kind, "arguments": flow.arguments},
            core=None if core is None else core.plain(),
            sizes={str(n): count for n, count in kept.items()},
            like=None if like is None else [part.tolist() for part in vars(like).values()],
            noise=noise,
        )
        around.flow.load_state_dict(flow.state_dict())
        around.card = dict(flow.card)
        own = (sampling := around.card.get("sampling", {})).get("churn", 1.0)
        churn = min(TOLD_CHURN, own) if around.informed else max(CHURN, own)
        if core is not None and churn != own:
            around.card["sampling"] = {**sampling, "churn": churn}
        return around.to(flow.device).eval()

    @property
    def informed(self) -> bool:
        """Whether the network is told of the core."""
        return isinstance(self.flow, DeNovoFlow) and self.flow.conditional

    def state_space(self) -> str:
        return self.flow.state_space()

    def prior(self, batch: int, atoms: int, noise: Noise) -> Any:
        return self.flow.prior(batch, atoms, noise)

    def noise_like(self, x: Any, noise: Noise) -> Any:
        return self.flow.noise_like(x, noise)

    def encode(self, numbers: Tensor, charges: Tensor, bonds: Tensor, positions: Tensor) -> Any:
        return self.flow.encode(numbers, charges, bonds, positions)

    def decode(self, x: Any) -> list[Graph3D]:
        """The molecules, where the core has a pose as they stand in it, and else of its hand."""
        graphs = self.flow.decode(x)
        if self.core is None:
            return graphs
        if not self.core.pose:
            return [_of_its_hand(graph, self.core) for graph in graphs]
        target = np.array(self.core.positions)
        return [_moved(graph, target) for graph in graphs]

    def round(self, x: Any) -> Any:
        return self.flow.round(x)

    def flaw_of(self) -> Callable[[Graph3D], str] | None:
        """See `MoleculeFlow`: the stereo of the core."""
        return None if self.core is None or self.core.hands == Hands() else self.core.flaw

    def check_sampler(self, sampler: Sampler) -> None:
        self.flow.check_sampler(sampler)

    def grid(self, steps: int) -> list[float]:
        return self.flow.grid(steps)

    def draw_times(self, uniform: Tensor) -> Tensor:
        return self.flow.draw_times(uniform)

    def value_network(self) -> nn.Module:
        return self.flow.value_network()

    def endpoint_error(self, endpoint: Any, target: Any, t: Tensor) -> Tensor:
        return self.flow.endpoint_error(endpoint, target, t)

    def loss(self, x1: Any, t: Tensor, noise: Noise) -> Tensor:
        return self.flow.loss(x1, t, noise)

    def transport(self, x0: Any, sampler: Sampler, grid: list[float], noise: Noise) -> Any:
        """See `Flow`; of a molecule to vary from the time on at which it has its share of noise."""
        if self.like is None or self.noise is None:
            return super().transport(x0, sampler, grid, noise)
        numbers, charges, bonds, positions = self.like
        n, start = len(numbers), 1.0 - FORGOTTEN * self.noise**0.5
        first, second = np.triu_indices(n, 1)
        given = numbers, charges, bonds[first, second].long(), positions.float()
        x1 = self.encode(*(part[None] for part in given)).to(self.device)
        batch = len(next(iter(x0.values())))
        x1 = x1.map(lambda part: part.expand(batch, *part.shape[1:]))
        x = self.path.sample(x0, x1, torch.full((batch,), start, device=self.device))
        return super().transport(x, sampler, [start, *(t for t in grid if t > start)], noise)

    # What is held ---------------------------------------------------------------------------------

    def endpoint(self, x: State, t: Tensor) -> State:
        """The endpoint of the flow, with what is known of it as it is."""
        return self.hold(self.flow.endpoint(x, t))

    def hold(self, end: State) -> State:
        """An endpoint whose core is as it is given."""
        if self.core is None:
            return end
        held, k = self._of(end), len(self.core)
        parts = dict(end.items())
        for name in ("atoms", "charges"):
            known = held.state[name].to(end[name]).expand(end[name].shape[0], -1, -1)
            parts[name] = torch.cat([known[:, :k], end[name][:, k:]], 1)
        inside = held.inside[:, None]
        rest = held.across.apply(end["bonds"])
        bonds = torch.where(inside, held.state["bonds"].to(rest), rest)
        bonds = connected(bonds, end["positions"].shape[1])
        parts["bonds"] = held.across.apply(bonds)  # numbers are numbers, with all that was moved
        positions = end["positions"]
        for atoms, given in held.bodies:
            placed = superposed(given.to(positions), positions[:, atoms])
            positions = positions.index_copy(1, atoms, placed)
        positions = on_their_sides(positions, parts["bonds"], self.core.hands, k)
        parts["positions"] = positions - positions.mean(1, keepdim=True)
        return State(end.given, **parts)

    def known(self, x: State) -> Known | None:
        """What the network is told of states."""
        if self.core is None:
            return None
        known = self._of(x).known
        batch, like = x["positions"].shape[0], x["positions"]
        return Known(
            *((part if part.dtype == torch.bool else part.to(like)).expand(batch, *part.shape[1:])
              for part in known)
        )  # fmt: skip

    def _of(self, x: State) -> _Held:
        """What is held of states of this size."""
        n, device = x["positions"].shape[1], x["positions"].device
        if (n, device) not in self._held:
            assert self.core is not None
            self._held[n, device] = _Held.of(self.flow, self.core, n, device)
        return self._held[n, device]


class GuidedAroundFlow(Guided, AroundFlow):
    """A flow around a core along the gradient of a value of its noisy molecules."""

    kind = "around-guided"
    window = (0.3, 0.97)

    @classmethod
    def of(cls, flow: Flow, *_: Any, **__: Any) -> Self:  # type: ignore[override]
        if not isinstance(flow, AroundFlow) or type(flow.flow) is not DeNovoFlow:
            raise UserError(
                "a flow that is guided or made of several cannot be guided around a core: "
                "use another inner solver."
            )
        guided = cls(**flow.arguments).to(flow.device)
        guided.load_state_dict(flow.state_dict(), strict=False)
        sampling = flow.card.get("sampling", {})
        guided.card = {"sampling": {**sampling, "churn": max(16.0, sampling.get("churn", 1.0))}}
        return guided.eval()

    def draw_times(self, uniform: Tensor) -> Tensor:
        return self.window[0] + (self.window[1] - self.window[0]) * uniform

    def reader(self) -> nn.Module:
        assert isinstance(self.flow, DeNovoFlow)
        return Reader(self.flow.network).to(self.device)

    def see(self, x: State, t: Tensor) -> Seen:
        assert isinstance(self.flow, DeNovoFlow)
        return self.flow.network.see(*network_inputs(x, t), self.known(x))

    def end_seen(self, seen: Seen, x: State, t: Tensor) -> State:
        assert isinstance(self.flow, DeNovoFlow)
        prediction = self.flow.network.predict(seen.h, seen.e, seen.x)
        return self.hold(self.flow.endpoint_of(self.flow.named(prediction), x, t))

    def endpoint(self, x: State, t: Tensor) -> State:
        """Guided; what is known of it stays as it is all the same."""
        return self.hold(super().endpoint(x, t))


class _Held:
    """What is known of molecules of one size, as tensors.

    Attributes:
        state: the core's state, zero elsewhere; batch of one.
        inside: bonds that are known, `(M,)` bool.
        across: what is known of the bonds between the core and the rest.
        bodies: atoms of every rigid body, and their centred positions in the state's units.
        known: what a network is told, batch of one.
    """

    def __init__(
        self,
        state: State,
        inside: Tensor,
        across: Attachments,
        bodies: list[tuple[Tensor, Tensor]],
        known: Known,
    ) -> None:
        self.state, self.inside, self.across = state, inside, across
        self.bodies, self.known = bodies, known

    @classmethod
    @torch.no_grad()
    def of(cls, flow: MoleculeFlow, core: Core, n: int, device: torch.device) -> _Held:
        """Of molecules of `n` atoms, the core's first."""
        k, rest = len(core), n - len(core)
        first, second = np.triu_indices(n, 1)
        orders = np.zeros((n, n), np.int64)
        orders[:k, :k] = core.bond_matrix()
        places = np.zeros((n, 3))
        if core.positions is not None:
            places[:k] = core.positions
        state = flow.encode(
            torch.tensor([[*core.numbers, *[flow.elements[0]] * rest]]),
            torch.tensor([[*core.charges, *[0] * rest]]),
            torch.from_numpy(orders[first, second])[None],
            torch.from_numpy(places).float()[None],
        ).to(device)
        across = Attachments.of(core, n, state["bonds"].shape[-1], device)
        bodies = []
        labels = np.array([*core.bodies, *[0] * rest])
        for number in sorted(set(labels[labels > 0])):
            atoms = torch.from_numpy(np.flatnonzero(labels == number)).to(device)
            given = state["positions"][0, atoms]
            bodies.append((atoms, given - given.mean(0)))
        known_atoms = torch.arange(n) < k
        part = Part(
            known_atoms[None],
            torch.tensor([[*(h > 0 for h in core.room), *[False] * rest]]),
            torch.tensor([[*core.stated, *[0] * rest]]),
            torch.from_numpy(labels)[None],
        )
        part = Part(*(values.to(device) for values in part))
        return cls(
            state, of_pairs(part)[0][0], across, bodies, told(state, part),
        )  # fmt: skip


def rotation_onto(given: Tensor, wanted: Tensor) -> Tensor:
    """The rotations `(B,3,3)` that bring `given`, `(k,3)`, nearest to `wanted`, `(B,k,3)`.

    Both are centred. In double precision, since it decides where a delivered core is.
    """
    covariance = torch.einsum("ki,bkj->bij", given.double(), wanted.double())
    u, _, vt = torch.linalg.svd(covariance)
    hand = torch.ones_like(u[:, 0])
    hand[:, 2] = torch.linalg.det(vt.mT @ u.mT).sign()  # no reflection
    return (vt.mT * hand[:, None]) @ u.mT


def superposed(given: Tensor, wanted: Tensor) -> Tensor:
    """Points moved as a rigid body to where they are nearest to others, `(B,k,3)`.

    Arguments:
        given: `(k,3)`, centred.
        wanted: `(B,k,3)`; where it is as a whole is differentiated, how it is turned is not.
    """
    centre = wanted.mean(1, keepdim=True)
    with torch.no_grad():
        rotation = rotation_onto(given, wanted - centre)
        turned = torch.einsum("bij,kj->bki", rotation, given.double()).to(wanted)
    return turned + centre


def _of_its_hand(graph: Graph3D, core: Core) -> Graph3D:
    """The molecule, or its mirror image if all centres of the core are the other ones."""
    if not core.hands.centres or not np.isfinite(graph.positions).all():
        return graph

    def right(one: Graph3D) -> bool:
        return min(core.hands.signs(one, len(core))[0]) > 0

    flipped = graph.positions * np.array([1.0, 1.0, -1.0])
    mirrored = Graph3D(graph.numbers, graph.charges, graph.bonds, flipped)
    return mirrored if not right(graph) and right(mirrored) else graph


def _moved(graph: Graph3D, target: np.ndarray) -> Graph3D:
    """A molecule as a rigid body, its first atoms on the target, `(k,3)`."""
    x = torch.from_numpy(graph.positions).double()
    own = x[: len(target)]
    if not bool(x.isfinite().all()):
        return graph  # which is no molecule
    goal = torch.from_numpy(target)
    rotation = rotation_onto(own - own.mean(0), (goal - goal.mean(0))[None])[0]
    moved = (x - own.mean(0)) @ rotation.T + goal.mean(0)
    return Graph3D(graph.numbers, graph.charges, graph.bonds, moved.numpy())


def _check(flow: MoleculeFlow, core: Core | None, like: Graph3D | None) -> None:
    """Check that a flow can draw what is given.

    Raises:
        UserError: which names what it lacks.
    """
    symbol = Chem.GetPeriodicTable().GetElementSymbol
    numbers = like.numbers.tolist() if like is not None else list(core.numbers if core else ())
    charges = like.charges.tolist() if like is not None else list(core.charges if core else ())
    what = "the molecule to vary" if like is not None else "the core"
    if lacking := sorted({symbol(z) for z in numbers if z not in flow.elements}):
        known = ", ".join(map(symbol, flow.elements))
        raise UserError(f"{what} has {', '.join(lacking)}; the flow draws {known}.")
    known_charges: Sequence[int] = getattr(flow, "charges", [0])
    if strange := sorted({q for q in charges if q not in known_charges}):
        raise UserError(
            f"{what} has an atom of charge {strange[0]:+d}; the flow draws charges of "
            f"{', '.join(f'{q:+d}' if q else '0' for q in known_charges)}."
        )
    if len(numbers) > max(flow.sizes):
        raise UserError(
            f"{what} has {len(numbers)} heavy atoms, and the flow's molecules at most "
            f"{max(flow.sizes)}."
        )
    state = flow.encode(
        torch.tensor([[flow.elements[0]] * 2]), torch.zeros(1, 2, dtype=torch.long),
        torch.ones(1, 1, dtype=torch.long), torch.tensor([[[0.0, 0, 0], [1.5, 0, 0]]]),
    )  # fmt: skip
    if not isinstance(state, State) or set(state) != set(PARTS):
        raise UserError(
            f"a flow of kind {flow.kind!r} has other states than {', '.join(PARTS)}: a core cannot "
            f"be held in them."
        )


Flow.operators["around"] = AroundFlow.of
