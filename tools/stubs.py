"""Write the type stubs of the modules whose names are made from declarations: `python -m tools.stubs`.

Editors and type checkers read the stubs; a test compares them with what this module makes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import piste
from piste.losses import functional, penalties, with_layer
from piste.losses.loss import Loss
from piste.losses.reduction import LEGACY, SETTINGS, reduction_option
from piste.optim import OF_TORCH, OPTIMIZERS
from piste.optim.options import SHARED

ROOT = Path(piste.__file__).parent
HEADER = "# Made by `python -m tools.stubs`: edit the declarations, not this file."
IMPORTS = """from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor
"""


def stubs() -> dict[Path, str]:
    """Return the text of every stub by its path."""
    return {
        ROOT / "losses" / "__init__.pyi": losses_stub(),
        ROOT / "losses" / "functional.pyi": functional_stub(),
        ROOT / "optim" / "__init__.pyi": optim_stub(),
    }


def losses_stub() -> str:
    lines = [
        *(HEADER, IMPORTS, "from . import functional as functional"),
        "from .functional import *",
        "from .loss import Loss as Loss",
        *(f"from .penalties import {name} as {name}" for name in penalties.__all__),
    ]
    modules: dict[str, list[str]] = {}
    for name in piste.losses.__all__:
        if isinstance(value := getattr(piste.losses, name), type) and value is not Loss:
            modules.setdefault(value.__module__.rpartition(".")[2], []).append(name)
    own = [name for names in modules.values() for name in names if issubclass(getattr(piste.losses, name), Loss)]
    for module, names in sorted(modules.items()):
        if layers := [name for name in names if name not in own]:
            lines.append(f"from .{module} import {', '.join(f'{name} as {name}' for name in sorted(layers))}")
    declared = "LOSSES: dict[str, type[Loss]]", "def get_loss(name: str) -> type[Loss]: ...", "named = get_loss"
    lines += ["", *declared, "__all__: list[str]", ""]
    for name in sorted(own):
        cls = getattr(piste.losses, name)
        signature = getattr(cls, "__signature__", None) or inspect.signature(cls)
        operands = ", ".join(["self", *operands_of(cls)])
        lines += [
            f"class {name}(Loss):",
            f"    def __init__({', '.join(['self', *parameters(signature, options_of(cls))])}) -> None: ...",
            f"    def forward({operands}) -> Tensor: ...",
            f"    def __call__({operands}) -> Tensor: ...",
            "",
        ]
    return "\n".join(lines)


def functional_stub() -> str:
    lines = [HEADER, IMPORTS, "FUNCTIONS: dict[str, Callable[..., Tensor]]", "__all__: list[str]"]
    for name, function in functional.FUNCTIONS.items():
        cls = getattr(function, "loss", None)
        if function is getattr(with_layer, name, None):
            lines.append(f"def {name}(*args: Any, **kwargs: Any) -> Tensor: ...")
        else:
            given = parameters(inspect.signature(function), options_of(cls), types_of(cls))
            lines.append(f"def {name}({', '.join(given)}) -> Tensor: ...")
    return "\n".join([*lines, ""])


def optim_stub() -> str:
    lines = [
        HEADER,
        IMPORTS,
        "from . import lr_scheduler as lr_scheduler",
        "from torch.optim import swa_utils as swa_utils",
        "from torch.optim.optimizer import ParamsT",
        "",
        "from .files import load as load",
        "from .files import save as save",
        "from .matrix_groups import matrix_groups as matrix_groups",
        "from .optimizer import Optimizer as Optimizer",
        "from .model_groups import param_groups as param_groups",
        "from .ports import port as port",
        "from .state import Buffer as Buffer",
        *(f"from torch.optim import {name} as {name}" for name in OF_TORCH),
        "",
        "OF_TORCH: dict[str, Any]",
        "OPTIMIZERS: dict[str, type[Optimizer]]",
        "__all__: list[str]",
        "",
    ]
    for name, cls in OPTIMIZERS.items():
        given = parameters(inspect.signature(cls), {**SHARED, **cls.options}, {"params": "ParamsT"})
        given = [text.replace(": float", ": float | Tensor") for text in given]  # also a 0-dimensional tensor
        lines += [f"class {name}(Optimizer):", f"    def __init__({', '.join(['self', *given])}) -> None: ...", ""]
    return "\n".join(lines)


def types_of(cls: type[Loss]) -> dict[str, str]:
    """The annotation of every operand of a loss."""
    return {name: cls.argument_types.get(name, "Tensor") for name in cls.arguments}


def operands_of(cls: type[Loss]) -> list[str]:
    """The parameters of `forward`: the operands, and those that it takes by name and as further operands."""
    _, *given = inspect.signature(cls.forward).parameters.values()
    return [f"{p.name}: {p.annotation}" + ("" if p.default is p.empty else f" = {p.default!r}") for p in given]


def options_of(cls: type[Loss]) -> dict[str, Any]:
    """Every option of a loss: its own, the reduction, the settings of all losses, and torch's old flags."""
    return {**cls.options, "reduction": reduction_option(cls.reductions), **SETTINGS, **LEGACY}


def parameters(
    signature: inspect.Signature, options: Mapping[str, Any], operands: Mapping[str, str] | None = None
) -> list[str]:
    """Return the parameters of a signature with their types, as Python text."""
    texts, keywords = [], False
    for name, p in signature.parameters.items():
        if p.kind is p.KEYWORD_ONLY and not keywords:
            texts.append("*")
            keywords = True
        kind = (operands or {}).get(name) or getattr(options.get(name), "annotation", "Any")
        default = "" if p.default is p.empty else f" = {p.default!r}" if is_literal(p.default) else " = ..."
        texts.append(f"{name}: {kind}{default}")
    return texts


def is_literal(value: Any) -> bool:
    return value is None or (isinstance(value, (bool, int, float, str, tuple)) and value != math.inf)


if __name__ == "__main__":
    for path, text in stubs().items():
        path.write_text(text)
