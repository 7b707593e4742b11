"""The pictures of the reference: the curve of a loss with its slope, and the path of an optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor

from piste.losses import Loss
from piste.losses.class_loss import ClassLoss
from piste.losses.elementwise import ElementwiseLoss
from piste.optim import Optimizer

from .blocks import FIGURE_STYLE, svg_of

__all__ = ["best_rate", "draw_loss", "draw_path", "path", "valley"]

START = (-4.0, 1.5)
STEPS = 80
RATES = [10 ** (k / 4) for k in range(-16, 5)]


# --- losses -------------------------------------------------------------------------------------------------------


def draw_loss(loss: type[Loss]) -> str:
    """Return the SVG of the loss of one element (or row) over one number of its input, and of its slope."""
    if issubclass(loss, ElementwiseLoss):
        x, curves, label = _element_curves(loss)
    elif issubclass(loss, ClassLoss):
        x, curves, label = _class_curves(loss)
    else:
        x, curves, label = _entry_curve(loss)
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(8, 2.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name, values in curves.items():
            (slope,) = torch.autograd.grad(values.sum(), x)
            inside = values.detach().isfinite()
            shown = torch.where(inside, values.detach(), torch.nan)
            left.plot(x.detach(), shown, label=name)
            right.plot(x.detach(), torch.where(inside, slope, torch.nan), label=name)
        for axes, title in ((left, "loss"), (right, "its slope")):
            axes.set(title=title, xlabel=label)
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, -8), min(high, 8))
        left.legend() if len(curves) > 1 else None
        return svg_of(figure)


def _element_curves(loss: type[ElementwiseLoss]) -> tuple[Tensor, dict[str, Tensor], str]:
    name, *others = loss.arguments
    module = loss(reduction="none", check="off")
    checks = loss.checks_of({option: getattr(module, option, None) for option in loss.options})

    def is_valid(position: int, value: float) -> bool:
        operands = [torch.full((1,), 0.5, dtype=torch.float64) for _ in loss.arguments]
        operands[position][0] = value
        return not any(bool(c.fails(*operands)) for c in checks if c.argument == loss.arguments[position])

    x = torch.tensor([v for v in torch.linspace(-4, 4, 801).tolist() if is_valid(0, v)], dtype=torch.float64)
    x.requires_grad_()
    fixed = {n: 1.0 if n == "var" else 0.0 if is_valid(i, 0.5) else -1.0 for i, n in enumerate(loss.arguments)}
    varied = next((n for n in ("target", "advantage") if n in others), None)
    curves = {}
    for value in _values_of(loss, varied, is_valid):
        rest = [torch.full_like(x, value if n == varied else fixed[n]).detach() for n in others]
        curves[f"{varied} {value:g}"] = module(x, *rest)
    also = [f"{n} {fixed[n]:g}" for n in others if n != varied and varied != "target"]
    return x, curves, f"{name} ({', '.join(also)})" if also else name


def _values_of(loss: type[ElementwiseLoss], varied: str | None, is_valid: Callable[[int, float], bool]) -> list[float]:
    """Return the values of the operand that differs between the curves."""
    if varied is None:
        return [0.0]
    if varied == "advantage" or not is_valid(loss.arguments.index(varied), 0.5):
        return [-1.0, 1.0]
    target = loss.arguments.index(varied)
    if is_valid(target, -1.0):
        return [0.0]
    return [0.0, 0.5, 1.0] if not is_valid(target, 2.0) else [0.0, 1.0, 3.0]


def _class_curves(loss: type[ClassLoss]) -> tuple[Tensor, dict[str, Tensor], str]:
    is_log = loss.input_kind == "log-probabilities"
    x = torch.linspace(-6, 0 if is_log else 6, 601, dtype=torch.float64).requires_grad_()
    rows = torch.stack([x, torch.zeros_like(x), torch.zeros_like(x)], 1)
    module = loss(reduction="none", check="off")
    if loss.__name__.endswith("2d"):
        rows = rows[..., None, None]
    curves = {}
    for k, name in ((0, "the target's class"), (1, "another class")):
        target = torch.full(rows.shape[:1] + rows.shape[2:], k)
        curves[name] = module(rows, target).reshape(-1)
    return x, curves, "input of one of 3 classes, the others 0"


def _entry_curve(loss: type[Loss]) -> tuple[Tensor, dict[str, Tensor], str]:
    torch.manual_seed(0)
    first, *others = eval(f"({loss.example},)", {"torch": torch})
    x = torch.linspace(-4, 4, 401, dtype=torch.float64).requires_grad_()
    module = loss(reduction="none", check="off")
    first = first.double()
    others = [o.double() if o.is_floating_point() else o for o in others]
    is_first = torch.zeros_like(first).reshape(-1)
    is_first[0] = 1
    values = [module(torch.where(is_first.reshape(first.shape) == 1, v, first), *others).reshape(-1)[0] for v in x]
    return x, {"": torch.stack(values)}, f"first entry of {loss.arguments[0]}, the rest as in the example"


# --- optimizers ---------------------------------------------------------------------------------------------------


def valley(w: Tensor) -> Tensor:
    """Return the height of a long valley: 25 times steeper in one direction than in the other."""
    return 0.5 * (w[..., 0] ** 2 + 25 * w[..., 1] ** 2)


def path(optimizer: type[Optimizer], surface: Any, steps: int = STEPS, **options: Any) -> Tensor:
    """Return the points that an optimizer visits on a surface; a rule of matrices takes a matrix of one row."""
    start = torch.tensor(START, dtype=torch.float64)
    w = (start if optimizer.matrix is None else start[None]).clone().requires_grad_()
    one_at_a_time = {"max_iter": 1} if "max_iter" in optimizer.options else {}
    stepper = optimizer([w], fused=False, **one_at_a_time, **options)

    def evaluate() -> Tensor:
        stepper.zero_grad()
        height = surface(w).sum()
        height.backward()
        if optimizer.sparse_only:
            w.grad = w.grad.to_sparse()
        return height

    points = [start]
    for _ in range(steps):
        stepper.step(evaluate)
        points.append(w.detach().reshape(2).clone())
    return torch.stack(points)


def best_rate(optimizer: type[Optimizer], surface: Any) -> float:
    """Return the rate of a grid, four to a decade, with the lowest height on average over the path."""
    means = [float(surface(path(optimizer, surface, lr=lr)).mean().nan_to_num(torch.inf)) for lr in RATES]
    return RATES[means.index(min(means))]


def draw_path(optimizer: type[Optimizer]) -> str:
    """Return the SVG of two paths down a valley: at the default rate, and at the best one of a grid."""
    default = optimizer.options["lr"].default
    best = best_rate(optimizer, valley)
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(8, 2.6), layout="constrained")
        for axes, lr, name in zip(figure.subplots(1, 2), (default, best), ("default", "best of a grid"), strict=True):
            points = path(optimizer, valley, lr=lr)
            x, y = torch.meshgrid(torch.linspace(-4.6, 2, 80), torch.linspace(-2, 2, 60), indexing="xy")
            axes.contour(
                x,
                y,
                valley(torch.stack([x, y], -1)),
                levels=[0.1, 0.5, 2, 5, 10, 20, 40],
                colors="gray",
                linewidths=0.5,
            )
            axes.plot(*points.T, marker=".", markersize=3, linewidth=1)
            axes.plot(0, 0, marker="+", color="gray", markersize=10)
            axes.set(xlim=(-4.6, 2), ylim=(-2, 2), xticks=[], yticks=[], title=f"lr={lr:.3g} ({name})")
            axes.grid(False)
            axes.set_xlabel(f"height after {STEPS} steps: {float(valley(points[-1])):.2g}")
        return svg_of(figure)
