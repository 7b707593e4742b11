from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidValue
from .optimizer import Optimizer
from .options import Flag, Integer, Limit, betas, eps, rate, weight_decay
from .state import Buffer

LEAST = 1e-30
"""What is added to a root mean square, as in the authors' implementation."""


@dataclass(frozen=True)
class _DecayOfProducts(Limit):
    """A decay rate that may be None, and that no formula of an element reads."""

    def letters(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        return iter(())


def _sizes(shape: Sequence[int], group: Mapping[str, Any]) -> list[int]:
    """Return the size of the eigenbasis of each dimension, and 0 where there is none."""
    has_any = len(shape) > 1 or group["precondition_1d"]
    return [n if has_any and n <= group["max_precond_dim"] else 0 for n in shape]


def _squares(shape: Sequence[int], group: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the squares of the dimensions that have an eigenbasis, added."""
    return (sum(n * n for n in _sizes(shape, group)),)


class SOAP(Optimizer):
    """SOAP: Adam in the eigenbasis of Shampoo (Vyas et al. 2024, https://arxiv.org/abs/2409.11321).

    A matrix g is turned into the eigenbases of L and R, r = QL^T g QR, where Adam steps: m <- beta1 m + (1 - beta1) r;
    v <- beta2 v + (1 - beta2) r^2;  n = m / (sqrt(v) + eps), times sqrt(1 - beta2^t) / (1 - beta1^t) with
    `correct_bias`. The step is QL n QR^T. After it L <- beta L + (1 - beta) g g^T and R <- beta R + (1 - beta) g^T g.
    Every `precondition_frequency` steps, one power iteration and a QR decomposition renew QL and QR, and turn m. The
    first gradient gives the first eigenbases, and no step. A tensor of more dimensions has a basis for each, and none
    of more than `max_precond_dim` rows. Vectors take the steps of Adam. The weight decay is decoupled.

    `GG` in the state has the averages of all dimensions, and `Q` their eigenbases, of float32 or wider. Tensors of one
    shape are turned together, by torch operations. Where the first gradient has fewer columns than rows, rounding
    decides between eigenbases of the same values: then runs that round otherwise, as on other devices, may differ.

    torch.optim has no SOAP. The values are those of the authors' implementation, without `merge_dims`, with the weight
    decay in front of the step, as in AdamW, and with the first gradient too, and with eigenbases of float64 for such
    parameters.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
        >>> optimizer = piste.optim.SOAP([w], lr=0.1, weight_decay=0.0)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     (w * w).sum().backward()
        ...     optimizer.step()
        >>> w.detach().diagonal()
        tensor([0.9000, 1.9000])
    """

    options = {
        "lr": rate(3e-3),
        "betas": betas(0.95, 0.95),
        "shampoo_beta": _DecayOfProducts(
            None, "the decay rate of the averages GG; None for the second of betas", high=1.0
        ),
        "eps": eps(1e-8),
        "weight_decay": weight_decay(0.01),
        "precondition_frequency": Integer(
            10, "the number of steps from one renewal of the eigenbases to the next", low=1
        ),
        "max_precond_dim": Integer(10000, "the largest dimension that has an eigenbasis", low=0),
        "precondition_1d": Flag(False, "give vectors an eigenbasis"),
        "normalize_grads": Flag(
            False, "divide the step of a tensor by its root mean square, before the bias is corrected"
        ),
        "correct_bias": Flag(True, "divide the averages by 1 - beta^t"),
    }
    buffers = {
        "exp_avg": "m",
        "exp_avg_sq": "v",
        "GG": Buffer("gg", shape=_squares),
        "Q": Buffer("q", shape=_squares),
    }
    group_constants = {"decoupled_weight_decay": True}
    refused = {"capturable": "the host counts the steps from one renewal of the eigenbases to the next"}
    elementwise = False
    any_shape = True

    def before(g: Any) -> Any:
        return g

    def matrix(  # type: ignore[misc, override]
        u: Tensor, m: Tensor, v: Tensor, gg: Tensor, q: Tensor, *, t: int, betas: Any, shampoo_beta: Any, eps: float,
        precondition_frequency: int, max_precond_dim: int, precondition_1d: bool, normalize_grads: bool,
        correct_bias: bool,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        beta1, beta2 = map(float, betas)
        beta = beta2 if shampoo_beta is None else float(shampoo_beta)
        sizes = _sizes(u.shape[1:], {"max_precond_dim": max_precond_dim, "precondition_1d": precondition_1d})
        g = u.to(gg.dtype)
        averages, bases = (_matrices(x, sizes) for x in (gg, q))
        if t == 1:
            averages = [x if x is None else (1 - beta) * _products(g, k) for k, x in enumerate(averages)]
            bases = [x if x is None else _eigenbases(x) for x in averages]
            return torch.zeros_like(g), m, v, _joined(averages, gg), _joined(bases, q)
        is_own = m.dtype == g.dtype  # so the averages are renewed in place
        m, v = (x.view(u.shape).to(g.dtype) for x in (m, v))
        r = _turned(g, bases)
        m.lerp_(r, 1 - beta1)
        v.mul_(beta2).addcmul_(r, r, value=1 - beta2)
        step = _turned_back(m / v.sqrt().add_(float(eps)), bases)
        if normalize_grads:
            rms = step.square().reshape(len(step), -1).mean(1).sqrt()
            step = step / (rms + LEAST).view(-1, *(1 for _ in sizes))
        if correct_bias:
            step.mul_((1 - beta2 ** (t - 1)) ** 0.5 / (1 - beta1 ** (t - 1)))
        for k, x in enumerate(averages):
            if x is not None:
                rows = _along(g, k)
                x.baddbmm_(rows, rows.mT, beta=beta, alpha=1 - beta)  # in place, in `gg`
        if (t - 1) % precondition_frequency:
            return step, *((None, None) if is_own else (m, v)), None, q  # type: ignore[return-value]
        m = _turned_back(m, bases)
        renewed: list[Tensor | None] = []
        for k, (x, basis) in enumerate(zip(averages, bases, strict=True)):
            if x is None:
                renewed.append(None)
                continue
            assert basis is not None
            powers = x @ basis
            order = (basis * powers).sum(1).argsort(dim=1, descending=True)  # of the estimated eigenvalues
            powers = powers.gather(2, order[:, None].expand_as(powers))
            renewed.append(torch.linalg.qr(powers).Q)
            place = order.view(-1, *(n if j == k else 1 for j, n in enumerate(u.shape[1:])))
            v = v.gather(k + 1, place.expand_as(v))
        return step, _turned(m, renewed), v, None, _joined(renewed, q)  # type: ignore[return-value]


def _matrices(flat: Tensor, sizes: Sequence[int]) -> list[Tensor | None]:
    """Return the square matrices of each dimension, None where it has none, of which rows of numbers are made."""
    if flat.shape[1] != sum(n * n for n in sizes):
        raise InvalidValue(
            f"`max_precond_dim` and `precondition_1d` of SOAP must stay as they were at the first step; received "
            f"eigenbases of {flat.shape[1]} numbers where the options ask for {sum(n * n for n in sizes)}."
        )
    parts = flat.split([n * n for n in sizes], dim=1)
    return [part.unflatten(1, (n, n)) if n else None for part, n in zip(parts, sizes, strict=True)]


def _joined(matrices: Sequence[Tensor | None], old: Tensor) -> Tensor:
    """Return rows of the numbers of square matrices."""
    rows = [x.flatten(1) for x in matrices if x is not None]
    return torch.cat(rows, dim=1) if rows else old


def _along(x: Tensor, k: int) -> Tensor:
    """Return tensors as matrices whose rows are a dimension."""
    if x.dim() == 3:
        return x if k == 0 else x.mT
    moved = x.movedim(k + 1, 1)
    return moved.reshape(*moved.shape[:2], -1)


def _products(g: Tensor, k: int) -> Tensor:
    """Return the products of tensors with themselves over all other dimensions."""
    rows = _along(g, k)
    return rows @ rows.mT


def _multiplied(x: Tensor, k: int, matrices: Tensor) -> Tensor:
    """Return tensors with a dimension multiplied by matrices."""
    if x.dim() == 3:
        return torch.bmm(matrices, x) if k == 0 else torch.bmm(x, matrices.mT)
    return (matrices @ _along(x, k)).view(x.movedim(k + 1, 1).shape).movedim(1, k + 1)


def _turned(x: Tensor, bases: Sequence[Tensor | None]) -> Tensor:
    """Return tensors in the eigenbases of their dimensions."""
    for k, basis in enumerate(bases):
        x = x if basis is None else _multiplied(x, k, basis.mT)
    return x


def _turned_back(x: Tensor, bases: Sequence[Tensor | None]) -> Tensor:
    for k, basis in enumerate(bases):
        x = x if basis is None else _multiplied(x, k, basis)
    return x


def _eigenbases(matrices: Tensor) -> Tensor:
    """Return the eigenvectors of symmetric matrices, those of the largest eigenvalues first.

    Raises:
        InvalidValue: The matrices hold NaN or infinities.
    """
    try:
        return torch.linalg.eigh(matrices).eigenvectors.flip(2)
    except torch.linalg.LinAlgError as error:
        raise InvalidValue(
            f'SOAP finds no eigenbasis of the first gradient of a parameter ({error}). Help: nonfinite="skip" leaves '
            "out gradients with NaN or an infinity."
        ) from None
