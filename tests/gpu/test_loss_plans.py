"""A launch of a GPU loss is planned once for operands that lie alike, and again for all others."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import piste
from piste import losses
from piste.engine.gpu import loss_kernel, table_ring, workspaces
from piste.engine.gpu.device import Cuda
from piste.engine.native import operands
from piste.engine.specs import LossArguments
from piste.errors import InvalidValue
from piste.losses import functional

pytest.importorskip("triton", reason="Triton is not installed: GPU kernels are not tested")
from .interpreter import interpreting

Call = Callable[[Tensor], Tensor]

X, Y, Z = torch.randn(6, 4), torch.randn(6, 4), torch.randn(4, 6)
K = torch.tensor([1, 0, 3, 3, 1, 2])
WEIGHT = torch.tensor([1.0, 2.0, 3.0, 4.0])
SHIFTED = torch.randn(25)[1:].view(6, 4)
PIXELS, CLASSES_FIRST = torch.randn(2, 4, 3), torch.randn(4, 2, 3).transpose(0, 1)

CALLS: dict[str, tuple[Tensor, Call]] = {
    "mean": (X, lambda x: functional.mse_loss(x, Y)),
    "shape": (X[:5], lambda x: functional.mse_loss(x, Y[:5])),
    "strides": (Z.T, lambda x: functional.mse_loss(x, Z.T * 2)),
    "divisor": (X, lambda x: functional.mse_loss(x, Y, normalizer=5)),
    "rows": (X, lambda x: functional.cross_entropy(x, K)),
    "ignored": (X, lambda x: functional.cross_entropy(x, K, ignore_index=3)),
    "others ignored": (X, lambda x: functional.cross_entropy(x, K, ignore_index=1)),
    "weights": (X, lambda x: functional.cross_entropy(x, K, weight=WEIGHT)),
    "strides of rows": (PIXELS, lambda x: functional.cross_entropy(x, K.view(2, 3))),
    "other strides of rows": (CLASSES_FIRST, lambda x: functional.cross_entropy(x, K.view(2, 3))),
}


def of(base: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """Return a loss times 3, and the gradient by its operand, which lies in memory as the given one."""
    x = base.detach().requires_grad_()
    loss = call(x) * 3
    loss.backward()
    assert x.grad is not None
    return loss.detach(), x.grad


def test_calls_that_differ_in_one_thing_have_plans_of_their_own():
    expected = {name: of(*given) for name, given in CALLS.items()}
    with interpreting():
        for name, given in [*CALLS.items(), *reversed(CALLS.items())]:
            for _ in range(3):  # the third one is checked by machine code
                torch.testing.assert_close(of(*given), expected[name], msg=lambda words, name=name: f"{name}: {words}")


@pytest.fixture
def planned(monkeypatch) -> list[Tensor]:
    """The first operand of each plan that is made."""
    made: list[Tensor] = []
    make = loss_kernel.GpuLossKernel._make_plan

    def noted(kernel: Any, operands: Sequence[Tensor], arguments: Any) -> Any:
        made.append(operands[0])
        return make(kernel, operands, arguments)

    monkeypatch.setattr(loss_kernel.GpuLossKernel, "_make_plan", noted)
    return made


def test_a_call_like_an_earlier_one_is_not_planned_again(planned, monkeypatch):
    monkeypatch.setattr(loss_kernel, "MOST_PLANS", 3)
    loss = losses.MSELoss()
    with interpreting():
        of(X, lambda x: loss(x, Y))  # which prepares the module
        planned.clear()
        for rows in (6, 6, 5, 6, 4, 4, 6):  # the plan of 4 rows takes the place of all others
            of(X[:rows], lambda x, rows=rows: loss(x, Y[:rows]))
    assert [len(x) for x in planned] == [6, 5, 4, 6]


@pytest.fixture(params=["native", "python"])
def looked_up(monkeypatch, request) -> list[Tensor]:
    """The first operand of each call whose plan Python looks up, where machine code answers and where it can't."""
    if request.param == "python":
        monkeypatch.setattr(operands, "native_guard", lambda: None)
    asked: list[Tensor] = []
    planned = loss_kernel.GpuLossKernel._planned

    def noted(kernel: Any, given: Sequence[Tensor], arguments: Any) -> Any:
        asked.append(given[0])
        return planned(kernel, given, arguments)

    monkeypatch.setattr(loss_kernel.GpuLossKernel, "_planned", noted)
    return asked


LATER: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "the same": lambda loss, x: loss(x, K),
    "fewer rows": lambda loss, x: loss(x[:5], K[:5]),
    "other strides": lambda loss, x: loss(x.T.contiguous().T, K),
    "another index": lambda loss, x: loss(x, K.flip(0)),
    "another dtype": lambda loss, x: loss(x.double(), K).float(),
    "another dtype of the target": lambda loss, x: loss(x, K.int()),
}


def ignoring_3() -> losses.CrossEntropyLoss:
    return losses.CrossEntropyLoss(ignore_index=3)


@pytest.mark.parametrize("change", LATER.values(), ids=LATER.keys())
def test_from_the_third_call_on_machine_code_finds_what_differs(looked_up, change, request):
    same = LATER["the same"]
    expected, usual = (of(X, lambda x, call=call: call(ignoring_3(), x)) for call in (change, same))
    loss = ignoring_3()  # which keeps the kernels that it finds
    with interpreting():
        for _ in range(4):
            of(X, lambda x: loss(x, K))
        count = len(looked_up)
        found = of(X, lambda x: change(loss, x))
        is_looked_up = len(looked_up) > count
        again = of(X, lambda x: loss(x, K))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(again, usual)
    is_native = "native" in request.node.callspec.id
    assert is_looked_up == (not is_native or change not in (same, LATER["another index"]))


def test_a_violation_in_a_call_that_machine_code_checks_is_reported(looked_up):
    loss = losses.CrossEntropyLoss()
    bad = K.clone()
    bad[2] = 4
    with interpreting():
        for k in (K, K, K, bad):
            loss(X.clone().requires_grad_(), k)
        with pytest.raises(InvalidValue, match="4"):
            piste.check()


def test_operands_off_the_16_bytes_of_an_access_have_a_plan_of_their_own(planned):
    loss = losses.CrossEntropyLoss()
    with interpreting():
        for _ in range(3):
            of(X, lambda x: loss(x, K))
            of(SHIFTED, lambda x: loss(x, K))
    assert [x.data_ptr() % 16 for x in planned] == [0, 4]


@pytest.mark.parametrize("rows", [7, 1024, 1025])
@pytest.mark.parametrize("options", [{}, {"weight": WEIGHT}, {"empty": "zero"}], ids=str)
def test_few_rows_find_their_denominator_without_a_launch_of_its_own(rows, options):
    torch.manual_seed(rows)
    x, some, none = torch.randn(rows, 4), torch.randint(4, (rows,)), torch.full((rows,), 3)
    some[::3] = 3
    calls = [lambda x, k=k: functional.cross_entropy(x, k, ignore_index=3, **options) for k in (some, none)]
    expected = [of(x, call) for call in calls]
    with interpreting() as backend:
        for call, (value, slopes) in zip(calls, expected, strict=True):
            torch.testing.assert_close(of(x, call), (value, slopes), equal_nan=True)
    launches = ["loss", "loss"] if rows <= 1024 else ["divisor", "loss", "loss"]
    assert [name for name, _ in backend.device.launches] == 2 * launches


def test_a_class_index_out_of_range_has_no_weight_in_the_denominator():
    bad = K.clone()
    bad[1] = 4
    with interpreting():
        x = X.clone().requires_grad_()
        functional.cross_entropy(x, bad, weight=WEIGHT).backward()
        good = [0, 2, 3, 4, 5]
        y = X[good].clone().requires_grad_()
        with pytest.raises(InvalidValue):
            piste.check()
        functional.cross_entropy(y, K[good], weight=WEIGHT).backward()
    torch.testing.assert_close(x.grad[good], y.grad)


@pytest.mark.parametrize("rows", [5, 1030])
@pytest.mark.parametrize("capturing", [False, True])
def test_a_loss_keeps_no_memory_but_what_lasts(rows, capturing, monkeypatch):
    """What is allocated while PyTorch prepares or captures a CUDA graph must be free again, or be given back."""
    monkeypatch.setattr(workspaces, "_workspaces", {})
    x, k = torch.randn(rows, 4, requires_grad=True), torch.randint(4, (rows,))
    with interpreting() as backend:
        device, made, lasting = backend.device, [], []
        device.capturing = capturing
        zeros = device.zeros

        def watched(count: int) -> Tensor:
            memory = zeros(count)
            made.append(weakref.ref(memory))
            return memory

        monkeypatch.setattr(device, "zeros", watched)
        monkeypatch.setattr(device, "lasting_zeros", lambda count: lasting.append(zeros(count)) or lasting[-1])
        kept = {id(t) for t in table_ring._seen_by_graphs}
        functional.cross_entropy(x, k, ignore_index=2).backward()
        launches = [name for name, _ in device.launches if name in ("loss", "divisor")]
        assert [memory() for memory in made] == [None] * (capturing * (len(launches) - 1))
        assert len(lasting) == (not capturing)
        assert {id(t) for t in table_ring._seen_by_graphs} == kept
        (kernel,) = backend.kernels
        assert kernel._scalar.untyped_storage().nbytes() == 0


def test_lasting_memory_is_allocated_by_another_thread(monkeypatch):
    """Threads have pools of their own while PyTorch prepares a CUDA graph."""
    calls: list[Any] = []

    class Stream:
        def wait_event(self, event: Any) -> None:
            calls.append(("wait", threading.get_ident()))

    class Event:
        def record(self, stream: Any) -> None:
            calls.append(("record", threading.get_ident()))

    class Memory:
        def record_stream(self, stream: Any) -> None:
            calls.append(("keep", threading.get_ident()))

    def zeros(self: Any, count: int) -> Memory:
        calls.append(("allocate", threading.get_ident()))
        return Memory()

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(Cuda, "zeros", zeros)
    assert isinstance(Cuda(0).lasting_zeros(3), Memory)
    here = threading.get_ident()
    assert [(name, thread == here) for name, thread in calls] == [
        ("allocate", False),
        ("record", False),
        ("wait", True),
        ("keep", True),
    ]


def test_a_denominator_on_another_gpu_is_brought_to_that_of_the_loss():
    elsewhere, here = torch.tensor(3.0), torch.tensor(4.0)
    device = SimpleNamespace(local=lambda x: here if x is elsewhere else x)
    kernel = SimpleNamespace(_device=device)
    found = loss_kernel.GpuLossKernel._denominator(kernel, (X,), LossArguments.of(elsewhere), 0, is_capturing=False)
    assert found.dtype == torch.float64 and found == 4
