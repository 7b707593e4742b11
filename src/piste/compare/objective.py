"""Objectives: how a batch becomes a training loss, and the outputs and targets that a metric compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..errors import InvalidType, InvalidValue
from .batches import Batch, tensors_of

Prediction = tuple[torch.Tensor, torch.Tensor]
Loss = Callable[..., torch.Tensor]
WAY_OUT = "Help: say how a batch is used with training_step= and validation_step=; docs/tasks.md has examples."


class Objective:
    """The objective of a task of pairs (X, y): the model is called with X, and the loss with its output and y.

    X may be a tensor, a tuple of several inputs, or a dict of named ones.
    """

    own_loss: str | None = None
    """The name of the loss that comes with the objective, where the task gives none."""
    is_custom = False
    """Whether batches have a structure of their own in both roles."""
    is_lightning = False
    """Whether the optimizer is made in `configure_optimizers` of the model."""

    def check_batch(self, batch: Any, role: str) -> Batch:
        """Return the batch as the objective takes it.

        Raises:
            InvalidType: If the batch is no pair.
            InvalidValue: If X and y do not have one row per example.
        """
        if isinstance(batch, Mapping):
            raise InvalidType(
                f"a batch of the {role} data must be a pair (X, y); received {type(batch).__name__} with "
                f"{', '.join(map(str, batch))}. {WAY_OUT}"
            )
        if not isinstance(batch, (tuple, list)):
            raise InvalidType(f"a batch of the {role} data must be a pair (X, y); received {type(batch).__name__}.")
        return check_pair(batch, role)

    def training_loss(self, model: torch.nn.Module, batch: Batch, loss: Loss | None) -> torch.Tensor:
        """Return the scalar that is minimized."""
        assert loss is not None
        return loss(self.output(model, batch), batch[1])

    def output(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return the model's output for a pair."""
        return call_model(model, batch[0])

    def predict(self, model: torch.nn.Module, batch: Batch, loss: Loss | None) -> Prediction:
        """Return the model's outputs and the targets of a validation batch."""
        return self.output(model, batch), batch[1]

    def measure(self, name: str, model: torch.nn.Module, batch: Batch, loss: Loss | None) -> float:
        """Return the value of a measured metric on a validation batch: the loss.

        Raises:
            InvalidValue: If the objective can't measure it.
        """
        if name != "loss":
            raise InvalidValue(f"`{name}` is a value that a LightningModule logs, and the model is none.")
        return self.training_loss(model, batch, loss).item()

    def initialize(self, model: torch.nn.Module, batch: Batch) -> None:
        """Call the model, so that lazy modules take their shapes from the batch."""
        self.predict(model, batch, None)

    def target_of(self, batch: Batch) -> torch.Tensor | None:
        """Return the targets in a batch, where they can be told without the model."""
        target: torch.Tensor = batch[1]
        return target

    def is_finite(self, model: torch.nn.Module, batch: Batch) -> bool:
        """Return whether the model's output is finite; a loss may reject the outputs of a diverged model."""
        with torch.no_grad():
            return bool(torch.isfinite(self.output(model, batch)).all())


class CustomObjective(Objective):
    """The objective of `training_step` and `validation_step`."""

    def __init__(self, training_step: Callable[..., Any] | None, validation_step: Callable[..., Any] | None) -> None:
        self.training_step, self.validation_step = training_step, validation_step
        if training_step is not None:
            self.own_loss = getattr(training_step, "__name__", "training_step")

    def check_batch(self, batch: Any, role: str) -> Batch:
        return batch if self._is_free(role) else super().check_batch(batch, role)

    def _is_free(self, role: str) -> bool:
        """Return whether the custom steps take batches of any structure in this role."""
        return (self.training_step is not None) if role == "training" else (self.validation_step is not None)

    def training_loss(self, model: torch.nn.Module, batch: Batch, loss: Loss | None) -> torch.Tensor:
        if self.training_step is None:
            return super().training_loss(model, batch, loss)
        return as_scalar(self.training_step(model, batch, loss), "training_step")

    def predict(self, model: torch.nn.Module, batch: Batch, loss: Loss | None) -> Prediction:
        if self.validation_step is None:
            return super().predict(model, batch, loss)
        prediction = self.validation_step(model, batch, loss)
        if not _is_prediction(prediction):
            raise InvalidType(
                f"validation_step must return (output, target), two tensors for the metric; it returned "
                f"{describe(prediction)}."
            )
        return prediction[0], prediction[1]

    def initialize(self, model: torch.nn.Module, batch: Batch) -> None:
        if self.training_step is None:
            super().initialize(model, batch)
        else:
            self.training_step(model, batch, lambda output, *_: output.sum())

    def target_of(self, batch: Batch) -> torch.Tensor | None:
        return None if self.validation_step is not None else super().target_of(batch)

    def is_finite(self, model: torch.nn.Module, batch: Batch) -> bool:
        if self.training_step is None:
            return super().is_finite(model, batch)
        return all(bool(torch.isfinite(p).all()) for p in model.parameters())


def as_scalar(value: Any, origin: str) -> torch.Tensor:
    """Return the scalar of a tensor, or of a dict of losses: its entry `loss`, or else the sum of all entries.

    Raises:
        InvalidValue: If `value` is neither.
    """
    if isinstance(value, Mapping) and value:
        value = value["loss"] if "loss" in value else sum(value.values())
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        raise InvalidValue(
            f"{origin} must return one number, a scalar tensor (or a dict of these); it returned {describe(value)}."
        )
    return value


def call_model(model: torch.nn.Module, x: Any) -> torch.Tensor:
    """Return the output of the model for one input, a tuple of several, or a dict of named ones.

    Raises:
        InvalidValue: If the output is no tensor, and has none in its attribute `logits`.
    """
    if isinstance(x, torch.Tensor):
        output = model(x)
    elif isinstance(x, Mapping) and x:
        output = model(**x)
    else:
        output = model(*x)
    if isinstance(output, torch.Tensor):
        return output
    logits = getattr(output, "logits", None)
    if isinstance(logits, torch.Tensor):
        return logits
    raise InvalidValue(f"the model must return a tensor; it returned {type(output).__name__}. {WAY_OUT}")


def check_pair(data: Any, role: str) -> tuple[Any, torch.Tensor]:
    """(X, y) as tensors, each with one row per example."""
    if len(data) != 2:
        raise InvalidType(f"the {role} data must be a pair (X, y); received {len(data)} items. {WAY_OUT}")
    x, y = (_as_tensors(part) for part in data)
    if not isinstance(x, torch.Tensor) and not all(isinstance(part, torch.Tensor) for part in _inputs(x)):
        raise InvalidType(f"X of the {role} data must be a tensor; received {type(x).__name__}.")
    if not isinstance(y, torch.Tensor):
        raise InvalidType(f"y of the {role} data must be a tensor; received {type(y).__name__}.")
    for part in tensors_of(x):
        if not part.dim() or not y.dim() or len(part) != len(y):
            raise InvalidValue(
                f"X and y of the {role} data must have one row per example; received shapes {tuple(part.shape)} "
                f"and {tuple(y.shape)}."
            )
    if not len(y):
        raise InvalidValue(f"the {role} data is empty.")
    if not (y.is_floating_point() or y.is_complex() or y.dtype is torch.bool):
        y = y.long()  # class indices of every integer dtype
    return x, y


def _as_tensors(part: Any) -> Any:
    if isinstance(part, Mapping):
        return {str(name): _as_tensors(value) for name, value in part.items()}
    if isinstance(part, (tuple, list)) and part and all(hasattr(p, "__array__") for p in part):
        return tuple(torch.as_tensor(p) for p in part)
    return torch.as_tensor(part) if hasattr(part, "__array__") else part


def _inputs(x: Any) -> list[Any]:
    """Return the inputs of a structure; a value that is no structure stands for itself."""
    if isinstance(x, Mapping):
        return list(x.values())
    return list(x) if isinstance(x, tuple) else [x]


def _is_prediction(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(v, torch.Tensor) for v in value)


def describe(value: Any) -> str:
    """Return a value in a message: the shape of a tensor, else the type."""
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
