"""Losses and optimizers for PyTorch, each written once as its formula, and a way to choose among them."""

from . import losses, optim
from .compare import compare
from .explain import explain
from .losses.value_checks import check
from .patching import patch
from .version import __version__

__all__ = ["__version__", "check", "compare", "explain", "losses", "optim", "patch"]
