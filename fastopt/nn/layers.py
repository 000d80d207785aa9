"""Layers: their shapes, their arrays, and the program entries they become.

A layer owns its arrays for life: assigning to ``layer.weight`` copies into them,
because compiled programs and optimizers point there. It says what they are before
they exist (`array_specs`), and gets them from the network it is put into, which knows
dtype and random numbers (`build`), or from a file (`adopt`). Everything else it is made
with stays as it is: compiled programs would not follow.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from fastopt._arrays import aligned_copy, aligned_zeros, as_array, as_numbers
from fastopt._kernels import core
from fastopt._numbers import finite_number, flag, whole_number
from fastopt.nn import conditioning, initialization
from fastopt.threads import one_blas_thread

READ_IN_FLOAT64, READ_AS_IT_COMES, READ_ROUNDED = range(3)  # as standardize.pxi has them
FAR = 16  # deviations from zero to the centre of a column: absorbing the centre loses so many bits, 4


class ArraySpec(NamedTuple):
    """An array of a layer, known without allocating it."""

    shape: tuple[int, ...]
    dtype: np.dtype  # in a new network
    others: tuple[np.dtype, ...] = ()  # that files hold as well: a layer adopts the array as it comes


class _Array:
    """A layer's array as an attribute; assignment copies into it."""

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, layer, owner=None):
        return self if layer is None else self._of(layer)

    def _of(self, layer):
        if not layer._arrays:
            raise AttributeError(f"{self.name}: made when the layer is put into a Sequential")
        return layer._arrays.get(self.name)

    def __set__(self, layer, value):
        mine, value = self._of(layer), as_numbers(self.name, value)
        if mine is None or value.shape != mine.shape:
            shape = None if mine is None else mine.shape
            raise ValueError(f"{self.name}: expected shape {shape}, got {value.shape}")
        mine[...] = value


class _Statistic(_Array):
    """An array that others are derived from: read-only but for assignment."""

    def __get__(self, layer, owner=None):
        if layer is None:
            return self
        view = self._of(layer).view()
        view.flags.writeable = False
        return view

    def __set__(self, layer, value):
        super().__set__(layer, value)
        layer.split()


class Fixed:
    """What is set once, by the constructor, and refuses to be set again.

    ``object.__setattr__`` sets it all the same, in copies that no program has been compiled from.
    """

    _parameters: tuple[str, ...] = ()  # fixed besides what the constructor sets
    _free: tuple[str, ...] = ()  # set by the constructor, and may change

    def __setattr__(self, name, value):
        fixed = name in self.__dict__ or name in self._parameters
        if fixed and not name.startswith("_") and name not in self._free:
            kind = type(self).__name__
            raise AttributeError(f"{name}: stays what the {kind} was made with, got {value!r}; make a new {kind}")
        super().__setattr__(name, value)


NO_KERNEL = (
    "expected a layer that has kernels, got a subclass of Layer without them; compose the layers of fastopt.nn, "
    "or compute outside the network"
)


class Layer(Fixed):
    """Base of the layers.

    Attributes
    ----------
    in_features, out_features : int
        Width of a row before and after the layer.
    calibrated : bool
        False while a layer still waits for statistics of data.
    """

    in_features: int
    out_features: int
    calibrated: bool = True
    _free = ("calibrated",)
    _arrays: Mapping[str, np.ndarray] = MappingProxyType({})  # empty until `build` or `adopt`

    def config(self) -> dict:
        """Constructor arguments, as plain values."""
        raise NotImplementedError(f"{type(self).__name__}.config: {NO_KERNEL}")

    def array_specs(self, dtype) -> dict[str, ArraySpec]:
        """What each array will be in a network of this dtype, by name; nothing is allocated."""
        return {}

    def build(self, rng, dtype) -> None:
        """Make the arrays and start them, unless the layer has them already."""
        if not self._arrays:
            specs = self.array_specs(np.dtype(dtype))
            self.adopt({name: aligned_zeros(spec.shape, spec.dtype) for name, spec in specs.items()})
            self.start(rng)

    def require_valid(self, arrays) -> None:
        """Raise ValueError for values that the layer's own arrays cannot have; `arrays` fit `array_specs`."""

    def adopt(self, arrays) -> None:
        """Take arrays over as the layer's own; they fit `array_specs`."""
        self._arrays = arrays

    def start(self, rng) -> None:
        """Write what new arrays start with; they are zero."""

    def parameters(self) -> list[np.ndarray]:
        """Trained arrays, in the order of their gradients."""
        return []

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything a model file keeps, by name."""
        return dict(self._arrays)

    def restore(self, calibrated, arrays) -> None:
        """Go back to copies of the arrays."""
        self.calibrated = calibrated
        for name, a in self._arrays.items():
            if a is not None and a.flags.writeable:
                a[...] = arrays[name]

    def stored(self) -> dict[str, np.ndarray]:
        """`arrays` in the dtypes of a model file."""
        return self.arrays()

    def loses_digits(self, dtype) -> bool:
        """Whether a layer with a weight that takes this one over computes less exactly than the two in a row."""
        return False

    def lay_out(self, program, src: int) -> int:
        """Add the layer's entries to a layout, reading value `src`; returns the value they end in."""
        raise NotImplementedError(f"{type(self).__name__}.lay_out: {NO_KERNEL}")

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config().items())})"

    def __getstate__(self):
        return self.__dict__.copy()

    def __setstate__(self, state):
        self.__dict__.update(state)
        if "_arrays" in state:
            self._arrays = {k: aligned_copy(a) for k, a in state["_arrays"].items() if a is not None}


MOST = float(np.finfo(np.float32).max)  # of a penalty, in a network of either dtype


class _Product(Layer):
    """What the layers with a weight share: the arrays and how they start, the entry, and a Standardize taken over."""

    weight = _Array()
    bias = _Array()
    activation = "identity"
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

    def absorbs(self, layer) -> bool:
        """Whether this layer can do that one's work too; a matrix over all columns has no place in groups."""
        return _is_affine(layer) or (isinstance(layer, Whiten) and self.groups == 1)

    def absorb(self, layer) -> None:
        """Take over the scale, or the matrix, and the shift of the layer before this one."""
        columns = (self.groups, 1, self.in_features // self.groups)
        scale, shift = layer.scale_and_shift()
        weight = self.weight.reshape(self.groups, -1, columns[-1]).astype(np.float64)
        with one_blas_thread:
            bias = (weight @ shift.reshape(columns).transpose(0, 2, 1)).ravel()
            weight = weight @ scale if scale.ndim == 2 else weight * scale.reshape(columns)
        self._replace(weight.reshape(self.weight.shape), bias if self.bias is None else self.bias + bias)

    def absorb_next(self, layer) -> None:
        """Take over the scale, shift and activation of the BatchNorm after this layer, which has no activation."""
        scale, shift = layer.scale_and_shift()
        bias = shift if self.bias is None else self.bias * scale + shift
        self._replace(self.weight * scale[:, None], bias)
        object.__setattr__(self, "activation", layer.activation)

    def _replace(self, weight, bias):
        if self.bias is None:
            self._has_bias = True
            self._arrays["bias"] = aligned_zeros(bias.shape, self.weight.dtype)
        self.weight, self.bias = weight, bias

    def lay_out(self, program, src):
        keep = program.value(self._rows()) if self.activation in ("gelu", "silu") else -1
        dst = program.value(self._rows())
        kind, parts = "dense", {"activation": self.activation, "weight": self.weight, "bias": self.bias, "keep": keep}
        if self.groups > 1:
            kind, parts["groups"] = "grouped_dense", self.groups
        if self.l1 or self.l2 or self.max_norm:
            parts["penalty"] = (self.l1, self.l2, self.max_norm or 0.0)
        program.add(kind, src, dst, **parts)
        return dst


def _activation(name) -> str:
    if not isinstance(name, str) or name not in core.ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(core.ACTIVATIONS)}, got {name!r}")
    return name


class Dense(_Product):
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
        self.activation = _activation(activation)

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


class GroupedDense(_Product):
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
        self.groups, self.activation = whole_number("groups", groups), _activation(activation)
        for name in ("in_features", "out_features"):
            if getattr(self, name) % self.groups:
                raise ValueError(f"groups: expected a divisor of {name}, {getattr(self, name)}, got {self.groups}")

    def config(self):
        return self._config(groups=self.groups, activation=self.activation)


class Maxout(_Product):
    """Maxout layer, the largest of `pieces` linear functions for each output (Goodfellow et al. 2013).

    Parameters
    ----------
    in_features, out_features : int
    pieces : int
        Linear functions per output.
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
    weight : ndarray, shape (out * pieces, in)
        The pieces of output o are the rows ``o * pieces`` to ``(o + 1) * pieces``. Starts uniform with the
        variance of Glorot & Bengio 2010, 2 / (in + out): the larger of two symmetric pieces has
        the mean square of one, so nothing is halved as by relu, and one piece an output hands
        the gradient on.
    bias : ndarray, shape (out * pieces,), or None
        Starts at zero.

    Examples
    --------
    >>> import fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Maxout(8, 4, pieces=3)], rng=0)
    >>> net.layers[0].weight.shape, net.out_features
    ((12, 8), 4)
    """

    _parameters = ("activation", "groups")

    def __init__(self, in_features, out_features, pieces=2, bias=True, init=None, l1=0.0, l2=0.0, max_norm=None):
        super().__init__(in_features, out_features, bias, init, l1, l2, max_norm)
        self.pieces = whole_number("pieces", pieces)

    def _rows(self):
        return self.out_features * self.pieces

    def _matrices(self, weight):
        return weight.reshape(self.out_features, self.pieces, -1).transpose(1, 0, 2)

    def config(self):
        return self._config(pieces=self.pieces)

    def lay_out(self, program, src):
        pieces, dst = super().lay_out(program, src), program.value(self.out_features)
        program.add("maxout", pieces, dst)
        return dst


class FromData(Layer):
    """What the layers share whose arrays are not trained but statistics of data.

    `mean`, and the scale beside it, are float64 whatever the network's dtype, and as the first layer they read the
    input in the dtype that came. Statistics of files and pickles written before were taken of data rounded to the
    network's dtype; the layer then rounds the input likewise and gives the same bits. The kernel reads rows of float32
    by `_arrays["split"]`, which `split` makes, in the way of `_arrays["reading"]`.
    """

    mean = _Statistic()
    _parameters = ("features",)

    def __init__(self, features):
        self.in_features = self.out_features = whole_number("features", features)
        self.calibrated = False

    def array_specs(self, dtype):
        older = (np.dtype(np.float32),) if dtype == np.float32 else ()
        return {name: ArraySpec((self.in_features,), np.dtype(np.float64), older) for name in self.wide()}

    def adopt(self, arrays):
        split = aligned_zeros((3, self.in_features), np.float32)
        self._arrays = {**arrays, "split": split, "reading": aligned_zeros((), np.uint8)}
        for name in self.wide():
            self._arrays[name] = aligned_copy(arrays[name].astype(np.float64))
        self.take_stored({name: arrays[name].dtype for name in self.wide()})

    def arrays(self):
        return {name: a for name, a in self._arrays.items() if name not in ("split", "reading")}

    def wide(self) -> list[str]:
        """Names of the arrays that are float64 in a network of float32."""
        return ["mean"]

    def stored(self):
        narrow = self.wide() if self._rounds() else []
        return {name: a.astype(np.float32) if name in narrow else a for name, a in self.arrays().items()}

    def stored_dtype(self, dtypes) -> np.dtype:
        """The dtype of a file's statistics, given by name: float32 where the data was rounded to it."""
        if len(set(dtypes.values())) > 1:
            kinds = " and ".join(map(str, dtypes.values()))
            raise ValueError(f"{', '.join(dtypes)}: expected arrays of one dtype, got {kinds}")
        return dtypes["mean"]

    def take_stored(self, dtypes) -> None:
        """The statistics have come from a file, in these dtypes."""
        self.split(self.stored_dtype(dtypes) == np.float32)

    def _rounds(self) -> bool:
        return bool(self._arrays) and int(self._arrays["reading"]) == READ_ROUNDED

    def split(self, rounded=None) -> None:
        """Make what rows of float32 are read by, for `mean` and `scale` have changed; `rounded` stays if None."""
        rounded = self._rounds() if rounded is None else rounded
        with np.errstate(all="ignore"):
            mean, scale = self._arrays["mean"], self._arrays.get("scale", np.float64(1))
            high, factor = mean.astype(np.float32), scale.astype(np.float32)
            low = np.zeros_like(high) if rounded else (mean - high).astype(np.float32)
        limits, size = np.finfo(np.float32), np.abs(factor)
        held = np.isfinite(high).all() and ((size >= limits.tiny) & (size <= limits.max)).all()
        for row, a in zip(self._arrays["split"], (high, low, factor), strict=True):
            row[...] = a
        self._arrays["reading"][...] = READ_ROUNDED if rounded else READ_AS_IT_COMES if held else READ_IN_FLOAT64

    def _take(self, **statistics) -> None:
        """Put statistics of data in its own dtype in place."""
        for name, a in statistics.items():
            setattr(self, name, a)
        self.split(rounded=False)
        self.calibrated = True

    def __setstate__(self, state):
        super().__setstate__(state)
        if self._arrays and "reading" not in self._arrays:  # pickled before statistics were float64
            self.adopt(self._arrays)

    def calibrate(self, x) -> None:
        """Take the statistics of the rows of x."""
        raise NotImplementedError


class Standardize(FromData):
    """Centre every column and divide it by its standard deviation.

    The statistics are not trained: they come from data, by `Sequential.calibrate`, which
    `Trainer.fit` calls on the training data if nobody has.

    Parameters
    ----------
    features : int

    Attributes
    ----------
    mean : ndarray, shape (features,), float64
        Read-only; assign to it.
    scale : ndarray, shape (features,), float64
        One over the standard deviation; 1 for a constant column. Read-only; assign to it.
    calibrated : bool
        Whether the statistics have been taken.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Standardize(1)], dtype=np.float64)
    >>> net.calibrate(np.array([[1.0], [3.0]])).predict(np.array([[3.0]]))
    array([[1.]])
    """

    scale = _Statistic()

    def config(self):
        return {"features": self.in_features}

    def start(self, rng):
        self.scale = np.ones(self.in_features)

    def wide(self):
        return ["mean", "scale"]

    def calibrate(self, x) -> None:
        """Take the statistics of the rows of x."""
        mean, deviation = conditioning.column_statistics(x)
        self._take(mean=mean, scale=1 / np.where(deviation > 0, np.maximum(deviation, 1e-308), 1))

    def scale_and_shift(self):
        """The layer as ``x * scale + shift``, in float64."""
        return self.scale, -self.scale * self.mean

    def loses_digits(self, dtype):
        return _loses_digits(self.scale, self.scale * self.mean, dtype)

    def lay_out(self, program, src):
        dst = program.value(self.out_features)
        program.add("standardize", src, dst, **self._arrays)
        return dst


class Whiten(FromData):
    """Centre the columns and decorrelate them, ``(x - mean) @ weight.T``: their covariance becomes the identity.

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

    weight = _Array()

    def __init__(self, features, kind="zca", eps=1e-6):
        super().__init__(features)
        if kind not in ("zca", "pca"):
            raise ValueError(f"kind: expected 'zca' or 'pca', got {kind!r}")
        if isinstance(eps, bool) or not hasattr(eps, "__float__") or not 0 <= eps < np.inf:
            raise ValueError(f"eps: expected a finite number of at least 0, got {eps!r}")
        self.kind, self.eps = kind, float(eps)

    def config(self):
        return {"features": self.in_features, "kind": self.kind, "eps": self.eps}

    def array_specs(self, dtype):
        return super().array_specs(dtype) | {"weight": ArraySpec((self.in_features, self.in_features), dtype)}

    def start(self, rng):
        np.fill_diagonal(self.weight, 1)

    def scale_and_shift(self):
        """The layer as ``x @ scale.T + shift``, in float64."""
        scale = self.weight.astype(np.float64)
        with one_blas_thread:
            return scale, -scale @ self.mean

    def loses_digits(self, dtype):
        scale = np.abs(self.weight.astype(np.float64))
        with one_blas_thread:
            shift = scale @ np.abs(self.mean)
        return _loses_digits(scale.max(axis=1), shift, dtype)

    def calibrate(self, x):
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

    def lay_out(self, program, src):
        centred, dst = program.value(self.out_features), program.value(self.out_features)
        centring = {**self._arrays, "scale": np.ones(self.in_features)}
        program.add("standardize", src, centred, **centring)
        program.add("whiten", centred, dst, weight=self.weight)
        return dst


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

    seed = _Array()

    def __init__(self, rate):
        self.rate = core.drop_rate(rate)

    def config(self):
        return {"rate": self.rate}

    def widen(self, width, place) -> None:
        """Take the width of the layers beside it, once."""
        if self.__dict__.setdefault("in_features", width) != width:
            expected = f"{self.in_features} inputs, as where this Dropout stands already"
            raise ValueError(f"layers[{place}]: expected {expected}, got {width}; make another Dropout")
        self.__dict__["out_features"] = width

    def array_specs(self, dtype):
        return {"seed": ArraySpec((), np.dtype(np.uint64))}

    def start(self, rng):
        self.seed[...] = rng.integers(2**64, dtype=np.uint64)

    def lay_out(self, program, src):
        if self.rate == 0 or not program.training:
            return src
        dst = program.value(self.out_features)
        program.add("dropout", src, dst, rate=self.rate, seed=self.seed)
        return dst


class BatchNorm(Layer):
    """Batch normalisation, ``activation(gamma * (x - mean) / sqrt(var + eps) + beta)`` (Ioffe & Szegedy 2015).

    In training, `Sequential.value_and_grad` included, mean and var are those of the batch, which needs two
    rows at least; in `predict` and `evaluate` they are the running averages. Steps of a `Trainer`, and nothing else,
    move these: ``running = (1 - momentum) * running + momentum * batch``, the batch's variance
    unbiased. A step that `check_finite` refuses or leaves out does not. `Sequential.calibrate` puts the statistics
    of a data set in their place.

    Parameters
    ----------
    features : int
    eps : float
        Added to the variance, inside the root.
    momentum : float
        Weight of a batch in the running averages, from 0 to 1.
    activation : str
        One of identity, relu, leaky_relu (slope 0.01), tanh, sigmoid, gelu (erf form), silu, softmax.
    affine : bool
        Whether gamma and beta are there, and trained.

    Attributes
    ----------
    gamma, beta : ndarray, shape (features,), or None
        Start at one and zero.
    running_mean, running_var : ndarray, shape (features,)
        Start at zero and one.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.BatchNorm(1), fo.nn.Dense(1, 1)], rng=0)
    >>> trainer = fo.nn.Trainer(net, "mse", fo.optim.SGD(net.parameters()))
    >>> loss = trainer.step([[1.0], [3.0]], [[0.0], [0.0]])
    >>> net.layers[0].running_mean, net.layers[0].running_var
    (array([0.2], dtype=float32), array([1.1], dtype=float32))
    """

    gamma = _Array()
    beta = _Array()
    running_mean = _Array()
    running_var = _Array()
    _parameters = ("features",)

    def __init__(self, features, eps=1e-5, momentum=0.1, activation="identity", affine=True):
        self.in_features = self.out_features = whole_number("features", features)
        self.eps, self.momentum = finite_number("eps", eps, above=0), finite_number("momentum", momentum, 0, most=1)
        self.affine, self.activation = flag("affine", affine), _activation(activation)

    def config(self):
        return {
            "features": self.in_features,
            "eps": self.eps,
            "momentum": self.momentum,
            "activation": self.activation,
            "affine": self.affine,
        }

    def array_specs(self, dtype):
        names = ("gamma", "beta") * self.affine + ("running_mean", "running_var")
        return {name: ArraySpec((self.in_features,), dtype) for name in names}

    def require_valid(self, arrays):
        if (arrays["running_var"] < 0).any():
            least = arrays["running_var"].min()
            raise ValueError(f"running_var: expected variances of at least 0, got {least}")

    def start(self, rng):
        self.running_var[...] = 1
        if self.affine:
            self.gamma[...] = 1

    def parameters(self):
        return [self.gamma, self.beta] if self.affine else []

    def calibrate(self, x, batch_size=None) -> None:
        """Take the statistics of a population from the rows of x, a sample of it, or from mini-batches of them."""
        if len(x) < 2:
            raise ValueError(f"X: expected at least two rows to take statistics of, got {len(x)}")
        if batch_size is None:
            mean, var = core.batch_statistics(x, 1)
        else:
            starts = range(0, len(x) - batch_size + 1, batch_size)
            batches = [core.batch_statistics(x[i : i + batch_size], 1) for i in starts]
            mean, var = (np.mean(a, axis=0, dtype=np.float64).astype(x.dtype) for a in zip(*batches, strict=True))
        bad = np.flatnonzero(~(np.isfinite(mean) & np.isfinite(var)))
        if bad.size:
            found = next((a for a in x[:, bad[0]] if not np.isfinite(a)), f"a variance that {x.dtype} cannot hold")
            raise ValueError(f"X: expected finite values to normalize, got {found} in column {bad[0]}")
        self.running_mean, self.running_var = mean, var

    def loses_digits(self, dtype):
        scale = 1 / np.sqrt(self.running_var.astype(np.float64) + self.eps)
        return _loses_digits(scale, scale * self.running_mean, dtype)

    def scale_and_shift(self):
        """Inference without the activation as ``x * scale + shift``, in float64."""
        mean, var = self.running_mean.astype(np.float64), self.running_var.astype(np.float64)
        scale = (self.gamma if self.affine else 1.0) / np.sqrt(var + self.eps)
        return scale, (self.beta if self.affine else 0.0) - scale * mean

    def lay_out(self, program, src):
        keep = program.value(self.out_features) if self.activation in ("gelu", "silu") else -1
        statistics = program.value(-(-5 * self.out_features // 16))  # (5, features): a value has 16 rows at least
        dst = program.value(self.out_features)
        arrays = {"weight": self.gamma, "bias": self.beta, "mean": self.running_mean, "var": self.running_var}
        options = {"activation": self.activation, "eps": self.eps, "momentum": self.momentum}
        program.add("batch_norm", src, dst, keep=keep, statistics=statistics, **arrays, **options)
        return dst


class Residual(Layer):
    """Shortcut connection, ``x + layers(x)``.

    Parameters
    ----------
    layers : list of Layer
        Must end as wide as they begin.

    Examples
    --------
    >>> import fastopt as fo
    >>> block = fo.nn.Residual([fo.nn.Dense(8, 16, activation="relu"), fo.nn.Dense(16, 8)])
    >>> block.out_features
    8
    """

    def __init__(self, layers):
        self.layers = tuple(check_chain(layers))
        for layer in self.layers:
            if isinstance(layer, FromData):
                name = type(layer).__name__
                raise ValueError(f"layers: expected no {name} inside a shortcut, for want of data; put it before")
        self.in_features, self.out_features = self.layers[0].in_features, self.layers[-1].out_features
        if self.in_features != self.out_features:
            ends = f"{self.in_features} and {self.out_features}"
            raise ValueError(f"layers: expected the shortcut to end as wide as it begins, got {ends}")

    def config(self):
        return {"layers": list(self.layers)}

    def build(self, rng, dtype):
        for layer in self.layers:
            layer.build(rng, dtype)

    def parameters(self):
        return [a for layer in self.layers for a in layer.parameters()]

    def arrays(self):
        return {f"{i}.{name}": a for i, layer in enumerate(self.layers) for name, a in layer.arrays().items()}

    def __setstate__(self, state):
        super().__setstate__({**state, "layers": tuple(state["layers"])})

    def lay_out(self, program, src):
        end = src
        for layer in self.layers:
            end = layer.lay_out(program, end)
        dst = program.value(self.out_features)
        program.add("add", end, dst, shortcut=src)
        return dst


def check_chain(layers) -> list[Layer]:
    """The layers as a list, if each starts as wide as the one before ends."""
    layers = list(layers)
    if not layers:
        raise ValueError("layers: expected at least one layer, got none")
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise TypeError(f"layers[{i}]: expected a layer, got {type(layer).__name__}")
        if type(layer).lay_out is Layer.lay_out:
            raise TypeError(f"layers[{i}], a {type(layer).__name__}: {NO_KERNEL}")
    _widen_dropout(layers)
    for i, layer in enumerate(layers):
        if i and layer.in_features != layers[i - 1].out_features:
            wanted = f"{layers[i - 1].out_features} inputs, as layers[{i - 1}] gives"
            raise ValueError(f"layers[{i}]: expected {wanted}, got {layer.in_features}")
    return layers


def _widen_dropout(layers) -> None:
    """Make every Dropout as wide as what stands beside it."""
    width = next((layer.in_features for layer in layers if not isinstance(layer, Dropout)), None)
    if width is None:
        raise ValueError("layers: expected a layer besides Dropout, which has no width of its own, got none")
    for i, layer in enumerate(layers):
        if isinstance(layer, Dropout):
            layer.widen(width, i)
        width = layer.out_features


def without_dropout(layers) -> list[Layer]:
    """The layers of an inference network; changes those that hold others."""
    for layer in layers:
        if isinstance(layer, Residual):
            object.__setattr__(layer, "layers", tuple(without_dropout(layer.layers)))
    return [layer for layer in layers if not isinstance(layer, Dropout)]


def fold_chain(layers, dtype) -> list[Layer]:
    """The layers with every scale and shift absorbed into a layer with a weight beside it; changes that layer.

    After a BatchNorm without activation, a Standardize or a Whiten (s a matrix): W (s x + t) + b = (W s) x + (b + W t).
    Before a BatchNorm, without activation between: s (W x + b) + t = (s W) x + (s b + t). Computed in float64.
    A layer stays where W s x and W t, far larger than their sum, would lose digits in the dtype of the network.
    """
    folded: list[Layer] = []
    for layer in layers:
        before = folded[-1] if folded else None
        if isinstance(layer, Residual):
            object.__setattr__(layer, "layers", tuple(fold_chain(layer.layers, dtype)))
        if (
            isinstance(layer, BatchNorm)
            and isinstance(before, (Dense, GroupedDense))
            and before.activation == "identity"
        ):
            before.absorb_next(layer)
            continue
        while (
            isinstance(layer, _Product) and folded and layer.absorbs(folded[-1]) and not folded[-1].loses_digits(dtype)
        ):
            layer.absorb(folded.pop())
        folded.append(layer)
    return folded


def _loses_digits(scale, shift, dtype) -> bool:
    """Whether ``x * scale - shift`` cancels more than 4 bits near the centre, or scale nears the ends of the dtype."""
    scale, limits = np.abs(scale[scale != 0]), np.finfo(dtype)
    held = (scale > np.sqrt(limits.tiny)) & (scale < np.sqrt(limits.max))
    return bool(np.abs(shift).max() > FAR or not held.all())


def _is_affine(layer) -> bool:
    """Whether the layer only scales and shifts columns."""
    return isinstance(layer, Standardize) or (isinstance(layer, BatchNorm) and layer.activation == "identity")


def walk(layers):
    """Every layer, those inside others included."""
    for layer in layers:
        yield layer
        yield from walk(getattr(layer, "layers", ()))


def named(layers, place="layers"):
    """Every layer that holds no others, with the place that its arrays are named by: ``layers.1.0``."""
    for i, layer in enumerate(layers):
        if hasattr(layer, "layers"):
            yield from named(layer.layers, f"{place}.{i}")
        else:
            yield f"{place}.{i}", layer
