"""What every layer is: arrays it owns for life, shapes, entries of a program, and how it meets its neighbors.

- A layer owns its arrays: assigning to ``layer.weight`` copies into them, because compiled programs and optimizers
  point there. It says what they are before they exist (`array_specs`), and gets them from the network it is put
  into, which knows dtype and random numbers (`build`), or from a file (`adopt`). Everything else it is made with
  stays as it is: compiled programs would not follow.
- A shape is that of one sample: (features,), or (height, width, channels), channels last. A layer acts on the last
  axis at every position alike, unless it overrides `output_shape`.
- Nobody else knows the kinds of layers: networks, files and tables ask the attributes and methods of `Layer`. A class
  that has kernels registers under its name, by which model files know it.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import numpy as np

from fastopt._arrays import aligned_copy, aligned_zeros, as_numbers
from fastopt._kernels import core
from fastopt._numbers import flag

FAR = 16  # deviations from zero to the center of a column: absorbing the center loses so many bits, 4

LAYERS: dict[str, type["Layer"]] = {}  # the layers with kernels, by the names that files have for them


class ArraySpec(NamedTuple):
    """An array of a layer, known without allocating it."""

    shape: tuple[int, ...]
    dtype: np.dtype  # in a new network
    others: tuple[np.dtype, ...] = ()  # that files hold as well: a layer adopts the array as it comes


class Array:
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
        if not mine.flags.writeable:
            raise ValueError(f"{self.name}: expected a layer that may change, got a read-only one, folded or replaced")
        mine[...] = value


class Statistic(Array):
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
    in_features, out_features : int or None
        Last axis of a sample before and after the layer: columns of a row, channels of an image. None where the
        layer takes what stands before it and is not in a network yet.
    calibrated : bool
        False while a layer still waits for statistics of data.
    trainable : bool
        Whether training changes the parameters: False freezes them, and those of all layers inside. They get no
        gradients and no steps, are neither decayed nor penalized nor limited, and have no part in the norm by which
        gradients are clipped. `net.parameters` keeps them in their place. May be set at any time.
    """

    in_features: int | None = None
    out_features: int | None = None
    activation: str = "identity"  # the last thing the layer does
    weighted: bool = False  # has trained weights, which `init` starts
    retired: bool = False  # others have replaced it in its network
    training_only: bool = False  # copies its input in inference
    calibration: str | None = None  # statistics of data: "required" before all else, "optional", or none at all
    calibrated: bool = True
    folds_backward: bool = False  # scales and shifts in a way that a product before it may take over
    layers: tuple["Layer", ...] = ()  # inside this one, of all chains
    reshapes: bool = False  # may give other channels than it takes, though it does not say how many
    switches: ClassVar[int] = 0  # how often any layer was frozen or thawed: what is compiled compares it
    _frozen: bool = False
    _free = ("calibrated",)
    _arrays: Mapping[str, np.ndarray] = MappingProxyType({})  # empty until `build` or `adopt`
    _given: Mapping[str, np.ndarray] = MappingProxyType({})  # what `build` starts them with, by `start_with`

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if cls.lay_out is Layer.lay_out or cls.config is Layer.config:
            return
        known = LAYERS.setdefault(cls.__name__, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            taken = f"that model files know {known.__module__}.{known.__qualname__} by"
            raise TypeError(f"{cls.__name__}: expected a name of its own for a layer, got one {taken}; rename it")
        LAYERS[cls.__name__] = cls  # a class statement that is run again takes its own place

    @property
    def trainable(self) -> bool:
        """Whether training changes the parameters, those of all layers inside included."""
        return all(layer.trainable for layer in self.layers) if self.layers else not self._frozen

    @trainable.setter
    def trainable(self, value):
        trainable = flag("trainable", value)
        for layer in self.layers:
            layer.trainable = trainable
        if self._frozen == trainable:
            self._frozen = not trainable
            Layer.switches += 1

    # --- shapes

    def output_shape(self, input_shape) -> tuple[int, ...]:
        """Shape of a sample after the layer; ValueError, with what was expected and what came, where it does not fit.

        The caller adds which layer it is and what stands before it.
        """
        if self.in_features not in (None, input_shape[-1]):
            axis = "columns" if len(input_shape) == 1 else "channels"
            raise ValueError(f"expected {self.in_features} {axis}, got {input_shape[-1]}")
        return (*input_shape[:-1], self.out_features or input_shape[-1])

    def multiply_adds(self, input_shape) -> int:
        """Multiply-adds of one sample in inference, those of matrix products; of the layer without those inside."""
        return 0

    def marks(self) -> list[str]:
        """What distinguishes the layer from others of its type, in a table."""
        return [] if self.activation == "identity" else [self.activation]

    # --- arrays

    def config(self) -> dict:
        """Constructor arguments, as plain values."""
        raise NotImplementedError(f"{type(self).__name__}.config: {NO_KERNEL}")

    def array_specs(self, dtype) -> dict[str, ArraySpec]:
        """What each array will be in a network of this dtype, by name; nothing is allocated."""
        return {}

    def build(self, rng, dtype, input_shape) -> None:
        """Make the arrays and start them, unless the layer has them already."""
        if not self._arrays:
            specs = self.array_specs(np.dtype(dtype))
            self.adopt({name: aligned_zeros(spec.shape, spec.dtype) for name, spec in specs.items()})
            self.start(rng)
            for name, a in self.__dict__.pop("_given", {}).items():
                self._arrays[name][...] = a

    def start_with(self, **arrays) -> None:
        """Start with copies of these arrays instead of what `start` writes; a network takes them in its own dtype.

        Raises
        ------
        TypeError, ValueError
            The layer has arrays already, or has no array of such a name or shape; nothing has been changed then.
        """
        if self._arrays:
            raise ValueError(f"{next(iter(self._arrays))}: made already; assign to the layer's attribute")
        specs, given = self.array_specs(np.dtype(np.float64)), {}
        for name, value in arrays.items():
            if name not in specs:
                raise ValueError(f"{name}: expected one of {', '.join(specs)} of {self!r}, got another name")
            value = as_numbers(name, value)
            if value.shape != specs[name].shape:
                raise ValueError(f"{name}: expected shape {specs[name].shape}, got {value.shape}")
            given[name] = value.copy()
        self._given = given

    def known_arrays(self) -> dict[str, np.ndarray]:
        """Its arrays; before it has any, those of `start_with`."""
        return self.arrays() or dict(self._given)

    def require_valid(self, arrays) -> None:
        """Raise ValueError for values that the layer's own arrays cannot have; `arrays` fit `array_specs`."""

    def adopt(self, arrays) -> None:
        """Take arrays over as the layer's own; they fit `array_specs`."""
        self._arrays = arrays

    def copied(self, arrays) -> None:
        """Be told that valid arrays of a file have been copied into the layer's own."""

    def start(self, rng) -> None:
        """Write what new arrays start with; they are zero."""

    def pack(self) -> None:
        """Keep weights that will not change any more as the kernels of inference read them, and in no other form."""

    def retire(self) -> None:
        """Be read-only for good, without those inside: others have taken the layer's place."""
        self.retired = True
        for array in self._arrays.values():
            array.flags.writeable = False

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

    def calibrate(self, x, batch_size=None) -> None:
        """Take the statistics of samples x, or of mini-batches of them; only where `calibration` says so."""
        raise NotImplementedError

    # --- the program, and neighbors in inference

    def lay_out(self, layout, src: int) -> int:
        """Add the layer's entries to a `Layout`, reading value `src`; returns the value they end in."""
        raise NotImplementedError(f"{type(self).__name__}.lay_out: {NO_KERNEL}")

    def chains(self) -> list[tuple["Layer", ...]]:
        """The layers inside, in chains each of which starts from the layer's input."""
        return [self.layers] if self.layers else []

    def replace_inside(self, function) -> None:
        """Put what `function` makes of each chain inside in its place; who calls it compiles the network anew."""

    def scale_and_shift(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Inference before the activation as ``x * scale + shift``, or ``x @ scale.T + shift`` for a matrix, in
        float64; None where the layer is no such map."""
        return None

    def loses_digits(self, dtype) -> bool:
        """Whether a layer with a weight that takes this one over computes less exactly than the two in a row."""
        return False

    def absorb_before(self, layer, dtype) -> bool:
        """Take over the work of the layer before this one; False, with nothing changed, where that cannot be."""
        return False

    def absorb_after(self, layer) -> bool:
        """Take over the work of the layer after this one; False, with nothing changed, where that cannot be."""
        return False

    def __repr__(self):
        config = self.config() | ({"trainable": False} if self._frozen and not self.layers else {})
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in config.items())})"

    def __getstate__(self):
        state = {name: value for name, value in self.__dict__.items() if name != "retired"}  # a copy is another layer
        return {**state, "_arrays": dict(self._arrays)} if self._arrays else state

    def __setstate__(self, state):
        self.__dict__.update(state)
        if "_arrays" in state:
            self._arrays = {k: aligned_copy(a) for k, a in state["_arrays"].items() if a is not None}


def known_activation(name) -> str:
    """The name of an activation; ValueError for another."""
    if not isinstance(name, str) or name not in core.ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(core.ACTIVATIONS)}, got {name!r}")
    return name


def image_of(shape) -> tuple[int, int, int]:
    """(height, width, channels) of an image; ValueError for a vector."""
    if len(shape) != 3:
        raise ValueError(f"expected an image (height, width, channels), got {shape}; give Sequential an input_shape=")
    return shape


def positions(shape) -> int:
    """Positions of a sample: 1 of a vector, height times width of an image."""
    return math.prod(shape[:-1])


def rows_of(x) -> np.ndarray:
    """Samples x as rows of what stands at their positions."""
    return x.reshape(-1, x.shape[-1])


def loses_digits(scale, shift, dtype) -> bool:
    """Whether ``x * scale - shift`` cancels more than 4 bits near the center, or scale nears the ends of the dtype."""
    scale, limits = np.abs(scale[scale != 0]), np.finfo(dtype)
    held = (scale > np.sqrt(limits.tiny)) & (scale < np.sqrt(limits.max))
    return bool(np.abs(shift).max() > FAR or not held.all())
