"""An image at a lower rank: what truncation keeps, to look at."""

import numpy as np

from fastopt._arrays import as_numbers, require_finite
from fastopt.lowrank.decomposition import as_rank
from fastopt.lowrank.svd import truncated_svd


def image(array, rank) -> np.ndarray:
    """The best approximation of an image at a rank, channel by channel.

    Parameters
    ----------
    array : array_like, shape (height, width) or (height, width, channels)
    rank : int
        From 1 to the smaller of height and width.

    Returns
    -------
    ndarray
        Same shape and dtype, within the range of values that the image has; of whole numbers, rounded.

    Raises
    ------
    TypeError, ValueError
        The image is empty, not finite or of another shape, or the rank is out of range.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> gradient = np.add.outer(np.arange(0, 200, 25), np.arange(0, 50, 10)).astype(np.uint8)
    >>> bool((fo.lowrank.image(gradient, rank=2) == gradient).all())
    True
    """
    array = as_numbers("array", array)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(
            "array: expected shape (height, width) or (height, width, channels), "
            f"no size of which is 0, got {array.shape}"
        )
    require_finite("array", array)
    rank = as_rank("rank", rank, min(array.shape[:2]))
    channels = array[..., None] if array.ndim == 2 else array
    out = np.stack([truncated_svd(channel, rank).reconstruct() for channel in np.moveaxis(channels, -1, 0)], axis=-1)
    if array.dtype.kind != "f":
        np.rint(out, out=out)
    low, high, out = array.min(), array.max(), out.reshape(array.shape)
    inside = (out > low) & (out < high)  # float64 rounds the ends of int64, which then no longer fit it
    return np.where(inside, np.where(inside, out, 0).astype(array.dtype), np.where(out <= low, low, high))
