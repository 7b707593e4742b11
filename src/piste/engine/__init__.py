"""Run a formula over tensors: specs, the passes that all code generators share, the backends, and dispatch."""

from .backend import register
from .cpu.backend import CpuBackend

register(CpuBackend())
