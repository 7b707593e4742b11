"""Names and values of options as other libraries have them: each is answered with what to write here."""

from __future__ import annotations

import pytest
import torch

import piste
from piste.errors import InvalidType
from tests.losses.test_mistakes import help_with
from tests.losses.test_rejections import rejects

nn, F = piste.losses, piste.losses.functional
X = torch.zeros(4, 3)


def test_arguments_of_other_libraries_get_the_name_in_piste() -> None:
    words = "no argument `y_true`. Write `target`. mse_loss() has no argument `y_pred`. Write `input`."
    rejects(lambda: F.mse_loss(y_true=X, y_pred=X), words, kind=InvalidType)
    rejects(
        lambda: nn.BCELoss(from_logits=True), "CrossEntropyLoss and BCEWithLogitsLoss take logits", kind=InvalidType
    )


def test_names_are_found_in_any_spelling() -> None:
    spellings = ("BCE with logits", "bce-with-logits", "nn.BCEWithLogitsLoss", "F.binary_cross_entropy_with_logits")
    assert {nn.get_loss(name) for name in spellings} == {nn.BCEWithLogitsLoss}
    assert nn.get_loss("mean_squared_error") is nn.MSELoss and nn.get_loss("smoothl1") is nn.SmoothL1Loss
    assert nn.get_loss("log_loss") is nn.BCELoss and nn.get_loss("KLD") is nn.KLDivLoss
    assert nn.get_loss("nll_loss2d") is nn.NLLLoss2d and nn.get_loss("nll_loss") is nn.NLLLoss


def test_a_list_for_a_tensor_of_numbers_is_answered_with_the_tensor() -> None:
    words = "SigmoidFocalLoss: `alpha` must be a number in [0, 1], a torch.Tensor or None; received several numbers. "
    rejects(lambda: nn.SigmoidFocalLoss(alpha=[0.1, 0.2]), words + "Help: torch.tensor([0.1, 0.2]).", kind=InvalidType)


def test_the_alpha_of_a_focal_loss_of_classes_is_their_weight() -> None:
    words = "FocalLoss() has no argument `alpha`. A number alpha is a factor of the whole loss; `weight` is a tensor"
    rejects(lambda: nn.FocalLoss(alpha=0.25), words, kind=InvalidType)


@pytest.mark.parametrize(
    ("make", "kind", "help"),
    [
        ("DiscriminatorLoss", "minimax", 'the discriminator of that game is "logistic".'),
        ("DiscriminatorLoss", "non_saturating", 'the discriminator of that game is "logistic".'),
        ("DiscriminatorLoss", "lsgan", 'kind="least_squares".'),
        ("DiscriminatorLoss", "wgan", 'kind="wasserstein".'),
        ("GeneratorLoss", "logistic", 'the generator of that game is "non_saturating" or "minimax".'),
        ("GeneratorLoss", "relativistic", 'needs the real scores: DiscriminatorLoss("relativistic")(fake, real).'),
        ("GeneratorLoss", "lsgan", 'kind="least_squares".'),
        ("GeneratorLoss", "wgan", 'kind="wasserstein".'),
    ],
)
def test_a_game_that_the_other_player_has_is_answered_with_the_word_to_write(make, kind, help) -> None:
    rejects(lambda: getattr(nn, make)(kind), help)


@pytest.mark.parametrize(
    ("loss", "name", "words"),
    [
        (nn.CrossEntropyLoss, "lse_square_scale", "Write `z_loss`."),  # Liger, flash-attention
        (nn.CrossEntropyLoss, "z_loss_multiplier", "Write `z_loss`."),  # OLMo
        (nn.CrossEntropyLoss, "final_logit_softcapping", "Write `softcap`."),  # Gemma 2
        (nn.CrossEntropyLoss, "smoothing", "Write `label_smoothing`."),  # timm
        (nn.CrossEntropyLoss, "inplace_backward", "Write `inplace`."),  # flash-attention
        (nn.CrossEntropyLoss, "num_items_in_batch", "Write `normalizer`."),  # transformers
        (nn.AsymmetricLoss, "gamma_neg", "Write `gamma_negative`."),  # timm
        (nn.AsymmetricLoss, "gamma_pos", "Write `gamma_positive`."),
        (nn.AsymmetricLoss, "clip", "Write `margin`."),
        (nn.AsymmetricLoss, "disable_torch_grad_focal_loss", "The powers have gradients, as with False."),
        (nn.AsymmetricLoss, "smoothing", "Smooth the labels yourself: target * (1 - smoothing) + smoothing / 2."),
        (nn.AsymmetricLoss, "eps", "The logarithms are exact without a bound."),
        (nn.SupConLoss, "base_temperature", "Multiply the loss by temperature / base_temperature where they differ."),
        (nn.SupConLoss, "contrast_mode", 'Every view is an anchor, as with "all".'),
        (nn.InfoNCELoss, "negative_mode", "The shape of `negatives` says it: (M, D) is"),  # info-nce-pytorch
        (nn.DiceLoss, "mode", '"multiclass" is activation="softmax", and'),  # segmentation_models_pytorch
        (nn.ArcFaceLoss, "s", "Write `scale`."),  # insightface
        (nn.CosFaceLoss, "m", "Write `margin`."),
        (nn.GRPOLoss, "epsilon", "Write `clip_low` and `clip_high`."),  # TRL
        (nn.GRPOLoss, "epsilon_high", "Write `clip_high`."),
        (nn.DPOLoss, "loss_type", "Write `variant`."),
        (nn.DiceLoss, "sigmoid", 'Write activation="sigmoid".'),  # MONAI
        (nn.DiceLoss, "squared_pred", "Write `squared`."),
        (nn.DiceLoss, "smooth_nr", "Write `smooth`."),
        (nn.LovaszSoftmaxLoss, "ignore", "Write `ignore_index`."),  # its authors
        (nn.QuantileLoss, "alpha", "Write `quantile`."),  # scikit-learn
        (nn.ExpectileLoss, "tau", "Write `expectile`."),
        (nn.InfoNCELoss, "tau", "Write `temperature`."),
        (nn.DistillationLoss, "T", "Write `temperature`."),
        (nn.CLIPLoss, "temperature", "Its operand `logit_scale` is 1 / temperature."),
        (nn.CharbonnierLoss, "epsilon", "Write `eps`."),
        (nn.GeneralRobustLoss, "c", "Write `scale`."),  # its author
    ],
)
def test_a_name_of_another_library_gets_that_of_the_option(loss, name, words) -> None:
    rejects(lambda: loss(**{name: 0.1}), f"{loss.__name__}() has no argument `{name}`. {words}", kind=InvalidType)


def test_a_value_in_the_meaning_of_another_library_gets_the_value_to_write() -> None:
    rejects(
        lambda: nn.SigmoidFocalLoss(alpha=-1),
        "`alpha` must be in [0, 1], a torch.Tensor or None; received alpha=-1.0. Help: alpha=None weighs all labels",
    )
    rejects(
        lambda: nn.ArcFaceLoss(margin=28.6),
        "`margin` must be in [0, 1.5708); received margin=28.6. Help: margin=0.499164 is 28.6 degrees in radians, "
        "the unit of the margin.",
    )
    rejects(lambda: nn.ArcFaceLoss(margin=100), "Help: the margin is in radians, and less than a right angle.")
    nn.ArcFaceLoss(margin=float(help_with(lambda: nn.ArcFaceLoss(margin=89.99999)).split()[0].removeprefix("margin=")))
    for several in ([0.1, 0.9], (0.1, 0.9), torch.tensor([0.1, 0.9], dtype=torch.float64).numpy()):
        rejects(
            lambda several=several: nn.QuantileLoss(quantile=several),
            "`quantile` must be a number in [0, 1]; received quantile=",
            "Help: quantiles=torch.tensor([0.1, 0.9]), for an input with a prediction for each quantile.",
            kind=InvalidType,
        )
    rejects(
        lambda: nn.QuantileLoss(quantile=torch.tensor([0.1, 0.9])),
        "`quantile` must be a number in [0, 1]; received a tensor of shape (2,). Help: `quantiles` takes a tensor",
        kind=InvalidType,
    )
    rejects(
        lambda: nn.ExpectileLoss(expectile=torch.tensor([0.1, 0.9])),
        "`expectile` must be a number in [0, 1]; received a tensor of shape (2,). Help: it is one number for the whole",
        kind=InvalidType,
    )
    rejects(lambda: nn.QuantileLoss(quantile=90), "received quantile=90.0. Help: quantile=0.9, if it is a percentage.")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("kl", '"forward" is KL(teacher, student), and "reverse" is KL(student, teacher).'),
        ("KL_div", '"forward" is KL(teacher, student), and "reverse" is KL(student, teacher).'),
        ("reverse_kl", '"reverse" is KL(student, teacher).'),
        ("js", '"jsd" is the Jensen-Shannon divergence.'),
    ],
)
def test_a_divergence_by_another_name_gets_the_word_for_it(value, words) -> None:
    rejects(
        lambda: nn.DistillationLoss(divergence=value),
        f'must be one of "forward", "reverse", "jsd"; received {value!r}. Help: {words}',
    )


def test_the_vanilla_game_gets_the_words_for_it() -> None:
    rejects(lambda: nn.DiscriminatorLoss("vanilla"), 'Help: the discriminator of that game is "logistic".')
    rejects(lambda: nn.GeneratorLoss("vanilla"), 'the generator of that game is "non_saturating" or "minimax".')


@pytest.mark.parametrize(
    ("cls", "argument", "words"),
    [
        (nn.ArcFaceLoss, "num_classes", "The loss has no weights: `input` holds cosines (N, C), linear(normalize("),
        (nn.CosFaceLoss, "embedding_size", "The loss has no weights: `input` holds cosines"),
        (nn.CrossEntropyLoss, "num_classes", "The classes are counted from the shape of `input`."),
        (nn.FocalLoss, "n_classes", "The classes are counted from the shape of `input`."),
        (nn.TverskyLoss, "num_classes", "The classes are counted from the shape of `input`."),
        (nn.LovaszSoftmaxLoss, "num_classes", "The classes are counted from the shape of `input`."),
        (nn.CORNLoss, "num_classes", "The number of ranks is one more than that of the logits in a row of `input`."),
        (nn.DiceLoss, "from_logits", 'Logits are taken with activation="sigmoid" or activation="softmax".'),
        (nn.DiceLoss, "include_background", "Leave the first class out of the operands: input[:, 1:]"),
        (nn.DiceLoss, "ignore_index", "Probabilities and labels of the shape of `input`, both times a mask, leave out"),
        (nn.DiceLoss, "to_onehot_y", "Class indices (N, d1, ...) are taken as they are."),
        (nn.DiceLoss, "jaccard", "JaccardLoss is a loss of its own."),
        (nn.LovaszSoftmaxLoss, "only_present", "Write `classes`."),
        (nn.GRPOLoss, "loss_type", "The denominator is `normalizer`, or the sum of `weight`"),
        (nn.MSELoss, "num_classes", "Known: `check`"),
    ],
)
def test_arguments_without_an_equal_are_answered_with_what_to_do(cls, argument, words) -> None:
    rejects(lambda: cls(**{argument: 1}), f"{cls.__name__}() has no argument `{argument}`. {words}", kind=InvalidType)


def test_the_cosines_that_the_help_describes_are_those_of_the_loss() -> None:
    """Each row of `weight` is the direction of a class."""
    torch.manual_seed(0)
    embedding, weight, target = torch.randn(5, 4), torch.randn(3, 4), torch.tensor([0, 2, 1, 1, 0])
    normalize = torch.nn.functional.normalize
    cosines = torch.nn.functional.linear(normalize(embedding), normalize(weight))
    expected = torch.nn.functional.cross_entropy(4 * (cosines - 0.35 * torch.eye(3)[target]), target)
    torch.testing.assert_close(nn.CosFaceLoss(scale=4.0)(cosines, target), expected)
