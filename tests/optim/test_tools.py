"""The options that every optimizer shares, with the tools of PyTorch around a step."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

import piste
from piste.errors import Unsupported

OPTIONS = {
    "max_norm": {"max_norm": 0.1},
    "max_value": {"max_value": 0.05},
    "skip": {"nonfinite": "skip"},
    "raise": {"nonfinite": "raise"},
    "stochastic": {"precision": "stochastic"},
    "kahan": {"precision": "kahan"},
    "master": {"precision": "master"},
    "bfloat16": {"state_dtype": "bfloat16"},
    "int8": {"state_dtype": "int8"},
    "cautious": {"cautious": True},
    "decoupled_decay": {"decoupled_decay": "independent", "weight_decay": 0.01},
}


def train(options, tool):
    """The weights after four steps at a falling rate, with a tool or without."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if "precision" in options else torch.float32
    weights = [torch.randn(size).to(dtype).requires_grad_() for size in ((16, 32), (64,))]
    optimizer = piste.optim.AdamW(weights, lr=1e-2, **options)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, enabled=tool == "GradScaler")
    seen = []
    if tool == "hooks":
        optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
        optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    step = torch.compile(lambda: optimizer.step(), backend="eager") if tool == "compile" else optimizer.step
    for t in range(4):
        optimizer.zero_grad()
        loss = sum((w * (w + t)).float().sum() for w in weights)
        if tool == "step_in_backward":
            with optimizer.step_in_backward():
                loss.backward()
        elif tool == "GradScaler":
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        else:
            loss.backward()
            step()
        schedule.step()
    assert seen == (["before", "after"] * 4 if tool == "hooks" else [])
    return weights


@pytest.mark.parametrize("tool", ["hooks", "GradScaler", "step_in_backward", "compile"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_tool_leaves_the_steps_of_an_option_as_they_are(options, tool):
    if tool == "step_in_backward" and ("max_norm" in options or "nonfinite" in options):
        with pytest.raises(Unsupported, match=r"step_in_backward\(\) steps each parameter before the other gradients"):
            train(options, tool)
        return
    torch._dynamo.reset()
    for compiled, plain in zip(train(options, tool), train(options, None), strict=True):
        limit = 1e-5 if tool == "compile" and compiled.dtype == torch.float32 else 0.0
        torch.testing.assert_close(compiled, plain, rtol=limit, atol=limit)


@pytest.mark.parametrize("name", ["Adam", "Rprop", "ScheduleFreeSGD"])
def test_changes_of_the_rate_compile_a_step_once_more(name):
    """The first step makes the state, and the first change of the rate makes it an input of the graph."""
    torch._dynamo.reset()
    w = torch.ones(3).requires_grad_()
    optimizer = getattr(piste.optim, name)([w], lr=0.1)
    counters.clear()
    step = torch.compile(optimizer.step, backend="aot_eager", fullgraph=True)
    for t in range(6):
        w.grad = torch.ones(3)
        optimizer.param_groups[0]["lr"] = 0.1 / max(t, 1)
        step()
    assert counters["stats"]["unique_graphs"] == 3
