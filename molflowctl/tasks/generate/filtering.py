"""Molecules that a flow draws and `generate --where` does not deliver: how many, why, how long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from molflowctl.models.generation import give_up_after, likely_attempts
from molflowctl.tasks.generate.settings import GenerateConfig

__all__ = ["AGAIN", "Rejections", "hopeless", "likely"]

AGAIN = "a molecule that is there already"  # why one is rejected where each is wanted once
EACH = 200  # attempts for each molecule that is asked for, after which `--where` is given up
NONE = 4000  # attempts of which not one passes, after which it is given up
_SHARE = 10  # attempts for each molecule that are drawn at once where one in ten may pass


@dataclass
class Rejections:
    """Valid molecules that do not meet the conditions.

    Attributes:
        molecules: how many.
        by_condition: how many do not meet each condition; a molecule may miss several.
    """

    molecules: int = 0
    by_condition: Counter[str] = field(default_factory=Counter)

    def add(self, unmet: Sequence[str]) -> None:
        """Count a molecule."""
        self.molecules += 1
        self.by_condition.update(unmet)

    def counts(self) -> dict[str, Any]:
        """For the run record; nothing where nothing was rejected."""
        if not self.molecules:
            return {}
        return {"rejected": self.molecules, "rejected_by": dict(self.by_condition.most_common())}

    @classmethod
    def of_counts(cls, counts: Mapping[str, Any]) -> Rejections:
        """What a run record says."""
        return cls(counts.get("rejected", 0), Counter(counts.get("rejected_by", {})))

    def described(self, delivered: int) -> list[tuple[str, str]]:
        """The lines of a summary; shares are of the valid molecules."""
        valid = self.molecules + delivered
        rows = [("rejected", self.molecules, "of the valid molecules")] * bool(self.molecules)
        rows += [(f"rejected: {text}", n, "") for text, n in self.by_condition.most_common()]
        return [(label, f"{n:,} ({n / valid:.1%})  {text}".rstrip()) for label, n, text in rows]


def likely(config: GenerateConfig, delivered: int) -> int:
    """Attempts that the rest of the molecules will take, as far as it can be told."""
    each = 1 if config.where is None else _SHARE
    return likely_attempts(each * (config.n - delivered))


def hopeless(config: GenerateConfig, attempts: int, delivered: int) -> bool:
    """Whether the flow is unable to deliver what was asked for."""
    if config.attempts is not None:
        return False
    if config.where is None:
        return attempts >= give_up_after(config.n)
    return attempts >= max(EACH * config.n, NONE) or (attempts >= NONE and delivered == 0)
