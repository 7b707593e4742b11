"""Losses under autograd: second derivatives, forward mode, torch.func, torch.compile, autocast."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle

import pytest
import sympy
import torch

import piste
from piste.formula import evaluate, words
from piste.losses.pairs import PairLoss
from tests.engine.process import python
from tests.losses.cases import CASES, IMAGES, MODULES, Case, seeded

F = piste.losses.functional


def called(case: Case, operands, reduction: str):
    """Return the loss as a function of its floating operands."""
    floating = [o for o in operands if o.is_floating_point()]
    whole = [o for o in operands if not o.is_floating_point()]

    def function(*values: torch.Tensor) -> torch.Tensor:
        return case.function(*values, *whole, reduction=reduction, **case.options, check="off")

    return function, [o.clone().requires_grad_() for o in floating]


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradcheck_and_gradgradcheck(case: Case, reduction: str) -> None:
    function, operands = called(case, seeded(case), reduction)
    assert torch.autograd.gradcheck(function, operands, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, operands, fast_mode=True)


@pytest.mark.parametrize(
    "settings", [{"reduction": "batchmean"}, {"normalizer": 7}, {"normalizer": "count"}, {"empty": "zero"}], ids=str
)
def test_gradcheck_of_other_denominators(settings: dict, drawn) -> None:
    cases = [c for c in CASES if not c.options and ("reduction" not in settings or c.name == "kl_div")]
    for case in drawn(cases, 8):
        x, *rest = seeded(case)
        x.requires_grad_()
        for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
            assert check(lambda x, c=case, r=rest: c.function(x, *r, check="off", **settings), x, fast_mode=True)


@pytest.mark.parametrize("name", ["weight", "pos_weight"])
def test_gradients_reach_the_weights(name: str) -> None:
    x, y, w = torch.randn(4, 3, dtype=torch.float64), torch.rand(4, 3, dtype=torch.float64), torch.rand(3).double()
    assert torch.autograd.gradcheck(lambda v: F.binary_cross_entropy_with_logits(x, y, **{name: v}), w.requires_grad_())


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_losses_compose_with_torch_func(case: Case) -> None:
    operands = seeded(case)
    x, rest = operands[0], operands[1:]

    def function(x: torch.Tensor) -> torch.Tensor:
        return case.function(x, *rest, **case.options)

    tracked = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(tracked), tracked)
    torch.testing.assert_close(torch.func.grad(function)(x), expected)
    torch.testing.assert_close(torch.func.jacfwd(function)(x), expected)
    tangent = torch.randn_like(x)
    torch.testing.assert_close(torch.func.jvp(function, (x,), (tangent,))[1], (expected * tangent).sum())
    forward_over_reverse = torch.func.jacfwd(torch.func.jacrev(function))(x)
    torch.testing.assert_close(forward_over_reverse, torch.autograd.functional.hessian(function, x))
    is_bounded = x.min() > 0 or x.abs().max() <= 1  # by the domain of the loss
    batch = torch.stack([x, 0.5 * x + 0.1 if is_bounded else x - 1])
    each = torch.stack([function(b) for b in batch])
    torch.testing.assert_close(torch.func.vmap(function)(batch), each)
    per_sample = torch.func.vmap(torch.func.grad(function))(batch)
    torch.testing.assert_close(per_sample, torch.stack([torch.func.grad(function)(b) for b in batch]))


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.parametrize("case", [c for c in MODULES if len(c.options) < 2], ids=str)
def test_per_sample_gradients_with_batched_targets(case: Case) -> None:
    operands = seeded(case)
    is_of_a_batch = case.shapes[0] in IMAGES or issubclass(case.loss, PairLoss)
    if operands[0].dim() < 2 or case.name == "nll2d" or is_of_a_batch or "weight" in case.options:
        operands = tuple(o[None] for o in operands)
    one = torch.func.grad(lambda *sample: case.function(*sample, **case.options))
    together = torch.func.vmap(one)(*operands)
    torch.testing.assert_close(together, torch.stack([one(*sample) for sample in zip(*operands, strict=True)]))


@pytest.mark.sample(1, per="case.name", of=4)
@pytest.mark.parametrize("case", [c for c in MODULES if not c.options], ids=str)
def test_compile_captures_a_training_step_in_one_graph(case: Case) -> None:
    x, *rest = seeded(case)
    module = case.loss()
    torch._dynamo.reset()
    step = torch.compile(lambda x, *rest: module(x * 0.9, *rest), backend="aot_eager", fullgraph=True)
    results = []
    for function in (step, lambda x, *rest: module(x * 0.9, *rest)):
        tracked = x.clone().requires_grad_()
        loss = function(tracked, *rest)
        loss.backward()
        results.append((loss.detach(), tracked.grad))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["mse", "bce_with_logits", "cross_entropy", "multilabel_margin", "triplet_margin"])
def test_compile_of_forward_backward_and_step(name: str) -> None:
    case = next(c for c in MODULES if c.name == name and not c.options)
    x, *rest = seeded(case, dtype=torch.float32)
    results = []
    for wrap in (lambda step: step, lambda step: torch.compile(step, backend="aot_eager")):
        torch._dynamo.reset()
        torch.manual_seed(0)
        layer, loss = torch.nn.Linear(3, 3), case.loss()
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)

        def step(layer=layer, loss=loss, optimizer=optimizer):
            optimizer.zero_grad()
            value = loss(layer(x), *rest)
            value.backward()
            optimizer.step()
            return value.detach()

        trained = wrap(step)
        results.append([*(trained() for _ in range(3)), *layer.parameters()])
    torch.testing.assert_close(*results)


@pytest.mark.sample(1, per="case.name", of=4)
@pytest.mark.parametrize("case", [c for c in MODULES if not c.options], ids=str)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_export_and_meta_tensors(case: Case) -> None:
    operands = seeded(case)
    program = torch.export.export(case.loss(), operands)
    torch.testing.assert_close(program.module()(*operands), case.loss()(*operands))
    assert case.loss()(*(o.to("meta") for o in operands)).shape == ()


def test_autocast_gives_float32_as_in_torch() -> None:
    x, y = torch.rand(4, 3).bfloat16(), torch.rand(4, 3).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "binary_cross_entropy_with_logits"):
            assert getattr(F, name)(x, y).dtype == torch.float32
        linear = torch.nn.Linear(3, 3)
        loss = F.cross_entropy(linear(x), torch.tensor([0, 1, 2, 0]))
        assert loss.dtype == torch.float32
    loss.backward()
    assert linear.weight.grad is not None
    assert F.mse_loss(x, y).dtype == torch.bfloat16


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.parametrize("case", MODULES, ids=str)
@pytest.mark.filterwarnings("ignore:reduction:UserWarning")
def test_every_loss_gives_float32_of_16_bit_operands_under_autocast(case: Case) -> None:
    operands = seeded(case, dtype=torch.bfloat16)
    options = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in case.options.items()}
    if case.name == "bce":  # torch forbids it there; a loss of bfloat16 probabilities is all the same right
        expected = None
    else:
        wide = [o.float() if o.is_floating_point() else o for o in operands]
        expected = case.torchs(*wide, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = case.function(*operands, **options, check="off")
    assert loss.dtype == torch.float32
    if expected is not None:
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def test_gradcheck_of_batchmean() -> None:
    x, y = seeded(next(c for c in CASES if c.name == "kl_div"))
    tracked = x.requires_grad_(), y.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: F.kl_div(x, y, reduction="batchmean"), tracked, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x, y: F.kl_div(x, y, reduction="batchmean"), tracked, fast_mode=True)


def test_second_derivatives_at_a_logit_of_zero() -> None:
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(x, torch.tensor([1.0]).double())
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    assert slope.item() == -0.5
    assert torch.autograd.grad(slope, x)[0].item() == 0.25


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.parametrize("case", MODULES, ids=str)
@pytest.mark.filterwarnings("ignore:`NLLLoss2d` has been deprecated")
def test_modules_copy_pickle_and_save(case: Case) -> None:
    module, operands = case.loss(**case.options), seeded(case)
    if torchs := getattr(torch.nn, type(module).__name__, None):
        known = inspect.signature(torchs).parameters.keys() & case.options.keys()
        theirs = torchs(**{name: case.options[name] for name in known})
        assert module.state_dict().keys() == theirs.state_dict().keys()
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(twin) == repr(module)
        assert torch.equal(twin(*operands), module(*operands))


def test_module_repr_shows_what_is_not_a_default() -> None:
    assert repr(piste.losses.SmoothL1Loss()) == "SmoothL1Loss()"
    assert repr(piste.losses.HuberLoss("sum", 0.5, check="off")) == "HuberLoss(delta=0.5, reduction='sum', check='off')"
    shown = repr(piste.losses.CrossEntropyLoss(torch.ones(3), ignore_index=0))
    assert shown == "CrossEntropyLoss(weight=tensor of shape (3,), ignore_index=0)"


def test_weights_move_with_the_module_and_options_can_be_set_later() -> None:
    module = piste.losses.BCEWithLogitsLoss(pos_weight=torch.ones(3))
    assert module.double().pos_weight.dtype == torch.float64
    assert set(module.state_dict()) == {"pos_weight"}
    module.reduction = "sum"
    assert module(torch.zeros(2, 3), torch.zeros(2, 3)).item() == pytest.approx(6 * 0.6931472)
    module.reduction = "total"
    with pytest.raises(ValueError, match="`reduction` must be one of"):
        module(torch.zeros(2, 3), torch.zeros(2, 3))


class _Mathematics:
    """Evaluate a formula with SymPy."""

    sqrt, exp, log = sympy.sqrt, sympy.exp, sympy.log
    log1p = staticmethod(lambda x: sympy.log(1 + x))
    abs, sign = sympy.Abs, sympy.sign
    maximum, minimum = (lambda a, b: sympy.Max(a, b)), (lambda a, b: sympy.Min(a, b))
    where = staticmethod(lambda c, a, b: sympy.Piecewise((a, c), (b, True)))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("l1", {}),
        ("mse", {}),
        ("smooth_l1", {"beta": sympy.Rational(3, 4)}),
        ("huber", {"delta": sympy.Rational(3, 4)}),
        ("bce", {}),
        ("bce_with_logits", {}),
    ],
    ids=str,
)
def test_derivatives_match_those_of_sympy(name: str, options: dict, monkeypatch) -> None:
    own = evaluate.apply
    monkeypatch.setattr(words, "apply", lambda name, *values: getattr(_Mathematics, name)(*values))
    monkeypatch.setattr(evaluate, "apply", lambda op, *v: getattr(_Mathematics, op, functools.partial(own, op))(*v))
    loss = piste.losses.named(name)
    x, y = sympy.symbols("x y", real=True)
    value = loss.formula(x, y, **options)
    written = loss.derivatives(x, y, **options)
    for by, slope in zip((x, y), written, strict=True):
        exact = sympy.diff(value, by)
        for a, b in ((0.3, 0.6), (0.7, 0.2), (0.9, 0.05), (0.1, 0.95)):
            difference = (exact - slope).subs({x: a, y: b}).evalf(30)
            assert abs(difference) < 1e-12, (by, a, b)


COMPILED = """
import warnings
import torch
from piste import losses
x = torch.rand(6, 3, requires_grad=True)
calls = [
    (losses.MSELoss(), torch.rand(6, 3)),
    (losses.CrossEntropyLoss(), torch.tensor([0, 1, 2, 0, 1, 2])),
    (losses.CrossEntropyLoss(), torch.full((6, 3), 1 / 3)),
    (losses.BCEWithLogitsLoss(), torch.ones(6, 3)),
]
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for loss, y in calls:
        compiled = torch.compile(lambda x, y: loss(x * 1.0, y), backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x, y), loss(x, y))
        torch._dynamo.reset()
print([str(warning.message) for warning in said] or "silent")
"""


def test_compiled_losses_print_no_warning() -> None:
    assert python(COMPILED) == "silent"
