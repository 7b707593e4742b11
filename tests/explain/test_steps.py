"""The explanation of optimizers: its words, and every number against torch.optim or plain arithmetic."""

from __future__ import annotations

import re

import pytest
import torch

import piste
from piste.errors import InvalidType, InvalidValue
from piste.explain import explain
from piste.formula import mean, norm, sign, total
from piste.optim.options import rate
from tests.optim.cases import ELEMENTWISE, OPTIONS
from tests.oracle.optim import step as oracle_step
from tests.oracle.rounding import DOUBLE

CASES = [(name, options) for name in ELEMENTWISE for options in OPTIONS[name]]


def reference(name: str, options: dict, param: float, grad: float, steps: int) -> list[float]:
    """Return the parameter after each step of torch.optim, or of the oracle for an optimizer that torch lacks."""
    if not hasattr(torch.optim, name):
        p, state, values = param, {}, []
        for t in range(1, steps + 1):
            p, state = oracle_step(name, float(p), grad, state, t, options, DOUBLE)
            state = {key: float(value) for key, value in state.items()}
            values.append(float(p))
        return values
    tensor = torch.tensor(param, dtype=torch.float64, requires_grad=True)
    optimizer = getattr(torch.optim, name)([tensor], **options)
    values = []
    for _ in range(steps):
        tensor.grad = torch.tensor(grad, dtype=torch.float64)
        optimizer.step()
        values.append(tensor.item())
    return values


def after(text: str, letter: str = "p") -> list[float]:
    """Return the values of a letter in the text after each step."""
    return [float(x) for x in re.findall(rf"after: .*?\b{letter} = (\S+?)(?:,|\n)", text)]


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda case: str(case))
def test_each_step_of_every_optimizer_equals_that_of_torch(name: str, options: dict) -> None:
    explanation = explain(name.lower(), 0.75, 0.5, steps=3, **options)
    expected = reference(name, options, 0.75, 0.5, 3)
    assert after(explanation.text) == pytest.approx(expected, rel=1e-5)
    assert explanation.value is not None and explanation.value.item() == pytest.approx(expected[-1], rel=1e-6)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_each_value_of_a_formula_has_a_name_of_its_own(name: str) -> None:
    formula = explain(name, 0.75, 0.5).text.partition("with p =")[0]
    names = re.findall(r"^  (\S+) =", formula, re.MULTILINE)
    assert len(names) == len(set(names)) > 0


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda case: str(case))
def test_the_last_line_of_each_step_computes_the_new_parameter(name: str, options: dict) -> None:
    text = explain(name, 0.75, 0.5, steps=2, **options).text
    lines = re.findall(r"p' = (.*) = (\S+)\n  after: p = (\S+?),?(?: .*)?\n", text)
    assert len(lines) == 2
    for arithmetic, result, stated in lines:
        assert result == stated
        assert eval(arithmetic) == pytest.approx(float(result), rel=2e-5)


ADAM = """\
Adam(lr=0.1, betas=(0.9, 0.99))

Formula
  m' = beta1 * m + (1 - beta1) * g
  m_hat = m' / (1 - beta1 ** t)
  v' = beta2 * v + (1 - beta2) * g * g
  v_hat = v' / (1 - beta2 ** t)
  d = m_hat / (sqrt(v_hat) + eps)
  p' = p - lr * d
with p = the parameter, g = its gradient, t = the step, m = exp_avg, v = exp_avg_sq, lr = 0.1, beta1 = 0.9, \
beta2 = 0.99, eps = 1e-08

Step 1
  before: p = 1, g = 0.5, m = 0, v = 0
  m' = 0.9 * 0 + (1 - 0.9) * 0.5 = 0.05
  m_hat = 0.05 / (1 - 0.9 ** 1) = 0.5
  v' = 0.99 * 0 + (1 - 0.99) * 0.5 * 0.5 = 0.0025
  v_hat = 0.0025 / (1 - 0.99 ** 1) = 0.25
  d = 0.5 / (sqrt(0.25) + 1e-08) = 1
  p' = 1 - 0.1 * 1 = 0.9
  after: p = 0.9, m = 0.05, v = 0.0025

Step 2
  before: p = 0.9, g = 0.5, m = 0.05, v = 0.0025
  m' = 0.9 * 0.05 + (1 - 0.9) * 0.5 = 0.095
  m_hat = 0.095 / (1 - 0.9 ** 2) = 0.5
  v' = 0.99 * 0.0025 + (1 - 0.99) * 0.5 * 0.5 = 0.004975
  v_hat = 0.004975 / (1 - 0.99 ** 2) = 0.25
  d = 0.5 / (sqrt(0.25) + 1e-08) = 1
  p' = 0.9 - 0.1 * 1 = 0.8
  after: p = 0.8, m = 0.095, v = 0.004975

Result
  p = 0.8"""


def test_adam_is_explained_step_by_step() -> None:
    assert str(explain("adam", 1.0, 0.5, lr=0.1, betas=(0.9, 0.99), steps=2)) == ADAM


def test_decoupled_decay_changes_the_parameter_and_coupled_decay_the_gradient() -> None:
    coupled, decoupled = (str(explain(name, 2.0, 0.5, weight_decay=0.1)) for name in ("adam", "adamw"))
    assert "g' = g + weight_decay * p\n" in coupled and "g' = 0.5 + 0.1 * 2 = 0.7\n" in coupled
    assert "p' = p * (1 - lr * weight_decay) - lr * d\n" in decoupled
    assert "g'" not in decoupled


def test_maximize_negates_the_gradient() -> None:
    text = str(explain("sgd", 1.0, 0.5, lr=0.1, maximize=True))
    assert "g' = -g\n" in text and "g' = -0.5\n" in text
    assert after(text) == [1.05]


def test_scalars_of_a_step_are_computed_before_its_elements() -> None:
    text = str(explain("adagrad", 1.0, 0.5, lr=0.1, lr_decay=0.5, steps=2))
    assert "lr' = lr / (1 + (t - 1) * lr_decay)\n" in text
    assert "lr' = 0.1 / (1 + (1 - 1) * 0.5) = 0.1\n" in text
    assert "lr' = 0.1 / (1 + (2 - 1) * 0.5) = 0.0666667\n" in text


def test_a_condition_is_written_as_the_branch_it_takes() -> None:
    text = str(explain("radam", 1.0, 0.1, lr=0.1))
    assert "> 5 = false\n" in text and "d = 0.1\n" in text
    assert "m_hat                                                 elsewhere" in text


def test_elements_of_a_tensor_are_explained_one_by_one() -> None:
    text = str(explain("sgd", [[1.0, 2.0]], [[0.5, -0.5]], lr=0.1))
    assert "element (0, 0)\n    before: p = 1, g = 0.5\n    p' = 1 - 0.1 * 0.5 = 0.95\n    after: p = 0.95" in text
    assert "element (0, 1)\n    before: p = 2, g = -0.5\n    p' = 2 - 0.1 * (-0.5) = 2.05\n" in text
    assert text.endswith("Result\n  p = [[0.95, 2.05]]")


def test_the_largest_changes_of_many_elements_are_shown() -> None:
    grad = torch.linspace(0.0, 1.0, 100)
    grad[7] = -5.0
    text = str(explain("sgd", grad=grad, lr=0.1))
    assert "the 5 of 100 elements that move most:\n  element 7\n" in text
    assert re.findall(r"element (\d+)", text) == ["7", "99", "98", "97", "96"]
    assert text.endswith("Result\n  p = a tensor of shape (100,)")


def test_a_gradient_alone_starts_from_ones() -> None:
    assert explain("sgd", grad=[1, 2], lr=0.5).value.tolist() == [0.5, 0.0]
    assert explain("sgd", param=[3, 4], grad=[1, 2], lr=0.5).value.tolist() == [2.5, 3.0]


def test_an_optimizer_is_given_by_name_class_or_instance() -> None:
    w = torch.zeros(2, requires_grad=True)
    built = piste.optim.Adam([w], lr=0.1, amsgrad=True)
    texts = {
        explain(by, 1.0, 0.5, lr=0.1, amsgrad=True).text.split("\n\n", 1)[1]
        for by in ("adam", "Adam", "optim.Adam", piste.optim.Adam, built)
    }
    assert len(texts) == 1
    assert explain(built, 1.0, 0.5).value == explain("adam", 1.0, 0.5, lr=0.1, amsgrad=True).value
    assert w.tolist() == [0, 0] and not built.state


@pytest.mark.parametrize("convention", ["keras", "optax"])
def test_an_instance_is_explained_by_the_formula_of_its_convention(convention: str) -> None:
    p = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = piste.optim.Adam([p], learning_rate=0.1, convention=convention)
    optimizer.param_groups[0]["eps"] = 0.5  # PyTorch adds it after the correction of the bias, Keras before
    told = explain(optimizer, 1.0, 0.5)
    p.grad = torch.full_like(p, 0.5)
    optimizer.step()
    torch.testing.assert_close(told.value, p.detach().squeeze())
    assert f"convention='{convention}'" in told.text.splitlines()[0]


def test_the_shared_options_of_an_instance_are_in_the_explained_step() -> None:
    options = {"lr": 0.5, "weight_decay": 0.1, "cautious": True, "decoupled_decay": "independent", "max_value": 1.0}
    w = torch.zeros(2, requires_grad=True)
    built = piste.optim.SGD([w], **options)
    moved = explain(built, [1.0, 2.0], [0.5, 3.0]).value  # both agree: times 2 / 3; the second gradient is clipped
    assert moved.tolist() == pytest.approx([0.9 - 0.5 * 0.5 * 2 / 3, 1.8 - 0.5 * 1.0 * 2 / 3])


def test_a_custom_optimizer_is_explained_from_its_formula() -> None:
    class Signum(piste.optim.Optimizer):
        options = {"lr": rate(0.1)}
        buffers = {"average": "m"}

        def update(g, m):
            m = 0.5 * m + 0.5 * g
            return sign(m), m

    text = str(explain(Signum, 1.0, -4.0))
    assert "m' = 0.5 * m + 0.5 * g\n  d = sign(m')\n  p' = p - lr * d\n" in text
    assert "m' = 0.5 * 0 + 0.5 * (-4) = -2\n  d = sign(-2) = -1\n  p' = 1 - 0.1 * (-1) = 1.1\n" in text


def test_the_passed_tensors_are_not_changed() -> None:
    p, g = torch.ones(2, requires_grad=True), torch.ones(2)
    explain("adam", p, g, steps=2)
    assert p.tolist() == g.tolist() == [1, 1] and p.grad is None


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: explain("adam", 1.0, 1.0, steps=0), InvalidValue, r"`steps` .* in \[1, 100\]; received steps=0"),
        (lambda: explain("adam", 1.0, 1.0, steps=101), InvalidValue, "received steps=101"),
        (lambda: explain("adam", 1.0, 1.0, steps=True), InvalidValue, "received steps=True"),
        (lambda: explain("adam", 1.0, 1.0, steps=1.5), InvalidValue, "received steps=1.5"),
        (lambda: explain("adam", [1, 2], 1.0), InvalidValue, r"shape of `param`; received \(\) and \(2,\)\. Help: "),
        (lambda: explain("adam", 1j, 1j), InvalidValue, "must be real; received complex"),
        (lambda: explain("adam", 1.0, 1.0, lr=-1), InvalidValue, "`lr` must be in"),
        (lambda: explain("adam", 1.0), InvalidType, r"Adam takes 2 operands \(`param`, `grad`\); received 1\. Help: "),
        (lambda: explain("adamm", 1.0, 1.0), InvalidValue, "no loss or optimizer named 'adamm'. Did you mean `adam`"),
    ],
)
def test_a_wrong_call_is_rejected(call, error, words) -> None:
    with pytest.raises(error, match=words):
        call()


def test_a_clipped_gradient_is_worked_through():
    text = piste.explain("sgd", param=[1.0, 1.0], grad=[3.0, 4.0], lr=1.0, max_norm=1.0).text
    assert "g' = g * min(max_norm / (grad_norm + 1e-06), 1)" in text
    assert "g' = 3 * min(1 / (5 + 1e-06), 1) = 0.6" in text
    assert "p = [0.4, 0.2]" in text


@pytest.mark.filterwarnings("error")
def test_an_option_that_requires_grad_is_a_number():
    repeats = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # PyTorch warns once in a process
    try:
        text = str(explain("adam", [1.0], [0.5], lr=torch.tensor(0.25, requires_grad=True)))
    finally:
        torch.set_warn_always(repeats)
    assert "p = [0.75]" in text


class Centred(piste.optim.Optimizer):
    """Reduces over the tensor, over rows and over columns."""

    options = {"lr": rate(0.5)}

    def update(g):
        across, down = mean(g, over="row"), total(g, over="column")
        return (g - across) * down / norm(g)


REDUCING = [("LAMB", {"weight_decay": 0.1}), ("LARS", {}), ("StableAdamW", {}), ("Adam", {"cautious": True})]


@pytest.mark.parametrize(("rule", "options"), [*REDUCING, (Centred, {})], ids=str)
def test_values_that_are_reduced_are_those_of_all_elements(rule, options: dict) -> None:
    param, grad = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.25, 2.0]]), torch.tensor([[3.0, -4.0, 0.1], [0.2, 1.0, -0.5]])
    text = explain(rule, param, grad, steps=3, lr=0.1, **options).text
    elements = re.findall(r"p' = (.*) = (\S+)\n    after: p = (\S+?),?(?: .*)?\n", text)
    assert len(elements) == 18
    for arithmetic, result, stated in elements:
        assert result == stated
        assert eval(arithmetic) == pytest.approx(float(result), rel=2e-5)


def test_reduced_values_are_stated_once_for_a_step() -> None:
    text = str(explain("lars", [3.0, 4.0], [6.0, 8.0], lr=0.1))
    assert "Step 1\n  sum(p * p) = 25, over all elements\n  sum(g * g) = 100, over all elements\n  element 0\n" in text
    assert text.count("    size = sqrt(25) = 5\n") == text.count("    length = sqrt(100) + 0 * 5 = 10\n") == 2
    text = str(explain(Centred, [[0.0, 0.0]], [[3.0, 4.0]]))
    assert "d = (3 - 3.5) * 3 / sqrt(25) = -0.3\n" in text and "d = (4 - 3.5) * 4 / sqrt(25) = 0.4\n" in text


def test_a_rule_of_matrices_is_referred_to_its_help() -> None:
    class Halves(piste.optim.Optimizer):
        options = {"lr": rate(0.5)}

        def before(g):
            return g

        def matrix(u):
            return u / 2

    class Rows(piste.optim.Optimizer):
        options = {"lr": rate(0.5)}
        buffers = {"row": piste.optim.Buffer("r", shape="rows")}

        def update(g, r):
            return g, r

    for rule in (Halves, Rows):
        with pytest.raises(InvalidValue, match=rf"whose step is of whole tensors\. Help: help\({rule.__name__}\)"):
            explain(rule, [[1.0]], [[1.0]])


def test_a_tensor_without_elements_has_no_reduced_values():
    assert explain("LAMB", torch.zeros(0), torch.zeros(0)).text.endswith("Result\n  p = []")
