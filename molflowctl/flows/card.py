"""The card of a flow: what it is, checked before anything is built of it.

`flow_sha256` in a card is the hash of what defines the flow: its kind, its arguments, how best to
draw from it, and the hash of its weights. A card in which one of them was edited is refused. Cards
of earlier versions lack it: their flows load with the warning `UnverifiedCard`; `stamp` adds it.

What a card asks for is bounded, whoever wrote it: an honest flow is far from every bound.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from pathlib import Path
from typing import Any

from molflowctl.errors import UnverifiedCard, UserError
from molflowctl.io.atomic import write_file
from molflowctl.io.plain_files import json_text, quoted, read_json

__all__ = [
    "CARD",
    "LARGEST",
    "MOST_WEIGHTS",
    "check_elements",
    "check_histogram",
    "check_scales",
    "flow_sha256",
    "read_card",
    "sealed",
    "size_fault",
    "stamp",
]

CARD = "card.json"
DEFINES = ("kind", "arguments", "sampling", "weights_sha256")
VALUES = 100_000  # numbers and texts in the arguments
LARGEST = {
    "width": 8192, "pair_width": 4096, "heads": 512, "vectors": 4096, "radial": 8192,
    "triangles": 4096, "depth": 512, "particles": 10_000,
}  # fmt: skip
MOST_WEIGHTS = 2_000_000_000  # of a flow, in 4 GB of 16-bit numbers
ATOMS = 1000  # of a molecule whose size a card can ask for


def flow_sha256(card: dict[str, Any]) -> str:
    """The hash of what defines a flow, of a card in memory or read from a file."""
    content = json.loads(json_text({key: card.get(key) for key in DEFINES}))
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(card: dict[str, Any]) -> dict[str, Any]:
    """The card with the hash of what it says now."""
    return {**card, "flow_sha256": flow_sha256(card)}


def stamp(folder: str | Path) -> None:
    """Add the hash to the card in a folder, of what the card says now; write it anew.

    Raises:
        UserError: there is no card, or it is none of a flow.
    """
    path = Path(folder) / CARD
    card = sealed(read_card(folder, verify=False))
    write_file(path, json_text(card) + "\n")


def read_card(folder: str | Path, *, verify: bool = True) -> dict[str, Any]:
    """The card in a folder, whole and within bounds.

    Arguments:
        verify: ask whether it was edited.

    Raises:
        UserError: it is missing, no card of a flow, edited, or asks for what no flow has.
    """
    folder = Path(folder)
    path = folder / CARD
    try:
        card = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        hint = ""
        if (folder / "ema" / CARD).exists():
            hint = f" It is a training run, whose flow is {folder / 'ema'}."
        elif (folder / "config.yaml").exists():
            hint = " It is a run that has not ended: go on with it by --resume."
        raise UserError(f"{folder} is no flow: it has no {CARD}.{hint}") from None
    except (OSError, UserError) as error:
        raise UserError(f"{path} cannot be read as a flow's card: {error}") from None
    wrong = _fault(card)
    if wrong:
        raise UserError(f"{path} cannot be read as a flow's card: {wrong}.")
    if verify and "flow_sha256" not in card:
        warnings.warn(
            f"{path} has no hash of what defines the flow, as earlier versions wrote it: nobody "
            f"can tell whether it was edited. `molflowctl flows --stamp {folder}` vouches for it.",
            UnverifiedCard,
            stacklevel=2,
        )
    elif verify and card["flow_sha256"] != flow_sha256(card):
        raise UserError(
            f"{path} was edited or is damaged: {', '.join(DEFINES[:3])} or the weights are not "
            f"those of its hash. Take the flow from where it came from again."
        )
    return card


def size_fault(arguments: Any, stored: int) -> str:
    """What networks of this package a card describes that no machine should build; empty if none.

    Arguments:
        arguments: of a flow, as its card has them.
        stored: how many numbers its weights are. Every layer of a network has a square matrix of
            its width and one of its pairs' width, so that they are a bound on what it may ask for.
    """
    level, least = [("", arguments)], 0
    while level:
        inner: list[tuple[str, Any]] = []
        for name, value in level:
            if isinstance(value, list):
                inner += [(name, item) for item in value if isinstance(item, dict | list)]
            if not isinstance(value, dict):
                continue
            inner += value.items()
            sizes = {key: value.get(key, 0) for key in LARGEST}
            for key, size in sizes.items():
                if key not in value:
                    continue
                # A mixture's correction of no width is none.
                low = 0 if key == "triangles" or (key == "width" and name != "network") else 1
                if isinstance(size, bool) or not isinstance(size, int):
                    return f"{key} is {quoted(size)}, no whole number"
                if not low <= size <= LARGEST[key]:
                    return f"{key} is {quoted(size)}, and {low} to {LARGEST[key]:,} are allowed"
            # A perceptron of one hidden layer has no square matrix.
            squares = max(0, sizes["depth"] - (name != "network"))
            least += squares * (sizes["width"] ** 2 + sizes["pair_width"] ** 2)
        level = inner
    if least > stored:
        return f"its networks have {least:,} numbers at least, and its weights are {stored:,}"
    return ""


def check_histogram(sizes: dict[int, int]) -> None:
    """Raise `ValueError` unless these are numbers of atoms with their counts."""
    if not sizes:
        raise ValueError("sizes are empty: a flow draws its numbers of atoms from them")
    for n, count in sizes.items():
        whole = isinstance(count, int) and not isinstance(count, bool)
        if not 1 <= n <= ATOMS or not whole or not 0 < count < 2**53:
            raise ValueError(
                f"sizes has {quoted(n)}: {quoted(count)}: numbers of atoms are 1 to {ATOMS}, "
                f"their counts whole and positive"
            )


def check_elements(elements: list[int]) -> None:
    """Raise `ValueError` unless these are atomic numbers, each once."""
    whole = all(isinstance(z, int) and not isinstance(z, bool) for z in elements)
    if not elements or not whole or min(elements) < 1 or max(elements) > 118:
        raise ValueError(f"elements are atomic numbers, not {quoted(elements)}")
    if len(set(elements)) < len(elements):
        raise ValueError(f"an element is named twice in {quoted(elements)}")


def check_scales(**scales: float) -> None:
    """Raise `ValueError` unless these are positive and finite, by name."""
    for name, value in scales.items():
        if not 0 < value < 1e6:
            raise ValueError(f"{name} is {quoted(value)}, and must be positive and finite")


def _fault(card: dict[str, Any]) -> str:
    """What is wrong with a card; empty if nothing is."""
    arguments = card.get("arguments")
    if not isinstance(card.get("kind"), str) or not isinstance(arguments, dict):
        return "it lacks a kind and arguments"
    for name in ("data", "sampling"):
        if not isinstance(card.get(name, {}), dict):
            return f"{name} is {quoted(card[name])}, not a mapping"
    for name, value in card.get("sampling", {}).items():
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        if not plain or not 0 <= value <= 1e4:
            return f"sampling has {quoted(name)}: {quoted(value)}, no number from 0 to 10,000"
    for name in ("weights_sha256", "flow_sha256"):
        if not isinstance(card.get(name, ""), str):
            return f"{name} is {quoted(card[name])}, not a text"
    count = 0
    level: list[tuple[str, Any]] = list(arguments.items())
    while level:
        count += len(level)
        if count > VALUES:
            return f"its arguments are more than {VALUES:,} values"
        inner: list[tuple[str, Any]] = []
        for name, value in level:
            if isinstance(value, dict):
                inner += value.items()
            elif isinstance(value, list):
                inner += [(name, item) for item in value]
            elif isinstance(value, int | float) and not isinstance(value, bool):
                if isinstance(value, float) and not math.isfinite(value):
                    return f"{name} is not finite"
                if abs(value) > 2**53:
                    return f"{name} is {quoted(value)}, which is no size"
            elif not isinstance(value, str | bool | None):
                return f"{name} is {quoted(value)}"
        level = inner
    return ""
