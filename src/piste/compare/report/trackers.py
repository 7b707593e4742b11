"""Experiment trackers: each trial is logged as a run with its parameters and curves, and the report at the end."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ...errors import InvalidType, InvalidValue, Unsupported, did_you_mean
from ..listener import Listener
from ..plan import Plan
from ..results import Result, Summary
from ..search_space import format_options
from .files import save_report
from .tables import markdown_summary


class Tracker(Listener):
    """Receives every finished trial and the report files. Logging is idempotent."""

    package = ""

    def on_report(self, comparison: Summary, files: Sequence[Path]) -> None:
        """After the report was written; `files` is empty without an output folder."""


class MLflow(Tracker):
    """Logs a run for the comparison with a nested run for each trial, to MLFLOW_TRACKING_URI or else `mlflow.db`."""

    package = "mlflow"

    def __init__(self, folder: Path | None) -> None:
        from mlflow.tracking import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None and folder is None:
            raise InvalidValue(
                "tracking with mlflow needs an output folder (out=), where mlflow.db is written, or the environment "
                "variable MLFLOW_TRACKING_URI."
            )
        home = None if folder is None else folder.resolve()
        self.artifacts = None if uri else f"{home}/mlartifacts"
        self.client = MlflowClient(tracking_uri=uri or f"sqlite:///{home}/mlflow.db")
        self.home = str(home or "")

    def on_start(self, plan: Plan, kept: int) -> None:
        name = f"piste compare {plan.task.name}"
        known = self.client.get_experiment_by_name(name)
        self.experiment = (
            known.experiment_id if known else self.client.create_experiment(name, artifact_location=self.artifacts)
        )
        tags = {"piste.comparison": _digest(f"{self.home} {plan.settings()}")}
        # A resumed comparison continues its run; without finished runs it starts a new one.
        self.parent = self._run_with(tags) if kept else None
        if self.parent is None:
            self.parent = self.client.create_run(self.experiment, run_name=plan.task.name, tags=tags).info.run_id
            settings = {k: v for k, v in plan.settings().items() if not isinstance(v, list)}
            settings["candidates"] = ", ".join(c.name for c in plan.candidates)
            self._params(self.parent, settings)

    def on_run_end(self, plan: Plan, result: Result) -> None:
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        assert self.parent is not None
        tags = {"mlflow.parentRunId": self.parent, "piste.trial": _digest(trial_name(result))}
        if self._run_with(tags) is not None:
            return
        run = self.client.create_run(self.experiment, run_name=trial_name(result), tags=tags).info.run_id
        self._params(run, trial_params(result))
        now = get_current_time_millis()
        metrics = [
            Metric(re.sub(r"[^\w. /:-]", "_", name), value, now, step)
            for name, step, value in curve_points(plan, result)
        ]
        self.client.log_batch(run, metrics=metrics)
        self.client.set_terminated(run)

    def on_report(self, comparison: Summary, files: Sequence[Path]) -> None:
        assert self.parent is not None
        with tempfile.TemporaryDirectory() as temporary:
            for file in files or save_report(comparison, Path(temporary)):
                self.client.log_artifact(self.parent, str(file))
        self.client.set_tag(self.parent, "mlflow.note.content", markdown_summary(comparison))
        self.client.set_terminated(self.parent, "KILLED" if comparison.interrupted else "FINISHED")

    def _params(self, run: str, settings: dict[str, Any]) -> None:
        from mlflow.entities import Param

        self.client.log_batch(run, params=[Param(name, str(value)) for name, value in settings.items()])

    def _run_with(self, tags: dict[str, str]) -> str | None:
        query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found = self.client.search_runs([self.experiment], query, max_results=1)
        return found[0].info.run_id if found else None


class TensorBoard(Tracker):
    """Writes an event folder for each trial to `tensorboard` in the output folder, with its parameters as hparams."""

    package = "tensorboard"

    def __init__(self, folder: Path | None) -> None:
        if folder is None:
            raise InvalidValue("tracking with tensorboard needs an output folder (out=).")
        self.folder = folder / "tensorboard"

    def on_run_end(self, plan: Plan, result: Result) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = self.folder / re.sub(r"[^\w.=-]+", "_", trial_name(result))
        if folder.exists():
            return
        points = list(curve_points(plan, result))
        ends = {f"end/{name}": value for name, _, value in points}  # the last value of each curve
        with SummaryWriter(str(folder)) as writer:
            for name, step, value in points:
                writer.add_scalar(name, value, step)
            writer.add_hparams(trial_params(result), ends, run_name=".")

    def on_report(self, comparison: Summary, files: Sequence[Path]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self.folder)) as writer:
            writer.add_text("report", markdown_summary(comparison))


TRACKERS: dict[str, type[Any]] = {"mlflow": MLflow, "tensorboard": TensorBoard}


class ListenerGroup(Listener):
    """The display and the trackers as one listener."""

    def __init__(self, display: Listener, trackers: Sequence[Tracker]) -> None:
        self.display, self.trackers = display, trackers
        self.is_visible = display.is_visible

    def on_start(self, plan: Plan, kept: int) -> None:
        for listener in (*self.trackers, self.display):
            listener.on_start(plan, kept)

    def on_evaluate(self, *evaluation: Any) -> None:
        self.display.on_evaluate(*evaluation)

    def on_run_end(self, plan: Plan, result: Result) -> None:
        for listener in (*self.trackers, self.display):
            listener.on_run_end(plan, result)

    def on_end(self) -> None:
        self.display.on_end()

    def on_report(self, comparison: Summary, files: Sequence[Path]) -> None:
        """Pass the report on to the trackers."""
        for tracker in self.trackers:
            tracker.on_report(comparison, files)


def with_trackers(display: Listener, track: Any, folder: Path | None) -> ListenerGroup:
    """Return the display together with the trackers named by `track`: None, a name, or a list of names.

    Raises:
        InvalidValue: If a tracker is unknown, or has no place to write to.
        InvalidType: If `track` is neither a name nor a list of names.
        Unsupported: If the package of a tracker is not installed.
    """
    names = [] if track is None else [track] if isinstance(track, str) else track
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise InvalidType(f"`track` must be a name or a list of names ({', '.join(TRACKERS)}); received {track!r}.")
    for name in names:
        if name not in TRACKERS:
            raise InvalidValue(f"unknown tracker `{name}`. {did_you_mean(name, TRACKERS)}")
        if importlib.util.find_spec(TRACKERS[name].package) is None:
            raise Unsupported(f"tracking with {name} needs a package: pip install 'piste[{name}]'.")
    return ListenerGroup(display, [TRACKERS[name](folder) for name in dict.fromkeys(names)])


def trial_name(result: Result) -> str:
    """Return the name of a trial's run, unique within a comparison."""
    lr = "" if result.lr is None else f" lr={result.lr:.6g}"
    options = f" {format_options(result.options)}" * bool(result.options)
    return f"{result.role} {result.candidate} seed={result.seed}{lr}{options}"


def trial_params(result: Result) -> dict[str, Any]:
    """Return the parameters of a trial's run."""
    return {
        "candidate": result.candidate,
        "optimizer": result.optimizer,
        "loss": result.loss,
        "lr": "none" if result.lr is None else result.lr,
        "seed": result.seed,
        "role": result.role,
        "status": result.status,
        **{
            name: value if isinstance(value, (int, float, str)) else repr(value)
            for name, value in result.options.items()
        },
    }


def curve_points(plan: Plan, result: Result) -> Iterable[tuple[str, int, float]]:
    """(name, step, value) of both curves, without values that are not finite, which trackers reject."""
    for name, values in (("training loss", result.losses), (f"validation {plan.metric.name}", result.metrics)):
        for step, value in zip(result.steps, values, strict=True):
            if math.isfinite(value):
                yield name, step, value


def _digest(text: str) -> str:
    """Return a digest that is safe in a query, whatever the names of tasks and candidates contain."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]
