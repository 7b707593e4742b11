"""The losses of torch.nn, checked: the same names, arguments and values, as modules and as functions.

The settings that every loss takes beside torch's (`check`, `normalizer`, `empty`) are in `piste.losses.reduction`.
"""

from . import functional
from . import with_layer as layers
from .binary import BCELoss, BCEWithLogitsLoss
from .classification import CrossEntropyLoss, NLLLoss, NLLLoss2d
from .ctc import CTCLoss
from .distributions import GaussianNLLLoss, KLDivLoss, PoissonNLLLoss
from .embeddings import CosineEmbeddingLoss, TripletMarginLoss, TripletMarginWithDistanceLoss
from .functional import *  # noqa: F403
from .loss import Loss, named
from .margins import HingeEmbeddingLoss, MarginRankingLoss, SoftMarginLoss
from .multilabel import MultiLabelMarginLoss, MultiLabelSoftMarginLoss, MultiMarginLoss
from .regression import HuberLoss, L1Loss, MSELoss, SmoothL1Loss
from .with_layer import AdaptiveLogSoftmaxWithLoss

__all__ = [
    "AdaptiveLogSoftmaxWithLoss",
    "CTCLoss",
    "TripletMarginWithDistanceLoss",
    "TripletMarginLoss",
    "CosineEmbeddingLoss",
    "MultiMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiLabelMarginLoss",
    "SoftMarginLoss",
    "MarginRankingLoss",
    "HingeEmbeddingLoss",
    "PoissonNLLLoss",
    "KLDivLoss",
    "GaussianNLLLoss",
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "HuberLoss",
    "L1Loss",
    "Loss",
    "MSELoss",
    "NLLLoss",
    "NLLLoss2d",
    "SmoothL1Loss",
    "functional",
    "named",
    *functional.__all__,
]

if hasattr(layers, "LinearCrossEntropyLoss"):  # torch 2.12 and later
    LinearCrossEntropyLoss = layers.LinearCrossEntropyLoss
    __all__ += ["LinearCrossEntropyLoss"]
