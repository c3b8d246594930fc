"""CPU kernels that Numba compiles: one operation per file, from vectors up to whole steps.

They compute a row in one fixed order, whatever rows are beside it: batch-invariant by construction.
"""
