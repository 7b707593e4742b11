"""A custom task and a custom metric: piste compare task.py:make --optimizers sgd,adam --seeds 2"""

import torch

from piste.compare import Metric


def within_a_tenth(output, target):
    """The share of predictions within 0.1 of the target: one score for each example."""
    return ((output - target).abs() < 0.1).double().reshape(len(output))


def make():
    """A line through noise, and the metric that its users care about."""
    x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    y = x.sum(1, keepdim=True)
    return {
        "model": lambda: torch.nn.Linear(4, 1),
        "train": (x[:192], y[:192]),
        "validation": (x[192:], y[192:]),
        "loss": ["mse", "l1"],
        "metric": Metric("within 0.1", within_a_tenth, "max"),
        "epochs": 5,
    }
