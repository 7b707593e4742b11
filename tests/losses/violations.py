"""Values that a check rejects, and the words in which a message states them."""

from __future__ import annotations

import math
from typing import Any

import torch

VIOLATIONS: list[tuple[Any, Any, str | None]] = [
    ([1, 2], [False, False], None),
    (2.5, True, "2.5"),
    ([0, -7], [False, True], "-7 at (1,)"),
    ([[0.5, 2.0], [3.0, 1.5]], [[False, True], [True, True]], "2.0 at (0, 1), the first of 3; the farthest off is "
     "3.0 at (1, 0)"),
    ([2.0, -3.0], [True, True], "2.0 at (0,), the first of 2; the farthest off is -3.0 at (1,)"),
    ([5.0, 2.0], [True, True], "5.0 at (0,), the first of 2"),
    ([5.0, 2.0, 3.0], [False, True, True], "2.0 at (1,), the first of 2; the farthest off is 3.0 at (2,)"),
    ([2.0, math.nan], [True, True], "2.0 at (0,), the first of 2"),
    ([True, True], [True, True], "True at (0,), the first of 2"),
    ([[1, 2], [3, 4]], [False, True], "2 at (0, 1), the first of 2; the farthest off is 4 at (1, 1)"),
]  # fmt: skip
"""Values, where a check fails, and the words; the places of the values follow from both."""


def find_wrong_words(module: Any) -> str | None:
    """Return the first violation that a module of value checks states in other words."""
    for values, fails, expected in VIOLATIONS:
        found = module.first_violation(torch.tensor(values), torch.tensor(fails))
        if found != expected:
            return f"{values} where {fails} is stated as {found!r}, expected {expected!r}"
    return None
