"""Losses and optimizers for PyTorch, each written once as its formula, and a way to choose among them."""

from . import losses, optim
from .compare import compare
from .explain import explain
from .patching import patch

__version__ = "0.1.0"
__all__ = ["__version__", "compare", "explain", "losses", "optim", "patch"]
