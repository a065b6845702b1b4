"""How much of a thing some items explain: the support that evidence gives an action.

Closeness of two directions is k = ((1 + cosine) / 2)^4: 1 for the same direction, 1/16 for
unrelated ones, 0 for opposite ones, and positive definite in any dimension (the cosine is, and so
are its sums and powers). The share of a point that items explain is that of kriging, the best
linear prediction of its value from theirs,

    R^2 = k^T (K + N)^-1 k,   N = diag(1 / trust^2 - 1)

which lies in [0, 1], never falls when an item is added or trusted more, and hardly rises with
copies of what is there. A single item explains R = trust * k.

All sums have an order of their own: no BLAS takes part, and the bits are the same everywhere.
"""

import numpy as np

from oars_grpc.core.lattice.arrays import Float64Array

# What copies of an item differ by: keeps the matrix of exact duplicates regular.
NUGGET = 2.0**-14


def closeness(cosines: Float64Array) -> Float64Array:
    """The kernel; the power by multiplication, for libraries differ in how they round `pow`."""
    half = (1.0 + cosines) * 0.5
    square = half * half
    return np.asarray(square * square)


def explained_share(kernel: Float64Array, point: Float64Array, trust: Float64Array) -> float:
    """R of a point: `kernel` is the items' own, `point` the kernel between it and them."""
    used = np.flatnonzero(trust > 0)
    if not used.size:
        return 0.0
    weights = trust[used]
    matrix = kernel[np.ix_(used, used)].copy()
    matrix[np.diag_indices_from(matrix)] += 1.0 / (weights * weights) - 1.0 + NUGGET
    solved = _eliminated(matrix, point[used][:, None])[:, 0]
    # x = L^-1 k, so that the sum of its squares is k^T (L L^T)^-1 k.
    return _root_of_share(float(np.add.reduce(solved * solved)))


def leave_one_out_shares(kernel: Float64Array) -> Float64Array:
    """R of each item from all the others, every one fully trusted.

    The inverse's diagonal is 1 / (what the others leave unexplained): Dubrule (1983).
    """
    matrix = kernel.copy()
    matrix[np.diag_indices_from(matrix)] += NUGGET
    inverse = _eliminated(matrix, np.eye(len(matrix)))
    unexplained = 1.0 / np.add.reduce(inverse * inverse, axis=0) - NUGGET
    return np.asarray(np.sqrt(np.clip(1.0 - unexplained, 0.0, 1.0)))


def _eliminated(matrix: Float64Array, sides: Float64Array) -> Float64Array:
    """L^-1 times the columns of `sides`, for the Cholesky factor L; both are overwritten."""
    for step in range(len(matrix)):
        root = np.sqrt(matrix[step, step])
        column = matrix[step + 1 :, step] / root
        sides[step] /= root
        matrix[step + 1 :, step + 1 :] -= column[:, None] * column[None, :]
        sides[step + 1 :] -= column[:, None] * sides[step][None, :]
    return sides


def _root_of_share(share: float) -> float:
    return float(np.sqrt(min(1.0, max(0.0, share))))
