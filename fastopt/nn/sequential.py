"""Sequential: a chain of layers, compiled once into the program that everything runs."""

import contextlib
import copy
import warnings

import numpy as np

from fastopt import _files
from fastopt._arrays import require_finite
from fastopt._kernels import core
from fastopt._numbers import flag, whole_number
from fastopt.nn import calibration, files, replacement
from fastopt.nn.derivatives import Derivatives
from fastopt.nn.evaluation import evaluated, metrics_of
from fastopt.nn.interchange.to_torch import to_torch
from fastopt.nn.layers import Fixed, Layer, chain
from fastopt.nn.layout import Layout
from fastopt.nn.losses import fitting_name, loss_name


class Sequential(Derivatives, Fixed):
    """A network of layers in a row.

    Parameters
    ----------
    layers : list of Layer
        Each starts from the shape in which the one before ends.
    rng : int, numpy.random.Generator or None
        Where the initial weights come from; an int gives the same network every time.
    dtype : dtype
        float32 or float64, of all parameters and of the arithmetic.
    input_shape : tuple of int, optional
        Of one sample: (features,), or (height, width, channels) of an image, channels last. By default the width of
        the first layer that has one.

    Raises
    ------
    ValueError
        A layer does not fit what stands before it: the message says which, what it expected and what came.

    Warns
    -----
    UserWarning
        A hidden layer starts with ``init="zeros"``.

    Attributes
    ----------
    layers : tuple of Layer
        The layers and the dtype stay those the network was made with.
    input_shape, output_shape : tuple of int
        Of one sample, before the first layer and after the last.
    draws : int
        Calls of `value_and_grad`, and of `backward` in training mode, so far, by which its `Dropout` layers draw. Set
        it back to drop the same elements again.
    metadata : dict
        What a model file says besides, as JSON values: names of columns, labels of classes, a version. Written by
        `save`, read by `load`.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Dense(4, 8, activation="tanh"), fo.nn.Dense(8, 3)], rng=0)
    >>> net.predict(np.zeros((2, 4))).shape
    (2, 3)
    """

    _free = ("draws", "metadata")
    _revision = 0

    def __init__(self, layers, rng=None, dtype=np.float32, input_shape=None):
        self._assemble(layers, rng, dtype, input_shape)
        for layer in chain.hidden(self.layers):
            if layer.init == "zeros":
                warnings.warn(
                    f"{layer!r}: hidden units that start at zero are all equal, and this symmetry is not broken "
                    "where the weights after them start equal, or the slope at zero is zero; use another init",
                    UserWarning,
                    stacklevel=2,
                )

    def _assemble(self, layers, rng, dtype, input_shape):
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise TypeError(f"dtype: expected float32 or float64, got {self.dtype}")
        self.layers = tuple(chain.check(layers))
        self._given_shape = None if input_shape is None else chain.as_input_shape(input_shape)
        self._find_shapes()
        everyone = list(chain.walk(self.layers))
        if len({id(layer) for layer in everyone}) < len(everyone):
            raise ValueError(
                "layers: expected each layer once, got one twice; use copy.deepcopy for a second of its kind"
            )
        rng = np.random.default_rng(rng)
        for layer, shape in zip(self.layers, self._shapes[:-1], strict=True):
            layer.build(rng, self.dtype, shape)
        self._folded, self.draws, self.metadata = False, 0, {}
        self._compile()

    def _find_shapes(self):
        self._shapes = chain.shapes(self.layers, self._given_shape or chain.first_shape(self.layers))

    def _compile(self):
        self._find_shapes()
        self._program = self._lay_out(training=False, packed=self._folded)
        self._derived, self._switches = {}, -1
        self._ends_in = next(layer for layer in reversed(self.layers) if not layer.training_only).activation

    def _lay_out(self, training, packed=False, input_gradient=False, layers=None):
        layout = Layout(self.input_shape, training, packed)
        layout.end(chain.lay_out(self.layers if layers is None else layers, layout, 0))
        return layout.program(self.dtype.num, self._folded, input_gradient)

    def derivative_program(self, training=True, input_gradient=False) -> core.Program:
        """The program of derivatives, in training mode or in that of inference; one and the same until layers change,
        are frozen or thawed."""
        if self._folded:  # whose weights are unpacked for it, and not kept
            return self._lay_out(training, input_gradient=input_gradient)
        if self._switches != Layer.switches:
            self._switches, frozen = Layer.switches, [not layer.trainable for layer in chain.walk(self.layers)]
            if self._derived.get("frozen") != frozen:
                self._derived = {"frozen": frozen}
        key = (training, input_gradient)
        if key not in self._derived:
            self._derived[key] = self._lay_out(training, input_gradient=input_gradient)
        return self._derived[key]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a sample before the first layer."""
        return self._shapes[0]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of a sample after the last layer."""
        return self._shapes[-1]

    @property
    def in_features(self) -> int:
        """Last axis of `input_shape`: columns of a row, channels of an image."""
        return self.input_shape[-1]

    @property
    def out_features(self) -> int:
        """Last axis of `output_shape`."""
        return self.output_shape[-1]

    @property
    def least_rows(self) -> int:
        """The fewest samples of a batch to train on: 2 with `BatchNorm`, but of images 1; it takes their statistics."""
        return self.derivative_program().least_rows

    @property
    def compiled_program(self) -> core.Program:
        """The program of inference."""
        return self._program

    @property
    def trainable(self) -> bool:
        """Whether training changes the parameters of all layers; setting it sets it on each, see `Layer.trainable`."""
        return all(layer.trainable for layer in self.layers)

    @trainable.setter
    def trainable(self, value):
        for layer in self.layers:
            layer.trainable = value

    def parameters(self) -> list[np.ndarray]:
        """The trained arrays themselves, in the order of their gradients."""
        return [a for layer in self.layers for a in layer.parameters()]

    def predict(self, x, out=None, *, check_finite=False) -> np.ndarray:
        """Output of the last layer for samples x, in inference mode; threads may share a network.

        Parameters
        ----------
        x : array_like, shape ``(n, *input_shape)``
            Real numbers. `Standardize` and `Whiten` as the first layer read them as they come, every digit of float64
            and of whole numbers; other networks read them in their own dtype. Images may also be flat rows, of shape
            (n, height * width * channels), here and in all other calls.
        out : ndarray, shape ``(n, *output_shape)``, optional
            Overwritten with the result; partly, where Ctrl-C ends the call.
        check_finite : bool
            Raise ValueError if x holds NaN or infinity, at the price of a read.

        Returns
        -------
        ndarray, shape ``(n, *output_shape)``
            A column an output, also where there is only one: ``net.predict(x)[:, 0]`` is flat.

        Raises
        ------
        TypeError, ValueError
            Input or `out` that does not fit; nothing has been written then.
        """
        if check_finite:
            require_finite("x", x := self._program.rows(x))
        return self._program.predict(x, out)

    def predict_proba(self, x, loss=None) -> np.ndarray:
        """Probabilities from logits, the output of `predict`.

        Parameters
        ----------
        x : array_like, shape ``(n, *input_shape)``
        loss : str or loss, optional
            What the network was trained with. binary_cross_entropy, the default for a single output: every output is
            a sigmoid of its own. cross_entropy, the default for several: their softmax along the last axis.

        Returns
        -------
        ndarray, shape ``(n, *output_shape)``
            A softmax or sigmoid that the last layer has is not applied twice.
        """
        name = loss_name(loss or ("binary_cross_entropy" if self.out_features == 1 else "cross_entropy"))
        if name not in ("binary_cross_entropy", "cross_entropy"):
            raise ValueError(f"loss: expected binary_cross_entropy or cross_entropy, got {loss!r}")
        y = self._program.predict(x)
        link = "sigmoid" if name == "binary_cross_entropy" else "softmax"
        return y if self._ends_in == link else core.activation(y, link, y)

    def outputs(self, x, layer) -> np.ndarray | list[np.ndarray]:
        """What a layer makes of samples x, in inference mode: what the network that ends with it would predict.

        Parameters
        ----------
        x : array_like, shape ``(n, *input_shape)``
        layer : Layer, int, or list of them
            One of the network's layers, by itself or by its index; or a layer inside another.

        Returns
        -------
        ndarray, shape ``(n, *shape)``, or list of ndarray
            After the activation of the layer. For a list one array each, by a pass of its own over the network.

        Raises
        ------
        TypeError, ValueError
            A layer that the network does not have, or samples that do not fit.

        Examples
        --------
        >>> import numpy as np, fastopt as fo
        >>> net = fo.nn.Sequential([fo.nn.Dense(4, 8, activation="relu"), fo.nn.Dense(8, 3)], rng=0)
        >>> hidden, logits = net.outputs(np.ones((2, 4)), [net.layers[0], -1])
        >>> hidden.shape, logits.shape
        ((2, 8), (2, 3))
        """
        if isinstance(layer, list | tuple):
            paths = [chain.path_to(self.layers, one) for one in layer]
            return [self._lay_out(False, self._folded, layers=path).predict(x) for path in paths]
        path = chain.path_to(self.layers, layer)
        return self._lay_out(False, self._folded, layers=path).predict(x)

    def evaluate(self, X, y, loss="cross_entropy", *, sample_weight=None, metrics=None) -> float | dict[str, float]:
        """Mean loss over a data set, in inference mode, and metrics.

        Parameters
        ----------
        X, y, loss, sample_weight
            As for `value_and_grad`.
        metrics : str, callable, list or dict of these, optional
            Names of `fastopt.metrics`, or functions ``metric(y, y_pred)`` of the targets and what `predict` gives,
            which take ``sample_weight=`` where rows have weights. The page on metrics says more.

        Returns
        -------
        float, or dict
            The loss; with metrics ``{"loss": ..., "accuracy": ...}``.

        Raises
        ------
        TypeError, ValueError
            Data or a loss that does not fit, as there, or predictions whose loss is not defined.

        Examples
        --------
        >>> import numpy as np, fastopt as fo
        >>> net = fo.nn.Sequential([fo.nn.Dense(2, 1, init="zeros")])
        >>> net.evaluate(np.eye(2), [1.0, 3.0], "mse")
        5.0
        >>> net.evaluate(np.eye(2), [1.0, 3.0], "mse", metrics="r2_score")
        {'loss': 5.0, 'r2_score': -4.0}
        """
        fitting_name(loss, self._ends_in)  # what does not fit is refused before the work
        metrics = metrics_of(metrics, loss, self.out_features, sample_weight is not None)
        return evaluated(loss, self._program.predict(X), y, sample_weight, metrics)

    to_torch = to_torch

    def fold(self) -> "Sequential":
        """An inference network that computes the same, to rounding, and faster.

        Dropout is gone. Standardize, and BatchNorm without activation, are absorbed into the Dense, GroupedDense,
        Maxout or Conv2d that follows, Whiten into one without groups; any BatchNorm into the Dense, GroupedDense or
        Conv2d without activation before it. A layer that shifts stays before a Conv2d that pads, and any stays where
        absorbing it would lose digits: where the mean of a column is more than 16 deviations from zero, 4 bits, or a
        deviation is near the ends of the dtype's range.
        The parameters are copies, read-only for good. Weights are kept packed for the products and in no other form:
        reading ``layer.weight`` unpacks it into a new array, each time. This network stays as it is.

        Returns
        -------
        Sequential
            For `predict` and `evaluate`; it cannot be trained.

        Raises
        ------
        ValueError
            A Standardize layer has no statistics yet.

        Examples
        --------
        >>> import numpy as np, fastopt as fo
        >>> net = fo.nn.Sequential([fo.nn.Standardize(3), fo.nn.Dense(3, 2)]).calibrate(np.eye(3))
        >>> fast = net.fold()
        >>> [type(layer).__name__ for layer in fast.layers]
        ['Dense']
        >>> np.allclose(fast.predict(np.ones((4, 3))), net.predict(np.ones((4, 3))), atol=1e-6)
        True
        """
        self.require_calibrated()
        twin = copy.deepcopy(self)
        object.__setattr__(twin, "layers", tuple(chain.fold(chain.inference(twin.layers), twin.dtype)))
        chain.freeze(twin.layers)
        twin._folded = True
        twin._compile()
        return twin

    def calibrate(self, X, batch_size=None, *, batch_norm=True) -> "Sequential":
        """Take the statistics of every Standardize, Whiten and BatchNorm layer from samples X; returns the network.

        Layer after layer, in inference mode: each sees X as the calibrated layers before it give it. A
        BatchNorm takes the mean and the unbiased variance in place of its running averages.

        Parameters
        ----------
        X : array_like, shape ``(n, *input_shape)``
            A first Standardize or Whiten takes its statistics in float64, of float32 or float64 as they come.
        batch_size : int, optional
            What a BatchNorm takes are then population statistics by mini-batches of so many samples, in the order of X
            (Ioffe & Szegedy 2015, algorithm 2): the mean of their means, and of their unbiased variances. Samples
            left over by the last whole mini-batch do not count. The other layers do not heed it.
        batch_norm : bool
            False leaves the running averages of BatchNorm as they are, as `Trainer.fit` does.

        Raises
        ------
        TypeError, ValueError
            Data that does not fit or has no statistics; nothing has been changed then.
        """
        x = self._program.rows(X, "X")
        if batch_size is not None:
            batch_size = whole_number("batch_size", batch_size, least=2, most=max(len(x), 2))
        kinds = ("required", "optional") if flag("batch_norm", batch_norm) else ("required",)
        calibration.calibrate(self.layers, x, kinds, batch_size, self._through)
        return self

    def _through(self, layer, x):
        """What one of its layers makes of samples in inference."""
        return assembled([layer], self.dtype, x.shape[1:]).predict(x)

    def require_calibrated(self) -> None:
        """Raise ValueError if a layer has no statistics yet."""
        calibration.require_calibrated(self.layers)

    def replace(self, layer, layers, rng=None) -> None:
        """Put layers in the place of one, in this network, inside `Concat` and `Residual` too.

        The old layer may still be read and copied, and no more: what was bound to it, such as a `Trainer` of this
        network, raises from then on. A Trainer that is to go on does this itself: `Trainer.replace`.

        Parameters
        ----------
        layer : Layer
            One of the network's, or inside one of them.
        layers : list of Layer
            Start and end in the shapes in which `layer` does. It may be one of them itself, and stays then.
        rng : int, numpy.random.Generator or None
            Where the initial weights of layers without any come from.

        Raises
        ------
        TypeError, ValueError
            Layers that do not fit, a `layer` that the network does not have, or a network that `fold` made; the
            network has not been changed then.

        Examples
        --------
        >>> import fastopt as fo
        >>> net = fo.nn.Sequential([fo.nn.Dense(64, 32, activation="relu"), fo.nn.Dense(32, 3)], rng=0)
        >>> net.replace(net.layers[0], fo.lowrank.factorize(net.layers[0], "svd", rank=4))
        >>> [layer.out_features for layer in net.layers]
        [4, 32, 3]
        """
        with self.replacing(layer, layers, rng):
            pass

    @contextlib.contextmanager
    def replacing(self, layer, layers, rng=None):
        """`replace` for a block that may still refuse: an exception in it puts the old layer back. Gives the layers."""
        if self._folded:
            raise ValueError("net: expected one that can be trained, got a folded one; replace before fold")
        made, shapes = replacement.checked(self, layer, layers)
        rng = np.random.default_rng(rng)
        for one, shape in zip(made, shapes[:-1], strict=True):
            one.build(rng, self.dtype, shape)
        before, revision, inside = self.layers, self._revision, chain.attributes_of_containers(self.layers)
        try:
            self._revision = revision + 1
            object.__setattr__(self, "layers", tuple(chain.exchanged(before, {id(layer): made})))
            self._compile()
            yield made
        except BaseException:
            self._revision = revision
            for one, attributes in inside:
                vars(one).update(attributes)
            object.__setattr__(self, "layers", before)
            self._compile()
            raise
        chain.retire(layer, self.layers)

    @property
    def revision(self) -> int:
        """How often layers have been replaced: what is bound to the network compares it."""
        return self._revision

    def require_revision(self, revision, name) -> None:
        """Raise RuntimeError unless no layer has been replaced since this revision; `name`: of what is bound to it."""
        if revision != self._revision:
            raise RuntimeError(
                f"{name}: expected the layers that it was made for, got a network in which others have replaced some; "
                f"make a new {name}"
            )

    def save(self, path, metadata=None, *, write=_files.write) -> None:
        """Write the network to a safetensors file; whole or not at all.

        Parameters
        ----------
        path : path-like
        metadata : dict, optional
            JSON values to write in place of the network's own `metadata`; names are text, tuples come back as lists.

        Raises
        ------
        OSError
            The file cannot be written.
        TypeError, ValueError
            Metadata that JSON cannot hold, or more than 25 million characters of it.
        """
        metadata = files.metadata_entry(self.metadata if metadata is None else metadata)
        write(path, files.stored_arrays(self), {"kind": "network", **metadata, **self.describe()})

    def describe(self) -> dict:
        """What files say of the network besides its arrays, as JSON values; `input_shape` only where it was given."""
        given = {} if self._given_shape is None else {"input_shape": list(self._given_shape)}
        return {"dtype": self.dtype.name, "layers": files.describe(self.layers), **given}

    def __repr__(self):
        inside = "".join(f"    {layer!r},\n" for layer in self.layers)
        given = "" if self._given_shape is None else f", input_shape={self._given_shape}"
        return f"Sequential([\n{inside}], dtype={self.dtype}{given})"

    def __getstate__(self):
        names = ("layers", "dtype", "_given_shape", "_folded", "draws", "metadata")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state):
        self.__dict__.update({"metadata": {}, "_given_shape": None, **state, "layers": tuple(state["layers"])})
        if self._folded:
            chain.freeze(self.layers)
        self._compile()


def assembled(layers, dtype, input_shape) -> Sequential:
    """A network whose weights are known: it does not matter how they started."""
    net = Sequential.__new__(Sequential)
    net._assemble(layers, 0, dtype, input_shape)
    return net
