"""Parameters of one optimizer on two GPUs, as of a model whose layers are spread; fake tensors stand for them."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode

from piste import optim
from piste.optim.clipping import SkippedSteps

RULES = ["AdamW", "LAMB", "Adafactor", "Prodigy"]
"""Of a formula, and of sums over a tensor, over rows, and over all parameters."""
if torch.backends.cuda.is_built():
    RULES += ["Muon", "NorMuon"]  # PyTorch for CPUs runs no matrix stage of a fake tensor on a GPU


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("nonfinite", ["ignore", "skip"])
@pytest.mark.parametrize("name", RULES)
def test_torch_operations_take_the_numbers_of_a_step_to_each_device(name, nonfinite, monkeypatch):
    """The norm of all gradients, the decision about the step and shared state are on the first device."""
    monkeypatch.setattr(torch.Tensor, "copy_", lambda x, _: x)  # which PyTorch for CPUs has not
    with FakeTensorMode(allow_non_fake_inputs=True):
        params = [torch.ones(4, 6, device=f"cuda:{k}", requires_grad=True) for k in range(2)]
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer = getattr(optim, name)(params, capturable=True, fused=False, max_norm=1.0, nonfinite=nonfinite)
        for _ in range(2):
            optimizer.step()
        assert optimizer.grad_norm.device == params[0].device
        assert [p.device.index for p in params] == [0, 1]


@pytest.mark.parametrize("devices", [("cuda:0", "cuda:1"), ("cpu", "cuda:0", "cpu")])
def test_skipped_steps_are_counted_on_the_first_gpu_that_skips(devices):
    """The first gradient may be on another device in another step; a step without gradients decides on the CPU."""
    with FakeTensorMode():
        count = SkippedSteps()
        for device in devices:
            count.add(torch.ones((), device=device))
        assert count._device.device == torch.device("cuda", 0)
