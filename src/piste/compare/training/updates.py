"""The updates of one run: gradients of a batch, and the optimizer with the options of its loop."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ...optim import LBFGS, matrix_groups
from ...optim.averaging import AveragedWeights
from ..candidates import Candidate
from ..loop import PRECISIONS, Loop
from ..objective import Loss
from .averaging import averages_weights

MIN_WARMUP_STEPS = 2
"""Steps whose memory is measured, and whose time is not."""


class Updates:
    """The optimizer of a run, its schedule, scaler and averaged weights.

    Args:
        candidate: The optimizer and the loop.
        model: The model to train.
        loss: The loss, whose own parameters are trained too.
        steps: The number of steps of the run.
    """

    def __init__(self, candidate: Candidate, model: torch.nn.Module, loss: Loss | None, steps: int) -> None:
        self.model, self.steps, self.loop = model, steps, candidate.loop
        self.optimizer = candidate.new_optimizer(trained_parameters(model, loss, candidate))
        self.scheduler = self.loop.new_scheduler(self.optimizer, self.loop.updates(steps))
        device = next(model.parameters()).device.type
        self.scaler = torch.amp.GradScaler(device) if self.loop.autocast == "float16" else None  # type: ignore[attr-defined]
        self.average = new_average(model, self.loop.ema)
        self.needs_closure = needs_closure(self.optimizer)
        self.averages = self.average is None and averages_weights(self.optimizer)
        if self.averages and not isinstance(self.optimizer, AveragedWeights):
            self.optimizer.train()  # type: ignore[attr-defined]

    @property
    def judged(self) -> torch.nn.Module:
        """The model that is evaluated: the averaged weights, if the loop averages them."""
        return self.model if self.average is None else self.average.module

    def step(self, step: int, compute_loss: Callable[[], torch.Tensor]) -> float:
        """Add the gradients of a batch, and move the parameters at the end of an accumulation; returns the loss."""
        if self.needs_closure:
            losses: list[torch.Tensor] = []

            def closure() -> torch.Tensor:
                self.optimizer.zero_grad()
                losses.append(self._backward(compute_loss()))
                self._clip()
                return losses[-1]

            self.optimizer.step(closure)  # type: ignore[arg-type]
            self._after_update()
            return losses[0].item()
        if (step - 1) % self.loop.accumulate == 0:
            self.optimizer.zero_grad()
        loss = self._backward(compute_loss())
        if step % self.loop.accumulate == 0 or step == self.steps:
            self._update()
        return loss.item()  # waits for a GPU, so that the measured time is the step's

    def _backward(self, loss: torch.Tensor) -> torch.Tensor:
        mean = loss if self.loop.accumulate == 1 else loss / self.loop.accumulate
        (mean if self.scaler is None else self.scaler.scale(mean)).backward()
        return loss.detach()

    def _update(self) -> None:
        if self.scaler is None:
            self._clip()
            self.optimizer.step()
        else:
            self.scaler.unscale_(self.optimizer)
            self._clip()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self._after_update()

    def _clip(self) -> None:
        if self.loop.clip_norm is None and self.loop.clip_value is None:
            return
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self.loop.clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters, self.loop.clip_value)
        if self.loop.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self.loop.clip_norm)

    def _after_update(self) -> None:
        if self.scheduler is not None:
            with warnings.catch_warnings():  # a scaler leaves out updates, at the start the first ones
                warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step")
                self.scheduler.step()
        if self.average is not None:
            self.average.update_parameters(self.model)


def autocast(loop: Loop, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the precision of forward passes."""
    if loop.autocast is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, PRECISIONS[loop.autocast])


def new_average(model: torch.nn.Module, decay: float | None) -> AveragedModel | None:
    """Return a copy of the model that follows its weights and buffers."""
    if decay is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def warmup_steps(loop: Loop) -> int:
    """Return the number of steps that reach the first update."""
    return max(MIN_WARMUP_STEPS, loop.accumulate)


def trained_parameters(model: torch.nn.Module, loss: Loss | None, candidate: Candidate | None = None) -> list[Any]:
    """Return the parameters that the optimizer steps: of the model, or its param groups, and of the loss.

    Args:
        model: The model.
        loss: The loss, whose own parameters are among them.
        candidate: The optimizer and the loop; None for all parameters without groups. An optimizer of matrices has
            those of `matrix_groups`, if the loop has none.
    """
    make_groups = None if candidate is None else candidate.loop.param_groups
    if make_groups is None and candidate is not None and candidate.steps_matrices:
        return matrix_groups(model, loss=loss if isinstance(loss, torch.nn.Module) else None)
    given: Iterable[Any] = model.parameters() if make_groups is None else make_groups(model)
    trained = list(given)
    groups = any(isinstance(part, dict) for part in trained)
    if isinstance(loss, torch.nn.Module):
        known = {id(p) for p in model.parameters()}
        own = [p for p in loss.parameters() if id(p) not in known]
        trained += [{"params": own}] * bool(own) if groups else own
    return trained


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether `step` can't be called without a function that computes the loss again, as for LBFGS."""
    if isinstance(optimizer, LBFGS):
        return True
    parameter = inspect.signature(type(optimizer).step).parameters.get("closure")
    return parameter is not None and parameter.default is inspect.Parameter.empty
