"""Dropout: nothing in inference."""

from fastopt._kernels import core
from fastopt.nn.layers.training_only import TrainingOnly


class Dropout(TrainingOnly):
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
    >>> layers = [fo.nn.Dense(4, 8, activation="relu"), fo.nn.Dropout(0.2), fo.nn.Dense(8, 3)]
    >>> net = fo.nn.Sequential(layers, rng=0)
    >>> net.predict(np.zeros((2, 4))).shape
    (2, 3)
    """

    def __init__(self, rate):
        self.rate = core.drop_rate(rate)

    def config(self):
        return {"rate": self.rate}

    def marks(self):
        return [str(self.rate)]

    def lay_out(self, layout, src):
        if self.rate == 0 or not layout.training:
            return src
        dst = layout.value(layout.shapes[src])
        layout.add("dropout", src, dst, rate=self.rate, seed=self.seed)
        return dst
