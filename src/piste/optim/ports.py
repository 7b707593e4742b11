"""The report of a port: what a call of another library means here, and how far PyTorch's formula is from it."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import InvalidType, InvalidValue, did_you_mean
from ..translation import translate
from .convention import TITLES, as_torch, origin
from .conventions import CONVENTIONS
from .declaration import all_options
from .registry import OPTIMIZERS

__all__ = ["port"]

_SIZES = (1.0, 1e-3, 1e-6)
_STEPS = 5
_OF_BACKENDS = ("fused", "foreach", "capturable", "differentiable")
"""The options that change no number."""


def port(framework: str, name: str, **options: Any) -> str:
    """Return what the call of another library's optimizer means here.

    Args:
        framework: "keras", "optax", "timm", "transformers" or "pytorch_optimizer".
        name: The optimizer, such as "RMSprop" or "rmsprop".
        **options: The arguments of the call, in the library's names.

    Returns:
        The line to write; each option that differs from PyTorch's default; and the largest relative difference between
        the framework's updates and those of PyTorch's formula with the same numbers, over 5 steps with gradients of
        size 1, 1e-3 and 1e-6.

    Raises:
        InvalidType: An argument is unknown, of the wrong type, or missing.
        InvalidValue: The framework or the optimizer is unknown, or a value is out of its range.

    Example:
        >>> import piste
        >>> print(piste.optim.port("keras", "RMSprop", rho=0.9, epsilon=1e-6))
        piste.optim.RMSprop(model.parameters(), rho=0.9, epsilon=1e-06, convention="keras")
        lr: 0.001 (PyTorch's default: 0.01)
        alpha: 0.9 (PyTorch's default: 0.99)
        eps: 1e-06 (PyTorch's default: 1e-08)
        PyTorch's formula with these numbers gives other updates, by up to
          4.56e-05% at gradients of 1
          133% at gradients of 0.001
          6.77e+04% at gradients of 1e-06
    """
    cls = _find_optimizer(framework, name)
    if "convention" in options:
        raise InvalidValue(
            f"`convention` must be left out, because `framework` is the convention; received "
            f"convention={options['convention']!r} and framework={framework!r}."
        )
    cls([torch.zeros(1, requires_grad=True)], **options, convention=framework)  # rejects wrong options
    with_theirs = _updates(cls, {**options, "convention": framework})
    ours = as_torch(cls, framework, options)
    given = "".join(f"{key}={value!r}, " for key, value in options.items())
    declared = all_options(cls)
    lines = [f'piste.optim.{cls.__name__}(model.parameters(), {given}convention="{framework}")']
    lines += [
        f"{key}: {value} ({origin(cls)}'s default: {declared[key].default})"
        for key, value in ours.items()
        if key in declared and value != declared[key].default
    ]
    if CONVENTIONS[cls.__name__][framework].decoupled and ours.get("weight_decay"):
        ours["decoupled_weight_decay"] = True
    ours = {key: value for key, value in ours.items() if key in declared}
    differences = [_difference(a, b) for a, b in zip(with_theirs, _updates(cls, ours), strict=True)]
    if max(differences) < 1e-12:
        lines.append(f"{origin(cls)}'s formula with these numbers gives the same updates.")
    else:
        lines.append(f"{origin(cls)}'s formula with these numbers gives other updates, by up to")
        lines += [f"  {100 * d:.3g}% at gradients of {size:g}" for size, d in zip(_SIZES, differences, strict=True)]
    return translate("\n".join(lines))


def _find_optimizer(framework: Any, name: Any) -> Any:
    """Return the class of an optimizer of a framework.

    Raises:
        InvalidType: The name is no text.
        InvalidValue: The framework or the optimizer is unknown.
    """
    if not isinstance(framework, str) or framework not in TITLES:
        known = ", ".join(f'"{title}"' for title in TITLES)
        raise InvalidValue(f"`framework` must be one of {known}; received {framework!r}.")
    if not isinstance(name, str):
        raise InvalidType(
            f'`name` must be the name of an optimizer, such as "Adam"; received {name!r} of type {type(name).__name__}.'
        )
    names = {known.lower(): known for known, rules in CONVENTIONS.items() if framework in rules}
    if name.lower() in names:
        return OPTIMIZERS[names[name.lower()]]
    here = {known.lower(): known for known in OPTIMIZERS}.get(name.lower())
    if here is None:
        help_ = did_you_mean(name, names.values())
    else:
        known = ", ".join(f"`{known}`" for known in names.values())
        help_ = f"Known: {known}. piste.optim.{here} has no such convention; help(piste.optim.{here}) names its origin."
    raise InvalidValue(
        f"`name` must be an optimizer of {TITLES[framework]} that piste.optim shares; received {name!r}. {help_}"
    )


def _difference(theirs: torch.Tensor, ours: torch.Tensor) -> float:
    """Return the largest difference of updates as a part of theirs, or of ours where theirs is 0."""
    gap = (theirs - ours).abs()
    return (gap / torch.where(theirs == 0, ours, theirs).abs()).nan_to_num(nan=0.0).max().item()


def _updates(cls: Any, options: dict[str, Any]) -> list[torch.Tensor]:
    """Return the updates of a few steps with gradients of each size, in float64.

    The parameter is a number; that of a rule that reduces over rows and columns is a matrix.
    """
    options = {key: value for key, value in options.items() if key not in _OF_BACKENDS}
    found = []
    start = torch.zeros(1) if cls.elementwise else torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    for size in _SIZES:
        p = start.double().requires_grad_()
        g = torch.linspace(1, p.numel(), p.numel(), dtype=p.dtype).reshape(p.shape)
        optimizer = cls([p], fused=False, **options)
        path = [p.detach().clone()]
        for t in range(_STEPS):
            p.grad = g * size * (1 + 0.5 * (-1) ** t)
            optimizer.step()
            path.append(p.detach().clone())
        found.append(torch.stack(path).diff(dim=0))
    return found
