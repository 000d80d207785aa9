"""Chains of layers: whether they fit, what is in them, and what they fold into."""

from collections.abc import Sequence

from fastopt._numbers import whole_number
from fastopt.nn.layers.layer import NO_KERNEL, Layer


def check(layers) -> list[Layer]:
    """The layers as a list, if there are some and each has kernels; `shapes` says whether they fit each other."""
    layers = check_each("layers", layers)
    if not layers:
        raise ValueError("layers: expected at least one layer, got none")
    if all(layer.training_only for layer in layers):
        raise ValueError(f"layers: expected a layer besides {_types(layers)}, which inference leaves out, got none")
    return layers


def check_each(name, layers) -> list[Layer]:
    """The layers as a list, if each has kernels."""
    layers = list(layers)
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise TypeError(f"{name}[{i}]: expected a layer, got {type(layer).__name__}")
        if type(layer).lay_out is Layer.lay_out:
            raise TypeError(f"{name}[{i}], a {type(layer).__name__}: {NO_KERNEL}")
        if layer.retired:
            raise ValueError(
                f"{name}[{i}]: expected a layer in use, got a {type(layer).__name__} that others have replaced in its "
                "network; put copy.deepcopy of it in"
            )
    return layers


def as_input_shape(value) -> tuple[int, ...]:
    """The `input_shape` that a caller or a file gives; ValueError for what is no shape of a sample."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) not in (1, 3):
        raise ValueError(f"input_shape: expected (features,) or (height, width, channels), got {value!r}")
    return tuple(whole_number(f"input_shape[{i}]", n) for i, n in enumerate(value))


def first_shape(layers) -> tuple[int, ...]:
    """The shape that layers start from where nobody has said it: the width of the first one that has its own."""
    width = width_before(layers)
    if width is None:
        way_out = "give Sequential an input_shape, or put one in"
        raise ValueError(f"layers: expected a layer with a width of its own, got {_types(layers)}; {way_out}")
    return (width,)


def width_before(layers) -> int | None:
    """Channels that a chain takes: those of the first layer that says so; None where they may change before it."""
    return next((layer.in_features for layer in layers if layer.reshapes or layer.in_features is not None), None)


def width_after(layers, before) -> int | None:
    """Channels that a chain gives, taking `before`: those of the last layer that says so; None where none can."""
    for layer in reversed(layers):
        if layer.reshapes or layer.out_features is not None:
            return layer.out_features
    return before


def shapes(layers, input_shape) -> list[tuple[int, ...]]:
    """Shapes of a sample: `input_shape`, and that after each layer; ValueError names the first that does not fit."""
    found, before = [input_shape], "the input"
    for i, layer in enumerate(layers):
        here = f"layers[{i}] ({type(layer).__name__})"
        try:
            found.append(layer.output_shape(found[-1]))
        except ValueError as error:
            what, semicolon, way_out = str(error).partition("; ")
            raise ValueError(f"{here}: {what} from {before}{semicolon}{way_out}") from None
        before = here
    return found


def inside(layer, input_shape):
    """The layers inside this one, not those inside them, each with the shape that it takes."""
    for chain in layer.chains():
        yield from zip(chain, shapes(chain, input_shape)[:-1], strict=True)


def lay_out(layers, layout, src) -> int:
    """Add the entries of a chain that reads value `src` to a `Layout`; returns the value they end in."""
    for layer in layers:
        layout.frozen = not layer.trainable
        src = layer.lay_out(layout, src)
    return src


def path_to(layers, layer) -> list[Layer]:
    """The chain that leads from the input to what a layer makes, the layer itself or its index given."""
    if isinstance(layer, Layer):
        found = _path(layers, layer)
        if found is None:
            raise ValueError(f"layer: expected one of the network's, got {layer!r}")
        return found
    n = len(layers)
    index = whole_number("layer", layer, -n, n - 1)
    return list(layers[: index % n + 1])


def _path(layers, layer):
    """Likewise of a layer of the chain or inside others; None where it is not among them."""
    for i, one in enumerate(layers):
        if one is layer:
            return list(layers[: i + 1])
        for inner in one.chains():
            found = _path(inner, layer)
            if found is not None:
                return [*layers[:i], *found]
    return None


def walk(layers):
    """Every layer, those inside others included."""
    for layer in layers:
        yield layer
        yield from walk(layer.layers)


def named(layers, place="layers"):
    """Every layer that holds no others, with the place that its arrays are named by: ``layers.1.0``."""
    for i, layer in enumerate(layers):
        if layer.layers:
            yield from named(layer.layers, f"{place}.{i}")
        else:
            yield f"{place}.{i}", layer


def hidden(layers):
    """The layers with weights that others with weights follow; a chain inside counts for itself."""
    followed = False
    for layer in reversed(layers):
        if followed and layer.weighted:
            yield layer
        for inner in layer.chains():
            yield from hidden(inner)
        followed = followed or any(other.weighted for other in walk([layer]))


def freeze(layers):
    """Make every array of the layers read-only for good, the weights packed."""
    for layer in walk(layers):
        for array in layer.arrays().values():
            array.flags.writeable = False
        layer.pack()


def exchanged(layers, instead) -> list[Layer]:
    """The layers with others in the place of some, by their ids; changes those that hold others."""
    out: list[Layer] = []
    for layer in layers:
        if id(layer) in instead:
            out += instead[id(layer)]
        else:
            layer.replace_inside(lambda inner: exchanged(inner, instead))
            out.append(layer)
    return out


def attributes_of_containers(layers) -> list[tuple[Layer, dict]]:
    """The layers that hold others, with their attributes, by which what `exchanged` changes can be put back."""
    return [(layer, dict(vars(layer))) for layer in walk(layers) if layer.layers]


def retire(layer, layers):
    """Make what was replaced read-only for good, this layer and those inside, but for what is among `layers` again."""
    in_use = {id(one) for one in walk(layers)}
    for one in walk([layer]):
        if id(one) not in in_use and not one.retired:  # another network may have replaced it before
            one.retire()


def inference(layers) -> list[Layer]:
    """The layers of an inference network; changes those that hold others."""
    for layer in layers:
        layer.replace_inside(inference)
    return [layer for layer in layers if not layer.training_only]


def fold(layers, dtype) -> list[Layer]:
    """The layers with every scale and shift absorbed into a layer with a weight beside it; changes that layer.

    After a BatchNorm without activation, a Standardize or a Whiten (s a matrix): W (s x + t) + b = (W s) x + (b + W t).
    Before a BatchNorm, without activation between: s (W x + b) + t = (s W) x + (s b + t). Computed in float64.
    A layer stays where W s x and W t, far larger than their sum, would lose digits in the dtype of the network.
    """
    folded: list[Layer] = []
    for layer in layers:
        layer.replace_inside(lambda chain: fold(chain, dtype))
        if folded and folded[-1].absorb_after(layer):
            continue
        while folded and layer.absorb_before(folded[-1], dtype):
            folded.pop()
        folded.append(layer)
    return folded


def _types(layers) -> str:
    return ", ".join(sorted({type(layer).__name__ for layer in layers}))
