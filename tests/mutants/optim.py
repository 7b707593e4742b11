"""The formulas of every optimizer, and of the base that completes them, judged by the oracles."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import ModuleType

import torch

from piste.optim import OPTIMIZERS
from tests.optim.cases import OPTIONS
from tests.optim.judge import first_fault

from .subject import Subject, stated

EQUIVALENT: dict[str, dict[str, str]] = {
    "piste.optim.rmsprop": {
        "RMSprop.update: b -> m (number 2)": "a buffer that is not kept: both are None, and the base drops it",
    },
}
"""By module: changes that change nothing, and why."""

ATTRIBUTES = ("update", "per_step", "buffers", "counters")
BASE = "piste.optim.optimizer"


def subjects() -> list[Subject]:
    """Every rule's file, and the base's own part of the step."""
    files = list(dict.fromkeys(cls.__module__ for cls in OPTIMIZERS.values()))
    found = []
    for file in files:
        names = [name for name, cls in OPTIMIZERS.items() if cls.__module__ == file]
        formulas = stated(file, [f"{name}.{key}" for name in names for key in ATTRIBUTES])
        found.append(Subject(file, formulas, partial(_check, names), equivalent=EQUIVALENT.get(file, {})))
    parts = ("Optimizer._compose.element", "Optimizer._start", "_full")
    found.append(Subject(BASE, parts, partial(_check, list(OPTIMIZERS)), tuple(files), EQUIVALENT.get(BASE, {})))
    return found


def _check(names: list[str], modules: Mapping[str, ModuleType]) -> str | None:
    """The first fault of these optimizers over all options, in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        for name in names:
            make = partial(getattr(modules[OPTIMIZERS[name].__module__], name), fused=False)
            for options in OPTIONS[name]:
                fault = first_fault(make, name, options, torch.float64)
                if fault is not None:
                    return f"{name}({options}): {fault}"
        return None
    finally:
        torch.set_default_dtype(torch.float32)
