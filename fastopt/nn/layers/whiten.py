"""Whiten: columns centered, and decorrelated by a matrix that is not trained."""

import numpy as np

from fastopt._numbers import finite_number
from fastopt.nn import conditioning
from fastopt.nn.layers.layer import Array, ArraySpec, loses_digits, positions, rows_of
from fastopt.nn.layers.standardize import FromData
from fastopt.threads import one_blas_thread


class Whiten(FromData):
    """Center the columns and decorrelate them, ``(x - mean) @ weight.T``: their covariance becomes the identity.

    The statistics are not trained: they come from data, as those of `Standardize` do.

    Parameters
    ----------
    features : int
    kind : str
        "zca" stays as close to the input as whitening can, "pca" gives the principal components,
        the one of largest variance first (Kessy et al. 2018).
    eps : float
        At least 0; this share of the largest variance is added to the variance along every
        principal component, so that components of next to none are not blown up.

    Attributes
    ----------
    mean : ndarray, shape (features,), float64
        Read-only; assign to it.
    weight : ndarray, shape (features, features)
    calibrated : bool
        Whether the statistics have been taken.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> X = np.random.default_rng(0).normal(size=(500, 2)) @ [[3.0, 2.0], [0.0, 0.1]]
    >>> net = fo.nn.Sequential([fo.nn.Whiten(2)], dtype=np.float64).calibrate(X)
    >>> fo.nn.condition_number(X) > 1000, round(fo.nn.condition_number(net.predict(X)), 2)
    (True, 1.0)
    """

    weight = Array()

    def __init__(self, features, kind="zca", eps=1e-6):
        super().__init__(features)
        if kind not in ("zca", "pca"):
            raise ValueError(f"kind: expected 'zca' or 'pca', got {kind!r}")
        self.kind, self.eps = kind, finite_number("eps", eps, 0)

    def config(self):
        return {"features": self.in_features, "kind": self.kind, "eps": self.eps}

    def marks(self):
        return [self.kind]

    def multiply_adds(self, input_shape):
        return positions(input_shape) * self.in_features * self.out_features

    def array_specs(self, dtype):
        return super().array_specs(dtype) | {"weight": ArraySpec((self.in_features, self.in_features), dtype)}

    def start(self, rng):
        np.fill_diagonal(self.weight, 1)

    def scale_and_shift(self):
        scale = self.weight.astype(np.float64)
        with one_blas_thread:
            return scale, -scale @ self.mean

    def loses_digits(self, dtype):
        scale = np.abs(self.weight.astype(np.float64))
        with one_blas_thread:
            shift = scale @ np.abs(self.mean)
        return loses_digits(scale.max(axis=1), shift, dtype)

    def calibrate(self, x, batch_size=None) -> None:
        """Take the statistics of all of x."""
        x = rows_of(x)
        mean, weight = conditioning.whitening(x, self.kind, self.eps)
        largest = float(np.finfo(self.weight.dtype).max)
        if np.abs(weight).max() > largest:
            what = f"deviations that {self.weight.dtype} can divide by"
            raise ValueError(f"X: expected {what}, got so small ones that weights reach {np.abs(weight).max():.0e}")
        with np.errstate(over="ignore"):
            reach = float(np.maximum(x.max(axis=0) - mean, mean - x.min(axis=0)).max())
        if reach > largest:
            raise ValueError(f"X: expected deviations that {self.weight.dtype} holds, got one of {reach:.0e}; scale it")
        self._take(mean=mean, weight=weight)

    def lay_out(self, layout, src):
        shape = layout.shapes[src]
        centered, dst = layout.value(shape), layout.value(shape)
        reading = {name: self._arrays[name] for name in ("mean", "split", "reading")}
        layout.add("standardize", src, centered, scale=np.ones(self.in_features), **reading)
        layout.add("dense", centered, dst, constant=self.weight)
        return dst
