"""Models of Lightning and of Hugging Face as they are: their own steps and losses are the objective of a task."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ..errors import InvalidValue
from .batches import Batch
from .objective import WAY_OUT, Loss, Objective, Prediction, as_scalar, describe

FRAMEWORKS = ("lightning", "pytorch_lightning", "transformers")


def objective_of(kind: type) -> Objective | None:
    """Return the objective of a model of this class; None if it is a plain module."""
    names = {base.__name__ for base in kind.__mro__ if base.__module__.partition(".")[0] in FRAMEWORKS}
    if "LightningModule" in names:
        return LightningObjective()
    return HuggingFaceObjective(kind) if "PreTrainedModel" in names else None


def is_loaded() -> bool:
    """Return whether one of the frameworks is imported, so that a function may make one of its models."""
    return any(name in sys.modules for name in FRAMEWORKS)


class LightningObjective(Objective):
    """The objective of a LightningModule: `training_step` is the loss, and `validation_step` logs metrics.

    Without a Trainer no hook is called, and values that `training_step` logs are dropped.
    """

    own_loss = "training_step"
    is_custom = is_lightning = True

    def check_batch(self, batch: Any, role: str) -> Batch:
        return batch

    def training_loss(self, model: torch.nn.Module, batch: Batch, loss: Loss | None) -> torch.Tensor:
        if not getattr(model, "automatic_optimization", True):
            raise InvalidValue(
                "the LightningModule steps its optimizers itself (automatic_optimization=False), so that there is "
                "nothing to compare. Help: give training_step=, a function (model, batch, loss) -> scalar."
            )
        with _logged_values(model):
            return as_scalar(model.training_step(batch, 0), "training_step")  # type: ignore[operator]

    def predict(self, model: torch.nn.Module, batch: Batch, loss: Loss | None) -> Prediction:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise InvalidValue(
                f"a batch of the validation data must be a pair (X, y) for this metric; received {describe(batch)}. "
                f'Help: give metric=("NAME", "max" or "min"), a value that validation_step logs, or validation_step=.'
            )
        return super().predict(model, batch, loss)

    def measure(self, name: str, model: torch.nn.Module, batch: Batch, loss: Loss | None) -> float:
        if name == "loss":
            return super().measure(name, model, batch, loss)
        with _logged_values(model) as values:
            model.validation_step(batch, 0)  # type: ignore[operator]
        if name not in values:
            raise InvalidValue(f"validation_step does not log `{name}`; it logs {', '.join(values) or 'nothing'}.")
        return values[name]

    def target_of(self, batch: Batch) -> torch.Tensor | None:
        return batch[1] if isinstance(batch, (tuple, list)) and len(batch) == 2 else None

    def is_finite(self, model: torch.nn.Module, batch: Batch) -> bool:
        return all(bool(torch.isfinite(p).all()) for p in model.parameters())


@contextlib.contextmanager
def _logged_values(model: torch.nn.Module) -> Iterator[dict[str, float]]:
    """Collect the values that the module logs inside `with`; metrics of torchmetrics start again with each batch."""
    values: dict[str, float] = {}

    def log(name: str, value: Any, *_: Any, **__: Any) -> None:
        if hasattr(value, "compute"):
            value, metric = value.compute(), value
            metric.reset()
        values[name] = float(value.detach() if isinstance(value, torch.Tensor) else value)

    model.__dict__["log"] = log
    try:
        yield values
    finally:
        del model.__dict__["log"]


class HuggingFaceObjective(Objective):
    """The objective of a PreTrainedModel and batches with `labels`: the model's own loss, or one of its logits.

    Args:
        kind: The class of the model. The logits of causal language models are compared with the next token.
    """

    own_loss = "the model's loss"
    is_custom = True

    def __init__(self, kind: type) -> None:
        self._is_causal = kind.__name__.endswith(("ForCausalLM", "LMHeadModel"))
        self._arguments = set(inspect.signature(kind.forward).parameters)  # type: ignore[attr-defined]

    def check_batch(self, batch: Any, role: str) -> Batch:
        if not isinstance(batch, Mapping):
            return super().check_batch(batch, role)
        named = {("labels" if name == "label" else name): value for name, value in batch.items()}
        if "labels" not in named:
            raise InvalidValue(f"a batch of the {role} data must have `labels`; received {', '.join(batch)}. {WAY_OUT}")
        return {n: v for n, v in named.items() if n in self._arguments and isinstance(v, torch.Tensor)}

    def training_loss(self, model: torch.nn.Module, batch: Batch, loss: Loss | None) -> torch.Tensor:
        if loss is not None:
            return loss(*self.predict(model, batch, loss))
        if not isinstance(batch, Mapping):
            raise InvalidValue("batches of pairs (X, y) need a loss. Help: give loss=, or batches with `labels`.")
        return as_scalar(getattr(model(**batch), "loss", None), type(model).__name__)

    def predict(self, model: torch.nn.Module, batch: Batch, loss: Loss | None) -> Prediction:
        if not isinstance(batch, Mapping):
            return super().predict(model, batch, loss)
        logits, labels = model(**batch).logits, batch["labels"]
        if self._is_causal:
            logits, labels = logits[:, :-1], labels[:, 1:]
        if labels.is_floating_point():
            return logits.reshape(labels.shape), labels
        return logits.movedim(-1, 1), labels

    def target_of(self, batch: Batch) -> torch.Tensor | None:
        if not isinstance(batch, Mapping):
            return super().target_of(batch)
        labels: torch.Tensor = batch["labels"]
        return labels[:, 1:] if self._is_causal else labels

    def is_finite(self, model: torch.nn.Module, batch: Batch) -> bool:
        return all(bool(torch.isfinite(p).all()) for p in model.parameters())
