"""A loss worked through in numbers: its formula, the steps, the reduction, the result and the gradient."""

from .explanation import Explanation, explain

__all__ = ["Explanation", "explain"]
