"""The losses by name."""

from __future__ import annotations

import re
from typing import Any

from ..errors import InvalidValue, did_you_mean

__all__ = ["LOSSES", "fold_name", "get_loss"]

LOSSES: dict[str, type[Any]] = {}
"""Every loss by the name of its class. A class derived from `Loss` with a `name` is added when it is defined."""


def get_loss(name: str) -> type[Any]:
    """Return the loss of a name.

    Args:
        name: Its short name ("l1"), an alias ("mae"), or the name of its class or function ("nn.L1Loss", "F.l1_loss").
            Case, underscores, hyphens and spaces do not matter.

    Returns:
        The class of the loss.

    Raises:
        InvalidValue: No loss has this name; the message suggests the nearest.

    Example:
        >>> import piste.losses
        >>> piste.losses.get_loss("smooth_l1")
        <class 'piste.losses.regression.SmoothL1Loss'>
    """
    wanted = fold_name(name)
    for loss in LOSSES.values():
        names = (loss.name, loss.__name__, loss.functional_name or "", *loss.aliases)
        if wanted in [*map(fold_name, names)]:  # torch.compile of torch 2.9 can't look into an iterator
            return loss
    short = [loss.name for loss in LOSSES.values()]
    raise InvalidValue(f"there is no loss named {name!r}. {did_you_mean(str(name).rpartition('.')[2], short)}")


def fold_name(name: str) -> str:
    """Return a name without its module, case and separators."""
    return re.sub(r"[\W_]", "", str(name).rpartition(".")[2].lower())
