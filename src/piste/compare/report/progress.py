"""What is seen while a comparison runs: a live table in a terminal, plain lines in a log, or nothing."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from ..budget import span
from ..candidates import Candidate
from ..plan import Plan
from ..search_space import spoken
from ..training.trial import Result

BLOCKS = "▁▂▃▄▅▆▇█"


class Progress:
    """Told what happens; this one keeps silent."""

    tells = False

    def begin(self, plan: Plan, kept: int) -> None: ...

    def look(self, plan: Plan, candidate: Candidate, seed: int, step: int, loss: float, metric: float) -> None: ...

    def done(self, plan: Plan, result: Result) -> None: ...

    def end(self) -> None: ...


def display(wanted: bool | None, stream: TextIO | None = None) -> Progress:
    """The display for a stream: live in a terminal; elsewhere lines if wanted, nothing if not said."""
    stream = stream or sys.stdout
    if wanted is False:
        return Progress()
    if stream.isatty():
        return Live(stream)
    return Lines(stream) if wanted else Progress()


class Lines(Progress):
    """One line for every run, as it ends."""

    tells = True

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.count = stream, 0

    def begin(self, plan: Plan, kept: int) -> None:
        self._write(
            f"{plan}. {'at most ' * plan.searches}{plan.runs} runs{f', {kept} of them done before' * bool(kept)}"
            f"{_expected(plan, kept)}."
        )
        self.started = time.perf_counter()

    def done(self, plan: Plan, result: Result) -> None:
        self.count += 1
        width = max(len(c.name) for c in plan.candidates)
        outcome = f"loss {result.losses[-1]:.4g}  {plan.metric.name} {result.metrics[-1]:.4g}"
        if result.status != "done":
            outcome = f"DIVERGED: {result.note}" if result.diverged else result.note
        setting = [
            *([] if result.lr is None else [f"lr {result.lr:.3g}"]),
            *[spoken(result.options)] * bool(result.options),
        ]
        role = "" if result.role == "judged" else f"{result.role} {', '.join(setting)}  "
        spent = time.perf_counter() - self.started
        self._write(
            f"[{self.count:>{len(str(plan.runs))}}/{plan.runs}] {spent:5.1f} s  seed {result.seed}  "
            f"{result.candidate:<{width}}  {role}{outcome}"
        )

    def _write(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


class Live(Progress):
    """A table that fills: for every candidate its seeds, its latest curve, and the metric so far."""

    tells = True

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self.console = Console(file=stream)
        self.curves: dict[str, tuple[int, list[float]]] = {}  # of each candidate's latest run, with its seed
        self.results: dict[str, list[Result]] = {}
        self.under_way: dict[tuple[str, int], int] = {}  # the step of every run that isn't done
        self.count = 0

    def begin(self, plan: Plan, kept: int) -> None:
        from rich.live import Live as RichLive

        self.plan, self.kept, self.started = plan, kept, time.perf_counter()
        self.live = RichLive(console=self.console, get_renderable=self._render, refresh_per_second=5, transient=True)
        self.live.start()

    def look(self, plan: Plan, candidate: Candidate, seed: int, step: int, loss: float, metric: float) -> None:
        if step == 0:
            self.curves[candidate.name] = seed, []
        if self.curves[candidate.name][0] == seed:
            self.curves[candidate.name][1].append(metric)
        self.under_way[candidate.name, seed] = step

    def done(self, plan: Plan, result: Result) -> None:
        self.count += 1
        self.under_way.pop((result.candidate, result.seed), None)
        if result.role == "judged":
            self.results.setdefault(result.candidate, []).append(result)

    def end(self) -> None:
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
        shown = plan.candidates if len(plan.candidates) <= room else self._around(room)
        spread = [v for _, curve in self.curves.values() for v in curve]
        for candidate in shown:
            mine = self.results.get(candidate.name, [])
            running = sum(name == candidate.name for name, _ in self.under_way)
            seeds = "".join("✗" if r.diverged else "●" for r in mine)
            seeds += "◐" * min(running, len(plan.seeds) - len(mine))
            finished = [r.metrics[-1] for r in mine if not r.diverged]
            table.add_row(
                Text(candidate.name, style="bold cyan" if running else ""),
                seeds.ljust(len(plan.seeds), "·"),
                sparkline(self.curves.get(candidate.name, (0, []))[1], spread, plan.metric.higher_is_better),
                f"{sum(finished) / len(finished):.4g}" if finished else ("diverged" if mine else ""),
            )
        completed = min(self.count + sum(self.under_way.values()) / plan.steps, plan.runs)
        spent = time.perf_counter() - self.started
        left = ""
        if completed > self.kept + 1:
            left = f", about {spent / (completed - self.kept) * (plan.runs - completed):.0f} s left"
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=plan.runs, completed=completed, width=40),
            Text(f"{completed:.0f} of {plan.runs} runs, {spent:.0f} s{left}  (Ctrl-C keeps what is done)", style="dim"),
        )
        return Group(Text(f"{plan}{_expected(plan, self.kept)}", style="bold"), table, bar)

    def _around(self, room: int) -> list[Candidate]:
        names = [c.name for c in self.plan.candidates]
        at = max((names.index(name) for name, _ in self.under_way), default=0)
        first = max(0, min(at - room // 2, len(names) - room))
        return self.plan.candidates[first : first + room]


def _expected(plan: Plan, kept: int) -> str:
    """How long the runs that are missing take, if it was measured."""
    seconds = plan.seconds * (1 - kept / plan.runs)
    return f", about {span(seconds)}" if seconds > 0 else ""


def sparkline(curve: list[float], spread: list[float], higher_is_better: bool = True, width: int = 24) -> str:
    """A curve as a row of blocks, the best value being the tallest; one scale for all curves.

    >>> sparkline([0.0, 0.5, 1.0], [0.0, 1.0])
    '▁▅█'
    """
    if not curve:
        return ""
    low, high = min(spread), max(spread)
    picked = [curve[round(i * (len(curve) - 1) / (width - 1))] for i in range(width)] if len(curve) > width else curve
    shares = [((v - low) / (high - low) if high > low else 0.0) for v in picked]
    if not higher_is_better:
        shares = [1 - s for s in shares]
    return "".join(BLOCKS[min(round(s * (len(BLOCKS) - 1)), len(BLOCKS) - 1)] for s in shares)
