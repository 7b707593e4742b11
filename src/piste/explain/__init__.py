"""Explanations in numbers of a loss (formula, steps, reduction, result, gradient) and of optimizer steps."""

from .explanation import Explanation, explain, operand_names

__all__ = ["Explanation", "explain", "operand_names"]
