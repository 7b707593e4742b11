"""Metrics: the common measure that ranks candidates, whatever loss they were trained with."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch

from ..errors import InvalidType, InvalidValue, did_you_mean
from .class_metrics import accuracy, auc, balanced_accuracy, f1, log_loss
from .conventions import Convention

Function = Callable[..., Any]
Bounds = tuple[float, float]
VALUES = Convention("values")
UNIT, POSITIVE, ANY = (0.0, 1.0), (0.0, math.inf), (-math.inf, math.inf)
"""The ranges of metrics."""


@dataclass(frozen=True)
class Metric:
    """A measure of a model's outputs against the targets.

    Attributes:
        name: The name in tables and files.
        function: `function(output, target)` takes the outputs and targets of the whole validation set, and returns one
            score for each example, a tensor (N,), or a single number. Scores for each example allow a test with one
            seed.
        goal: "max" if higher is better, "min" if lower is better.
        finish: Maps the mean score to the reported value (the square root, for RMSE). Must be monotone.
        takes_convention: Whether the function takes `convention=`, the `Convention` of the loss.
        of_whole: Whether the score of an example depends on the other examples.
        of_classes: Whether targets are class indices or labels. Examples whose targets are all ignored have no score.
        measured: Whether it is no function of outputs and targets: the loss on the validation data, or a value that
            a LightningModule logs.
        bounds: The least and the largest value that the metric can take. Intervals end there.

    Example:
        >>> Metric("accuracy", accuracy, "max").value(torch.tensor([[2.0, 1.0]]), torch.tensor([1]))
        0.0
    """

    name: str
    function: Function
    goal: str = "max"
    finish: Callable[[float], float] = float
    takes_convention: bool = False
    of_whole: bool = False
    of_classes: bool = False
    measured: bool = False
    bounds: Bounds = ANY

    def __post_init__(self) -> None:
        if self.goal not in ("max", "min"):
            raise InvalidValue(f'the goal of a metric must be "max" or "min"; received {self.goal!r}.')

    @property
    def higher_is_better(self) -> bool:
        """Whether the goal is the maximum."""
        return self.goal == "max"

    def clip(self, value: float) -> float:
        """Return the value, or the nearest that the metric can take; NaN stays NaN."""
        low, high = self.bounds
        return min(max(value, low), high)

    def under(self, convention: Convention) -> Metric:
        """Return the metric of a model whose loss has this convention."""
        if not self.takes_convention:
            return self
        return replace(self, function=functools.partial(self.function, convention=convention))

    def scores(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the score of every example (N,), or one for all examples (a 0-d tensor), in float64."""
        result = torch.as_tensor(self.function(output, target)).detach().to("cpu", torch.float64)
        if result.dim() and result.shape != (len(target),) and not self.of_classes:
            raise InvalidValue(
                f"the metric `{self.name}` must return one number, or one for each of the {len(target)} examples; "
                f"received a tensor of shape {tuple(result.shape)}."
            )
        return result

    def scores_of_parts(self, parts: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """Return the scores of outputs and targets that can't be joined, such as those of texts of different lengths.

        Raises:
            InvalidValue: If the metric needs all of them at once.
        """
        scores = [self.scores(output, target) for output, target in parts]
        if self.of_whole or not all(part.dim() for part in scores):
            shapes = " and ".join(str(tuple(output.shape)) for output, _ in parts[:2])
            raise InvalidValue(
                f"the metric `{self.name}` needs all outputs at once, and those of the validation batches have "
                f"different shapes, such as {shapes}. Help: pad them to one shape, or give a metric that returns a "
                f"score for each example."
            )
        return torch.cat(scores)

    def value(self, output: torch.Tensor, target: torch.Tensor) -> float:
        """Return the reported value over all examples."""
        return self.finish(float(self.scores(output, target).mean()))


def squared_error(output: torch.Tensor, target: torch.Tensor, convention: Convention = VALUES) -> torch.Tensor:
    """(prediction - target)^2, averaged over all dimensions except the first."""
    return _error(output, target, convention).square().mean(1)


def absolute_error(output: torch.Tensor, target: torch.Tensor, convention: Convention = VALUES) -> torch.Tensor:
    """|prediction - target|, averaged over all dimensions except the first."""
    return _error(output, target, convention).abs().mean(1)


def scaled(
    output: torch.Tensor, target: torch.Tensor, error: Callable[..., torch.Tensor], factor: float,
    convention: Convention = VALUES,
) -> torch.Tensor:  # fmt: skip
    """Return an error in other units than those of the outputs and targets."""
    return error(output, target, convention=convention) * factor


def r2(output: torch.Tensor, target: torch.Tensor, convention: Convention = VALUES) -> torch.Tensor:
    """1 - (prediction - target)^2 / variance of the targets; the mean over the examples is R^2."""
    variance = target.double().var(unbiased=False)
    if not variance > 0:
        raise InvalidValue("r2 needs targets that differ; all validation targets are equal. Help: use rmse or mae.")
    return 1 - _error(output, target, convention).square().mean(1) / variance


def _error(output: torch.Tensor, target: torch.Tensor, convention: Convention) -> torch.Tensor:
    output = convention.numbers(output)
    if output.shape != target.shape:
        raise InvalidValue(
            f"the metric takes predictions and targets of the same shape; received {tuple(output.shape)} "
            f"and {tuple(target.shape)}."
        )
    return (output.double() - target.double()).reshape(len(output), -1)


def _no_score(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    raise InvalidValue("outputs and targets do not give this metric: it is the loss, or a value that the model logs.")


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy, "max", takes_convention=True, of_classes=True, bounds=UNIT),
        Metric(
            "balanced_accuracy",
            balanced_accuracy,
            "max",
            takes_convention=True,
            of_whole=True,
            of_classes=True,
            bounds=UNIT,
        ),
        Metric("f1", f1, "max", takes_convention=True, of_whole=True, of_classes=True, bounds=UNIT),
        Metric("auc", auc, "max", takes_convention=True, of_whole=True, of_classes=True, bounds=UNIT),
        Metric("log_loss", log_loss, "min", takes_convention=True, of_classes=True, bounds=POSITIVE),
        Metric(
            "rmse", squared_error, "min", lambda mean: max(mean, 0.0) ** 0.5, takes_convention=True, bounds=POSITIVE
        ),
        Metric("mae", absolute_error, "min", takes_convention=True, bounds=POSITIVE),
        Metric("r2", r2, "max", takes_convention=True, of_whole=True, bounds=(-math.inf, 1.0)),
        Metric("loss", _no_score, "min", measured=True),
    )
}


def as_metric(metric: Any, own: Mapping[str, Metric] = MappingProxyType({})) -> Metric:
    """Return the metric given by a name, by a pair (function or logged name, "max" or "min"), or by a `Metric`.

    Args:
        metric: The metric.
        own: Metrics that a name means before those of `METRICS`.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        known = {**METRICS, **own}
        if metric.lower() not in known:
            raise InvalidValue(f"unknown metric `{metric}`. {did_you_mean(metric, known)}")
        return known[metric.lower()]
    if isinstance(metric, tuple) and len(metric) == 2 and isinstance(metric[0], str):
        return Metric(metric[0], _no_score, metric[1], measured=True)
    if isinstance(metric, tuple) and len(metric) == 2 and callable(metric[0]):
        return Metric(getattr(metric[0], "__name__", "metric"), metric[0], metric[1])
    if callable(metric):
        raise InvalidType(
            'a metric function needs a direction. Help: give the metric as (function, "max") or (function, "min").'
        )
    raise InvalidType(
        f'a metric must be a name ({", ".join(METRICS)}) or a pair (function, "max" or "min"); received {metric!r}.'
    )


def as_metrics(wanted: Any, own: Mapping[str, Metric] = MappingProxyType({})) -> list[Metric]:
    """Return the metric that decides, then those that are reported; empty for None.

    Args:
        wanted: A metric, or a list of metrics.
        own: Metrics that a name means before those of `METRICS`.
    """
    if wanted is None:
        return []
    metrics = [as_metric(metric, own) for metric in (wanted if isinstance(wanted, list) else [wanted])]
    names = [metric.name for metric in metrics]
    for name in names:
        if names.count(name) > 1:
            raise InvalidValue(f"the metric `{name}` is given twice.")
    if not metrics:
        raise InvalidValue("no metric given: the list is empty.")
    return metrics


def default_metric(outputs: torch.Tensor, targets: torch.Tensor) -> Metric:
    """Accuracy for class indices, RMSE for numbers of the output's shape.

    Raises:
        InvalidValue: If the targets may be probabilities or numbers.
    """
    if not targets.is_floating_point():
        return METRICS["accuracy"]
    if outputs.shape == targets.shape and not bool(((targets >= 0) & (targets <= 1)).all()):
        return METRICS["rmse"]
    raise InvalidValue(
        f"the metric can't be inferred from outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} between "
        f"{float(targets.min()):.3g} and {float(targets.max()):.3g}. Help: give metric= a name ({', '.join(METRICS)}) "
        f'or a pair (function, "max" or "min").'
    )
