"""Arrays that end or begin at an inaccessible page: a read or write beyond them ends the process.

An array that ends at a page has every misalignment modulo 64 that its size gives it;
one that begins at a page starts a cache line.
"""

import ctypes
import mmap

import numpy as np

PAGE = mmap.PAGESIZE
PROT_NONE = 0


def _pages(size):
    """Readable pages for `size` bytes between two inaccessible ones, and where they begin and end."""
    inside = max(1, -(-size // PAGE)) * PAGE
    block = mmap.mmap(-1, inside + 2 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(block))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for page in (address, address + PAGE + inside):
        if protect(page, PAGE, PROT_NONE) != 0:
            raise OSError(ctypes.get_errno(), "mprotect failed")
    return block, PAGE, PAGE + inside


def _place(array, block, offset):
    array = np.asarray(array)
    guarded = np.frombuffer(block, array.dtype, array.size, offset).reshape(array.shape)
    guarded[...] = array
    return guarded


def ending(array):
    """A copy whose last byte stands before an inaccessible page."""
    block, _, stop = _pages(np.asarray(array).nbytes)
    return _place(array, block, stop - np.asarray(array).nbytes)


def beginning(array):
    """A copy whose first byte stands behind an inaccessible page."""
    block, start, _ = _pages(np.asarray(array).nbytes)
    return _place(array, block, start)
