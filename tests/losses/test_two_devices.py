"""A denominator on another GPU than the operands; fake tensors stand for both.

Autograd takes no fake tensor of a GPU where there is none.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode

from piste import losses
from piste.engine import LossArguments, autograd
from piste.engine.specs import LossKernelSpec
from piste.losses.elementwise import _spec

FIRST = torch.device("cuda", 0)


@pytest.mark.parametrize("empty", ["nan", "zero", "raise"])
@pytest.mark.parametrize("device", ["cpu", "cuda:0", "cuda:1"])
@pytest.mark.parametrize("name", ["mse_loss", "cross_entropy"])
def test_torch_operations_divide_on_the_device_of_the_operands(name, device, empty):
    with FakeTensorMode():
        x, by = torch.ones(4, 6, device=FIRST), torch.ones((), device=device)
        operands = {
            "mse_loss": (x, x),
            "cross_entropy": (x, torch.zeros(4, dtype=torch.int64, device=FIRST)),
        }[name]
        result = getattr(losses.functional, name)(*operands, normalizer=by, empty=empty, check="off")
        assert result.device == FIRST


@pytest.mark.parametrize("device", ["cpu", "cuda:0", "cuda:1"])
def test_second_derivatives_divide_on_the_device_of_the_operands(device):
    made = _spec(losses.MSELoss, ("element", "element"), (), False, "sum", "device")
    spec = LossKernelSpec.of(made, torch.float32, (True, False))
    with FakeTensorMode():
        x = torch.ones(4, 6, device=FIRST)
        (slope,) = autograd.gradients_eagerly(spec, [x, x], LossArguments.of(torch.ones((), device=device)))
        assert slope.device == FIRST
