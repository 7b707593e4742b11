"""Run a formula over tensors: specs, the passes that all code generators share, the backends, and dispatch."""

from .backend import register
from .cpu.backend import CpuBackend
from .gpu.backend import GpuBackend

register(CpuBackend())
register(GpuBackend())
