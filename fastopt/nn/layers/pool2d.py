"""Pooling of images: of a window of pixels the largest or the average, channel by channel. Nothing is trained."""

from fastopt._kernels import core
from fastopt._numbers import flag, whole_pair
from fastopt.nn.layers.layer import Layer, image_of


class Windows(Layer):
    """What pools share: how windows lie on an image, by torch's rules."""

    def __init__(self, kernel_size, stride=None, padding=0, ceil_mode=False):
        self.kernel_size = whole_pair("kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else whole_pair("stride", stride)
        self.padding = whole_pair("padding", padding, 0)
        self.ceil_mode = flag("ceil_mode", ceil_mode)
        self.output_shape((*self.kernel_size, 1))  # refuses too much padding

    def _config(self, **more):
        pairs = {name: list(getattr(self, name)) for name in ("kernel_size", "stride", "padding")}
        return pairs | {"ceil_mode": self.ceil_mode} | more

    def marks(self):
        return ["/".join("x".join(map(str, pair)) for pair in (self.kernel_size, self.stride))]

    def output_shape(self, input_shape):
        height, width, channels = image_of(input_shape)
        windows = core.pool2d_shape(height, width, self.kernel_size, self.stride, self.padding, self.ceil_mode)
        return (*windows, channels)

    def _lay_out(self, layout, src, kind, **more):
        dst = layout.value(self.output_shape(layout.shapes[src]))
        where = {name: getattr(self, name) for name in ("kernel_size", "stride", "padding")}
        layout.add(kind, src, dst, **where, **more)
        return dst


class MaxPool2d(Windows):
    """The largest pixel of every window, channel by channel.

    Parameters
    ----------
    kernel_size : int or (int, int)
        Height and width of a window.
    stride : int or (int, int), optional
        From one window to the next; `kernel_size` if None.
    padding : int or (int, int)
        Pixels around the image at which windows may start and end, at most half of the kernel. Nothing is read there.
    ceil_mode : bool
        Whether a last window may reach beyond the padded image. One that would start beyond the image is dropped.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.MaxPool2d(2)], input_shape=(4, 4, 1))
    >>> net.predict(np.arange(16).reshape(1, 4, 4, 1))[0, :, :, 0]
    array([[ 5.,  7.],
           [13., 15.]], dtype=float32)
    """

    def config(self):
        return self._config()

    def lay_out(self, layout, src):
        return self._lay_out(layout, src, "max_pool2d")


class AvgPool2d(Windows):
    """The average of every window, channel by channel.

    Parameters
    ----------
    kernel_size, stride, padding, ceil_mode
        As for `MaxPool2d`.
    count_include_pad : bool
        Whether pixels of the padding count, as zeros: the sum is divided by the size of the window within the padded
        image. Otherwise it is divided by the number of pixels that are there.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.AvgPool2d(2)], input_shape=(4, 4, 1))
    >>> net.predict(np.arange(16).reshape(1, 4, 4, 1))[0, :, :, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]], dtype=float32)
    """

    def __init__(self, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = flag("count_include_pad", count_include_pad)

    def config(self):
        return self._config(count_include_pad=self.count_include_pad)

    def lay_out(self, layout, src):
        return self._lay_out(layout, src, "avg_pool2d", count_include_pad=self.count_include_pad)


class GlobalAvgPool2d(Layer):
    """The average of all pixels, channel by channel: an image becomes a vector of its channels.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> layers = [fo.nn.GlobalAvgPool2d(), fo.nn.Dense(8, 10)]
    >>> net = fo.nn.Sequential(layers, input_shape=(7, 7, 8), rng=0)
    >>> net.predict(np.zeros((2, 7, 7, 8))).shape
    (2, 10)
    """

    def config(self):
        return {}

    def output_shape(self, input_shape):
        return (image_of(input_shape)[2],)

    def lay_out(self, layout, src):
        height, width, channels = layout.shapes[src]
        dst = layout.value((channels,))
        layout.add("avg_pool2d", src, dst, kernel_size=(height, width), stride=(1, 1), padding=(0, 0))
        return dst
