"""Kernels that depend on no formula, as Python files that Numba compiles as they stand.

Importing one imports Numba, so `compiler.load_file` does it when no object file of the kernel is stored, and nothing
else does. An upper-case name at the top of a file is a constant that `load_file` may replace.
"""
