"""Low rank by what a layer answers to data, instead of by its weight alone (Zhang et al. 2016, Accelerating very deep
convolutional networks for classification and detection, section 3.1).

Outputs of a trained layer lie near a subspace of few dimensions, though its weight does not: inputs are far from white.
The projection on the leading eigenvectors U of the outputs' second moments loses the least of them, and U (U.T W) are
two layers. Directions that the data do not tell apart are ordered by the weight, as if inputs were white.
"""

import math

import numpy as np

from fastopt.lowrank.decomposition import as_rank, product, scaled
from fastopt.lowrank.svd import leading
from fastopt.nn.layers import Conv2d, Dense, GroupedDense
from fastopt.nn.sequential import Sequential

KINDS = (Dense, GroupedDense, Conv2d)
WHITE = 0.01  # part of white inputs that is added to the data
ROWS = 1 << 16  # of outputs, in float64, at a time


def second_moments(layer, x) -> np.ndarray:
    """Second moments of a layer's outputs before bias and activation, for `factorize`.

    Parameters
    ----------
    layer : Dense, GroupedDense or Conv2d
        One of a network; it stays as it is.
    x : array_like
        Samples as the layer reads them: ``net.predict`` of the layers before it.

    Returns
    -------
    ndarray, shape (groups, out / groups, out / groups)
        The mean of ``outer(z, z)`` over samples and positions, of the outputs z of each group.

    Raises
    ------
    TypeError, ValueError
        Samples that do not fit; another kind of layer, or one without arrays yet.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Dense(3, 2)], rng=0)
    >>> fo.lowrank.second_moments(net.layers[0], np.eye(3)).shape
    (1, 2, 2)
    """
    if type(layer) not in KINDS:
        raise TypeError(f"layer: expected a Dense, GroupedDense or Conv2d, got {type(layer).__name__}")
    if not layer.arrays():
        raise ValueError(f"layer: expected one with arrays, got {layer!r} without; put it into a Sequential first")
    weight = layer.arrays()["weight"]
    bare = type(layer)(**{**layer.config(), "activation": "identity", "bias": False})
    bare.start_with(weight=weight)
    net = Sequential([bare], dtype=weight.dtype, input_shape=np.shape(x)[1:])
    samples = max(1, ROWS // math.prod(net.output_shape[:-1]))
    sums, rows = np.zeros((layer.groups, len(weight) // layer.groups, len(weight) // layer.groups)), 0
    for first in range(0, len(x), samples):
        outputs = net.predict(x[first : first + samples]).reshape(-1, len(weight)).astype(np.float64)
        rows += len(outputs)
        for part, sum_of_group in zip(np.split(outputs, layer.groups, axis=1), sums, strict=True):
            sum_of_group += product(np.ascontiguousarray(part.T), part)
    return sums / max(rows, 1)


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
