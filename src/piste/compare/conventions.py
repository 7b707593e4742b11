"""How a loss reads a model's outputs: as logits or probabilities, and which targets it ignores."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..losses import LOSSES
from ..losses.functional import FUNCTIONS

IGNORE_INDEX = -100
"""The class index that PyTorch's losses ignore by default."""
_LOGITS = ("BCEWithLogitsLoss", "MultiLabelSoftMarginLoss", "SoftMarginLoss", "CrossEntropyLoss")
_PROBABILITIES = ("BCELoss",)
_REGRESSION = ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss")


@dataclass(frozen=True)
class Convention:
    """The convention by which outputs and targets are read.

    Attributes:
        reading: "logits" (a label is predicted by a value above 0), "probabilities" (above 0.5), "values" (above the
            midpoint of the two labels), or "unknown".
        ignore_index: The class index of positions that do not count, or None.
    """

    reading: str = "unknown"
    ignore_index: int | None = IGNORE_INDEX

    def threshold(self, low: float, high: float) -> float:
        """Return the output above which the label `high` is predicted rather than `low`."""
        if self.reading == "probabilities":
            return 0.5
        return (low + high) / 2 if self.reading == "values" else 0.0

    def resolve(self, output: torch.Tensor) -> Convention:
        """Return the reading of a loss without one: probabilities if the untrained model's outputs are in [0, 1]."""
        if self.reading != "unknown" or not output.is_floating_point() or not output.numel():
            return self
        are_probabilities = bool(((output >= 0) & (output <= 1)).all())
        return replace(self, reading="probabilities" if are_probabilities else "logits")


def convention_of(loss: Any) -> Convention:
    """Return the convention of a loss: a module or function of Piste or PyTorch, a partial of one, or a custom one.

    >>> convention_of(torch.nn.BCELoss())
    Convention(reading='probabilities', ignore_index=None)
    """
    names = _names(loss)
    for reading, known in (("logits", _LOGITS), ("probabilities", _PROBABILITIES), ("values", _REGRESSION)):
        if any(name in known for name in names):
            ignored = _ignore_index(loss) if "CrossEntropyLoss" in names else None
            return Convention(reading, ignored)
    return Convention(ignore_index=_ignore_index(loss))


def _names(loss: Any) -> list[str]:
    """Return the names of the classes that a loss is made of."""
    if isinstance(loss, functools.partial):
        return _names(loss.func)
    if isinstance(loss, torch.nn.Module):
        return [kind.__name__ for kind in type(loss).__mro__]
    by_function = {name: kind for kind, made in LOSSES.items() if (name := getattr(made, "functional_name", None))}
    is_known = loss in FUNCTIONS.values() or loss is getattr(
        torch.nn.functional, getattr(loss, "__name__", ""), object()
    )
    return [by_function.get(loss.__name__, "")] if is_known else []


def _ignore_index(loss: Any) -> int | None:
    if isinstance(loss, functools.partial):
        return loss.keywords.get("ignore_index", _ignore_index(loss.func))
    value = getattr(loss, "ignore_index", IGNORE_INDEX)
    return value if isinstance(value, int) else IGNORE_INDEX
