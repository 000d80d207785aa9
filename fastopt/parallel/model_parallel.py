"""Layers whose outputs are split over the model ranks of a Grid, and what these ranks exchange.

- Each rank computes its columns of the output, and all gather all of them. Backward takes the rank's own columns of
  the gradient; what it finds for the layer's input is one of as many terms as there are ranks, which are added up in
  rank order. So what follows and what stands before sees the same bits on all ranks of a group.
- In front of a `ShareRows` the ranks of a group divide the rows of their batch instead.
- Sums are those of all gathered terms: a group is a few ranks.
"""

import numpy as np

from fastopt.nn import initialization
from fastopt.nn.layers import BatchNorm, Dense, Layer, chain
from fastopt.nn.layers.dense import Product
from fastopt.parallel.communicator import wait
from fastopt.parallel.exchanges import Exchange
from fastopt.parallel.grid import Grid


class ColumnParallelDense(Dense):
    """A `Dense` layer of whose outputs each model rank of a grid computes and holds a part.

    ``activation(x @ weight.T + bias)`` of `Dense`, whose outputs, columns of ``x @ weight.T``, go to the ranks in
    order, in parts that differ by one column at most. All ranks get all outputs.

    Parameters
    ----------
    in_features, out_features : int
        Of the whole layer.
    grid : Grid
    activation, bias, init, l1, l2, max_norm
        As of `Dense`, but for the activation softmax and the inits orthogonal and sparse, which take the whole layer.

    Attributes
    ----------
    weight : ndarray, shape (columns of this rank, in)
        As many rows of the whole layer's weight; they start with the numbers that it starts with.
    bias : ndarray, shape (columns of this rank,), or None
    columns : slice
        Which of the outputs they are.

    Examples
    --------
    >>> import fastopt as fo
    >>> from fastopt.parallel import ColumnParallelDense, Grid
    >>> grid = Grid(model=1)
    >>> layers = [ColumnParallelDense(8, 4, grid, activation="relu"), fo.nn.Dense(4, 1)]
    >>> net = fo.nn.Sequential(layers, rng=0)
    >>> net.layers[0].columns
    slice(0, 4, None)
    """

    def __init__(
        self,
        in_features,
        out_features,
        grid,
        activation="identity",
        bias=True,
        init=None,
        l1=0.0,
        l2=0.0,
        max_norm=None,
    ):
        super().__init__(in_features, out_features, activation, bias, init, l1, l2, max_norm)
        if not isinstance(grid, Grid):
            raise TypeError(f"grid: expected a parallel.Grid, got {type(grid).__name__}")
        if activation == "softmax":
            raise ValueError("activation: expected one of each output by itself, got softmax; put it into the loss")
        if init not in (None, *initialization.BY_ROWS):
            raise ValueError(f"init: expected one of {', '.join(initialization.BY_ROWS)}, got {init!r}")
        if self.out_features < grid.model.size:
            raise ValueError(f"out_features: expected one for each of {grid.model.size} ranks, got {out_features}")
        self.grid, self.widths = grid, _shares(self.out_features, grid.model.size)
        first = sum(self.widths[: grid.model.rank])
        self.columns = slice(first, first + self.widths[grid.model.rank])

    def _rows(self):
        return self.columns.stop - self.columns.start

    def start(self, rng):
        whole, init = (self.out_features, self.in_features), self.init or self._default_init()
        initialization.fill_rows(self.weight, self.columns.start, whole, init, self.activation, rng)

    def penalty(self) -> float:
        """What the weights of this rank add to the loss."""
        if not (self.l1 or self.l2):
            return 0.0
        weight = self.weight.astype(np.float64)
        return float(self.l1 * np.abs(weight).sum() + self.l2 / 2 * np.square(weight).sum())

    def lay_out(self, layout, src):
        if self.grid.model.size == 1:
            return super().lay_out(layout, src)
        shape, source = layout.shapes[src], src
        if src != 0:
            source = layout.value(shape)
            layout.add("add", src, source, exchange=SumGradients(self.grid.model))
        part = layout.value((*shape[:-1], self._rows()))
        self._add("dense", layout, source, part)
        dst = layout.value((*shape[:-1], self.out_features))
        exchange = GatherColumns(self.grid.model, self.widths)
        layout.add("gather_columns", part, dst, first=self.columns.start, exchange=exchange)
        return dst

    def stored(self):
        return {name: Part(a) for name, a in self.arrays().items()}


class Part:
    """The columns that one rank has, where a file wants all of them: only `DataParallel.save` can write them."""

    def __init__(self, array):
        self.array = array

    def __array__(self, *options, **more):
        raise ValueError(
            "save: expected a network that this process holds whole, got one with a ColumnParallelDense; "
            "DataParallel.save writes all of it, and DataParallel.gather makes a plain network of it"
        )


def column_parallel(layers, grid) -> list[Layer]:
    """Layers in which every `Dense` of enough outputs is a `ColumnParallelDense` with its options.

    Parameters
    ----------
    layers : list of Layer
        Those inside other layers stay. A `Dense` that has arrays, of a network, gives each rank a copy of its part.
    grid : Grid

    Returns
    -------
    list of Layer

    Examples
    --------
    >>> import fastopt as fo
    >>> from fastopt.parallel import Grid, column_parallel
    >>> layers = [fo.nn.Dense(8, 4, activation="relu"), fo.nn.Dense(4, 1)]
    >>> layers = column_parallel(layers, Grid(model=1))
    >>> [type(layer).__name__ for layer in layers]
    ['ColumnParallelDense', 'ColumnParallelDense']
    """
    made = []
    for layer in chain.check(layers):
        if type(layer) is Dense and layer.out_features >= grid.model.size and layer.activation != "softmax":
            split = ColumnParallelDense(**layer.config(), grid=grid)
            split.start_with(**{name: a[split.columns] for name, a in layer.known_arrays().items()})
            layer = split
        made.append(layer)
    return made


def one_weird_trick(layers, grid) -> list[Layer]:
    """Layers before the first `Dense` data-parallel, and all `Dense` after them column-parallel (Krizhevsky 2014).

    A group of model ranks divides the rows of its batch among them for the layers before, which have most of the
    work; then all get the outputs of all rows, and divide the columns of the layers that have most of the weights.
    This is scheme (a) of the paper: the dense layers see the rows of all ranks of the group at once.

    Parameters
    ----------
    layers : list of Layer
        As of a `Sequential`, such as ``nn.models.alexnet_layers()``.
    grid : Grid

    Returns
    -------
    list of Layer

    Raises
    ------
    ValueError
        There is no `Dense`, or before the first one stands what cannot be divided so: `BatchNorm`, whose statistics
        are those of all rows, or a layer with l1 or l2, which each rank would count.

    Examples
    --------
    >>> import fastopt as fo
    >>> from fastopt.parallel import Grid, one_weird_trick
    >>> layers = one_weird_trick(fo.nn.models.alexnet_layers(10), Grid(model=1))
    >>> [type(layer).__name__ for layer in layers[9:12]]
    ['ShareRows', 'Dropout', 'ColumnParallelDense']
    """
    layers = chain.check(layers)
    first = next((i for i, layer in enumerate(layers) if isinstance(layer, Dense)), None)
    if first is None:
        raise ValueError("layers: expected a Dense among them, got none")
    while first > 0 and layers[first - 1].training_only:  # which drops the same on all ranks
        first -= 1
    require_rows_apart(layers[:first])
    return [*layers[:first], *([ShareRows(grid)] if first else []), *column_parallel(layers[first:], grid)]


def require_rows_apart(layers) -> None:
    """Raise ValueError where one of the layers before a ShareRows is not the same for some rows as for all."""
    for layer in chain.walk(layers):
        penalized = isinstance(layer, Product) and (layer.l1 or layer.l2)
        if penalized or isinstance(layer, BatchNorm | ColumnParallelDense):
            raise ValueError(
                "layers: expected no BatchNorm, no l1 or l2 and no ColumnParallelDense where ranks share the rows, "
                f"before the first Dense or ShareRows, got {layer!r}"
            )


class ShareRows(Layer):
    """Before it the model ranks of a grid compute some rows of their batch each, after it all rows.

    `one_weird_trick` puts it before the dense layers.

    Parameters
    ----------
    grid : Grid

    Examples
    --------
    >>> import fastopt as fo
    >>> from fastopt.parallel import ColumnParallelDense, Grid, ShareRows
    >>> grid = Grid(model=1)
    >>> layers = [fo.nn.Conv2d(1, 4, 3), fo.nn.Flatten(), ShareRows(grid)]
    >>> layers.append(ColumnParallelDense(144, 10, grid))
    >>> fo.nn.Sequential(layers, rng=0, input_shape=(8, 8, 1)).output_shape
    (10,)
    """

    def __init__(self, grid):
        if not isinstance(grid, Grid):
            raise TypeError(f"grid: expected a parallel.Grid, got {type(grid).__name__}")
        self.grid = grid

    def config(self):
        return {}

    def lay_out(self, layout, src):
        if self.grid.model.size == 1:
            return src
        dst = layout.value(layout.shapes[src])
        layout.add("add", src, dst, exchange=GatherRows(self.grid.model))
        return dst


def require_grid(trainer, grid) -> None:
    """Raise ValueError where layers are split over another grid than this, or none, or the optimizer cannot be."""
    split = [layer for layer in chain.walk(trainer.net.layers) if isinstance(layer, ColumnParallelDense | ShareRows)]
    for layer in split:
        if isinstance(layer, ShareRows) and layer not in trainer.net.layers:
            raise ValueError("layers: expected ShareRows among those of the network, got one inside another layer")
        if layer.grid is not grid:
            name = type(layer).__name__
            raise ValueError(f"comm: expected the Grid of the {name}, {layer.grid}, got {grid}; pass comm=grid")
    shares = [i for i, layer in enumerate(trainer.net.layers) if isinstance(layer, ShareRows)]
    if len(shares) > 1:
        raise ValueError("layers: expected one ShareRows, got several")
    for i in shares:
        require_rows_apart(trainer.net.layers[:i])
    if grid is None or grid.model.size == 1:
        return
    clips = trainer.optimizer.__getstate__(copy=False)["_shared"]["max_norm"] is not None
    if split and clips and trainer.optimizer.accumulate > 1:
        raise ValueError("max_norm: expected none where an optimizer accumulates and layers are split, got one")


# ---------------------------------------------------------------- exchanges


class SumGradients(Exchange):
    """Of an entry that copies: the gradient becomes the sum of all ranks' gradients, in rank order."""

    def __init__(self, comm):
        self.comm = comm

    def __repr__(self):
        return "a ColumnParallelDense"

    def reserve(self, parts, entry):
        values, _ = parts.values(entry)
        self.room(self.comm.size * values.size, values.dtype)

    def backward(self, parts, entry):
        _, gradient = parts.gradients(entry)
        if gradient is None or not gradient.size:
            return
        everyones = self.room(self.comm.size * gradient.size, gradient.dtype).reshape(-1, *gradient.shape)
        wait(self.comm.gather_all(gradient, everyones), n_bytes=everyones.nbytes)
        np.add(everyones[0], everyones[1], out=gradient)
        for theirs in everyones[2:]:
            gradient += theirs


class GatherColumns(Exchange):
    """Of an entry that has written this rank's columns: those of the others."""

    def __init__(self, comm, widths):
        self.comm, self.widths = comm, widths
        self.ends = np.cumsum(widths).tolist()

    __repr__ = SumGradients.__repr__

    def reserve(self, parts, entry):
        _, everyones = parts.values(entry)
        self.room(everyones.size, everyones.dtype)

    def forward(self, parts, entry):
        mine, everyones = parts.values(entry)
        if not mine.size:
            return
        each, room = everyones.size // self.ends[-1], self.room(everyones.size, everyones.dtype)
        sizes = [each * width for width in self.widths]
        starts = [each * end - size for end, size in zip(self.ends, sizes, strict=True)]
        theirs = [
            room[start : start + size].reshape(*mine.shape[:-1], -1) for start, size in zip(starts, sizes, strict=True)
        ]
        theirs[self.comm.rank][...] = mine
        wait(self.comm.gather_parts(room, sizes, starts), n_bytes=room.nbytes)
        for rank in self.comm.others:
            everyones[..., self.ends[rank] - self.widths[rank] : self.ends[rank]] = theirs[rank]


class GatherRows(Exchange):
    """Of an entry that has copied this rank's rows: those of the others."""

    def __init__(self, comm):
        self.comm = comm

    def __repr__(self):
        return "a ShareRows"

    def part(self, rows):
        shares = _shares(rows, self.comm.size)
        return sum(shares[: self.comm.rank]), shares[self.comm.rank]

    def reserve(self, parts, entry):
        _, values = parts.values(entry)
        self.room(values.size, values.dtype)

    def forward(self, parts, entry):
        _, values = parts.values(entry)
        if not values.size:
            return
        shares = _shares(len(values), self.comm.size)
        sizes = [values[0].size * share for share in shares]
        room = self.room(values.size, values.dtype)
        first, rows = self.part(len(values))
        room.reshape(values.shape)[first : first + rows] = values[first : first + rows]
        wait(self.comm.gather_parts(room, sizes, [0, *np.cumsum(sizes).tolist()[:-1]]), n_bytes=room.nbytes)
        values[...] = room.reshape(values.shape)


def _shares(n, ranks) -> list[int]:
    """n divided by the ranks, in numbers that differ by one at most."""
    return [n // ranks + (rank < n % ranks) for rank in range(ranks)]
