"""Operands of several dtypes in one call: those of more bits keep their bits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import piste
from tests.losses.operands import Own

F = piste.losses.functional

SOFT: list[tuple[str, dict[str, Any]]] = [
    ("multilabel_soft_margin_loss", {}),
    ("multilabel_soft_margin_loss", {"weight": torch.tensor([0.3, 0.7, 1.1, 0.9])}),
    ("binary_cross_entropy_with_logits", {}),
    ("sigmoid_focal_loss", {"alpha": 0.3}),
    ("cross_entropy", {}),
    ("focal_loss", {}),
    *((name, {"activation": a}) for name in ("dice_loss", "jaccard_loss") for a in ("sigmoid", "softmax")),
    ("tversky_loss", {"activation": "sigmoid", "alpha": 0.3, "batch": True}),
    ("focal_tversky_loss", {"activation": "sigmoid"}),
]
OF_INPUT = ("dice_loss", "jaccard_loss", "tversky_loss", "focal_tversky_loss")
"""The losses whose result has the dtype of the input."""


@pytest.mark.parametrize("tensor", [torch.Tensor, Own])  # by the kernel, and by the eager backend
@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("name", "options"), SOFT, ids=lambda x: x if isinstance(x, str) else "-".join(x))
def test_soft_labels_next_to_an_input_of_16_bits_keep_their_bits(
    name: str, options: dict[str, Any], narrow: torch.dtype, tensor: type[torch.Tensor]
) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 4, 4).to(narrow).requires_grad_()
    y = torch.rand(6, 4, 4).softmax(1).requires_grad_()
    wide = [z.detach().double().requires_grad_() for z in (x, y)]
    if "weight" in options:
        x, y, wide = x[..., 0], y[..., 0], [z[..., 0] for z in wide]
    function, exact = getattr(F, name), {k: v.double() if hasattr(v, "double") else v for k, v in options.items()}
    loss = function(x.as_subclass(tensor), y.as_subclass(tensor), **options)
    expected = function(*wide, **exact)
    dtype = narrow if name in OF_INPUT else torch.float32
    assert loss.dtype == dtype
    rounding = torch.finfo(dtype).eps / 2 + 1e-6
    torch.testing.assert_close(loss.item(), expected.item(), rtol=rounding, atol=0)
    found, slopes = torch.autograd.grad(loss, (x, y)), torch.autograd.grad(expected, wide)
    for slope, exact_slope, z in zip(found, slopes, (x, y), strict=True):
        assert slope.dtype == z.dtype
        rounding = torch.finfo(z.dtype).eps / 2 + 4e-6
        scale = exact_slope.abs().max().item()
        smallest = torch.finfo(z.dtype).smallest_normal * torch.finfo(z.dtype).eps
        torch.testing.assert_close(slope.double(), exact_slope, rtol=rounding, atol=1e-6 * scale + smallest / 2)


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16], ids=str)
def test_class_weights_next_to_an_input_of_16_bits_keep_their_bits(narrow: torch.dtype) -> None:
    x, y = torch.zeros(1, 1, dtype=narrow), torch.ones(1, 1, dtype=narrow)
    weights = torch.linspace(1, 2, 40)
    found = [F.multilabel_soft_margin_loss(x, y, weight=w.reshape(1)) for w in weights]
    assert torch.equal(torch.stack(found), (weights * math.log(2)).to(narrow))
