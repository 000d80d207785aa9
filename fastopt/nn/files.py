"""Model files: safetensors, written whole or not at all, read only if they are ours.

The architecture and other plain values are one JSON text in the file's metadata;
arrays are tensors named like ``layers.0.weight``.
"""

import json
import os
from pathlib import Path

import numpy as np

from fastopt.nn import layers as kinds

FORMAT = 1
LAYERS: dict[str, type[kinds.Layer]] = {k.__name__: k for k in (kinds.Dense, kinds.Standardize, kinds.Residual)}


def write(path, arrays: dict[str, np.ndarray], document: dict) -> None:
    """Write arrays and a JSON document to `path`: a temporary file, synced, then renamed."""
    from safetensors.numpy import save

    text = json.dumps({"format": FORMAT, **document}, sort_keys=True)
    content = save({name: np.ascontiguousarray(a) for name, a in arrays.items()}, metadata={"fastopt": text})
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.part")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path, kind: str) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays and document of a file of this kind; ValueError if it is damaged or foreign."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    with path.open("rb"):  # a missing or unreadable file is the usual OSError
        pass
    try:
        with safe_open(path, framework="numpy") as stream:
            text = (stream.metadata() or {}).get("fastopt")
            arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path}: expected a safetensors file, got one that is damaged or of another kind ({error})"
        ) from error
    if text is None:
        raise ValueError(f"{path}: expected a file written by fastopt, got a safetensors file of another program")
    try:
        document = json.loads(text)
        found = (document["format"], document["kind"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: its fastopt description is damaged ({error})") from error
    if found != (FORMAT, kind):
        raise ValueError(
            f"{path}: expected a {kind} file of format {FORMAT}, got a {found[1]} file of format {found[0]}"
        )
    return arrays, document


def describe(layers) -> list[dict]:
    """Layers as JSON values."""
    out = []
    for layer in layers:
        config = {k: describe(v) if k == "layers" else v for k, v in layer.config().items()}
        out.append({"type": type(layer).__name__, **config})
        if isinstance(layer, kinds.Standardize):
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
