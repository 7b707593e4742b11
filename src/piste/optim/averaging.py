"""Optimizers whose result is an average of the trained weights: `with optimizer.averaged():` puts it in place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.swa_utils import update_bn

from ..engine import caller_level
from ..errors import InvalidValue, Unsupported
from ..translation import translate
from .checkpoint import KEY
from .shards import part_of

__all__ = ["AveragedWeights"]


class AveragedWeights:
    """The side of averaged weights x of an optimizer whose parameters are y = (1 - beta) z + beta x, with state `z`."""

    refused: ClassVar[Mapping[str, str]] = {
        "cautious": "its state and its weights move by the same step",
        "decoupled_decay": "its weights are an average, which the decay would have to follow",
    }
    # torch.distributed.checkpoint keeps the param groups and drops the entry `piste`; the name is the authors'
    group_constants: ClassVar[Mapping[str, Any]] = {"train_mode": True}
    _is_averaged = False
    _resumed: Sequence[tuple[torch.Tensor, int]] = ()  # parameters that loading made the trained ones, with their sums

    @contextmanager
    def averaged(self, model: nn.Module | None = None, batches: Iterable[Any] | None = None) -> Iterator[None]:
        """Put the averaged weights in place of those that are trained, until the context ends.

        Evaluate and save a model in this context. `state_dict()` says which weights the parameters are: its entry
        `piste` has `weights`, "averaged" or "training", and its param groups `train_mode`, False or True.

        Args:
            model: The model, whose batch normalization has statistics of the trained weights. Its statistics are those
                of the averaged weights in the context, and as before after it.
            batches: The batches from which they are computed, as `torch.optim.swa_utils.update_bn` takes them.

        Raises:
            InvalidValue: One of `model` and `batches` is missing.
            Unsupported: The context is entered twice.

        Example:
            >>> import torch, piste
            >>> w = torch.tensor([1.0], requires_grad=True)
            >>> optimizer = piste.optim.ScheduleFreeSGD([w], lr=0.1)
            >>> for _ in range(3):
            ...     w.grad = torch.ones(1)
            ...     optimizer.step()
            >>> with optimizer.averaged():
            ...     print(w)
            tensor([0.8000], requires_grad=True)
            >>> w
            tensor([0.7900], requires_grad=True)
        """
        name = type(self).__name__
        if (model is None) != (batches is None):
            raise InvalidValue(
                f"{name}.averaged takes `model` and `batches` together, for the statistics of batch normalization; "
                f"received `{'model' if batches is None else 'batches'}` alone."
            )
        if any(beta == 0 for _, _, beta in self._averages()):
            raise InvalidValue(
                f"{name}.averaged needs a weight of the average above 0 in the trained weights, from which it computes "
                "the average; received 0. Help: momentum=0.9, or betas=(0.9, 0.999)."
            )
        if self._is_averaged:
            raise Unsupported(f"{name}.averaged() is entered already. Help: end its context first.")
        self._warn_of_later_weights()
        trained = [(p, p.detach().clone()) for p, _, _ in self._averages()]
        buffers = [(b, b.clone()) for b in _statistics(model)]
        self._set_averaged(True)
        try:
            with torch.no_grad():
                for p, z, beta in self._averages():
                    p.lerp_(z.to(p.dtype), 1 - 1 / beta)
            if model is not None and batches is not None:
                update_bn(batches, model)
            yield
        finally:
            self._set_averaged(False)
            with torch.no_grad():
                for x, value in (*trained, *buffers):
                    x.copy_(value)

    def _set_averaged(self, is_averaged: bool) -> None:
        """Note which weights the parameters are, in the param groups too."""
        optimizer: Any = self
        self._is_averaged = is_averaged
        for group in optimizer.param_groups:
            group["train_mode"] = not is_averaged

    def _averages(self) -> Iterator[tuple[Any, Any, float]]:
        """Yield the parameters that have been stepped, with z and beta."""
        optimizer: Any = self
        for group in optimizer.param_groups:
            beta = optimizer._beta_of_average(group)
            for p in group["params"]:
                if "z" in optimizer._state.get(p, {}):
                    yield p, optimizer._state[p]["z"], beta

    def state_dict(self) -> dict[str, Any]:
        """Return the state and the options of all groups, and which weights the parameters are."""
        self._warn_of_later_weights()
        state: dict[str, Any] = super().state_dict()  # type: ignore[misc]
        state[KEY]["weights"] = "averaged" if self._is_averaged else "training"
        return state

    def load_state_dict(self, state_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Load a checkpoint; if it was saved with averaged weights, the parameters become the trained ones.

        Load the model's weights first. Weights that are set later lead to a warning at the next use: a step can't
        correct them, because its gradient is that of the averaged weights by then.

        Args:
            state_dict: The result of `state_dict()`.
            *args: As in `Optimizer.load_state_dict`.
            **kwargs: As in `Optimizer.load_state_dict`.

        Raises:
            InvalidType, InvalidValue: As in `Optimizer.load_state_dict`.
            Unsupported: The averaged weights are in place.
        """
        if self._is_averaged:
            raise Unsupported(
                f"{type(self).__name__}.load_state_dict() replaces the weights that are trained, and the averaged ones "
                "are in place. Help: call it outside of averaged()."
            )
        super().load_state_dict(state_dict, *args, **kwargs)  # type: ignore[misc]
        self._resumed = ()
        groups_are_averaged = any(group.get("train_mode") is False for group in state_dict["param_groups"])
        if groups_are_averaged or state_dict.get(KEY, {}).get("weights") == "averaged":
            with torch.no_grad():
                for p, z, beta in self._averages():
                    p.lerp_(z.to(p.dtype), 1 - beta)
            self._resumed = [(p, _sum_of_bits(p)) for p, _, _ in self._averages()]

    def step_in_backward(self) -> AbstractContextManager[None]:
        """Step each parameter within a backward pass, as `Optimizer.step_in_backward` does.

        Raises:
            Unsupported: As in `Optimizer.step_in_backward`, or the averaged weights are in place.
        """
        self._check_side("step_in_backward")
        context: AbstractContextManager[None] = super().step_in_backward()  # type: ignore[misc]
        return context

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        self._check_side("step")
        return super()._step(closure)  # type: ignore[misc]

    def _check_side(self, method: str) -> None:
        """Raise in `averaged()`, and warn of weights that were set after an averaged state was loaded."""
        if self._is_averaged:
            raise Unsupported(
                f"{type(self).__name__}.{method}() trains other weights than the averaged ones, which are in place. "
                "Help: step outside of averaged()."
            )
        if not torch.compiler.is_compiling():
            self._warn_of_later_weights()

    def _warn_of_later_weights(self) -> None:
        """Warn once if parameters that loading made the trained ones have other values by now.

        `set_state_dict` of torch.distributed.checkpoint copies parameters that were loaded in place onto themselves, so
        the values tell, not the fact that they were set.
        """
        resumed, self._resumed = self._resumed, ()
        if any(_sum_of_bits(p) != known for p, known in resumed):
            warnings.warn(
                translate(
                    f"{type(self).__name__}.load_state_dict() computed the trained weights from averaged ones, and "
                    "the weights were set after it; they may be the averaged ones, which the optimizer takes for the "
                    "trained ones. Help: load the model before the optimizer, by set_model_state_dict() and "
                    "set_optimizer_state_dict() in place of set_state_dict(), or save outside of averaged()."
                ),
                stacklevel=caller_level(),
            )


def _sum_of_bits(p: torch.Tensor) -> int:
    """Return a number that tells the values of a parameter, or of its part on this process, from others."""
    part = part_of(p).detach()
    return int((torch.view_as_real(part) if part.is_complex() else part).reshape(-1).view(torch.int16).sum())


def _statistics(model: nn.Module | None) -> list[torch.Tensor]:
    """Return the buffers of batch normalization."""
    if model is None:
        return []
    return [b for m in model.modules() if isinstance(m, _NormBase) for b in m.buffers(recurse=False)]
