"""Settings that several commands have, each declared once: limits, unit and meaning."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from molflowctl.compute.precision import Precision
from molflowctl.compute.seeds import LAST_SEED
from molflowctl.errors import UserError
from molflowctl.io.config import Config, tell_old_name

__all__ = [
    "ConformerDrawing",
    "ConformerNfe",
    "ConformerSeed",
    "Device",
    "EnergyWindow",
    "Flows",
    "Focus",
    "Grid",
    "Html",
    "Jobs",
    "Limit",
    "Minutes",
    "MirrorSteps",
    "MoleculeSampler",
    "MoleculeSeed",
    "Multiplicity",
    "NameColumn",
    "Neutralise",
    "Nfe",
    "NoiseScale",
    "OracleBudget",
    "Overwrite",
    "Part",
    "Positive",
    "ProductPrecision",
    "Resume",
    "Seed",
    "Share",
    "SmilesColumn",
    "Stochasticity",
    "TemperatureK",
    "Timeout",
    "by_its_share",
    "check_budget",
    "share_budget",
]

Seed = Annotated[int, Field(ge=0, le=LAST_SEED)]  # of what, each command says
MoleculeSeed = Annotated[Seed, Field(description="same seed, same molecules [number]")]
ConformerSeed = Annotated[Seed, Field(description="same seed, same conformers [number]")]
Jobs = Annotated[int, Field(ge=1, description="working at once [processes]")]
Device = Annotated[str, Field(description="auto, cpu, cuda or cuda:1")]
ProductPrecision = Annotated[
    Precision,
    Field(
        description="of a network's products; bf16 is faster where the machine has units for it, "
        "and auto uses it there"
    ),
]
Timeout = Annotated[float, Field(gt=0, allow_inf_nan=False)]  # for what, each command says
Limit = Annotated[int | None, Field(ge=1)]  # of what at most so many, and null for all
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(ge=0, lt=1)]  # never the whole
Minutes = Annotated[float | None, Field(gt=0)]  # of what, and what null stands for
Resume = Annotated[bool, Field(description="go on with an interrupted run of the same settings")]
Overwrite = Annotated[bool, Field(description="replace an existing output")]

OracleBudget = Annotated[
    Annotated[int, Field(ge=100)] | None,
    Field(
        description="calls of the oracle in all, of prior and result too: the run ends at the best "
        "mirror step when they are spent; numbers of samples that are not given share them; of "
        "data, what they do not pay for a surrogate judges; null for no bound [molecules]"
    ),
]

SmilesColumn = Annotated[
    str | None, Field(description="column of SMILES in a table; null finds it by its name")
]
NameColumn = Annotated[
    str | None, Field(description="column of names in a table; null finds it by its name")
]
Neutralise = Annotated[
    bool,
    Field(
        description="with strip: also add and remove protons until no charge is left that can be"
    ),
]
Multiplicity = Annotated[
    int | None,
    Field(
        ge=1,
        le=15,
        description="spin in xTB: 1 singlet, 2 doublet, 3 triplet; null for what a record says, "
        "else 1 or 2 by the number of electrons [2 S + 1]",
    ),
]
Html = Annotated[
    str | None, Field(description="file of an offline page with 3-D views; null for none")
]
Grid = Annotated[str | None, Field(description="file of a picture, .png or .svg; null for none")]

# Drawing.
MoleculeSampler = Annotated[
    str,
    Field(description="rule from noise to molecules: ancestral, euler-maruyama, euler or heun"),
]
Nfe = Annotated[int, Field(ge=1, description="for each molecule drawn [network evaluations]")]
ConformerNfe = Annotated[
    int | None,
    Field(
        ge=1,
        description="for each conformer drawn; null for those of the flow's card, else 25, or "
        "twice as many by heun, which takes two a step [network evaluations]",
    ),
]
NoiseScale = Annotated[
    float | None,
    Field(
        gt=0,
        description="of all the sampler's noise: below 1 more of the likeliest conformers; null "
        "for the flow's own [factor]",
    ),
]
Stochasticity = Annotated[
    float | None,
    Field(
        ge=0,
        description="noise of the ancestral sampler, times that of the memoryless process, at the "
        "same marginals: 0 for none; null for the flow's own [factor]",
    ),
]
Focus = Annotated[
    tuple[float, float] | None,
    Field(
        description="times between which most steps of the ancestral sampler lie, such as "
        "[0.65, 0.9]; null for the flow's own [time, 0 to 1]",
    ),
]
TemperatureK = Annotated[
    float, Field(gt=0, description="temperature of the Boltzmann weights [kelvin]")
]
EnergyWindow = Annotated[
    float,
    Field(gt=0, description="above the molecule's lowest; what is higher is left out [kcal/mol]"),
]

# Steering.
Flows = Annotated[
    dict[str, str],
    Field(description="names in the circuit to flows; others are looked up in the zoo"),
]
MirrorSteps = Annotated[
    int,
    Field(ge=1, description="of mirror ascent, each one fine-tuning problem [mirror steps]"),
]


class ConformerDrawing(Config, old_names={"steps": "nfe", "noise": "noise_scale"}):
    """How conformers are drawn from a flow."""

    sampler: Literal["ancestral", "euler-maruyama", "euler", "heun"] = Field(
        default="ancestral", description="rule that carries noise to conformers"
    )
    nfe: ConformerNfe = None
    noise_scale: NoiseScale = None

    @classmethod
    def translate(cls, values: dict[str, Any]) -> None:
        super().translate(values)
        old = str(values.get("steps"))
        if values.get("sampler") == "heun" and old.isdecimal() and "nfe" not in values:
            values["nfe"] = 2 * int(values.pop("steps"))
            tell_old_name(f"steps {old}", f"nfe {values['nfe']}")

    @model_validator(mode="before")
    @classmethod
    def _take_old_names(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return cls.with_new_names(values)

    @property
    def steps(self) -> int | None:
        """From noise to conformer, at least one; None for what a flow's card recommends."""
        if self.nfe is None:
            return None
        return max(1, self.nfe // 2) if self.sampler == "heun" else self.nfe


def by_its_share(spec: Any) -> Any:
    """`super-quantile:0.8`, the best fifth, as `upper-cvar:0.2`: a tail's level is its share."""
    name, _, text = str(spec).partition(":")
    if name != "super-quantile":
        return spec
    try:
        share = round(1 - float(text), 12)
    except ValueError:
        return spec
    tell_old_name(str(spec), f"upper-cvar:{share:g}")
    return f"upper-cvar:{share:.12g}"


def share_budget(values: dict[str, Any]) -> None:
    """Give numbers of samples that are not there their share of a budget of oracle calls.

    A quarter goes to the prior, 15 % to the result, the rest to the mirror steps alike.
    """
    budget, steps = values.get("oracle_budget"), values.get("mirror_steps", 8)
    if not isinstance(budget, int) or not isinstance(steps, int) or steps < 1:
        return
    base, test = max(64, budget // 4), max(2, 3 * budget // 20)
    values.setdefault("base_samples", base)
    values.setdefault("n_samples", max(16, (budget - base - test) // steps))
    values.setdefault("test_samples", test)


def check_budget(config: Any) -> None:
    """Raise `UserError` where a budget of oracle calls does not pay for one mirror step."""
    if config.oracle_budget is None:
        return
    least = config.base_samples + config.test_samples
    steps, told = "a few molecules of the data need", "16"
    if not config.data:
        steps, told = "one mirror step needs", f"n_samples {config.n_samples:,}"
    least += 16 if config.data else config.n_samples
    if config.oracle_budget < least:
        raise UserError(
            f"oracle_budget {config.oracle_budget:,} is less than {steps}: "
            f"base_samples {config.base_samples:,} + {told} + test_samples "
            f"{config.test_samples:,} = {least:,}. Left out, they are chosen to fit."
        )
