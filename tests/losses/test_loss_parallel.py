"""Losses of DTensors, also within `loss_parallel` of PyTorch, which changes the backward pass of log_softmax."""

from __future__ import annotations

from pathlib import Path

from tests.torchrun import torchrun


def test_losses_of_spread_classes_have_the_values_and_gradients_of_whole_ones():
    lines = torchrun(Path(__file__).with_name("parallel_run.py")).splitlines()
    *calls, refusal = [
        line for line in lines if line and "[Gloo]" not in line
    ]  # gloo of torch 2.9 prints lines of its own
    assert len(calls) == 24
    assert [line for line in calls if not line.endswith(": True")] == []
    assert refusal == (
        "NLLLoss can't be trained within torch's loss_parallel(), where log_softmax leaves its gradient to "
        "torch.nn.functional.nll_loss. Help: CrossEntropyLoss takes the logits."
    )
