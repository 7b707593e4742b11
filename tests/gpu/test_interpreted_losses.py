"""Every loss with every option: the GPU kernel, run by Triton's interpreter, against the eager backend."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from piste import losses
from piste.engine.gpu import loss_kernel
from piste.engine.gpu.loss_rows import RowLayout, row_layout
from piste.errors import InvalidValue
from piste.losses import functional
from tests.losses.assertions import find_extreme_mismatch
from tests.losses.cases import CASES, Case, expand_weight, seeded
from tests.losses.extremes import EXTREMES
from tests.mutants.contrastive import LOVASZ, PAIRS

pytest.importorskip("triton", reason="Triton is not installed: GPU kernels are not tested")
from .interpreter import interpreting

EAGER = {"triplet_margin_with_distance", *PAIRS, *LOVASZ}  # losses without a GPU kernel
OF_DIFFERENCES = ("general_robust", "quantile", "expectile")
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-12, torch.float16: 2e-3}
# Rows of up to 64 classes as one tile, or as tiles of twice 16.
TILINGS = {"whole": RowLayout(1, 64, True, 1, True, 4), "runs": RowLayout(1, 16, False, 1, True, 4, runs=2)}


def gradients(result: torch.Tensor, operands: list[torch.Tensor]) -> list[torch.Tensor]:
    wanted = [x for x in operands if x.requires_grad]
    return list(torch.autograd.grad(result.sum() * 3, wanted, allow_unused=True))


def outcome(case: Case, operands: Any, options: dict[str, Any], **settings: Any) -> list[torch.Tensor]:
    wants = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in operands]
    result = case.function(*wants, **options, **settings)
    return [result.detach(), *(x for x in gradients(result, wants) if x is not None)]


def compare(case: Case, operands: Any, monkeypatch: Any, calls: int = 1, **settings: Any) -> int:
    """Compare the last of some calls with the eager backend; return the number of launches."""
    options = {k: v.to(operands[0].dtype) if isinstance(v, torch.Tensor) else v for k, v in case.options.items()}
    if case.function_only:
        options = expand_weight(options, operands[0])
    with interpreting() as backend:
        for _ in range(calls):
            ours = outcome(case, operands, options, **settings)
    monkeypatch.setenv("PISTE_BACKEND", "eager")
    wanted = outcome(case, operands, options, **settings)
    monkeypatch.delenv("PISTE_BACKEND")
    for a, b in zip(ours, wanted, strict=True):
        assert a.dtype == b.dtype
        tolerance = TOLERANCE[operands[0].dtype]
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    return len(backend.device.launches)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_losses_and_gradients_equal_those_of_the_eager_backend(case, reduction, monkeypatch):
    for shape in case.shapes:
        launches = compare(case, seeded(case, shape, torch.float32), monkeypatch, reduction=reduction)
        assert (launches > 0) == (case.name not in EAGER and case.options.get("absent") != "skip")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_losses_of_other_dtypes_equal_those_of_the_eager_backend(case, dtype, monkeypatch):
    calls = 2 if dtype == torch.float16 else 1  # the first one converts 16-bit elements before they reach a kernel
    compare(case, seeded(case, None, dtype), monkeypatch, calls)


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_losses_of_long_rows_equal_those_of_the_eager_backend(case, runs, monkeypatch):
    """Rows are long if they have more classes than a tile, which has four here, or twice four; the last is partial."""

    def layout(classes: int, unit: int, classes_last: bool) -> RowLayout | None:
        return RowLayout(1, 4, False, 1, True, 4, runs=runs) if classes_last else row_layout(classes, unit, False)

    monkeypatch.setattr(loss_kernel, "row_layout", layout)
    for shape in case.shapes:
        compare(case, seeded(case, shape, torch.float32), monkeypatch)


@pytest.mark.parametrize("extreme", [e for e in EXTREMES if e.name in OF_DIFFERENCES and not e.is_double], ids=str)
def test_numbers_made_of_options_alone_have_double_precision(extreme):
    function = getattr(functional, losses.named(extreme.name).functional_name)
    with interpreting() as backend:
        assert find_extreme_mismatch(function, extreme, torch.float32, "sum") is None
    assert {entry for entry, _ in backend.device.launches} == {"loss"}


@pytest.mark.parametrize("listed", [0, 1, 9, 40])
@pytest.mark.parametrize("tiling", TILINGS)
def test_hinges_of_lists_equal_those_of_torch(tiling, listed, monkeypatch):
    """Rows of 40 classes; lists of all lengths, with classes after their ends."""
    monkeypatch.setattr(loss_kernel, "row_layout", lambda *_: TILINGS[tiling])
    generator = torch.Generator().manual_seed(listed)
    x = torch.randn(3, 40, generator=generator)
    y = torch.stack([torch.randperm(40, generator=generator) for _ in range(3)])
    y[0, listed:], y[1, listed // 2 : listed // 2 + 1] = -1, -1
    y[2, :2] = y[2, 0]  # twice the same class
    found = []
    for function in (functional.multilabel_margin_loss, torch.nn.functional.multilabel_margin_loss):
        with interpreting() as backend:
            wants = x.clone().requires_grad_()
            result = function(wants, y, reduction="none")
            found.append([result.detach(), *gradients(result, [wants])])
        if not found[1:]:
            assert [entry for entry, _ in backend.device.launches] == ["loss"]
    torch.testing.assert_close(*found, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("name", ["mse_loss", "cross_entropy"])
def test_denominators_in_tensors_stay_on_the_device(name, monkeypatch):
    """As on a GPU, no denominator is read; without the kernels' own reading, the losses would be those of a sum."""
    x, weight = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), torch.rand(5, 4) + 0.5
    y = torch.tensor([0, 3, 1, 2, 1]) if name == "cross_entropy" else torch.zeros(5, 4)
    options: dict[str, Any] = {"weight": weight} if name == "mse_loss" else {"normalizer": torch.tensor(7.0)}
    with interpreting() as backend:
        for module in ("elementwise", "rowwise"):
            monkeypatch.setattr(f"piste.losses.{module}.as_divisor", lambda divisor, _: divisor)
        ours = x.clone().requires_grad_()
        loss = getattr(functional, name)(ours, y, **options)
        (loss * 2).backward()
        assert backend.kernels[-1].spec.divisor == "device"
    wanted = x.clone().requires_grad_()
    if name == "mse_loss":
        expected = torch.nn.functional.mse_loss(wanted, y, weight=weight)
    else:
        expected = torch.nn.functional.cross_entropy(wanted, y, reduction="sum") / 7
    (expected * 2).backward()
    torch.testing.assert_close((loss, ours.grad), (expected, wanted.grad))


@pytest.mark.parametrize("name", ["mse_loss", "cross_entropy"])
@pytest.mark.parametrize("passes", [1, 2])
def test_a_denominator_on_the_device_is_that_of_the_call_in_its_backward_pass(name, passes, monkeypatch):
    """The kernel of the gradients reads it again; autograd notices a change, as for an operand."""
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    y = torch.tensor([0, 3, 1, 2, 1]) if name == "cross_entropy" else torch.zeros(5, 4)
    with interpreting():
        for module in ("elementwise", "rowwise"):
            monkeypatch.setattr(f"piste.losses.{module}.as_divisor", lambda divisor, _: divisor)
        ours, by = x.clone().requires_grad_(), torch.tensor(7.0, dtype=torch.float64)
        loss = getattr(functional, name)(ours, y, normalizer=by) * 2
        for _ in range(passes - 1):
            loss.backward(retain_graph=True)
        by.fill_(3)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("name", ["mse_loss", "cross_entropy"])
@pytest.mark.parametrize("empty", ["nan", "zero", "raise"])
def test_denominators_of_0_on_the_device_follow_the_setting(name, empty, monkeypatch):
    x, zero = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), torch.tensor(0.0)
    y = torch.tensor([0, 3, 1, 2, 1]) if name == "cross_entropy" else torch.zeros(5, 4)
    with interpreting() as backend:
        for module in ("elementwise", "rowwise"):
            monkeypatch.setattr(f"piste.losses.{module}.as_divisor", lambda divisor, _: divisor)
        loss = functools.partial(getattr(functional, name), normalizer=zero, empty=empty)
        if empty == "raise":
            with pytest.raises(InvalidValue, match="there is nothing to take the mean of"):
                loss(x, y)
            return
        ours = x.clone().requires_grad_()
        result = loss(ours, y)
        assert [entry for entry, _ in backend.device.launches] == ["loss"]
    if empty == "nan":
        assert result.isinf()
        return
    result.backward()
    wanted = x.clone().requires_grad_()
    expected = getattr(torch.nn.functional, name)(wanted, y, reduction="sum")
    expected.backward()
    torch.testing.assert_close((result, ours.grad), (expected, wanted.grad))


@pytest.mark.parametrize("inplace", [False, True])
def test_the_sign_of_a_lazily_negated_gradient_counts(inplace):
    x, k = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 4
    found = []
    for sign in (1, -1):
        leaf = x.clone().requires_grad_()
        factor = torch.tensor(1 - 2j).conj().imag if sign == 1 else torch.tensor(-2.0)
        assert factor.is_neg() == (sign == 1)
        with interpreting():
            functional.cross_entropy(leaf * 1, k, inplace=inplace).backward(factor)
        found.append(leaf.grad * sign)
    assert torch.equal(*found)


@pytest.mark.parametrize("inplace", [False, True])
def test_compiled_autograd_hands_tensors_with_memory_to_the_kernels(inplace):
    """Compiled autograd traces the backward pass, in which a tensor has no address."""
    compiled_autograd = pytest.importorskip("torch._dynamo.compiled_autograd")
    x, k = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 4
    found = []
    with interpreting() as backend:
        for is_compiled in (False, True):
            leaf = x.clone().requires_grad_()
            loss = functional.cross_entropy(leaf * 1, k, inplace=inplace) * 3
            if is_compiled:
                with compiled_autograd._enable(torch.compile(backend="eager")):
                    loss.backward()
            else:
                loss.backward()
            found.append(leaf.grad)
    assert torch.equal(*found)
    launches = [entry for entry, _ in backend.device.launches]
    assert len(launches) == 4 and launches[:2] == launches[2:]
