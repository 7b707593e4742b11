"""Static figures of a comparison, in colours and dashes that stay distinct in print and for colour-blind readers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..results import Result, Summary
from .fonts import show_as_text, translated, use_installed_fonts, wrap, write_as_code_points

# The palette of Okabe and Ito, with the yellow darkened for white paper; a second round of candidates is dashed.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#9A8B00")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (4, 1.5, 1.2, 1.5)), (0, (8, 2)))
MIN_SPAN = 1e-3
"""The least range of an axis, as a share of the largest value on it."""
INK, FAINT = "#222222", "#8a8a8a"
WIDTH, CHARACTERS_PER_INCH = 7.0, 12.0
"""The width in inches of the figure that pages show, readable on a phone, and how much of a title fits into an inch."""
LINE_HEIGHT = 13 / 72
"""The height of a label at the end of a curve in inches."""
DARK = """@media (prefers-color-scheme: dark) {
[style*="fill: #ffffff"] { fill: #16181c !important } [style*="fill: #222222"] { fill: #e8e8ea !important }
[style*="stroke: #222222"], [style*="stroke: #000000"] { stroke: #e8e8ea !important }
[style*="stroke: #e6e6e6"] { stroke: #34373e !important } [style*="stroke: #0072b2"] { stroke: #3b82f6 !important }
[style*="fill: #0072b2"] { fill: #3b82f6 !important }
text:not([style*="fill:"]), [style^="fill-opacity"] { fill: #e8e8ea }
}"""
"""The colours of an SVG where the reader's system is dark."""


def style_numbers(comparison: Summary) -> dict[str, tuple[int, int]]:
    """Return the numbers of the colour and of the dash of every curve.

    Colours are of optimizers and dashes of loops; where there are not enough dashes, every curve has a pair of its own.
    """
    optimizers = sorted({row.optimizer for row in comparison.rows}, key=str.lower)
    loops = list(dict.fromkeys(row.curve.removeprefix(row.optimizer) for row in comparison.rows))
    rounds = -(-len(optimizers) // len(COLOURS))
    if len(loops) * rounds > len(DASHES):
        curves = dict.fromkeys(row.curve for row in comparison.rows)
        return {name: (i % len(COLOURS), i // len(COLOURS) % len(DASHES)) for i, name in enumerate(sorted(curves))}
    numbers = {}
    for row in comparison.rows:
        round_, colour = divmod(optimizers.index(row.optimizer), len(COLOURS))
        loop = loops.index(row.curve.removeprefix(row.optimizer))
        numbers[row.curve] = colour, (loop * rounds + round_) % len(DASHES)
    return numbers


def styles(comparison: Summary) -> dict[str, dict[str, Any]]:
    """Return the colour and dash of every curve, the same in all figures."""
    numbers = style_numbers(comparison).items()
    return {name: {"color": COLOURS[colour], "linestyle": DASHES[dash]} for name, (colour, dash) in numbers}


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure without a window and without global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, folder: Path, name: str) -> list[Path]:
    """Save a figure as SVG, with text as text and colours for dark pages, and as PNG; returns both paths."""
    import matplotlib

    paths = [folder / f"{name}.svg", folder / f"{name}.png"]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "piste"}):
        missing = use_installed_fonts(figure)
        with warnings.catch_warnings():  # text stays text in an SVG, whatever fonts this machine has
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            if layout := figure.get_layout_engine():  # a figure of the task may have none
                layout.execute(figure)
                figure.set_layout_engine(None)  # laid out once; savefig would do it twice for each file
            figure.savefig(paths[0], metadata={"Date": None})
        drawn = paths[0].read_text(encoding="utf-8")
        paths[0].write_text(drawn.replace("</style>", f"{DARK}</style>", 1), encoding="utf-8")
        if missing:
            write_as_code_points(figure, missing, int(figure.get_figwidth() * CHARACTERS_PER_INCH))
            figure.set_layout_engine(layout)
        figure.savefig(paths[1], dpi=160)
    return paths


def curve_figure(comparison: Summary) -> Any:
    """Training loss and validation metric over the steps: side by side for one loss, else a column for each loss.

    With one loss, after a search, the metric at the searched and at the first rates stand side by side on the same
    scale, above the training loss.
    """
    losses = list(dict.fromkeys(row.loss for row in comparison.rows))
    if len(losses) == 1:
        defaults = comparison.defaults if comparison.tries else []
        figure = new_figure(WIDTH, 7.6 if defaults else 4.2)
        places = [["metrics", "defaults"], ["losses", "losses"]] if defaults else [["losses", "metrics"]]
        panels = figure.subplot_mosaic(places)
        pairs = [(losses[0], panels["losses"], panels["metrics"])]
    else:
        figure = new_figure(3.1 * len(losses) + 1.6, 6.4)
        grid = figure.subplots(2, len(losses), sharex=True, squeeze=False)
        pairs = [(loss, grid[0][i], grid[1][i]) for i, loss in enumerate(losses)]
    for loss, above, below in pairs:
        results = [r for r in comparison.results if r.loss == loss]
        _panel(comparison, above, results, "losses", translated(f"{loss}, training"))
        _panel(comparison, below, results, "metrics", translated(f"{comparison.metric}, validation"))
        if len(losses) == 1:
            if defaults:
                _panel(comparison, panels["defaults"], defaults, "metrics", translated(comparison.first_rates))
                below.set_ylabel(translated(f"{comparison.metric}, searched learning rates"), color=INK)
                _share_limits([below, panels["defaults"]])
            for panel in panels.values():
                _label_ends(panel)
        else:
            above.set_title(loss, fontsize=10, color=INK)
            _share_limits([below, pairs[0][2]])
    if len(losses) > 1:
        legends = [above.get_legend_handles_labels() for _, above, _ in pairs]
        entries = {label: handle for handles, labels in legends for handle, label in zip(handles, labels, strict=True)}
        ordered = sorted(entries, key=str.lower)
        figure.legend([entries[k] for k in ordered], ordered, loc="outside right center", frameon=False, fontsize=9)
    figure.suptitle(_title(comparison, figure.get_figwidth()), fontsize=10, color=INK, x=0.01, ha="left")
    show_as_text(figure)
    return figure


def _title(comparison: Summary, width: float) -> str:
    seeds = comparison.seeds
    rates = comparison.first_rates
    if comparison.tries:
        rates = f"learning rates searched for each seed, and {rates}"
    shown = f"mean and range of {seeds} seeds" if seeds > 1 else "one seed"
    about = f"Loss on fixed training examples, {comparison.metric} on the validation set; {shown}; {rates}."
    sentences = f"{comparison.name}: {translated(comparison.verdict.sentence)}", translated(about)
    return "\n".join(line for text in sentences for line in wrap(text, int(width * CHARACTERS_PER_INCH)))


def _panel(comparison: Summary, axes: Any, results: Sequence[Result], attribute: str, title: str) -> None:
    style = styles(comparison)
    finished: list[float] = []
    for name in dict.fromkeys(r.curve for r in results):
        runs = [r for r in results if r.curve == name]
        done = [r for r in runs if not r.diverged]
        for r in (r for r in runs if r.diverged):
            values = [v if math.isfinite(v) else math.nan for v in getattr(r, attribute)]
            label = None if done else f"{name} {translated('(diverged)')}"
            axes.plot(r.steps, values, **style[name], lw=1, alpha=0.7, label=label)
            last = max((i for i, v in enumerate(values) if not math.isnan(v)), default=0)
            axes.plot(r.steps[last], values[last], marker="x", ms=8, mew=2, color=style[name]["color"], clip_on=True)
        if done:
            curves = np.array([getattr(r, attribute) for r in done])
            finished += [*curves.min(0), *curves.max(0)]
            axes.plot(done[0].steps, curves.mean(0), **style[name], lw=1.7, label=name)
            if len(done) > 1:
                axes.fill_between(
                    done[0].steps, curves.min(0), curves.max(0), color=style[name]["color"], alpha=0.12, lw=0
                )
    if attribute == "losses" and finished and min(finished) > 0 and max(finished) > 5 * min(finished):
        from .log_axes import set_log_scale

        set_log_scale(axes, "y")
    if finished:  # a diverged curve must not flatten the others
        _limits(axes, min(finished), max(finished))
    axes.set_xlabel(translated("step"), color=INK)
    axes.set_ylabel(title, color=INK)
    axes.margins(x=0)
    style_axes(axes)


def style_axes(axes: Any) -> None:
    """Draw a light grid, and no frame at the top and the right."""
    axes.grid(True, which="major", color="#e6e6e6", lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)


def _limits(axes: Any, low: float, high: float) -> None:
    low, high = widened(low, high)
    if axes.get_yscale() == "log":
        margin = (high / low) ** 0.04
        axes.set_ylim(low / margin, high * margin)
    else:
        margin = 0.04 * (high - low)
        axes.set_ylim(low - margin, high + margin)


def widened(low: float, high: float) -> tuple[float, float]:
    """Return a range of at least a thousandth of its values, so that a flat curve is drawn flat."""
    least = MIN_SPAN * max(abs(low), abs(high)) or 1.0
    if high - low >= least:
        return low, high
    middle = (low + high) / 2
    return middle - least / 2, middle + least / 2


def _share_limits(panels: Sequence[Any]) -> None:
    low, high = min(p.get_ylim()[0] for p in panels), max(p.get_ylim()[1] for p in panels)
    for panel in panels:
        panel.set_ylim(low, high)


def _label_ends(axes: Any) -> None:
    """Write each curve's name next to its end, moved apart to avoid overlaps."""
    from matplotlib.lines import Line2D

    gap = LINE_HEIGHT * axes.figure.dpi / axes.get_window_extent().height
    lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = []
    for line in lines:
        points = [(x, y) for x, y in zip(*line.get_data(), strict=True) if y == y]
        height = float(to_axes.transform((points[-1][0], points[-1][1]))[1]) if points else 0.0
        ends.append((min(max(height, 0.0), 1.0), line))
    ends.sort(key=lambda end: end[0])
    heights = _spread_apart([height for height, _ in ends], gap=min(gap, 1 / len(ends)))
    for (end, line), height in zip(ends, heights, strict=True):
        to_label = Line2D(
            [1.01, 1.04], [end, height], lw=0.6, color=line.get_color(), linestyle=line.get_linestyle(),
            transform=axes.transAxes, clip_on=False,
        )  # fmt: skip
        axes.add_artist(to_label)
        axes.text(
            1.05, height, line.get_label(), color=line.get_color(), fontsize=10, va="center", transform=axes.transAxes
        )


def _spread_apart(heights: Sequence[float], gap: float) -> list[float]:
    """Sorted heights in [0, 1], moved as little as needed to be `gap` apart, by merging clusters that touch."""
    clusters: list[tuple[float, int]] = []  # centre, count

    def placed(centre: float, count: int) -> tuple[float, int]:
        half = gap * (count - 1) / 2
        return min(max(centre, half), 1 - half), count

    for height in heights:
        clusters.append(placed(height, 1))
        while len(clusters) > 1:
            (a, n), (b, m) = clusters[-2:]
            if b - a >= gap * (n + m) / 2 - 1e-9:
                break
            clusters[-2:] = [placed((a * n + b * m) / (n + m), n + m)]
    return [centre + gap * (i - (count - 1) / 2) for centre, count in clusters for i in range(count)]
