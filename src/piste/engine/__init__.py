"""Run a formula over tensors: specs, the passes that all code generators share, the backends, and dispatch."""

from .backend import backends_of, caller_level, register
from .cpu.backend import CpuBackend
from .cpu.sum_of_squares import GradientSquares, sum_of_squares
from .eager.loss import cast_result, compute_dtype, is_autocast, rows_of_regions, values
from .eager.pairs import PairReduction, full_precision, reduce_pairs
from .eager.step import add_terms, store
from .eager.step import step as step_eagerly
from .eight_bits import BLOCK, SCALE, blocks_of
from .eight_bits import decode as decode_eight_bits
from .gpu.backend import GpuBackend
from .gpu.reports import raise_reported
from .gradient_sums import DeviceGradientSums
from .hoisting import count_passes
from .layout import is_sharded, positions
from .loss_dispatch import LossDispatcher, as_divisor, decline, dispatcher_of, explain
from .matrix_step import MatrixPlan, MatrixSpec, describe_matrix_backends, step_matrices_eagerly
from .parts import as_spread
from .specs import (
    NO_IGNORE_INDEX,
    Bound,
    BoundKind,
    LossArguments,
    LossSpec,
    ParamState,
    StepSpec,
    SumSpec,
    is_matrix,
    parameters,
)
from .step_dispatch import StepPlan, SumPlan, describe_backends, is_captured
from .violations import ValueCheck, Violation

__all__ = [
    "BLOCK",
    "NO_IGNORE_INDEX",
    "SCALE",
    "Bound",
    "BoundKind",
    "DeviceGradientSums",
    "GradientSquares",
    "LossArguments",
    "LossDispatcher",
    "LossSpec",
    "MatrixPlan",
    "MatrixSpec",
    "PairReduction",
    "ParamState",
    "StepPlan",
    "StepSpec",
    "SumPlan",
    "SumSpec",
    "ValueCheck",
    "Violation",
    "add_terms",
    "as_divisor",
    "as_spread",
    "backends_of",
    "blocks_of",
    "caller_level",
    "cast_result",
    "compute_dtype",
    "count_passes",
    "decline",
    "decode_eight_bits",
    "describe_backends",
    "describe_matrix_backends",
    "dispatcher_of",
    "explain",
    "full_precision",
    "is_autocast",
    "is_captured",
    "is_matrix",
    "is_sharded",
    "parameters",
    "positions",
    "raise_reported",
    "reduce_pairs",
    "register",
    "rows_of_regions",
    "step_eagerly",
    "step_matrices_eagerly",
    "store",
    "sum_of_squares",
    "values",
]

register(CpuBackend())
register(GpuBackend())
