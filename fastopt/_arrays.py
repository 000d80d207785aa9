"""Arrays that fastopt allocates, aligned to a cache line, and arrays that come from callers.

`as_numbers` and `as_classes` are the one way from what a caller passes as data to an ndarray of real
numbers: they take whatever is numerically clear, and say what to pass instead of all else. Nothing is
lost on the way: no mask, no imaginary part, no missing value. Labels of any kind: `_labels.py`.
"""

import math
from collections.abc import Iterator, Mapping, Set
from numbers import Integral, Real

import numpy as np

ALIGNMENT = 64


def aligned_zeros(shape, dtype, like=None) -> np.ndarray:
    """A C-contiguous array of zeros that starts on a cache line, or as far behind one as the array `like` does.

    Moments are placed like their parameter, so that one loop meets the cache lines of both at once.
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


# ---------------------------------------------------------------- memory that is shared


def as_array(name, value) -> np.ndarray:
    """An array over the memory of `value`: an ndarray itself, a CPU DLPack export, or a buffer."""
    if isinstance(value, np.ndarray):
        return value
    expected = f"{name}: expected a NumPy array, a buffer or a CPU DLPack export, got {type(value).__name__}"
    if hasattr(value, "__dlpack__"):
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise TypeError(f"{expected} that exports nothing ({error}){_way_out(name, value)}") from None
    try:
        return np.asarray(memoryview(value))
    except (TypeError, ValueError):
        raise TypeError(f"{expected}{_way_out(name, value)}") from None


def require_array(name, value) -> None:
    """Raise TypeError, with the way out, unless `value` is an ndarray all of whose elements count."""
    if not isinstance(value, np.ndarray):
        way_out = _way_out(name, value) or f"; pass np.asarray({name})"
        raise TypeError(f"{name}: expected a NumPy array, got {type(value).__name__}{way_out}")
    if has_masked(value):
        raise TypeError(f"{name}: expected an array without masked elements, got a masked array{_way_out(name, value)}")


def require_finite(name, array) -> None:
    """Raise ValueError, naming the place, if an array holds NaN or infinity."""
    bad = ~np.isfinite(array)
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"{name}: expected finite values, got {np.asarray(array)[place]} at {place}")


# ---------------------------------------------------------------- data that is read


def as_numbers(name, value, expected="real numbers") -> np.ndarray:
    """Data as an ndarray of a real dtype (bool, integer or floating), without a copy where it is one.

    Frames and object arrays are taken where every element is a real number; TypeError names the first column
    or element that is not.
    """
    array = as_plain(name, value, expected)
    if array.dtype == object:
        array = _unboxed(name, value, array, expected)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected {expected}, got dtype {array.dtype}{_way_out(name, array)}")
    return array


def as_plain(name, value, expected) -> np.ndarray:
    """Data as an ndarray of any dtype, without a copy where it is one; TypeError where something would be lost."""
    if isinstance(value, Mapping | Set | Iterator):
        raise TypeError(f"{name}: expected {expected}, got {_a(type(value).__name__)}{_way_out(name, value)}")
    masked = has_masked(value) or (isinstance(value, list | tuple) and any(map(has_masked, value)))
    if masked or hasattr(value, "toarray"):
        kind = "a masked array" if masked else f"a sparse {type(value).__name__}"
        raise TypeError(f"{name}: expected {expected}, got {kind}{_way_out(name, value)}")
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        found = f"{_a(type(value).__name__)} that makes no array ({error}){_way_out(name, value)}"
        refusal = ValueError if isinstance(error, ValueError) else TypeError
        raise refusal(f"{name}: expected {expected}, got {found}") from None


def as_classes(name, value, k) -> np.ndarray:
    """Targets of a classifier of `k` outputs: int64 classes (n,), or probabilities of any real dtype (n, k)."""
    array = as_numbers(name, value, f"integer classes (n,) or probabilities (n, {k})")
    if array.ndim == 2:
        return array
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"{name}: expected integer classes (n,) or probabilities (n, {k}), "
            f"got {array.dtype} of shape {array.shape}; pass {name}.astype(np.int64)"
        )
    if array.dtype == np.uint64:
        array = np.minimum(array, np.uint64(2**63 - 1))  # no class of int64, whatever it would wrap to
    return np.require(array, np.int64, ["C", "A"])


def has_masked(value) -> bool:
    """Whether `value` is a masked array with masked elements."""
    return isinstance(value, np.ndarray) and hasattr(value, "filled") and bool(np.any(getattr(value, "mask", False)))


def _unboxed(name, value, array, expected) -> np.ndarray:
    """An object array, which `value` became, as numbers: bools, integers and floats only."""
    if hasattr(value, "columns") and hasattr(value, "iloc"):  # a pandas frame of unlike columns
        columns = [value.iloc[:, j].to_numpy() for j in range(array.shape[1])]
        named = zip(value.columns, columns, strict=True)
        return np.column_stack([as_numbers(f"{name}[{label!r}]", column) for label, column in named])
    if array.ndim == 0:
        raise TypeError(f"{name}: expected {expected}, got {_a(type(value).__name__)}{_way_out(name, value)}")
    whole = True
    for place, element in np.ndenumerate(array):
        if not isinstance(element, Real | np.bool_):
            at = f"{element!r} at {place}"
            raise TypeError(f"{name}: expected {expected}, got dtype object with {at}{_way_out(name, element)}")
        whole &= isinstance(element, Integral)
    try:
        return array.astype(np.int64 if whole and array.size else np.float64)
    except OverflowError:  # a whole number of Python has no limit
        pass
    try:
        return array.astype(np.float64)
    except OverflowError:
        raise ValueError(f"{name}: expected {expected}, got a whole number too large for float64") from None


def _a(noun) -> str:
    return f"an {noun}" if noun[:1].lower() in "aeiou" else f"a {noun}"


def _way_out(name, value) -> str:
    """What to pass instead of `value`, as the end of a message."""
    dtype = str(getattr(value, "dtype", ""))
    if "bfloat16" in dtype or "float8" in dtype:
        wider = f"{name}.astype(np.float32)" if isinstance(value, np.ndarray) else f"{name}.float()"
        return f"; NumPy has no {dtype.removeprefix('torch.')}, pass {wider}"
    if getattr(value, "requires_grad", False):
        return f"; a torch tensor needs .detach(), pass {name}.detach()"
    if has_masked(value):
        return f"; pass {name}.filled(...) with a value of your choice"
    if hasattr(value, "toarray"):
        return f"; pass {name}.toarray()"
    if isinstance(value, Mapping):
        return f"; pass its values as a list, in order: [{name}[i] for i in range(n)]"
    if isinstance(value, Set | Iterator):
        return f"; pass list({name})" if isinstance(value, Iterator) else "; a set has no order, pass a list"
    if isinstance(value, str) or getattr(getattr(value, "dtype", None), "kind", None) in ("U", "S", "T"):
        return "; number text by classes, numbers = numpy.unique(text, return_inverse=True)"
    if type(value).__name__ in ("NAType", "NaTType", "NoneType"):
        return "; fill or drop missing values first"
    if getattr(getattr(value, "dtype", None), "kind", None) == "c" or isinstance(value, complex):
        return f"; pass {name}.real if the imaginary part is not wanted"
    if hasattr(value, "iloc"):
        return f"; pass {name}.to_numpy(np.float32)"
    return ""
