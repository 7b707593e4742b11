"""The groups of the index of the reference: optimizers by kind, losses by task. The index puts all others last."""

from __future__ import annotations

__all__ = ["LOSSES_BY_TASK", "OPTIMIZERS_BY_KIND"]

OPTIMIZERS_BY_KIND = {
    "The gradient, and its average": ("SGD", "ASGD", "Lion", "Rprop"),
    "A rate for each element": (
        *("Adagrad", "RMSprop", "Adadelta", "Adam", "AdamW", "Adamax", "NAdam", "RAdam"),
        *("AdaBelief", "ADOPT", "Adan", "AdEMAMix", "Adafactor", "SparseAdam"),
    ),
    "A rate for each tensor": ("LAMB", "LARS", "StableAdamW"),
    "Whole matrices": ("Muon", "NorMuon", "SOAP"),
    "No schedule, or no rate": ("ScheduleFreeSGD", "ScheduleFreeAdamW", "Prodigy"),
    "Full batches": ("LBFGS",),
}
LOSSES_BY_TASK = {
    "Numbers": (
        "L1Loss",
        "MSELoss",
        "SmoothL1Loss",
        "HuberLoss",
        "LogCoshLoss",
        "CharbonnierLoss",
        "GeneralRobustLoss",
    ),
    "Quantiles, counts and uncertain numbers": ("QuantileLoss", "ExpectileLoss", "PoissonNLLLoss", "GaussianNLLLoss"),
    "Yes or no": (
        *("BCELoss", "BCEWithLogitsLoss", "SigmoidFocalLoss", "SoftMarginLoss"),
        *("AsymmetricLoss", "MultiLabelMarginLoss", "MultiLabelSoftMarginLoss"),
    ),
    "One class of several": ("CrossEntropyLoss", "NLLLoss", "NLLLoss2d", "MultiMarginLoss", "FocalLoss"),
    "Ordered classes": ("CORALLoss", "CORNLoss"),
    "Distributions and teachers": ("KLDivLoss", "DistillationLoss"),
    "Regions of images": (
        *("DiceLoss", "JaccardLoss", "TverskyLoss", "FocalTverskyLoss", "LovaszHingeLoss", "LovaszSoftmaxLoss"),
    ),
    "Sequences": ("CTCLoss",),
    "Ranks and similar vectors": (
        *("MarginRankingLoss", "HingeEmbeddingLoss", "CosineEmbeddingLoss", "TripletMarginLoss"),
        *("TripletMarginWithDistanceLoss", "ArcFaceLoss", "CosFaceLoss"),
    ),
    "All pairs of a batch": ("InfoNCELoss", "NTXentLoss", "SupConLoss", "CLIPLoss", "SigLIPLoss"),
    "Preferences and rewards of language models": ("DPOLoss", "GRPOLoss"),
    "Generative adversarial networks": ("DiscriminatorLoss", "GeneratorLoss"),
}
