"""The lattice: evidence items as nodes of a sparse graph, scored by the energy of their field.

Nothing here knows a clock, a wire or a database; NumPy and SciPy do the arithmetic. Whatever
enters a receipt is computed by sums whose order is fixed or whose result is exact, so that the
number of BLAS threads does not show.
"""
