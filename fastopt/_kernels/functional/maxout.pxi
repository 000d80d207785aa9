# Maxout of pieces that are there already.

def maxout(x, pieces=2, out=None):
    """The largest of every `pieces` neighboring columns.

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
        Wrong dtype, shape, layout or overlap, or pieces that do not divide; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> fo.functional.maxout(np.array([[1.0, 3.0, -2.0, -4.0]]))
    array([[ 3., -2.]])
    """
    cdef OneEntry c
    cdef int typenum = float_type("x", x)
    cdef Py_ssize_t n, columns, each = whole_number("pieces", pieces)
    x = as_input("x", x, typenum, (None, None))
    n, columns = cnp.PyArray_DIM(<cnp.ndarray>x, 0), cnp.PyArray_DIM(<cnp.ndarray>x, 1)
    if columns % each:
        raise ValueError(f"pieces: expected a divisor of the {columns} columns of x, got {pieces}")
    out = as_output("out", out, typenum, (n, columns // each))
    check_no_overlap(("out",), (out,), ("x",), (x,))
    if columns == 0:
        return out
    one_entry(&c, &maxout_kind, NULL, typenum, n, columns, columns // each)
    c.values[0], c.values[1] = data(x), data(out)
    with nogil:
        run_one(&c, 4 * n * columns)
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
    cdef OneEntry c
    cdef int typenum = float_type("dy", dy)
    cdef Py_ssize_t n, n_out, each = whole_number("pieces", pieces)
    dy = as_input("dy", dy, typenum, (None, None))
    n, n_out = cnp.PyArray_DIM(<cnp.ndarray>dy, 0), cnp.PyArray_DIM(<cnp.ndarray>dy, 1)
    x = as_input("x", x, typenum, (n, n_out * each))
    dx = as_output("dx", dx, typenum, (n, n_out * each))
    check_no_overlap(("dx",), (dx,), ("dy", "x"), (dy, x))
    if n_out == 0:
        return dx
    one_entry(&c, &maxout_kind, NULL, typenum, n, n_out * each, n_out)
    c.values[0], c.dvalues[0], c.dvalues[1], c.backward = data(x), data(dx), data(dy), True
    with nogil:
        run_one(&c, 4 * n * c.entry.n_in)
    return dx
