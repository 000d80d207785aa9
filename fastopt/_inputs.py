"""Arrays that a caller hands over to be read: real numbers, and class labels; one check each.

What looks like an array is taken (lists, data frames, tensors); what would lose something on the way to one is an
error that names the way out: sparse matrices, masks, imaginary parts, missing values, tensors that require grad.
"""

from numbers import Real

import numpy as np


def is_sparse(value) -> bool:
    """Whether a value is a sparse matrix or array of SciPy, or one made like it."""
    return hasattr(value, "toarray") and hasattr(value, "nnz")


def plain_array(name, value) -> np.ndarray:
    """`value` as a NumPy array of any dtype, without a copy where that can be."""
    if is_sparse(value):
        raise TypeError(f"{name}: expected a dense array, got a sparse {type(value).__name__}; pass {name}.toarray()")
    if np.ma.is_masked(value):
        raise ValueError(
            f"{name}: expected an array without masked elements, got {np.ma.count_masked(value)} of them; "
            f"drop them, or pass {name}.filled(value)"
        )
    try:
        return np.asarray(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise TypeError(
            f"{name}: expected an array, got {type(value).__name__}{_tensor_remedy(name, value) or f' ({error})'}"
        ) from None


def _tensor_remedy(name, value) -> str:
    """For a tensor of torch that NumPy does not take, the calls that make it one that it does."""
    if not hasattr(value, "detach"):
        return ""
    calls = {
        "detach": value.requires_grad,
        "cpu": value.device.type != "cpu",
        "float": "bfloat16" in str(value.dtype),
    }
    wanted = "".join(f".{call}()" for call, needed in calls.items() if needed)
    return f" of dtype {value.dtype}; pass {name}{wanted}" if wanted else ""


def as_real(name, value) -> np.ndarray:
    """`value` as an array of bool, integers or floats; TypeError if it holds anything else."""
    array = value if type(value) is np.ndarray else plain_array(name, value)
    if array.dtype.kind in "biuf":
        return array
    if array.dtype == object:
        return _from_frame(name, value) if hasattr(value, "dtypes") else _from_objects(name, array)
    remedies = {"c": f"; pass {name}.real", "V": f"; pass {name}.astype(np.float32)"}  # V: bfloat16 and its like
    raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}{remedies.get(array.dtype.kind, '')}")


def _from_frame(name, frame) -> np.ndarray:
    """A frame or series of pandas whose columns have several types; values missing from them are NaN."""
    names = list(getattr(frame, "columns", ["values"]))
    dtypes = list(frame.dtypes) if hasattr(frame, "columns") else [frame.dtypes]
    if object in dtypes:
        return _from_objects(name, np.asarray(frame))
    for column, dtype in zip(names, dtypes, strict=True):
        if getattr(dtype, "kind", "O") not in "biuf":
            raise TypeError(f"{name}: expected real numbers, got dtype {dtype} in column {column!r}; encode or drop it")
    return frame.to_numpy(np.float64, na_value=np.nan)


def _from_objects(name, array) -> np.ndarray:
    found = np.empty(array.shape)
    for place, value in np.ndenumerate(array):
        if not isinstance(value, (Real, np.bool_)):
            raise TypeError(f"{name}: expected real numbers, got {value!r} at {place}")
        found[place] = value
    return found


# ---------------------------------------------------------------- classes


def class_labels(name, labels, n) -> tuple[np.ndarray, np.ndarray]:
    """The classes of n labels in ascending order, and the class of each row as a number from 0 on.

    Labels may be text, numbers or other objects that have an order; a missing one (None, NaN, NaT, NA, a masked
    element) or an infinite one is none.
    """
    given, labels = labels, plain_array(name, labels)
    if isinstance(given, (list, tuple)) and labels.dtype.kind in "US":
        objects = np.array(given, object)  # NumPy makes text of what stands beside text, of NaN too
        labels = labels if all(isinstance(label, (str, bytes)) for label in objects.flat) else objects
    if labels.shape != (n,):
        way_out = f"; pass {name}.ravel()" if labels.shape == (n, 1) else ""
        raise ValueError(f"{name}: expected shape ({n},) for {n} rows, got {labels.shape}{way_out}")
    _check_present(name, labels)
    two = _two_classes(labels)
    if two is not None:
        return two
    try:
        return np.unique(labels, return_inverse=True)
    except TypeError as error:
        raise TypeError(f"{name}: expected labels of one type, which have an order, got several ({error})") from None


def _check_present(name, labels):
    if labels.dtype.kind in "biuUS":  # which have no value for it
        return
    if labels.dtype.kind == "O":
        missing = np.fromiter(map(_is_missing, labels), bool, len(labels))
    elif labels.dtype.kind in "fc":
        missing = ~np.isfinite(labels)
    else:
        missing = labels != labels  # NaT, and NaN of types that NumPy does not know
    if missing.any():
        row = int(missing.argmax())
        raise ValueError(f"{name}: expected class labels, got {labels[row]} in row {row}; drop rows without a label")


def _is_missing(label) -> bool:
    if isinstance(label, (float, np.floating)):
        return not np.isfinite(label)
    try:
        return label is None or bool(label != label)  # NaT is not
    except TypeError:  # NA has no truth
        return True


def _two_classes(labels):
    """Classes and codes of numbers that have two values, without a sort; else None."""
    if labels.dtype.kind not in "biuf" or not len(labels):
        return None
    classes = np.array([labels.min(), labels.max()])
    upper = labels == classes[1]
    return (classes, upper) if classes[0] != classes[1] and (upper | (labels == classes[0])).all() else None
