"""Penalties of a discriminator's gradient by its samples: that of WGAN-GP, and R1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..engine import compute_dtype
from ..errors import InvalidType, InvalidValue, PisteError
from ..options import Number
from .value_checks import check_same_device, check_same_shape, check_tensors, shape_of

__all__ = ["gradient_penalty", "r1_penalty"]

WEIGHT = Number(10.0, "the factor of the penalty")


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    *,
    weight: float = 10.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the penalty of WGAN-GP, weight times the mean of (|g| - 1)^2 (Gulrajani et al. 2017).

    From https://arxiv.org/abs/1704.00028. g is the gradient of the score by a sample between a real and a generated
    one, u real + (1 - u) fake with u from [0, 1) for each pair. Add it to DiscriminatorLoss("wasserstein"). A
    discriminator with batch normalization has no gradient of single samples.

    Args:
        discriminator: A module or function from samples (N, ...) to scores (N), (N, 1) or (N, ...), whose parameters
            receive the gradient of the penalty.
        real: Real samples (N, ...), floating. 16-bit norms are computed in float32.
        fake: Generated samples of that shape. The penalty has no gradient by the samples.
        weight: The factor of the penalty, in [0, inf).
        generator: The source of u, on the device of the samples; None is torch's default.

    Returns:
        A 0-dimensional tensor of the dtype of the scores, NaN of no samples.

    Raises:
        InvalidType: A sample or the scores are no floating tensor.
        InvalidValue: Shapes or devices differ, `weight` is out of range, or the scores do not depend on the samples or
            have no row for each.

    Differs from torch: torch has no such function.

    Example:
        >>> import torch, piste
        >>> discriminator = torch.nn.Linear(2, 1)
        >>> _ = torch.nn.init.constant_(discriminator.weight, 3.0)
        >>> penalty = piste.losses.gradient_penalty(discriminator, torch.ones(4, 2), torch.zeros(4, 2), weight=1.0)
        >>> round(penalty.item(), 3)  # (sqrt(18) - 1)^2
        10.515
    """
    samples = _checked("gradient_penalty", discriminator, {"real": real, "fake": fake}, weight)
    u = torch.rand((len(real), *[1] * (real.dim() - 1)), dtype=real.dtype, device=real.device, generator=generator)
    mixed = torch.lerp(samples[1], samples[0], u)
    return _mean(
        "gradient_penalty", discriminator, mixed, lambda g: weight * (torch.linalg.vector_norm(g, dim=1) - 1) ** 2
    )


def r1_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor, *, weight: float = 10.0) -> Tensor:
    """Return the penalty R1, weight / 2 times the mean of |g|^2 at real samples (Mescheder et al. 2018).

    From https://arxiv.org/abs/1801.04406. g is the gradient of the score by a sample. Of generated samples it is R2.
    Lazy regularization every k steps (StyleGAN2) multiplies `weight` by k.

    Args:
        discriminator: A module or function from samples (N, ...) to scores (N), (N, 1) or (N, ...), whose parameters
            receive the gradient of the penalty.
        real: Real samples (N, ...), floating. 16-bit norms are computed in float32. The penalty has no gradient by
            the samples.
        weight: The factor gamma of the paper, in [0, inf).

    Returns:
        A 0-dimensional tensor of the dtype of the scores, NaN of no samples.

    Raises:
        InvalidType: The samples or the scores are no floating tensor.
        InvalidValue: `weight` is out of range, or the scores do not depend on the samples or have no row for each.

    Differs from torch: torch has no such function.

    Example:
        >>> import torch, piste
        >>> discriminator = torch.nn.Linear(2, 1)
        >>> _ = torch.nn.init.constant_(discriminator.weight, 3.0)
        >>> piste.losses.r1_penalty(discriminator, torch.ones(4, 2), weight=2.0).item()
        18.0
    """
    (samples,) = _checked("r1_penalty", discriminator, {"real": real}, weight)
    return _mean("r1_penalty", discriminator, samples, lambda g: weight / 2 * (g * g).sum(1))


def _checked(name: str, discriminator: Any, samples: dict[str, Any], weight: Any) -> list[Tensor]:
    """Return the samples without their history; raise for arguments that a penalty does not take."""
    if not callable(discriminator):
        raise InvalidType(
            f"{name}: `discriminator` must be a module or a function of samples; received "
            f"{type(discriminator).__name__}. Help: pass the model, not its scores."
        )
    check_tensors(name, list(samples), list(samples.values()))
    check_same_shape(name, list(samples), list(samples.values()))
    check_same_device(name, list(samples), list(samples.values()))
    for argument, given in samples.items():
        if not given.is_floating_point():
            raise InvalidType(
                f"{name}: `{argument}` must hold floating-point numbers; received {given.dtype}. "
                f"Help: {argument}.float()."
            )
        if not given.dim():
            raise InvalidValue(
                f"{name}: `{argument}` must be samples (N, ...); received a 0-dimensional tensor. "
                f"Help: {argument}.unsqueeze(0)."
            )
    try:
        WEIGHT.check("weight", weight)
    except PisteError as error:
        raise type(error)(f"{name}: {error}") from None
    return [given.detach() for given in samples.values()]


def _mean(
    name: str, discriminator: Callable[[Tensor], Tensor], samples: Tensor, of_slopes: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the mean over samples of a function of their gradients (N, D)."""
    is_trained = torch.is_grad_enabled()  # otherwise the slopes, and so the penalty, are constants
    with torch.enable_grad():  # evaluation needs the slopes too
        samples.requires_grad_()
        scores = discriminator(samples)
        _check_scores(name, scores, samples)
        (slopes,) = torch.autograd.grad(scores.sum(), samples, create_graph=is_trained, allow_unused=True)
        if slopes is None:
            raise _independent(name)
        slopes = slopes.flatten(1).to(compute_dtype(slopes.dtype))
        return of_slopes(slopes).mean().to(scores.dtype)


def _check_scores(name: str, scores: Any, samples: Tensor) -> None:
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        received = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
        raise InvalidType(f"{name}: `discriminator` must return a floating tensor of scores; received {received}.")
    if not scores.dim() or len(scores) != len(samples):
        raise InvalidValue(
            f"{name}: `discriminator` must return a row of scores for each of {len(samples)} samples; received "
            f"{shape_of(scores)}. Help: leave the mean to the loss."
        )
    if not scores.requires_grad:
        raise _independent(name)


def _independent(name: str) -> InvalidValue:
    return InvalidValue(
        f"{name}: the scores of `discriminator` must depend on the samples; received scores without a gradient by "
        "them. Help: leave out .detach() and torch.no_grad() in it."
    )
