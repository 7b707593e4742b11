"""The losses as functions, under the names and with the signatures of torch.nn.functional.

Each is made from the declaration of its class: a loss with a `functional_name` is here by being written.
"""

from __future__ import annotations

from . import with_layer
from .function_form import make_function
from .registry import LOSSES

FUNCTIONS = {
    name: make_function(loss)
    for loss in LOSSES.values()
    if (name := vars(loss).get("functional_name")) and loss.__module__.startswith(f"{__package__}.")
}
"""Every function form by name."""

if hasattr(with_layer, "linear_cross_entropy"):  # torch 2.12 and later
    FUNCTIONS["linear_cross_entropy"] = with_layer.linear_cross_entropy

FUNCTIONS = dict(sorted(FUNCTIONS.items()))
globals().update(FUNCTIONS)
__all__ = [*FUNCTIONS]
