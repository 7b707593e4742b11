"""The events of a comparison, as displays and trackers receive them."""

from __future__ import annotations

from .candidates import Candidate
from .plan import Plan
from .results import Result


class Listener:
    """Receives the events of a comparison; this base class ignores them all."""

    is_visible = False
    """Whether the events are shown while the comparison runs, so that a time estimate is worth its cost."""

    def on_start(self, plan: Plan, kept: int) -> None:
        """Before the first run; `kept` runs are known from the store."""

    def on_evaluate(self, plan: Plan, candidate: Candidate, seed: int, step: int, loss: float, metric: float) -> None:
        """After each evaluation during a run."""

    def on_run_end(self, plan: Plan, result: Result) -> None:
        """After each run, including those known from the store."""

    def on_end(self) -> None:
        """After the last run, or an interruption."""
