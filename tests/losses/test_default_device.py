"""The default device is that of new tensors of the user: it changes neither the backend of a loss nor its result."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from unittest import mock

import pytest
import torch

from piste import losses
from piste.engine import LossDispatcher
from tests.losses.cases import CASES, Case
from tests.losses.test_default_dtype import results, same


@pytest.mark.sample(1, per="case.name")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_default_device_changes_neither_the_backend_nor_a_bit(
    case: Case, dtype: torch.dtype, backends_not_chosen: None
) -> None:
    operands = case.operands(case.shapes[0], dtype)
    options = {
        name: value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in case.options.items()
    }
    found: list[list[torch.Tensor]] = []
    served: list[list[bool]] = []
    original = LossDispatcher.loss

    def watched(*arguments: Any) -> Any:
        result = original(*arguments)
        served[-1].append(result is not None)
        return result

    with mock.patch.object(LossDispatcher, "loss", watched):
        for default in (nullcontext(), torch.device("meta")):  # without memory: a tensor there has no values
            served.append([])
            with default:
                found.append(results(case.function, operands, **options))
    assert same(*found)
    assert served[0][-1:] == served[1][-1:]  # the first call of a kind may ask again with operands arranged


def test_a_kernel_computes_a_loss_whatever_the_default_device_is() -> None:
    with torch.device("meta"):
        x, k = torch.zeros(3, 4, device="cpu", requires_grad=True), torch.tensor([0, 1, 2], device="cpu")
        assert "by the fused CPU kernel" in losses.CrossEntropyLoss().explain_backend(x, k)


def test_lengths_are_on_the_host_whatever_the_default_device_is() -> None:
    x, labels = torch.randn(6, 2, 4).log_softmax(2), torch.tensor([[1, 2], [3, 1]])
    expected = losses.functional.ctc_loss(x, labels, [6, 5], [2, 1])
    with torch.device("meta"):
        assert torch.equal(losses.functional.ctc_loss(x, labels, [6, 5], [2, 1]), expected)
