"""How the gradient of a network, one flat array, is cut into what ranks send; without MPI, so that plans know it too.

- A bucket holds the gradients of some layers side by side, and is summed while backward goes on with those before.
- A bucket goes in pieces, of which each rank adds up a slice; of a short bucket each rank adds up all.
"""

BUCKET = 1 << 20  # bytes of a bucket, at least: a message of so many costs little more than its bytes
PIECE = 1 << 22  # bytes of a piece, at most
SHORT = 12 << 10  # bytes that a rank receives, up to which one trip is faster: 1 000 floats, 2 ranks, 7.5 us against 10


def segments(starts, size, itemsize, cut=0, least: float = BUCKET) -> list[tuple[int, int, int, int]]:
    """Entries [first, stop) whose gradients are summed together, from the last on, and where these lie, [start, end).

    `starts` are where the gradients of the entries start among `size` elements. Those before entry `cut` and those
    from it on are summed apart; a bucket of either has at least so many bytes, but for the last one.
    """
    found, stop, end = [], len(starts), size
    for first in range(len(starts) - 1, -1, -1):
        if first in (0, cut) or (end - starts[first]) * itemsize >= least:
            found.append((first, stop, starts[first], end))
            stop, end = first, starts[first]
    return found


def is_short(n_bytes, ranks) -> bool:
    """Whether every rank gets the whole bucket of every other."""
    return n_bytes * (ranks - 1) <= SHORT


def n_pieces(n_bytes) -> int:
    """How many pieces a bucket is cut into."""
    return -(-n_bytes // PIECE)


def size_of_part(n, parts, part) -> int:
    """Elements of one of several parts of n; the first ones are larger by one, as `numpy.array_split` cuts."""
    return n // parts + (part < n % parts)
