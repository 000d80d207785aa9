"""Conv2d: a product of the positions around each one."""

import numpy as np

from fastopt._arrays import as_array
from fastopt._kernels import core
from fastopt._numbers import whole_pair
from fastopt.nn import initialization
from fastopt.nn.layers.dense import Product, bias_of
from fastopt.nn.layers.layer import image_of, known_activation

OPTIONS = ("stride", "padding", "dilation", "groups")  # by torch's names


class Conv2d(Product):
    """Convolution of images (n, height, width, channels), as torch's ``Conv2d`` computes it.

    ``y[n, i, j, k] = activation(bias[k] + sum over r, s, c of weight[k, r, s, c] * x[n, i * stride - padding +
    r * dilation, j * stride - padding + s * dilation, c])``, where x is 0 beyond the image.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, dilation : int or (int, int)
        Of rows and of columns.
    padding : int, (int, int), "same" or "valid"
        Zeros above and below, left and right. "same" gives an image of the same size, for a stride of 1: of an odd
        number of zeros the smaller half comes first. "valid" is 0.
    groups : int
        A divisor of both numbers of channels: each part of the outputs is a convolution of the same part of the inputs.
    bias : bool
        Whether a bias is added.
    activation : str
        One of identity, relu, leaky_relu (slope 0.01), tanh, sigmoid, gelu (erf form), silu, softmax (over channels).
    init : str, optional
        How the weights start, as said below by default: glorot, he, lecun (uniform), glorot_normal,
        he_normal, lecun_normal, orthogonal, sparse or zeros.
    l1, l2 : float
        The loss of training gains ``l1 * sum(abs(weight)) + l2 / 2 * sum(weight**2)``.
    max_norm : float, optional
        After a step of a `Trainer`, the weights of an output, its filter, have at most this norm.
    trainable : bool
        False: training leaves weight and bias as they are; see `Layer.trainable`.

    Attributes
    ----------
    weight : ndarray, shape (out, kernel height, kernel width, in / groups)
        Starts uniform with the variance of He et al. 2015 before relu, leaky_relu, gelu and silu, of Glorot & Bengio
        2010 otherwise; the fans are those of one group, each of its channels times the size of the kernel.
    bias : ndarray, shape (out,), or None
        Starts at zero.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> layers = [fo.nn.Conv2d(3, 8, kernel_size=3, stride=2, padding=1, activation="relu")]
    >>> net = fo.nn.Sequential(layers, rng=0, input_shape=(32, 32, 3))
    >>> net.layers[0].weight.shape, net.predict(np.zeros((1, 32, 32, 3))).shape
    ((8, 3, 3, 3), (1, 16, 16, 8))
    """

    _widths = ("in_channels", "out_channels")

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
        activation="identity",
        init=None,
        l1=0.0,
        l2=0.0,
        max_norm=None,
        *,
        trainable=True,
    ):
        super().__init__(in_channels, out_channels, bias, init, l1, l2, max_norm, trainable)
        self.kernel_size, self.stride = whole_pair("kernel_size", kernel_size), whole_pair("stride", stride)
        self.dilation = whole_pair("dilation", dilation)
        self.groups, self.activation = self._checked_groups(groups), known_activation(activation)
        self.padding = padding if isinstance(padding, str) else whole_pair("padding", padding, 0)
        if self.padding not in ("same", "valid") and isinstance(padding, str):
            raise ValueError(f"padding: expected 'same', 'valid' or whole numbers of at least 0, got {padding!r}")
        if self.padding == "same" and self.stride != (1, 1):
            raise ValueError(f"padding: expected numbers where the stride is not 1, got 'same' with {self.stride}")

    def _default_init(self):
        return "he" if self.activation in initialization.HALVING else "glorot"

    def config(self):
        own = {name: _short(getattr(self, name)) for name in ("kernel_size", "stride", "padding", "dilation")}
        return self._config(**own, groups=self.groups, activation=self.activation)

    def marks(self):
        pairs = [self.kernel_size] if self.stride == (1, 1) else [self.kernel_size, self.stride]
        groups = [f"{self.groups} groups"] if self.groups > 1 else []
        return ["/".join("x".join(map(str, pair)) for pair in pairs), *super().marks(), *groups]

    def _pads(self):
        """Zeros above and below, left and right."""
        return core.conv2d_padding(self.padding, self.kernel_size, self.dilation)

    def _sizes(self, image):
        """(height, width) of the output, and the border that its filters read."""
        channels = self.in_features, self.out_features, self.groups
        return core.conv2d_geometry(image[:2], self.kernel_size, self.stride, self.dilation, self._pads(), channels)

    def output_shape(self, input_shape):
        image = image_of(input_shape)
        if image[2] != self.in_features:
            turned = "; arrays are (n, height, width, channels): put nn.ChannelsFirst() first, or transpose"
            way_out = turned if image[0] == self.in_features else ""
            raise ValueError(f"expected {self.in_features} channels, got {image[2]}{way_out}")
        size, _ = self._sizes(image)
        if min(size) < 1:
            reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            padded = [n + sum(pad) for n, pad in zip(image[:2], self._pads(), strict=True)]
            raise ValueError(
                f"expected an image of at least {reach[0]} x {reach[1]} with its padding, got {padded[0]} x {padded[1]}"
            )
        return (*size, self.out_features)

    def _weight_shape(self):
        return (self.out_features, *self.kernel_size, self.in_features // self.groups)

    def _takes_a_shift(self):
        return not any(map(any, self._pads()))  # zeros around the image are not shifted

    # --- the program

    def lay_out(self, layout, src):
        before = layout.shapes[src]
        after, (_, border) = self.output_shape(before), self._sizes(before)
        src, dst = layout.bordered(src, border), layout.value(after)
        starts = tuple(start for start, _ in self._pads())
        self._add("conv2d", layout, src, dst, stride=self.stride, padding=starts, dilation=self.dilation)
        return dst

    # --- torch

    @classmethod
    def from_torch(cls, conv, activation="identity") -> "Conv2d":
        """A layer with a copy of the weights of a ``torch.nn.Conv2d``; a network takes them in its own dtype.

        Raises
        ------
        ValueError
            A `padding_mode` other than "zeros".
        """
        if conv.padding_mode != "zeros":
            raise ValueError(f"conv: expected padding_mode 'zeros', got {conv.padding_mode!r}")
        options = {name: getattr(conv, name) for name in OPTIONS}
        sizes = (conv.in_channels, conv.out_channels, conv.kernel_size)
        layer = cls(*sizes, **options, bias=conv.bias is not None, activation=activation)
        weight = np.moveaxis(as_array("weight", conv.weight.detach()), 1, 3)
        layer.start_with(weight=weight, **bias_of(conv))
        return layer

    def to_torch(self):
        """A ``torch.nn.Conv2d`` with a copy of the weights, without the activation; needs torch."""
        import torch

        options = {name: getattr(self, name) for name in OPTIONS}
        sizes = (self.in_features, self.out_features, self.kernel_size)
        conv = torch.nn.Conv2d(*sizes, **options, bias=self._has_bias)
        return self._give(conv, lambda weight: np.moveaxis(weight, 3, 1))


def _short(pair):
    """A pair of equal numbers as one of them, another as a list, as JSON has it; a name as it is."""
    if isinstance(pair, str):
        return pair
    return pair[0] if pair[0] == pair[1] else list(pair)
