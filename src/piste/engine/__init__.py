"""Run a formula over tensors: specs, the passes that all code generators share, the backends, and dispatch."""

from .backend import register
from .cpu.backend import CpuBackend
from .cpu.sum_of_squares import sum_of_squares
from .eager.loss import cast_result, compute_dtype, values
from .eager.step import step as step_eagerly
from .gpu.backend import GpuBackend
from .gpu.reports import raise_reported
from .hoisting import count_passes
from .loss_dispatch import LossDispatcher, as_divisor, decline, dispatcher_of, explain
from .matrix_step import MatrixPlan, MatrixSpec, describe_matrix_backends, step_matrices_eagerly
from .specs import NO_IGNORE_INDEX, Bound, BoundKind, LossArguments, LossSpec, ParamState, StepSpec, parameters
from .step_dispatch import StepPlan, describe_backends
from .violations import ValueCheck, Violation

__all__ = [
    "NO_IGNORE_INDEX",
    "Bound",
    "BoundKind",
    "LossArguments",
    "LossDispatcher",
    "LossSpec",
    "MatrixPlan",
    "MatrixSpec",
    "ParamState",
    "StepPlan",
    "StepSpec",
    "ValueCheck",
    "Violation",
    "as_divisor",
    "cast_result",
    "compute_dtype",
    "count_passes",
    "decline",
    "describe_backends",
    "describe_matrix_backends",
    "dispatcher_of",
    "explain",
    "parameters",
    "raise_reported",
    "register",
    "step_eagerly",
    "step_matrices_eagerly",
    "sum_of_squares",
    "values",
]

register(CpuBackend())
register(GpuBackend())
