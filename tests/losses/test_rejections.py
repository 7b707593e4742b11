"""Invalid calls are rejected, and the messages have the range, the value received and the help."""

from __future__ import annotations

import math

import pytest
import torch

import piste
from piste.errors import InvalidType, InvalidValue, PisteError
from piste.losses.elementwise import ElementwiseLoss
from piste.losses.registry import LOSSES
from tests.losses.cases import MODULES, Case, seeded

nn, F = piste.losses, piste.losses.functional
X = torch.randn(4, 3)
K = torch.tensor([0, 2, 1, 0])
ELEMENTWISE = sorted((c for c in set(LOSSES.values()) if issubclass(c, ElementwiseLoss)), key=lambda c: c.name)


def rejects(call, *words: str, kind: type[PisteError] = InvalidValue) -> None:
    with pytest.raises(kind) as refusal:
        call()
    for word in words:
        assert word in str(refusal.value), str(refusal.value)


@pytest.mark.parametrize("function", [F.l1_loss, F.mse_loss, F.smooth_l1_loss, F.huber_loss])
def test_shapes_are_never_broadcast(function) -> None:
    a, b = torch.zeros(4, 1), torch.zeros(4)
    rejects(lambda: function(a, b), "(4, 1) and (4,)", "Help: input.squeeze(1) or target.unsqueeze(1).")
    rejects(lambda: function(b, a), "(4,) and (4, 1)", "Help: target.squeeze(1) or input.unsqueeze(1).")
    rejects(lambda: function(a, b, check="off"), "must have the same shape")
    rejects(lambda: function(torch.zeros(2, 3), torch.zeros(3, 2)), "target.T, if rows and columns were exchanged")
    rejects(lambda: function(torch.zeros(2, 6), torch.zeros(3, 4)), "target.reshape(input.shape)")
    rejects(lambda: function(torch.zeros(4, 3), torch.zeros(4)), "Help: target[:, None].expand_as(input), if each")
    rejects(lambda: function(torch.zeros(4, 3), torch.arange(4)), "class indices, CrossEntropyLoss is the loss")
    rejects(lambda: function(torch.zeros(4, 3), torch.zeros(3)), "target.expand_as(input)")


@pytest.mark.parametrize("loss", [one for one in ELEMENTWISE if len(one.arguments) > 1], ids=lambda loss: loss.name)
def test_no_elementwise_loss_broadcasts(loss) -> None:
    operands = [torch.ones(4, 1), *(torch.ones(4) for _ in loss.arguments[1:])]
    if loss.name == "gaussian_nll":
        operands[2] = torch.ones(4, 1)  # a variance may be one for a row
    rejects(lambda: loss(check="off")(*operands), "must have the same shape; received (4, 1) and (4,)", "squeeze(1)")


def test_operands_must_be_tensors_of_numbers_on_one_device() -> None:
    rejects(
        lambda: F.mse_loss([1.0], torch.ones(1)), "`input` must be a torch.Tensor; received list.", kind=InvalidType
    )
    rejects(lambda: nn.NLLLoss()(X, None), "`target` must be a torch.Tensor; received NoneType", kind=InvalidType)
    whole = torch.tensor([1, 2])
    rejects(lambda: F.l1_loss(whole, whole), "floating-point numbers; received torch.int64", kind=InvalidType)
    rejects(lambda: F.cross_entropy(X.long(), K), "floating-point logits; received torch.int64", kind=InvalidType)
    z = torch.zeros(2, dtype=torch.complex64)
    rejects(lambda: F.mse_loss(z, z), "received torch.complex64", kind=InvalidType)
    rejects(
        lambda: F.mse_loss(X, X.to("meta")), "must be on one device; received cpu and meta", "target.to(input.device)"
    )
    rejects(lambda: F.cross_entropy(X, K, torch.ones(3, device="meta")), "`input` and `weight` must be on one device")


@pytest.mark.parametrize(("value", "shown"), [(2.0, "2.0"), (255.0, "255.0"), (-0.5, "-0.5")])
def test_binary_targets_are_in_zero_to_one(value: float, shown: str) -> None:
    target = torch.zeros(4, 3)
    target[2, 1] = value
    for loss in (nn.BCEWithLogitsLoss(), nn.BCELoss()):
        rejects(lambda loss=loss: loss(torch.rand(4, 3), target), f"received {shown} at (2, 1). Help:")
    rejects(lambda: nn.BCELoss()(target, torch.zeros(4, 3)), "`input` must be in [0, 1]", "torch.sigmoid first")
    rejects(lambda: F.binary_cross_entropy(torch.rand(2), torch.tensor([0, 2])), "received 2.0 at (1,)")
    assert nn.BCELoss()(torch.rand(()), torch.tensor(1.0)).dim() == 0
    rejects(lambda: nn.BCELoss()(torch.rand(()), torch.tensor(1.5)), "received 1.5. Help")
    p = torch.tensor([1.0, -1.0, 1.0])
    rejects(lambda: F.binary_cross_entropy_with_logits(X, X * 0, pos_weight=p), "`pos_weight` must be in [0, inf)")


def test_class_indices_out_of_range_are_named_with_index_and_range() -> None:
    rejects(
        lambda: F.cross_entropy(X, torch.tensor([0, 1, 3, 2])),
        "`target` must hold class indices in [0, 2] for 3 classes, or ignore_index=-100; received 3 at (2,).",
        "target - 1",
    )
    rejects(lambda: F.nll_loss(X.log_softmax(1), torch.tensor([0, -1, 0, 0])), "received -1 at (1,)", "ignore_index=-1")
    rejects(lambda: F.cross_entropy(X, torch.tensor([9, 0, 0, 0])), "as many classes as there are labels")
    image, target = torch.randn(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64)
    target[0, 1, 0] = 7
    rejects(lambda: F.cross_entropy(image, target), "received 7 at (0, 1, 0)")
    assert F.cross_entropy(X, torch.tensor([0, -1, 1, 2]), ignore_index=-1).isfinite()


def test_targets_that_are_neither_indices_nor_probabilities() -> None:
    onehot = torch.nn.functional.one_hot(K, 3)
    rejects(
        lambda: F.cross_entropy(X, onehot), "it looks one-hot: target.argmax(1)", "target.float()", kind=InvalidType
    )
    rejects(lambda: F.nll_loss(X.log_softmax(1), onehot), "target.argmax(1)", kind=InvalidType)
    rejects(lambda: F.cross_entropy(X, K.float()), "target.long()", "BCEWithLogitsLoss", kind=InvalidType)
    rejects(lambda: F.cross_entropy(X, K[:, None]), "Help: target.squeeze(1).")
    rejects(lambda: F.cross_entropy(X, K[:, None].float()), "Help: target.squeeze(1).long().")
    rejects(lambda: F.cross_entropy(torch.randn(2, 5, 3), torch.zeros(2, 5).long()), "say class_dim=-1")
    rejects(lambda: F.cross_entropy(torch.randn(3), torch.tensor([0, 1, 2])), kind=InvalidType)
    rejects(lambda: F.cross_entropy(torch.randn(3), torch.tensor([0, 1])), "an input (C) is one sample")
    rejects(lambda: F.cross_entropy(X, K[:3]), "one target for each sample", "A line that works:")
    rejects(lambda: F.cross_entropy(torch.tensor(1.0), torch.tensor(0)), "received a 0-dimensional tensor")
    rejects(lambda: F.cross_entropy(X, K, class_dim=2), "`class_dim` must be in [-2, 1]", "received class_dim=2")


def test_probability_targets_are_probabilities() -> None:
    rows = torch.full((4, 3), 1 / 3)
    assert F.cross_entropy(X, rows).isfinite()
    negative = rows.clone()
    negative[1] = torch.tensor([-0.5, 1.0, 0.5])
    rejects(lambda: F.cross_entropy(X, negative), "must be at least 0; received -0.5 at (1, 0)")
    rejects(lambda: F.cross_entropy(X, rows * 2), "row 0 sums to 2")
    rejects(lambda: F.cross_entropy(torch.randn(1, 3, 2), torch.ones(1, 3, 2)), "row (0, 0) sums to 3")
    masked = rows.clone()
    masked[2] = 0
    assert F.cross_entropy(X, masked, reduction="none")[2] == 0
    assert F.cross_entropy(X.bfloat16(), torch.randn(4, 3).softmax(1).bfloat16()).isfinite()
    rejects(lambda: F.cross_entropy(torch.randn(4), torch.tensor([0.0, 1, 1, 0])), "sums to 2", "BCEWithLogitsLoss")
    rejects(lambda: F.cross_entropy(X, rows, ignore_index=1), "`ignore_index` goes with class indices")


def test_an_input_of_one_class_is_rejected() -> None:
    one = torch.randn(4, 1)
    for target in (torch.zeros(4).long(), torch.zeros(4, 1), torch.zeros(4)):
        rejects(
            lambda target=target: F.cross_entropy(one, target), "at least 2 classes; received (4, 1)", "BCEWithLogits"
        )
    assert F.cross_entropy(one, torch.zeros(4).long(), check="off") == 0


def test_nll_rejects_logits_and_probabilities() -> None:
    logits = torch.tensor([[5.0, 0.0], [0.0, 1.0]])
    rejects(
        lambda: F.nll_loss(logits, torch.tensor([0, 0])), "never above 0; received 5.0 at (0,)", "torch.log_softmax"
    )
    rejects(lambda: F.nll_loss(logits.softmax(1), torch.tensor([0, 0])), "probabilities.log()", "CrossEntropyLoss")
    assert F.nll_loss(logits, torch.tensor([0, 0]), check="off").item() == -2.5
    assert F.nll_loss(logits, torch.tensor([-100, 0])).item() == 0  # ignored rows are not checked
    assert F.nll_loss(torch.tensor([[1e-6, -3.0]]), torch.tensor([0])).isfinite()


def test_options_name_their_range() -> None:
    rejects(lambda: nn.CrossEntropyLoss(label_smoothing=-0.1), "`label_smoothing` must be in [0, 1]; received label_sm")
    rejects(lambda: F.cross_entropy(X, K, label_smoothing=math.nan), "received label_smoothing=nan")
    rejects(lambda: nn.HuberLoss(delta=0), "`delta` must be in (0, inf); received delta=0.")
    rejects(lambda: nn.SmoothL1Loss(beta=-1), "`beta` must be in [0, inf); received beta=-1.")
    rejects(
        lambda: nn.SmoothL1Loss(beta="1"),
        "`beta` must be a number in [0, inf); received the string '1'.",
        kind=InvalidType,
    )
    rejects(lambda: F.huber_loss(X, X, delta=None), "`delta` must be a number", kind=InvalidType)
    rejects(lambda: nn.CrossEntropyLoss(ignore_index=1.5), "`ignore_index` must be an int", kind=InvalidType)
    rejects(lambda: nn.CrossEntropyLoss(class_dim="last"), "`class_dim` must be an int", kind=InvalidType)
    rejects(lambda: F.cross_entropy(X, K, torch.ones(4)), "one number for each class, shape (3,); received (4,)")
    rejects(
        lambda: F.mse_loss(X, X, weight=torch.ones(4)),
        "`weight` must have the shape of `input` or one that can be broadcast to it",
    )
    rejects(lambda: nn.CrossEntropyLoss(weight=[1.0, 2.0]), "Help: torch.tensor([1.0, 2.0]).", kind=InvalidType)
    rejects(lambda: F.mse_loss(X, X, weight="w"), "`weight` must be a torch.Tensor or None", kind=InvalidType)


def test_settings_name_what_is_valid() -> None:
    rejects(lambda: nn.L1Loss(reduction="avg"), '`reduction` must be one of "mean", "sum", "none"; received \'avg\'.')
    rejects(lambda: nn.L1Loss(reduction="means"), "Did you mean `mean`?")
    rejects(lambda: F.l1_loss(X, X, check="of"), '`check` must be one of "raise", "nan", "off"', "Did you mean `off`?")
    rejects(lambda: F.l1_loss(X, X, empty=0), '`empty` must be one of "nan", "zero", "raise"; received 0.')
    rejects(lambda: nn.L1Loss(normalizer=0), "`normalizer` must be a number above 0", "received 0.")
    rejects(lambda: nn.L1Loss(normalizer="batch"), "`normalizer` must be a number above 0")
    rejects(lambda: nn.L1Loss(normalizer=2, reduction="sum"), 'received it with reduction="sum"')
    rejects(lambda: nn.L1Loss("sum"), "the reduction is given by name; received 'sum'", kind=InvalidType)


def test_calls_with_wrong_arguments_are_explained() -> None:
    rejects(lambda: nn.L1Loss(reducton="sum"), "L1Loss() has no argument `reducton`. Did you mean", kind=InvalidType)
    rejects(
        lambda: F.l1_loss(X, X, chek="off"), "l1_loss() has no argument `chek`. Did you mean `check`", kind=InvalidType
    )
    rejects(lambda: nn.L1Loss()(X), "missing a required argument: 'target'", "A line that works", kind=InvalidType)
    rejects(lambda: nn.L1Loss()(X, X, X), "too many positional arguments", kind=InvalidType)
    rejects(lambda: nn.L1Loss()(X, label=X), "L1Loss():", "A line that works", kind=InvalidType)
    rejects(lambda: nn.HuberLoss("mean", 1.0, 2.0), "HuberLoss(): too many positional arguments", kind=InvalidType)


def test_unknown_names_get_a_suggestion() -> None:
    for name in ("l1", "L1Loss", "l1_loss"):
        assert nn.named(name) is nn.L1Loss
    assert nn.named("nll2d") is nn.NLLLoss2d and nn.named("nll_loss") is nn.NLLLoss
    rejects(lambda: nn.named("huberr"), "there is no loss named 'huberr'. Did you mean `huber`")
    rejects(lambda: nn.named("xyz"), "Known:", "`cross_entropy`")


def test_a_type_error_of_a_subclass_is_not_replaced() -> None:
    class Broken(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            raise TypeError("from inside")

    with pytest.raises(TypeError, match="from inside"):
        F.l1_loss(torch.ones(2).as_subclass(Broken), torch.ones(2))


def test_values_are_not_checked_under_vmap() -> None:
    bad = torch.full((2, 3), 2.0)
    loss = torch.func.vmap(nn.BCEWithLogitsLoss())(torch.zeros(2, 3), bad)
    assert loss.shape == (2,)
    rejects(lambda: torch.func.grad(nn.BCEWithLogitsLoss())(torch.zeros(2, 3), bad), "received 2.0 at (0, 0)")


def test_ctc_rejects_lengths_and_labels_out_of_bounds() -> None:
    x = torch.randn(6, 2, 4).log_softmax(2)
    y, t, s = torch.tensor([[1, 2], [3, 1]]), torch.tensor([6, 5]), torch.tensor([2, 1])
    expected = torch.nn.functional.ctc_loss(x, y, t, s)
    torch.testing.assert_close(F.ctc_loss(x, y, t, s), expected)
    torch.testing.assert_close(nn.CTCLoss()(x, y, (6, 5), (2, 1)), expected)
    torch.testing.assert_close(F.ctc_loss(x, torch.tensor([1, 2, 3]), t, s), expected)
    for reduction in ("sum", "none"):
        theirs = torch.nn.functional.ctc_loss(x, y, t, s, reduction=reduction)
        torch.testing.assert_close(F.ctc_loss(x, y, t, s, reduction=reduction), theirs)
    assert F.ctc_loss(x, torch.tensor([[1, 2], [3, 99]]), t, s) == expected  # padding is not read
    rejects(lambda: F.ctc_loss(x, torch.tensor([[1, 4], [3, 1]]), t, s), "labels in [0, 3]", "received 4 at (0, 1)")
    rejects(lambda: F.ctc_loss(x, torch.tensor([[0, 1], [3, 1]]), t, s), "other than blank=0; received 0 at (0, 0)")
    rejects(lambda: F.ctc_loss(x, y, torch.tensor([7, 5]), s), "`input_lengths` must be in [0, 6]; received 7 at (0,)")
    rejects(lambda: F.ctc_loss(x, y, t, torch.tensor([2, 3])), "`target_lengths` must be in [0, 2]; received 3 at (1,)")
    rejects(lambda: F.ctc_loss(x, y, t, torch.tensor([2])), "`target_lengths` must hold 2 integers")
    rejects(lambda: F.ctc_loss(x, torch.tensor([1, 2, 3, 1]), t, s), "must sum to the number of labels", "received 3")
    rejects(lambda: F.ctc_loss(x.exp(), y, t, s), "never above 0", "torch.log_softmax(logits, dim=-1)")
    rejects(lambda: F.ctc_loss(x, y, t, s, blank=4), "`blank` must be in [0, 3]; received blank=4")
    rejects(lambda: F.ctc_loss(x[0, 0], y, t, s), "`log_probs` must be (T, N, C) or (T, C)")
    rejects(lambda: F.ctc_loss(x, y.float(), t, s), "`targets` must hold integer labels of shape (2, S)")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda y: F.hinge_embedding_loss(torch.rand(3), y), "-1 or 1; received 0.0 at (1,)"),
        (lambda y: F.soft_margin_loss(torch.rand(3), y), "2 * target - 1 makes such targets of 0/1 labels"),
        (lambda y: F.margin_ranking_loss(torch.rand(3), torch.rand(3), y), "`target` must be -1 or 1"),
        (lambda y: F.cosine_embedding_loss(torch.rand(3, 2), torch.rand(3, 2), y), "-1 or 1; received 0 at (1,)"),
    ],
)
def test_labels_of_the_margin_losses_are_minus_one_or_one(call, words: str) -> None:
    rejects(lambda: call(torch.tensor([1, 0, 1])), words)
    assert call(torch.tensor([1, -1, 1])).isfinite()


def test_distributions_reject_values_outside_their_domain() -> None:
    p = torch.tensor([[0.25, 0.75]])
    rejects(
        lambda: F.kl_div(p, p), "`input` must be a log-probability, which is never above 0; received 0.25 at (0, 0)"
    )
    rejects(lambda: F.kl_div(p.log(), p.log()), "`target` must be in [0, 1]", "log_target=True takes log-probabilities")
    rejects(lambda: F.kl_div(p.log(), p, log_target=True), "log_target=False takes probabilities")
    rejects(lambda: F.kl_div(p.log(), p, reduction="batch"), '"mean", "sum", "none", "batchmean"', "`batchmean`")
    rejects(lambda: F.poisson_nll_loss(p, -p), "`target` must be at least 0; received -0.25", "a target is a count")
    rejects(lambda: F.poisson_nll_loss(-p, p, log_input=False), "log_input=True takes the logarithm of the rate")
    rejects(lambda: nn.PoissonNLLLoss(full=1), "`full` must be True or False; received full=1.", kind=InvalidType)
    rejects(lambda: F.gaussian_nll_loss(p, p, -p), "`var` must be at least 0; received -0.25 at (0, 0)")
    rejects(lambda: F.gaussian_nll_loss(X, X, torch.ones(3)), "received (3,) for (4, 3)", "(N, 1)")
    rejects(lambda: F.gaussian_nll_loss(X, X, None), "`var` must be a torch.Tensor or a number", kind=InvalidType)
    rejects(lambda: F.gaussian_nll_loss(X, X[:, :1], X.abs()), "must have the same shape; received (4, 3) and (4, 1)")


def test_rows_of_labels_are_checked() -> None:
    x = torch.randn(2, 4)
    rejects(lambda: F.multi_margin_loss(x, torch.tensor([0, -100])), "[0, 3] for 4 classes; received -100 at (1,)")
    rejects(lambda: F.multi_margin_loss(x, torch.tensor([0, 1]), p=3), "`p` must be 1 or 2; received p=3.")
    rejects(lambda: F.multi_margin_loss(torch.randn(2, 3, 4), torch.zeros(2, 4).long()), "must be (C) or (N, C)")
    lists = torch.tensor([[3, 0, -1, 1], [1, 4, -1, -1]])
    rejects(lambda: F.multilabel_margin_loss(x, lists), "[0, 3], ended by -1; received 4 at (1, 1)")
    rejects(lambda: F.multilabel_margin_loss(x, lists.float()), "MultiLabelSoftMarginLoss takes", kind=InvalidType)
    rejects(
        lambda: F.multilabel_soft_margin_loss(x, lists.float()), "`target` must be in [0, 1]; received 3.0 at (0, 0)"
    )
    rejects(lambda: F.multilabel_soft_margin_loss(x, x[:, :3]), "must have the same shape")
    rejects(lambda: F.multilabel_soft_margin_loss(x.long(), lists), "received torch.int64", kind=InvalidType)
    rejects(lambda: F.multilabel_margin_loss(x[0, 0], lists[0, 0]), "received a 0-dimensional tensor")


def test_quantiles_are_checked() -> None:
    rejects(lambda: nn.QuantileLoss(quantile=90), "`quantile` must be in [0, 1]; received quantile=90.")
    rejects(
        lambda: F.quantile_loss(X, X, quantiles=torch.tensor([10.0, 50.0, 90.0])),
        "QuantileLoss: `quantiles` must be in [0, 1]; received 10.0 at (0, 0)",
        "Help: divide percentages by 100.",
    )
    rejects(lambda: F.quantile_loss(X, X, quantiles=torch.ones(4)), "`quantiles` must have the shape of `input`")
    rejects(lambda: nn.GeneralRobustLoss(scale=0), "`scale` must be in (0, inf); received scale=0")


def test_a_reference_model_and_its_factor_are_given_together() -> None:
    tokens = (-torch.ones(2, 3), -torch.ones(2, 3), torch.ones(2, 3))
    rejects(
        lambda: F.grpo_loss(*tokens, beta=0.04),
        "GRPOLoss: `reference` must be given with beta=0.04; received None.",
        "Help: log-probabilities of the tokens by the reference model, or beta=0.",
    )
    rejects(
        lambda: F.grpo_loss(*tokens, reference=-torch.ones(2, 3)),
        "GRPOLoss: `beta` must be above 0 with `reference`; received beta=0.0.",
        "Help: beta=0.04 is the paper's; without a reference model leave `reference` out.",
    )
    rejects(
        lambda: F.grpo_loss(*tokens, beta=0.04, reference=torch.ones(3) / 2),
        "GRPOLoss: `reference` must be a log-probability, which is at most 0; received 0.5 at (0, 0), the first of 6.",
        "Help: log_softmax(logits, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1).",
    )
    rejects(
        lambda: F.grpo_loss(*tokens[:2], torch.ones(2)),
        "GRPOLoss: `input` and `advantage` must have the same shape; received (2, 3) and (2,)",
    )


def test_preferences_are_checked() -> None:
    rejects(
        lambda: nn.DPOLoss(variant="ipo", label_smoothing=0.1),
        'DPOLoss: `label_smoothing` must be 0 with variant="ipo"; received label_smoothing=0.1.',
        'Help: "sigmoid" and "robust" take it.',
    )
    a = -torch.ones(2)
    rejects(
        lambda: nn.DPOLoss()(a, a, a, -a),
        "DPOLoss: `reference_rejected` must be a log-probability, which is at most 0; received 1.0 at (0,)",
        "Help: sum log_softmax(logits, -1) at the tokens of each answer.",
    )


def test_vectors_are_checked() -> None:
    a = torch.randn(3, 4)
    rejects(
        lambda: F.cosine_embedding_loss(a, a, torch.ones(4)), "(N, D) with `target` (N)", "received (3, 4) and (4,)"
    )
    rejects(lambda: nn.CosineEmbeddingLoss(margin=2), "`margin` must be in [-1, 1]; received margin=2.")
    rejects(lambda: F.triplet_margin_loss(a, a, a[:1]), "`anchor` and `negative` must have the same shape")
    rejects(lambda: nn.TripletMarginLoss(margin=0), "`margin` must be in (0, inf); received margin=0.")
    rejects(lambda: nn.TripletMarginLoss(swap="no"), "`swap` must be True or False", kind=InvalidType)
    rejects(lambda: F.triplet_margin_loss(a, a.long(), a), "`positive` must hold floating-point", kind=InvalidType)
    rejects(lambda: nn.TripletMarginWithDistanceLoss(distance_function=3), "must be a function", kind=InvalidType)


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.parametrize("case", MODULES, ids=str)
def test_a_rejected_call_changes_nothing(case: Case) -> None:
    """Operands, gradients, module and random state are unchanged, and the next call gives the same result."""
    operands = seeded(case)
    x = operands[0].requires_grad_()
    module = case.loss(check="nan", **case.options)
    before = module(*operands)
    bad = [
        (x.detach() * math.nan, *operands[1:]),
        *([(*operands[:-1], operands[-1].flatten()[:-1])] if len(operands) > 1 else []),
        tuple(o.detach().to(torch.int64) for o in operands),
        operands[:-1],
    ]
    if operands[-1].dim():  # a scale may be a number
        bad.append((*operands[:-1], operands[-1].tolist()))
    copies, versions = [o.detach().clone() for o in operands], [o._version for o in operands]
    settings, state = dict(vars(module)), torch.get_rng_state()
    for given in bad:
        with pytest.raises(PisteError):
            module(*given)
    assert all(torch.equal(o, c) for o, c in zip(operands, copies, strict=True))
    assert [o._version for o in operands] == versions
    assert x.grad is None and dict(vars(module)) == settings and torch.equal(torch.get_rng_state(), state)
    assert torch.equal(module(*operands), before)
