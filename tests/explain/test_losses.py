"""The explanation of losses: its words, and every number against an independent computation."""

from __future__ import annotations

import math

import pytest
import torch

import piste.losses
from piste.errors import InvalidType, InvalidValue
from piste.explain import explain
from piste.formula.printing import read, render
from piste.losses.registry import LOSSES

SAMPLE, TARGET = [[1, 1], [1, 1]], [[0, 1], [2, 3]]
LOSSES = sorted(set(LOSSES.values()), key=lambda loss: loss.name)


def operands(loss: type[piste.losses.Loss]):
    return eval(f"({loss.example},)", {"torch": torch})


def shows(text: object, *lines: str) -> None:
    for line in lines:
        assert line in str(text), f"{line!r} is not in:\n{text}"


@pytest.mark.parametrize("loss", ["bce", "hinge_embedding", "poisson_nll"])
def test_integers_in_the_shape_of_the_input_are_real_numbers(loss: str) -> None:
    assert str(explain(loss, [0.5, 0.25], [1, 1])) == str(explain(loss, [0.5, 0.25], [1.0, 1.0]))


def test_operands_may_be_given_by_name() -> None:
    by_name = explain("gaussian_nll", [1.0], var=[2.0], target=[0.5])
    assert by_name.text == explain("gaussian_nll", [1.0], [0.5], [2.0]).text
    with pytest.raises(InvalidType, match="L1Loss received the operand `input` by position and by name"):
        explain("l1", [1.0], [2.0], input=[1.0])


def test_lists_are_accepted_for_tensor_options() -> None:
    x, k, weight = torch.tensor([[2.0, 0, 1], [0, 1, 0]]), torch.tensor([2, 1]), [1, 2, 3]
    expected = torch.nn.functional.cross_entropy(x, k, torch.tensor(weight).float())
    assert explain("cross_entropy", x.tolist(), k.tolist(), weight=weight).value == expected
    element = explain("bce_with_logits", [0.5, 1.0], [1, 0], pos_weight=[2, 3]).value
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor([0.5, 1.0]), torch.tensor([1.0, 0]), pos_weight=torch.tensor([2.0, 3])
    )
    assert element == wanted


def test_integers_stay_integers_where_they_are_indices() -> None:
    text = explain("multilabel_margin", [[1, 2, 3]], [[1, -1, 0]])
    value = torch.nn.functional.multilabel_margin_loss(torch.tensor([[1.0, 2, 3]]), torch.tensor([[1, -1, 0]]))
    shows(text, f"Result\n  {value.item():.6g}")


def test_a_wrong_number_of_operands_is_rejected_with_their_names() -> None:
    words = (
        r"GaussianNLLLoss takes 3 operands \(`input`, `target`, `var`\); received 2\. Help: explain\('gaussian_nll', "
    )
    with pytest.raises(InvalidType, match=words):
        explain("gaussian_nll", [1.0], [1.0])
    with pytest.raises(InvalidType, match=r"L1Loss takes 2 operands .* received 3"):
        explain("l1", [1.0], [1.0], [1.0])


def test_l1_is_explained_step_by_step() -> None:
    text = explain("l1", SAMPLE, TARGET)
    shows(text, "loss = |x - y|", "(0, 0)  |1 - 0| = 1", "(0, 1)  |1 - 1| = 0", "(1, 0)  |1 - 2| = 1", "|1 - 3| = 2")
    shows(text, "1 + 0 + 1 + 2 = 4", "4 / 4 = 1   (divided by the number of elements)")
    shows(text, "d loss / d x = sign(x - y), each divided by 4", "[[0.25, 0], [-0.25, -0.25]]")
    assert text.value.item() == 1 and text.refusal is None and repr(text) == str(text)


def test_smooth_l1_names_the_branch_of_each_element_and_how_huber_differs() -> None:
    text = explain("smooth_l1", SAMPLE, TARGET)
    shows(text, "d = |x - y|", "loss = 0.5 * d * d / beta   where d < beta", "d - 0.5 * beta       elsewhere")
    shows(text, "d = |1 - 1| = 0;  0.5 * 0 * 0 / 1 = 0;  (quadratic, as 0 < 1 is true)")
    shows(text, "d = |1 - 3| = 2;  2 - 0.5 * 1 = 1.5;  (linear, as 2 < 1 is false)")
    shows(
        text, "quadratic, d < beta: 1 of 4;  linear: 3", "2.5 / 4 = 0.625", "HuberLoss(delta=1) has the same branches"
    )
    shows(explain("huber", SAMPLE, TARGET, delta=2.0), "SmoothL1Loss(beta=2)", "quadratic, d <= delta: 4 of 4")
    shows(explain("smooth_l1", SAMPLE, TARGET, beta=0.0), "SmoothL1Loss with beta = 0 is L1Loss.", "loss = |x - y|")


def test_capped_logits_of_both_signs_are_written_with_their_signs() -> None:
    text = explain("cross_entropy", [[1.0, -2.0]], [0], softcap=5.0)
    capped = ", ".join(f"{5 * math.tanh(x / 5):.6g}" for x in (1, -2))
    e = "exp(([1, -2] if [1, -2] > 0 else -[1, -2]) * (-2) / 5)"
    shows(text, f"x = 5 * (1 - {e} if [1, -2] > 0 else {e} - 1) / (1 + {e}) = [{capped}];  p = [{capped}]")


def test_the_stated_relation_of_huber_and_smooth_l1_holds() -> None:
    x, y = torch.randn(50), torch.randn(50)
    for beta in (0.5, 1.0, 2.0):
        huber = piste.losses.HuberLoss(delta=beta)(x, y)
        torch.testing.assert_close(huber, beta * piste.losses.SmoothL1Loss(beta=beta)(x, y))


def test_mse_writes_negative_numbers_in_parentheses() -> None:
    shows(explain("mse", SAMPLE, TARGET), "d = 1 - 3 = -2;  (-2) * (-2) = 4", "1 + 0 + 1 + 4 = 6", "6 / 4 = 1.5")


def test_bce_is_rejected_and_explained_with_checks_off() -> None:
    refused = explain("bce", SAMPLE, TARGET)
    shows(
        refused, "Refused\n  BCELoss: `target` must be in [0, 1]", "3.0 at (1, 1)", "A line that works\n  piste.losses"
    )
    shows(refused, 'With check="off" there is a result all the same, -50')
    assert isinstance(refused.refusal, InvalidValue) and refused.value is None
    worked = explain("bce", SAMPLE, TARGET, check="off")
    shows(worked, "(log(1 - 1) = -inf is clamped to -100)", "log(1 - x) clamped to -100: 4 of 4")
    shows(worked, "100 + 0 - 100 - 200 = -200", "-200 / 4 = -50", "Result\n  -50")


def test_cross_entropy_is_rejected_and_explained_with_checks_off() -> None:
    probabilities = torch.tensor(TARGET).float()
    shows(explain("cross_entropy", SAMPLE, probabilities), "row 1 sums to 5", "torch.tensor([0, 2, 1])", "2.07944")
    worked = explain("cross_entropy", SAMPLE, probabilities, check="off")
    shows(worked, "z = x - log(sum(exp(x)))", "loss = -sum(y * p)", "with x = a row of input, y = a row of class prob")
    shows(worked, "row 0:  z = [1, 1] - log(sum(exp([1, 1]))) = [-0.693147, -0.693147]", "= 3.46574")
    shows(worked, "4.15888 / 2 = 2.07944   (divided by the number of rows)")
    assert worked.value.item() == pytest.approx(3 * math.log(2))


def test_cross_entropy_is_explained_with_every_option() -> None:
    loss = piste.losses.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]), ignore_index=1, label_smoothing=0.1)
    text = explain(loss, [[2, 0, 0], [0, 1, 3], [1, 1, 1]], [0, 1, 2])
    shows(text, "sharp = -w[k] * p[k]", "even = -sum(w * p) / C", "label_smoothing = 0.1", "row 1:  ignored: 0")
    shows(text, "sharp = -3 * (-1.09861) = 3.29584", "ignored: 1 of 3")
    shows(text, "(divided by the sum of the weights of the rows that are not ignored)", "3.78281 / 4 = 0.945702")


def test_nll_explains_its_operands() -> None:
    text = explain("nll", SAMPLE, TARGET)
    shows(
        text,
        "log-probabilities (N, C)",
        "class indices (N)",
        "of dtype int64",
        "A line that works: piste.losses.NLLLoss()",
    )
    shows(explain("nll2d", SAMPLE, TARGET), "`input` must be (N, C, H, W)", "A line that works")
    shows(explain("nll", [[-1.0, -2.0], [-0.5, -3.0]], [1, 0]), "loss = -x[k]", "-(-2) = 2", "2.5 / 2 = 1.25")


def test_a_sample_of_one_label_is_written_in_the_singular() -> None:
    x = torch.tensor([[[-1.0, -0.5]], [[-1.0, -0.5]]])
    shows(explain("ctc", x, [[1]], [2], [1]), " for 1 label\n")


@pytest.mark.sample(1, per="loss.name", of=6)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_every_loss_is_explained_by_its_class_instance_function_and_name(loss) -> None:
    given = operands(loss)
    function = getattr(piste.losses.functional, loss.functional_name)
    texts = {str(explain(by, *given)) for by in (loss, loss(), loss.name, loss.__name__)}
    assert len(texts) == 1
    text = texts.pop()
    if function.loss is loss:
        assert str(explain(function, *given)) == text
    value = loss()(*given)
    shows(text, "Reduction: mean", f"Result\n  {value.item() + 0.0:.6g}")
    assert explain(loss, *given).value == value
    if loss.name == "ctc":  # torch computes it: there is no formula to show
        shows(text, "Computed by torch.nn.functional.ctc_loss", "sample 0:", "for 2 labels")
        return
    shows(text, "Formula", "Gradient")
    shows(explain(loss, *given, reduction="sum"), "Reduction: sum")
    shows(explain(loss, *given, reduction="none"), "Reduction: none\n  every value is kept")
    shows(explain(loss, *given, normalizer=3.0), "(divided by the normalizer)")


@pytest.mark.parametrize("name", ["l1", "mse", "smooth_l1", "huber", "bce_with_logits"])
def test_large_inputs_show_the_largest_contributions(name: str) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(40, 30), torch.rand(40, 30)
    x[7, 3] = 50.0
    y[7, 3] = 0.0
    text = explain(name, x, y)
    shows(text, "The 5 of 1200 elements that contribute most\n  (7, 3)", "the sum of 1200 elements = ", "largest: ")
    x[1, 2], x[0, 0] = math.nan, math.inf
    text = explain(name, x, y)
    shows(text, "not finite: 2 of 1200", "(1, 2)")
    if name == "smooth_l1":
        shows(text, f"quadratic, d < beta: {int(((x - y).abs() < 1).sum())} of 1200")


def test_large_inputs_of_classes_show_the_classes_that_contribute_most() -> None:
    torch.manual_seed(0)
    x, k = torch.randn(300, 10), torch.randint(9, (300,))
    x[:, 4] -= 20
    k[::7] = -100
    text = explain(piste.losses.functional.cross_entropy, x, k)
    rows = torch.nn.functional.cross_entropy(x.double(), k, reduction="none")
    four = rows[k == 4]
    shows(
        text, f"class 4: {len(four)} rows, {four.sum():.6g} of {rows.sum():.6g}", f"ignored: {(k == -100).sum()} of 300"
    )
    shows(text, f"row {int(rows.argmax())}:  p = [", ", ...]")


def test_each_branch_of_a_formula_is_counted_among_the_elements_that_reach_it() -> None:
    torch.manual_seed(0)
    x, a, b = torch.randn(3, 500).abs()
    y = 2 * torch.randint(2, (500,)) - 1
    unlike, beyond = int((y == -1).sum()), int(((y == -1) & (x > 1)).sum())
    text = explain("hinge_embedding", x, y)
    shows(text, f"where margin - x < 0: {beyond} of {unlike}\n", f"where y == 1: {500 - unlike} of 500\n")
    right = int((0.5 - y * (a - b) < 0).sum())
    shows(explain("margin_ranking", a, b, y, margin=0.5), f"where z < 0: {right} of 500\n")
    shows(explain("soft_margin", x, y), f"where z > 0: {unlike} of 500\n")
    rows, others = torch.randn(2, 100, 7)
    labels = y[:100]
    far = torch.nn.functional.cosine_similarity(rows, others) < 0.125
    counted = f"where c < margin: {int((far & (labels == -1)).sum())} of {int((labels == -1).sum())}\n"
    shows(explain("cosine_embedding", rows, others, labels, margin=0.125), counted)
    k = torch.arange(100) % 7
    z = 1 - rows.gather(1, k[:, None]) + rows
    idle = int((z.scatter(1, k[:, None], -1.0) <= 0).sum())
    shows(explain("multi_margin", rows, k), f"where c == k or z <= 0: {idle} of 700 entries\n")
    counts = torch.arange(500) % 4
    text = explain("poisson_nll", x, counts, full=True)
    shows(text, "where y == 0: 125 of 500", "where y > 1: 250 of 500")
    assert "where" not in str(explain("hinge_embedding", x[:2], y[:2])).split("Elements")[1].split("Gradient")[0]


def test_classes_contribute_where_the_target_is_a_row() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(200, 6), torch.randn(200, 6).softmax(1)
    y[:, 4] += 1
    y = y / y.sum(1, keepdim=True)
    parts = -(y.double() * x.double().log_softmax(1)).sum(0)
    shows(explain("cross_entropy", x, y), f"class 4: {parts[4]:.6g} of {parts.sum():.6g}\n")
    labels = torch.randint(2, (200, 6)).float()
    parts = (
        torch.nn.functional.binary_cross_entropy_with_logits(x.double(), labels.double(), reduction="none").sum(0) / 6
    )
    first = int(parts.argmax())
    shows(explain("multilabel_soft_margin", x, labels), f"\n  class {first}: {parts[first]:.6g} of {parts.sum():.6g}\n")


def test_ignored_and_nonfinite_rows_are_counted_separately() -> None:
    torch.manual_seed(0)
    x, k = torch.randn(1000, 50), torch.randint(50, (1000,))
    k[::10] = -100
    x[5, 7] = math.nan
    x[12, k[12]] = -math.inf
    text = explain("cross_entropy", x, k)
    shows(text, "ignored: 100 of 1000", "not finite: 2 of 1000", "contribute most\n  row 5:", "nan\n  row 12:")
    shows(text, "nan / 900 = nan", "not finite: 50 of 50000")


def test_probabilities_of_exactly_zero_and_one_are_counted_where_they_clamp() -> None:
    p = torch.full((1000,), 0.5)
    p[:50], p[50:90] = 0, 1
    text = explain("bce", p, torch.ones(1000))
    shows(text, "log(x) clamped to -100: 50 of 1000", "log(1 - x) clamped to -100: 40 of 1000")
    shows(explain("gaussian_nll", [0.0], [1.0], [0.25], eps=0.5), "(0.25 is clamped to 0.5)")


def test_a_branch_that_a_whole_row_takes_is_written_as_taken() -> None:
    text = explain("multilabel_soft_margin", [[-1, -2]], [[0, 1]])
    shows(text, "row 0:  s = log(1 + exp([-1, -2]))", "false_alarm = (1 - [0, 1]) * ([0.313262, 0.126928] + 0)")


def test_weights_and_scalars_are_explained() -> None:
    text = explain(piste.losses.functional.mse_loss, [1.0, 2.0], [0.0, 0.0], weight=torch.tensor([1.0, 3.0]))
    shows(text, "weight 3: 3 * 4 = 12", "13 / 4 = 3.25   (divided by the sum of the weights of the elements)")
    shows(explain("l1", 2.0, 3.0), "Elements\n  |2 - 3| = 1", "Result\n  1")
    shows(explain("cross_entropy", [2.0, 0.0, 0.0], 0), "Rows\n  p = [2, 0, 0]", "= 0.239545")
    weighted = explain("bce_with_logits", [0, 2.5], [1, 0], pos_weight=torch.tensor([2.0]))
    shows(weighted, "p = pos_weight", "2 * 0.693147 + 0 = 1.38629")
    shows(explain("l1", torch.empty(0), torch.empty(0)), "Reduction: mean", "Result\n  nan")
    shows(explain(piste.losses.L1Loss(reduction="sum"), [1.0], [3.0], reduction="mean"), "mean")


def test_operands_are_not_changed() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = piste.losses.BCELoss(check="nan")
    explain(loss, x, torch.tensor([2.0, 0.0]))
    assert x.grad is None and loss.check == "nan"


def test_an_object_that_is_not_a_loss_is_rejected() -> None:
    with pytest.raises(InvalidValue, match=r"there is no loss named 'smoth_l1'\. Did you mean `smooth_l1`"):
        explain("smoth_l1", [1.0], [1.0])
    with pytest.raises(InvalidType, match=r"`loss` must be a loss of piste\.losses, an optimizer .*; received 3"):
        explain(3, [1.0], [1.0])


def test_formulas_print_with_the_fewest_parentheses() -> None:
    def spelt(formula):
        reading = read(formula, "x", "y")
        return render(reading.results[0], {})

    assert spelt(lambda x, y: x - (y - x)) == "x - (y - x)"
    assert spelt(lambda x, y: (x - y) - x) == "x - y - x"
    assert spelt(lambda x, y: (x + y) * x / (x * y)) == "(x + y) * x / (x * y)"
    assert spelt(lambda x, y: -(x + y) * -y) == "-(x + y) * -y"
    assert spelt(lambda x, y: abs(x) ** 2) == "|x| ** 2"
