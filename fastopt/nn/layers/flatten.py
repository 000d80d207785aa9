"""Flatten: an image as a vector."""

import math

from fastopt.nn.layers.layer import Layer


class Flatten(Layer):
    """An image as a vector of ``height * width * channels``, in this order; nothing is copied.

    A vector stays as it is. torch flattens (channels, height, width): `Dense.from_torch` and `to_torch` with
    ``image_shape=`` move the columns of the weights that follow.

    Examples
    --------
    >>> import fastopt as fo
    >>> layers = [fo.nn.Flatten(), fo.nn.Dense(8 * 8 * 3, 10)]
    >>> net = fo.nn.Sequential(layers, rng=0, input_shape=(8, 8, 3))
    >>> net.output_shape
    (10,)
    """

    reshapes = True

    def config(self):
        return {}

    def output_shape(self, input_shape):
        return (math.prod(input_shape),)

    def lay_out(self, layout, src):
        shape = layout.shapes[src]
        return src if len(shape) == 1 else layout.value(self.output_shape(shape), owner=layout.plain(src))
