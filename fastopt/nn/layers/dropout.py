"""Dropout: nothing in inference."""

import numpy as np

from fastopt._kernels import core
from fastopt.nn.layers.layer import Array, ArraySpec, Layer


class Dropout(Layer):
    """Drop a random share of the inputs in training, none in inference (Srivastava et al. 2014).

    Parameters
    ----------
    rate : float
        The probability of dropping an input, in [0, 1); those kept are multiplied by
        ``1 / (1 - rate)``. A rate of 0 adds nothing to the program.

    Attributes
    ----------
    seed : ndarray, shape (), uint64
        Drawn from the network's random numbers. It, the count of batches and the place in the
        batch decide what is dropped. Model files and runs keep it.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Dense(4, 8, activation="relu"), fo.nn.Dropout(0.2), fo.nn.Dense(8, 3)], rng=0)
    >>> net.predict(np.zeros((2, 4))).shape
    (2, 3)
    """

    seed = Array()
    training_only = True
    _parameters = ("in_features", "out_features")

    def __init__(self, rate):
        self.rate = core.drop_rate(rate)

    def config(self):
        return {"rate": self.rate}

    def marks(self):
        return [str(self.rate)]

    def output_shape(self, input_shape):
        if self.in_features not in (None, input_shape[-1]):
            expected = f"{self.in_features} columns, as where this Dropout stands already"
            raise ValueError(f"expected {expected} (make another one), got {input_shape[-1]}")
        return input_shape

    def build(self, rng, dtype, input_shape):
        self.__dict__["in_features"] = self.__dict__["out_features"] = input_shape[-1]
        super().build(rng, dtype, input_shape)

    def array_specs(self, dtype):
        return {"seed": ArraySpec((), np.dtype(np.uint64))}

    def start(self, rng):
        self.seed[...] = rng.integers(2**64, dtype=np.uint64)

    def lay_out(self, layout, src):
        if self.rate == 0 or not layout.training:
            return src
        dst = layout.value(layout.shapes[src])
        layout.add("dropout", src, dst, rate=self.rate, seed=self.seed)
        return dst
