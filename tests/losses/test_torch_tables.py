"""PyTorch's own test tables of losses, which its wheel contains, run with Piste's losses."""

from __future__ import annotations

import re

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.common_nn import criterion_tests

from piste import losses
from piste.errors import PisteError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

VALUES = {  # samples whose values Piste refuses; with check="off" they give torch's number
    "never above 0": "the tables draw log-probabilities from a normal distribution",
    "-1 or 1": "the tables draw labels from a normal distribution, or with 0 among them",
    "must hold class weights in": "the tables draw class weights from a normal distribution",
    "sums to": "the tables draw class probabilities that are none",
    "must be at least 0": "the tables draw probabilities, rates and variances below 0",
    "must be in [0, 1]": "the tables draw 0/1 labels from a normal distribution",
}
SHAPES = {  # samples that Piste refuses always
    "must have the same shape": "torch broadcasts a target",
    "must be (C) or (N, C)": "torch takes a single number for a row of one class",
    "target.squeeze(0)": "torch takes a target (1) for an input (C)",
}

FUNCTIONS = [
    op
    for op in op_db
    if op.name.startswith("nn.functional.") and op.name.rsplit(".", 1)[1] in losses.functional.__all__
]
MODULES = [m for m in module_db if m.module_cls.__name__ in losses.__all__]


def agrees(ours, theirs) -> None:
    """Assert that the value is torch's, or that an intended rejection is lifted by check="off"."""
    expected = theirs()
    try:
        result = ours()
    except PisteError as refusal:
        if any(part in str(refusal) for part in SHAPES):
            return
        assert any(part in str(refusal) for part in VALUES), refusal
        result = ours(check="off")
    torch.testing.assert_close(result, expected, equal_nan=True)


@pytest.mark.sample(1, per="op.name", of=8)
@pytest.mark.parametrize("op", FUNCTIONS, ids=lambda op: op.name)
def test_functions_on_the_samples_of_op_db(op) -> None:
    ours = getattr(losses.functional, op.name.rsplit(".", 1)[1])
    torch.manual_seed(0)
    for sample in op.sample_inputs("cpu", torch.float64, requires_grad=False):
        given = (sample.input, *sample.args)
        agrees(
            lambda given=given, k=sample.kwargs, **check: ours(*given, **k, **check),
            lambda given=given, k=sample.kwargs: op.op(*given, **k),
        )


@pytest.mark.sample(1, per="op.name", of=8)
@pytest.mark.parametrize(
    "op",
    [op for op in FUNCTIONS if "linear_cross_entropy" not in op.name],  # torch's, but for the checks
    ids=lambda op: op.name,
)
def test_gradients_on_the_samples_of_op_db(op) -> None:
    ours = getattr(losses.functional, op.name.rsplit(".", 1)[1])
    torch.manual_seed(0)
    for sample in op.sample_inputs("cpu", torch.float64, requires_grad=True):
        given = (sample.input, *sample.args)
        try:
            result = ours(*given, **sample.kwargs, check="off")
        except PisteError:
            continue
        expected = op.op(*given, **sample.kwargs)
        wanted = [x for x in (*given, *sample.kwargs.values()) if isinstance(x, torch.Tensor) and x.requires_grad]
        grad = torch.rand_like(expected)
        mine = torch.autograd.grad(result, wanted, grad, allow_unused=True)
        torchs = torch.autograd.grad(expected, wanted, grad, allow_unused=True)
        for x, a, b in zip(wanted, mine, torchs, strict=True):
            a, b = (torch.zeros_like(x) if g is None else g for g in (a, b))
            torch.testing.assert_close(a, b, equal_nan=True)


@pytest.mark.parametrize("op", [op for op in FUNCTIONS if op.error_inputs_func], ids=lambda op: op.name)
def test_samples_that_torch_rejects_are_rejected(op) -> None:
    ours = getattr(losses.functional, op.name.rsplit(".", 1)[1])
    for error in op.error_inputs("cpu"):
        sample = error.sample_input
        with pytest.raises((ValueError, TypeError, RuntimeError)):
            ours(sample.input, *sample.args, **sample.kwargs)


@pytest.mark.sample(8)
@pytest.mark.parametrize("info", MODULES, ids=lambda info: info.module_cls.__name__)
def test_modules_on_the_inputs_of_module_db(info) -> None:
    cls = getattr(losses, info.module_cls.__name__)
    torch.manual_seed(0)
    for sample in info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=False, training=True):
        args, kwargs = sample.constructor_input.args, sample.constructor_input.kwargs
        given = sample.forward_input
        theirs = info.module_cls(*args, **kwargs)

        def ours(cls=cls, args=args, kwargs=kwargs, theirs=theirs, given=given, **check):
            module = cls(*args, **kwargs, **check)
            module.load_state_dict(theirs.state_dict())
            return module(*given.args, **given.kwargs)

        agrees(ours, lambda theirs=theirs, given=given: theirs(*given.args, **given.kwargs))


@pytest.mark.parametrize(
    "info", [m for m in MODULES if m.module_error_inputs_func], ids=lambda info: info.module_cls.__name__
)
def test_module_samples_that_torch_rejects_are_rejected(info) -> None:
    cls = getattr(losses, info.module_cls.__name__)
    for error in info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float64, requires_grad=False, training=True
    ):
        made, given = error.module_error_input.constructor_input, error.module_error_input.forward_input
        if "expected scalar type" in error.error_regex:  # weights of another dtype are converted
            continue
        with pytest.raises((ValueError, TypeError, RuntimeError)):
            module = cls(*made.args, **made.kwargs)
            module(*given.args, **given.kwargs)


@pytest.mark.sample(16)
@pytest.mark.parametrize("entry", criterion_tests, ids=lambda entry: entry["fullname"])
def test_criteria_against_their_reference_functions(entry) -> None:
    name, reduction = re.fullmatch(r"(\w+?)_no_batch_dim_(\w+)", entry["fullname"]).groups()
    torch.manual_seed(0)
    sizes = [entry.get(f"{kind}_size") for kind in ("input", "target")]
    input, target = (
        entry[f"{kind}_fn"]() if f"{kind}_fn" in entry else torch.rand(size, dtype=torch.float64)
        for kind, size in zip(("input", "target"), sizes, strict=True)
    )
    inputs = input if isinstance(input, tuple) else (input,)
    targets = target if isinstance(target, tuple) else (target,)
    for check in ("raise", "off"):
        module = getattr(losses, name)(reduction=reduction, check=check)
        try:
            result = module(*inputs, *targets)
        except PisteError as refusal:
            assert check == "raise" and any(part in str(refusal) for part in VALUES), refusal
            continue
        torch.testing.assert_close(result, entry["reference_fn"](input, target, module))
        by = [x.detach().requires_grad_() for x in inputs]
        given = tuple(by) if isinstance(input, tuple) else by[0]
        mine = torch.autograd.grad(module(*by, *targets).sum(), by)
        theirs = torch.autograd.grad(entry["reference_fn"](given, target, module).sum(), by)
        torch.testing.assert_close(mine, theirs)


def test_the_tables_are_not_empty() -> None:
    assert len(FUNCTIONS) >= 17 and len(MODULES) >= 18 and len(criterion_tests) >= 40
