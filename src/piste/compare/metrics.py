"""Metrics: the common measure that ranks candidates, whatever loss they were trained with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import InvalidType, InvalidValue, did_you_mean

Function = Callable[[torch.Tensor, torch.Tensor], Any]


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

    >>> Metric("accuracy", accuracy, "max").value(torch.tensor([[2.0, 1.0]]), torch.tensor([1]))
    0.0
    """

    name: str
    function: Function
    goal: str = "max"
    finish: Callable[[float], float] = float

    def __post_init__(self) -> None:
        if self.goal not in ("max", "min"):
            raise InvalidValue(f'the goal of a metric must be "max" or "min"; received {self.goal!r}.')

    @property
    def higher_is_better(self) -> bool:
        return self.goal == "max"

    def scores(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The score of every example (N,), or one for all examples (a 0-d tensor), in float64."""
        result = torch.as_tensor(self.function(output, target)).detach().to("cpu", torch.float64)
        if result.dim() and result.shape != (len(target),):
            raise InvalidValue(
                f"the metric `{self.name}` must return one number, or one for each of the {len(target)} examples; "
                f"received a tensor of shape {tuple(result.shape)}."
            )
        return result

    def value(self, output: torch.Tensor, target: torch.Tensor) -> float:
        """The reported value over all examples."""
        return self.finish(float(self.scores(output, target).mean()))


def accuracy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The share of correct predictions, for each example.

    Args:
        output: Logits (N, C, ...), or one logit for each label (N, ...).
        target: Class indices (N, ...) or class probabilities (N, C, ...), one-hot or soft, for logits of classes: the
            prediction is the largest logit, and the correct class the most probable one. Labels 0 and 1 of the logits'
            shape, where the rows are not probabilities: the prediction is the sign of each logit.

    Returns:
        A tensor (N,). With further dimensions (one class per pixel), the share of correct predictions in each example.
    """
    if output.shape == target.shape and _are_probabilities(target):
        correct = output.argmax(1) == target.argmax(1)
    elif output.shape == target.shape:
        invalid = target[(target != 0) & (target != 1)]
        if len(invalid):
            raise InvalidValue(
                f"accuracy takes targets 0 and 1, one for each logit, or class probabilities (N, C, ...) that sum to "
                f"1; received {float(invalid[0]):.3g}."
            )
        correct = (output > 0) == (target > 0.5)
    elif output.dim() == target.dim() + 1:
        correct = output.argmax(1) == target
    else:
        raise InvalidValue(
            f"accuracy takes logits (N, C, ...) with class indices (N, ...), or logits and 0/1 targets of one shape; "
            f"received {tuple(output.shape)} and {tuple(target.shape)}."
        )
    return correct.reshape(len(correct), -1).double().mean(1)


def _are_probabilities(target: torch.Tensor) -> bool:
    """Whether each row is a probability distribution over at least two classes."""
    if target.dim() < 2 or target.shape[1] < 2 or bool((target < 0).any()):
        return False
    return bool(((target.sum(1, dtype=torch.float64) - 1).abs() < 1e-3).all())


def squared_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(prediction - target)^2, averaged over all dimensions except the first."""
    return _error(output, target).square().mean(1)


def absolute_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """|prediction - target|, averaged over all dimensions except the first."""
    return _error(output, target).abs().mean(1)


def r2(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - (prediction - target)^2 / variance of the targets; the mean over the examples is R^2."""
    variance = target.double().var(unbiased=False)
    if not variance > 0:
        raise InvalidValue("r2 needs targets that differ; all validation targets are equal. Help: use rmse or mae.")
    return 1 - _error(output, target).square().mean(1) / variance


def _error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if output.shape != target.shape:
        raise InvalidValue(
            f"the metric takes predictions and targets of the same shape; received {tuple(output.shape)} "
            f"and {tuple(target.shape)}."
        )
    return (output.double() - target.double()).reshape(len(output), -1)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy, "max"),
        Metric("rmse", squared_error, "min", lambda mean: max(mean, 0.0) ** 0.5),
        Metric("mae", absolute_error, "min"),
        Metric("r2", r2, "max"),
    )
}


def as_metric(metric: Any) -> Metric:
    """The metric given by a name, by a pair (function, "max" or "min"), or by a `Metric`."""
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        if metric.lower() not in METRICS:
            raise InvalidValue(f"unknown metric `{metric}`. {did_you_mean(metric, METRICS)}")
        return METRICS[metric.lower()]
    if isinstance(metric, tuple) and len(metric) == 2 and callable(metric[0]):
        return Metric(getattr(metric[0], "__name__", "metric"), metric[0], metric[1])
    if callable(metric):
        raise InvalidType(
            'a metric function needs a direction. Help: give the metric as (function, "max") or (function, "min").'
        )
    raise InvalidType(
        f'a metric must be a name ({", ".join(METRICS)}) or a pair (function, "max" or "min"); received {metric!r}.'
    )


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
