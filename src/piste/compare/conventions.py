"""How a loss reads a model's outputs: as logits, probabilities, ranks or numbers, and which targets it ignores."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..losses import LOSSES
from ..losses.functional import FUNCTIONS

IGNORE_INDEX = -100
"""The class index that PyTorch's losses ignore by default."""
OF_CLASSES = ("CrossEntropyLoss", "FocalLoss", "AngularLoss")
"""Losses of logits of classes, or of cosines times their `scale`."""
READINGS = {
    **dict.fromkeys(OF_CLASSES, "logits"),
    **dict.fromkeys(("BCEWithLogitsLoss", "MultiLabelSoftMarginLoss", "SoftMarginLoss"), "logits"),
    **dict.fromkeys(("SigmoidFocalLoss", "AsymmetricLoss"), "logits"),
    **dict.fromkeys(("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "LogCoshLoss", "CharbonnierLoss"), "values"),
    **dict.fromkeys(("GeneralRobustLoss", "QuantileLoss", "ExpectileLoss"), "values"),
    "BCELoss": "probabilities",
    "CORALLoss": "steps",
    "CORNLoss": "conditional",
}
"""The reading of a loss by the name of its class, where no option changes it."""
ANGULAR_SCALE = 64.0
"""The default of `scale`."""
OPTIONS: dict[str, tuple[str, dict[Any, str]]] = {
    "PoissonNLLLoss": ("log_input", {True: "logarithms", False: "values"}),
    "RegionLoss": ("activation", {None: "probabilities", "sigmoid": "logits", "softmax": "logits"}),
}
"""The option that gives the reading, and the reading of each of its values, by the name of the class of a loss."""


@dataclass(frozen=True)
class Convention:
    """The convention by which outputs and targets are read.

    Attributes:
        reading: "logits" (a label is predicted by a value above 0), "probabilities" (above 0.5), "values" (above the
            midpoint of the two labels), "logarithms" of values, "steps" (logits of a rank above each step between two
            ranks), "conditional" (of a rank above a step if it is above the one before), or "unknown".
        ignore_index: The class index of positions that do not count, or None.
        class_dim: The dimension of the classes in the outputs.
        scale: The factor of outputs that are cosines.
        softcap: The bound of the logits, softcap tanh(output / softcap); 0 for none.
    """

    reading: str = "unknown"
    ignore_index: int | None = IGNORE_INDEX
    class_dim: int = 1
    scale: float = 1.0
    softcap: float = 0.0

    @property
    def is_ordinal(self) -> bool:
        """Whether the outputs are steps between ranks, of which there is one more."""
        return self.reading in ("steps", "conditional")

    def above(self, output: torch.Tensor) -> torch.Tensor:
        """Return the probability of a rank above each step, in the last dimension."""
        shares = output.double().sigmoid()
        return shares.cumprod(-1) if self.reading == "conditional" else shares

    def numbers(self, output: torch.Tensor) -> torch.Tensor:
        """Return the numbers that the outputs predict: ranks of steps, values of logarithms, else the outputs."""
        if self.is_ordinal:
            return (self.above(output) > 0.5).sum(-1)
        return output.double().exp() if self.reading == "logarithms" else output

    def by_class(self, output: torch.Tensor) -> torch.Tensor:
        """Return the scores of the classes (N, C, ...): logits, or the probability of each rank."""
        if self.is_ordinal:
            above = self.above(output)
            ends = torch.ones_like(above[..., :1])
            shares = -torch.cat([ends, above, 0 * ends], -1).diff(dim=-1)
            return shares.clamp_min(0).movedim(-1, 1)
        if self.softcap:
            output = self.softcap * (output.double() / self.softcap).tanh()
        return (output if self.scale == 1 else output.double() * self.scale).movedim(self.class_dim, 1)

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

    >>> convention_of(torch.nn.BCELoss()).reading
    'probabilities'
    """
    names = _names(loss)
    ignored, class_dim = _option(loss, "ignore_index", IGNORE_INDEX), _option(loss, "class_dim", None)
    class_dim = class_dim if isinstance(class_dim, int) else 1
    for name in names:
        if name in OPTIONS:
            option, readings = OPTIONS[name]
            return Convention(readings.get(_option(loss, option, next(iter(readings))), "unknown"), None)
        if name in OF_CLASSES:
            scale = _option(loss, "scale", ANGULAR_SCALE) if name == "AngularLoss" else 1.0
            return Convention("logits", ignored, class_dim, scale, _option(loss, "softcap", 0.0))
        if name in READINGS:
            return Convention(READINGS[name], None)
    return Convention(ignore_index=ignored if isinstance(ignored, int) else IGNORE_INDEX, class_dim=class_dim)


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
    known = by_function.get(loss.__name__) if is_known else None
    return [kind.__name__ for kind in LOSSES[known].__mro__] if known else []


def _option(loss: Any, name: str, default: Any) -> Any:
    """Return the option of a module, or of a `functools.partial` of a function."""
    if isinstance(loss, functools.partial):
        return loss.keywords.get(name, _option(loss.func, name, default))
    return getattr(loss, name, default)
