"""Losses of vectors that belong together among all of a batch: InfoNCE and NT-Xent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..engine import PairReduction, full_precision, reduce_pairs
from ..errors import InvalidType, InvalidValue
from ..formula.words import sigmoid
from ..options import Flag, TensorOption
from .call import PreparedCall
from .pairs import PAIRS, SCALE, PairLoss, as_rows, own_column, temperature
from .reduction import SETTINGS
from .value_checks import check_nan, check_same_device, is_readable, shape_of
from .words import softplus

__all__ = ["InfoNCELoss", "NTXentLoss"]


class InfoNCELoss(PairLoss):
    """-log(e^p / (e^p + sum e^s)) of each query, with its score p of its key and s of the negatives (Oord et al. 2018).

    From https://arxiv.org/abs/1807.03748. A score is the cosine of two vectors (their product with normalize=False)
    over `temperature`. The negatives of a query are the keys of the other queries, or `negatives` in their place, which
    a call takes as a third operand too. With `symmetric` the loss of a pair is the mean of this one and of that in
    which the key is the query. A mean divides by the number of queries.

    Scores are computed for `chunk_size` queries at a time, and in the backward pass again. Second derivatives, forward
    mode and torch.func store all of them.

    Shape:
        query: (N, D), floating. 16-bit floats are computed in float32 and rounded once.
        key: That of `query`.
        negatives: (M, D), the same for all queries; or (N, M, D), some for each.
        Returns a 0-dimensional tensor, or (N) with reduction="none".

    Raises:
        InvalidValue: A batch of one pair has no negatives, the temperature is not above 0 (both unless check="off"; a
            tensor on a GPU is not read), or the shapes or the devices do not fit.
        InvalidType: An operand is no floating tensor.

    Differs from torch: torch has no such loss. cross_entropy(query @ key.T / temperature, arange(N)) of vectors of
    length 1 has the same values.

    Example:
        >>> import torch, piste
        >>> query, key = torch.tensor([[1., 0.], [0., 1.]]), torch.tensor([[1., 1.], [0., 2.]])
        >>> piste.losses.InfoNCELoss(temperature=1.0)(query, key)
        tensor(0.4791)
    """

    name, functional_name, aliases = "info_nce", "info_nce_loss", ("infonce",)
    arguments = ("query", "key")
    options = {
        "temperature": temperature(0.1),
        "negatives": TensorOption("the vectors of the negatives; None for the keys of the other queries"),
        "symmetric": Flag(False, "whether keys are queries too"),
        **PAIRS,
    }
    signature = "temperature, reduction, negatives, symmetric, normalize, chunk_size"
    elsewhere = {
        "negative_mode": 'The shape of `negatives` says it: (M, D) is "unpaired", and (N, M, D) is "paired".',
    }
    expects = "vectors that belong together, both (N, D)"
    example = "torch.randn(4, 8), torch.randn(4, 8)"
    symbols = {
        "p": "the score of query and key",
        "n": "the log-sum-exp of the scores of the query and its negatives",
        "m": "that of the key and the other queries",
    }

    def forward(self, *operands: Any, negatives: Tensor | None = None, **named_operands: Any) -> Tensor:
        """Return the loss of queries and keys, with negatives of this call or those of the module."""
        if len(operands) == 3:
            *operands, negatives = operands  # type: ignore[assignment]
        if negatives is None:
            return super().forward(*operands, **named_operands)
        given = {name: getattr(self, name) for name in (*self._options, "reduction", *SETTINGS)}
        return self.run(self._bind_operands(tuple(operands), named_operands), given | {"negatives": negatives})

    def formula(p, n, m=None):
        z = n - p
        return softplus(z) if m is None else (softplus(z) + softplus(m - p)) / 2

    def derivatives(p, n, m=None):
        s = sigmoid(n - p)
        if m is None:
            return -s, s
        r = sigmoid(m - p)
        return -(s + r) / 2, s / 2, r / 2

    @classmethod
    def prepare(
        cls,
        operands: tuple[Any, ...],
        check: str,
        *,
        temperature: Any = 0.1,
        negatives: Tensor | None = None,
        symmetric: bool = False,
        normalize: bool = True,
        chunk_size: int | None = None,
        **options: Any,
    ) -> PreparedCall:
        """Return the score of each pair, and the log-sum-exp of those of its negatives."""
        a, b = cls.vectors(cls.arguments, operands, check, normalize)
        scale = 1 / cls.factor("temperature", SCALE, temperature, a, check)
        p = scale * (a * b).sum(-1)
        how = PairReduction(both=symmetric, chunk=chunk_size)
        if negatives is None:
            cls.check_has_negatives(cls.arguments, a, check)
            return cls.call_of((p, *reduce_pairs(a, b, scale, None, own_column(a), how)), operands)
        cls._check_negatives(negatives, operands[0], symmetric, check)
        c = as_rows(negatives, a.dtype, normalize)
        if c.dim() == 2:
            (n,) = reduce_pairs(a, c, scale, None, None, how)
        else:
            with full_precision(a):
                n = (scale * torch.einsum("nd,nmd->nm", a, c)).logsumexp(1)
        return cls.call_of((p, n), (*operands, negatives))

    @classmethod
    def _check_negatives(cls, negatives: Tensor, query: Tensor, symmetric: bool, check: str) -> None:
        if symmetric:
            raise InvalidValue(
                "InfoNCELoss: `symmetric` takes the negatives from the batch; received `negatives` with it. "
                "Help: leave one of them out."
            )
        check_same_device("InfoNCELoss", ("query", "negatives"), (query, negatives))
        (n, d), shape = query.shape, negatives.shape
        if not negatives.is_floating_point():
            raise InvalidType(
                f"InfoNCELoss: `negatives` must hold floating-point vectors; received {negatives.dtype}. "
                "Help: negatives.float()."
            )
        if negatives.dim() not in (2, 3) or shape[-1] != d or (negatives.dim() == 3 and shape[0] != n):
            raise InvalidValue(
                f"InfoNCELoss: `negatives` must be (M, {d}), the same for all queries, or ({n}, M, {d}), some for "
                f"each; received {shape_of(negatives)}."
            )
        if shape[-2] == 0 and check != "off":
            raise InvalidValue("InfoNCELoss: `negatives` must have at least 1 vector; received none.")
        if check == "nan" and is_readable((negatives,)):
            check_nan("InfoNCELoss", "negatives", negatives)


class NTXentLoss(PairLoss):
    """-log(e^p / (e^p + sum e^s)) of each view: p scores the other view of its sample, s all other views (SimCLR).

    From https://arxiv.org/abs/2002.05709 (Chen et al. 2020). A score is the cosine of two vectors (their product with
    normalize=False) over `temperature`. Each of the 2 N views has 2 N - 2 negatives, from both inputs. A mean divides
    by 2 N.

    Scores are computed for `chunk_size` views at a time, and in the backward pass again. Second derivatives, forward
    mode and torch.func store all of them.

    Shape:
        input1, input2: (N, D), the two views of each sample, floating. 16-bit floats are computed in float32 and
            rounded once.
        Returns a 0-dimensional tensor, or (2 N) with reduction="none", the views of input1 first.

    Raises:
        InvalidValue: A batch of one sample has no negatives, the temperature is not above 0 (both unless check="off"; a
            tensor on a GPU is not read), or the shapes or the devices do not fit.
        InvalidType: An operand is no floating tensor.

    Differs from torch: torch has no such loss. lightly's NTXentLoss has the same values and default.

    Example:
        >>> import torch, piste
        >>> input1, input2 = torch.tensor([[1., 0.], [0., 1.]]), torch.tensor([[1., 1.], [0., 2.]])
        >>> piste.losses.NTXentLoss()(input1, input2)
        tensor(0.6367)
    """

    name, functional_name, aliases = "nt_xent", "nt_xent_loss", ("simclr",)
    arguments = ("input1", "input2")
    options = {"temperature": temperature(0.5), **PAIRS}
    signature = "temperature, reduction, normalize, chunk_size"
    expects = "two views of the same samples, both (N, D)"
    example = "torch.randn(4, 8), torch.randn(4, 8)"
    symbols = {"p": "the score of both views", "n": "the log-sum-exp of the scores of the view and its negatives"}

    def formula(p, n):
        z = n - p
        return softplus(z)

    def derivatives(p, n):
        s = sigmoid(n - p)
        return -s, s

    @classmethod
    def prepare(
        cls,
        operands: tuple[Any, ...],
        check: str,
        *,
        temperature: Any = 0.5,
        normalize: bool = True,
        chunk_size: int | None = None,
        **options: Any,
    ) -> PreparedCall:
        """Return the score of each pair of views, and the log-sum-exp of those of its negatives, twice."""
        a, b = cls.vectors(cls.arguments, operands, check, normalize)
        cls.check_has_negatives(cls.arguments, a, check)
        scale = 1 / cls.factor("temperature", SCALE, temperature, a, check)
        p = scale * (a * b).sum(-1)
        z = torch.cat([a, b])
        own = own_column(z)
        excluded = torch.cat([own, own.roll(a.shape[0])], 1)
        (n,) = reduce_pairs(z, z, scale, None, excluded, PairReduction(chunk=chunk_size))
        return cls.call_of((torch.cat([p, p]), n), operands)
