# Maxout: an output is the largest of its pieces, which lie side by side.
#
# - The pieces come from a dense layer of out * pieces outputs; this file has no weights.
# - Of equal pieces the first wins, and the first NaN wins against all: the winner is the
#   one that np.argmax names, and backward hands the gradient to it alone.
# - Rows do not matter: x (n, out * pieces) is read as (m, pieces), m = n * out.
# - Selects instead of branches, and two to four pieces as constants, so that the compiler's
#   vectoriser takes the loops; five it does not take. 32x256 outputs, µs, before and after: of
#   2 pieces forward 48 / 4.7, backward 86 / 7.3; of 4 pieces 160 / 5.6 and 198 / 12.

cdef inline floating larger(floating best, floating piece) noexcept nogil:
    # NaN is larger than every number
    best = piece if piece > best else best
    return piece if piece != piece else best


cdef void forward_maxout(const floating* x, floating* y, Py_ssize_t m, Py_ssize_t pieces,
                         Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # x (m, pieces) -> y (m,) = max over the pieces
    cdef Py_ssize_t start = share(m, GRAIN, member, team), n = share(m, GRAIN, member + 1, team) - start
    x, y = x + start * pieces, y + start
    if pieces == 2:
        maxout_values(x, y, n, 2)
    elif pieces == 3:
        maxout_values(x, y, n, 3)
    elif pieces == 4:
        maxout_values(x, y, n, 4)
    else:
        maxout_values(x, y, n, pieces)


cdef inline void maxout_values(const floating* x, floating* y, Py_ssize_t m, Py_ssize_t pieces) noexcept nogil:
    cdef Py_ssize_t i, p
    cdef floating best
    for i in range(m):
        best = x[i * pieces]
        for p in range(1, pieces):
            best = larger(best, x[i * pieces + p])
        y[i] = best


cdef void backward_maxout(const floating* dy, const floating* x, floating* dx, Py_ssize_t m, Py_ssize_t pieces,
                          bint accumulate_dx, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # dy (m,), x (m, pieces) -> dx (m, pieces) (+)= dy at the piece that won, 0 elsewhere
    cdef Py_ssize_t start = share(m, GRAIN, member, team), n = share(m, GRAIN, member + 1, team) - start
    dy, x, dx = dy + start, x + start * pieces, dx + start * pieces
    if pieces == 2 and not accumulate_dx:
        maxout_gradients(dy, x, dx, n, 2, False)
    elif pieces == 3 and not accumulate_dx:
        maxout_gradients(dy, x, dx, n, 3, False)
    elif pieces == 4 and not accumulate_dx:
        maxout_gradients(dy, x, dx, n, 4, False)
    else:
        maxout_gradients(dy, x, dx, n, pieces, accumulate_dx)


cdef inline void maxout_gradients(const floating* dy, const floating* x, floating* dx, Py_ssize_t m, Py_ssize_t pieces,
                                  bint accumulate_dx) noexcept nogil:
    cdef Py_ssize_t i, p
    cdef floating piece, best, winner, slope    # winner, an index, has the dtype of what it is selected beside
    for i in range(m):
        best = x[i * pieces]
        for p in range(1, pieces):
            best = larger(best, x[i * pieces + p])
        winner = 0
        for p in range(pieces - 1, -1, -1):     # the first comes last, and stays
            piece = x[i * pieces + p]
            winner = <floating>p if piece == best else winner
            winner = <floating>p if piece != piece else winner
        slope = dy[i]
        for p in range(pieces):
            if accumulate_dx:
                dx[i * pieces + p] += slope if winner == <floating>p else <floating>0
            else:
                dx[i * pieces + p] = slope if winner == <floating>p else <floating>0


cdef void tangent_maxout(const floating* x, const floating* tx, floating* ty, Py_ssize_t m, Py_ssize_t pieces,
                         Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # x, tx (m, pieces) -> ty (m,), the directional derivative: tx of the piece that won. Backward is linear, and its own
    cdef Py_ssize_t i, p
    cdef floating best, piece, change
    for i in range(share(m, GRAIN, member, team), share(m, GRAIN, member + 1, team)):
        best, change = x[i * pieces], tx[i * pieces]
        for p in range(1, pieces):
            piece = x[i * pieces + p]
            change = tx[i * pieces + p] if piece > best or (piece != piece and best == best) else change
            best = larger(best, piece)
        ty[i] = change


# ---------------------------------------------------------------- entry points

cdef struct MaxoutCall:
    int typenum
    Py_ssize_t m, pieces
    void *x
    void *y                     # dy in backward
    void *dx


cdef void maxout_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef MaxoutCall* c = <MaxoutCall*>args
    if c.typenum == cnp.NPY_FLOAT32:
        forward_maxout[float](<float*>c.x, <float*>c.y, c.m, c.pieces, member, team)
    else:
        forward_maxout[double](<double*>c.x, <double*>c.y, c.m, c.pieces, member, team)


cdef void maxout_backward_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef MaxoutCall* c = <MaxoutCall*>args
    if c.typenum == cnp.NPY_FLOAT32:
        backward_maxout[float](<float*>c.y, <float*>c.x, <float*>c.dx, c.m, c.pieces, False, member, team)
    else:
        backward_maxout[double](<double*>c.y, <double*>c.x, <double*>c.dx, c.m, c.pieces, False, member, team)


def maxout(x, pieces=2, out=None):
    """The largest of every `pieces` neighbouring columns.

    Parameters
    ----------
    x : ndarray, shape (n, out * pieces), float32 or float64
        NaN wins against every number.
    pieces : int
        A divisor of the number of columns.
    out : ndarray, shape (n, out), optional
        Overwritten with ``out[i, j] = max(x[i, j * pieces : (j + 1) * pieces])``.

    Returns
    -------
    ndarray, shape (n, out)
        `out` if given, else a new array.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap, or pieces that do not divide; nothing has been
        written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> fo.functional.maxout(np.array([[1.0, 3.0, -2.0, -4.0]]))
    array([[ 3., -2.]])
    """
    cdef MaxoutCall c
    c.typenum = float_type("x", x)
    x = as_input("x", x, c.typenum, (None, None))
    c.pieces = whole_number("pieces", pieces)
    n, columns = x.shape
    if columns % pieces:
        raise ValueError(f"pieces: expected a divisor of the {columns} columns of x, got {pieces}")
    out = as_output("out", out, c.typenum, (n, columns // pieces))
    check_apart(("out",), (out,), ("x",), (x,))
    c.m, c.x, c.y = out.size, data(x), data(out)
    with nogil:
        team_run(maxout_job, &c, team_for(4 * c.m * c.pieces))
    return out


def maxout_backward(dy, x, pieces=2, dx=None):
    """Gradient of `maxout`, given the gradient of its output.

    Parameters
    ----------
    dy : ndarray, shape (n, out), float32 or float64
        Gradient with respect to the output; not changed.
    x : ndarray, shape (n, out * pieces), dtype of `dy`
        As given to `maxout`.
    pieces : int
        As given to `maxout`.
    dx : ndarray, shape (n, out * pieces), optional
        Overwritten with the gradient of `x`: `dy` at the first of the largest pieces, 0 elsewhere.

    Returns
    -------
    ndarray, shape (n, out * pieces)
        `dx` if given, else a new array.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> x = np.array([[1.0, 3.0, -2.0, -4.0]])
    >>> fo.functional.maxout_backward(np.array([[5.0, 7.0]]), x)
    array([[0., 5., 7., 0.]])
    """
    cdef MaxoutCall c
    c.typenum = float_type("dy", dy)
    dy = as_input("dy", dy, c.typenum, (None, None))
    c.pieces = whole_number("pieces", pieces)
    n, n_out = dy.shape
    x = as_input("x", x, c.typenum, (n, n_out * pieces))
    dx = as_output("dx", dx, c.typenum, (n, n_out * pieces))
    check_apart(("dx",), (dx,), ("dy", "x"), (dy, x))
    c.m, c.x, c.y, c.dx = dy.size, data(x), data(dy), data(dx)
    with nogil:
        team_run(maxout_backward_job, &c, team_for(4 * c.m * c.pieces))
    return dx
