"""The fitted model of a table: it predicts the column from new rows, and is saved and loaded with its encoders."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ...errors import InvalidType, InvalidValue
from ...translation import translate
from ...wording import plural
from ..comparison import Comparison
from ..plan import make_plan
from ..report.files import make_output_folder
from ..results import Result
from ..training.threads import SINGLE_THREAD_MAX_PARAMETERS, one_thread
from ..training.trial import run_trial
from .encoders import ENCODERS, Encoder
from .number_cells import Convention
from .reader import Table, read_table
from .task import TableTask, encode, make_model

FORMAT = 1
"""The version of the files in a folder."""
MODEL, DESCRIPTION, PREDICTIONS = "model.pt", "model.json", "predictions.csv"


@dataclass
class Predictor:
    r"""A model that was fitted to a table, with everything that turns a row into its inputs.

    Attributes:
        model: The model.
        shape: The arguments of `make_model`: numbers of inputs, outputs and training rows.
        encoders: The encoders of the columns that are used.
        target: The name of the predicted column.
        labels: The classes; empty for numbers.
        mean, deviation: The scale of a predicted number.
        training: How the model was trained: optimizer, loss, learning rate, options, seed, steps, metric.
        validation: The predictions for the validation rows: the line, the target and the prediction of each.

    Example:
        >>> import pathlib, tempfile
        >>> from piste.compare import Predictor, compare_task, table
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "lines.csv").write_text("x,y\n" + "".join(f"{i % 8},{i % 8 // 4}\n" for i in range(80)))
        >>> task = table(folder / "lines.csv", column="y", kind="classes")
        >>> found = compare_task(task, optimizers="Adam", lr=0.05, seeds=1, progress=False)
        >>> _ = Predictor.fit(task, found).save(folder / "model")
        >>> _ = (folder / "new.csv").write_text("x\n0\n7\n")
        >>> Predictor.load(folder / "model").predict(folder / "new.csv")
        ['0', '1']
    """

    model: torch.nn.Module
    shape: tuple[int, int, int]
    encoders: Sequence[Encoder]
    target: str
    labels: list[str]
    mean: float
    deviation: float
    training: dict[str, Any]
    validation: Sequence[tuple[str, Any, Any]] = ()

    @classmethod
    def fit(cls, task: TableTask, comparison: Comparison, *, optimizers: Any = None, loss: Any = None) -> Predictor:
        """Train the recommended candidate of a comparison again: its median run, with the same seed and options.

        Args:
            task: The task of the comparison.
            comparison: The result of `compare_task(task)`.
            optimizers: `optimizers` of the comparison, if it was given.
            loss: `loss` of the comparison, if it was given.

        Raises:
            InvalidType: The task is no table.
            InvalidValue: The comparison recommends no candidate, or had another loop than the task.
        """
        if not isinstance(task, TableTask) or task.table_target is None:
            raise InvalidType(f"`task` must be the task of a table; received {type(task).__name__}.")
        if not isinstance(task.model, functools.partial) or task.model.func is not make_model:
            raise InvalidType("`task.model` must be the model that `table` made; save another model with torch.save.")
        run = _median_run(comparison)
        steps = comparison.settings["steps"]
        split = comparison.settings["split"]
        plan = make_plan(task, optimizers=optimizers, loss=loss, seed=run.seed, seeds=1, steps=steps, split=split)
        task = cast(TableTask, plan.task)  # with the split of the seed
        candidate = next((c for c in plan.candidates if c.name == run.candidate), None)
        if candidate is None:
            raise InvalidValue(
                f"`optimizers` and `loss` must be those of the comparison; they don't give {run.candidate}."
            )
        known = {c["name"]: c.get("loop", "") for c in comparison.settings["candidates"]}
        if candidate.loop.options != known[run.candidate]:
            raise InvalidValue(
                f"`task.loop` must be that of the comparison, Loop({known[run.candidate]}); received {candidate.loop}."
            )
        candidate = dataclasses.replace(candidate, lr=run.lr, options=run.options)
        fitted: list[torch.nn.Module] = []
        with one_thread(plan.n_parameters < SINGLE_THREAD_MAX_PARAMETERS):
            result = run_trial(
                task, plan.data, plan.metric, candidate, seed=run.seed, steps=steps, on_end=fitted.append
            )
        if not fitted:
            raise InvalidValue(f"{run.candidate} with seed {run.seed} {result.status} this time: {result.note}.")
        target = task.table_target
        assert target is not None
        training = {
            "optimizer": run.optimizer, "loss": run.loss, "lr": run.lr, "options": dict(run.options), "seed": run.seed,
            "steps": steps, "metric": comparison.metric, "value": result.metrics[-1],
        }  # fmt: skip
        shape = cast("functools.partial[Any]", task.model).args
        predictor = cls(
            fitted[0].eval(), shape, task.encoders, target.name, target.labels, target.mean, target.deviation, training
        )
        x, y = task.validation
        truth = [target.labels[i] for i in y] if target.labels else predictor._numbers(y)
        predictor.validation = list(zip(task.validation_lines, truth, predictor._predict(x), strict=True))
        return predictor

    def predict(self, path: str | Path, *, encoding: str | None = None) -> list[str] | list[float]:
        """Predict the column for each row of a file.

        Args:
            path: A .csv or .tsv file with the columns that the model uses, in any order.
            encoding: The encoding of the text; recognised if not given.

        Returns:
            A class, as text, or a number for each row.

        Raises:
            InvalidValue: The file is no table, or a column is missing.

        Warns:
            UserWarning: Cells are neither numbers (or dates) nor missing; they count as missing.
        """
        found = read_table(Path(path), encoding=encoding)
        missing = [f"`{encoder.name}`" for encoder in self.encoders if encoder.name not in found.names]
        if missing:
            raise InvalidValue(
                f"{found.path} must have the columns that the model uses; missing: {', '.join(missing)}. Help: give "
                f"them the names of the table that the model was fitted to."
            )
        if not len(found):
            return []
        self._warn_of_strays(found)
        return self._predict(torch.as_tensor(encode(found, self.encoders)).float())

    def save(self, folder: str | Path) -> list[Path]:
        """Write the model, its description and the predictions for the validation rows into a folder.

        Returns:
            The paths of the files: model.pt (the weights, for `torch.load`), model.json, predictions.csv.
        """
        path = make_output_folder(folder)
        torch.save(self.model.state_dict(), path / MODEL)
        description = {
            "format": FORMAT,
            "shape": self.shape,
            **{name: getattr(self, name) for name in ("target", "labels", "mean", "deviation", "training")},
            "encoders": [{"kind": encoder.kind, **dataclasses.asdict(encoder)} for encoder in self.encoders],
        }
        text = json.dumps(description, indent=1, ensure_ascii=False) + "\n"
        (path / DESCRIPTION).write_text(text, encoding="utf-8")
        with open(path / PREDICTIONS, "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["row", self.target, "predicted"])
            rows.writerows(self.validation)
        return [path / name for name in (MODEL, DESCRIPTION, PREDICTIONS)]

    @classmethod
    def load(cls, folder: str | Path) -> Predictor:
        """Load the model that `save` wrote into a folder.

        Raises:
            InvalidValue: The folder holds no model, or one of a later version.
        """
        path = Path(folder)
        try:
            description = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
            weights = torch.load(path / MODEL, weights_only=True)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InvalidValue(f"{path} holds no model: {reason}. Help: give a folder of --save-model.") from error
        if description.get("format") != FORMAT:
            raise InvalidValue(
                f"{path} holds a model in format {description.get('format')}; this version of Piste reads {FORMAT}."
            )
        model = make_model(*description["shape"]).eval()
        model.load_state_dict(weights)
        values = [description[name] for name in ("target", "labels", "mean", "deviation", "training")]
        return cls(model, tuple(description["shape"]), [_encoder(it) for it in description["encoders"]], *values)

    @torch.no_grad()
    def _predict(self, x: torch.Tensor) -> list[str] | list[float]:
        output = self.model(x)
        return [self.labels[i] for i in output.argmax(1).tolist()] if self.labels else self._numbers(output)

    def _numbers(self, scaled: torch.Tensor) -> list[float]:
        return (scaled.double().flatten() * self.deviation + self.mean).tolist()

    def _warn_of_strays(self, found: Table) -> None:
        for encoder in self.encoders:
            cells = found.columns[found.names.index(encoder.name)]
            rows = np.flatnonzero(encoder.strays(cells)[cells.codes])
            if rows.size:
                warnings.warn(
                    translate(
                        f"{plural(rows.size, 'cell')} of `{encoder.name}` without a {encoder.kind}, such as "
                        f"{cells[rows[0]]!r} in {found.place(rows[0])}: counted as missing."
                    ),
                    stacklevel=3,
                )


def _median_run(comparison: Comparison) -> Result:
    """Return the run of the recommended candidate whose metric is the median over seeds (the lower one of two)."""
    row = next((row for row in comparison.rows if row.name == comparison.verdict.recommended), None)
    if row is None and len(comparison.rows) == 1 and not comparison.rows[0].diverged:
        row = comparison.rows[0]
    if row is None:
        raise InvalidValue("the comparison recommends no candidate, so there is no model to fit.")
    runs = [run for run in comparison.results if run.candidate == row.name and run.status == "done"]
    return sorted(runs, key=lambda run: run.metrics[-1])[(len(runs) - 1) // 2]


def _encoder(description: dict[str, Any]) -> Encoder:
    options = {name: value for name, value in description.items() if name != "kind"}
    if "convention" in options:
        options["convention"] = Convention(**options["convention"])
    return ENCODERS[description["kind"]](**options)
