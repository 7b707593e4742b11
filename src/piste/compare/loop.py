"""The options of a training loop: schedule, clipping, accumulation, precision, averaging and early stopping."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from ..errors import InvalidType, InvalidValue, did_you_mean
from ..options import Integer, Number

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: (1.0 + math.cos(math.pi * progress)) / 2,
}
"""The factor of the learning rate by the progress from 0 to 1 after the warmup."""
PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Loop:
    """The training loop of a candidate. A step is one batch.

    Args:
        schedule: The learning rate over the run: "constant", "linear" (to 0), "cosine" (to 0), or a function
            (optimizer, updates) that makes a scheduler of torch.optim.lr_scheduler, which is stepped after each update.
        warmup: The number of updates, or a share of them below 1, in which a named schedule rises from 0 to the
            learning rate.
        clip_norm: The largest norm of all gradients together; larger gradients are scaled down.
        clip_value: The largest absolute value of an element of a gradient.
        accumulate: The number of batches whose gradients are averaged for one update.
        autocast: "bfloat16" or "float16": the precision of forward passes. float16 scales the loss with GradScaler.
        ema: The decay of an exponential moving average of the weights, in (0, 1); the averaged weights are evaluated.
        patience: The number of evaluations without a better metric after which a run ends. The run's result is that of
            its best evaluation.
        param_groups: A function of the model that returns param groups, or the parameters to train.
        freeze: Names of parameters or of modules (prefixes of parameter names) that are not trained.

    Example:
        >>> Loop(schedule="cosine", clip_norm=1.0)
        Loop(schedule='cosine', clip_norm=1.0)
    """

    schedule: str | Callable[[torch.optim.Optimizer, int], Any] = "constant"
    warmup: float = 0
    clip_norm: float | None = None
    clip_value: float | None = None
    accumulate: int = 1
    autocast: str | None = None
    ema: float | None = None
    patience: int | None = None
    param_groups: Callable[[torch.nn.Module], Iterable[Any]] | None = None
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not callable(self.schedule) and self.schedule not in SCHEDULES:
            raise InvalidValue(
                f"`schedule` must be one of {', '.join(SCHEDULES)}, or a function (optimizer, updates) that makes a "
                f"scheduler; received {self.schedule!r}. {did_you_mean(str(self.schedule), SCHEDULES)}"
            )
        Number(0.0).check("warmup", self.warmup)
        if self.warmup and callable(self.schedule):
            raise InvalidValue(
                "`warmup` is for a named schedule; received a function as `schedule`. Help: let the function warm up."
            )
        for name in ("clip_norm", "clip_value"):
            if getattr(self, name) is not None:
                Number(1.0, above=True).check(name, getattr(self, name))
        Integer(low=1).check("accumulate", self.accumulate)
        if self.autocast is not None and self.autocast not in PRECISIONS:
            raise InvalidValue(f"`autocast` must be bfloat16 or float16; received {self.autocast!r}.")
        if self.ema is not None:
            Number(0.99, above=True, high=1.0).check("ema", self.ema)
        if self.patience is not None:
            Integer(low=1).check("patience", self.patience)
        if self.param_groups is not None and not callable(self.param_groups):
            raise InvalidType(f"`param_groups` must be a function of the model; received {self.param_groups!r}.")
        if isinstance(self.freeze, str) or not all(isinstance(name, str) for name in self.freeze):
            raise InvalidType(f"`freeze` must be a list of names; received {self.freeze!r}.")
        object.__setattr__(self, "freeze", tuple(self.freeze))

    def __repr__(self) -> str:
        return f"Loop({self.options})"

    @property
    def options(self) -> str:
        """The options that differ from the defaults, as they are written in a call."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        changed = {f.name: values[f.name] for f in dataclasses.fields(self) if values[f.name] != f.default}
        return ", ".join(f"{name}={_spell(value)}" for name, value in changed.items())

    def updates(self, steps: int) -> int:
        """Return the number of updates in a run of `steps` steps; the batches left over at the end make one as well."""
        return -(-steps // self.accumulate)

    def new_scheduler(self, optimizer: torch.optim.Optimizer, updates: int) -> Any:
        """Return a scheduler for a run of this number of updates; None for a constant learning rate."""
        if callable(self.schedule):
            return self.schedule(optimizer, updates)
        if self.schedule == "constant" and not self.warmup:
            return None
        shape = SCHEDULES[self.schedule]
        warm = min(round(self.warmup * updates) if self.warmup < 1 else int(self.warmup), updates)

        def factor(done: int) -> float:
            return (done + 1) / warm if done < warm else shape((done - warm) / max(updates - warm, 1))

        return LambdaLR(optimizer, factor)

    def freeze_parts(self, model: torch.nn.Module) -> None:
        """Exclude the parameters named by `freeze` from training.

        Raises:
            InvalidValue: If a name is not in the model, or nothing is left to train.
        """
        parameters = dict(model.named_parameters())
        for prefix in self.freeze:
            chosen = [name for name in parameters if f"{name}.".startswith(f"{prefix}.")]
            if not chosen:
                known = [name for name, _ in model.named_modules() if name] + list(parameters)
                raise InvalidValue(
                    f"`freeze` names `{prefix}`, which is no part of the model. {did_you_mean(prefix, known)}"
                )
            for name in chosen:
                parameters[name].requires_grad_(False)
        if not any(p.requires_grad for p in parameters.values()):
            raise InvalidValue(f"`freeze` leaves no parameter to train; received {', '.join(self.freeze)}.")


def _spell(value: Any) -> str:
    """Return a value as it is written in a call: a function by its name, and `...` for one without a name."""
    if not callable(value):
        return repr(value)
    name = getattr(value, "__name__", "")
    return name if name.isidentifier() else "..."


PLAIN = Loop()
"""The loop without options."""


def find_loops(wanted: Any) -> dict[str, Loop]:
    """Loops by name, from None (the plain loop), one loop, or a dict.

    Raises:
        InvalidType: If something else is given.
    """
    if wanted is None or isinstance(wanted, Loop):
        return {"": wanted or PLAIN}
    if isinstance(wanted, Mapping) and wanted and all(isinstance(loop, Loop) for loop in wanted.values()):
        return {str(name): loop for name, loop in wanted.items()}
    raise InvalidType(
        f'`loop` must be a Loop, or a dict such as {{"plain": Loop(), "cosine": Loop(schedule="cosine")}}; '
        f"received {wanted!r}."
    )
