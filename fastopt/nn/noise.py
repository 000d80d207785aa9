"""How far the gradient of a mini-batch lies from that of all data: its standard error, sigma / sqrt(n).

Gradients of disjoint mini-batches are compared with their mean (Welford's update, in float64, which cancels nothing).
What varies is the batch alone: the parameters stay, and so do the draws of `Dropout`, which go on from batch to batch.
"""

import math
from typing import NamedTuple

import numpy as np

from fastopt._numbers import whole_number


class GradientNoise(NamedTuple):
    """Signal and noise of the gradients of mini-batches.

    Attributes
    ----------
    batch : int
        Samples of a mini-batch.
    batches : int
        How many were compared.
    norm : float
        Of the gradient itself, the signal: what the noise adds to the norm of a mean is taken off.
    standard_error : float
        Root of the mean squared distance of a mini-batch gradient from it: ``sigma / sqrt(batch)``.
    """

    batch: int
    batches: int
    norm: float
    standard_error: float

    @property
    def sigma(self) -> float:
        """Standard error of the gradient of one sample."""
        return self.standard_error * math.sqrt(self.batch)

    @property
    def signal_to_noise(self) -> float:
        """`norm` over `standard_error`: below 1 a step is mostly noise, far above it a smaller batch would do."""
        return self.norm / self.standard_error if self.standard_error else math.inf

    @property
    def noise_scale(self) -> float:
        """The batch whose signal equals its noise, ``(sigma / norm)**2`` (McCandlish et al. 2018)."""
        return (self.sigma / self.norm) ** 2 if self.norm else math.inf


def gradient_noise(net, X, y, batch, loss="cross_entropy", *, batches=32, seed=0) -> GradientNoise:
    """Measure the standard error of a mini-batch gradient of a network, all parameters together.

    Parameters
    ----------
    net : Sequential
        Left as it is. In training mode, as `Sequential.value_and_grad`.
    X, y, loss
        As for `Sequential.value_and_grad`.
    batch : int
        Samples of a mini-batch.
    batches : int
        Mini-batches to compare, at least 2: fewer where X has not as many. None has a sample of another.
    seed : int
        Of the order in which mini-batches are drawn.

    Returns
    -------
    GradientNoise

    Raises
    ------
    TypeError, ValueError
        Data that does not fit, or fewer samples than two mini-batches have.

    Notes
    -----
    The relative error of `standard_error` is about ``1 / sqrt(2 * batches)`` where many parameters have a part in it,
    and less. `norm` has an error of its own of about ``standard_error / sqrt(batches)``.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(4096, 4)), rng.integers(0, 3, 4096)
    >>> net = fo.nn.Sequential([fo.nn.Dense(4, 3)], rng=0)
    >>> small, large = (fo.nn.gradient_noise(net, X, y, batch) for batch in (16, 64))
    >>> bool(1.5 < small.standard_error / large.standard_error < 2.5)  # four times the rows
    True
    """
    batch, batches = whole_number("batch", batch), whole_number("batches", batches, 2)
    seed = whole_number("seed", seed, 0)
    X, y = np.asarray(X), np.asarray(y)
    if X.ndim == 0 or y.ndim == 0 or len(y) != len(X):
        raise ValueError(f"y: expected a row for each of X, {X.shape}, got {y.shape}")
    batches = min(batches, len(X) // batch)
    if batches < 2:
        raise ValueError(f"X: expected at least two mini-batches of {batch} samples, got {len(X)} samples")
    order, draws, squares = np.random.default_rng(seed).permutation(len(X)), net.draws, 0.0
    means: list[np.ndarray] = []
    try:
        for k in range(batches):
            rows = order[k * batch : (k + 1) * batch]
            _, grads = net.value_and_grad(X[rows], y[rows], loss)
            trained = [grad.astype(np.float64) for grad in grads if grad is not None]
            means = means or [np.zeros_like(grad) for grad in trained]
            for mean, grad in zip(means, trained, strict=True):
                delta = grad - mean
                mean += delta / (k + 1)
                squares += float(np.sum(delta * (grad - mean)))
    finally:
        net.draws = draws
    variance = squares / (batches - 1)
    signal = sum(float(np.sum(mean * mean)) for mean in means) - variance / batches
    return GradientNoise(batch, batches, math.sqrt(max(signal, 0.0)), math.sqrt(variance))
