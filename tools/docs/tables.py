"""The tables that pages ask for, as `<!-- table: NAME -->`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

from piste.losses import LOSSES
from piste.optim import OPTIMIZERS

from .elsewhere import OF_ALL
from .libraries import read_libraries
from .speed import composed_in_full, losses_in_full, rules_in_full, shared_options_in_full, steps_in_full

__all__ = ["TABLES", "defaults_table", "differences_table"]


def defaults_table(library: str) -> str:
    """Return a Markdown table of the defaults of another library next to Piste's."""
    recorded = read_libraries()[library]
    rows = [f"| | Piste and PyTorch | {library} {recorded['version']} |", "|---|---|---|"]
    for name, theirs in recorded["optimizers"].items():
        ours = ", ".join(f"{k}={o.default!r}" for k, o in OPTIMIZERS[name].options.items())
        shown = [(k, v) for k, v in theirs["arguments"].items() if k not in OF_ALL]
        other = ", ".join(k if v == "required" else f"{k}={v}" for k, v in shown)
        rows.append(f"| {name} | `{ours}` | `{other}` |")
    return "\n".join(rows)


def differences_table() -> str:
    """Return a Markdown table of the differences from PyTorch that the losses document."""
    rows = ["| loss | difference |", "|---|---|"]
    for name, loss in LOSSES.items():
        if "Differs from torch:" not in (loss.__doc__ or ""):
            continue
        text = inspect.cleandoc(loss.__doc__ or "").partition("Differs from torch:")[2].partition("\n\n")[0]
        cell = re.sub(r"([|*_])", r"\\\1", " ".join(text.split()))
        rows.append(f"| {name} | {cell} |")
    return "\n".join(rows)


TABLES: dict[str, Callable[[], str]] = {
    "keras": lambda: defaults_table("keras"),
    "optax": lambda: defaults_table("optax"),
    "composed": composed_in_full,
    "losses_in_full": losses_in_full,
    "options_in_full": shared_options_in_full,
    "rules_in_full": rules_in_full,
    "steps_in_full": steps_in_full,
    "torch": differences_table,
}
"""The tables that a page asks for, as `<!-- table: NAME -->`."""
