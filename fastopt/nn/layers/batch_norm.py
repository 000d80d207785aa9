"""Batch normalization: statistics of the batch in training, running averages in inference."""

import numpy as np

from fastopt._kernels import core
from fastopt._numbers import finite_number, flag, whole_number
from fastopt.nn.layers.layer import Array, ArraySpec, Layer, known_activation, loses_digits, rows_of


class BatchNorm(Layer):
    """Batch normalization, ``activation(gamma * (x - mean) / sqrt(var + eps) + beta)`` (Ioffe & Szegedy 2015).

    In training, `Sequential.value_and_grad` included, mean and var are those of the batch, which needs two
    rows at least; `parallel.DataParallel` takes them of the rows of one rank, or of all ranks. In `predict` and
    `evaluate` they are the running averages. Steps of a `Trainer`, and nothing else, move these:
    ``running = (1 - momentum) * running + momentum * batch``, the batch's variance unbiased. A step that
    `check_finite` refuses or leaves out does not. `Sequential.calibrate` puts the statistics of a data set in their
    place.

    Parameters
    ----------
    features : int
    eps : float
        Added to the variance, inside the root.
    momentum : float
        Weight of a batch in the running averages, from 0 to 1.
    activation : str
        One of identity, relu, leaky_relu (slope 0.01), tanh, sigmoid, gelu (erf form), silu, softmax.
    affine : bool
        Whether gamma and beta are there, and trained.
    trainable : bool
        False: gamma, beta and the running averages stay as they are, and these take the place of the statistics of
        the batch in training as well, as in Keras.

    Attributes
    ----------
    gamma, beta : ndarray, shape (features,), or None
        Start at one and zero.
    running_mean, running_var : ndarray, shape (features,)
        Start at zero and one.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.BatchNorm(1), fo.nn.Dense(1, 1)], rng=0)
    >>> trainer = fo.nn.Trainer(net, "mse", fo.optim.SGD(net.parameters()))
    >>> loss = trainer.step([[1.0], [3.0]], [[0.0], [0.0]])
    >>> net.layers[0].running_mean, net.layers[0].running_var
    (array([0.2], dtype=float32), array([1.1], dtype=float32))
    """

    gamma = Array()
    beta = Array()
    running_mean = Array()
    running_var = Array()
    in_features: int
    out_features: int
    calibration = "optional"
    folds_backward = True
    _parameters = ("features",)

    def __init__(self, features, eps=1e-5, momentum=0.1, activation="identity", affine=True, *, trainable=True):
        self.in_features = self.out_features = whole_number("features", features)
        self.eps, self.momentum = finite_number("eps", eps, above=0), finite_number("momentum", momentum, 0, most=1)
        self.affine, self.activation = flag("affine", affine), known_activation(activation)
        self.trainable = trainable

    def config(self):
        return {
            "features": self.in_features,
            "eps": self.eps,
            "momentum": self.momentum,
            "activation": self.activation,
            "affine": self.affine,
        }

    def array_specs(self, dtype):
        names = ("gamma", "beta") * self.affine + ("running_mean", "running_var")
        return {name: ArraySpec((self.in_features,), dtype) for name in names}

    def require_valid(self, arrays):
        if (arrays["running_var"] < 0).any():
            least = arrays["running_var"].min()
            raise ValueError(f"running_var: expected variances of at least 0, got {least}")

    def start(self, rng):
        self.running_var[...] = 1
        if self.affine:
            self.gamma[...] = 1

    def parameters(self):
        return [self.gamma, self.beta] if self.affine else []

    def calibrate(self, x, batch_size=None) -> None:
        """Take the statistics of a population from x, a sample of it, or from mini-batches of x."""
        x = np.require(x, self.running_mean.dtype, ["C", "A"])
        rows, m = rows_of(x), len(x) if batch_size is None else batch_size
        if len(rows) < 2:
            raise ValueError(f"X: expected at least two rows to take statistics of, got {len(rows)}")
        batches = [core.batch_statistics(rows_of(x[i : i + m]), 1) for i in range(0, len(x) - m + 1, m)]
        mean, var = (np.mean(a, axis=0, dtype=np.float64).astype(x.dtype) for a in zip(*batches, strict=True))
        bad = np.flatnonzero(~(np.isfinite(mean) & np.isfinite(var)))
        if bad.size:
            found = next((a for a in rows[:, bad[0]] if not np.isfinite(a)), f"a variance that {x.dtype} cannot hold")
            raise ValueError(f"X: expected finite values to normalize, got {found} in column {bad[0]}")
        self.running_mean, self.running_var = mean, var

    def loses_digits(self, dtype):
        scale = 1 / np.sqrt(self.running_var.astype(np.float64) + self.eps)
        return loses_digits(scale, scale * self.running_mean, dtype)

    def scale_and_shift(self):
        """Inference without the activation as ``x * scale + shift``, in float64."""
        mean, var = self.running_mean.astype(np.float64), self.running_var.astype(np.float64)
        scale = (self.gamma if self.affine else 1.0) / np.sqrt(var + self.eps)
        return scale, (self.beta if self.affine else 0.0) - scale * mean

    def lay_out(self, layout, src):
        dst = layout.value(self.output_shape(layout.shapes[src]))
        averages = {"mean": self.running_mean, "var": self.running_var}
        own = {"activation": self.activation, "eps": self.eps, **averages}
        if layout.training and self.trainable:
            layout.add("batch_norm", src, dst, weights=self.parameters(), momentum=self.momentum, **own)
        else:
            layout.add("batch_norm_averages", src, dst, weights=self.parameters(), **own)
        return dst
