"""Constructors for the options that several optimizers share, with their defaults and descriptions."""

from __future__ import annotations

from ..options import Choice, Flag, Function, Integer, Limit, Number, Numbers, Option, TensorOption, as_float

__all__ = [
    "REDUCED",
    "SHARED",
    "Choice",
    "Flag",
    "Function",
    "Integer",
    "Number",
    "Numbers",
    "Option",
    "TensorOption",
    "as_float",
    "betas",
    "decay",
    "eps",
    "rate",
    "weight_decay",
]


def rate(default: float, doc: str = "the learning rate") -> Number:
    """Declare the learning rate.

    Args:
        default: The default.
        doc: The meaning, as the end of a sentence.

    Returns:
        The option.

    Example:
        >>> from piste.optim.options import rate
        >>> rate(1e-3).range
        '[0, inf)'
    """
    return Number(default, doc)


def eps(default: float, doc: str = "added to the denominator, against division by zero") -> Number:
    """Declare epsilon.

    Args:
        default: The default.
        doc: The meaning, as the end of a sentence.

    Returns:
        The option.

    Example:
        >>> from piste.optim.options import eps
        >>> eps(1e-8).default
        1e-08
    """
    return Number(default, doc)


def decay(default: float, letter: str, doc: str) -> Number:
    """Declare the decay rate of an exponential average.

    Args:
        default: The default.
        letter: The name in the formula.
        doc: The meaning, as the end of a sentence.

    Returns:
        The option.

    Example:
        >>> from piste.optim.options import decay
        >>> decay(0.9, "rho", "the decay rate of the average").range
        '[0, 1)'
    """
    return Number(default, doc, letter, high=1.0)


def betas(
    *defaults: float, doc: str = "the decay rates of the averages of the gradient and of its square or magnitude"
) -> Numbers:
    """Declare the decay rates of exponential averages, `beta1`, `beta2` and so on in the formula.

    Args:
        *defaults: The default of each; without any, those of Adam.
        doc: The meaning, as the end of a sentence.

    Returns:
        The option.

    Example:
        >>> from piste.optim.options import betas
        >>> betas().default
        (0.9, 0.999)
    """
    return Numbers(tuple(decay(x, f"beta{i}", "") for i, x in enumerate(defaults or (0.9, 0.999), 1)), doc)


def weight_decay(default: float = 0.0) -> Number:
    """Declare the weight decay.

    Args:
        default: The default.

    Returns:
        The option.

    Example:
        >>> from piste.optim.options import weight_decay
        >>> weight_decay().range
        '[0, inf)'
    """
    return Number(default, "how strongly the weights are decayed towards 0")


SHARED: dict[str, Option] = {
    "maximize": Flag(False, "maximize the objective instead of minimizing it"),
    "foreach": Flag(None, "accepted as in torch.optim; every backend steps all tensors of a group together"),
    "capturable": Flag(False, "keep the step count on the device, so that a CUDA graph can capture the step"),
    "differentiable": Flag(False, "record the step for autograd"),
    "fused": Flag(None, "True requires the fused kernel, False runs torch operations, None chooses"),
    "max_norm": Limit(doc="scale the gradients to this 2-norm over all parameters, as clip_grad_norm_", above=True),
    "max_value": Limit(doc="limit each value of the gradients to [-max_value, max_value], after max_norm", above=True),
    "nonfinite": Choice(
        "ignore", ("ignore", "skip", "raise"), "skip the step, or raise, if a gradient holds NaN or an infinity"
    ),
    "convention": Choice(
        "torch",
        ("torch", "keras", "optax", "timm", "transformers", "pytorch_optimizer"),
        "the library whose formula, defaults and argument names hold",
    ),
    "precision": Choice(
        "plain",
        ("plain", "stochastic", "kahan", "master"),
        "how 16-bit parameters keep small updates: not, by rounding at random, by a compensation, or by a float32 copy",
    ),
    "rounding_seed": Integer(0, 'the seed of precision="stochastic"', low=0, high=2**32 - 1),
    "state_dtype": Choice(
        None,
        (None, "float32", "bfloat16", "int8"),
        "the dtype of new state, int8 in blocks with a scale; None for that of the parameter, or of its copy",
    ),
    "cautious": Flag(False, "step only the elements whose step has the sign of the gradient, and those further"),
    "decoupled_decay": Choice(
        None,
        (None, "lr", "independent", "lr_squared"),
        "shrink the weights by weight_decay times lr, lr / lr_max or lr^2 / lr_max; None for the decay of the rule",
    ),
    "lr_max": Limit(doc="the largest learning rate of the schedule; None for that of the new param group", above=True),
}
"""The keyword options of every optimizer."""

REDUCED = (
    "max_norm", "max_value", "nonfinite", "convention", "precision", "rounding_seed", "state_dtype", "cautious",
    "decoupled_decay", "lr_max",
)  # fmt: skip
"""Those that torch.optim lacks: a checkpoint without them leaves them as they are."""
