"""Write into a flow's card how it is best drawn, which `generate` and `finetune` take from there.

    python benchmarks/recommend.py runs/druglike/ema churn=80 focus_from=0.65 focus_to=0.9

`churn` is the stochasticity of the ancestral sampler; most of its steps lie between the times
`focus_from` and `focus_to`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from molflowctl.flows.card import CARD, sealed
from molflowctl.models.zoo import Flow


def main(folder: str, *settings: str) -> None:
    """Replace what the card recommends; the weights stay as they are."""
    path = Path(folder) / CARD
    card = json.loads(path.read_text())
    card["sampling"] = {
        name: float(value) for name, _, value in (pair.partition("=") for pair in settings)
    }
    path.write_text(json.dumps(sealed(card), indent=2) + "\n")
    Flow.load(folder)  # which says what is wrong with it


if __name__ == "__main__":
    main(*sys.argv[1:])
