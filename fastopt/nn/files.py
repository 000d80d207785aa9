"""What a model file holds: the architecture as JSON values, arrays named like ``layers.0.weight``."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastopt import _files
from fastopt._numbers import flag
from fastopt.nn.layers import LAYERS, ArraySpec, Layer, chain


def describe(layers) -> list[dict]:
    """Layers as JSON values."""
    out = []
    for layer in layers:
        config = layer.config()
        if not type(layer).__module__.startswith("fastopt."):
            _require_arguments(type(layer), config)
        if "layers" in config:
            config["layers"] = describe(config["layers"])
        if "branches" in config:
            config["branches"] = [describe(branch) for branch in config["branches"]]
        state = {"calibrated": layer.calibrated} if layer.calibration == "required" else {}
        if not (layer.trainable or {"layers", "branches"} & config.keys()):  # those inside say it themselves
            if any(inner.trainable for inner in chain.walk(layer.layers) if inner.parameters()):
                name = type(layer).__name__
                raise ValueError(f"layers: expected a {name} that is trainable as a whole, or frozen, got one in part")
            state["trainable"] = False
        out.append({"type": type(layer).__name__, **config, **state})
    return out


def _require_arguments(kind, config) -> None:
    """Raise ValueError unless a class of the caller's can be made again of what its `config` returns."""
    try:
        inspect.signature(kind).bind(**config)
    except TypeError as error:
        raise ValueError(
            f"layers: expected {kind.__name__}.config to return the arguments of its constructor, by which files make "
            f"it again, got {', '.join(config) or 'none'} ({error})"
        ) from None


def input_shape_of(document, layers) -> tuple[int, ...]:
    """The shape of a sample that a file gives, or that its layers do."""
    given = document.get("input_shape")
    return chain.first_shape(layers) if given is None else chain.as_input_shape(given)


def layers_of(file: _files.File) -> list[Layer]:
    """The layers that a file describes, with its arrays; ValueError, before any array is read, where these differ."""
    name = file.document["dtype"]
    if name not in ("float32", "float64"):
        raise ValueError(f"dtype: expected float32 or float64, got {name!r}")
    dtype, others = np.dtype(name), file.document["kind"] != "network"  # a run has arrays besides
    stored = {name: a for name, a in file.stored.items() if name.startswith("layers.") or not others}
    layers = chain.check(_build(file.document["layers"], dtype, stored, "layers"))
    chain.shapes(layers, input_shape_of(file.document, layers))
    _check_names(_specs(layers, dtype), stored)
    for place, layer in chain.named(layers):
        arrays = {name: file.array(f"{place}.{name}") for name in layer.array_specs(dtype)}
        layer.require_valid(arrays)
        layer.adopt(arrays)
    return layers


def _build(description, dtype, stored, place, first=0) -> list[Layer]:
    """Layers without arrays; refuses the first one whose arrays are not as `stored`, however many would follow.

    They are numbered from `first` on.
    """
    if not isinstance(description, list):
        raise ValueError(f"{place}: expected a list of layers, got {type(description).__name__}")
    out: list[Layer] = []
    for i, config in enumerate(description, first):
        config, here = dict(config), f"{place}.{i}"
        name = config.pop("type")
        if not (isinstance(name, str) and name in LAYERS):
            raise ValueError(f"{here}: expected a layer of type {', '.join(sorted(LAYERS))}, got {name!r}")
        waits = LAYERS[name].calibration == "required"
        calibrated = flag("calibrated", config.pop("calibrated", False)) if waits else True
        trainable = flag("trainable", config.pop("trainable", True))
        if "layers" in config:
            config["layers"] = _build(config["layers"], dtype, stored, here)
        if "branches" in config:
            config["branches"] = _build_branches(config["branches"], dtype, stored, here)
        layer = LAYERS[name](**config)
        for array, spec in layer.array_specs(dtype).items():
            _check_array(f"{here}.{array}", spec, stored)
        if waits:
            layer.calibrated = calibrated
        if not trainable:
            layer.trainable = False
        out.append(layer)
    return out


def _build_branches(descriptions, dtype, stored, place) -> list[list[Layer]]:
    """Likewise of branches, whose layers are numbered one branch after the other."""
    if not isinstance(descriptions, list):
        raise ValueError(f"{place}: expected a list of branches, got {type(descriptions).__name__}")
    branches: list[list[Layer]] = []
    for description in descriptions:
        branches.append(_build(description, dtype, stored, place, sum(map(len, branches))))
    return branches


def as_metadata(metadata) -> dict:
    """A copy of the metadata as a file gives it back; an error if JSON cannot hold it."""
    if not isinstance(metadata, dict):
        raise TypeError(f"metadata: expected a dict, got {type(metadata).__name__}")
    try:
        copy = json.loads(json.dumps(metadata, allow_nan=False))
        odd = [name for name in _names(metadata) if not isinstance(name, str)]
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"metadata: expected JSON values, got others ({error})") from None
    if odd:
        raise ValueError(f"metadata: expected names of type str, got {odd[0]!r}")
    return copy


def metadata_entry(metadata) -> dict:
    """What the document of a file holds for checked metadata: nothing where there is none."""
    metadata = as_metadata(metadata)
    return {"metadata": metadata} if metadata else {}


def _names(value):
    """The names in JSON values, at any depth; of those that are not text JSON would make text."""
    if isinstance(value, dict):
        yield from value
        value = value.values()
    elif not isinstance(value, list | tuple):
        return
    for inside in value:
        yield from _names(inside)


def arrays_of(net) -> dict[str, np.ndarray]:
    """Every array a model file keeps, by name."""
    return {f"{place}.{name}": a for place, layer in chain.named(net.layers) for name, a in layer.arrays().items()}


def stored_arrays(net) -> dict[str, np.ndarray]:
    """`arrays_of`, as they are written."""
    return {f"{place}.{name}": a for place, layer in chain.named(net.layers) for name, a in layer.stored().items()}


def tell_copied(net, arrays) -> None:
    """Tell every layer that its checked arrays of a file have been copied into it."""
    for layer, its_arrays in _by_layer(net, arrays):
        layer.copied(its_arrays)


def check_arrays(net, arrays: Mapping[str, Any]) -> None:
    """Raise ValueError unless `arrays` are such as a file of this network holds."""
    specs = _specs(net.layers, net.dtype)
    _check_names(specs, arrays)
    for name, spec in specs.items():
        _check_array(name, spec, arrays)
    for layer, its_arrays in _by_layer(net, arrays):
        layer.require_valid(its_arrays)


def _by_layer(net, arrays):
    """Every layer that holds no others, with its own of the arrays of a file, by their names in the layer."""
    for place, layer in chain.named(net.layers):
        yield layer, {name: arrays[f"{place}.{name}"] for name in layer.array_specs(net.dtype)}


def _specs(layers, dtype) -> dict[str, ArraySpec]:
    return {
        f"{place}.{name}": spec
        for place, layer in chain.named(layers)
        for name, spec in layer.array_specs(dtype).items()
    }


def _check_names(specs, arrays) -> None:
    missing, more = sorted(specs.keys() - arrays.keys()), sorted(arrays.keys() - specs.keys())
    if missing:
        raise ValueError(f"{missing[0]}: expected an array of this name, got none")
    if more:
        raise ValueError(f"{more[0]}: expected no array of this name, got one")


def _check_array(name, spec, arrays) -> None:
    if name not in arrays:
        raise ValueError(f"{name}: expected an array of this name, got none")
    shape, dtype = arrays[name].shape, arrays[name].dtype
    if shape != spec.shape or dtype not in (spec.dtype, *spec.others):
        raise ValueError(f"{name}: expected {spec.dtype} {spec.shape}, got {dtype} {shape}")
