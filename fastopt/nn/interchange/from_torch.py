"""`nn.from_torch`: a Sequential of torch as one of fastopt.

Modules are known by the name of their class in torch.nn, so torch itself is not loaded here. It goes in three steps:

- The modules of a chain in their order, with their places, those of a Sequential inside in its place (`_modules`).
- An activation joins the module before it, whose last step it is here (`_fused`). What stands between must let it pass:
  what it computes is the same before as after.
- Each module becomes layers, in the shape that those before it end in (`_layers`). Flatten counts the numbers of an
  image channel by channel there, position by position here: the columns of the weights after it move, and the arrays
  of a BatchNorm between. Where no such weights follow, the image is turned before it is flattened.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastopt._arrays import as_array
from fastopt.nn import layers as ours
from fastopt.nn.interchange.flattening import channels_last_columns, order_matters
from fastopt.nn.interchange.holding import holding
from fastopt.nn.layers import chain
from fastopt.nn.sequential import Sequential, assembled

THEIRS = "torch.nn.modules."  # where the classes are that are known by name
OWN = "fastopt.nn.interchange.torch_modules"  # and those that `to_torch` makes where torch has none

# activations, and what lets which of them pass
ACTIVATIONS = {
    "ReLU": "relu",
    "LeakyReLU": "leaky_relu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "GELU": "gelu",
    "SiLU": "silu",
    "Softmax": "softmax",
    "Softmax2d": "softmax",
}
PASSING = {
    "Flatten": ("relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu"),  # of each number alone
    "MaxPool2d": ("relu", "leaky_relu", "tanh", "sigmoid"),  # monotone: of the largest it is the largest
    "Dropout": ("relu", "leaky_relu"),  # of a multiple it is the multiple, of zero zero
}
FUSING = ("Linear", "Conv2d", "BatchNorm1d", "BatchNorm2d", "GroupedLinear")
VECTORS = ("Linear", "BatchNorm1d", "GroupedLinear")  # what takes vectors only, and what images only
IMAGES = (
    "Conv2d",
    "BatchNorm2d",
    "MaxPool2d",
    "AvgPool2d",
    "AdaptiveAvgPool2d",
    "RandomFlip",
    "RandomShift",
    "ChannelsLast",
)
BY_COLUMN = ("BatchNorm1d", "Dropout")  # what they do to a number of a vector depends on no other one
HAS_COLUMNS = ("Linear", "Maxout")
INSTEAD = {
    "LogSoftmax": "leave it out, for cross_entropy takes logits",
    "Dropout2d": "Dropout drops single numbers, not whole channels",
}
UNREAD = "a forward cannot be read: pass the Sequential parts of the module, or export it for nn.from_onnx"


def from_torch(module, input_shape=None, *, dtype=None) -> Sequential:
    """A network with copies of the weights and running averages of a ``torch.nn.Sequential``, or of one of its layers.

    It gives what the module gives in inference mode, to rounding, and trains as the module does in training mode.
    Images are channels last here, (n, height, width, channels): of images `x` for torch it takes
    ``x.transpose(0, 2, 3, 1)``, and those that come out are likewise. A vector comes out in torch's order.

    Linear, Conv2d with zeros around the image, BatchNorm1d and 2d with running averages, Dropout, MaxPool2d, AvgPool2d,
    AdaptiveAvgPool2d where the output divides the image, Flatten, Identity, Sequential inside, and the modules that
    `Sequential.to_torch` makes. ReLU, LeakyReLU of slope 0.01, Tanh, Sigmoid, GELU with erf, SiLU and Softmax along
    axis 1 join the Linear, Conv2d or BatchNorm before them.

    Parameters
    ----------
    module : torch.nn.Module
        It stays as it is. Whether it is in training mode does not matter.
    input_shape : tuple of int, optional
        Of one sample: (height, width, channels) of an image, needed for networks of images. By default (features,) of
        the first layer that has a width.
    dtype : dtype, optional
        float32 or float64, in place of that of the module's parameters; needed where these are of another dtype.

    Returns
    -------
    Sequential
        Its `Dropout` layers draw other numbers than torch's, the same in every call.

    Raises
    ------
    TypeError
        A module of another kind: the message says which, and its place, such as ``features.3``.
    ValueError
        A module with options that fastopt has no layer for, or that does not fit `input_shape`; a parameter that two
        modules share; parameters of a dtype that fastopt does not have.

    See Also
    --------
    Sequential.to_torch : The way back.

    Notes
    -----
    `eps` and `momentum` of BatchNorm keep their values and their meaning, the weight of a new batch. A module whose
    parameters have ``requires_grad`` False is a layer with `trainable` False; a `BatchNorm` then goes by its running
    averages in training, too, as torch's does in ``eval()``. Hooks are not looked at.
    """
    if isinstance(module, type) or not hasattr(module, "named_parameters"):
        raise TypeError(f"module: expected a module of torch, got {type(module).__name__}")
    _require_no_shared_parameters(module)
    dtype = _dtype_of(module) if dtype is None else np.dtype(dtype)
    steps = _fused(_modules(_readable(module, dtype), ""))
    width = _first_width(steps) if input_shape is None else 0
    if width is None:
        raise ValueError("input_shape: expected the shape of a sample, for no module has a width of its own, got None")
    shape = (width,) if input_shape is None else chain.as_input_shape(input_shape)
    return assembled(_layers(steps, shape, dtype), dtype, shape)


# ---------------------------------------------------------------- the tensors


def _require_no_shared_parameters(module) -> None:
    places: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        first = places.setdefault(id(parameter), name)
        if first != name:
            raise ValueError(f"{name}: expected a parameter of its own, got that of {first}; copy it to train it apart")


def _dtype_of(module) -> np.dtype:
    """That of the parameters; of a module without any, of its running averages."""
    tensors = list(module.parameters()) or [t for t in module.buffers() if t.is_floating_point()]
    found = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors}) or ["float32"]
    if found not in (["float32"], ["float64"]):
        raise ValueError(
            f"dtype: expected parameters that are all float32 or all float64, got {', '.join(found)}; "
            "pass dtype=numpy.float32 to convert them"
        )
    return np.dtype(found[0])


def _readable(module, dtype):
    """The module, or a copy of it where NumPy cannot read its tensors: on another device, or in bfloat16."""
    tensors = [*module.parameters(), *module.buffers()]
    if any(tensor.device.type == "meta" for tensor in tensors):
        raise ValueError("module: expected tensors with numbers, got some on the meta device; load its weights first")
    if any("complex" in str(tensor.dtype) for tensor in tensors):
        raise ValueError("module: expected tensors of real numbers, got complex ones")
    if any(tensor.device.type != "cpu" for tensor in tensors):
        module = copy.deepcopy(module).cpu()
    if any(str(tensor.dtype) == "torch.bfloat16" for tensor in tensors):
        module = copy.deepcopy(module)
        module = module.double() if dtype == np.float64 else module.float()
    return module


# ---------------------------------------------------------------- the modules of a chain, and activations


@dataclass
class Step:
    """A module of a chain."""

    place: str  # such as features.3
    kind: str  # the name of its class
    module: Any
    activation: "Step | None" = None  # that joins it

    def __str__(self):
        return f"{self.place} ({self.kind})"


def _kind(module_class) -> str | None:
    """The name of a class of torch.nn or of our modules for torch; None for any other."""
    known = module_class.__module__ == OWN or module_class.__module__.startswith(THEIRS)
    return module_class.__name__ if known else None


def _modules(module, place) -> Iterator[Step]:
    """The modules of a chain; a Sequential, also a subclass that runs as one, is those inside."""
    bases: list[Any] = [base for base in type(module).__mro__ if _kind(base) == "Sequential"]
    if bases and type(module).forward is bases[0].forward:
        names = {id(child): name for name, child in module.named_children()}
        for child in module:
            yield from _modules(child, f"{place}.{names[id(child)]}" if place else names[id(child)])
        return
    kind, place = _kind(type(module)), place or "module"
    if kind == "Identity":
        return
    if kind not in CONVERTERS and kind not in ACTIVATIONS:
        name = type(module).__name__
        known = ", ".join(sorted([*OF_TORCH, *ACTIVATIONS, "Identity", "Sequential"]))
        instead = INSTEAD.get(name) or (UNREAD if kind is None else None)
        raise TypeError(f"{place}: expected one of {known}, got {name}" + (f"; {instead}" if instead else ""))
    parameters = [name for name, _ in module.named_parameters(recurse=False)]
    if not {"weight", "bias"}.issuperset(parameters):
        got = ", ".join(parameters)
        raise ValueError(f"{place}: expected parameters weight and bias, got {got}; remove what makes them")
    yield Step(place, kind, module)


def _inside(step) -> list[list[Step]]:
    """The chains inside a module, each of which starts from its input."""
    if step.kind == "Residual":
        return [_fused(_modules(step.module.layers, f"{step.place}.layers"))]
    if step.kind in ("Add", "Concat"):
        branches = enumerate(step.module.branches)
        return [_fused(_modules(branch, f"{step.place}.branches.{i}")) for i, branch in branches]
    return []


def _fused(steps) -> list[Step]:
    """The steps without activations, each of which joins the one whose last step it is."""
    out: list[Step] = []
    for step in steps:
        if step.kind not in ACTIVATIONS:
            out.append(step)
            continue
        name = ACTIVATIONS[step.kind]
        before = next((one for one in reversed(out) if name not in PASSING.get(one.kind, ())), None)
        if before is None or before.kind not in FUSING or before.activation is not None:
            last = "the input" if before is None else before.activation or before
            expected = "it after a Linear, a Conv2d or a BatchNorm, whose last step it is"
            raise ValueError(f"{step}: expected {expected}, got it after {last}")
        before.activation = step
    return out


def _first_width(steps) -> int | None:
    """Features that a chain takes: those of the first module that says so; ValueError where images come first."""
    for step in steps:
        if step.kind in IMAGES:
            raise ValueError(f"input_shape: expected (height, width, channels), which {step} takes, got None")
        own = (getattr(step.module, name, None) for name in ("in_features", "num_features"))
        width = next((n for n in (*own, *map(_first_width, _inside(step))) if n is not None), None)
        if width is not None:
            return width
    return None


# ---------------------------------------------------------------- what each becomes


@dataclass
class Here:
    """Where a step stands."""

    shape: tuple[int, ...]  # of a sample before it
    image: tuple[int, ...] | None  # whose numbers come flattened, channel by channel
    before: str | None  # the kinds of the steps around
    after: list[str]
    dtype: np.dtype

    def ours(self, array):
        """An array whose last axis is along torch's vector, along ours."""
        return array if self.image is None else np.take(array, channels_last_columns(*self.image), axis=-1)

    def meets_columns(self) -> bool:
        """Whether the next step that is not column by column has a weight whose columns can move."""
        return next((kind in HAS_COLUMNS for kind in self.after if kind not in BY_COLUMN), False)


def _layers(steps, shape, dtype) -> list:
    """The layers of a chain that starts in `shape`."""
    out: list = []
    image, kinds = None, [step.kind for step in steps]
    for i, step in enumerate(steps):
        here = Here(shape, image, kinds[i - 1] if i else None, kinds[i + 1 :], dtype)
        activation = "identity" if step.activation is None else _activation(step.activation, len(shape))
        chains = [_layers(inside, shape, dtype) for inside in _inside(step)]
        try:
            if step.kind in VECTORS and len(shape) != 1:
                raise ValueError(f"expected vectors, got images {shape}; put Flatten before it")
            if step.kind in IMAGES and len(shape) != 3:
                raise ValueError(f"expected images, got vectors {shape}; pass input_shape=(height, width, channels)")
            made = CONVERTERS[step.kind](step.module, activation, here, *chains)
            _freeze(made, step.module)
            for layer in made:
                shape = layer.output_shape(shape)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{step}: {error}") from error
        moves = order_matters(here.shape) and here.meets_columns() and here.before != "ChannelsLast"
        if step.kind == "Flatten" and moves:
            image = here.shape
        elif step.kind not in BY_COLUMN:
            image = None
        out += made
    return out


def _activation(step, rank) -> str:
    """The name of an activation, if its options are those that fastopt has; `rank` is the axes of a sample."""
    module, axis = step.module, (None, 1, -rank)
    for kind, option, expected in (
        ("LeakyReLU", "negative_slope", (0.01,)),
        ("GELU", "approximate", ("none",)),
        ("Softmax", "dim", axis),
    ):
        if step.kind == kind and getattr(module, option) not in expected:
            wanted = " or ".join(map(repr, expected))
            raise ValueError(f"{step}: expected {option} {wanted}, got {getattr(module, option)!r}")
    return ACTIVATIONS[step.kind]


def _array(module, name):
    """A parameter or buffer; None where the module has none of this name."""
    tensor = getattr(module, name)
    return None if tensor is None else as_array(name, tensor.detach())


def _holding(layer, here, **arrays) -> list:
    return [holding(layer, arrays, here.dtype)]


def _freeze(made, module):
    """Freeze what a module became if none of its own parameters has a gradient."""
    wanted = {bool(parameter.requires_grad) for _, parameter in module.named_parameters(recurse=False)}
    if len(wanted) > 1:
        raise ValueError("expected requires_grad of weight and bias to be the same, got one True and one False")
    if wanted == {False}:
        for layer in made:
            layer.trainable = False


def _linear(module, activation, here):
    weight, bias = here.ours(_array(module, "weight")), _array(module, "bias")
    layer = ours.Dense(module.in_features, module.out_features, activation, bias is not None)
    return _holding(layer, here, weight=weight, bias=bias)


def _grouped_linear(module, activation, here):
    weight, bias = _array(module, "weight"), _array(module, "bias")
    layer = ours.GroupedDense(module.in_features, module.out_features, module.groups, activation, bias is not None)
    return _holding(layer, here, weight=weight, bias=bias)


def _maxout(module, activation, here):
    weight, bias = here.ours(_array(module, "weight")), _array(module, "bias")
    layer = ours.Maxout(module.in_features, module.out_features, module.pieces, bias is not None)
    return _holding(layer, here, weight=weight, bias=bias)


def _conv2d(module, activation, here):
    if module.in_channels == here.shape[0] != here.shape[2]:
        turned = "turn what comes, and input_shape, to (height, width, channels)"
        raise ValueError(f"expected {module.in_channels} channels, the last of {here.shape}; {turned}")
    if module.padding_mode != "zeros":
        raise ValueError(f"expected padding_mode 'zeros', got {module.padding_mode!r}")
    weight, bias = np.moveaxis(_array(module, "weight"), 1, -1), _array(module, "bias")
    options = {name: getattr(module, name) for name in ("kernel_size", "stride", "padding", "dilation", "groups")}
    options |= {"bias": bias is not None, "activation": activation}
    return _holding(ours.Conv2d(module.in_channels, module.out_channels, **options), here, weight=weight, bias=bias)


def _batch_norm(module, activation, here):
    if module.running_mean is None:
        raise ValueError("expected track_running_stats=True, for inference takes running averages, got False")
    if (module.weight is None) != (module.bias is None):
        raise ValueError("expected weight and bias, or neither (affine=False), got a weight alone")
    affine = module.weight is not None
    layer = ours.BatchNorm(module.num_features, module.eps, module.momentum, activation, affine)
    names = {"running_mean": "running_mean", "running_var": "running_var"}
    names |= {"gamma": "weight", "beta": "bias"} if affine else {}
    return _holding(layer, here, **{mine: here.ours(_array(module, name)) for mine, name in names.items()})


def _max_pool2d(module, activation, here):
    if module.dilation not in (1, (1, 1)) or module.return_indices:
        got = f"{module.dilation} and {module.return_indices}"
        raise ValueError(f"expected dilation 1 and return_indices False, got {got}")
    return [ours.MaxPool2d(module.kernel_size, module.stride, module.padding, module.ceil_mode)]


def _avg_pool2d(module, activation, here):
    if module.divisor_override is not None:
        raise ValueError(f"expected divisor_override None, got {module.divisor_override}")
    windows = (module.kernel_size, module.stride, module.padding, module.ceil_mode)
    return [ours.AvgPool2d(*windows, module.count_include_pad)]


def _adaptive_avg_pool2d(module, activation, here):
    size, image = module.output_size, here.shape[:2]
    size = size if isinstance(size, tuple | list) else (size, size)
    size = tuple(n if m is None else m for n, m in zip(image, size, strict=True))
    if size == (1, 1) and here.after[:1] == ["Flatten"]:
        return [ours.GlobalAvgPool2d()]
    if any(m < 1 or n % m for n, m in zip(image, size, strict=True)):
        raise ValueError(f"expected an output_size that divides the image {image}, got {size}")
    return [ours.AvgPool2d(tuple(n // m for n, m in zip(image, size, strict=True)))]


def _flatten(module, activation, here):
    ends = (-1, 3) if len(here.shape) == 3 else (-1, 1, 3)  # 3 after AdaptiveAvgPool2d(1), too
    if module.start_dim != 1 or module.end_dim not in ends:
        raise ValueError(f"expected start_dim 1 and end_dim -1, got {module.start_dim} and {module.end_dim}")
    if len(here.shape) == 1:
        return []
    if not order_matters(here.shape) or here.meets_columns() or here.before == "ChannelsLast":
        return [ours.Flatten()]
    return [ours.ChannelsFirst(), ours.ChannelsFirst(), ours.Flatten()]  # two turns of three axes are one turn back


def _channels_last(module, activation, here):
    return [] if here.after[:1] == ["Flatten"] else [ours.ChannelsFirst()]


def _standardize(module, activation, here):
    return _statistics(ours.Standardize(module.in_features), module, here, "mean", "scale")


def _whiten(module, activation, here):
    return _statistics(ours.Whiten(module.in_features, module.kind, module.eps), module, here, "mean", "weight")


def _statistics(layer, module, here, *names) -> list:
    layer.calibrated = True
    return _holding(layer, here, **{name: _array(module, name) for name in names})


OF_TORCH: dict[str, Callable] = {
    "Linear": _linear,
    "Conv2d": _conv2d,
    "BatchNorm1d": _batch_norm,
    "BatchNorm2d": _batch_norm,
    "Dropout": lambda module, activation, here: [ours.Dropout(module.p)],
    "MaxPool2d": _max_pool2d,
    "AvgPool2d": _avg_pool2d,
    "AdaptiveAvgPool2d": _adaptive_avg_pool2d,
    "Flatten": _flatten,
}
OF_OURS: dict[str, Callable] = {
    "Residual": lambda module, activation, here, layers: [ours.Residual(layers)],
    "Add": lambda module, activation, here, *branches: [ours.Add(branches)],
    "Concat": lambda module, activation, here, *branches: [ours.Concat(branches)],
    "ChannelsLast": _channels_last,
    "GroupedLinear": _grouped_linear,
    "Maxout": _maxout,
    "Standardize": _standardize,
    "Whiten": _whiten,
    "RandomFlip": lambda module, activation, here: [ours.RandomFlip(module.horizontal, module.vertical)],
    "RandomShift": lambda module, activation, here: [ours.RandomShift(module.height, module.width)],
}
CONVERTERS = OF_TORCH | OF_OURS
