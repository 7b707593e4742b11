"""Common mistakes are rejected, and the message has the remedy."""

from __future__ import annotations

import gc
import re

import pytest
import torch

import piste
from piste.errors import InvalidType
from piste.losses import value_checks
from tests.losses.test_rejections import rejects

nn, F = piste.losses, piste.losses.functional
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
K = torch.tensor([0, 1, 2, 0])
CALLS = {
    "cross_entropy": lambda w, **s: F.cross_entropy(X, K, weight=w, **s),
    "nll": lambda w, **s: F.nll_loss(X.log_softmax(1), K, weight=w, **s),
    "multi_margin": lambda w, **s: F.multi_margin_loss(X, K, weight=w, **s),
    "multilabel_soft_margin": lambda w, **s: F.multilabel_soft_margin_loss(X, (X > 0).float(), weight=w, **s),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_class_weights_are_finite_and_not_negative(name: str, value: float) -> None:
    weight = torch.tensor([1.0, value, 1.0])
    words = f"`weight` must hold class weights in [0, inf); received {value} at (1,). Help:"
    for _ in range(2):
        rejects(lambda: CALLS[name](weight), words)
    rejects(lambda: nn.get_loss(name)(weight=weight), words)
    CALLS[name](weight, check="off")
    nn.get_loss(name)(weight=weight, check="off")


def test_class_weights_changed_in_place_are_checked_again() -> None:
    loss = nn.CrossEntropyLoss(weight=torch.ones(3))
    for _ in range(3):
        loss(X, K)
    loss.weight[1] = -1
    rejects(lambda: loss(X, K), "received -1.0 at (1,)")
    loss.weight.fill_(2.0)
    assert loss(X, K) == F.cross_entropy(X, K)


def test_a_checked_weight_is_freed() -> None:
    gc.collect()
    weight = torch.ones(3)
    F.cross_entropy(X, K, weight=weight)
    key = id(weight)
    assert key in value_checks._valid_weights
    del weight
    assert key not in value_checks._valid_weights


def test_kl_div_takes_distributions_along_any_dimension() -> None:
    x, scores = torch.randn(2, 3, 4).log_softmax(1), torch.randn(2, 3, 4)
    masked = scores.softmax(1)
    masked[1] = 0
    for y in (scores.softmax(0), scores.softmax(1), scores.softmax(2), masked, torch.full((2, 3, 4), 1 / 12)):
        torch.testing.assert_close(F.kl_div(x, y), torch.nn.functional.kl_div(x, y))
    F.kl_div(torch.tensor(-1.0), torch.tensor(0.3))  # a single element is no row
    F.kl_div(x[:0], scores[:0])


def test_kl_div_rejects_rows_that_are_no_distribution_on_every_call() -> None:
    x, good, bad = X.log_softmax(1), X.softmax(1), torch.full((4, 3), 0.2)
    loss = nn.KLDivLoss(reduction="batchmean")
    for _ in range(2):
        assert loss(x, good).abs() < 1e-6
        rejects(lambda: loss(x, bad), "each row must sum to 1", "row 0 sums to 0.6. Help: torch.softmax")
    torch.testing.assert_close(F.kl_div(x, bad, check="off"), torch.nn.functional.kl_div(x, bad))


def test_targets_in_another_encoding_are_recognised() -> None:
    labels = torch.tensor([[1, 0, 1], [0, 1, 0]])
    for _ in range(3):
        words = "received 0 and 1 alone, which look like a label for each class. Help: MultiLabelSoftMarginLoss takes a"
        rejects(lambda: F.multilabel_margin_loss(X[:2], labels), words)
        F.multilabel_margin_loss(X[:2], torch.tensor([[0, -1, 0], [0, 1, 2]]))
    F.multilabel_margin_loss(X[:2], labels, check="off")
    F.multilabel_margin_loss(X[:2, :2], torch.tensor([[0, 1], [1, 0]]))  # both classes of two
    rejects(lambda: F.cross_entropy(K, X), "look exchanged: the first argument holds the logits", kind=InvalidType)
    rejects(lambda: F.cross_entropy(P.round().long(), X), "look exchanged: the first", kind=InvalidType)
    rejects(lambda: F.cross_entropy(MULTI.float(), X), EXCHANGED)
    rejects(lambda: F.cross_entropy(LISTS, P), "received torch.int64. Help: input.float().", kind=InvalidType)
    images = torch.zeros(2, 3, 4, 4).log_softmax(1)
    rejects(lambda: nn.NLLLoss2d()(images, torch.zeros(2, 1, 4, 4).long()), "Help: target.squeeze(1).")


def test_several_samples_without_classes_are_told_from_a_one_hot_target() -> None:
    one_sample = (
        "received torch.int64 of shape (4,) for an input (4,). Help: an input (C) is one sample; several samples"
    )
    rejects(lambda: F.cross_entropy(X[:, 0], K), one_sample, kind=InvalidType)
    one_hot = torch.tensor([0, 0, 1, 0])
    rejects(lambda: F.cross_entropy(X[:, 0], one_hot), "Help: it looks one-hot: target.argmax(0)", kind=InvalidType)


@pytest.mark.parametrize("loss", [F.coral_loss, F.corn_loss])
def test_ranks_in_another_encoding_get_the_conversion(loss) -> None:
    words = "`target` must hold one rank for each row of `input`, shape (4,); received torch.int64 of shape"
    for labels in (torch.eye(4).long(), MULTI):
        rejects(
            lambda y=labels: loss(X, y), f"{words} {tuple(labels.shape)}. Help: target.argmax(-1), if it is one-hot"
        )
    loss(X, MULTI.sum(-1))


def test_regions_of_another_shape_get_the_conversion() -> None:
    images, one_hot = torch.rand(2, 3, 4, 4), torch.zeros(2, 4, 4, 3)
    for target, help in (
        (one_hot, "target.movedim(-1, 1), if its last dimension holds the classes."),
        (torch.zeros(2, 1, 4, 4), "target.squeeze(1).long(), if it holds class indices."),
        (torch.zeros(2, 1, 4, 4).long(), "target.squeeze(1)."),
        (torch.zeros(2, 4, 4), "target.long(), if it holds class indices."),
        (torch.zeros(3, 3), "one label or class index for each place of the input."),
    ):
        rejects(lambda y=target: F.dice_loss(images, y), f"for (2, 3, 4, 4). Help: {help}")
    rejects(lambda: F.dice_loss(images[:, :1], torch.zeros(2, 4, 4)), "Help: target.unsqueeze(1).")
    F.dice_loss(images, one_hot.movedim(-1, 1))


def test_an_input_without_classes_is_rejected() -> None:
    for check in ("raise", "off"):
        rejects(lambda check=check: F.cross_entropy(torch.zeros(4, 0), K, check=check), "received (4, 0), that is no")
        rejects(lambda check=check: F.multi_margin_loss(torch.zeros(4, 0), K, check=check), "at least 2 classes")


L, P = X.log_softmax(1), X.softmax(1)
MULTI = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 1, 1]])
LISTS = torch.tensor([[2, 0, -1], [1, -1, -1], [0, 1, 2], [-1, -1, -1]])
SIGNS = torch.tensor([1, -1, 1, -1])
EXCHANGED = "Help: the arguments look exchanged: `target` comes last."


@pytest.mark.parametrize(
    "call",
    [
        lambda: F.binary_cross_entropy(MULTI.float(), X),
        lambda: F.binary_cross_entropy_with_logits(MULTI.float(), X * 4),
        lambda: F.multilabel_soft_margin_loss(MULTI.float(), X * 4),
        lambda: F.kl_div(P, L),
        lambda: F.hinge_embedding_loss(SIGNS, X[:, 0]),
        lambda: F.soft_margin_loss(SIGNS.float(), X[:, 0]),
        lambda: F.margin_ranking_loss(SIGNS, X[:, 0], X[:, 1]),
    ],
)
def test_operands_in_the_wrong_order_are_recognised_by_their_values(call) -> None:
    rejects(call, EXCHANGED)


@pytest.mark.parametrize(
    "call",
    [
        lambda: F.multilabel_margin_loss(LISTS, X),
        lambda: F.multilabel_soft_margin_loss(MULTI, X),
        lambda: nn.AdaptiveLogSoftmaxWithLoss(3, 10, cutoffs=[3])(K, X),
    ],
)
def test_operands_in_the_wrong_order_are_recognised_by_their_dtypes(call) -> None:
    rejects(call, EXCHANGED, kind=InvalidType)


def test_operands_in_the_right_order_get_the_help_of_the_value() -> None:
    rejects(lambda: F.binary_cross_entropy_with_logits(X, X * 4), "divide pixel values by 255")
    rejects(lambda: F.soft_margin_loss(X, X), "2 * target - 1 makes")
    rejects(lambda: F.kl_div(X, P), "Help: torch.log_softmax(logits, dim=-1)")


def test_class_targets_in_another_encoding_get_the_conversion() -> None:
    several = "row 0 sums to 2. Help: for several classes in a row, BCEWithLogitsLoss takes a 0/1 label for each class."
    rejects(lambda: F.cross_entropy(X, MULTI.float()), several)
    rejects(lambda: F.cross_entropy(X, L), "must be at least 0", "Help: target.exp() makes probabilities of log-prob")
    rejects(lambda: F.cross_entropy(X, 100 * P), "row 0 sums to 100", "counts / counts.sum(dim, keepdim=True)")
    rejects(lambda: F.cross_entropy(X, SIGNS), "received -1 at (1,)", "Help: (target + 1) // 2 makes class indices")
    rejects(lambda: F.nll_loss(L, torch.tensor([0, -1, 2, 1])), "Help: is it a mask? ignore_index=-1.")
    images, onehot = torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4, 3)
    for target in (onehot, onehot.long()):
        rejects(
            lambda y=target: F.cross_entropy(images, y), "Help: target.argmax(-1), if it is one-hot in its last dim"
        )
    complex_help = "received torch.complex64. Help: input.real or input.abs()."
    rejects(lambda: F.cross_entropy(X + 0j, K), complex_help, kind=InvalidType)
    rejects(lambda: F.cross_entropy(X, K + 0j), "Help: a class index is a whole number.", kind=InvalidType)


def test_class_weights_of_another_shape_get_the_conversion() -> None:
    one_each = (
        'Help: for a weight of each sample, multiply the losses: loss with reduction="none", times weight, .mean().'
    )
    for name in ("cross_entropy", "nll", "multi_margin"):
        rejects(lambda name=name: CALLS[name](torch.ones(4)), "shape (3,); received (4,)", one_each)
        rejects(lambda name=name: CALLS[name](torch.ones(1, 3)), "received (1, 3). Help: weight.flatten().")
        rejects(lambda name=name: CALLS[name](torch.ones(7)), "received (7,). Help: torch.ones(3) weighs all classes ")


@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_positive_weights_are_finite_and_not_negative(value: float) -> None:
    weight, y = torch.tensor([1.0, value, 1.0]), (X > 0).float()
    words = (
        f"`pos_weight` must be in [0, inf); received {value} at (0, 1), the first of 4. Help: it is usually negatives"
    )
    loss = nn.BCEWithLogitsLoss(pos_weight=weight)
    for _ in range(3):
        rejects(lambda: F.binary_cross_entropy_with_logits(X, y, pos_weight=weight), words)
        rejects(lambda: loss(X, y), words)
    loss.check = "off"
    loss(X, y)


def test_label_lists_are_not_mistaken_for_labels() -> None:
    signs = 2 * MULTI - 1
    words = (
        "received -1 and 1 alone, which look like a label for each class.",
        "a 0/1 label for each class: (target + 1) //",
    )
    rejects(lambda: F.multilabel_margin_loss(X, signs), *words)
    only_class_one = torch.tensor([[1, -1, -1]] * 4)
    for target in (only_class_one, LISTS):
        torch.testing.assert_close(
            F.multilabel_margin_loss(X, target), torch.nn.functional.multilabel_margin_loss(X, target)
        )
    rejects(lambda: F.multilabel_margin_loss(X, MULTI.bool()), "received 0 and 1 alone")
    rejects(lambda: F.multilabel_margin_loss(X, LISTS[:, :2]), "torch.nn.functional.pad(target, (0, 1), value=-1) ends")
    rejects(lambda: F.multilabel_soft_margin_loss(X, LISTS), "Help: MultiLabelMarginLoss takes lists of class indices.")
    rejects(lambda: F.multilabel_soft_margin_loss(X, signs.float()), "Help: (target + 1) / 2 makes 0/1 labels")
    for function in (F.multilabel_margin_loss, F.multilabel_soft_margin_loss):
        rejects(
            lambda f=function: f(X[:, :0], LISTS[:, :0]), "at least one class; received (4, 0). Help: the last layer"
        )


def test_kl_div_rejects_log_targets_that_are_no_distribution() -> None:
    loss = nn.KLDivLoss(reduction="sum", log_target=True)
    unnormalised = torch.full((4, 3), -1.0)
    for _ in range(2):
        torch.testing.assert_close(loss(L, L), torch.tensor(0.0))
        rejects(
            lambda: loss(L, unnormalised), "the exponentials of each row must sum to 1", "row 0 sum to 1.10364. Help"
        )
    masked = L.clone()
    masked[1:] = -float("inf")
    torch.testing.assert_close(loss(L, masked), torch.tensor(0.0))
    torch.testing.assert_close(
        F.kl_div(L, unnormalised, log_target=True, check="off", reduction="sum"),
        torch.nn.functional.kl_div(L, unnormalised, log_target=True, reduction="sum"),
    )
    rejects(lambda: F.kl_div(L, MULTI * 5), "received 5.0 at (0, 0)", "counts.sum(-1, keepdim=True) of counts")


def test_labels_of_bool_are_rejected_with_a_conversion() -> None:
    labels = torch.tensor([False, True, True, False])
    rejects(
        lambda: F.cosine_embedding_loss(X, X, labels), "received False at (0,), the first of 2. Help: 2 * target - 1"
    )


def test_ctc_operands_get_the_arrangement() -> None:
    x, y = torch.randn(6, 2, 4).log_softmax(2), torch.tensor([[1, 2], [3, 1]])
    t, s = torch.tensor([6, 5]), torch.tensor([2, 1])
    transposed = "Help: log_probs.transpose(0, 1), as the time is the first dimension."
    rejects(lambda: F.ctc_loss(x.transpose(0, 1), y, t, s), "integer labels of shape (6, S)", transposed)
    rejects(lambda: F.ctc_loss(x.transpose(0, 1), torch.tensor([1, 2, 3]), t, s), "`input_lengths`", transposed)
    rejects(lambda: F.ctc_loss(x, y[:1], t, s), "Help: time is the first dimension of log_probs, and the samples are")
    rejects(
        lambda: F.ctc_loss(x, y, s, t), "received 6 at (0,)", "Help: input_lengths and target_lengths look exchanged."
    )
    rejects(lambda: F.ctc_loss(x, y, t, t), "received 6 at (0,)", "Help: a sample has at most as many labels")
    rejects(lambda: F.ctc_loss(x, y, t + 1, s), "Help: a sample has at most T steps")
    rejects(lambda: F.ctc_loss(x, y, t.float(), s), "Help: input_lengths.long().")
    rejects(lambda: F.ctc_loss(x, y, 6, s), "of shape (). Help: torch.full((2,), 6).")
    rejects(lambda: F.ctc_loss(y, x, t, s), "received torch.int64", "Help: log_probs and targets look exchanged.")
    rejects(lambda: F.ctc_loss(x.long(), y, t, s), "Help: torch.log_softmax(logits, dim=-1).")


def test_losses_with_a_layer_reject_inputs_that_do_not_fit_it() -> None:
    losses = [nn.AdaptiveLogSoftmaxWithLoss(3, 10, cutoffs=[3])]
    if hasattr(nn, "LinearCrossEntropyLoss"):
        losses.append(nn.LinearCrossEntropyLoss(3, 10))
    for loss in losses:
        rejects(
            lambda loss=loss: loss(X[:, :2], K), "must have 3 features in its last dimension; received (4, 2). Help"
        )
        words = "must hold floating-point features; received torch.int64. Help: input.float()."
        rejects(lambda loss=loss: loss(X.long(), K), words, kind=InvalidType)
    words = "Help: target.long().", "Help: target.argmax(-1), if it is one-hot."
    rejects(lambda: losses[0](X, K.float()), words[0], kind=InvalidType)
    rejects(lambda: losses[0](X, torch.nn.functional.one_hot(K, 10)), words[1], kind=InvalidType)
    misspelt = "AdaptiveLogSoftmaxWithLoss() has no argument `chek`. Did you mean `check`"
    rejects(lambda: nn.AdaptiveLogSoftmaxWithLoss(3, 10, [3], chek="off"), misspelt, kind=InvalidType)


def test_operands_that_are_no_tensors_get_the_conversion() -> None:
    class Output:
        logits = X

    for value, help in (
        (Output(), "input.logits."),
        ((X, X), "input[0], if the model returns several tensors, or torch.stack(input)."),
        (X.numpy(), "torch.as_tensor(input)."),
        (torch.nn.Linear(1, 1), "pass a tensor."),
    ):
        rejects(lambda value=value: F.cross_entropy(value, K), f"Help: {help}", kind=InvalidType)


def test_a_loss_without_a_formula_is_told_what_to_derive_from() -> None:
    class Nothing(piste.losses.Loss):  # without a name it is not registered
        pass

    expected = r"Nothing states neither `prepare` nor `compute`\. Help: derive a loss from ElementwiseLoss"
    with pytest.raises(NotImplementedError, match=expected):
        Nothing()(torch.ones(2), torch.ones(2))


def test_one_quantile_and_several_are_not_given_together() -> None:
    words = "QuantileLoss: `quantile` and `quantiles` cannot both be given; received quantile=0.3 and a tensor. Help:"
    rejects(lambda: nn.QuantileLoss(quantile=0.3, quantiles=torch.tensor([0.1])), words)


def test_a_penalty_takes_the_discriminator_and_not_its_scores() -> None:
    words = "gradient_penalty: `discriminator` must be a module or a function of samples; received Tensor. Help: pass"
    rejects(lambda: nn.gradient_penalty(X, X, X), words, kind=InvalidType)


def help_with(call) -> str:
    with pytest.raises(piste.errors.PisteError) as refusal:
        call()
    return str(refusal.value).split("Help: ")[1]


@pytest.mark.parametrize(
    ("make", "shapes", "position", "line"),
    [
        (nn.MSELoss, ((4, 3), (4,)), 1, "target[:, None].expand_as(input)"),
        (nn.MSELoss, ((3, 3), (3,)), 1, "target[:, None].expand_as(input)"),
        (nn.BCEWithLogitsLoss, ((2, 3, 4, 5), (2, 4, 5)), 1, "target[:, None].expand_as(input)"),
        (nn.MSELoss, ((4, 3, 2), (4,)), 1, "target[..., None, None].expand_as(input)"),
        (nn.HuberLoss, ((4, 3, 2), (4, 3)), 1, "target[..., None].expand_as(input)"),
        (nn.HuberLoss, ((4, 3, 2), (3, 2)), 1, "target.expand_as(input)"),
        (nn.L1Loss, ((4,), (4, 2)), 0, "input[..., None].expand_as(target)"),
        (lambda: nn.QuantileLoss(quantiles=torch.tensor([0.1, 0.5, 0.9])), ((4, 3), (4,)), 1, "target[:, None].exp"),
        (nn.GRPOLoss, ((4, 3), (4, 3), (4,)), 2, "advantage[:, None].expand_as(input)"),
        (nn.TripletMarginLoss, ((4, 3), (4, 3), (3,)), 2, "negative.expand_as(anchor)"),
    ],
)
def test_the_line_for_operands_of_other_shapes_works(make, shapes, position, line) -> None:
    loss = make()
    operands = [-torch.rand(shape, generator=torch.Generator().manual_seed(i)) for i, shape in enumerate(shapes)]
    if isinstance(loss, nn.BCEWithLogitsLoss):
        operands[1] = -operands[1]
    help = help_with(lambda: loss(*operands))
    assert line in help and "CrossEntropyLoss" not in help
    (shown,) = re.findall(r"\w+(?:\[[^]]*\])?\.expand_as\(\w+\)", help)
    expanded = eval(shown, dict(zip(loss.arguments, operands, strict=True)))
    large = max(shapes, key=len)
    small = shapes[position]
    for index in ((0,) * len(large), tuple(n - 1 for n in large)):  # by hand: which value stands at a place
        if line.startswith(("target.", "negative.")):
            own = index[len(large) - len(small) :]
        elif len(small) == len(large) - 1 and ":" in line:
            own = index[:1] + index[2:]
        else:
            own = index[: len(small)]
        assert expanded[index] == operands[position][own]
    operands[position] = expanded
    assert loss(*operands).isfinite()


def test_an_operand_of_floats_is_not_taken_for_class_indices() -> None:
    x, floats, classes = X, torch.zeros(4), K
    rejects(lambda: nn.DistillationLoss()(x, floats), "(4, 3) and (4,). Help: give `teacher` the shape of `student`.")
    rejects(
        lambda: nn.DistillationLoss()(x, classes),
        "Help: if `teacher` holds class indices, CrossEntropyLoss is the loss for them.",
    )
    rejects(
        lambda: nn.QuantileLoss()(x, classes),
        "Help: target[:, None].expand_as(input), if each value is meant for all elements along dimension 1; "
        "if `target` holds class indices, CrossEntropyLoss is the loss for them.",
    )
    rejects(lambda: nn.TripletMarginLoss()(x, x, floats), "Help: give `negative` the shape of `anchor`.")
    rejects(lambda: nn.MultiLabelSoftMarginLoss()(x, floats), "Help: give `target` the shape of `input`.")
    rejects(lambda: nn.MSELoss()(x, torch.zeros(5)), "(4, 3) and (5,). Help: give `target` the shape of `input`.")
    for other in (classes > 0, floats):
        assert "class indices" not in help_with(lambda other=other: nn.MSELoss()(x, other))
    assert "class indices" not in help_with(lambda: nn.GRPOLoss()(-x.abs(), -x.abs(), classes))
