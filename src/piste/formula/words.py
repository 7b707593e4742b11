"""The words of formulas.

A formula is a plain Python function of arithmetic and these words. Its meaning depends on its arguments: torch tensors
give the reference, numbers give a number, and `Expr`s give the graph of the formula, which backends turn into kernels
and which prints as mathematics. Another type of value implements the words by a mapping in `__words__`.

A formula branches with `where`, never with `if` on a value. Options that are known when the formula is traced
(`nesterov`, a buffer that is `None`) are ordinary Python values.
"""

from __future__ import annotations

from typing import Any

from .operations import apply

__all__ = ["exp", "expm1", "log", "log1p", "maximum", "minimum", "sigmoid", "sign", "sqrt", "where"]


def sqrt(x: Any) -> Any:
    """Return the square root; NaN below 0.

    Args:
        x: A number, a tensor or an expression.

    Returns:
        A value of the type of `x`.

    Example:
        >>> from piste.formula import sqrt
        >>> sqrt(4.0)
        2.0
    """
    return apply("sqrt", x)


def exp(x: Any) -> Any:
    """Return e to the power of x.

    Args:
        x: A number, a tensor or an expression.

    Returns:
        A value of the type of `x`.

    Example:
        >>> from piste.formula import exp
        >>> exp(0.0)
        1.0
    """
    return apply("exp", x)


def expm1(x: Any) -> Any:
    """Return e^x - 1, accurate for small x.

    Args:
        x: A number, a tensor or an expression.

    Returns:
        A value of the type of `x`.

    Example:
        >>> from piste.formula import expm1
        >>> expm1(1e-20)
        1e-20
    """
    return apply("expm1", x)


def log(x: Any) -> Any:
    """Return the natural logarithm; -inf at 0, and NaN below it.

    Args:
        x: A number, a tensor or an expression.

    Returns:
        A value of the type of `x`.

    Example:
        >>> from piste.formula import log
        >>> log(1.0)
        0.0
    """
    return apply("log", x)


def log1p(x: Any) -> Any:
    """Return log(1 + x), accurate for small x.

    Args:
        x: A number, a tensor or an expression.

    Returns:
        A value of the type of `x`.

    Example:
        >>> from piste.formula import log1p
        >>> log1p(1e-20)
        1e-20
    """
    return apply("log1p", x)


def sigmoid(x: Any) -> Any:
    """Return 1 / (1 + e^-x) without overflow, with the exact derivative where it is near 1.

    Args:
        x: A number, a tensor or an expression.

    Returns:
        A value of the type of `x`.

    Example:
        >>> from piste.formula import sigmoid
        >>> sigmoid(0.0)
        0.5
    """
    return apply("sigmoid", x)


def sign(x: Any) -> Any:
    """Return -1, 0 or 1; 0 for NaN, as in torch.

    Args:
        x: A number, a tensor or an expression.

    Returns:
        A value of the type of `x`.

    Example:
        >>> from piste.formula import sign
        >>> sign(-3.0)
        -1.0
    """
    return apply("sign", x)


def maximum(a: Any, b: Any) -> Any:
    """Return the larger of two values; NaN if either is NaN.

    Args:
        a: A number, a tensor or an expression.
        b: The same.

    Returns:
        A value of the type of `a` and `b`.

    Example:
        >>> from piste.formula import maximum
        >>> maximum(1.0, 2.0)
        2.0
    """
    return apply("maximum", a, b)


def minimum(a: Any, b: Any) -> Any:
    """Return the smaller of two values; NaN if either is NaN.

    Args:
        a: A number, a tensor or an expression.
        b: The same.

    Returns:
        A value of the type of `a` and `b`.

    Example:
        >>> from piste.formula import minimum
        >>> minimum(1.0, 2.0)
        1.0
    """
    return apply("minimum", a, b)


def where(condition: Any, a: Any, b: Any) -> Any:
    """Return a where the condition holds, and b elsewhere.

    Args:
        condition: A comparison, or comparisons joined by `&`, `|` and `~`.
        a: A number, a tensor or an expression.
        b: The same.

    Returns:
        A value of the type of `a` and `b`.

    Example:
        >>> from piste.formula import where
        >>> where(1.0 > 0.0, 2.0, 3.0)
        2.0
    """
    return apply("where", condition, a, b)
