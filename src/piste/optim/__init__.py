"""Optimizers with the names, arguments, checkpoints and values of torch.optim, one formula per file.

The package exports every optimizer that one of its modules defines; no list is kept by hand.
"""

from __future__ import annotations

import importlib
import pkgutil

import torch

from . import lr_scheduler, swa_utils
from .files import load, save
from .matrix_groups import matrix_groups
from .model_groups import param_groups
from .optimizer import Optimizer
from .ports import port
from .registry import OPTIMIZERS
from .state import Buffer


def _discover() -> dict[str, type[Optimizer]]:
    optimizers: dict[str, type[Optimizer]] = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer:
                optimizers[value.__name__] = value
    return dict(sorted(optimizers.items()))


OPTIMIZERS.update(_discover())
globals().update(OPTIMIZERS)
OF_TORCH = {name: getattr(torch.optim, name) for name in torch.optim.__all__ if name not in globals()}
"""The functions of the installed version of torch.optim, which take Piste's optimizers as they are."""
globals().update(OF_TORCH)
__all__ = [
    "OPTIMIZERS",
    "Buffer",
    "Optimizer",
    "load",
    "lr_scheduler",
    "matrix_groups",
    "param_groups",
    "port",
    "save",
    "swa_utils",
    *OPTIMIZERS,
]
