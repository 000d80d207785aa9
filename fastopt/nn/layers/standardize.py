"""Layers whose arrays are statistics of data: what they share, and Standardize."""

import numpy as np

from fastopt._arrays import aligned_copy, aligned_zeros
from fastopt._numbers import whole_number
from fastopt.nn import conditioning
from fastopt.nn.layers.layer import ArraySpec, Layer, Statistic, loses_digits, rows_of

READ_IN_FLOAT64, READ_AS_IT_COMES, READ_ROUNDED = range(3)  # as standardize.pxi has them


class FromData(Layer):
    """What the layers share whose arrays are not trained but statistics of data.

    `mean`, and the scale beside it, are float64 whatever the network's dtype, and as the first layer they read the
    input in the dtype that came. Statistics of files and pickles written before were taken of data rounded to the
    network's dtype; the layer then rounds the input likewise and gives the same bits. The kernel reads rows of float32
    by `_arrays["split"]`, which `split` makes, in the way of `_arrays["reading"]`.
    """

    in_features: int
    out_features: int
    mean = Statistic()
    calibration = "required"
    _parameters = ("features",)

    def __init__(self, features):
        self.in_features = self.out_features = whole_number("features", features)
        self.calibrated = False

    def array_specs(self, dtype):
        older = (np.dtype(np.float32),) if dtype == np.float32 else ()
        return {name: ArraySpec((self.in_features,), np.dtype(np.float64), older) for name in self.wide()}

    def adopt(self, arrays):
        split = aligned_zeros((3, self.in_features), np.float32)
        self._arrays = {**arrays, "split": split, "reading": aligned_zeros((), np.uint8)}
        for name in self.wide():
            self._arrays[name] = aligned_copy(arrays[name].astype(np.float64))
        self.copied(arrays)

    def arrays(self):
        return {name: a for name, a in self._arrays.items() if name not in ("split", "reading")}

    def wide(self) -> list[str]:
        """Names of the arrays that are float64 in a network of float32."""
        return ["mean"]

    def stored(self):
        narrow = self.wide() if self._rounds() else []
        return {name: a.astype(np.float32) if name in narrow else a for name, a in self.arrays().items()}

    def require_valid(self, arrays):
        dtypes = [arrays[name].dtype for name in self.wide()]
        if len(set(dtypes)) > 1:
            kinds = " and ".join(map(str, dtypes))
            raise ValueError(f"{', '.join(self.wide())}: expected arrays of one dtype, got {kinds}")

    def copied(self, arrays):
        self.split(rounded=arrays["mean"].dtype == np.float32)

    def _rounds(self) -> bool:
        return bool(self._arrays) and int(self._arrays["reading"]) == READ_ROUNDED

    def split(self, rounded=None) -> None:
        """Make what rows of float32 are read by, for `mean` and `scale` have changed; `rounded` stays if None."""
        rounded = self._rounds() if rounded is None else rounded
        with np.errstate(all="ignore"):
            mean, scale = self._arrays["mean"], self._arrays.get("scale", np.float64(1))
            high, factor = mean.astype(np.float32), scale.astype(np.float32)
            low = np.zeros_like(high) if rounded else (mean - high).astype(np.float32)
        limits, size = np.finfo(np.float32), np.abs(factor)
        held = np.isfinite(high).all() and ((size >= limits.tiny) & (size <= limits.max)).all()
        for row, a in zip(self._arrays["split"], (high, low, factor), strict=True):
            row[...] = a
        self._arrays["reading"][...] = READ_ROUNDED if rounded else READ_AS_IT_COMES if held else READ_IN_FLOAT64

    def _take(self, **statistics) -> None:
        """Put statistics of data in its own dtype in place."""
        for name, a in statistics.items():
            setattr(self, name, a)
        self.split(rounded=False)
        self.calibrated = True

    def __setstate__(self, state):
        super().__setstate__(state)
        if self._arrays and "reading" not in self._arrays:  # pickled before statistics were float64
            self.adopt(self._arrays)


class Standardize(FromData):
    """Center every column and divide it by its standard deviation.

    The statistics are not trained: they come from data, by `Sequential.calibrate`, which
    `Trainer.fit` calls on the training data if nobody has.

    Parameters
    ----------
    features : int

    Attributes
    ----------
    mean : ndarray, shape (features,), float64
        Read-only; assign to it.
    scale : ndarray, shape (features,), float64
        One over the standard deviation; 1 for a constant column. Read-only; assign to it.
    calibrated : bool
        Whether the statistics have been taken.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Standardize(1)], dtype=np.float64)
    >>> net.calibrate(np.array([[1.0], [3.0]])).predict(np.array([[3.0]]))
    array([[1.]])
    """

    scale = Statistic()

    def config(self):
        return {"features": self.in_features}

    def start(self, rng):
        self.scale = np.ones(self.in_features)

    def wide(self):
        return ["mean", "scale"]

    def calibrate(self, x, batch_size=None) -> None:
        """Take the statistics of all of x."""
        mean, deviation = conditioning.column_statistics(rows_of(x))
        self._take(mean=mean, scale=1 / np.where(deviation > 0, np.maximum(deviation, 1e-308), 1))

    def scale_and_shift(self):
        return self.scale, -self.scale * self.mean

    def loses_digits(self, dtype):
        return loses_digits(self.scale, self.scale * self.mean, dtype)

    def lay_out(self, layout, src):
        dst = layout.value(self.output_shape(layout.shapes[src]))
        layout.add("standardize", src, dst, **self._arrays)
        return dst
