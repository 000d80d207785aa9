"""Grid: the ranks of a job in rows and columns, over which batches and layers are split."""

from fastopt._numbers import whole_number
from fastopt.parallel.communicator import Communicator


class Grid:
    """Ranks arranged for data and model parallelism: `data` groups, each of which holds the network once.

    The `model` ranks of a group see the same batch, and each holds some columns of every `ColumnParallelDense`. The
    ranks that hold the same columns, one of each group, see batches of their own and add their gradients up. What
    other layers have, every rank holds whole.

    Parameters
    ----------
    data : int, optional
        Groups; as many as the ranks make by default.
    model : int
        Ranks of a group: neighbors in the job, so that a launcher which fills machine after machine puts a group on
        one machine.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks; all of the job by default.

    Attributes
    ----------
    comm : Communicator
        All ranks.
    data, model : Communicator
        The ranks with this one's columns, and those of this one's group: ``grid.data.rank`` is the number of the
        group, ``grid.model.rank`` the number within it.

    Raises
    ------
    ValueError
        More or fewer ranks than ``data * model``, or ranks that ask for different grids; raised on all of them.

    Examples
    --------
    >>> from fastopt.parallel import Grid
    >>> grid = Grid(model=1)
    >>> grid.data.size == grid.comm.size
    True
    """

    def __init__(self, data=None, model=1, comm=None):
        self.comm = Communicator(comm)
        with self.comm.together("Grid"):
            size, model = self.comm.size, whole_number("model", model)
            if data is None and size % model:
                raise ValueError(f"model: expected a divisor of the {size} ranks, got {model}")
            data = size // model if data is None else whole_number("data", data)
            self.comm.agree("Grid", {"data": str(data), "model": str(model)})
            if data * model != size:
                raise ValueError(f"data, model: expected {size} ranks in all, got {data} * {model}; start as many")
            self.data = self.comm.split(self.comm.rank % model)
            self.model = self.comm.split(self.comm.rank // model)

    def __repr__(self):
        return f"Grid(data={self.data.size}, model={self.model.size})"

    def __deepcopy__(self, memo):
        return self  # of the same ranks

    def __reduce__(self):
        raise TypeError("Grid: expected to stay in its process, for it is of the ranks of a job; use DataParallel.save")
