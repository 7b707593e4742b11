"""What a tracker is told: each finished trial as a run with its settings and curves, and the report at the end."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InvalidType, InvalidValue, Unsupported, did_you_mean
from ..plan import Plan
from ..search_space import spoken
from ..training.trial import Result
from .progress import Progress

if TYPE_CHECKING:
    from ..comparison import Comparison


class Tracker(Progress):
    """Told of each trial as it finishes, and of the files of the report. A trial told of before is told of once."""

    package = ""

    def report(self, comparison: Comparison, files: Sequence[Path]) -> None: ...


class MLflow(Tracker):
    """A run for the comparison and, nested in it, one for each trial, in MLFLOW_TRACKING_URI or else `mlflow.db`."""

    package = "mlflow"

    def __init__(self, folder: Path | None) -> None:
        from mlflow.tracking import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None and folder is None:
            raise InvalidValue(
                "tracking with mlflow needs a place: give an output folder (out=), where mlflow.db is written, "
                "or set MLFLOW_TRACKING_URI."
            )
        home = None if folder is None else folder.resolve()
        self.artifacts = None if uri else f"{home}/mlartifacts"
        self.client = MlflowClient(tracking_uri=uri or f"sqlite:///{home}/mlflow.db")
        self.home = str(home or "")

    def begin(self, plan: Plan, kept: int) -> None:
        name = f"piste compare {plan.task.name}"
        known = self.client.get_experiment_by_name(name)
        self.experiment = (
            known.experiment_id if known else self.client.create_experiment(name, artifact_location=self.artifacts)
        )
        tags = {"piste.comparison": _digest(f"{self.home} {plan.settings()}")}
        # One that was interrupted goes on in its run; without a folder nothing was kept, and each is a new one.
        self.parent = self._run_with(tags) if kept else None
        if self.parent is None:
            self.parent = self.client.create_run(self.experiment, run_name=plan.task.name, tags=tags).info.run_id
            settings = {k: v for k, v in plan.settings().items() if not isinstance(v, list)}
            settings["candidates"] = ", ".join(c.name for c in plan.candidates)
            self._params(self.parent, settings)

    def done(self, plan: Plan, result: Result) -> None:
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        assert self.parent is not None
        tags = {"mlflow.parentRunId": self.parent, "piste.trial": _digest(key(result))}
        if self._run_with(tags) is not None:
            return
        run = self.client.create_run(self.experiment, run_name=key(result), tags=tags).info.run_id
        self._params(run, settings_of(result))
        now = get_current_time_millis()
        metrics = [
            Metric(re.sub(r"[^\w. /:-]", "_", name), value, now, step) for name, step, value in curves(plan, result)
        ]
        self.client.log_batch(run, metrics=metrics)
        self.client.set_terminated(run)

    def report(self, comparison: Comparison, files: Sequence[Path]) -> None:
        assert self.parent is not None
        with tempfile.TemporaryDirectory() as passing:
            for file in files or comparison.save(passing):
                self.client.log_artifact(self.parent, str(file))
        self.client.set_tag(self.parent, "mlflow.note.content", comparison._repr_markdown_())
        self.client.set_terminated(self.parent, "KILLED" if comparison.interrupted else "FINISHED")

    def _params(self, run: str, settings: dict[str, Any]) -> None:
        from mlflow.entities import Param

        self.client.log_batch(run, params=[Param(name, str(value)) for name, value in settings.items()])

    def _run_with(self, tags: dict[str, str]) -> str | None:
        query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found = self.client.search_runs([self.experiment], query, max_results=1)
        return found[0].info.run_id if found else None


class TensorBoard(Tracker):
    """A folder of events for each trial in `tensorboard` in the output folder, with its settings as hparams."""

    package = "tensorboard"

    def __init__(self, folder: Path | None) -> None:
        if folder is None:
            raise InvalidValue("tracking with tensorboard needs an output folder (out=) to write into.")
        self.folder = folder / "tensorboard"

    def done(self, plan: Plan, result: Result) -> None:
        from torch.utils.tensorboard import SummaryWriter

        mine = self.folder / re.sub(r"[^\w.=-]+", "_", key(result))
        if mine.exists():
            return
        points = list(curves(plan, result))
        ends = {f"end/{name}": value for name, _, value in points}  # the last of each stays
        with SummaryWriter(str(mine)) as writer:
            for name, step, value in points:
                writer.add_scalar(name, value, step)
            writer.add_hparams(settings_of(result), ends, run_name=".")

    def report(self, comparison: Comparison, files: Sequence[Path]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self.folder)) as writer:
            writer.add_text("report", comparison._repr_markdown_())


KNOWN: dict[str, type[Any]] = {"mlflow": MLflow, "tensorboard": TensorBoard}


class Together(Progress):
    """The display and the trackers, told alike."""

    def __init__(self, shown: Progress, trackers: Sequence[Tracker]) -> None:
        self.shown, self.trackers = shown, trackers
        self.tells = shown.tells

    def begin(self, plan: Plan, kept: int) -> None:
        for it in (*self.trackers, self.shown):
            it.begin(plan, kept)

    def look(self, *what: Any) -> None:
        self.shown.look(*what)

    def done(self, plan: Plan, result: Result) -> None:
        for it in (*self.trackers, self.shown):
            it.done(plan, result)

    def end(self) -> None:
        self.shown.end()

    def report(self, comparison: Comparison, files: Sequence[Path]) -> None:
        for tracker in self.trackers:
            tracker.report(comparison, files)


def tracked(shown: Progress, wanted: Any, folder: Path | None) -> Together:
    """The display with the trackers that `wanted` names: None, a name, or several; refused if one isn't installed."""
    names = [] if wanted is None else [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise InvalidType(f"`track` must be a name or several ({', '.join(KNOWN)}); received {wanted!r}.")
    for name in names:
        if name not in KNOWN:
            raise InvalidValue(f"unknown tracker `{name}`. {did_you_mean(name, KNOWN)}")
        if importlib.util.find_spec(KNOWN[name].package) is None:
            raise Unsupported(f"tracking with {name} needs a package: pip install 'piste[{name}]'.")
    return Together(shown, [KNOWN[name](folder) for name in dict.fromkeys(names)])


def key(result: Result) -> str:
    """The name of a trial's run, one for each trial of a comparison."""
    rate = "" if result.lr is None else f" lr={result.lr:.6g}"
    options = f" {spoken(result.options)}" * bool(result.options)
    return f"{result.role} {result.candidate} seed={result.seed}{rate}{options}"


def settings_of(result: Result) -> dict[str, Any]:
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


def curves(plan: Plan, result: Result) -> Iterable[tuple[str, int, float]]:
    """(name, step, value) of both curves; what isn't finite is left out, and `status` tells of it."""
    for name, values in (("training loss", result.losses), (f"validation {plan.metric.name}", result.metrics)):
        for step, value in zip(result.steps, values, strict=True):
            if math.isfinite(value):
                yield name, step, value


def _digest(text: str) -> str:
    """What can stand in a query, whatever the names of tasks and candidates are."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]
