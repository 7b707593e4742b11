"""Which engine steps what, what it says of that, and rules of one's own."""

from __future__ import annotations

import math
import sys
import warnings
import weakref

import numpy
import pytest
import torch
from torch import Tensor, nn

import piste
from piste.engine import step_dispatch
from piste.engine.cpu import fast_step
from piste.engine.cpu import step_kernel as cpu
from piste.engine.native import compiler, gradients
from piste.errors import InvalidType, InvalidValue, Unsupported
from piste.formula.expression import FormulaError, maximum, sign, sqrt, where
from piste.optim import Optimizer
from piste.optim.options import Flag, decay, eps, rate, weight_decay

from .process import python
from .reference import KERNEL

EAGER = "by the eager backend: "


def parameter(value: Tensor, grad: Tensor | None = None) -> nn.Parameter:
    p = nn.Parameter(value)
    p.grad = torch.ones_like(p) if grad is None else grad
    return p


def ones(**kwargs) -> Tensor:
    return torch.ones(3, **kwargs)


class Sub(Tensor):
    """A tensor subclass."""


NOT_THE_KERNELS = {
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


@pytest.mark.parametrize("case", NOT_THE_KERNELS)
def test_what_the_kernel_does_not_serve_and_why(case):
    make, options, why = NOT_THE_KERNELS[case]
    told = piste.optim.SGD([make()], **options).explain()
    assert told.startswith(f"SGD, group 0: 1 of 1 parameters {EAGER}")
    assert told.endswith(why)


@pytest.mark.parametrize("case", NOT_THE_KERNELS)
def test_fused_asks_for_the_kernel_or_nothing(case):
    make, options, why = NOT_THE_KERNELS[case]
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
    assert text.startswith(f"fused=True asks for the kernel, which can't step parameter {index} of shape {shape}: ")
    assert why in text
    assert text.endswith("With fused=None Piste chooses a backend that can.")
    assert torch.equal(first, torch.ones(3))  # nothing has moved


def test_fused_where_the_kernel_serves():
    p = parameter(ones())
    optimizer = piste.optim.SGD([p], lr=0.5, fused=True)
    optimizer.step()
    assert torch.equal(p, ones() / 2)
    assert optimizer.explain() == f"SGD, group 0: 1 of 1 parameters {KERNEL}, all in one pass"


def test_each_group_and_each_reason_has_a_line():
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


def test_a_group_with_some_sparse_gradients_is_stepped_by_both_engines():
    """Gradients become sparse and dense again; the numbers are those of dense ones throughout."""
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


# --- where no kernel can be had -------------------------------------------------------------------------------


def test_without_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    p, q = parameter(torch.linspace(-1, 1, 6)), parameter(torch.linspace(-1, 1, 6))
    ours, theirs = piste.optim.Adam([p]), torch.optim.Adam([q])
    for _ in range(3):
        ours.step()
        theirs.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    assert ours.explain().endswith(f"{EAGER}Numba is not installed")
    with pytest.raises(Unsupported, match=r"fused=True .*: Numba is not installed\. With fused=None"):
        piste.optim.Adam([p], fused=True).step()


@pytest.fixture
def nothing_loaded(monkeypatch, tmp_path):
    """As in a process that has loaded no kernel, with an empty cache; failures are forgotten afterwards."""
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
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ours.step()
        for _ in range(3):
            p.grad = torch.ones_like(p)  # a new plan each time, and no new warning
            ours.step()
    for _ in range(4):
        theirs.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    (warning,) = told
    assert warning.category is RuntimeWarning
    assert str(warning.message) == (
        "Adam steps without its kernel, several times slower: the linker is out of order. "
        "fused=False asks for this and is quiet; fused=True makes it an error."
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
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        optimizer = optimizer_class([p], lr=0.5, momentum=0.9)
        optimizer.step()
        optimizer.step()
    print(p.detach().tolist(), [str(w.message).split(".")[0] for w in told])
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


def test_with_a_numba_or_llvmlite_that_does_not_import(tmp_path):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("raise ImportError('Numba needs NumPy 1.0 or less')")
    code = BROKEN_NUMBA.format(folder=str(tmp_path))
    wanted, sgd, told, mine, told_mine = python(code, PISTE_CACHE_DIR=tmp_path / "cache").splitlines()
    numbers = wanted.split(" [")[0]
    assert sgd == f"{numbers} ['SGD steps without its kernel, several times slower: Numba needs NumPy 1']"
    assert told.endswith(f"{EAGER}its kernel could not be made (Numba needs NumPy 1.0 or less)")
    assert mine.startswith(f'{numbers} ["Mine steps without its kernel, several times slower: ')
    assert "llvmlite" in mine and "llvmlite" in told_mine


# --- a rule of one's own --------------------------------------------------------------------------------------


class Yogi(Optimizer):
    """Adaptive methods for nonconvex optimization (Zaheer et al. 2018)."""

    options = {"lr": rate(1e-2), "beta": decay(0.9, "beta", "how long v remembers"), "eps": eps(1e-3)}
    buffers = {"square_avg": "v"}

    def update(g, v, *, beta, eps):
        v = v - (1 - beta) * sign(v - g * g) * g * g
        return g / (sqrt(v) + eps), v


def yogi(p: Tensor, grads: list[Tensor], lr: float = 1e-2, beta: float = 0.9, eps: float = 1e-3) -> Tensor:
    """The paper's formula, by itself."""
    v = torch.zeros_like(p)
    for g in grads:
        v = v - (1 - beta) * torch.sign(v - g**2) * g**2
        p = p - lr * g / (v.sqrt() + eps)
    return p


def test_a_custom_rule_gets_the_kernel_and_a_checkpoint():
    make = torch.Generator().manual_seed(0)
    grads = [torch.randn(7, generator=make, dtype=torch.float64) for _ in range(6)]
    start = torch.linspace(-1, 1, 7, dtype=torch.float64)
    p = parameter(start.clone())
    optimizer = Yogi([p])
    for g in grads[:3]:
        p.grad = g
        optimizer.step()
    assert optimizer.explain() == f"Yogi, group 0: 1 of 1 parameters {KERNEL}, all in one pass"
    saved = optimizer.state_dict()
    assert saved["state"][0].keys() == {"step", "square_avg"}
    q = parameter(p.detach().clone())
    again = Yogi([q], lr=0.5)
    again.load_state_dict(saved)
    for g in grads[3:]:
        q.grad = g
        again.step()
    torch.testing.assert_close(q, yogi(start, grads), rtol=1e-12, atol=1e-13)


def test_a_custom_rule_gets_the_checks():
    params = [parameter(ones())]
    with pytest.raises(InvalidValue, match=r"`beta` must be in \[0, 1\); received beta=1\.5"):
        Yogi(params, beta=1.5)
    with pytest.raises(InvalidType, match=r"Yogi has no option `learning_rate`; PyTorch calls it `lr`"):
        Yogi(params, learning_rate=0.1)
    with pytest.raises(InvalidValue, match=r"Unknown option `bta` in param group 0; did you mean `beta`"):
        Yogi([{"params": params, "bta": 0.5}])
    with pytest.raises(InvalidValue, match=r"Yogi\.load_state_dict takes the result of optimizer\.state_dict\(\)"):
        Yogi(params).load_state_dict(3)
    assert "beta (default 0.9, [0, 1)): how long v remembers." in Yogi.__doc__


class Signed(Optimizer):
    """A step of size lr, half as far with `half`; upwards only from the second step on."""

    options = {"lr": rate(0.5), "weight_decay": weight_decay(), "half": Flag(False, "go half as far")}

    def update(g, *, t, half):
        d = where(t > 1, sign(g), maximum(sign(g), 0.0))
        return d / 2 if half else d


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        ({}, [0.5, 1.0], [0.0, 1.5]),
        ({"maximize": True}, [1.0, 0.5], [1.5, 0.0]),
        ({"half": True}, [0.75, 1.0], [0.5, 1.25]),
        ({"weight_decay": 2.0}, [0.5, 1.0], [0.0, 1.0]),  # the second: -2 + 2 * 1 is no gradient
    ],
    ids=str,
)
def test_a_custom_rule_has_the_options_that_every_optimizer_has(fused, options, first, second):
    p = parameter(torch.tensor([1.0, 1.0]), torch.tensor([2.0, -2.0]))
    optimizer = Signed([p], fused=fused, **options)
    for wanted in (first, second):
        optimizer.step()
        torch.testing.assert_close(p.detach(), torch.tensor(wanted), rtol=0, atol=0)


class Own(Optimizer):
    options = {"lr": rate(0.1)}


class Tanh(Own):
    def update(g):
        return torch.tanh(g)


class Numpy(Own):
    def update(g):
        return torch.as_tensor(numpy.tanh(g))


class Method(Own):
    def update(g):
        return g.abs()


class Power(Own):
    def update(g):
        return torch.Tensor.pow(g, 3)


class Branch(Own):
    def update(g):
        return g if g > 0 else -g


class Largest(Own):
    def update(g):
        return max(g, 0.0)


class Both(Own):
    def update(g):
        return where(g > 0 and g < 1, g, 0.0)


class Math(Own):
    def update(g):
        return math.sqrt(g)


class Floated(Own):
    def update(g):
        return g * float(g)


class Index(Own):
    def update(g):
        return g[0]


class Loop(Own):
    def update(g):
        return sum(g)


class Unpack(Own):
    def update(g):
        a, b = g
        return a + b


STUMBLES = {
    Tanh: ("`torch.tanh` was called on a value", torch.tanh),
    Numpy: ("numpy", torch.tanh),
    Method: ("`.abs` was called on a value, which has no methods", torch.abs),
    Power: ("pow", lambda g: g**3),
    Branch: ("`if`", None),
    Largest: ("`max`", None),
    Both: ("`and`", None),
    Math: ("`math`", None),
    Floated: ("float()", None),
    Index: ("can't be indexed", None),
    Loop: ("looped over", None),
    Unpack: ("unpacked", None),
}


@pytest.fixture
def failures_forgotten(monkeypatch):
    monkeypatch.setattr(step_dispatch, "_failed", weakref.WeakKeyDictionary())


@pytest.mark.parametrize("rule", STUMBLES, ids=lambda rule: rule.__name__)
def test_a_formula_that_no_kernel_can_be_made_of_says_what_it_stumbled_on(rule, failures_forgotten):
    word, meant = STUMBLES[rule]
    p = parameter(torch.tensor([0.25, -0.5, 1.0]), torch.tensor([0.5, 1.5, 2.0]))
    before, line = p.detach().clone(), (rule.update.__code__.co_firstlineno + 1)
    optimizer = rule([p])
    with pytest.warns(RuntimeWarning) as told:
        if meant is None:  # what no formula may do fails in the eager backend too, or does not mean one element
            try:
                optimizer.step()
            except (RuntimeError, ValueError, TypeError):
                assert torch.equal(p, before)
        else:
            optimizer.step()
            torch.testing.assert_close(p.detach(), before - 0.1 * meant(p.grad))
    text = str(told[0].message)
    assert text.startswith(f"{rule.__name__} steps without its kernel, several times slower: no kernel can be made of ")
    assert word in text
    assert f"(line {line})" in text
    assert text.endswith("fused=False asks for this and is quiet; fused=True makes it an error.")
    assert word in optimizer.explain()

    p = parameter(before.clone(), p.grad)
    with pytest.raises(PISTE_ERRORS) as refused:
        rule([p], fused=True).step()
    assert word in str(refused.value)
    assert torch.equal(p, before)


PISTE_ERRORS = (FormulaError, Unsupported)


def test_the_message_names_the_rule(failures_forgotten):
    with pytest.raises(FormulaError, match=r"^no kernel can be made of `Tanh\.update`: "):
        Tanh([parameter(ones())], fused=True).step()


def test_a_rule_that_returns_too_few_or_too_many_values_is_refused(failures_forgotten):
    class Forgetful(Own):
        buffers = {"average": "m"}

        def update(g, m):
            return 0.9 * m + g

    class Generous(Own):
        def update(g):
            return g, g

    for rule, words in (
        (Forgetful, r"Forgetful.update must return the step and 1 buffers \(m\); it returned 0"),
        (Generous, r"Generous.update must return the step and 0 buffers \(none\); it returned 1"),
    ):
        with pytest.raises(FormulaError, match=words):
            rule([parameter(ones())], fused=True).step()
        with pytest.raises(FormulaError, match=words):
            rule([parameter(ones())], fused=False).step()
