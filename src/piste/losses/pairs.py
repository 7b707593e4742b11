"""The base of losses that compare vectors with all others of a batch. The matrix of scores is never stored whole."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..engine import compute_dtype, decline
from ..errors import InvalidValue, PisteError
from ..options import Factor, Flag, Integer, Option
from .call import PreparedCall
from .embeddings import check_vectors
from .loss import Loss
from .reduction import Reduction
from .value_checks import check_nan, common_dtype, is_readable, shape_of

__all__ = ["BIAS", "PAIRS", "SCALE", "PairLoss", "as_rows", "own_column", "temperature"]

PAIRS: dict[str, Option] = {
    "normalize": Flag(True, "whether the vectors are divided by their lengths, so that scores are cosines"),
    "chunk_size": Integer(
        None, "the number of rows that are scored together; None for 4 million scores", low=1, optional=True
    ),
}
SCALE, BIAS = Factor(1.0, above=True), Factor(0.0, low=-math.inf)


def temperature(default: float) -> Factor:
    """Return the option `temperature` with a default."""
    return Factor(default, "the divisor of the scores; a tensor receives a gradient", above=True)


class PairLoss(Loss):
    """A loss of vectors that are compared with all others of a batch.

    `prepare` computes the score of each positive pair and reduces the scores of its negatives; the formula is of these.
    """

    formula: ClassVar[Any]
    derivatives: ClassVar[Any]

    @classmethod
    def why_no_operator(cls, operands: tuple[Any, ...], check: str, **options: Any) -> str | None:
        """Return None: the operator scores the pairs in chunks."""
        cls.prepare(operands, check, **options)
        return None

    @classmethod
    def vectors(cls, names: tuple[str, ...], operands: tuple[Any, ...], check: str, normalize: bool) -> list[Tensor]:
        """Return valid vectors (N, D) in the dtype of the computation; of length 1 with `normalize`."""
        dtype = check_vectors(cls.__name__, names, operands)
        if operands[0].dim() != 2:
            raise InvalidValue(
                f"{cls.__name__}: `{names[0]}` must be (N, D), a vector for each sample; received "
                f"{shape_of(operands[0])}. Help: {_how_to_flatten(names[0], operands[0])}."
            )
        if check == "nan" and is_readable(operands):
            for name, x in zip(names, operands, strict=True):
                check_nan(cls.__name__, name, x)
        return [as_rows(x, compute_dtype(dtype), normalize) for x in operands]

    @classmethod
    def factor(cls, name: str, option: Factor, value: Any, like: Tensor, check: str) -> Tensor:
        """Return a factor of the scores as a 0-dimensional tensor.

        Args:
            name: The name of the argument.
            option: Its range.
            value: A number or a tensor.
            like: The vectors, whose dtype and device it gets.
            check: The setting of the loss; values on another device than the CPU are not read.
        """
        if isinstance(value, Tensor):
            if value.numel() != 1 or not value.is_floating_point():
                raise InvalidValue(
                    f"{cls.__name__}: `{name}` must be a floating-point tensor of one number; received {value.dtype} "
                    f"of shape {shape_of(value)}."
                )
            if check != "off" and value.device.type == "cpu" and is_readable((value,)):
                cls._check_number(name, option, value.item())
            return value.reshape(()).to(like)
        cls._check_number(name, option, value)
        return like.new_full((), value)

    @classmethod
    def _check_number(cls, name: str, option: Factor, number: Any) -> None:
        try:
            option.check(name, number)
        except PisteError as error:
            help = f" Help: {name} is the factor itself: pass the exponential of its logarithm."
            raise type(error)(f"{cls.__name__}: {error}{help if name == 'logit_scale' else ''}") from None

    @classmethod
    def check_has_negatives(cls, names: tuple[str, ...], x: Tensor, check: str) -> None:
        """Raise for a batch of one pair."""
        if x.shape[0] == 1 and check != "off":
            raise InvalidValue(
                f"{cls.__name__}: `{names[0]}` must have at least 2 rows; received {shape_of(x)}. Help: the other rows "
                "of the batch are the negatives, without which the loss is 0 whatever the vectors."
            )

    @classmethod
    def call_of(cls, operands: tuple[Tensor, ...], given: tuple[Tensor, ...]) -> PreparedCall:
        """Return the scores of pairs as a call of the formula.

        Args:
            operands: The score of each positive pair, and the reductions of the scores of its negatives.
            given: The vectors of the call.
        """
        number, dtype = operands[0].shape[0], common_dtype([x.dtype for x in given])
        return PreparedCall(
            cls.formula, operands, {}, dtype, lambda: number, lambda: number, "count", derivatives=cls.derivatives
        )

    @classmethod
    def by_kernel(cls, call: PreparedCall, reduction: Reduction, check: str) -> Tensor | None:
        """Return None: there are few scores of positive pairs."""
        return decline("all pairs are scored by torch operations, in chunks")


def as_rows(x: Tensor, dtype: torch.dtype, normalize: bool) -> Tensor:
    """Return vectors in a dtype; of length 1 with `normalize`."""
    x = x.to(dtype)
    return torch.nn.functional.normalize(x, dim=-1) if normalize else x


def _how_to_flatten(name: str, x: Tensor) -> str:
    return f"{name}.flatten(1)" if x.dim() > 2 else f"{name}.unsqueeze(0) is one sample; the others are its negatives"


def own_column(x: Tensor) -> Tensor:
    """Return the column of the positive pair of each row (N, 1)."""
    return torch.arange(x.shape[0], device=x.device).unsqueeze(1)
