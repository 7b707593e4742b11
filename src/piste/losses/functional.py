"""The losses as functions, under the names of torch.nn.functional."""

from . import with_layer as layers
from .binary import binary_cross_entropy, binary_cross_entropy_with_logits
from .classification import cross_entropy, nll_loss
from .ctc import ctc_loss
from .distributions import gaussian_nll_loss, kl_div, poisson_nll_loss
from .embeddings import cosine_embedding_loss, triplet_margin_loss, triplet_margin_with_distance_loss
from .margins import hinge_embedding_loss, margin_ranking_loss, soft_margin_loss
from .multilabel import multi_margin_loss, multilabel_margin_loss, multilabel_soft_margin_loss
from .regression import huber_loss, l1_loss, mse_loss, smooth_l1_loss

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cosine_embedding_loss",
    "cross_entropy",
    "ctc_loss",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "margin_ranking_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]

if hasattr(layers, "linear_cross_entropy"):
    linear_cross_entropy = layers.linear_cross_entropy
    __all__ += ["linear_cross_entropy"]
