"""ChannelsFirst: images that come as (channels, height, width)."""

from fastopt.nn.layers.layer import Layer


class ChannelsFirst(Layer):
    """Take samples as (channels, height, width), as torch has them, and give them as (height, width, channels).

    The first layer of a network whose data come so; the `input_shape` is theirs then. Where the data can be turned once,
    ``x.transpose(0, 2, 3, 1)`` saves the work of every call.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> layers = [fo.nn.ChannelsFirst(), fo.nn.Dense(3, 8)]
    >>> net = fo.nn.Sequential(layers, rng=0, input_shape=(3, 32, 28))
    >>> net.predict(np.zeros((1, 3, 32, 28))).shape
    (1, 32, 28, 8)
    """

    reshapes = True

    def config(self):
        return {}

    def output_shape(self, input_shape):
        if len(input_shape) != 3:
            way_out = "give Sequential an input_shape="
            raise ValueError(f"expected an image (channels, height, width), got {input_shape}; {way_out}")
        channels, height, width = input_shape
        return (height, width, channels)

    def lay_out(self, layout, src):
        dst = layout.value(self.output_shape(layout.shapes[src]))
        layout.add("channels_first", src, dst)
        return dst
