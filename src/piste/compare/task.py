"""Tasks: a model, its data, the losses that train it and the metric that ranks the results."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from ..errors import InvalidType, InvalidValue, did_you_mean
from ..options import Integer
from .batches import Batch
from .frameworks import is_loaded, objective_of
from .objective import CustomObjective, Objective
from .training.random_state import RandomState

KEPT_OVER_SPLITS = (
    "metric", "epochs", "batch_size", "target", "optimizers", "training_step", "validation_step", "device", "loop",
    "resplit", "name", "about", "picture",
)  # fmt: skip
"""The attributes that do not depend on the split, which a caller may have set."""


@dataclass
class Task:
    """The subject of a comparison, as a task file returns it (or a dict with the same names).

    A LightningModule or a Hugging Face model is trained with its own loss; docs/tasks.md has examples.

    Args:
        model: An nn.Module, or a function that makes one (then each seed starts from its own weights).
        train: Training data: a pair of tensors (X, y), a Dataset or a DataLoader, or a function that makes one.
        validation: Validation data, as `train`.
        loss: A name ("cross_entropy"), a loss module, a function (output, target) -> scalar, or a list of these.
            Inferred from the targets if None.
        metric: "accuracy", "balanced_accuracy", "f1", "auc", "log_loss", "rmse", "mae", "r2", or (function, "max" or
            "min"). Of a list of these the first decides, and the others are reported. Inferred from the targets if
            None.
        epochs: Passes over the training data.
        batch_size: Examples per batch; a DataLoader keeps its own.
        target: The metric that counts as learned. None takes 90 % of the way from the start to the best candidate.
        optimizers: The default candidates: names, classes or a dict. None takes SGD, RMSprop, Adagrad, Adadelta, Adam,
            AdamW and Adamax.
        training_step: A function (model, batch, loss) -> scalar, or a dict of losses, for batches of any structure. The
            loss is the candidate's, or None where the task has no `loss`.
        validation_step: A function (model, batch, loss) -> (output, target) for the metric. Without it the validation
            batches are pairs (X, y).
        device: Where models are trained, such as "cuda" or "mps"; batches are moved there. None leaves them where they
            are.
        loop: A `Loop` with a schedule, clipping and other options of the training loop, or a dict of loops to compare.
        own_metrics: Metrics that a name means in this task, before the known ones.
        resplit: A function of a seed that returns the task with the split into training and validation data that the
            seed draws; see `of_seed`. None uses the given data with every seed.
        examples: The number of each validation example, the same in every split that holds the example. None if there
            is one split.
        name: The name in the report.
        about: A description in the report.
        picture: A function of the finished comparison that draws an additional figure (matplotlib), or None.

    Example:
        >>> import torch
        >>> from piste.compare import Task
        >>> x = torch.linspace(-1, 1, 32).unsqueeze(1)
        >>> task = Task(lambda: torch.nn.Linear(1, 1), train=(x, 3 * x), validation=(x, 3 * x), name="a line")
        >>> task.fixed_weights
        False
    """

    model: torch.nn.Module | Callable[[], torch.nn.Module]
    train: Any
    validation: Any
    loss: Any = None
    metric: Any = None
    epochs: int = 10
    batch_size: int = 64
    target: float | None = None
    optimizers: Any = None
    training_step: Callable[..., Any] | None = None
    validation_step: Callable[..., Any] | None = None
    device: str | torch.device | None = None
    loop: Any = None
    own_metrics: Mapping[str, Any] = field(default_factory=dict)
    resplit: Callable[[int], Task] | None = None
    examples: Any = None
    name: str = "task"
    about: str = ""
    picture: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, torch.nn.Module) and not callable(self.model):
            raise InvalidType(
                f"the model must be an nn.Module or a function that makes one; received {type(self.model).__name__}."
            )
        for step in ("training_step", "validation_step"):
            if getattr(self, step) is not None and not callable(getattr(self, step)):
                raise InvalidType(
                    f"`{step}` must be a function (model, batch, loss); received {getattr(self, step)!r}."
                )
        self._made = {name: getattr(self, name) for name in ("model", "loss", "train", "validation")}
        self._example: Batch | None = None  # a batch that gives lazy modules their shapes
        self._skip_copy = False  # set for a model that can't be copied, if its function makes a new one each time
        if self.device is not None:
            self.device = check_device(self.device)
        check_whole_number("epochs", self.epochs, least=1)
        check_whole_number("batch_size", self.batch_size, least=1)

    @property
    def fixed_weights(self) -> bool:
        """Whether every seed starts from the weights of the given module."""
        return isinstance(self.model, torch.nn.Module)

    @functools.cached_property
    def objective(self) -> Objective:
        """How a batch becomes a loss, and the outputs and targets of the metric."""
        if self.training_step is None and self.validation_step is None:
            kind = self._kind()
            return (kind and objective_of(kind)) or Objective()
        return CustomObjective(self.training_step, self.validation_step)

    def _kind(self) -> type | None:
        """Return the class of the model; None if only its function knows it, and no framework is imported."""
        if isinstance(self.model, (torch.nn.Module, type)):
            return self.model if isinstance(self.model, type) else type(self.model)
        if not is_loaded():
            return None
        with RandomState(0):
            return type(self._make_model())

    def of_seed(self, seed: int) -> Task:
        """Return the task with the split that `seed` draws.

        Its data and own metrics are those of the split, and so are its model and losses unless they were replaced. All
        else is as here.

        Raises:
            InvalidValue: If the data was replaced.
        """
        if self.resplit is None:
            return self
        for role in ("train", "validation"):
            if getattr(self, role) is not self._made[role]:
                raise InvalidValue(
                    f"`{role}` of the task {self.name} was replaced, and every seed would replace it by its own split. "
                    f"Help: set `resplit` of the task to None."
                )
        drawn = copy.copy(self.resplit(seed))
        replaced = [name for name in ("model", "loss") if getattr(self, name) is not self._made[name]]
        for name in (*KEPT_OVER_SPLITS, *replaced):
            setattr(drawn, name, getattr(self, name))
        several = isinstance(self.metric, list)
        metrics = [self.metric_in(drawn, metric) for metric in (self.metric if several else [self.metric])]
        drawn.metric = metrics if several else metrics[0]
        return drawn

    def metric_in(self, drawn: Task, metric: Any) -> Any:
        """Return the metric in another split of the task: the one of the same name if it is the task's own."""
        names = [name for name, own in self.own_metrics.items() if own is metric]
        return drawn.own_metrics[names[0]] if names else metric

    def initialize_with(self, example: Batch) -> None:
        """Set the training batch that gives lazy modules their shapes."""
        self._example = example

    def _make_model(self) -> torch.nn.Module:
        model = self.model if isinstance(self.model, torch.nn.Module) else self.model()
        if not isinstance(model, torch.nn.Module):
            raise InvalidType(
                f"the function that makes the model must return an nn.Module; it returned {type(model).__name__}."
            )
        return model

    def new_model(self, seed: int) -> torch.nn.Module:
        """Return a model to train: a copy of the given module, or a new model initialized with `seed`.

        Raises:
            InvalidValue: If the model can't be copied, or has no trainable parameter.
        """
        return self.new_pair(seed, None)[0]

    def new_pair(self, seed: int, loss: Any) -> tuple[torch.nn.Module, Any]:
        """Return a model to train as `new_model` makes it, and a copy of the loss if it is a module.

        They are copied together: a loss that holds the given model, or a part of it, holds the copy afterwards.
        """
        memo: dict[int, Any] = {}
        with RandomState(seed):
            model = self._make_model()
            if not self._skip_copy:
                try:
                    model = copy.deepcopy(model, memo)  # the function may return the same model twice
                except Exception as error:
                    self._skip_copy = not self.fixed_weights and not _share_tensors(model, self._make_model())
                    if not self._skip_copy:
                        raise InvalidValue(
                            f"the model can't be copied ({error}). Help: pass a function that makes a new model."
                        ) from error
            if self._example is not None and any(map(is_lazy, model.parameters())):
                model.eval()
                with torch.no_grad():
                    self.objective.initialize(model, self._example)
            if isinstance(loss, torch.nn.Module):
                loss = copy.deepcopy(loss, memo)
        if self.device is not None:
            model.to(self.device)
            loss = loss.to(self.device) if isinstance(loss, torch.nn.Module) else loss
        if not model.training:
            model.train()
        for p in model.parameters():
            p.grad = None
        if not any(p.requires_grad for p in model.parameters()):
            raise InvalidValue("the model has no trainable parameters: every parameter is frozen, or there is none.")
        return model, loss


def _share_tensors(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Return whether the two modules have a parameter or a buffer in common."""
    first, second = ({id(t) for t in (*m.parameters(), *m.buffers())} for m in (one, other))
    return bool(first & second)


def as_task(value: Any, origin: str) -> Task:
    """Return the task returned by `origin`, the function of a task file: a `Task`, or a dict with its names."""
    if isinstance(value, Task):
        return value
    known = [entry.name for entry in fields(Task)]
    if not isinstance(value, dict):
        raise InvalidType(
            f"{origin} must return a dict with model, train and validation (and loss, metric, ...), or a "
            f"Task (from piste.compare import Task); it returned {type(value).__name__}."
        )
    for name in value:
        if name not in known:
            raise InvalidValue(f"{origin} returned an unknown entry {name!r}. {did_you_mean(str(name), known)}")
    missing = [name for name in ("model", "train", "validation") if name not in value]
    if missing:
        raise InvalidValue(f"{origin} must return model, train and validation; missing: {', '.join(missing)}.")
    return Task(**value)


def check_device(device: Any) -> torch.device:
    """Return the device of this name.

    Raises:
        InvalidValue: If there is no such device on this machine.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise InvalidValue(
            f"`device` must be a device of this machine, such as cpu, cuda or mps; received {device!r} ({reason})."
        ) from error
    return found


def check_whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return `value` if it is a whole number between `least` and `most`."""
    Integer(low=least, high=most).check(name, value)
    return int(value)
