"""A synthetic line, y = w x + b with noise: two weights, so that the path of every optimizer can be drawn."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..report.figures import FAINT, INK, new_figure, styles
from ..report.fonts import translated
from ..results import Summary
from ..task import Task

W, B, NOISE = 0.8, 0.3, 0.1


def points(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` points near the true line, x evenly from -1 to 1."""
    x = torch.linspace(-1, 1, count).unsqueeze(1)
    noise = torch.randn(count, 1, generator=torch.Generator().manual_seed(seed))
    return x, W * x + B + NOISE * noise


class FirstGuess(nn.Linear):
    """A line that starts far from the true one; the seed changes the start a little."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        with torch.no_grad():
            self.weight.copy_(-0.7 + 0.1 * self.weight)
            self.bias.copy_(-0.4 + 0.1 * self.bias)


def make() -> Task:
    return Task(
        FirstGuess, points(48, 1), points(48, 2), loss="mse", metric="rmse", epochs=150, batch_size=12, picture=picture
    )


def picture(comparison: Summary) -> Any:
    """Left, the predictions of the best candidate during training; right, the path of every candidate's weights."""
    import numpy as np

    style = styles(comparison)
    seed = comparison.settings["seeds"][0]
    paths = {r.candidate: r for r in comparison.results if r.seed == seed and not r.diverged}
    figure = new_figure(11, 5.2)
    left, right = figure.subplots(1, 2)
    ranked = [row.name for row in comparison.rows if row.name in paths]
    if not ranked:
        left.set_title(translated("every run diverged"))
        return figure
    shown = paths[ranked[0]]
    x, y = (part.squeeze(1).numpy() for part in points(48, 1))
    guesses = _guesses(shown.path)
    shades = np.linspace(0.75, 0.0, len(guesses))
    w, b = shown.path[0]
    left.vlines(
        x[::3],
        w * x[::3] + b,
        y[::3],
        color="#D55E00",
        lw=1,
        alpha=0.8,
        label=translated("distance of prediction w1 to the truth: the loss"),
    )
    left.plot(x, W * x + B, color=INK, lw=4, alpha=0.18, label=translated(f"the true line, y = {W} x + {B}"))
    for i, (at, shade) in enumerate(zip(guesses, shades, strict=True)):
        w, b = shown.path[at]
        colour = (0.0 + shade * 0.7, 0.35 + shade * 0.45, 0.7 + shade * 0.22)
        left.plot(x, w * x + b, color=colour, lw=1.6)
        step = translated(f"(step {shown.steps[at]})")
        left.annotate(
            f"w{i + 1} {step}", (1, w + b), (4, 0), "data", textcoords="offset points",
            color=colour, fontsize=9, va="center", annotation_clip=False,
        )  # fmt: skip
    left.scatter(x, y, s=14, color=INK, zorder=3, label=translated("training data"))
    left.set(xlabel="x", ylabel="y")
    left.set_title(translated(f"{shown.optimizer}: the guesses approach the line"), fontsize=10, color=INK, loc="left")
    left.legend(frameon=False, fontsize=8, loc="upper left")

    _contours(right, x, y, list(paths.values()))
    for name in sorted(paths, key=str.lower):
        path = np.array(paths[name].path)
        right.plot(path[:, 0], path[:, 1], **style[paths[name].curve], lw=1.5, marker=".", ms=3, label=name)
    right.plot(*shown.path[0], "o", color=INK, ms=6)
    right.annotate(translated("start"), shown.path[0], (6, -10), textcoords="offset points", color=INK, fontsize=9)
    right.plot(W, B, "*", color=INK, ms=12, zorder=4)
    right.annotate(translated("truth"), (W, B), (6, 8), textcoords="offset points", color=INK, fontsize=9)
    right.set(xlabel="w", ylabel="b")
    right.set_title(
        translated(f"Path of the two weights, {shown.steps[-1]} steps each"), fontsize=10, color=INK, loc="left"
    )
    right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axes in (left, right):
        axes.tick_params(colors=INK, labelsize=9)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(FAINT)
    return figure


def _guesses(path: list[list[float]]) -> list[int]:
    """Return the indices of the points to draw: the first that cover 0, 30, 55, 75, 90 and 100 % of the way."""
    end = torch.tensor(path[-1])
    distances = [float((torch.tensor(point) - end).norm()) for point in path]
    chosen: list[int] = []
    for share in (0.0, 0.3, 0.55, 0.75, 0.9, 1.0):
        at = next(i for i, d in enumerate(distances) if d <= (1 - share) * distances[0] + 1e-12)
        if at not in chosen:
            chosen.append(at)
    return chosen


def _contours(axes: Any, x: Any, y: Any, results: list[Any]) -> None:
    """Draw contours of the loss around all paths."""
    import numpy as np

    everywhere = np.array([point for r in results for point in r.path] + [[W, B]])
    low, high = everywhere.min(0), everywhere.max(0)
    margin = 0.12 * (high - low)
    w, b = (np.linspace(low[i] - margin[i], high[i] + margin[i], 80) for i in (0, 1))
    error = (w[None, :, None] * x + b[:, None, None] - y) ** 2
    axes.contour(w, b, np.sqrt(error.mean(-1)), levels=10, colors="#c8c8c8", linewidths=0.8)
