"""The lines of code that a comparison recommends to paste."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch

from ... import losses, optim
from ...optim.averaging import AveragedWeights
from ..candidates import Candidate
from ..loop import PLAIN, Loop
from ..results import Row
from ..search_space import format_options


def code_to_paste(
    row: Row, candidate: Candidate, *, names_loss: bool = False, is_lightning: bool = False,
    monitored: tuple[str, str] = ("val_loss", "min"),
) -> str:  # fmt: skip
    """Return the lines of code that construct the optimizer of a candidate, its loss, and the parts of its loop.

    Args:
        row: The row of the candidate, with the learning rate and the options to write.
        candidate: The candidate.
        names_loss: Whether the lines construct the loss.
        is_lightning: Whether the lines are the method of a LightningModule.
        monitored: The name and the goal of the metric that early stopping reads from the log of a LightningModule.
    """
    model, updates = ("self", "self.trainer.estimated_stepping_batches") if is_lightning else ("model", "updates")
    loop = candidate.loop
    make, bound = spell_optimizer(candidate.optimizer, candidate.make)
    lr = "" if row.lr is None else f", lr={row.lr:.3g}"
    others = {name: value for name, value in bound.items() if name != "lr"} | dict(row.options)
    options = f", {format_options(others)}" * bool(others)
    lines = [f"loss = {spell_loss(candidate.loss, candidate.loss_function)}"] * names_loss
    lines += [f"loop = Loop({loop.options})  # from piste.compare import Loop"] * (loop != PLAIN)
    lines.append(f"optimizer = {make}({_spell_parameters(candidate, model)}{lr}{options})")
    if issubclass(getattr(optim, make.rpartition(".")[2], object), AveragedWeights):
        lines.append("# with optimizer.averaged(): evaluate and save the model")
    result = "optimizer"
    if loop.schedule != "constant" or loop.warmup:
        meaning = "" if is_lightning else "  # the number of all updates"
        lines.append(f"scheduler = loop.new_scheduler(optimizer, {updates}){meaning}")
        result = '{"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}'
    if is_lightning:
        options = _spell_trainer(loop, monitored)
        lines = [
            *[f"# Trainer({options})"] * bool(options),
            "def configure_optimizers(self):",
            *(f"    {line}" for line in (*lines, f"return {result}")),
        ]
    return "\n".join(lines)


def spell_optimizer(name: str, make: Any) -> tuple[str, Mapping[str, Any]]:
    """Return the expression for the class of an optimizer, and the arguments that a `functools.partial` of it binds.

    A class of Piste or PyTorch is written with its package, a class or function of the caller by its name, and any
    other as an entry of the caller's `optimizers` dict.

    >>> spell_optimizer("steady", functools.partial(torch.optim.SGD, momentum=0.9))
    ('torch.optim.SGD', {'momentum': 0.9})
    """
    is_partial = isinstance(make, functools.partial)
    kind, bound = (make.func, make.keywords) if is_partial else (make, {})
    if not (is_partial and make.args) and all(map(_is_literal, bound.values())):
        spelled = getattr(kind, "__name__", "")
        for title, package in (("piste.optim", optim), ("torch.optim", torch.optim)):
            if spelled and getattr(package, spelled, None) is kind:
                return f"{title}.{spelled}", bound
    return _spell_own("optimizers", name, make), {}


def spell_loss(name: str, loss: Any) -> str:
    """Return the expression that makes a loss.

    A loss of Piste is written with its options, a function of the caller by its name, and any other as an entry of the
    caller's `losses` dict.

    >>> spell_loss("focal", losses.FocalLoss(gamma=3.0))
    'piste.losses.FocalLoss(gamma=3.0)'
    """
    is_known = getattr(losses, type(loss).__name__, None) is type(loss)
    if is_known and not loss.state_dict():  # tensors can't be written in a line
        return f"piste.losses.{loss!r}"
    return _spell_own("losses", name, loss)


def _spell_parameters(candidate: Candidate, model: str) -> str:
    loop = candidate.loop
    parameters = f"{model}.parameters()" if loop.param_groups is None else f"loop.param_groups({model})"
    if candidate.steps_matrices and loop.param_groups is None:
        return f"piste.optim.matrix_groups({model}{', loss=loss' * candidate.trains_loss})"
    if candidate.trains_loss:
        own = "*loss.parameters()" if loop.param_groups is None else '{"params": loss.parameters()}'
        return f"[*{parameters}, {own}]"
    return parameters


def _spell_trainer(loop: Loop, monitored: tuple[str, str]) -> str:
    """Return the options of a loop as those of Lightning's Trainer, and as callbacks of its package."""
    options: dict[str, Any] = {}
    if loop.clip_norm is not None:
        options["gradient_clip_val"] = loop.clip_norm
    elif loop.clip_value is not None:
        options |= {"gradient_clip_val": loop.clip_value, "gradient_clip_algorithm": "value"}
    if loop.accumulate > 1:
        options["accumulate_grad_batches"] = loop.accumulate
    if loop.autocast is not None:
        options["precision"] = {"bfloat16": "bf16-mixed", "float16": "16-mixed"}[loop.autocast]
    callbacks = []
    if loop.ema is not None:
        callbacks.append(f"EMAWeightAveraging(decay={loop.ema})")
    if loop.patience is not None:
        name, goal = monitored
        callbacks.append(f"EarlyStopping({name!r}, patience={loop.patience}, mode={goal!r})")
        callbacks.append(f"ModelCheckpoint(monitor={name!r}, mode={goal!r})")
    listed = [f"callbacks=[{', '.join(callbacks)}]"] * bool(callbacks)
    return ", ".join([*[format_options(options)] * bool(options), *listed])


def _spell_own(source: str, name: str, value: Any) -> str:
    """Return the name of the caller's class or function if it is that of the candidate, else an entry of a dict."""
    is_named = (inspect.isfunction(value) or inspect.isclass(value)) and value.__name__ == name and name.isidentifier()
    return name if is_named else f"{source}[{name!r}]"


def _is_literal(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_literal, value))
    return value is None or isinstance(value, (bool, int, float, str))
