"""The signatures of Keras' and optax's optimizers, for the tables of the documentation.

`python -m tools.docs.libraries` reads them off the installed packages and writes `libraries.json`. The site is built
from that file, and needs neither package.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
from pathlib import Path
from typing import Any

from piste.optim import OPTIMIZERS

__all__ = ["read_libraries"]

FILE = Path(__file__).with_name("libraries.json")
_SPELLED = {"keras": {"NAdam": "Nadam"}, "optax": {}}
_COMMON = {"name", "kwargs", "mask"}  # no numbers of a rule


def read_libraries() -> dict[str, Any]:
    """Return, by library, its version and the signature of each optimizer under Piste's name."""
    return json.loads(FILE.read_text(encoding="utf-8"))


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
