"""Files of a network whose layers are split over the ranks of a grid: those of the whole network.

- A file knows nothing of ranks: layers have their plain names, arrays are whole. So any grid reads it, and one process.
- No rank holds a whole array of a split layer. Rank 0 writes what the ranks of its group send, part after part; a
  reader takes its own rows.
"""

import numpy as np

from fastopt import _files
from fastopt.nn.layers import Dense
from fastopt.parallel.communicator import wait
from fastopt.parallel.model_parallel import ColumnParallelDense, Part, ShareRows

SPLIT, PLAIN, SHARE = ColumnParallelDense.__name__, Dense.__name__, ShareRows.__name__


class WholeFiles:
    """Writes and reads files in the place of `_files`; all ranks call each method.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    grid : Grid
    group : Group
    net : Sequential
    """

    def __init__(self, comm, grid, group, net):
        self.comm, self.grid, self.group, self.net = comm, grid, group, net
        self.share = next((i for i, layer in enumerate(net.layers) if isinstance(layer, ShareRows)), None)

    def write(self, path, arrays, document) -> None:
        """`_files.write` by rank 0, of what all ranks hold."""
        arrays = {name: a.array if isinstance(a, Part) else np.asarray(a, order="C") for name, a in arrays.items()}
        document = {**document, "layers": self._plain(document["layers"])}
        if self.comm.rank == 0:
            shapes = {self._renamed(name, -1): (self._whole_shape(name, a), a.dtype) for name, a in arrays.items()}
            _files.write_pieces(path, shapes, self._pieces(arrays), document)
        else:
            for _ in self._pieces(arrays):
                pass

    def _pieces(self, arrays):
        """The bytes of all arrays, part by part, on rank 0; the others send theirs."""
        model, mine = self.grid.model, self.grid.data.rank == 0
        for name, a in arrays.items():
            owner = self.group.owner(name)
            yield a.data.cast("B") if self.comm.rank == 0 and a.size else b""
            for rank in range(1, model.size if owner else 1):
                self.comm.tell("write a part")
                if mine and model.rank == 0:
                    part = np.empty((owner.widths[rank], *a.shape[1:]), a.dtype)
                    wait(model.receive(part, rank, 0), n_bytes=part.nbytes)
                    yield part.data.cast("B")
                elif mine and model.rank == rank:
                    wait(model.send(a, 0, 0), n_bytes=a.nbytes)

    def read(self, path, kind):
        """`_files.read`, of what this rank holds."""
        with _files.File(path, kind) as file:
            arrays = {}
            for name in file.stored:
                mine = self._renamed(name, 1)
                owner = self.group.owner(mine)
                rows = None
                if owner:
                    shape = file.stored[name].shape
                    if not shape or shape[0] != owner.out_features:
                        raise ValueError(f"{path}: {name}: expected {owner.out_features} rows, got shape {shape}")
                    rows = owner.columns
                arrays[mine] = file.array(name, rows)
            return arrays, {**file.document, "layers": self._split(file.document["layers"])}

    def _whole_shape(self, name, a) -> tuple[int, ...]:
        owner = self.group.owner(name)
        return (owner.out_features, *a.shape[1:]) if owner else a.shape

    def _renamed(self, name, step) -> str:
        """The name of an array in a file, which has no ShareRows, for that in the network, by a step of -1; or back."""
        parts = name.split(".")
        i = parts.index("layers") + 1 if "layers" in parts else len(parts)
        if self.share is not None and i < len(parts) and int(parts[i]) >= self.share + (step < 0):
            parts[i] = str(int(parts[i]) + step)
        return ".".join(parts)

    def _plain(self, layers) -> list:
        """Descriptions of the layers as those of the whole network."""
        return [_alike(layer, SPLIT, PLAIN) for layer in layers if layer["type"] != SHARE]

    def _split(self, layers):
        """Descriptions of a file as those of this network, as far as they are of the same layers."""
        own = self.net.describe()["layers"]
        if self.share is not None:
            layers = [*layers[: self.share], own[self.share], *layers[self.share :]]
        return _retyped(layers, own)


def _alike(described, before, after):
    """A description in which one type of layers, also of those inside others, is another."""
    if isinstance(described, list):
        return [_alike(one, before, after) for one in described]
    if isinstance(described, dict):
        return {name: _alike(value, before, after) for name, value in described.items()}
    return after if described == before else described


def _retyped(theirs, own):
    """A description in which a plain layer is split where our own is."""
    if isinstance(theirs, list) and isinstance(own, list) and len(theirs) == len(own):
        return [_retyped(*pair) for pair in zip(theirs, own, strict=True)]
    if isinstance(theirs, dict) and isinstance(own, dict):
        return {name: _retyped(value, own.get(name)) for name, value in theirs.items()}
    return SPLIT if (theirs, own) == (PLAIN, SPLIT) else theirs
