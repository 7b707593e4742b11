"""A third backend plugs in without an edit to optim/, and PISTE_BACKEND forces one."""

from __future__ import annotations

import math
import warnings
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import piste
from piste.engine import backend as backends
from piste.engine import loss_dispatch
from piste.engine.cpu import image_cross_entropy, loss_kernel
from piste.engine.hoisting import trace_step
from piste.engine.loss_trace import trace_elements
from piste.engine.native import compiler
from piste.engine.specs import LossArguments, LossKernelSpec, ParamState, StepSpec
from piste.errors import InvalidValue, Unsupported
from piste.formula import Expr
from piste.losses import call as call_module


class NumpyKernel:
    """The traced step, run by numpy on float64 arrays."""

    def __init__(self, spec: StepSpec, states: Sequence[ParamState]) -> None:
        self.spec, self.states = spec, states
        self.elements = sum(state.p.numel() for state in states)
        self.step = trace_step(spec)

    def launch(self, gradients: array[int], numbers: Mapping[str, Any]) -> None:
        assert [state.g.data_ptr() for state in self.states] == list(gradients)
        for state in self.states:
            state.counters[0] += 1
            inputs = {f"n_{name}": value for name, value in numbers.items()}
            inputs["n_t"] = inputs["kept_t"] = state.counters[0].item()
            tensors = (state.p, state.g, *state.buffers)
            arrays = {f"{n}_": x.detach().numpy() for n, x in zip(self.step.columns, tensors, strict=True)}
            results = [evaluate(result, {**inputs, **arrays}) for result in self.step.results]
            for name, result in zip([n for n in self.step.columns if n != "g"], results, strict=True):
                arrays[f"{name}_"][...] = result


class NumpyLoss(backends.LossKernel):
    """The traced loss of an element and its derivatives, or the traced loss of a row, run by numpy."""

    def compute(self, operands: Sequence[Tensor], arguments: LossArguments) -> backends.Computed:
        assert self.is_sum
        if self.spec.derivatives is None:
            raise backends.Declined("numpy computes losses of elements alone")
        value, slopes, faults = trace_elements(self.spec)
        arrays = {f"{c.name}_": x.detach().numpy() for c, x in zip(self.spec.operands, operands, strict=True)}
        if any(evaluate(fault, arrays).any() for fault in faults):
            raise backends.Declined("a value needs the exact checks")
        divisor = arguments.divisor or operands[0].numel()
        gradients = [torch.from_numpy(np.asarray(evaluate(slope, arrays)) / divisor) for slope in slopes]
        return torch.tensor(evaluate(value, arrays).sum() / divisor), tuple(gradients)

    def scale(self, gradients, grad, operands, arguments):
        return tuple(grad * gradient for gradient in gradients)


def evaluate(value: Any, inputs: Mapping[str, Any]) -> Any:
    if not isinstance(value, Expr):
        return value
    if value.op == "input":
        return inputs[value.args[0]]
    operands = [evaluate(x, inputs) for x in value.args]
    return NUMPY[value.op](*operands)


NUMPY = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "**": np.power, "neg": np.negative,
    "sqrt": np.sqrt, "maximum": np.maximum, "abs": np.abs, "sign": np.sign, "where": np.where, "<": np.less,
    ">": np.greater, "<=": np.less_equal, ">=": np.greater_equal, "==": np.equal,
    "exp": np.exp, "log": np.log, "log1p": np.log1p, "|": np.logical_or,
}  # fmt: skip


class NumpyBackend:
    """Float64 parameters on the CPU."""

    name = "numpy"
    devices = frozenset({"cpu"})
    takes_region_logits = False

    def describe(self) -> str:
        return "numpy"

    def why_unavailable(self) -> str | None:
        return None

    def why_not_step(self, spec: StepSpec, state: ParamState, options: Mapping[str, Any]) -> str | None:
        return None if state.p.dtype == torch.float64 else "numpy steps float64 alone"

    def step_layout(self, spec: StepSpec, state: ParamState) -> None:
        return None

    def compile_step(self, spec: StepSpec, layout: None, states: Sequence[ParamState]) -> NumpyKernel:
        return NumpyKernel(spec, states)

    def fast_step(self, *args: Any) -> None:
        return None

    def why_not_loss(self, spec: LossKernelSpec, operands: Sequence[Tensor]) -> str | None:
        return None if spec.dtype == "float64" else "numpy computes float64 alone"

    def compile_loss(self, spec: LossKernelSpec, operands: Sequence[Tensor]) -> NumpyLoss:
        return NumpyLoss(spec)


@pytest.fixture
def numpy_backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[NumpyBackend]:
    monkeypatch.setattr(backends, "BACKENDS", list(backends.BACKENDS))
    monkeypatch.setattr(call_module, "_cached_settings", {})
    loss_dispatch._dispatcher.cache_clear()
    backends.register(NumpyBackend(), first=True)
    yield backends.BACKENDS[0]
    loss_dispatch._dispatcher.cache_clear()


def parameter(dtype: torch.dtype) -> torch.nn.Parameter:
    p = torch.nn.Parameter(torch.linspace(-1, 1, 6, dtype=dtype))
    p.grad = torch.linspace(2, -1, 6, dtype=dtype)
    return p


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adamax"])
def test_a_registered_backend_steps_what_it_supports(numpy_backend, name):
    p, q, other = parameter(torch.float64), parameter(torch.float64), parameter(torch.float32)
    ours = getattr(piste.optim, name)([p, other], lr=0.1)
    theirs = getattr(torch.optim, name)([q], lr=0.1)
    assert ours.explain_backend().splitlines() == [
        f"{name}, group 0: 1 of 2 parameters by numpy, all in one pass",
        f"{name}, group 0: 1 of 2 parameters by the fused CPU kernel, all in one pass",
    ]
    for _ in range(3):
        ours.step()
        theirs.step()
    torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(other.double(), q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "SoftMarginLoss"])
def test_a_registered_backend_computes_the_losses_that_it_supports(numpy_backend, name):
    x, y = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True), torch.ones(7, dtype=torch.float64)
    ours, theirs = getattr(piste.losses, name)(), getattr(torch.nn, name)()
    assert _eagerly(ours.explain_backend(x, y)) == f"{name}: by numpy, with its gradients in one pass"
    assert _eagerly(ours.explain_backend(x.float(), y.float())) == (
        f"{name}: by the fused CPU kernel, with its gradients in one pass"
    )
    for factor in (1, 3):
        gradients = [torch.autograd.grad(factor * loss(x, y), x)[0] for loss in (ours, theirs)]
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(ours(x, y), theirs(x, y), rtol=1e-12, atol=1e-15)


def test_a_call_that_a_registered_backend_declines_is_computed_eagerly(numpy_backend):
    x, k = torch.randn(2, 3, dtype=torch.float64), torch.tensor([0, 2])
    loss = piste.losses.CrossEntropyLoss()
    assert _eagerly(loss.explain_backend(x, k)) == (
        "CrossEntropyLoss: by the eager backend: numpy computes losses of elements alone"
    )
    torch.testing.assert_close(loss(x, k), torch.nn.functional.cross_entropy(x, k))


X, Y = torch.zeros(2, 3), torch.ones(2, 3)
EXPLANATIONS = {
    "kernel": (
        lambda: piste.losses.MSELoss().explain_backend(X, Y),
        "by the fused CPU kernel, with its gradients in one pass",
    ),
    "without operands": (
        lambda: piste.losses.NLLLoss().explain_backend(),
        "by the fused CPU kernel, with its gradients in one pass",
    ),
    "images": (
        lambda: piste.losses.CrossEntropyLoss().explain_backend(torch.zeros(1, 3, 4), torch.zeros(1, 4).long()),
        "by the fused CPU kernel, with its gradients in one pass",
    ),
    "check": (
        lambda: piste.losses.MSELoss(check="nan").explain_backend(X, Y),
        'by the eager backend: check="nan" inspects every value',
    ),
    "no kernel": (lambda: piste.losses.CTCLoss().explain_backend(), "by the eager backend: it has no kernel"),
    "complex": (
        lambda: piste.losses.L1Loss().explain_backend(X + 1j, Y + 1j),
        "by the eager backend: its dtype is torch.complex64",
    ),
    "one class": (
        lambda: piste.losses.CrossEntropyLoss(check="off").explain_backend(X[:, :1], torch.zeros(2).long()),
        "by the eager backend: the kernel takes at least 2 classes",
    ),
    "dtypes of input and target": (
        lambda: piste.losses.CrossEntropyLoss(check="off").explain_backend(X, Y.double()),
        "by the eager backend: the kernel takes input and target of one dtype",
    ),
    "dtypes of vectors": (
        lambda: piste.losses.TripletMarginLoss().explain_backend(X, Y, Y.double()),
        "by the eager backend: the kernel takes vectors of one dtype",
    ),
    "a weight for each element": (
        lambda: piste.losses.MultiLabelSoftMarginLoss(torch.ones(2, 3)).explain_backend(X, Y),
        "by the eager backend: the kernel takes a weight for each class alone",
    ),
    "meta": (
        lambda: piste.losses.MSELoss().explain_backend(X.to("meta"), Y.to("meta")),
        "by the eager backend: it is on meta",
    ),
    "subclass": (
        lambda: piste.losses.MSELoss().explain_backend(X.as_subclass(Subclass), Y),
        "by the eager backend: PyTorch traces or transforms the call, or `input` is a tensor subclass",
    ),
    "empty": (
        lambda: piste.losses.MSELoss().explain_backend(X[:0], Y[:0]),
        "by the eager backend: the denominator is 0, or a tensor that can't be read here or needs a gradient",
    ),
    "gradient of the denominator": (
        lambda: piste.losses.MSELoss(normalizer=torch.tensor(2.0, requires_grad=True)).explain_backend(X, Y),
        "by the eager backend: the denominator is 0, or a tensor that can't be read here or needs a gradient",
    ),
    "word": (
        lambda: piste.losses.TripletMarginLoss(p=math.inf).explain_backend(X, Y, Y),
        "by the eager backend: the kernel has no word for its formula (",
    ),
}


class Subclass(torch.Tensor):
    pass


def _eagerly(said: str) -> str:
    """The part of an explanation about calls outside of torch.compile."""
    how, compiled, _ = said.partition(". Under torch.compile it is ")
    assert compiled
    return how


@pytest.mark.parametrize("name", EXPLANATIONS)
def test_a_loss_explains_which_backend_computes_it(name):
    explain, expected = EXPLANATIONS[name]
    how = _eagerly(explain()).partition(": ")[2]
    assert how.startswith(expected) if expected.endswith("(") else how == expected


def test_the_forced_eager_backend_is_explained(monkeypatch):
    monkeypatch.setenv("PISTE_BACKEND", "eager")
    assert _eagerly(piste.losses.MSELoss().explain_backend(X, Y)) == (
        "MSELoss: by the eager backend: PISTE_BACKEND=eager asks for it"
    )


def test_an_invalid_call_is_rejected_rather_than_explained():
    with pytest.raises(InvalidValue, match="same shape"):
        piste.losses.MSELoss().explain_backend(X, Y[:1])


def test_eager_can_be_forced_for_optimizers(monkeypatch):
    monkeypatch.setenv("PISTE_BACKEND", "eager")
    p, q = parameter(torch.float32), parameter(torch.float32)
    ours, theirs = piste.optim.Adam([p]), torch.optim.Adam([q])
    assert ours.explain_backend() == (
        "Adam, group 0: 1 of 1 parameters by the eager backend: PISTE_BACKEND=eager asks for it"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.step()
    theirs.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_a_forced_backend_refuses_what_it_does_not_support(monkeypatch):
    monkeypatch.setenv("PISTE_BACKEND", "cpu")
    p = torch.nn.Parameter(torch.ones(3, device="meta"))
    p.grad = torch.ones(3, device="meta")
    with pytest.raises(
        Unsupported,
        match=r"^PISTE_BACKEND=cpu requires the kernel, which can't step parameter 0 of shape \(3,\): it is on meta\. "
        r"Help: PISTE_BACKEND without a value falls back to the eager backend\.$",
    ):
        piste.optim.SGD([p]).step()


def test_an_unknown_backend_is_rejected(monkeypatch):
    monkeypatch.setenv("PISTE_BACKEND", "fast")
    with pytest.raises(
        InvalidValue,
        match=r"^the environment variable PISTE_BACKEND must be one of eager, cpu.*; "
        r"received 'fast'\. Known: `eager`, `cpu`",
    ):
        piste.optim.SGD([parameter(torch.float32)]).step()


LOSSES = {
    "elements": lambda: piste.losses.HuberLoss(delta=0.731)(torch.full((3,), 2.0), torch.zeros(3)),
    "rows": lambda: piste.losses.CrossEntropyLoss(label_smoothing=0.123)(torch.ones(2, 3), torch.tensor([0, 2])),
    "images": lambda: piste.losses.CrossEntropyLoss()(torch.ones(1, 3, 2, 2), torch.ones(1, 2, 2, dtype=torch.int64)),
}
VALUES = {"elements": 0.731 * (2 - 0.731 / 2), "rows": math.log(3), "images": math.log(3)}


@pytest.fixture
def no_kernels_yet(monkeypatch, tmp_path):
    """Clear all caches, as in a new process with an empty cache folder."""
    monkeypatch.setenv("PISTE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiler, "_loaded", {})
    monkeypatch.setattr(backends, "_warned", set())
    monkeypatch.setattr(call_module, "_cached_settings", {})
    caches = (loss_dispatch._dispatcher, loss_kernel.kernel_of, image_cross_entropy._module)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_a_missing_package_warns_once(monkeypatch, no_kernels_yet):
    monkeypatch.setattr("piste.engine.cpu.backend.importlib.util.find_spec", lambda name: None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            for name, loss in LOSSES.items():
                assert loss().item() == pytest.approx(VALUES[name], rel=1e-6)
            piste.optim.SGD([parameter(torch.float32)]).step()
    (warning,) = caught
    assert warning.category is RuntimeWarning
    assert warning.filename == __file__
    assert str(warning.message) == (
        "Piste falls back to the eager backend, several times slower: Numba is not installed. "
        "Help: PISTE_BACKEND=eager silences this warning."
    )


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_whose_kernel_cannot_be_compiled_warns_once_and_runs_eagerly(monkeypatch, no_kernels_yet, name):
    def fail(*args):
        raise OSError("the linker is out of order")

    monkeypatch.setattr(compiler, "_compile", fail)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert LOSSES[name]().item() == pytest.approx(VALUES[name], rel=1e-6)
    (warning,) = caught
    assert warning.filename == __file__
    assert str(warning.message) == (
        "Piste falls back to the eager backend, several times slower: the kernel of a loss could not be made (the "
        "linker is out of order). Help: PISTE_BACKEND=eager silences this warning."
    )


@pytest.mark.parametrize("name", LOSSES)
def test_eager_can_be_forced_for_losses(monkeypatch, no_kernels_yet, name):
    monkeypatch.setenv("PISTE_BACKEND", "eager")
    monkeypatch.setattr(compiler, "_compile", None)  # nothing is compiled
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert LOSSES[name]().item() == pytest.approx(VALUES[name], rel=1e-6)


def test_a_forced_backend_that_cannot_compute_a_loss_raises(monkeypatch, no_kernels_yet):
    monkeypatch.setenv("PISTE_BACKEND", "cpu")
    monkeypatch.setattr("piste.engine.cpu.backend.importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        Unsupported, match=r"^PISTE_BACKEND=cpu requires kernels, which can't run here: Numba is not installed\.$"
    ):
        LOSSES["elements"]()


def test_the_cpu_backend_is_described_as_single_threaded_without_a_thread_pool(monkeypatch):
    monkeypatch.setattr("piste.engine.cpu.backend.openmp_parallel", lambda: None)
    assert piste.optim.SGD([parameter(torch.float32)]).explain_backend() == (
        "SGD, group 0: 1 of 1 parameters by the fused CPU kernel on one thread (PyTorch has no OpenMP thread pool "
        "here), all in one pass"
    )
