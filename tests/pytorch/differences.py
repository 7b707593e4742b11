"""The tests of PyTorch that differ on purpose, each with the reason."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """A meant difference.

    Attributes:
        tests: A pattern of test names, such as `*test_errors_*`.
        error: A part of the error under the patch, so that another failure of the same test is not taken as meant.
        reason: Why Piste differs there.
    """

    tests: str
    error: str
    reason: str

    def matches(self, test: str, error: str) -> bool:
        return fnmatch.fnmatchcase(test, self.tests) and self.error in error


MOMENTUM = "a momentum of 1 or more diverges; a step refuses one that a schedule sets, and names group and value"
TYPE = "both refuse the call; Piste's error is a ValueError or TypeError with its own words"
RANDOM = "the test draws values at random that are no {}; Piste checks values unless check='off'"
BROADCAST = "targets are not broadcast: a target of another shape is nearly always a mistake"

OPTIMIZERS = [
    Difference("*test_lrscheduler.py::*test_cycle_lr_*", "`momentum` must be in [0, 1)", MOMENTUM),
    Difference("*test_lrscheduler.py::*test_cycle_lr_with_adam", "`betas[0]` must be in [0, 1)", MOMENTUM),
    Difference("*test_lrscheduler.py::*test_onecycle_lr_*", "`momentum` must be in [0, 1)", MOMENTUM),
    Difference(
        "*test_lrscheduler.py::*test_new_pattern_no_warning*",
        "No warning should be raised",
        "the first step that moves nothing says so once; this test steps parameters without gradients",
    ),
    Difference(
        "*test_optim.py::*test_errors_*",
        "is the same tensor as parameter 0, and would be stepped twice",
        "a parameter listed twice is refused; PyTorch warns, and steps it twice",
    ),
    Difference("*test_optim.py::*test_fused_error_on_params_on_meta_*", "fused=True requires the kernel", TYPE),
]
LOSSES = [
    Difference("*::test_BCEWithLogitsLoss_no_batch_dim_*", "`target` must be in [0, 1]", RANDOM.format("label")),
    Difference("*::test_MultiLabelSoftMarginLoss_no_batch_*", "`target` must be in [0, 1]", RANDOM.format("label")),
    Difference("*::test_SoftMarginLoss_no_reduce", "`target` must be -1 or 1", RANDOM.format("label")),
    Difference("*::test_PoissonNLLLoss_no_*", "`target` must be at least 0", RANDOM.format("count")),
    Difference("*::test_KLDivLoss_*", "must sum to 1", RANDOM.format("distribution")),
    Difference(
        "*::test_cross_entropy_*prob*", "class probabilities, which must be at least", RANDOM.format("probability")
    ),
    Difference("*::test_cross_entropy_*weighted_True*", "`weight` must hold class weights in", RANDOM.format("weight")),
    Difference("*::test_nll_loss_*", "`input` must hold log-probabilities", RANDOM.format("log-probability")),
    Difference("*::test_nll_loss_invalid_weights*", "`weight` must hold class weights in [0, inf)", TYPE),
    Difference("*::test_nll_loss_invalid_target_dim*", "`target` must hold class indices", TYPE),
    Difference("*::test_nll_loss_mismatched_batch*", "`target` must hold class indices", TYPE),
    Difference("*::test_cross_entropy_label_smoothing_errors*", "`label_smoothing` must be in [0, 1]", TYPE),
    Difference("*::test_CTCLoss_lengthchecks*", "`target_lengths` must be in", TYPE),
    Difference("*::test_CTCLoss_typechecks", "`input_lengths` must hold 3 integers", TYPE),
    Difference("*::test_bce_loss_input_range", "`input` must be in [0, 1]", TYPE),
    Difference("*::test_bce_loss_size_mismatch", "must have the same shape", TYPE),
    Difference("*::test_cosine_embedding_loss_error_on_*", "must have the same shape", TYPE),
    Difference("*::test_cosine_embedding_loss_invalid_shape", "must be (N, D) with `target` (N)", TYPE),
    Difference("*::test_gaussian_nll_loss_args", "`var` must have the shape of `input`", TYPE),
    Difference("*::test_huber_loss_invalid_delta", "`delta` must be in", TYPE),
    Difference("*::test_smoothl1loss_negative_beta_not_supported", "`beta` must be in", TYPE),
    Difference("*::test_MarginLoss_empty_*", "`input` must have at least 2 classes", TYPE),
    Difference("*::test_gaussian_nll_loss_broadcasting", "must have the same shape", BROADCAST),
    Difference("*::test_mse_loss_size_warning", "must have the same shape", f"{BROADCAST}; PyTorch warns"),
    Difference("*::test_pointwise_loss_broadcast", "must have the same shape", f"{BROADCAST}; PyTorch warns"),
    Difference(
        "*::test_cosine_embedding_loss_with_diff_type",
        "`input1` must hold floating-point vectors",
        "integers have no gradient, so vectors of integers are no output of a model",
    ),
    Difference(
        "*::test_cross_entropy_loss_zero_div",
        "`input` must have at least 2 classes",
        "an input without classes is a mistake of the last layer; PyTorch returns NaN",
    ),
    Difference(
        "*::test_MultiLabelMarginLoss_0d_no_reduce",
        "`input` must be (C) or (N, C)",
        "the documented shapes are (C) and (N, C); PyTorch takes a number for one class",
    ),
    Difference(
        "*::test_MultiMarginLoss_1d_no_reduce",
        "`target` must hold class indices of dtype int64 and shape ()",
        "the documented target of one row is a number; PyTorch takes a tensor of one element too",
    ),
]
DIFFERENCES = [*OPTIMIZERS, *LOSSES]
