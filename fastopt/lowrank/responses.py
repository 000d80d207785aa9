"""Low rank by what a layer answers to data, instead of by its weight alone (Zhang et al. 2016, Accelerating very deep
convolutional networks for classification and detection, section 3.1).

Outputs of a trained layer lie near a subspace of few dimensions, though its weight does not: inputs are far from white.
The projection on the leading eigenvectors U of the outputs' second moments loses the least of them, and U (U.T W) are
two layers. Directions that the data do not tell apart are ordered by the weight, as if inputs were white.
"""

import numpy as np

from fastopt.lowrank.decomposition import as_rank, product, scaled
from fastopt.lowrank.svd import leading

WHITE = 0.01  # part of white inputs that is added to the data


def projected(weight, rank, moments, seed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U (out, R), S (R,) and Vh (R, in) of a weight (out, in) by second moments (out, out) of its outputs.

    ``U @ diag(S) @ Vh`` is the projection; rows of Vh have norm 1, and are not orthogonal.
    """
    rank = as_rank("rank", rank, min(weight.shape))
    white = product(weight, weight.T)
    both = [m / np.trace(m) if np.trace(m) > 0 else m for m in (moments, white)]
    U = leading(scaled(both[0] + WHITE * both[1])[0], rank, seed)[0]
    kept = product(np.ascontiguousarray(U.T), weight)
    S = np.sqrt(np.square(kept).sum(axis=1))
    return U, S, kept / np.where(S > 0, S, 1)[:, None]
