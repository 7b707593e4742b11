"""The split of each seed: the task, the data and the metrics that its runs use."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import InvalidValue, english
from .candidates import Candidate
from .data import Data
from .metrics import Metric
from .task import Task

SPLITS = ("seeds", "fixed")
"""The values of `split`: every seed draws its own split, or all use one."""


@dataclasses.dataclass(frozen=True)
class Part:
    """The task, the data and the metrics of the runs with one seed."""

    task: Task
    data: Data
    metric: Metric
    also: Sequence[Metric] = ()

    def candidate(self, candidate: Candidate, first: Task) -> Candidate:
        """Return the candidate with the loss of this split, where the loss comes from the task.

        Args:
            candidate: The candidate of the plan.
            first: The task of the first seed, with which the candidate was made.
        """
        name, own = candidate.loss, self.task.loss
        if not isinstance(own, Mapping) or not isinstance(first.loss, Mapping):
            return candidate
        if isinstance(own.get(name), str) or candidate.loss_function is not first.loss.get(name):
            return candidate
        return dataclasses.replace(candidate, loss_function=own[name])

    def of_seed(self, seed: int) -> Part:
        """Return the part of another seed.

        Raises:
            InvalidValue: If the rows can't be split with this seed.
        """
        try:
            task = self.task.of_seed(seed)
            data = open_data(task, task.new_model(seed))
        except InvalidValue as error:
            raise InvalidValue(
                f"the split of seed {seed} is not possible: {english(error).rstrip('.')}. Help: keep one split with "
                f"--split fixed (split=)."
            ) from error
        data.evaluated_examples = self.data.evaluated_examples  # so that all runs are evaluated at the same steps
        task.initialize_with(data.training_sample[0])
        metric, *also = (self.task.metric_in(task, known) for known in (self.metric, *self.also))
        return Part(task, data, metric, also)


def open_data(task: Task, model: torch.nn.Module) -> Data:
    """Return the data of a task, on the device of its model."""
    return Data(
        task.train, task.validation, task.batch_size, next(model.parameters()).device, task.objective,
        skips_single=any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in model.modules()),
        examples=task.examples,
    )  # fmt: skip


def choose_split(task: Task, split: Any, seed: int) -> Task:
    """Return the task with the split of the first seed, or with one split for all seeds.

    Args:
        task: The task.
        split: "seeds", "fixed", or None for "seeds" where the task can be split.
        seed: The first seed.

    Raises:
        InvalidValue: If `split` is unknown, or the data comes with a split.
    """
    if split is not None and split not in SPLITS:
        raise InvalidValue(f"`split` must be one of {', '.join(SPLITS)}; received {split!r}.")
    if split == "seeds" and task.resplit is None:
        raise InvalidValue(
            f"`split` must be fixed for {task.name}, whose training and validation data are given; received 'seeds'. "
            f"Help: omit it."
        )
    if split != "fixed":
        return task.of_seed(seed)
    fixed = copy.copy(task)
    fixed.resplit = fixed.examples = None
    return fixed
