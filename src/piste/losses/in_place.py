"""Losses whose gradient replaces the input in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..engine import decline, explain
from ..errors import Unsupported
from ..torch_internals import storage_owners
from .reduction import Reduction
from .rowwise import RowwiseLoss

__all__ = ["InPlace", "wants_gradient"]


def wants_gradient(x: Any) -> bool:
    """Return whether autograd records operations on an operand."""
    return isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled()


class InPlace(RowwiseLoss):
    """A loss of rows with the option `inplace`."""

    @classmethod
    def compute_in_place(cls, operands: tuple[Any, ...], reduction: Reduction, check: str, **options: Any) -> Tensor:
        """Return the loss by a kernel whose gradient replaces the input; raise where something else needs the input."""
        result = cls._try_in_place(operands, reduction, check, **options)
        if result is not None:
            return result
        call = cls.prepare(operands, check, **options)  # raises for values out of range
        if not call.count():
            return cls.eager_value(call, reduction)  # there is no gradient to compute

        def try_again() -> Tensor | None:
            return cls._try_in_place(operands, reduction, "nan" if check == "nan" else "off", **options)

        if check == "raise":
            result = try_again()
        if result is None:
            raise Unsupported(
                f"{cls.__name__}: `inplace=True` requires a kernel; received operands whose loss is computed "
                f"{explain(try_again)}. Help: inplace=False."
            )
        return result

    @classmethod
    def _try_in_place(
        cls, operands: tuple[Any, ...], reduction: Reduction, check: str, **options: Any
    ) -> Tensor | None:
        """Return the loss by a kernel that takes the operands, or None."""
        if not cls.tries_kernel(check):
            return None
        cls._check_replaceable(operands[0])
        rows = cls.rows(operands, check, **options)
        if rows.obstacle is not None:
            return decline(rows.obstacle)
        target = cls._dispatcher(rows, reduction, check)
        if target is None:
            return None
        given = tuple([x for x in rows.operands if x is not None])
        return target[0].loss(given, target[1]._replace(in_place=True))

    @classmethod
    def _check_replaceable(cls, x: Tensor) -> None:
        """Raise for an input whose values something else needs, as far as autograd and the memory show."""
        base = x._base
        if x.is_leaf or (base is not None and base.is_leaf and base.requires_grad):
            raise Unsupported(
                f"{cls.__name__}: `inplace=True` replaces the values of `input`, which must be computed by a model; "
                f"received a leaf or a view of one, whose values are parameters. Help: inplace=False."
            )
        owners = storage_owners(x)
        others = 0 if owners is None else owners - 1 - (base is not None)
        if others > 0:
            raise Unsupported(
                f"{cls.__name__}: `inplace=True` replaces the values of `input`, which no other tensor may share; "
                f"received an `input` whose memory is shared by {others} more: views of it, or results that autograd "
                "saved. Help: inplace=False."
            )
