"""`flows` and `properties`: what there is, by name."""

from __future__ import annotations

from molflowctl.errors import UserError

__all__ = ["flows", "properties"]


def flows() -> None:
    """List the flows that are found by name: the shipped ones and those in MOLFLOWCTL_ZOO.

    Examples:

        molflowctl flows

        MOLFLOWCTL_ZOO=~/flows molflowctl flows
    """
    import json

    from molflowctl.models.zoo import flow_names

    damaged = []
    for name, folder in flow_names().items():
        try:
            card = json.loads((folder / "card.json").read_text())
            print(f"{name:20s} {card['kind']:9s} {card.get('description', '')}")
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            damaged.append(f"{folder / 'card.json'} cannot be read as a flow's card: {error!r}.")
    if damaged:
        raise UserError("\n".join(damaged))


def properties() -> None:
    """List the properties that can be scored and steered by, with their units.

    Examples:

        molflowctl properties
    """
    from molflowctl import properties as registry

    for name in registry.names():
        item = registry.get(name)
        print(f"{name:24s} {item.unit:10s} {item.description}")
