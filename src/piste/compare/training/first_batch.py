"""The check before training: one batch goes through the model, the losses and the metric."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...errors import InvalidValue
from ..candidates import Candidate
from ..data import Data
from ..metrics import Metric
from ..search_space import configurations, format_options
from ..task import Task
from .random_state import RandomState
from .trial import evaluation_mode


def check_on_first_batch(
    task: Task, data: Data, metric: Metric | None, candidates: Sequence[Candidate]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put one batch through the model, the losses and the metric, and build every optimizer configuration once.

    Returns:
        The outputs and targets of the batch.

    Raises:
        InvalidValue: If one of them fails, with its name and the reason.
    """
    model = task.new_model(0)
    x, y = data.training_sample[0]
    with RandomState(0), evaluation_mode(model):
        output = call_or_explain("the model failed on a batch of the training data", model, x)
        if not isinstance(output, torch.Tensor):
            raise InvalidValue(f"the model must return a tensor; it returned {type(output).__name__}.")
        for candidate in {c.loss: c for c in candidates}.values():
            loss = call_or_explain(
                f"the loss `{candidate.loss}` failed on the model's output", candidate.new_loss(), output, y
            )
            if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
                received = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
                raise InvalidValue(
                    f"the loss `{candidate.loss}` must return one number, a scalar tensor; received {received}."
                )
            if not loss.requires_grad:
                raise InvalidValue(f"the loss `{candidate.loss}` doesn't depend on the model's weights: no gradient.")
        if metric is not None:
            call_or_explain(
                f"the metric `{metric.name}` failed on the model's output", metric.scores, output.detach(), y
            )
    for candidate in {c.optimizer: c for c in candidates}.values():
        for options in configurations(candidate.search_space):
            configured = dataclasses.replace(candidate, options=options)
            with_options = f" with {format_options(options)}" * bool(options)
            call_or_explain(
                f"{candidate.optimizer}{with_options} could not be built", configured.new_optimizer, model.parameters()
            )
    return output.detach(), y


def call_or_explain(failure: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call `function`; an exception becomes an InvalidValue that begins with `failure`."""
    try:
        return function(*args)
    except Exception as error:
        text = str(error).strip().split("\n")[0] or type(error).__name__
        raise InvalidValue(f"{failure}: {text}") from error
