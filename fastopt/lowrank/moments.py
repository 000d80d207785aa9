"""What a layer answers to data, as `factorize` goes by it: second moments of its outputs."""

import math

import numpy as np

from fastopt.lowrank.decomposition import product
from fastopt.lowrank.layers import known_arrays, method_of
from fastopt.nn.sequential import assembled

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
        Another kind of layer, or one without arrays yet; samples that do not fit, or none.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Dense(3, 2)], rng=0)
    >>> fo.lowrank.second_moments(net.layers[0], np.eye(3)).shape
    (1, 2, 2)
    """
    method_of(layer, "svd")
    weight = known_arrays(layer)["weight"]
    if not len(x):
        raise ValueError("x: expected at least one sample, got none")
    bare = type(layer)(**{**layer.config(), "activation": "identity", "bias": False})
    bare.start_with(weight=weight)
    net = assembled([bare], weight.dtype, np.shape(x)[1:])
    samples = max(1, ROWS // math.prod(net.output_shape[:-1]))
    sums, rows = np.zeros((layer.groups, len(weight) // layer.groups, len(weight) // layer.groups)), 0
    for first in range(0, len(x), samples):
        outputs = net.predict(x[first : first + samples]).reshape(-1, len(weight)).astype(np.float64)
        rows += len(outputs)
        for part, sum_of_group in zip(np.split(outputs, layer.groups, axis=1), sums, strict=True):
            sum_of_group += product(np.ascontiguousarray(part.T), part)
    return sums / rows
