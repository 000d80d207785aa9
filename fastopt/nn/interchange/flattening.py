"""Where flattened images of torch and ONNX, channels first, meet those of fastopt, channels last."""

import numpy as np


def order_matters(shape) -> bool:
    """Whether a sample of this shape is flattened otherwise channels first: an image of several pixels and channels."""
    return len(shape) == 3 and shape[0] * shape[1] > 1 and shape[2] > 1


def channels_last_columns(height, width, channels) -> np.ndarray:
    """Where each number of a flattened image, channels last, stands in the same image flattened channels first.

    For the weights after a Flatten, ``weight_ours = weight_theirs[:, columns]``, which `numpy.take` makes several times
    sooner and in C order; for the arrays of a layer that acts on every column alone ``ours = theirs[columns]``.
    ``numpy.argsort(columns)`` leads back.

    Returns
    -------
    ndarray, shape (height * width * channels,), intp
    """
    first = np.arange(height * width * channels, dtype=np.intp).reshape(channels, height, width)
    return first.transpose(1, 2, 0).ravel()
