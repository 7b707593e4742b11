"""Progress displays: a live table for a terminal, or plain lines for a log."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from ...text_encoding import encodable, language_of
from ...translation import translate
from ...wording import plural
from ..budget import format_duration
from ..candidates import Candidate
from ..formats import format_result
from ..listener import Listener
from ..plan import Plan
from ..results import Result
from ..search_space import format_options

BLOCKS = "▁▂▃▄▅▆▇█"


def make_display(progress: bool | None, stream: TextIO | None = None) -> Listener:
    """Return the display for a stream.

    Args:
        progress: False for none, True for a live table in a terminal and lines elsewhere, None for a live table in a
            terminal and none elsewhere.
        stream: The stream; stdout if None.
    """
    stream = stream or sys.stdout
    if progress is False:
        return Listener()
    if stream.isatty():
        return LiveProgress(stream)
    return LogProgress(stream) if progress else Listener()


class LogProgress(Listener):
    """One line for every finished run."""

    is_visible = True

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.count = stream, 0.0

    def on_start(self, plan: Plan, kept: int) -> None:
        finished = f", {kept} of them already finished" * bool(kept)
        runs = f"{plan.runs:,} run{'s' * (plan.runs != 1)}{finished}{_expected_duration(plan, kept)}."
        with language_of(self.stream):
            self._write(f"{translate(f'{plan}.')} {translate(runs)}")
        self.started = time.perf_counter()

    def on_run_end(self, plan: Plan, result: Result) -> None:
        self.count += plan.share_of_run(result)
        width = max(len(c.name) for c in plan.candidates)
        if result.status == "done":
            outcome = f"loss {format_result(result.losses[-1])}  {plan.metric.name} {format_result(result.metrics[-1])}"
        else:
            outcome = f"{result.status.upper()}: {result.note}" if result.diverged else result.note
        configuration = [
            *([] if result.lr is None else [f"lr {result.lr:.3g}"]),
            *[format_options(result.options)] * bool(result.options),
        ]
        spent = time.perf_counter() - self.started
        with language_of(self.stream):
            role = "" if result.role == "judged" else f"{translate(result.role)} {', '.join(configuration)}  "
            self._write(
                f"[{self.count:>{len(str(plan.runs))}.0f}/{plan.runs}] {spent:5.1f} s  seed {result.seed}  "
                f"{result.candidate:<{width}}  {role}{translate(outcome)}"
            )

    def _write(self, line: str) -> None:
        print(encodable(translate(line), self.stream), file=self.stream, flush=True)


class LiveProgress(Listener):
    """A live table: the finished seeds, the latest curve and the mean metric of every candidate."""

    is_visible = True

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self.console = Console(file=stream)
        self.curves: dict[str, tuple[int, list[float]]] = {}  # seed and metrics of each candidate's latest run
        self.results: dict[str, list[Result]] = {}
        self.running: dict[tuple[str, int], int] = {}  # the step of every running trial
        self.count = 0.0

    def on_start(self, plan: Plan, kept: int) -> None:
        from rich.live import Live

        self.plan, self.kept, self.started = plan, kept, time.perf_counter()
        self.live = Live(console=self.console, get_renderable=self._render, refresh_per_second=5, transient=True)
        self.live.start()

    def on_evaluate(self, plan: Plan, candidate: Candidate, seed: int, step: int, loss: float, metric: float) -> None:
        if step == 0:
            self.curves[candidate.name] = seed, []
        if self.curves[candidate.name][0] == seed:
            self.curves[candidate.name][1].append(metric)
        self.running[candidate.name, seed] = step

    def on_run_end(self, plan: Plan, result: Result) -> None:
        self.count += plan.share_of_run(result)
        self.running.pop((result.candidate, result.seed), None)
        if result.role == "judged":
            self.results.setdefault(result.candidate, []).append(result)

    def on_end(self) -> None:
        self.live.stop()

    def _render(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        plan = self.plan
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("", "seeds", f"{plan.metric.name}, latest run", plan.metric.name):
            table.add_column(title, no_wrap=True, justify="right" if title == plan.metric.name else "left")
        room = self.console.height - 6
        shown = plan.candidates if len(plan.candidates) <= room else self._visible_candidates(room)
        values = [v for _, curve in self.curves.values() for v in curve]
        for candidate in shown:
            runs = self.results.get(candidate.name, [])
            running = sum(name == candidate.name for name, _ in self.running)
            seeds = "".join("✗" if r.diverged else "●" for r in runs)
            seeds += "◐" * min(running, len(plan.seeds) - len(runs))
            finished = [r.metrics[-1] for r in runs if not r.diverged]
            table.add_row(
                Text(candidate.name, style="bold cyan" if running else ""),
                seeds.ljust(len(plan.seeds), "·"),
                sparkline(self.curves.get(candidate.name, (0, []))[1], values, plan.metric.higher_is_better),
                format_result(sum(finished) / len(finished)) if finished else ("diverged" if runs else ""),
            )
        completed = min(self.count + sum(self.running.values()) / plan.steps, plan.runs)
        spent = time.perf_counter() - self.started
        left = ""
        if completed > self.kept + 1:
            left = f", about {spent / (completed - self.kept) * (plan.runs - completed):.0f} s left"
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=plan.runs, completed=completed, width=40),
            Text(
                f"{completed:,.0f} of {plural(plan.runs, 'run')}, {spent:.0f} s{left}  (Ctrl-C keeps finished runs)",
                style="dim",
            ),
        )
        return Group(Text(f"{plan}{_expected_duration(plan, self.kept)}", style="bold"), table, bar)

    def _visible_candidates(self, room: int) -> list[Candidate]:
        names = [c.name for c in self.plan.candidates]
        at = max((names.index(name) for name, _ in self.running), default=0)
        first = max(0, min(at - room // 2, len(names) - room))
        return self.plan.candidates[first : first + room]


def _expected_duration(plan: Plan, kept: int) -> str:
    """Return the expected duration of the missing runs, if it was estimated."""
    seconds = plan.seconds * (1 - kept / plan.runs)
    return f", about {format_duration(seconds)}" if seconds > 0 else ""


def sparkline(curve: list[float], values: list[float], higher_is_better: bool = True, width: int = 24) -> str:
    """Return a curve as a row of blocks, the tallest for the best of `values`, which are those of all curves.

    >>> sparkline([0.0, 0.5, 1.0], [0.0, 1.0])
    '▁▅█'
    """
    if not curve:
        return ""
    low, high = min(values), max(values)
    sampled = [curve[round(i * (len(curve) - 1) / (width - 1))] for i in range(width)] if len(curve) > width else curve
    shares = [((v - low) / (high - low) if high > low else 0.0) for v in sampled]
    if not higher_is_better:
        shares = [1 - s for s in shares]
    return "".join(BLOCKS[min(round(s * (len(BLOCKS) - 1)), len(BLOCKS) - 1)] for s in shares)
