"""Schedules of any numeric option as closed forms of the step: an interrupted run resumes at the value of its step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch.optim.lr_scheduler import LRScheduler

from ..errors import InvalidType, InvalidValue, did_you_mean, nearest
from ..options import Choice, Integer, Number, Option, names_here
from .declaration import all_options
from .group_checks import SCHEDULER_KEYS
from .option_names import FOREIGN_NAMES
from .registry import OPTIMIZERS

__all__ = ["InverseSquareRootLR", "Schedule", "WarmupConstantLR", "WarmupCosineLR", "WarmupStableDecayLR"]


class Schedule(LRScheduler, ABC):
    """The base of schedules: the value of an option at a step is its initial value times `factor`.

    A schedule is an `LRScheduler` of torch.optim, for its optimizers and those of Piste. Call `step()` after each
    optimizer step. `get_last_lr` returns the learning rates, whatever the option; the values of another option are in
    the param groups.

    Args:
        optimizer: The optimizer.
        option: The name of the option: "lr", "weight_decay", or any other whose value is a number and may change from
            step to step.
        last_epoch: The number of steps done before the next one, less 1, as in torch.optim.

    Raises:
        InvalidType: `optimizer` is not an optimizer, or `option` is not a string.
        InvalidValue: A param group lacks the option, or its value is not a number, or stays the same in all steps, such
            as `rounding_seed`.

    Example:
        >>> import torch, piste
        >>> from piste.optim.lr_scheduler import WarmupCosineLR
        >>> optimizer = piste.optim.AdamW([torch.ones(1, requires_grad=True)], lr=0.1, weight_decay=0.5)
        >>> schedule = WarmupCosineLR(optimizer, total_steps=10, warmup_steps=2, option="weight_decay")
        >>> optimizer.param_groups[0]["weight_decay"]
        0.25
    """

    _numbers: ClassVar[dict[str, Option]] = {}

    def __init__(self, optimizer: torch.optim.Optimizer, option: str = "lr", last_epoch: int = -1) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise InvalidType(f"`optimizer` must be a torch.optim.Optimizer; received {type(optimizer).__name__}.")
        if not isinstance(option, str):
            raise InvalidType(
                f'`option` must be the name of an option, such as "weight_decay"; received {option!r} of type '
                f"{type(option).__name__}."
            )
        for index, group in enumerate(optimizer.param_groups):
            constant = _constant_options(type(optimizer), group)
            if not _is_number(group.get(option)) or option in constant:
                raise _refusal_of_option(option, group, index, type(optimizer).__name__, constant)
            if last_epoch != -1 and f"initial_{option}" not in group:
                raise InvalidValue(
                    f"`last_epoch` above -1 resumes a schedule, whose initial value is in the param group as "
                    f"`initial_{option}`; param group {index} has none. Help: load the optimizer's checkpoint first."
                )
        for group in optimizer.param_groups:
            group.setdefault(f"initial_{option}", float(group[option]))
        self.option = option
        self.initial_values = [float(group[f"initial_{option}"]) for group in optimizer.param_groups]
        super().__init__(optimizer, last_epoch)

    @abstractmethod
    def factor(self, step: int) -> float:
        """Return the factor of a step.

        Args:
            step: The number of steps done before, so that 0 is the first step.
        """

    def get_lr(self) -> list[Any]:
        """Return the learning rates of the next step; another option is set in the param groups."""
        groups = self.optimizer.param_groups
        values = [value * self.factor(max(self.last_epoch, 0)) for value in self.initial_values]
        if self.option == "lr":
            return values
        for group, value in zip(groups, values, strict=True):
            if isinstance(group[self.option], torch.Tensor):
                group[self.option].fill_(value)
            else:
                group[self.option] = value
        return [group["lr"] for group in groups]

    def get_last_lr(self) -> list[Any]:
        """Return the learning rates of the param groups at the last `step()`, as every scheduler of torch does.

        The values of another option are in the param groups: `[group["weight_decay"] for group in
        optimizer.param_groups]`.
        """
        return super().get_last_lr()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state, and set the option to its value at the step of the state.

        Args:
            state_dict: The result of `state_dict()`.
        """
        super().load_state_dict(state_dict)
        for group, value in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(value)
            else:
                group["lr"] = value

    def _check(self, **values: Any) -> None:
        """Check numbers against their ranges and keep them."""
        for name, value in values.items():
            self._numbers[name].check(name, value)
            setattr(self, name, value)

    def _warmed(self, step: int) -> float:
        """Return the share of the warmup that is done at a step: 1 / warmup_steps at the first, 1 at the last."""
        return min((step + 1) / max(self.warmup_steps, 1), 1.0)

    warmup_steps: int
    total_steps: int


_STEPS = Integer(1, "the number of optimizer steps", low=1)
_WARMUP = Integer(0, "the number of steps that rise linearly", low=0)
_FLOOR = Number(0.0, "the factor of the last step and of later ones", high=1.0, closed=True)


class WarmupCosineLR(Schedule):
    """A linear warmup, and half a cosine that falls to a floor.

    Args:
        optimizer: The optimizer.
        total_steps: The number of optimizer steps. The last has the factor `floor`, as have later ones.
        warmup_steps: The number of steps that rise linearly, from 1 / warmup_steps to 1.
        floor: The factor of the last step, in [0, 1].
        option: The name of the option.
        last_epoch: As in torch.optim.

    Raises:
        InvalidType: An argument is of the wrong type.
        InvalidValue: An argument is out of its range, or the option is not a number.

    Example:
        >>> import torch, piste
        >>> from piste.optim.lr_scheduler import WarmupCosineLR
        >>> optimizer = piste.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
        >>> schedule = WarmupCosineLR(optimizer, total_steps=6, warmup_steps=2, floor=0.1)
        >>> [round(schedule.factor(t), 3) for t in range(6)]
        [0.5, 1.0, 0.868, 0.55, 0.232, 0.1]
    """

    _numbers = {"total_steps": _STEPS, "warmup_steps": _WARMUP, "floor": _FLOOR}
    floor: float

    def __init__(
        self, optimizer: torch.optim.Optimizer, total_steps: int, warmup_steps: int = 0, floor: float = 0.0,
        option: str = "lr", last_epoch: int = -1,
    ) -> None:  # fmt: skip
        self._check(total_steps=total_steps, warmup_steps=warmup_steps, floor=floor)
        _check_order(total_steps, warmup_steps=warmup_steps)
        super().__init__(optimizer, option, last_epoch)

    def factor(self, step: int) -> float:
        """Return the factor of a step, which is 0 for the first."""
        done = _share(step + 1, max(self.warmup_steps, 1), self.total_steps)
        return self._warmed(step) if done <= 0 else _fall("cosine", done, self.floor)


class WarmupStableDecayLR(Schedule):
    """A linear warmup, a constant value, and a tail that falls to a floor (WSD; Hu et al. 2024, arXiv 2404.06395).

    The tail "1-sqrt" is that of Haegele et al. 2024, arXiv 2405.18392.

    Args:
        optimizer: The optimizer.
        total_steps: The number of optimizer steps. The last has the factor `floor`, as have later ones.
        warmup_steps: The number of steps that rise linearly, from 1 / warmup_steps to 1.
        decay_steps: The number of steps of the tail.
        tail: The form of the tail: "linear", "cosine" or "1-sqrt".
        floor: The factor of the last step, in [0, 1].
        option: The name of the option.
        last_epoch: As in torch.optim.

    Raises:
        InvalidType: An argument is of the wrong type.
        InvalidValue: An argument is out of its range, or the option is not a number.

    Example:
        >>> import torch, piste
        >>> from piste.optim.lr_scheduler import WarmupStableDecayLR
        >>> optimizer = piste.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
        >>> schedule = WarmupStableDecayLR(optimizer, total_steps=8, warmup_steps=2, decay_steps=4)
        >>> [round(schedule.factor(t), 3) for t in range(8)]
        [0.5, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """

    _numbers = {
        "total_steps": _STEPS,
        "warmup_steps": _WARMUP,
        "decay_steps": Integer(1, "the number of steps of the tail", low=1),
        "tail": Choice("linear", ("linear", "cosine", "1-sqrt"), "the form of the tail"),
        "floor": _FLOOR,
    }
    decay_steps: int
    tail: str
    floor: float

    def __init__(
        self, optimizer: torch.optim.Optimizer, total_steps: int, warmup_steps: int, decay_steps: int,
        tail: str = "linear", floor: float = 0.0, option: str = "lr", last_epoch: int = -1,
    ) -> None:  # fmt: skip
        self._check(total_steps=total_steps, warmup_steps=warmup_steps, decay_steps=decay_steps, tail=tail, floor=floor)
        _check_order(total_steps, warmup_steps=warmup_steps, decay_steps=decay_steps)
        super().__init__(optimizer, option, last_epoch)

    def factor(self, step: int) -> float:
        """Return the factor of a step, which is 0 for the first."""
        done = _share(step + 1, self.total_steps - self.decay_steps, self.total_steps)
        return self._warmed(step) if done <= 0 else _fall(self.tail, done, self.floor)


class WarmupConstantLR(Schedule):
    """A linear warmup, and a constant value.

    Args:
        optimizer: The optimizer.
        warmup_steps: The number of steps that rise linearly, from 1 / warmup_steps to 1.
        option: The name of the option.
        last_epoch: As in torch.optim.

    Raises:
        InvalidType: An argument is of the wrong type.
        InvalidValue: An argument is out of its range, or the option is not a number.

    Example:
        >>> import torch, piste
        >>> from piste.optim.lr_scheduler import WarmupConstantLR
        >>> optimizer = piste.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
        >>> schedule = WarmupConstantLR(optimizer, warmup_steps=4)
        >>> [schedule.factor(t) for t in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    _numbers = {"warmup_steps": _WARMUP}

    def __init__(
        self, optimizer: torch.optim.Optimizer, warmup_steps: int, option: str = "lr", last_epoch: int = -1
    ) -> None:
        self._check(warmup_steps=warmup_steps)
        super().__init__(optimizer, option, last_epoch)

    def factor(self, step: int) -> float:
        """Return the factor of a step, which is 0 for the first."""
        return self._warmed(step)


class InverseSquareRootLR(Schedule):
    """A linear warmup, and sqrt(warmup_steps / step) (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

    Args:
        optimizer: The optimizer.
        warmup_steps: The number of steps that rise linearly, at least 1.
        option: The name of the option.
        last_epoch: As in torch.optim.

    Raises:
        InvalidType: An argument is of the wrong type.
        InvalidValue: An argument is out of its range, or the option is not a number.

    Example:
        >>> import torch, piste
        >>> from piste.optim.lr_scheduler import InverseSquareRootLR
        >>> optimizer = piste.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
        >>> schedule = InverseSquareRootLR(optimizer, warmup_steps=4)
        >>> schedule.factor(0), schedule.factor(3), schedule.factor(15)
        (0.25, 1.0, 0.5)
    """

    _numbers = {"warmup_steps": Integer(1, "the number of steps that rise linearly", low=1)}

    def __init__(
        self, optimizer: torch.optim.Optimizer, warmup_steps: int, option: str = "lr", last_epoch: int = -1
    ) -> None:
        self._check(warmup_steps=warmup_steps)
        super().__init__(optimizer, option, last_epoch)

    def factor(self, step: int) -> float:
        """Return the factor of a step, which is 0 for the first."""
        return self._warmed(step) * min(1.0, math.sqrt(self.warmup_steps / (step + 1)))


def _share(position: int, start: int, end: int) -> float:
    """Return the part of the way from start to end, at most 1, and at most 0 before the start."""
    return min((position - start) / max(end - start, 1), 1.0)


def _fall(tail: str, done: float, floor: float) -> float:
    """Return the factor between 1 and the floor where a part of a tail is done."""
    left = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "1-sqrt": 1 - math.sqrt(done)}[tail]
    return floor + (1 - floor) * left


def _check_order(total_steps: int, **parts: int) -> None:
    if sum(parts.values()) > total_steps:
        named = " + ".join(f"`{name}`" for name in parts)
        given = ", ".join(f"{name}={value}" for name, value in parts.items())
        raise InvalidValue(f"{named} must not exceed `total_steps`; received {given}, total_steps={total_steps}.")


def _constant_options(optimizer: Any, group: dict[str, Any]) -> set[str]:
    """Return the numbers of a param group that no schedule changes, of an optimizer of Piste or of torch.optim.

    They are counts and seeds, first values of the state, numbers that steps or other schedules write, and the largest
    learning rate.
    """
    written = {name for name in group if name in SCHEDULER_KEYS or name.startswith("initial_")}
    named = optimizer if hasattr(optimizer, "rule_of") else OPTIMIZERS.get(optimizer.__name__)
    if named is None:
        return written
    rule = named.rule_of(group)
    whole = {name for name, option in all_options(rule).items() if isinstance(option, Integer)}
    starts = {*rule.group_state.values(), *(b.start for b in (*rule.buffers.values(), *rule.counters.values()))}
    return written | whole | (starts & rule.options.keys() - {"lr"}) | {*rule.group_state, "lr_max"}


def _refusal_of_option(
    option: str, group: dict[str, Any], index: int, optimizer: str, constant: set[str]
) -> InvalidValue:
    """Return the error for an option that a param group lacks, that stays as it is, or whose value is not a number."""
    numeric = [name for name, value in group.items() if _is_number(value) and name not in constant]
    allowed, where = ", ".join(numeric), f"param group {index} of {optimizer}"
    if option in constant and option in group:
        return InvalidValue(
            f"`option` must name a numeric option of every param group ({allowed}); received {option!r}, which no "
            "schedule may change."
        )
    if option in group:
        return InvalidValue(
            f"`option` must name a numeric option of every param group ({allowed}); received {option!r}, which is "
            f"{group[option]!r} in {where}."
        )
    words = names_here(option, FOREIGN_NAMES, numeric)
    help = f" PyTorch calls it `{words[0]}`." if words else ""
    if not words and nearest(option, numeric):
        help = f" {did_you_mean(option, numeric)}"
    return InvalidValue(
        f"`option` must name a numeric option of every param group ({allowed}); received {option!r}, but {where} has "
        f"no such option.{help}"
    )


def _is_number(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() == 1
    return isinstance(value, (int, float)) and not isinstance(value, bool)
