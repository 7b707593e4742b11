"""The shapes that each loss takes, and those that it rejects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from piste.errors import PisteError

from .domains import Function


@dataclass(frozen=True)
class Shapes:
    """Shapes of operands that match, and shapes that do not: "43 4" is (4, 3) and (4,), "." is ()."""

    name: str
    right: str
    wrong: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}{self.options or ''}"


SHAPES = [
    Shapes("l1", "43 43; . .; 0 0", "41 4; 43 3; 1 .; 4 41"),
    Shapes("mse", "43 43", "43 42", {"weight": torch.ones(3)}),
    Shapes("mse", "43 43; 243 243", "3 3; 34 34", {"weight": torch.ones(4, 1)}),
    Shapes("discriminator", "43 43; . .; 0 0", "41 4; 43 3; 1 ."),
    Shapes("generator", "43; .; 0", ""),
    Shapes("dpo", "4 4 4 4; . . . .", "4 4 4 41; 4 4 1 4; 4 41 4 4; 4 . . ."),
    Shapes("grpo", "43 43 43; . . .; 0 0 0", "43 43 4; 43 43 41; 43 41 43; 4 4 ."),
    Shapes("gaussian_nll", "43 43 43; 43 43 41; 43 43 4; 43 43 13", "43 43 3; 43 43 11; 43 43 42; 43 43 431; 43 43 ."),
    Shapes("distillation", "43 43; 3 3; 42 42; 243 243; 03 03", "43 4; 41 41; . .; 1 1; 43 42"),
    Shapes("cross_entropy", "43 4; 3 .; 432 42; 43 43; 3 3; 03 0", "43 3; 43 41; 432 43; . .; 41 4; 41 41; 3 2"),
    Shapes("cross_entropy", "423 42; 43 4; 3 .", "432 42", {"class_dim": -1}),
    Shapes("cross_entropy", "34 4; 3 .", "43 4; . .", {"class_dim": 0}),
    Shapes("cross_entropy", "423 42", "43 4; 3 .", {"class_dim": 2}),
    Shapes("cross_entropy", "324 24", "43 4; 3 .", {"class_dim": -3}),
    Shapes("cross_entropy", "43 4; 43 43", "42 4; 34 3", {"weight": torch.ones(3)}),
    Shapes("cross_entropy", "41 4; 41 41; 1 .", "", {"check": "off"}),
    Shapes("nll", "43 4; 3 .; 432 42", "43 43; 43 3"),
    Shapes("nll2d", "2345 245", "234 24; 23 2; 2345 24"),
    Shapes("dice", "432 432; 432 42; 412 412; 2345 245; 2345 2345", "43 43; 43 3; 412 42; 432 43; 432 431; . ."),
    Shapes("multi_margin", "43 4; 3 .", "432 42; . ."),
    Shapes("multilabel_margin", "43 43; 3 3; 03 03", ". .; 43 4"),
    Shapes("multilabel_soft_margin", "43 43; 3 3; 243 243", ". .; 43 4"),
    Shapes("cosine_embedding", "43 43 4; 3 3 .", "243 243 24; 43 43 .; . . .; 43 33 4"),
    Shapes("triplet_margin", "43 43 43; 3 3 3; 243 243 243", ". . .; 43 43 13; 43 13 43"),
]


def find_shape_mismatch(function: Function, shapes: Shapes) -> str | None:
    """Return the first shapes that are wrongly accepted or rejected, or None."""
    loss = function(shapes.name)
    right, wrong = (text.split("; ") if text else [] for text in (shapes.right, shapes.wrong))
    for text in (*right, *wrong):
        is_right = text in right
        sizes = [tuple(map(int, size.replace(".", ""))) for size in text.split()]
        operands = [torch.full(size, 0.5 if shapes.name == "dice" else -0.5) for size in sizes]
        last = operands[-1].shape
        if shapes.name in ("nll", "nll2d", "multi_margin") or (
            shapes.name in ("cross_entropy", "dice") and sizes[0] != sizes[1]
        ):
            operands[-1] = torch.zeros(last, dtype=torch.int64)
        elif shapes.name in ("multilabel_margin", "cosine_embedding"):
            operands[-1] = torch.full(last, -1)  # no label, or a pair that differs
        elif shapes.name not in ("triplet_margin", "dpo"):
            operands[-1] = torch.full(last, 1 / max(last[min(1, len(last) - 1)], 1) if last else 1.0)
        for reduction, device in (("none", "cpu"), ("sum", "cpu"), ("none", "meta")):
            moved = [o.to(device) for o in operands]
            options = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in shapes.options.items()}
            try:
                loss(*moved, **options, reduction=reduction)
            except PisteError as refusal:
                if is_right:
                    return f"{shapes} refuses {text}: {refusal}"
            else:
                if not is_right:
                    return f"{shapes} takes {text}"
    return None
