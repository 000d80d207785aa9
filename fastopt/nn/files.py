"""What a model file holds: the architecture as JSON values, arrays named like ``layers.0.weight``."""

import json

import numpy as np

from fastopt.nn import layers as kinds

LAYERS: dict[str, type[kinds.Layer]] = {
    k.__name__: k
    for k in (
        kinds.BatchNorm,
        kinds.Dense,
        kinds.Dropout,
        kinds.GroupedDense,
        kinds.Maxout,
        kinds.Standardize,
        kinds.Whiten,
        kinds.Residual,
    )
}


def describe(layers) -> list[dict]:
    """Layers as JSON values."""
    out = []
    for layer in layers:
        config = {k: describe(v) if k == "layers" else v for k, v in layer.config().items()}
        out.append({"type": type(layer).__name__, **config})
        if isinstance(layer, kinds.FromData):
            out[-1]["calibrated"] = layer.calibrated
    return out


def build(description) -> list[kinds.Layer]:
    """The layers that `describe` described, without arrays."""
    out: list[kinds.Layer] = []
    for config in description:
        config = dict(config)
        kind = LAYERS[config.pop("type")]
        calibrated = config.pop("calibrated", None)
        if "layers" in config:
            config["layers"] = build(config["layers"])
        out.append(kind(**config))
        if calibrated is not None:
            out[-1].calibrated = calibrated
    return out


def as_metadata(metadata) -> dict:
    """A copy of the metadata as a file gives it back; an error if JSON cannot hold it."""
    if not isinstance(metadata, dict):
        raise TypeError(f"metadata: expected a dict, got {type(metadata).__name__}")
    try:
        copy = json.loads(json.dumps(metadata, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"metadata: expected JSON values, got others ({error})") from None
    if copy.keys() != metadata.keys():
        raise ValueError(f"metadata: expected names of type str, got {list(metadata)}")
    return copy


def arrays_of(net) -> dict[str, np.ndarray]:
    """Every array a model file keeps, by name."""
    return {f"layers.{i}.{name}": a for i, layer in enumerate(net.layers) for name, a in layer.arrays().items()}


def check_arrays(mine: dict[str, np.ndarray], arrays: dict[str, np.ndarray]) -> None:
    """Raise ValueError unless `arrays` has exactly the names, shapes and dtypes of `mine`."""
    if mine.keys() != arrays.keys():
        raise ValueError(f"expected arrays {sorted(mine)}, got {sorted(arrays)}")
    for name, a in mine.items():
        if (a.shape, a.dtype) != (arrays[name].shape, arrays[name].dtype):
            raise ValueError(f"{name}: expected {a.dtype} {a.shape}, got {arrays[name].dtype} {arrays[name].shape}")
