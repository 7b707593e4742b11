"""Machine code on the host: compiled by Numba, stored on disk, called by address; it reads tensors through libtorch."""
