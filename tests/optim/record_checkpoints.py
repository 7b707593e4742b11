"""`python -m tests.optim.record_checkpoints FILE`: record a run of every optimizer, with its checkpoint in the middle.

The recorded file holds what a version of Piste wrote, so later versions are tested on loading it. Record a new file
when the checkpoint gains a key, and keep the older ones.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch

from piste.optim import OPTIMIZERS

STEPS = 3
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "SGD": [{"momentum": 0.9, "nesterov": True, "lr": 0.1}],
    "RMSprop": [{"centered": True, "momentum": 0.9}],
    "Adam": [{"amsgrad": True}],
    "AdamW": [{"amsgrad": True}],
}
"""Options in addition to the defaults, where they keep more state."""


def recorded_params() -> list[torch.Tensor]:
    """Return parameters of several shapes and dtypes with the values of the recorded run."""
    shapes = ((5,), (2, 3), ())
    params = [torch.linspace(-1, 2, 6)[: torch.Size(shape).numel()].reshape(shape) for shape in shapes]
    return [p.clone().requires_grad_() for p in (*params, params[0].bfloat16())]


def run(optimizer: Any, params: list[torch.Tensor], steps: range) -> None:
    """Step with gradients that depend on the step and the place alone."""
    for step in steps:
        for i, p in enumerate(params):
            p.grad = torch.linspace(-0.5, 1, p.numel()).reshape(p.shape).to(p.dtype) * (step + 1) - 0.25 * i
        optimizer.step()


def record(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters and the checkpoint after some steps, and the parameters after further ones."""
    params = recorded_params()
    optimizer = OPTIMIZERS[name](params, fused=False, **options)
    run(optimizer, params, range(STEPS))
    middle = [p.detach().clone() for p in params]
    checkpoint = copy.deepcopy(optimizer.state_dict())
    run(optimizer, params, range(STEPS, STEPS + 2))
    end = [p.detach().clone() for p in params]
    return {"optimizer": name, "options": options, "middle": middle, "checkpoint": checkpoint, "end": end}


if __name__ == "__main__":
    runs = [record(name, options) for name in OPTIMIZERS for options in ({}, *OPTIONS.get(name, []))]
    torch.save({"torch": str(torch.__version__), "runs": runs}, sys.argv[1])
