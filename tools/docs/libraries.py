"""The signatures of Keras' and optax's optimizers and losses, for the tables of the documentation.

`python -m tools.docs.libraries` reads them off the installed packages and writes `libraries.json`. The site is built
from that file, and needs neither package.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from piste.optim import OPTIMIZERS

__all__ = ["read_libraries"]

FILE = Path(__file__).with_name("libraries.json")
_KERAS = {"NAdam": "Nadam", "LAMB": "Lamb"}
_COMMON = {"name", "kwargs", "mask", "dtype"}  # no numbers of a rule
LOSSES: dict[str, dict[str, tuple[str, ...]]] = {
    "keras": {
        "L1Loss": ("MeanAbsoluteError",),
        "MSELoss": ("MeanSquaredError",),
        "HuberLoss": ("Huber",),
        "LogCoshLoss": ("LogCosh",),
        "BCELoss": ("BinaryCrossentropy",),
        "BCEWithLogitsLoss": ("BinaryCrossentropy",),
        "CrossEntropyLoss": ("SparseCategoricalCrossentropy", "CategoricalCrossentropy"),
        "KLDivLoss": ("KLDivergence",),
        "PoissonNLLLoss": ("Poisson",),
        "SigmoidFocalLoss": ("BinaryFocalCrossentropy",),
        "FocalLoss": ("CategoricalFocalCrossentropy",),
        "CTCLoss": ("CTC",),
        "DiceLoss": ("Dice",),
        "TverskyLoss": ("Tversky",),
    },
    "optax": {
        "MSELoss": ("squared_error",),
        "HuberLoss": ("huber_loss",),
        "LogCoshLoss": ("log_cosh",),
        "BCEWithLogitsLoss": ("sigmoid_binary_cross_entropy",),
        "CrossEntropyLoss": ("softmax_cross_entropy_with_integer_labels", "softmax_cross_entropy"),
        "KLDivLoss": ("kl_divergence", "kl_divergence_with_log_targets"),
        "SigmoidFocalLoss": ("sigmoid_focal_loss",),
        "CTCLoss": ("ctc_loss",),
        "DiceLoss": ("dice_loss",),
        "TripletMarginLoss": ("triplet_margin_loss",),
        "NTXentLoss": ("ntxent",),
    },
}
"""The losses of a library that are nearest to one of Piste's."""


def read_libraries() -> dict[str, Any]:
    """Return, by library, its version and the signature of each optimizer and loss under Piste's name."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def _arguments(function: Any) -> dict[str, str]:
    """Return the arguments of a function with their defaults."""
    return {p.name: _default(p) for p in inspect.signature(function).parameters.values() if p.name not in _COMMON}


def _default(parameter: inspect.Parameter) -> str:
    value = parameter.default
    if value is parameter.empty:
        return "required"
    return value.__name__ if isinstance(value, type) else re.sub(r"\(.* at 0x.*\)", "(...)", repr(value))


def _record(library: str, optimizers: Any, losses: Any, names: Mapping[str, str]) -> dict[str, Any]:
    steps = {ours: theirs for ours, theirs in names.items() if hasattr(optimizers, theirs)}
    return {
        "version": importlib.metadata.version(library),
        "optimizers": {
            ours: {"name": theirs, "arguments": _arguments(getattr(optimizers, theirs))}
            for ours, theirs in steps.items()
        },
        "losses": {
            ours: [{"name": theirs, "arguments": _arguments(getattr(losses, theirs))} for theirs in found]
            for ours, found in LOSSES[library].items()
        },
    }


def main() -> None:
    """Write the signatures of the installed versions."""
    keras, optax = importlib.import_module("keras"), importlib.import_module("optax")
    recorded = {
        "keras": _record("keras", keras.optimizers, keras.losses, {n: _KERAS.get(n, n) for n in OPTIMIZERS}),
        "optax": _record("optax", optax, optax.losses, {n: n.lower() for n in OPTIMIZERS}),
    }
    FILE.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
