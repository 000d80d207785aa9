"""Layers with a product: Dense, GroupedDense, and what they share with Maxout and Conv2d."""

import math
from collections.abc import Mapping

import numpy as np

from fastopt._arrays import aligned_zeros, as_array
from fastopt._kernels import core
from fastopt._numbers import finite_number, flag, whole_number
from fastopt.nn import initialization
from fastopt.nn.layers.layer import Array, ArraySpec, Layer, known_activation, positions
from fastopt.threads import one_blas_thread

MOST = float(np.finfo(np.float32).max)  # of a penalty, in a network of either dtype


class PackedArrays(Mapping):
    """The arrays of a layer whose weight is packed: it is unpacked, into a new read-only array, where it is read."""

    def __init__(self, arrays, groups):
        self._kept = {**arrays, "weight": core.PackedWeight(arrays["weight"], groups)}

    def __getitem__(self, name):
        return self._kept[name].unpacked() if name == "weight" else self._kept[name]

    def __iter__(self):
        return iter(self._kept)

    def __len__(self):
        return len(self._kept)

    def packed(self) -> list:
        """The arrays as entries of inference take them."""
        return list(self._kept.values())


class Product(Layer):
    """What the layers with a weight share: the arrays and how they start, the entry, and a Standardize taken over."""

    in_features: int
    out_features: int
    weight = Array()
    bias = Array()
    weighted = True
    groups = 1
    _widths = ("in_features", "out_features")  # what the arguments are called

    def __init__(self, in_features, out_features, bias, init, l1, l2, max_norm, trainable):
        self.in_features = whole_number(self._widths[0], in_features)
        self.out_features = whole_number(self._widths[1], out_features)
        self._has_bias, self.init = flag("bias", bias), initialization.check(init)
        self.l1, self.l2 = (finite_number(name, value, 0, most=MOST) for name, value in (("l1", l1), ("l2", l2)))
        self.max_norm = None if max_norm is None else finite_number("max_norm", max_norm, above=0, most=MOST)
        self.trainable = trainable

    def _config(self, **own):
        options = {"init": self.init, "l1": self.l1 or None, "l2": self.l2 or None, "max_norm": self.max_norm}
        return {
            **dict(zip(self._widths, (self.in_features, self.out_features), strict=True)),
            **own,
            "bias": self._has_bias,
            **{name: value for name, value in options.items() if value is not None},
        }

    def _rows(self) -> int:
        """Outputs of the product."""
        return self.out_features

    def _weight_shape(self) -> tuple[int, ...]:
        return (self._rows(), self.in_features // self.groups)

    def _checked_groups(self, groups) -> int:
        groups = whole_number("groups", groups)
        for name, width in zip(self._widths, (self.in_features, self.out_features), strict=True):
            if width % groups:
                raise ValueError(f"groups: expected a divisor of {name}, {width}, got {groups}")
        return groups

    def _matrices(self, weight):
        """A view of the weights as the matrices (k, out, in) that start each on its own."""
        return weight.reshape(self.groups, len(weight) // self.groups, -1)

    def _default_init(self) -> str:
        return "glorot"

    def array_specs(self, dtype):
        specs = {"weight": ArraySpec(self._weight_shape(), dtype)}
        return specs | {"bias": ArraySpec((self._rows(),), dtype)} if self._has_bias else specs

    def start(self, rng):
        taps = math.prod(self.weight.shape[1:-1])
        initialization.fill(self._matrices(self.weight), self.init or self._default_init(), self.activation, rng, taps)

    def parameters(self):
        return list(self._arrays.values())

    def pack(self):
        self._arrays = PackedArrays(self._arrays, self.groups)

    def multiply_adds(self, input_shape):
        return positions(self.output_shape(input_shape)) * math.prod(self._weight_shape())

    def absorb_before(self, layer, dtype):
        if layer.activation != "identity" or layer.loses_digits(dtype):
            return False
        affine = layer.scale_and_shift()
        if affine is None or (affine[0].ndim == 2 and self.groups > 1):  # a matrix over all columns fits no groups
            return False
        scale, shift = affine
        if np.any(shift) and not self._takes_a_shift():
            return False
        columns = (self.groups, 1, self.in_features // self.groups)
        weight = self.weight.reshape(self.groups, -1, columns[-1]).astype(np.float64)
        with one_blas_thread:
            bias = (weight @ shift.reshape(columns).transpose(0, 2, 1)).reshape(self._rows(), -1).sum(axis=1)
            weight = weight @ scale if scale.ndim == 2 else weight * scale.reshape(columns)
        return self._replace(weight.reshape(self.weight.shape), bias if self.bias is None else self.bias + bias)

    def _takes_a_shift(self) -> bool:
        """Whether a shift of the inputs is one of the outputs, the same at every position."""
        return True

    def absorb_after(self, layer):
        if not layer.folds_backward or self.activation != "identity":
            return False
        scale, shift = layer.scale_and_shift()
        bias = shift if self.bias is None else self.bias * scale + shift
        if not self._replace(self.weight * scale.reshape(-1, *[1] * (self.weight.ndim - 1)), bias):
            return False
        object.__setattr__(self, "activation", layer.activation)
        return True

    def _replace(self, weight, bias) -> bool:
        """Take weight and bias, in float64, for its own; not if the dtype of the network does not hold them."""
        with np.errstate(over="ignore", under="ignore"):
            narrow = [a.astype(self.weight.dtype) for a in (weight, bias)]
        for a, b in zip((weight, bias), narrow, strict=True):
            if not (np.isfinite(b).all() and ((a == 0) == (b == 0)).all()):
                return False
        if self.bias is None:
            self._has_bias = True
            self._arrays = {**self._arrays, "bias": aligned_zeros(bias.shape, self.weight.dtype)}
        self.weight, self.bias = narrow
        return True

    def lay_out(self, layout, src):
        dst = layout.value((*layout.shapes[src][:-1], self._rows()))
        self._add("dense", layout, src, dst)
        return dst

    def _add(self, kind, layout, src, dst, **own) -> None:
        """Add the entry of the product."""
        penalty = (self.l1, self.l2, self.max_norm or 0.0) if self.l1 or self.l2 or self.max_norm else None
        options = {"activation": self.activation, "penalty": penalty, "groups": self.groups}
        arrays, weights = self._arrays, self.parameters
        if layout.packed and isinstance(arrays, PackedArrays):
            weights = arrays.packed
        layout.add(kind, src, dst, weights=weights(), **options, **own)

    def _give(self, module, moved):
        """A module of torch, with a copy of the bias and of what `moved` makes of the weight."""
        import torch

        arrays = self.known_arrays()
        if not arrays:
            raise AttributeError("weight: made when the layer is put into a Sequential")
        for name, a in {**arrays, "weight": moved(arrays["weight"])}.items():
            setattr(module, name, torch.nn.Parameter(torch.from_numpy(a.copy())))
        return module


def bias_of(module) -> dict[str, np.ndarray]:
    """The bias of a module of torch as an argument of `Layer.start_with`; nothing where it has none."""
    return {} if module.bias is None else {"bias": as_array("bias", module.bias.detach())}


class Dense(Product):
    """Fully connected layer, ``activation(x @ weight.T + bias)``.

    Parameters
    ----------
    in_features, out_features : int
    activation : str
        One of identity, relu, leaky_relu (slope 0.01), tanh, sigmoid, gelu (erf form), silu, softmax.
    bias : bool
        Whether a bias is added.
    init : str, optional
        How the weights start, glorot by default: glorot, he, lecun (uniform), glorot_normal,
        he_normal, lecun_normal, orthogonal, sparse or zeros.
    l1, l2 : float
        The loss of training gains ``l1 * sum(abs(weight)) + l2 / 2 * sum(weight**2)``.
    max_norm : float, optional
        After a step of a `Trainer`, the weights of an output have at most this norm.
    trainable : bool
        False: training leaves weight and bias as they are; see `Layer.trainable`.

    Attributes
    ----------
    weight : ndarray, shape (out, in)
        Starts uniform with the variance of Glorot & Bengio 2010. Ten and more layers of relu in a row, without
        `BatchNorm` or `Residual`, learn sooner with ``init="he"``.
    bias : ndarray, shape (out,), or None
        Starts at zero.

    Examples
    --------
    >>> import fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Dense(3, 2, activation="relu")], rng=0)
    >>> net.layers[0].weight.shape
    (2, 3)
    """

    _parameters = ("groups",)

    def __init__(
        self,
        in_features,
        out_features,
        activation="identity",
        bias=True,
        init=None,
        l1=0.0,
        l2=0.0,
        max_norm=None,
        *,
        trainable=True,
    ):
        super().__init__(in_features, out_features, bias, init, l1, l2, max_norm, trainable)
        self.activation = known_activation(activation)

    @classmethod
    def from_torch(cls, linear, activation="identity", *, image_shape=None) -> "Dense":
        """A layer with a copy of the weights of a ``torch.nn.Linear``; a network takes them in its own dtype.

        Parameters
        ----------
        linear : torch.nn.Linear
        activation : str
        image_shape : tuple of int, optional
            (height, width, channels) of the image that is flattened before the layer: torch counts its numbers channel
            by channel, `Flatten` position by position, and the columns of the weights are moved accordingly.

        Raises
        ------
        ValueError
            An `image_shape` of another size than the layer's input.
        """
        layer = cls(linear.in_features, linear.out_features, activation, linear.bias is not None)
        weight = as_array("weight", linear.weight.detach())
        if image_shape is not None:
            height, width, channels = layer._checked_image(image_shape)
            weight = np.moveaxis(weight.reshape(-1, channels, height, width), 1, 3).reshape(weight.shape)
        layer.start_with(weight=weight, **bias_of(linear))
        return layer

    def to_torch(self, *, image_shape=None):
        """A ``torch.nn.Linear`` with a copy of the weights, without the activation; `image_shape` as for `from_torch`.

        Needs torch.
        """
        image = None if image_shape is None else self._checked_image(image_shape)
        import torch

        linear = torch.nn.Linear(self.in_features, self.out_features, bias=self._has_bias)
        if image is None:
            return self._give(linear, lambda weight: weight)
        return self._give(linear, lambda weight: np.moveaxis(weight.reshape(-1, *image), 3, 1).reshape(weight.shape))

    def _checked_image(self, shape) -> tuple[int, int, int]:
        if not isinstance(shape, tuple | list) or len(shape) != 3:
            raise ValueError(f"image_shape: expected (height, width, channels), got {shape!r}")
        height, width, channels = (whole_number(f"image_shape[{i}]", n) for i, n in enumerate(shape))
        if height * width * channels != self.in_features:
            raise ValueError(f"image_shape: expected {self.in_features} numbers in all, got {shape}")
        return height, width, channels

    def config(self):
        return self._config(activation=self.activation)


class GroupedDense(Product):
    """Dense layer in groups, each output connected to the inputs of its own group only.

    With inputs and outputs cut into `groups` equal parts, each part of the outputs is a dense
    layer over the same part of the inputs: 1/groups of the weights and of the work.

    Parameters
    ----------
    in_features, out_features : int
    groups : int
        A divisor of both.
    activation : str
        One of identity, relu, leaky_relu (slope 0.01), tanh, sigmoid, gelu (erf form), silu,
        softmax (of whole rows).
    bias : bool
        Whether a bias is added.
    init : str, optional
        How the weights start, glorot by default: glorot, he, lecun (uniform), glorot_normal,
        he_normal, lecun_normal, orthogonal, sparse or zeros.
    l1, l2 : float
        The loss of training gains ``l1 * sum(abs(weight)) + l2 / 2 * sum(weight**2)``.
    max_norm : float, optional
        After a step of a `Trainer`, the weights of an output have at most this norm.
    trainable : bool
        False: training leaves weight and bias as they are; see `Layer.trainable`.

    Attributes
    ----------
    weight : ndarray, shape (out, in / groups)
        Row o holds the weights of output o for the inputs of group ``o // (out / groups)``, as in
        a grouped convolution of torch. Starts as that of `Dense`, with the fans of one group.
    bias : ndarray, shape (out,), or None
        Starts at zero.

    Examples
    --------
    >>> import fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.GroupedDense(8, 4, groups=2, activation="relu")], rng=0)
    >>> net.layers[0].weight.shape
    (4, 4)
    """

    def __init__(
        self,
        in_features,
        out_features,
        groups,
        activation="identity",
        bias=True,
        init=None,
        l1=0.0,
        l2=0.0,
        max_norm=None,
        *,
        trainable=True,
    ):
        super().__init__(in_features, out_features, bias, init, l1, l2, max_norm, trainable)
        self.groups, self.activation = self._checked_groups(groups), known_activation(activation)

    def config(self):
        return self._config(groups=self.groups, activation=self.activation)

    def marks(self):
        return [*super().marks(), f"{self.groups} groups"]
