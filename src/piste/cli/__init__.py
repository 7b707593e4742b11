"""The command `piste`."""

from . import compare, diff, explain, tasks
from .app import app, main

__all__ = ["app", "compare", "diff", "explain", "main", "tasks"]
