"""Layers that start with the arrays of another tool, so that none is drawn at random."""

import numpy as np

from fastopt._arrays import aligned_zeros


def holding(layer, arrays, dtype):
    """The layer with copies of these arrays, by name, for its own; ValueError where they do not fit."""
    own = {}
    for name, spec in layer.array_specs(dtype).items():
        found = arrays[name].shape if name in arrays else None
        if found != spec.shape:
            raise ValueError(f"{name}: expected shape {spec.shape}, got {found}")
        own[name] = aligned_zeros(spec.shape, spec.dtype)
        with np.errstate(over="ignore"):
            own[name][...] = arrays[name]
        if np.isinf(own[name]).any() > np.isinf(arrays[name]).any():
            raise ValueError(f"{name}: expected values that {spec.dtype} holds, got larger ones")
    if own:
        layer.require_valid(own)
        layer.adopt(own)
    return layer
