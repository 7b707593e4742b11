"""The losses with a GPU kernel; each of the others states why the eager backend computes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import piste
from piste import losses
from piste.losses.loss import Loss
from tools.docs.backends import WITHOUT_GPU_KERNEL

pytest.importorskip("triton", reason="Triton is not installed: GPU kernels are not tested")
from .interpreter import interpreting

REGIONS = ("DiceLoss", "JaccardLoss", "TverskyLoss", "FocalTverskyLoss")


def names() -> list[str]:
    found = [name for name in losses.__all__ if isinstance(getattr(losses, name), type)]
    return [name for name in found if issubclass(getattr(losses, name), Loss) and name != "Loss"]


def explained(loss: Loss, monkeypatch: pytest.MonkeyPatch, *operands: torch.Tensor) -> str:
    monkeypatch.setenv("PISTE_BACKEND", "gpu")
    with interpreting():
        return loss.explain_backend(*operands).partition(". Under torch.compile")[0]


@pytest.mark.parametrize("name", names())
def test_losses_have_a_gpu_kernel_or_a_reason(name, monkeypatch):
    loss = getattr(losses, name)()
    reason = WITHOUT_GPU_KERNEL.get(name)
    how = (
        "by the fused GPU kernel, with its gradients in one pass"
        if reason is None
        else f"by the eager backend: {reason}"
    )
    assert explained(loss, monkeypatch) == f"{name}: {how}"


@pytest.mark.parametrize("name", REGIONS)
def test_regions_that_are_skipped_have_no_gpu_kernel(name, monkeypatch):
    loss = getattr(losses, name)(activation="softmax", absent="skip")
    text = explained(loss, monkeypatch, torch.randn(2, 3, 4), torch.randint(3, (2, 4)))
    assert text == f"{name}: by the eager backend: regions without target are counted by torch operations"


def test_the_largest_distance_has_no_gpu_kernel(monkeypatch):
    text = explained(losses.TripletMarginLoss(p=float("inf")), monkeypatch)
    assert text.endswith(
        "by the eager backend: the kernel has no word for its formula (a norm of the largest entry is not summed)"
    )


def test_the_page_of_losses_names_the_exceptions():
    page = (Path(piste.__file__).parents[2] / "docs" / "losses.md").read_text()
    _, _, rest = page.partition("On a GPU the losses have a kernel each, with these exceptions")
    paragraph, _, _ = rest.partition("\n\n")
    others = ("AdaptiveLogSoftmaxWithLoss", "LinearCrossEntropyLoss", 'absent="skip"', "p = inf")
    for name in (*WITHOUT_GPU_KERNEL, *others):
        assert name in paragraph
