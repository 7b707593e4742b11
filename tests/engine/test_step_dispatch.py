"""The choice of a backend for each parameter, its description, and the fallback to the eager backend."""

from __future__ import annotations

import sys
import warnings
import weakref

import pytest
import torch
from torch import Tensor, nn

import piste
from piste.engine import step_dispatch
from piste.engine.cpu import fast_step
from piste.engine.cpu import step_kernel as cpu
from piste.engine.native import compiler, gradients
from piste.errors import Unsupported

from .process import python
from .reference import KERNEL, ones, parameter

EAGER = "by the eager backend: "


class Sub(Tensor):
    """A tensor subclass."""


EAGER_CASES = {
    "sparse gradient": (lambda: parameter(ones(), ones().to_sparse()), {}, "its gradient is sparse"),
    "sparse gradient, momentum": (
        lambda: parameter(ones(), ones().to_sparse()),
        {"momentum": 0.9},
        "its gradient is sparse",
    ),
    "subclass": (
        lambda: parameter(ones().as_subclass(Sub)),
        {},
        "it is a Sub, a tensor subclass with operations of its own",
    ),
    "subclass as gradient": (
        lambda: parameter(ones(), ones().as_subclass(Sub)),
        {},
        "it is a Sub, a tensor subclass with operations of its own",
    ),
    "device": (lambda: parameter(ones(device="meta")), {}, "it is on meta"),
    "dtype": (lambda: parameter(ones().to(torch.float8_e5m2)), {}, "its dtype is torch.float8_e5m2"),
    "conjugate": (
        lambda: parameter(ones(dtype=torch.complex64), ones(dtype=torch.complex64).conj()),
        {},
        "it is a lazy conjugate or negative",
    ),
    "overlap": (
        lambda: parameter(torch.ones(12).as_strided((3, 4), (2, 1))),
        {},
        "overlap in memory",
    ),
    "capturable": (
        lambda: parameter(ones()),
        {"capturable": True},
        "capturable=True keeps the step count on the device",
    ),
    "differentiable": (
        lambda: parameter(ones()),
        {"differentiable": True},
        "differentiable=True lets autograd record the step",
    ),
    "fused": (lambda: parameter(ones()), {"fused": False}, "fused=False asks for it"),
}


@pytest.mark.parametrize("case", EAGER_CASES)
def test_explain_gives_the_reason_for_the_eager_backend(case):
    make, options, why = EAGER_CASES[case]
    explanation = piste.optim.SGD([make()], **options).explain()
    assert explanation.startswith(f"SGD, group 0: 1 of 1 parameters {EAGER}")
    assert explanation.endswith(why)


@pytest.mark.parametrize("case", EAGER_CASES)
def test_fused_true_raises_where_the_kernel_cannot_step(case):
    make, options, why = EAGER_CASES[case]
    p = make()
    if "fused" in options:
        return
    optimizer = piste.optim.SGD([parameter(ones()), p], fused=True, **options)
    first = optimizer.param_groups[0]["params"][0]
    index = 0 if {"capturable", "differentiable"} & options.keys() else 1
    with pytest.raises(Unsupported) as refused:
        optimizer.step()
    text = str(refused.value)
    shape = tuple((first, p)[index].shape)
    assert text.startswith(f"fused=True requires the kernel, which can't step parameter {index} of shape {shape}: ")
    assert why in text
    assert text.endswith("Help: fused=None falls back to the eager backend.")
    assert torch.equal(first, torch.ones(3))  # nothing has moved


def test_fused_true_steps_by_the_kernel():
    p = parameter(ones())
    optimizer = piste.optim.SGD([p], lr=0.5, fused=True)
    optimizer.step()
    assert torch.equal(p, ones() / 2)
    assert optimizer.explain() == f"SGD, group 0: 1 of 1 parameters {KERNEL}, all in one pass"


def test_explain_has_a_line_for_each_group_and_reason():
    params = [parameter(ones()), parameter(ones(), ones().to_sparse()), nn.Parameter(ones()), parameter(ones())]
    optimizer = piste.optim.SGD([{"params": params}, {"params": [parameter(ones())], "fused": False}])
    before = optimizer.explain()
    assert before.splitlines() == [
        f"SGD, group 0: 3 of 4 parameters {KERNEL}, all in one pass",
        f"SGD, group 0: 1 of 4 parameters {EAGER}its gradient is sparse",
        f"SGD, group 1: 1 of 1 parameters {EAGER}fused=False asks for it",
    ]
    optimizer.step()
    assert optimizer.explain() == before
    params[1].grad = ones()
    assert f"4 of 4 parameters {KERNEL}" in optimizer.explain()


def test_a_group_with_some_sparse_gradients_is_stepped_by_kernel_and_eager_backend():
    """Gradients become sparse and dense again; the results are those of dense gradients."""
    params = [parameter(torch.linspace(-1, 1, 6)) for _ in range(3)]
    their_params = [parameter(p.detach().clone()) for p in params]
    ours, theirs = piste.optim.Adagrad(params), torch.optim.Adagrad(their_params)
    for t, kinds in enumerate(["ddd", "dsd", "sss", "dds", "ddd"]):
        for p, q, kind in zip(params, their_params, kinds, strict=True):
            g = torch.linspace(1, 2, 6) * (t + 1)
            p.grad, q.grad = g.to_sparse() if kind == "s" else g, g.clone()
        ours.step()
        theirs.step()
        assert ours.explain().count("\n") == (0 if len(set(kinds)) == 1 else 1)
        for p, q in zip(params, their_params, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("stepper", "method"), [(cpu.StepKernel, "launch"), (fast_step.FastStep, "__call__")])
def test_torch_compile_traces_the_eager_backend_and_the_kernel_steps_afterwards(monkeypatch, stepper, method):
    if stepper is cpu.StepKernel:
        monkeypatch.setattr(gradients, "native_guard", lambda: None)
    launched, real = [], getattr(stepper, method)
    monkeypatch.setattr(stepper, method, lambda *args: (launched.append(1), real(*args))[1])
    p, q = parameter(torch.linspace(-1, 1, 6)), parameter(torch.linspace(-1, 1, 6))
    ours, theirs = piste.optim.Adam([p], lr=0.1), torch.optim.Adam([q], lr=0.1)
    compiled = torch.compile(ours.step, backend="eager")
    for step, wanted in ((compiled, 0), (compiled, 0), (ours.step, 1), (ours.step, 2)):
        p.grad, q.grad = torch.linspace(1, -2, 6), torch.linspace(1, -2, 6)
        step()
        theirs.step()
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
        assert len(launched) == wanted


def test_without_numba_the_eager_backend_steps(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    p, q = parameter(torch.linspace(-1, 1, 6)), parameter(torch.linspace(-1, 1, 6))
    ours, theirs = piste.optim.Adam([p]), torch.optim.Adam([q])
    for _ in range(3):
        ours.step()
        theirs.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    assert ours.explain().endswith(f"{EAGER}Numba is not installed")
    with pytest.raises(Unsupported, match=r"fused=True .*: Numba is not installed\. Help: fused=None falls back"):
        piste.optim.Adam([p], fused=True).step()


@pytest.fixture
def nothing_loaded(monkeypatch, tmp_path):
    """Forget loaded kernels and failures, and use an empty cache folder, as in a new process."""
    monkeypatch.setenv("PISTE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiler, "_loaded", {})
    monkeypatch.setattr(step_dispatch, "_failed", weakref.WeakKeyDictionary())


def fail(*args):
    raise OSError("the linker is out of order")


def test_a_kernel_that_cannot_be_compiled_warns_once(monkeypatch, nothing_loaded):
    monkeypatch.setattr(compiler, "_compile", fail)
    p, q, r = (parameter(torch.linspace(-1, 1, 6)) for _ in range(3))
    ours = piste.optim.Adam([{"params": [p]}, {"params": [r], "lr": 0.1}])
    theirs = torch.optim.Adam([q])
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        ours.step()
        for _ in range(3):
            p.grad = torch.ones_like(p)  # a new plan each time, and no new warning
            ours.step()
    for _ in range(4):
        theirs.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    (warning,) = messages
    assert warning.category is RuntimeWarning
    assert str(warning.message) == (
        "Adam falls back to the eager backend, several times slower: the linker is out of order. "
        "Help: fused=False silences this warning; fused=True makes it an error."
    )
    assert warning.filename == __file__
    assert ours.explain().splitlines() == [
        f"Adam, group {i}: 1 of 1 parameters {EAGER}its kernel could not be made (the linker is out of order)"
        for i in range(2)
    ]


def test_a_kernel_that_cannot_be_compiled_is_an_error_with_fused_true(monkeypatch, nothing_loaded):
    monkeypatch.setattr(compiler, "_compile", fail)
    p = parameter(ones())
    optimizer = piste.optim.Adam([p], fused=True)
    for _ in range(2):
        with pytest.raises(OSError, match="the linker is out of order"):
            optimizer.step()
    assert torch.equal(p, ones())


def test_fused_false_compiles_nothing_and_warns_of_nothing(monkeypatch, nothing_loaded):
    monkeypatch.setattr(compiler, "_compile", fail)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        piste.optim.Adam([parameter(ones())], fused=False).step()


BROKEN_NUMBA = """
import sys, warnings
sys.path.insert(0, {folder!r})
import torch, piste

def stepped(optimizer_class):
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    p.grad = torch.tensor([3.0, 0.5])
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        optimizer = optimizer_class([p], lr=0.5, momentum=0.9)
        optimizer.step()
        optimizer.step()
    print(p.detach().tolist(), [str(w.message).split(".")[0] for w in messages])
    if optimizer_class is not torch.optim.SGD:
        print(optimizer.explain())

stepped(torch.optim.SGD)
stepped(piste.optim.SGD)
for name in list(sys.modules):
    if name.startswith("llvmlite"):
        del sys.modules[name]
sys.modules["llvmlite"] = None
piste.engine.native.compiler._environment_key.cache_clear()
stepped(type("Mine", (piste.optim.SGD,), {{}}))
"""


def test_an_import_error_of_numba_or_llvmlite_falls_back_to_the_eager_backend(tmp_path):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("raise ImportError('Numba needs NumPy 1.0 or less')")
    code = BROKEN_NUMBA.format(folder=str(tmp_path))
    expected, sgd, explanation, mine, explanation_mine = python(code, PISTE_CACHE_DIR=tmp_path / "cache").splitlines()
    numbers = expected.split(" [")[0]
    assert sgd == f"{numbers} ['SGD falls back to the eager backend, several times slower: Numba needs NumPy 1']"
    assert explanation.endswith(f"{EAGER}its kernel could not be made (Numba needs NumPy 1.0 or less)")
    assert mine.startswith(f'{numbers} ["Mine falls back to the eager backend, several times slower: ')
    assert "llvmlite" in mine and "llvmlite" in explanation_mine


def test_a_compiler_that_is_turned_off_is_named_as_the_cause(tmp_path):
    code = """
        import torch, piste, warnings
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = piste.optim.SGD([p], lr=0.5)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            piste.losses.MSELoss()(p, torch.zeros(3)).backward()
            optimizer.step()
        print(p.sum().item(), *(str(w.message).split(": ")[1] for w in caught), optimizer.explain(), sep="; ")
    """
    found = python(code, NUMBA_DISABLE_JIT=1, PISTE_CACHE_DIR=tmp_path).split("; ")
    why = "NUMBA_DISABLE_JIT turns Numba's compiler off"
    assert float(found[0]) == pytest.approx(2.0)
    assert found[1:3] == [f"the kernel of a loss could not be made ({why}). Help", f"{why}. Help"]
    assert found[3].endswith(f"{EAGER}its kernel could not be made ({why})")


def test_a_slow_compiler_delays_the_first_step_of_each_thread_alone(tmp_path):
    code = """
        import sys, threading, time, warnings
        import torch, piste
        warnings.simplefilter("error")

        class Slow:
            def find_spec(self, name, path=None, target=None):
                if name == "numba":
                    time.sleep(2)

        sys.meta_path.insert(0, Slow())
        params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
        optimizers = [piste.optim.SGD([p], lr=0.5) for p in params]
        spent = [[], []]

        def train(i):
            for _ in range(3):
                began = time.perf_counter()
                params[i].grad = torch.ones(3)
                optimizers[i].step()
                spent[i].append(time.perf_counter() - began)

        threads = [threading.Thread(target=train, args=(i,)) for i in range(2)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print([p.tolist() for p in params], min(s[0] for s in spent) > 1, max(t for s in spent for t in s[1:]) < 1)
        print(*("fused CPU kernel" in o.explain() for o in optimizers))
    """
    values, kernels = python(code, PISTE_CACHE_DIR=tmp_path).splitlines()
    assert values == "[[-0.5, -0.5, -0.5], [-0.5, -0.5, -0.5]] True True"
    assert kernels == "True True"
