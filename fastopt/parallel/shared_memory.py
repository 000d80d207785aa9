"""Arrays of all ranks in memory that all of them see, where they are on one machine: windows of MPI.

To give a window back all ranks would have to meet, at a moment that Python's garbage collection does not know. So
windows are kept, and used again as soon as no rank has an array in them.
"""

import os
import weakref

import numpy as np

from fastopt import _arrays

PAGE = 4096  # bytes to which memory of a rank is rounded up
FILES = "/dev/shm"  # where MPI keeps shared memory; touching more than there is ends a process
MOST = 50  # windows that are looked at: a round tells which are free by the bits of one number


class SharedArrays:
    """A flat array of zeros of each rank.

    Attributes
    ----------
    everyones : list of ndarray
        By rank.
    own : ndarray
        This rank's.
    """

    def __init__(self, window, comm, n, dtype):
        memory = window.lend()
        step = window.n_bytes // np.dtype(dtype).itemsize
        whole = np.asarray(memory).view(dtype).reshape(comm.size, step)
        self.everyones = [whole[rank, :n] for rank in range(comm.size)]
        self.own = self.everyones[comm.rank]
        self.own[:] = 0
        self.sync = window.sync


def shared_arrays(comm, n, dtype) -> SharedArrays | None:
    """SharedArrays of length n, if all ranks are on one machine, and there are several, with memory for them."""
    if comm.size == 1 or comm.node_size < comm.size:
        return None
    n_bytes = -(-n * np.dtype(dtype).itemsize // PAGE) * PAGE
    free = sum(1 << k for k, window in enumerate(comm.windows[:MOST]) if window.n_bytes >= n_bytes and window.is_free())
    told = comm.tell("share memory", n_bytes, free, _room())
    on_all = np.bitwise_and.reduce(told[:, 1].astype(np.int64))
    if on_all:
        window = comm.windows[int(on_all & -on_all).bit_length() - 1]
    elif told[0, 2] < comm.size * n_bytes:
        return None
    else:
        window = _Window(comm, n_bytes)
        comm.windows.append(window)
    return SharedArrays(window, comm, n, dtype)


def share_gradient(comm, training) -> SharedArrays | None:
    """Put the gradients of a compiled training into memory that all ranks see, if there is such memory."""
    shared = shared_arrays(comm, training.gradient.size, training.gradient.dtype)
    if shared is not None:
        training.hold_gradient(shared.own)
        _SHARING.add(training)
    return shared


_SHARING: weakref.WeakSet = weakref.WeakSet()  # trainings


def _part_from_parent() -> None:
    """In a forked child, which would share the gradients with its parent: those of its own steps go elsewhere."""
    for training in list(_SHARING):
        training.hold_gradient(_arrays.aligned_zeros(training.gradient.shape, training.gradient.dtype))


os.register_at_fork(after_in_child=_part_from_parent)


def _room() -> int:
    """Bytes that shared memory has left."""
    try:
        found = os.statvfs(FILES)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


class _Window:
    def __init__(self, comm, n_bytes):
        self.n_bytes, self.size = n_bytes, comm.size
        self.window, self.lent = comm.new_window(n_bytes), None
        self.sync = self.window.Sync

    def is_free(self):
        return self.lent is None or self.lent() is None

    def lend(self):
        """The memory of all ranks, one after the other; lent as long as an array is in it."""
        start, _ = self.window.Shared_query(0)
        memory = _Memory(start.address, self.size * self.n_bytes)
        self.lent = weakref.ref(memory)
        return memory


class _Memory:
    """Memory at an address, for `numpy.asarray`, whose array keeps this object."""

    def __init__(self, address, n_bytes):
        self.__array_interface__ = {"data": (address, False), "shape": (n_bytes,), "typestr": "|u1", "version": 3}
