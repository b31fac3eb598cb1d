"""Compiled kernels: arrays in, arrays out, nothing else.

Each file is one kernel: its formulas as per-item functions, then a CPU loop and a
CUDA loop over the same items. Nothing here knows the package above it.
"""
