"""States: what a flow moves, a batch of named tensors with vector-space algebra.

A plain tensor is the simplest state. `State` names several tensors that share the leading batch
dimension `B`, so that one sampler or solver moves positions, types and bonds together. Everything
in `flows/` and `control/` works on both through `+`, `-` and `times`. `Ragged` is a population of
states of several shapes, molecules of several sizes for instance: it can be counted, joined and
asked for values, but a flow moves its groups one by one.

A state of a conditional flow says what each of its elements is conditioned on: a number for each,
which algebra leaves alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from molflowctl.errors import UserError

__all__ = [
    "AnyState",
    "Ragged",
    "State",
    "batch_of",
    "by_group",
    "concatenate",
    "dot",
    "first_part",
    "groups_of",
    "on_cpu",
    "only",
    "pull_back",
    "select",
    "times",
]


class State(Mapping[str, Tensor]):
    """Named tensors with a common leading dimension `B`; immutable, closed under `+`, `-`, `times`.

    Arguments:
        given: what each element is conditioned on, `(B,)` int64; None where there is nothing.
        parts: name -> tensor of shape `(B, ...)`.

    Raises:
        ValueError: if there are no parts or their leading dimensions differ.
    """

    __slots__ = ("__weakref__", "_parts", "given")

    def __init__(self, given: Tensor | None = None, /, **parts: Tensor) -> None:
        sizes = {name: len(part) for name, part in parts.items()}
        if len(set(sizes.values()) | ({len(given)} if given is not None else set())) != 1:
            raise ValueError(f"the parts of a state need one common batch size, got {sizes}")
        self._parts, self.given = parts, given

    def __getitem__(self, name: str) -> Tensor:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        return f"State({', '.join(f'{k}: {tuple(v.shape)}' for k, v in self.items())})"

    @property
    def batch(self) -> int:
        """Number of elements `B`."""
        return len(next(iter(self.values())))

    def map(self, function: Callable[[Tensor], Tensor]) -> State:
        """Apply `function` to every part, `(B, ...)`."""
        return State(self.given, **{name: function(part) for name, part in self.items()})

    def combine(self, other: State, function: Callable[[Tensor, Tensor], Tensor]) -> State:
        """Apply `function` to every pair of parts `(B, ...)` of the same name.

        Raises:
            ValueError: if the states differ in their parts, or in what they are conditioned on.
        """
        if self.keys() != other.keys():
            raise ValueError(f"states differ in their parts: {list(self)} and {list(other)}")
        if self.given is not other.given and not _same(self.given, other.given):
            raise ValueError("states differ in what they are conditioned on")
        parts = {name: function(part, other[name]) for name, part in self.items()}
        return State(self.given, **parts)

    def select(self, index: Tensor | slice) -> State:
        """The elements `index` of the batch, `(M,)` numbers, a mask `(B,)` or a slice."""
        given = None if self.given is None else self.given[index]
        return State(given, **{name: part[index] for name, part in self.items()})

    def detach(self) -> State:
        """The same values, cut from the computation graph."""
        return self.map(torch.Tensor.detach)

    def to(self, *args: Any, **kwargs: Any) -> State:
        """`torch.Tensor.to` on every part; what is given only follows to their device."""
        parts = {name: part.to(*args, **kwargs) for name, part in self.items()}
        device = next(iter(parts.values())).device
        return State(None if self.given is None else self.given.to(device), **parts)

    def __add__(self, other: State) -> State:
        return self.combine(other, torch.add)

    def __sub__(self, other: State) -> State:
        return self.combine(other, torch.sub)

    def __neg__(self) -> State:
        return self.map(torch.neg)


class Ragged:
    """States of several shapes, in the order of their groups; immutable.

    Arguments:
        groups: tensors or states, each with a leading dimension of its own.

    Raises:
        ValueError: if there are none.
    """

    __slots__ = ("groups",)

    def __init__(self, groups: Sequence[Tensor | State]) -> None:
        if not groups:
            raise ValueError("a ragged state needs one group at least")
        self.groups = tuple(groups)

    def __len__(self) -> int:
        return sum(map(batch_of, self.groups))

    def __repr__(self) -> str:
        return f"Ragged({len(self)} states in {len(self.groups)} groups)"


AnyState = Tensor | State


def times(weight: float | Tensor, state: Any) -> Any:
    """Scale a state (or plain tensor) by a number or by one number per element, shape `(B,)`."""

    def scale(part: Tensor) -> Tensor:
        if isinstance(weight, Tensor) and weight.ndim == 1:
            return weight.to(part.device).view(-1, *[1] * (part.ndim - 1)) * part
        return weight * part

    return state.map(scale) if isinstance(state, State) else scale(state)


def only(state: Any, parts: Sequence[str]) -> Any:
    """The same state with every part zero but those named; all of it where none is named.

    Raises:
        UserError: if the state has no such part.
    """
    if not parts:
        return state
    known = list(state) if isinstance(state, State) else []
    if absent := sorted(set(parts) - set(known)):
        raise UserError(
            f"a state has no part {absent[0]}"
            + (f"; there are {', '.join(known)}." if known else ": it is one tensor.")
        )
    kept = {n: part if n in parts else torch.zeros_like(part) for n, part in state.items()}
    return State(state.given, **kept)


def dot(a: Any, b: Any) -> Tensor:
    """Inner product of two states over everything but the batch, shape `(B,)`."""
    if isinstance(a, Ragged):
        return torch.cat([dot(*pair) for pair in zip(a.groups, b.groups, strict=True)])
    if isinstance(a, State):
        return torch.stack([dot(part, b[name]) for name, part in a.items()]).sum(0)
    product: Tensor = (a * b).flatten(1).sum(1)
    return product


def concatenate(states: list[Any]) -> Any:
    """Join states (or plain tensors) along the batch."""
    if isinstance(states[0], Ragged):
        return Ragged([group for state in states for group in state.groups])
    if not isinstance(states[0], State):
        return torch.cat(states)
    some = [s.given for s in states if s.given is not None]
    given = torch.cat(some) if some else None
    return State(given, **{name: torch.cat([s[name] for s in states]) for name in states[0]})


def _same(first: Tensor | None, second: Tensor | None) -> bool:
    return first is not None and second is not None and torch.equal(first, second)


def batch_of(x: Any) -> int:
    """Number of elements of a state or plain tensor."""
    return x.batch if isinstance(x, State) else len(x)


def groups_of(x: Any) -> tuple[Any, ...]:
    """The groups of a ragged state; a state of one shape is its own only group."""
    return x.groups if isinstance(x, Ragged) else (x,)


def first_part(x: AnyState) -> Tensor:
    """The first tensor of a state of one shape, which tells its batch, dtype and device."""
    return next(iter(x.values())) if isinstance(x, State) else x


def on_cpu(x: Any) -> Any:
    """A population where rewards, weights and banks are; itself if it is there."""
    if all(first_part(group).device.type == "cpu" for group in groups_of(x)):
        return x  # and remembered as such
    return Ragged([g.to("cpu") for g in x.groups]) if isinstance(x, Ragged) else x.to("cpu")


def select(x: Any, rows: Tensor | slice) -> Any:
    """The elements `rows` of a state or plain tensor, an index `(M,)`, a mask `(B,)` or a slice."""
    return x.select(rows) if isinstance(x, State) else x[rows]


def by_group(function: Callable[[Any], Tensor], x: Any) -> Tensor:
    """A function of states of one shape, one row each, over all groups of a population."""
    groups = groups_of(x)
    return torch.cat([function(group) for group in groups])


def pull_back(function: Callable[[Any], Any], x: Any, cotangent: Any) -> tuple[Any, Any]:
    """`(df/dx)^T cotangent` at `x`, and `f(x)`, both detached; states or plain tensors.

    Arguments:
        function: a map between states of one kind, a batch of independent ones.
    """
    with torch.enable_grad():
        if isinstance(x, State):
            leaf = x.map(lambda part: part.detach().requires_grad_())
            value = function(leaf)
            slopes = torch.autograd.grad(
                dot(value, cotangent).sum(), list(leaf.values()), allow_unused=True
            )
            filled = [
                torch.zeros_like(p) if s is None else s
                for p, s in zip(leaf.values(), slopes, strict=True)
            ]
            return State(x.given, **dict(zip(leaf, filled, strict=True))), value.detach()
        leaf = x.detach().requires_grad_()
        value = function(leaf)
        (slope,) = torch.autograd.grad(dot(value, cotangent).sum(), leaf)
        return slope, value.detach()
