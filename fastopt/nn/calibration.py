"""Statistics of data, taken layer after layer: each sees the samples as the calibrated layers before it give them."""

import copy

from fastopt.nn.layers import chain


def calibrate(layers, x, kinds, batch_size, through) -> None:
    """Calibrate the layers of these kinds of calibration from samples x as the network reads them; all or none.

    ``through(layer, x)`` is what a layer makes of samples in inference.
    """
    waiting = [layer for layer in chain.walk(layers) if layer.calibration in kinds]
    kept = [(layer, layer.calibrated, copy.deepcopy(layer._arrays)) for layer in waiting]
    try:
        _calibrate_chain(layers, x, kinds, batch_size, through)
    except BaseException:
        for layer, calibrated, arrays in kept:
            layer.restore(calibrated, arrays)
        raise


def _calibrate_chain(layers, x, kinds, batch_size, through):
    takes = [any(one.calibration in kinds for one in chain.walk([layer])) for layer in layers]
    last = max((i for i, found in enumerate(takes) if found), default=-1)
    for i, layer in enumerate(layers[: last + 1]):
        if layer.calibration in kinds:
            layer.calibrate(x, batch_size)
        for inner in layer.chains():
            _calibrate_chain(inner, x, kinds, batch_size, through)
        if i < last and not layer.training_only:
            x = through(layer, x)


def require_calibrated(layers) -> None:
    """Raise ValueError if a layer has no statistics yet."""
    for layer in chain.walk(layers):
        if not layer.calibrated:
            name = type(layer).__name__
            raise ValueError(f"{name} has no statistics yet; call net.calibrate(X) on the training data first")
