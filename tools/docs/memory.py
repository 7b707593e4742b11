"""The table of bytes per parameter in docs/optimizers.md and its translation.

`python -m tools.docs.memory` measures and writes it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

import piste

PAGES = tuple(Path(__file__).parents[2] / "docs" / name for name in ("optimizers.md", "optimizers.zh.md"))
TABLE = re.compile(r"(?<=<!-- bytes per parameter -->\n).*?(?=<!-- end -->)", re.DOTALL)
OPTIMIZERS = {"SGD": {}, "SGD, momentum": {"momentum": 0.9}, "Lion": {}, "Adam": {}}
ROWS: list[tuple[torch.dtype, dict[str, Any]]] = [
    (torch.float32, {}),
    (torch.float32, {"state_dtype": "bfloat16"}),
    (torch.float32, {"state_dtype": "int8"}),
    (torch.bfloat16, {}),
    (torch.bfloat16, {"precision": "stochastic"}),
    (torch.bfloat16, {"precision": "stochastic", "state_dtype": "int8"}),
    (torch.bfloat16, {"precision": "kahan"}),
    (torch.bfloat16, {"precision": "kahan", "state_dtype": "float32"}),
    (torch.bfloat16, {"precision": "master", "state_dtype": "bfloat16"}),
    (torch.bfloat16, {"precision": "master"}),
]
SIZE = 1 << 16


def bytes_per_parameter(name: str, dtype: torch.dtype, **options: Any) -> float:
    """Return the bytes of a parameter and its state after a step, for each of its elements.

    The state is the same on every backend; the eager one compiles nothing.
    """
    p = torch.ones(SIZE, dtype=dtype, requires_grad=True)
    p.grad = torch.ones_like(p)
    optimizer = piste.optim.OPTIMIZERS[name]([p], lr=0.1, fused=False, **options)
    optimizer.step()
    tensors = [p, *(value for value in optimizer.state[p].values() if value.dim())]
    return sum(x.untyped_storage().nbytes() for x in tensors) / SIZE


def table() -> str:
    """Return the table as Markdown."""
    lines = [f"| parameters | options | {' | '.join(OPTIMIZERS)} |", "|---" * (2 + len(OPTIMIZERS)) + "|"]
    for dtype, options in ROWS:
        sizes = (bytes_per_parameter(name.split(",")[0], dtype, **more, **options) for name, more in OPTIMIZERS.items())
        shown = ", ".join(f'{key}="{value}"' for key, value in options.items())
        cells = [str(dtype).removeprefix("torch."), f"`{shown}`" if shown else "", *(f"{size:.3g}" for size in sizes)]
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(lines)


def main() -> None:
    """Write the table into its pages."""
    measured = f"{table()}\n"
    for page in PAGES:
        page.write_text(TABLE.sub(measured, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
