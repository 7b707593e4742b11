"""Kernels of losses that depend on no formula, as Python files that Numba compiles as they stand."""
