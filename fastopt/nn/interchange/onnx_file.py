"""ONNX files: the model as protobuf has it, and arrays, which are believed after their sizes have been checked.

- Nothing is allocated for an array before its shape and the bytes that are there agree.
- External data is read from the folder of the model alone, and never through a link that leads out of it.
"""

import math
import os
import stat
from pathlib import Path

import numpy as np

MOST_BYTES = 2**31 - 1  # of a protobuf message
MOST_AXES = 8
# dtypes of tensors by their numbers in ONNX, and the field that has the numbers where there are no raw bytes
DTYPES = {
    1: ("<f4", "float_data"),
    11: ("<f8", "double_data"),
    7: ("<i8", "int64_data"),
    6: ("<i4", "int32_data"),
    5: ("<i2", "int32_data"),
    3: ("<i1", "int32_data"),
    4: ("<u2", "int32_data"),
    2: ("<u1", "int32_data"),
    9: ("?", "int32_data"),
}


def library(name):
    """The onnx library; ImportError, naming the function that needs it, says how to get it."""
    try:
        import onnx
    except ImportError as error:
        raise ImportError(f"nn.{name} needs onnx ({error}); pip install fastopt[onnx]") from None
    return onnx


def read_model(path):
    """The model of a file, an ``onnx.ModelProto`` whose external data has not been read; OSError or ValueError."""
    onnx = library("from_onnx")
    from google.protobuf.message import DecodeError

    path = Path(path)
    found = path.stat()
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise ValueError(f"{path}: expected a regular file, got a device or a pipe")
    if found.st_size > MOST_BYTES:
        raise ValueError(f"{path}: expected at most the 2 GB of an ONNX file, got {found.st_size} bytes")
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(f"{path}: expected an ONNX model, got a damaged or another file ({error})") from None
    if not model.HasField("graph") or not model.opset_import:
        raise ValueError(f"{path}: expected an ONNX model, got a file without a graph")
    return model


def dtype_of(number) -> np.dtype:
    """The NumPy dtype of a tensor's number; ValueError for types that fastopt does not compute with."""
    import onnx

    if number not in DTYPES:
        known = number in onnx.TensorProto.DataType.values()
        name = onnx.TensorProto.DataType.Name(number) if known else number
        raise ValueError(f"expected values of float32 or float64, got {name}; convert the model first")
    return np.dtype(DTYPES[number][0])


class Constants:
    """Arrays of a model by their names: initializers, Constant nodes, and what is computed of them.

    Parameters
    ----------
    folder : path-like
        Where external data lies.
    """

    def __init__(self, folder):
        self.folder = Path(os.path.realpath(folder))
        self._tensors, self._arrays = {}, {}
        self._room = 2**20  # bytes that may be taken: those in the files, twice, and some

    def __contains__(self, name):
        return name in self._tensors or name in self._arrays

    def add(self, name, constant) -> None:
        """Take a ``TensorProto``, which is read where it is needed, or an array."""
        (self._arrays if isinstance(constant, np.ndarray) else self._tensors)[name] = constant

    def __getitem__(self, name) -> np.ndarray:
        if name not in self._arrays:
            self._arrays[name] = self._read(self._tensors[name], name)
            self._room += 2 * self._arrays[name].nbytes
        return self._arrays[name]

    def spend(self, array) -> np.ndarray:
        """The array, if there is room for a copy: one initializer may be read by many nodes."""
        self._room -= array.nbytes
        if self._room < 0:
            raise ValueError("expected weights of its own, got initializers that many nodes share")
        return array

    def _read(self, tensor, name) -> np.ndarray:
        try:
            return self._array(tensor)
        except ValueError as error:
            raise ValueError(f"initializer {name!r}: {error}") from None

    def _array(self, tensor) -> np.ndarray:
        dtype, shape = dtype_of(tensor.data_type), tuple(tensor.dims[: MOST_AXES + 1])
        if len(shape) > MOST_AXES or min(shape, default=0) < 0 or tensor.HasField("segment"):
            raise ValueError(f"expected a whole tensor of sizes of at least 0, got {shape[:MOST_AXES]}")
        size = math.prod(shape)
        if tensor.data_location == tensor.EXTERNAL:
            content = self._external(tensor, size * dtype.itemsize)
        elif tensor.HasField("raw_data"):
            content = tensor.raw_data
        else:
            values = getattr(tensor, DTYPES[tensor.data_type][1])
            if len(values) != size:
                raise ValueError(f"expected {size} values for shape {shape}, got {len(values)}")
            return np.array(values, dtype).reshape(shape)
        if len(content) != size * dtype.itemsize:
            raise ValueError(f"expected {size * dtype.itemsize} bytes for {dtype} {shape}, got {len(content)}")
        return np.frombuffer(content, dtype).reshape(shape)

    def _external(self, tensor, size) -> bytes:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        path = Path(os.path.realpath(self.folder / location))
        inside = location and not os.path.isabs(location) and ".." not in Path(location).parts
        if not inside or not path.is_relative_to(self.folder):
            raise ValueError(f"expected external data in the folder of the model, got {location!r}")
        if not os.path.isfile(path):  # Path.is_file lets through that a name is too long
            raise ValueError(f"expected the file {location[:200]!r} beside the model, for its external data, got none")
        numbers = [entries.get(key, str(default)) for key, default in (("offset", 0), ("length", size))]
        if not all(number.isdecimal() and len(number) < 20 for number in numbers):
            raise ValueError(f"expected numbers as offset and length of external data, got {numbers}")
        offset, length = map(int, numbers)
        with path.open("rb") as stream:
            there = os.fstat(stream.fileno()).st_size
            if length != size or offset > there - size:
                got = f"{length} from {offset} on in a file of {there}"
                raise ValueError(f"expected {size} bytes of external data, got {got}")
            stream.seek(offset)
            return stream.read(size)
