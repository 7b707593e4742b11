"""Optimizers with torch.optim's names, arguments, checkpoints and meaning, each a formula in a file of its own.

Every module of this package is searched: a rule is exported by being written.
"""

from __future__ import annotations

import importlib
import pkgutil

from . import lr_scheduler, swa_utils
from .optimizer import Optimizer
from .registry import OPTIMIZERS
from .state import Buffer


def _discovered() -> dict[str, type[Optimizer]]:
    found: dict[str, type[Optimizer]] = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer:
                found[value.__name__] = value
    return dict(sorted(found.items()))


OPTIMIZERS.update(_discovered())
globals().update(OPTIMIZERS)
__all__ = ["OPTIMIZERS", "Buffer", "Optimizer", "lr_scheduler", "swa_utils", *OPTIMIZERS]
