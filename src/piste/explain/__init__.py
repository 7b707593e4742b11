"""Explanations in numbers of a loss (formula, steps, reduction, result, gradient) and of optimizer steps."""

from .explanation import Explanation, explain

__all__ = ["Explanation", "explain"]
