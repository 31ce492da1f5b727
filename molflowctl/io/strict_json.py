"""JSON that any program reads: what is not a finite number is null, which the standard lacks."""

from __future__ import annotations

import json
import math
from typing import Any

__all__ = ["dumps"]


def dumps(content: Any, **settings: Any) -> str:
    """`json.dumps` with two spaces, where NaN and infinities, at any depth, become null."""
    return json.dumps(_finite(content), indent=2, allow_nan=False, **settings)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
