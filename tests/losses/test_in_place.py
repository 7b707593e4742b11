"""Cross entropy whose gradient replaces the logits: values, memory, and the refusals where the logits are needed."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch

import piste
from piste.errors import InvalidValue, Unsupported
from piste.losses import functional
from piste.torch_internals import record_allocations, storage_owners

CE = functional.cross_entropy
TARGETS = torch.tensor([0, 3, 1, -100, 2, 1])
SOFT = torch.softmax(torch.arange(24.0).reshape(6, 4) % 5, 1)
IMAGES = torch.tensor([[[0, 3], [1, -100], [2, 1]]] * 2)
CALLS: list[tuple[str, tuple[int, ...], torch.Tensor, dict[str, Any]]] = [
    ("mean", (6, 4), TARGETS, {}),
    ("sum", (6, 4), TARGETS, {"reduction": "sum"}),
    ("none", (6, 4), TARGETS, {"reduction": "none"}),
    ("weights", (6, 4), TARGETS, {"weight": torch.tensor([1.0, 0.5, 2.0, 3.0]), "label_smoothing": 0.1}),
    ("softcap", (6, 4), TARGETS, {"softcap": 2.0, "z_loss": 0.1}),
    ("soft", (6, 4), SOFT, {"label_smoothing": 0.2}),
    ("images", (2, 4, 3, 2), IMAGES, {}),
    ("one row", (4,), torch.tensor(2), {}),
    ("classes last", (2, 3, 4), TARGETS.reshape(2, 3), {"class_dim": -1, "normalizer": 7.0}),
    ("half", (6, 4), TARGETS, {"dtype": torch.float16}),
]


@pytest.fixture(params=["cpu", "gpu"])
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """The kernels of the CPU, and those of the GPU in Triton's interpreter."""
    if request.param == "gpu":
        pytest.importorskip("triton", reason="Triton is not installed: GPU kernels are not tested")
        from tests.gpu.interpreter import interpreting
    with interpreting() if request.param == "gpu" else nullcontext():
        yield request.param


def model(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a parameter, and logits that a model computes from it without saving them."""
    generator = torch.Generator().manual_seed(1)
    w = (2 * torch.randn(shape, generator=generator)).to(dtype).requires_grad_()
    return w, w * 2 + 1


@pytest.mark.parametrize("factor", [1.0, 3.0])
@pytest.mark.parametrize(("shape", "target", "options"), [c[1:] for c in CALLS], ids=[c[0] for c in CALLS])
def test_the_gradient_replaces_the_logits(shape, target, options, factor, kernels):
    options = dict(options)
    dtype = options.pop("dtype", torch.float32)
    w, logits = model(shape, dtype)
    expected = CE(logits, target, **options)
    wanted, by_logits = torch.autograd.grad((expected * factor).sum(), [w, logits])
    w, logits = model(shape, dtype)
    version = logits._version
    loss = CE(logits, target, inplace=True, **options)
    assert logits._version > version
    if factor == 1:
        torch.testing.assert_close(logits.detach(), by_logits, rtol=1e-3 if dtype.itemsize == 2 else 1e-6, atol=1e-6)
    (ours,) = torch.autograd.grad((loss * factor).sum(), w)
    tolerance = 2e-3 if dtype.itemsize == 2 else 1e-6
    torch.testing.assert_close((loss, ours), (expected, wanted), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_no_memory_of_the_size_of_the_logits_is_used(factor, kernels):
    def most(inplace: bool) -> tuple[int, int, int]:
        """The largest allocation of the call and of the backward pass, and the bytes that are kept between them."""
        x = torch.randn(64, 1000, generator=torch.Generator().manual_seed(1)).requires_grad_()
        logits, target = x.view(-1).view(64, 1000).mul(1.0), torch.arange(64)
        found: list[torch.Tensor] = []
        forward = record_allocations(lambda: found.append(CE(logits, target, inplace=inplace) * factor))
        backward = record_allocations(lambda: torch.autograd.grad(found[0], logits))
        return max(forward) // logits.nbytes, max([0, *backward]) // logits.nbytes, sum(forward) // logits.nbytes

    assert most(False)[::2] == (1, 1)
    assert most(True) == ((0, 0, 0) if kernels == "gpu" else (1, 0, 0))


def refusal(call: Any) -> str:
    with pytest.raises(Unsupported) as caught:
        call()
    return str(caught.value)


def test_a_leaf_is_refused():
    w, _ = model((6, 4))
    before = w.detach().clone()
    assert refusal(lambda: CE(w, TARGETS, inplace=True)) == (
        "CrossEntropyLoss: `inplace=True` replaces the values of `input`, which must be computed by a model; received "
        "a leaf or a view of one, whose values are parameters. Help: inplace=False."
    )
    assert "received a leaf or a view of one" in refusal(lambda: CE(w[:], TARGETS, inplace=True))
    assert torch.equal(w, before)


def test_memory_that_other_tensors_share_is_refused():
    _, logits = model((6, 4))
    before = logits.detach().clone()
    views = [logits[:3]]
    text = refusal(lambda: CE(logits, TARGETS, inplace=True))
    assert "which no other tensor may share; received an `input` whose memory is shared by 1 more" in text
    views.append(logits[3:])
    assert refusal(lambda: CE(views[0], TARGETS[:3], inplace=True))
    assert torch.equal(logits, before)
    views.clear()
    gc.collect()  # the errors hold frames
    assert CE(logits, TARGETS, inplace=True).isfinite()


def test_a_result_that_autograd_saved_is_refused():
    _, logits = model((6, 4))
    logits = logits.tanh()  # its derivative is computed from its result
    assert "views of it, or results that autograd saved" in refusal(lambda: CE(logits, TARGETS, inplace=True))


def test_an_operand_that_autograd_saved_makes_its_backward_raise():
    _, logits = model((6, 4))
    square = (logits * logits).sum()
    loss = CE(logits, TARGETS, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (loss + square).backward()


def test_a_view_of_the_logits_is_accepted():
    w, logits = model((2, 3, 4))
    (wanted,) = torch.autograd.grad(CE(logits.view(-1, 4), TARGETS), w)
    w, logits = model((2, 3, 4))
    (ours,) = torch.autograd.grad(CE(logits.view(-1, 4), TARGETS, inplace=True), w)
    torch.testing.assert_close(ours, wanted)


def test_without_the_private_name_shared_memory_is_not_noticed(monkeypatch):
    monkeypatch.setattr("piste.torch_internals._storage_owners", None)
    w, logits = model((6, 4))
    assert storage_owners(logits) is None
    view = logits[:]
    CE(logits, TARGETS, inplace=True).backward()
    assert w.grad is not None and view.sum().abs() < 1e-6  # the view holds the gradient, which sums to 0


@pytest.mark.parametrize("again", ["twice", "create_graph", "batched"])
def test_further_derivatives_are_refused(again):
    w, logits = model((6, 4))
    loss = CE(logits, TARGETS, inplace=True)
    text = "`inplace=True` allows one backward pass, of a single gradient and without create_graph=True"
    with pytest.raises(Unsupported, match=text):
        if again == "twice":
            loss.backward(retain_graph=True)
            loss.backward()
        elif again == "create_graph":
            torch.autograd.grad(loss, w, create_graph=True)
        else:
            torch.autograd.grad(loss, w, torch.ones(2), is_grads_batched=True)


def test_a_call_without_a_kernel_is_refused():
    _, logits = model((6, 4))
    before = logits.detach().clone()
    assert refusal(lambda: CE(logits, TARGETS, inplace=True, check="nan")) == (
        "CrossEntropyLoss: `inplace=True` requires a kernel; received operands whose loss is computed by the eager "
        'backend: check="nan" inspects every value. Help: inplace=False.'
    )
    assert torch.equal(logits, before)


def test_logits_that_the_kernel_can_not_walk_are_copied(kernels):
    options = {"class_dim": 0, "label_smoothing": 0.1}
    w, logits = model((4, 3, 2))
    (wanted,) = torch.autograd.grad(CE(logits, TARGETS.reshape(3, 2), **options), w)
    w, logits = model((4, 3, 2))
    (ours,) = torch.autograd.grad(CE(logits, TARGETS.reshape(3, 2), inplace=True, **options), w)
    torch.testing.assert_close(ours, wanted)


def test_autocast_and_forced_eager_backends_are_refused(monkeypatch, backends_not_chosen):
    _, logits = model((6, 4), torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert "autocast keeps results in float32" in refusal(lambda: CE(logits, TARGETS, inplace=True))
    monkeypatch.setenv("PISTE_BACKEND", "eager")
    _, logits = model((5, 4), torch.float64)
    assert "PISTE_BACKEND=eager asks for it" in refusal(lambda: CE(logits, TARGETS[:5], inplace=True))


def test_values_out_of_range_are_rejected_before_anything_changes():
    _, logits = model((6, 4))
    before = logits.detach().clone()
    with pytest.raises(InvalidValue, match="must hold class indices"):
        CE(logits, TARGETS + 4, inplace=True)
    with pytest.raises(InvalidValue, match="must sum to 1"):
        CE(logits, SOFT * 2, inplace=True)
    assert torch.equal(logits, before)


def test_calls_without_a_gradient_leave_the_logits(kernels):
    _, logits = model((6, 4))
    before = logits.detach().clone()
    loss = piste.losses.CrossEntropyLoss(inplace=True)
    with torch.no_grad():
        loss(logits, TARGETS)
    loss(logits.detach(), TARGETS)
    assert "in one pass" in loss.explain_backend(logits, TARGETS)
    assert torch.equal(logits, before)


def test_a_mean_of_nothing_has_its_setting():
    _, logits = model((2, 4))
    nothing = torch.tensor([-100, -100])
    assert CE(logits, nothing, inplace=True, empty="zero") == 0
    with pytest.raises(InvalidValue, match="nothing to take the mean of"):
        CE(logits, nothing, inplace=True, empty="raise")
