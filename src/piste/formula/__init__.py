"""The language of formulas: its words, the graph that a formula is traced into, and what is derived from the graph.

A formula is a plain Python function of arithmetic and the words below. Its meaning depends on its arguments: tensors
give the reference, floats give a number, and `Expr`s give the graph that becomes a kernel, a derivative, or text.
"""

from .expression import Expr, FormulaError, trace
from .operations import OPERATIONS
from .reductions import mean, norm, total
from .words import exp, expm1, log, log1p, maximum, minimum, sigmoid, sign, sqrt, where

__all__ = [
    "OPERATIONS",
    "Expr",
    "FormulaError",
    "exp",
    "expm1",
    "log",
    "log1p",
    "maximum",
    "mean",
    "minimum",
    "norm",
    "sigmoid",
    "sign",
    "sqrt",
    "total",
    "trace",
    "where",
]
