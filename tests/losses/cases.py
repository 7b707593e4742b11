"""The losses under test, with valid arguments, for Piste and for torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

import piste
from piste.losses import functional
from tests.losses.operands import (
    captioned,
    captioned_with_bias,
    city_blocks,
    cosines,
    counts,
    indices,
    label_lists,
    labelled_vectors,
    log_probabilities,
    log_rows,
    logits,
    normals,
    one_variance_a_row,
    pair_and_labels,
    pair_and_signs,
    pair_of_distributions,
    pair_of_log_distributions,
    probabilities,
    ranks,
    rates,
    real,
    region_classes,
    region_logits,
    region_probabilities,
    regions,
    scores,
    signs,
    soft_rows,
    tokens,
    triplets,
)
from tests.oracle import composed
from tests.oracle.reference import reference


@dataclass(frozen=True)
class Case:
    """A loss with one choice of options; `operands` makes its input and target from a shape and a dtype."""

    name: str
    operands: Callable[..., tuple[torch.Tensor, ...]]
    options: dict[str, Any] = field(default_factory=dict)
    shapes: tuple[tuple[int, ...], ...] = ((4, 3), (), (7,), (2, 1, 3))
    is_smooth: bool = True
    function_only: bool = False

    @property
    def loss(self) -> type[piste.losses.Loss]:
        return piste.losses.named(self.name)

    @property
    def is_of_batch(self) -> bool:
        """Whether the samples of a batch are one region."""
        return "batch" in self.options or not (self.loss.defaults | self.options).get("per_image", True)

    @property
    def function(self) -> Callable[..., torch.Tensor]:
        return getattr(functional, self.loss.functional_name)

    @property
    def torchs(self) -> Callable[..., torch.Tensor]:
        """Torch's function, or the composition of its operations for a loss that it lacks."""
        name = self.loss.functional_name
        if {"z_loss", "softcap"} & self.options.keys():
            return composed.cross_entropy
        return reference(name)

    def __str__(self) -> str:
        return f"{self.name}{'-' if self.options else ''}{'-'.join(self.options)}"


ROWS = ((4, 3), (5,), (2, 3, 4), (2, 3, 2, 2))
IMAGES = ((2, 3, 4), (1, 2, 3, 2))
BATCHES = ((5, 3), (7, 4))
SEED = torch.Generator().manual_seed(0)
C3 = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)

CASES = [
    Case("l1", real),
    Case("l1", real, {"weight": C3}, ((4, 3),), function_only=True),
    Case("mse", real),
    Case("mse", real, {"weight": C3}, ((4, 3),), function_only=True),
    Case("smooth_l1", real),
    Case("smooth_l1", real, {"beta": 0.3}),
    Case("smooth_l1", real, {"beta": 0.0}),
    Case("huber", real),
    Case("huber", real, {"delta": 0.4}),
    Case("huber", real, {"weight": C3}, ((4, 3),), function_only=True),
    Case("bce", probabilities),
    Case("bce", probabilities, {"weight": C3}, ((4, 3),)),
    Case("bce_with_logits", logits),
    Case("bce_with_logits", logits, {"weight": C3}, ((4, 3),)),
    Case("bce_with_logits", logits, {"pos_weight": C3}, ((4, 3),)),
    Case("nll", log_rows, shapes=ROWS),
    Case("nll", log_rows, {"weight": C3}, ((4, 3), (2, 3, 4))),
    Case("nll", log_rows, {"ignore_index": 1}, ROWS),
    Case("nll", log_rows, {"weight": C3, "ignore_index": 1}, ((4, 3),)),
    Case("nll2d", log_rows, shapes=((2, 3, 2, 2),)),
    Case("cross_entropy", indices, shapes=ROWS),
    Case("cross_entropy", indices, {"weight": C3}, ((4, 3), (2, 3, 4))),
    Case("cross_entropy", indices, {"ignore_index": 1}, ROWS),
    Case("cross_entropy", indices, {"label_smoothing": 0.2}, ROWS),
    Case("cross_entropy", indices, {"weight": C3, "label_smoothing": 0.2, "ignore_index": 1}, ((4, 3), (2, 3, 4))),
    Case("cross_entropy", soft_rows, {"label_smoothing": 0.1}, ROWS),
    Case("cross_entropy", soft_rows, {}, ROWS),
    Case("cross_entropy", soft_rows, {"weight": C3, "label_smoothing": 0.2}, ((4, 3),)),
]
CASES += [
    Case("kl_div", pair_of_distributions),
    Case("kl_div", pair_of_log_distributions, {"log_target": True}),
    Case("poisson_nll", counts),
    Case("poisson_nll", counts, {"full": True}),
    Case("poisson_nll", rates, {"log_input": False, "full": True, "eps": 1e-3}),
    Case("gaussian_nll", normals, shapes=((4, 3), (7,), (2, 1, 3))),
    Case("gaussian_nll", normals, {"full": True, "eps": 0.1}, ((4, 3),)),
    Case("gaussian_nll", one_variance_a_row, {}, ((4, 3), (2, 2, 3))),
    Case("hinge_embedding", signs),
    Case("hinge_embedding", signs, {"margin": 0.3}),
    Case("soft_margin", signs),
    Case("margin_ranking", pair_and_signs),
    Case("margin_ranking", pair_and_signs, {"margin": 0.7}),
]
CASES += [
    Case("multi_margin", indices, {}, ((4, 3), (5,))),
    Case("multi_margin", indices, {"p": 2, "margin": 0.3, "weight": C3}, ((4, 3),)),
    Case("multilabel_margin", label_lists, {}, ((4, 3), (5,))),
    Case("multilabel_soft_margin", logits, {}, ((4, 3), (5,), (2, 3, 4))),
    Case("multilabel_soft_margin", logits, {"weight": C3}, ((4, 3),)),
    Case("cosine_embedding", pair_and_labels, {}, ((4, 3), (5,))),
    Case("cosine_embedding", pair_and_labels, {"margin": -0.4}, ((4, 3),)),
    Case("triplet_margin", triplets, {}, ((4, 3), (5,))),
    Case("triplet_margin", triplets, {"p": 1.0, "margin": 0.5}, ((4, 3),)),
    Case("triplet_margin", triplets, {"p": 3.0, "swap": True, "margin": 4.0}, ((4, 3),)),
    Case("triplet_margin_with_distance", triplets, {}, ((4, 3), (5,))),
    Case("triplet_margin_with_distance", triplets, {"distance_function": city_blocks, "swap": True}, ((4, 3),)),
]
CASES += [
    Case("log_cosh", real),
    Case("log_cosh", real, {"weight": C3}, ((4, 3),)),
    Case("charbonnier", real),
    Case("charbonnier", real, {"eps": 0.5}),
    Case("general_robust", real),
    *(Case("general_robust", real, {"alpha": alpha, "scale": 0.7}) for alpha in (2.0, 0.5, 0.0, -2.0, -20.0)),
    *(Case("general_robust", real, {"alpha": alpha, "scale": 2.0}) for alpha in (-math.inf, math.inf)),
    Case("quantile", real),
    Case("quantile", real, {"quantile": 0.9}),
    Case("quantile", real, {"quantiles": C3 / 4}, ((4, 3), (2, 1, 3))),
    Case("expectile", real),
    Case("expectile", real, {"expectile": 0.1, "weight": C3}, ((4, 3),)),
]
CASES += [
    Case("cross_entropy", indices, {"z_loss": 0.1}, ROWS),
    Case("cross_entropy", indices, {"z_loss": 0.1, "softcap": 3.0, "label_smoothing": 0.2}, ROWS),
    Case("cross_entropy", soft_rows, {"z_loss": 0.1, "softcap": 3.0}, ROWS),
    Case("sigmoid_focal", logits),
    Case("sigmoid_focal", logits, {"alpha": None, "gamma": 0.5}),
    Case("sigmoid_focal", logits, {"gamma": 0.0}),
    Case("sigmoid_focal", logits, {"alpha": C3 / 4, "gamma": 1.5}, ((4, 3), (2, 1, 3))),
    Case("sigmoid_focal", logits, {"alpha": 0.5, "weight": C3}, ((4, 3),)),
    Case("asymmetric", logits),
    Case("asymmetric", logits, {"margin": 0.0, "gamma_negative": 2.0, "gamma_positive": 0.5}),
    Case("asymmetric", logits, {"gamma_negative": 0.0, "gamma_positive": 0.0, "weight": C3}, ((4, 3),)),
    Case("focal", indices, shapes=ROWS),
    Case("focal", indices, {"gamma": 0.5, "weight": C3}, ((4, 3), (2, 3, 4))),
    Case("focal", indices, {"gamma": 0.0, "ignore_index": 1}, ROWS),
    Case("focal", soft_rows, {}, ROWS),
    Case("focal", soft_rows, {"gamma": 1.5, "weight": C3}, ((4, 3),)),
]
CASES += [
    Case("dice", regions, {}, IMAGES),
    Case("dice", regions, {"squared": True, "smooth": 0.5, "batch": True}, IMAGES),
    Case("dice", region_classes, {"activation": "softmax"}, IMAGES),
    Case("dice", region_classes, {"activation": "softmax", "absent": "skip"}, IMAGES),
    Case("jaccard", regions, {}, IMAGES),
    Case("jaccard", region_classes, {"activation": "sigmoid", "smooth": 0.0}, IMAGES),
    Case("tversky", regions, {"alpha": 0.3, "beta": 0.7}, IMAGES),
    Case("focal_tversky", regions, {}, IMAGES),
    Case("focal_tversky", region_classes, {"activation": "softmax", "gamma": 2.0, "batch": True}, IMAGES),
]
CASES += [
    Case("discriminator", real),
    *(Case("discriminator", real, {"kind": k}) for k in ("least_squares", "wasserstein", "hinge", "relativistic")),
    Case("generator", scores),
    *(Case("generator", scores, {"kind": k}) for k in ("minimax", "least_squares", "wasserstein", "hinge")),
    Case("dpo", log_probabilities),
    *(Case("dpo", log_probabilities, {"variant": v, "label_smoothing": 0.2}) for v in ("sigmoid", "robust")),
    *(Case("dpo", log_probabilities, {"variant": v, "beta": 0.5}) for v in ("hinge", "ipo")),
    Case("grpo", tokens),
    Case("grpo", tokens, {"clip_low": 0.1, "clip_high": 0.3}),
    Case("grpo", tokens, {"beta": 0.5, "reference": -C3, "weight": C3}, ((4, 3), (2, 1, 3))),
    Case("distillation", real, {}, ((4, 3), (5,), (2, 2, 3))),
    Case("distillation", real, {"temperature": 2.0, "divergence": "reverse"}, ((4, 3),)),
    Case("distillation", real, {"temperature": 2.0, "divergence": "jsd", "beta": 0.25, "scale": False}, ((4, 3),)),
    Case("arcface", cosines, {"margin": 0.5, "scale": 4.0}, ROWS),
    Case("cosface", cosines, {"margin": 0.25, "scale": 4.0}, ROWS),
    Case("cosface", cosines, {"margin": 0.25, "scale": 4.0, "ignore_index": 1}, ROWS),
    Case("coral", ranks, {}, ((4, 3), (5,), (2, 2, 3))),
    Case("corn", ranks, {}, ((4, 3), (5,), (2, 2, 3))),
]
CASES += [
    Case("info_nce", real, {}, BATCHES),
    Case("info_nce", real, {"temperature": 1.0, "chunk_size": 2, "normalize": False}, BATCHES),
    Case("info_nce", real, {"symmetric": True, "chunk_size": 3, "temperature": C3[1]}, BATCHES),
    Case("info_nce", real, {"negatives": torch.randn(2, 3, generator=SEED).double(), "temperature": 1.0}, ((5, 3),)),
    Case("info_nce", real, {"negatives": torch.randn(5, 2, 3, generator=SEED).double()}, ((5, 3),)),
    Case("nt_xent", real, {}, BATCHES),
    Case("nt_xent", real, {"temperature": C3[0], "chunk_size": 3}, BATCHES),
    Case("supcon", labelled_vectors, {}, (*BATCHES, (4, 2, 3))),
    Case("supcon", labelled_vectors, {"temperature": C3[1], "chunk_size": 2}, BATCHES),
    Case("clip", captioned, {}, BATCHES),
    Case("clip", captioned, {"chunk_size": 1, "normalize": False}, BATCHES),
    Case("siglip", captioned_with_bias, {}, (*BATCHES, (1, 3))),
    Case("siglip", captioned_with_bias, {"chunk_size": 3}, BATCHES),
]
CASES += [
    Case("lovasz_hinge", region_logits, {}, IMAGES),
    Case("lovasz_hinge", region_logits, {"per_image": False, "ignore_index": 0}, IMAGES[:1]),
    Case("lovasz_softmax", region_classes, {}, IMAGES),
    Case("lovasz_softmax", region_classes, {"per_image": True, "classes": "all"}, IMAGES),
    Case("lovasz_softmax", region_classes, {"per_image": True, "ignore_index": 1}, IMAGES),
    Case("lovasz_softmax", region_classes, {"classes": "all", "ignore_index": 1}, IMAGES[:1]),
    Case("lovasz_softmax", region_probabilities, {"activation": None}, IMAGES[:1]),
]
MODULES = [c for c in CASES if not c.function_only]


def seeded(case: Case, shape: tuple[int, ...] | None = None, dtype: torch.dtype = torch.float64):
    """Return the same operands on every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return case.operands(case.shapes[0] if shape is None else shape, dtype)


def expand_weight(options: dict[str, Any], like: torch.Tensor) -> dict[str, Any]:
    """Return options with the weight in the shape of the input, which torch's regression functions require."""
    if "weight" in options and like.shape != options["weight"].shape:
        return options | {"weight": options["weight"].expand(like.shape)}
    return options
