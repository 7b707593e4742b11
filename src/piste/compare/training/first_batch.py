"""The check before training: one batch goes through the model, the losses, the metric and the optimizers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...errors import InvalidValue
from ..candidates import Candidate
from ..data import Data
from ..metrics import Metric, check_class_indices, default_metric
from ..search_space import configurations, format_options
from ..task import Task
from .finite import check_finite
from .random_state import RandomState
from .trial import evaluation_mode


@dataclasses.dataclass(frozen=True)
class Checked:
    """The candidates with their conventions, the metric, and the untrained model's output on the first batch."""

    candidates: list[Candidate]
    metric: Metric
    output: torch.Tensor


def check_on_first_batch(task: Task, data: Data, metric: Metric | None, candidates: Sequence[Candidate]) -> Checked:
    """Put one batch through the model, the losses and the metric, and build every optimizer configuration once.

    Args:
        task: The task whose model is called.
        data: The data of the comparison.
        metric: The metric; None infers it from the outputs and targets.
        candidates: The losses and optimizers.

    Raises:
        InvalidValue: If one of them fails, with its name and the reason, or if the data holds NaN or infinity.
    """
    model = task.new_model(0)
    x, y = data.training_sample[0]
    with RandomState(0), evaluation_mode(model):
        output = call_or_explain("the model failed on a batch of the training data", model, x)
        if not isinstance(output, torch.Tensor):
            raise InvalidValue(f"the model must return a tensor; it returned {type(output).__name__}.")
        for candidate in {c.loss: c for c in candidates}.values():
            _check_loss(candidate, output, y)
        metric = metric or default_metric(output.detach(), y)
        resolved = [dataclasses.replace(c, convention=c.convention.resolve(output.detach())) for c in candidates]
        metrics = {c.convention: metric.under(c.convention) for c in resolved}
        with torch.no_grad():
            judges = {f"the loss `{c.loss}`": c.new_loss() for c in candidates}
            check_finite(model, data, judges, {f"the metric `{m.name}`": m.scores for m in metrics.values()})
            for convention, judged in metrics.items():
                _check_metric(judged, model, data, output.detach(), convention.ignore_index)
    for candidate in {c.optimizer: c for c in candidates}.values():
        for options in configurations(candidate.search_space):
            configured = dataclasses.replace(candidate, options=options)
            with_options = f" with {format_options(options)}" * bool(options)
            call_or_explain(
                f"{candidate.optimizer}{with_options} could not be built", configured.new_optimizer, model.parameters()
            )
    return Checked(resolved, metric, output.detach())


def _check_loss(candidate: Candidate, output: torch.Tensor, y: torch.Tensor) -> None:
    loss = call_or_explain(f"the loss `{candidate.loss}` failed on the model's output", candidate.new_loss(), output, y)
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        received = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise InvalidValue(f"the loss `{candidate.loss}` must return one number, a scalar tensor; received {received}.")
    if not loss.requires_grad:
        raise InvalidValue(f"the loss `{candidate.loss}` doesn't depend on the model's weights: no gradient.")


def _check_metric(
    metric: Metric, model: torch.nn.Module, data: Data, output: torch.Tensor, ignore_index: int | None
) -> None:
    y = data.training_sample[0][1]
    call_or_explain(f"the metric `{metric.name}` failed on the model's output", metric.scores, output, y)
    if metric.takes_convention and output.dim() == data.targets.dim() + 1:
        call_or_explain(
            f"the metric `{metric.name}` can't judge the validation data", check_class_indices, data.targets,
            output.shape[1], ignore_index, "its targets",
        )  # fmt: skip
    failure = "the model failed on a batch of the validation data"
    outputs = torch.cat([call_or_explain(failure, model, x) for x, _ in data.quick_validation])
    scores = call_or_explain(
        f"the metric `{metric.name}` failed on the validation data", metric.scores, outputs, data.quick_targets
    )
    if bool(scores.isnan().any()):
        raise InvalidValue(
            f"the metric `{metric.name}` is nan for the untrained model on the validation data. Help: return a number "
            f"for every output, such as the worst value."
        )


def call_or_explain(failure: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call `function`; an exception becomes an InvalidValue that begins with `failure`."""
    try:
        return function(*args)
    except Exception as error:
        text = str(error).strip().split("\n")[0] or type(error).__name__
        raise InvalidValue(f"{failure}: {text}") from error
