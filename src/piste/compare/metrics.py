"""Metrics: the common measure that ranks candidates, whatever loss they were trained with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import InvalidType, InvalidValue, did_you_mean
from .conventions import Convention

Function = Callable[..., Any]

LOGITS = Convention("logits")


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
        takes_convention: Whether the function takes `convention=`, the `Convention` of the loss. Examples whose targets
            are all ignored then have no score.
        of_whole: Whether the score of an example depends on the other examples.
        of_loss: Whether the metric is the loss itself, on the validation data.

    >>> Metric("accuracy", accuracy, "max").value(torch.tensor([[2.0, 1.0]]), torch.tensor([1]))
    0.0
    """

    name: str
    function: Function
    goal: str = "max"
    finish: Callable[[float], float] = float
    takes_convention: bool = False
    of_whole: bool = False
    of_loss: bool = False

    def __post_init__(self) -> None:
        if self.goal not in ("max", "min"):
            raise InvalidValue(f'the goal of a metric must be "max" or "min"; received {self.goal!r}.')

    @property
    def higher_is_better(self) -> bool:
        return self.goal == "max"

    def under(self, convention: Convention) -> Metric:
        """The metric of a model whose loss has this convention."""
        if not self.takes_convention:
            return self
        return replace(self, function=functools.partial(self.function, convention=convention))

    def scores(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The score of every example (N,), or one for all examples (a 0-d tensor), in float64."""
        result = torch.as_tensor(self.function(output, target)).detach().to("cpu", torch.float64)
        if result.dim() and result.shape != (len(target),) and not self.takes_convention:
            raise InvalidValue(
                f"the metric `{self.name}` must return one number, or one for each of the {len(target)} examples; "
                f"received a tensor of shape {tuple(result.shape)}."
            )
        return result

    def scores_of_parts(self, parts: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """The scores of outputs and targets that can't be joined, such as those of texts of different lengths.

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
        """The reported value over all examples."""
        return self.finish(float(self.scores(output, target).mean()))


def accuracy(output: torch.Tensor, target: torch.Tensor, convention: Convention = LOGITS) -> torch.Tensor:
    """The share of correct predictions, for each example.

    Args:
        output: One score for each class (N, C, ...), or one output for each label (N, ...).
        target: Class indices (N, ...) or class probabilities (N, C, ...), one-hot or soft, for scores of classes: the
            prediction is the class of the largest score, and the correct class the most probable one. Two labels, 0 and
            1 or -1 and 1, of the output's shape: the prediction is the label on whose side of the convention's
            threshold the output is.
        convention: The threshold, and the class index of positions that do not count.

    Returns:
        A tensor (N,). With further dimensions (one class per pixel), the share of correct predictions in each example.
        Examples whose positions are all ignored are left out.

    Raises:
        InvalidValue: If a class index is outside [0, C - 1] or a label is neither of two, or the shapes do not match.
    """
    if output.shape == target.shape and _are_probabilities(target):
        correct = output.argmax(1) == target.argmax(1)
    elif output.shape == target.shape:
        low, high = _labels(target)
        correct = (output > convention.threshold(low, high)) == (target == high)
    elif output.dim() == target.dim() + 1:
        check_class_indices(target, output.shape[1], convention.ignore_index)
        correct = output.argmax(1) == target
        if convention.ignore_index is not None and bool((ignored := target == convention.ignore_index).any()):
            return _share_of_counted(correct, ~ignored)
    else:
        raise InvalidValue(
            f"accuracy takes scores of classes (N, C, ...) with class indices (N, ...), or outputs and two labels of "
            f"one shape; received {tuple(output.shape)} and {tuple(target.shape)}."
        )
    return correct.reshape(len(correct), -1).double().mean(1)


def check_class_indices(target: torch.Tensor, classes: int, ignore_index: int | None, of: str = "the targets") -> None:
    """Raise for the first class index without an output of the model."""
    invalid = (target < 0) | (target >= classes)
    if ignore_index is not None:
        invalid &= target != ignore_index
    if bool(invalid.any()):
        position = invalid.nonzero()[0].tolist()
        value = int(target[tuple(position)])
        at = position[0] if len(position) == 1 else tuple(position)
        raise InvalidValue(
            f"class indices must be in [0, {classes - 1}], because the model has {classes} "
            f"output{'s' * (classes > 1)}; received {value} at position {at} of {of}."
        )


def _labels(target: torch.Tensor) -> tuple[float, float]:
    """The two labels of a target: -1 and 1 if -1 is among them, else 0 and 1."""
    low = -1.0 if bool((target == -1).any()) else 0.0
    invalid = target[(target != low) & (target != 1)]
    if len(invalid):
        raise InvalidValue(
            f"accuracy takes targets 0 and 1 (or -1 and 1), one for each output, or class probabilities (N, C, ...) "
            f"that sum to 1; received {float(invalid[0]):.3g}."
        )
    return low, 1.0


def _share_of_counted(correct: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """The share of correct predictions among the positions that count, for each example that has any."""
    correct, counted = (part.reshape(len(part), -1) for part in (correct & counted, counted))
    counts = counted.sum(1)
    if not bool(counts.any()):
        raise InvalidValue("accuracy has nothing to count: every target is ignored (`ignore_index` of the loss).")
    return (correct.sum(1).double() / counts)[counts > 0]


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


def _no_score(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    raise InvalidValue("the metric `loss` is the value of the training loss, which outputs and targets do not give.")


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy, "max", takes_convention=True),
        Metric("rmse", squared_error, "min", lambda mean: max(mean, 0.0) ** 0.5),
        Metric("mae", absolute_error, "min"),
        Metric("r2", r2, "max", of_whole=True),
        Metric("loss", _no_score, "min", of_loss=True),
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
