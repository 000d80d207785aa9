"""What layers share that draw random numbers in training and are nothing in inference."""

import numpy as np

from fastopt.nn.layers.layer import Array, ArraySpec, Layer


class TrainingOnly(Layer):
    """A layer with a seed, which takes the width of what stands before it and keeps it.

    Random numbers are a function of the seed, the count of batches and the place in the batch.
    """

    seed = Array()
    training_only = True
    _parameters = ("in_features", "out_features")

    def output_shape(self, input_shape):
        if self.in_features not in (None, input_shape[-1]):
            axis, kind = "columns" if len(input_shape) == 1 else "channels", type(self).__name__
            expected = f"{self.in_features} {axis}, as where this {kind} stands already"
            raise ValueError(f"expected {expected} (make another one), got {input_shape[-1]}")
        return input_shape

    def build(self, rng, dtype, input_shape):
        self.__dict__["in_features"] = self.__dict__["out_features"] = input_shape[-1]
        super().build(rng, dtype, input_shape)

    def array_specs(self, dtype):
        return {"seed": ArraySpec((), np.dtype(np.uint64))}

    def start(self, rng):
        self.seed[...] = rng.integers(2**64, dtype=np.uint64)
