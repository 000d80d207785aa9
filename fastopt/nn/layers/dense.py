"""Layers with a product: Dense, GroupedDense, and what they share with Maxout."""

import numpy as np

from fastopt._arrays import aligned_zeros, as_array
from fastopt._numbers import finite_number, flag, whole_number
from fastopt.nn import initialization
from fastopt.nn.layers.layer import Array, ArraySpec, Layer, known_activation, positions
from fastopt.threads import one_blas_thread

MOST = float(np.finfo(np.float32).max)  # of a penalty, in a network of either dtype


class Product(Layer):
    """What the layers with a weight share: the arrays and how they start, the entry, and a Standardize taken over."""

    in_features: int
    out_features: int
    weight = Array()
    bias = Array()
    weighted = True
    groups = 1

    def __init__(self, in_features, out_features, bias, init, l1, l2, max_norm):
        self.in_features = whole_number("in_features", in_features)
        self.out_features = whole_number("out_features", out_features)
        self._has_bias, self.init = flag("bias", bias), initialization.check(init)
        self._given: dict[str, np.ndarray] = {}  # weights to start with instead of random ones
        self.l1, self.l2 = (finite_number(name, value, 0, most=MOST) for name, value in (("l1", l1), ("l2", l2)))
        self.max_norm = None if max_norm is None else finite_number("max_norm", max_norm, above=0, most=MOST)

    def _config(self, **own):
        options = {"init": self.init, "l1": self.l1 or None, "l2": self.l2 or None, "max_norm": self.max_norm}
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            **own,
            "bias": self._has_bias,
            **{name: value for name, value in options.items() if value is not None},
        }

    def _rows(self) -> int:
        """Outputs of the product."""
        return self.out_features

    def _matrices(self, weight):
        """A view of the weights as the matrices (k, out, in) that start each on its own."""
        return weight.reshape(self.groups, -1, weight.shape[1])

    def array_specs(self, dtype):
        rows = self._rows()
        specs = {"weight": ArraySpec((rows, self.in_features // self.groups), dtype)}
        return specs | {"bias": ArraySpec((rows,), dtype)} if self._has_bias else specs

    def start(self, rng):
        initialization.fill(self._matrices(self.weight), self.init, self.activation, rng)
        for name, a in self._given.items():
            self._arrays[name][...] = a
        self._given = {}

    def parameters(self):
        return list(self._arrays.values())

    def multiply_adds(self, input_shape):
        return positions(input_shape) * self._rows() * (self.in_features // self.groups)

    def absorb_before(self, layer, dtype):
        if layer.activation != "identity" or layer.loses_digits(dtype):
            return False
        affine = layer.scale_and_shift()
        if affine is None or (affine[0].ndim == 2 and self.groups > 1):  # a matrix over all columns fits no groups
            return False
        scale, shift = affine
        columns = (self.groups, 1, self.in_features // self.groups)
        weight = self.weight.reshape(self.groups, -1, columns[-1]).astype(np.float64)
        with one_blas_thread:
            bias = (weight @ shift.reshape(columns).transpose(0, 2, 1)).ravel()
            weight = weight @ scale if scale.ndim == 2 else weight * scale.reshape(columns)
        return self._replace(weight.reshape(self.weight.shape), bias if self.bias is None else self.bias + bias)

    def absorb_after(self, layer):
        if not layer.folds_backward or self.activation != "identity":
            return False
        scale, shift = layer.scale_and_shift()
        bias = shift if self.bias is None else self.bias * scale + shift
        if not self._replace(self.weight * scale[:, None], bias):
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
        penalty = (self.l1, self.l2, self.max_norm or 0.0) if self.l1 or self.l2 or self.max_norm else None
        options = {"activation": self.activation, "penalty": penalty, "groups": self.groups}
        layout.add("dense", src, dst, weights=self.parameters(), **options)
        return dst


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
        How the weights start, by default as said below: glorot, he, lecun (uniform), glorot_normal,
        he_normal, lecun_normal, orthogonal, sparse or zeros.
    l1, l2 : float
        The loss of training gains ``l1 * sum(abs(weight)) + l2 / 2 * sum(weight**2)``.
    max_norm : float, optional
        After a step of a `Trainer`, the weights of an output have at most this norm.

    Attributes
    ----------
    weight : ndarray, shape (out, in)
        Starts uniform with the variance of He et al. 2015 before relu, leaky_relu, gelu and
        silu, of Glorot & Bengio 2010 otherwise.
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
        self, in_features, out_features, activation="identity", bias=True, init=None, l1=0.0, l2=0.0, max_norm=None
    ):
        super().__init__(in_features, out_features, bias, init, l1, l2, max_norm)
        self.activation = known_activation(activation)

    @classmethod
    def from_torch(cls, linear, activation="identity") -> "Dense":
        """A layer with a copy of the weights of a ``torch.nn.Linear``; a network takes them in its own dtype."""
        layer = cls(linear.in_features, linear.out_features, activation, linear.bias is not None)
        given = {"weight": linear.weight, "bias": linear.bias}
        layer._given = {name: as_array(name, a.detach()).copy() for name, a in given.items() if a is not None}
        return layer

    def to_torch(self):
        """A ``torch.nn.Linear`` with a copy of the weights, without the activation; needs torch."""
        import torch

        arrays = self.arrays() or self._given
        if not arrays:
            raise AttributeError("weight: made when the layer is put into a Sequential")
        linear = torch.nn.Linear(self.in_features, self.out_features, bias=self._has_bias)
        for name, a in arrays.items():
            setattr(linear, name, torch.nn.Parameter(torch.from_numpy(a.copy())))
        return linear

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
        How the weights start, by default as said below: glorot, he, lecun (uniform), glorot_normal,
        he_normal, lecun_normal, orthogonal, sparse or zeros.
    l1, l2 : float
        The loss of training gains ``l1 * sum(abs(weight)) + l2 / 2 * sum(weight**2)``.
    max_norm : float, optional
        After a step of a `Trainer`, the weights of an output have at most this norm.

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
    ):
        super().__init__(in_features, out_features, bias, init, l1, l2, max_norm)
        self.groups, self.activation = whole_number("groups", groups), known_activation(activation)
        for name in ("in_features", "out_features"):
            if getattr(self, name) % self.groups:
                raise ValueError(f"groups: expected a divisor of {name}, {getattr(self, name)}, got {self.groups}")

    def config(self):
        return self._config(groups=self.groups, activation=self.activation)

    def marks(self):
        return [*super().marks(), f"{self.groups} groups"]
