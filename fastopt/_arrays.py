"""Arrays that fastopt allocates, aligned to a cache line, and views of arrays that others own."""

import math

import numpy as np

ALIGNMENT = 64


def aligned_zeros(shape, dtype, like=None) -> np.ndarray:
    """A C-contiguous array of zeros that starts a cache line, or stands to one as the array `like` does.

    Moments stand like their parameter, so that one loop meets the borders of both at once.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    block = np.zeros(size + ALIGNMENT, np.uint8)
    start = ((0 if like is None else like.ctypes.data) - block.ctypes.data) % ALIGNMENT
    return block[start : start + size].view(dtype).reshape(shape)


def aligned_copy(array) -> np.ndarray:
    """A copy of `array` on a cache line of its own."""
    copy = aligned_zeros(array.shape, array.dtype)
    copy[...] = array
    return copy


def as_array(name, value) -> np.ndarray:
    """An array over the memory of `value`: an ndarray itself, a CPU DLPack export, or a buffer."""
    if isinstance(value, np.ndarray):
        return value
    expected = f"{name}: expected a NumPy array, a buffer or a CPU DLPack export, got {type(value).__name__}"
    if hasattr(value, "__dlpack__"):
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise TypeError(f"{expected} that exports nothing ({error}); a torch tensor needs .detach()") from None
    try:
        return np.asarray(memoryview(value))
    except (TypeError, ValueError):
        raise TypeError(expected) from None


def require_finite(name, array) -> None:
    """Raise ValueError, naming the place, if an array holds NaN or infinity."""
    bad = ~np.isfinite(array)
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"{name}: expected finite values, got {np.asarray(array)[place]} at {place}")
