"""The signatures of Keras' and optax's optimizers, for the tables of the documentation.

`python -m tools.docs.libraries` reads them off the installed packages and writes `libraries.json`. The site is built
from that file, and needs neither package.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from piste.losses import LOSSES
from piste.optim import OPTIMIZERS

__all__ = ["TABLES", "defaults_table", "differences_table", "read_libraries"]

FILE = Path(__file__).with_name("libraries.json")
_SPELLED = {"keras": {"NAdam": "Nadam"}, "optax": {}}
_OF_ALL = {
    *("clipnorm", "clipvalue", "global_clipnorm", "use_ema", "ema_momentum", "ema_overwrite_frequency"),
    *("loss_scale_factor", "gradient_accumulation_steps"),
}  # Keras' arguments of every optimizer
_COMMON = {"name", "kwargs", "mask"}  # no numbers of a rule


def read_libraries() -> dict[str, Any]:
    """Return, by library, its version and the signature of each optimizer under Piste's name."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def defaults_table(library: str) -> str:
    """Return a Markdown table of the defaults of another library next to Piste's."""
    recorded = read_libraries()[library]
    rows = [f"| | Piste and PyTorch | {library} {recorded['version']} |", "|---|---|---|"]
    for name, theirs in recorded["optimizers"].items():
        ours = (
            ", ".join(f"{k}={o.default!r}" for k, o in OPTIMIZERS[name].options.items()) if name in OPTIMIZERS else ""
        )
        shown = [(k, v) for k, v in theirs["arguments"].items() if k not in _OF_ALL]
        other = ", ".join(k if v == "required" else f"{k}={v}" for k, v in shown)
        rows.append(f"| {name} | `{ours}` | `{other}` |")
    return "\n".join(rows)


def differences_table() -> str:
    """Return a Markdown table of the differences from PyTorch that the losses document."""
    rows = ["| loss | difference |", "|---|---|"]
    for name, loss in LOSSES.items():
        text = inspect.cleandoc(loss.__doc__ or "").partition("Differs from torch:")[2].partition("\n\n")[0]
        cell = re.sub(r"([|*_])", r"\\\1", " ".join(text.split()))
        rows.append(f"| {name} | {cell} |")
    return "\n".join(rows)


TABLES: dict[str, Callable[[], str]] = {
    "keras": lambda: defaults_table("keras"),
    "optax": lambda: defaults_table("optax"),
    "torch": differences_table,
}
"""The tables that a page asks for, as `<!-- table: NAME -->`."""


def _record(library: str, module: Any, names: list[str], spell: Any) -> dict[str, Any]:
    found = {}
    for name in names:
        theirs = _SPELLED[library].get(name, spell(name))
        optimizer = getattr(module, theirs, None)
        if optimizer is not None:
            parameters = inspect.signature(optimizer).parameters.values()
            found[name] = {
                "name": theirs,
                "arguments": {
                    p.name: "required" if p.default is p.empty else repr(p.default)
                    for p in parameters
                    if p.name not in _COMMON
                },
            }
    return {"version": importlib.metadata.version(library), "optimizers": found}


def main() -> None:
    """Write the signatures of the installed versions."""
    names = list(OPTIMIZERS)
    recorded = {
        "keras": _record("keras", importlib.import_module("keras").optimizers, names, str),
        "optax": _record("optax", importlib.import_module("optax"), names, str.lower),
    }
    FILE.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
