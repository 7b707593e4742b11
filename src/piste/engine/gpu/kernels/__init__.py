"""Code of the GPU backend that Numba compiles for the host; constants are given when a file is compiled."""
