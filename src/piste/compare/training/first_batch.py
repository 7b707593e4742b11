"""The check before training: one batch goes through the model, the losses, the metric and the optimizers."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...engine import raise_reported
from ...errors import InvalidType, InvalidValue, english
from ...torch_internals import PLAIN_TYPES
from ..batches import Batch, concatenate
from ..candidates import Candidate
from ..class_metrics import check_class_indices
from ..conventions import Convention
from ..data import Data
from ..loop import SCHEDULES
from ..metrics import Metric, default_metric
from ..objective import Loss, Objective, Prediction
from ..search_space import configurations, format_options
from ..task import Task
from .finite import check_finite
from .graph import find_stray_parameter
from .random_state import RandomState
from .training_run import evaluation_mode
from .updates import needs_closure, new_average, trained_parameters

CHECKED_UPDATES = 100
"""The length of the schedules that are made before training."""


@dataclasses.dataclass(frozen=True)
class Checked:
    """The candidates with their conventions, the metric that decides, and those that are reported."""

    candidates: list[Candidate]
    metric: Metric
    also: Sequence[Metric]


def check_on_first_batch(task: Task, data: Data, given: Sequence[Metric], candidates: Sequence[Candidate]) -> Checked:
    """Put one batch through the model, the losses and the metrics, and build every optimizer configuration once.

    Args:
        task: The task whose model is called.
        data: The data of the comparison.
        given: The metrics, of which the first decides; without one it is inferred from the outputs and targets.
        candidates: The losses and optimizers.

    Raises:
        InvalidValue: If one of them fails, with its name and the reason, or if the data holds NaN or infinity.
    """
    objective, batch = task.objective, data.first_batch()
    metric, also = given[0] if given else None, given[1:]
    if metric is not None and metric.measured and len({c.loss for c in candidates}) > 1:
        raise InvalidValue(
            f"the metric `{metric.name}` can't rank candidates of several losses, whose values have different "
            f"meanings; received {', '.join({c.loss: 0 for c in candidates})}. Help: give a metric that is the same "
            f"for all."
        )
    by_loss = {c.loss: c for c in candidates}
    for candidate in by_loss.values():
        model, loss = task.new_pair(0, candidate.loss_function)
        with RandomState(0), evaluation_mode(model, loss):
            _check_loss(candidate, objective, model, loss, batch)
    first = next(iter(by_loss.values()))
    model, loss = task.new_pair(0, first.loss_function)
    with RandomState(0), evaluation_mode(model, loss), torch.no_grad():
        quick = data.quick_validation
        for judged in (m for m in given if m.measured):
            call_or_explain(
                f"the metric `{judged.name}` can't be measured", objective.measure, judged.name, model, quick[0], loss
            )
        if all(m.measured for m in given) and metric is not None:
            resolved = list(candidates)
        else:
            sample = [_call_model("validation", objective.predict, model, b, loss) for b in quick[:1]]
            metric = metric or default_metric(*sample[0])
            resolved = [dataclasses.replace(c, convention=c.convention.resolve(sample[0][0])) for c in candidates]
            of_outputs = [m for m in (metric, *also) if not m.measured]
            metrics = {(c.convention, m.name): m.under(c.convention) for c in resolved for m in of_outputs}
            sample += [_call_model("validation", objective.predict, model, b, loss) for b in quick[1:]]
            made = {f"the loss `{c.loss}`": c.new_loss() for c in by_loss.values()}
            losses = {name: function for name, function in made.items() if function is not None}
            check_finite(task, model, data, losses, {f"the metric `{m.name}`": m.scores for m in metrics.values()})
            for (convention, _), judged in metrics.items():
                _check_metric(judged, sample, data, convention)
    for candidate in candidates:
        _check_optimizer(candidate, *task.new_pair(0, candidate.loss_function))
    return Checked(resolved, metric, also)


def _check_loss(
    candidate: Candidate, objective: Objective, model: torch.nn.Module, loss: Loss | None, batch: Batch
) -> None:
    calls: list[int] = []

    def counted(*args: Any, **options: Any) -> torch.Tensor:
        assert loss is not None
        calls.append(1)
        return loss(*args, **options)

    failure = f"the loss `{candidate.loss}` failed on the model's output"
    if objective.own_loss is None:
        output = _call_model("training", objective.output, model, batch)
        value = call_or_explain(failure, counted, output, batch[1])
    else:
        failure = f"{objective.own_loss} failed on a batch of the training data"
        value = call_or_explain(failure, objective.training_loss, model, batch, counted if loss else None)
        if loss is not None and not calls:
            raise InvalidValue(
                f"{objective.own_loss} does not call its argument `loss`, so the loss `{candidate.loss}` has no "
                f"effect. Help: call it, or leave out loss=."
            )
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        received = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise InvalidValue(f"the loss `{candidate.loss}` must return one number, a scalar tensor; received {received}.")
    if not value.requires_grad:
        raise InvalidValue(f"the loss `{candidate.loss}` doesn't depend on the model's weights: no gradient.")
    trained = trained_parameters(model, loss)
    # A sharded model reads gathered tensors in the place of its parameters, which are DTensors.
    is_plain = all(type(p) in PLAIN_TYPES for p in trained)
    stray = find_stray_parameter(value, trained) if is_plain else None
    if stray is not None:
        raise InvalidValue(
            f"the loss `{candidate.loss}` reads a parameter of shape {tuple(stray.shape)} that no run trains: each run "
            f"trains a copy of the model. Help: give training_step=, a function (model, batch, loss) that receives the "
            f"copy, or make the parameter one of a loss that is a module."
        )


def _check_optimizer(candidate: Candidate, model: torch.nn.Module, loss: Loss | None) -> None:
    """Build the optimizer of every configuration, and the parts of the loop."""
    loop = candidate.loop
    loop.freeze_parts(model)
    failure = f"`param_groups` of `{candidate.name}` failed on the model"
    if loop.param_groups is None:
        failure = f"{candidate.optimizer} can't train this model"
    for options in configurations(candidate.search_space):
        configured = dataclasses.replace(candidate, options=options)
        with_options = f" with {format_options(options)}" * bool(options)
        trained = call_or_explain(failure, trained_parameters, model, loss, candidate)
        optimizer = call_or_explain(
            f"{candidate.optimizer}{with_options} could not be built", configured.new_optimizer, trained
        )
    scheduler = call_or_explain(
        f"the schedule of `{candidate.name}` failed", loop.new_scheduler, optimizer, CHECKED_UPDATES
    )
    if scheduler is not None and not callable(getattr(scheduler, "step", None)):
        raise InvalidType(
            f"the schedule of `{candidate.name}` must make a scheduler of torch.optim.lr_scheduler; it returned "
            f"{type(scheduler).__name__}."
        )
    needed = [] if scheduler is None else required_arguments(scheduler.step)
    if needed:
        raise InvalidValue(
            f"the schedule of `{candidate.name}` makes a {type(scheduler).__name__}, whose step() needs "
            f"`{'`, `'.join(needed)}`; a schedule depends on the number of updates alone. Help: give one of "
            f"{', '.join(SCHEDULES)}, or a function that makes a scheduler without such an argument."
        )
    call_or_explain(f"`ema` of `{candidate.name}` can't copy the model", new_average, model, loop.ema)
    if needs_closure(optimizer) and (loop.accumulate > 1 or loop.autocast == "float16"):
        option = "accumulate" if loop.accumulate > 1 else "autocast='float16'"
        raise InvalidValue(
            f"{candidate.optimizer} computes the loss several times in a step, which excludes `{option}`."
        )


def required_arguments(function: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments that a function can't be called without."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in kinds]


def _check_metric(metric: Metric, parts: list[Prediction], data: Data, convention: Convention) -> None:
    output, targets = parts[0][0], data.known_targets
    if metric.of_classes and output.dim() == parts[0][1].dim() + 1:
        for target in targets or [target for _, target in parts]:
            call_or_explain(
                f"the metric `{metric.name}` can't judge the validation data", check_class_indices, target,
                output, convention, "its targets",
            )  # fmt: skip
    joined = parts[0] if len(parts) == 1 else concatenate(parts)
    failure = f"the metric `{metric.name}` failed on the model's output"
    if joined is None:
        scores = call_or_explain(failure, metric.scores_of_parts, parts)
    else:
        scores = call_or_explain(failure, metric.scores, *joined)
    if bool(scores.isnan().any()):
        raise InvalidValue(
            f"the metric `{metric.name}` is nan for the untrained model on the validation data. Help: return a number "
            f"for every output, such as the worst value."
        )


def _call_model(role: str, function: Callable[..., Any], model: torch.nn.Module, batch: Batch, *args: Any) -> Any:
    """Call a function of the model and a batch; the refusal of an input of another dtype has the conversion."""
    failure = f"the model failed on a batch of the {role} data"
    try:
        return call_or_explain(failure, function, model, batch, *args)
    except InvalidValue as error:
        x = batch[0] if isinstance(batch, (tuple, list)) and batch else None
        weights = [p.dtype for p in model.parameters() if p.is_floating_point()]
        if not isinstance(x, torch.Tensor) or not weights or x.dtype in weights or "type" not in english(error):
            raise
        raise InvalidValue(
            f"{english(error)}. Help: X has the dtype {x.dtype}, and the weights {weights[0]}: give X.to({weights[0]})."
        ) from error


def call_or_explain(failure: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call `function`; an exception, or the report of a GPU, becomes an InvalidValue that begins with `failure`."""
    try:
        value = function(*args)
        raise_reported(wait=True, is_last=True)
        return value
    except Exception as error:
        text = str(error).strip().split("\n")[0] or type(error).__name__
        raise InvalidValue(f"{failure}: {text}") from error
