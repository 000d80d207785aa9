# Standardisation: y = (x - mean) * scale per column, and the column statistics it needs.
#
# - Statistics in float64 whatever the data's dtype, two passes (mean, then squared
#   deviations from it): float32 data with a large mean loses no digits.
# - A member owns columns, so every column is summed in row order.

cdef void forward_standardize(const floating* x, const floating* mean, const floating* scale, floating* y,
                              Py_ssize_t n, Py_ssize_t c, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # x (n, c), mean (c,), scale (c,) -> y (n, c)
    cdef Py_ssize_t i
    for i in range(share(n, 1, member, team), share(n, 1, member + 1, team)):
        standardize_row(x + i * c, mean, scale, y + i * c, c)


cdef inline void standardize_row(const floating* x, const floating* mean, const floating* scale, floating* y,
                                 Py_ssize_t c) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(c):
        y[j] = (x[j] - mean[j]) * scale[j]


cdef void backward_standardize(const floating* dy, const floating* scale, floating* dx, Py_ssize_t n, Py_ssize_t c,
                               bint accumulate_dx, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # dy (n, c), scale (c,) -> dx (n, c) (+)= dy * scale
    cdef Py_ssize_t i, j
    for i in range(share(n, 1, member, team), share(n, 1, member + 1, team)):
        for j in range(c):
            dx[i * c + j] = (dx[i * c + j] if accumulate_dx else <floating>0) + dy[i * c + j] * scale[j]


cdef void column_statistics(const floating* x, double* mean, double* var, Py_ssize_t n, Py_ssize_t c,
                            Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # x (n, c) -> mean (c,), population variance (c,)
    cdef Py_ssize_t i, j, c0 = share(c, 16, member, team), c1 = share(c, 16, member + 1, team)
    cdef double deviation
    for j in range(c0, c1):
        mean[j] = var[j] = 0
    for i in range(n):
        for j in range(c0, c1):
            mean[j] += <double>x[i * c + j]
    for j in range(c0, c1):
        mean[j] /= n
    for i in range(n):
        for j in range(c0, c1):
            deviation = <double>x[i * c + j] - mean[j]
            var[j] += deviation * deviation
    for j in range(c0, c1):
        var[j] /= n


# ---------------------------------------------------------------- entry points

cdef struct StandardizeCall:
    int typenum
    Py_ssize_t n, c
    void *x
    void *mean
    void *scale
    void *y


cdef void standardize_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef StandardizeCall* a = <StandardizeCall*>args
    if a.typenum == cnp.NPY_FLOAT32:
        forward_standardize[float](<float*>a.x, <float*>a.mean, <float*>a.scale, <float*>a.y, a.n, a.c, member, team)
    else:
        forward_standardize[double](<double*>a.x, <double*>a.mean, <double*>a.scale, <double*>a.y, a.n, a.c, member, team)


cdef void statistics_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef StandardizeCall* a = <StandardizeCall*>args
    if a.typenum == cnp.NPY_FLOAT32:
        column_statistics[float](<float*>a.x, <double*>a.mean, <double*>a.y, a.n, a.c, member, team)
    else:
        column_statistics[double](<double*>a.x, <double*>a.mean, <double*>a.y, a.n, a.c, member, team)


def standardize(x, mean, scale, out=None):
    """Centre and scale columns, ``(x - mean) * scale``.

    Parameters
    ----------
    x : ndarray, shape (n, c), float32 or float64
    mean, scale : ndarray, shape (c,), dtype of `x`
        `scale` is usually one over the standard deviation.
    out : ndarray, shape (n, c), optional
        Overwritten with the result; may be `x` itself.

    Returns
    -------
    ndarray, shape (n, c)

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> fo.functional.standardize(np.array([[1.0, 8.0]]), np.array([1.0, 4.0]), np.array([1.0, 0.5]))
    array([[0., 2.]])
    """
    cdef StandardizeCall a
    a.typenum = float_type("x", x)
    x = as_input("x", x, a.typenum, (None, None))
    a.n, a.c = x.shape[0], x.shape[1]
    mean, scale = as_input("mean", mean, a.typenum, (a.c,)), as_input("scale", scale, a.typenum, (a.c,))
    out = as_output("out", out, a.typenum, (a.n, a.c))
    check_apart(("out",), (out,), ("x", "mean", "scale"), (None if data(out) == data(x) else x, mean, scale))
    a.x, a.mean, a.scale, a.y = data(x), data(mean), data(scale), data(out)
    with nogil:
        team_run(standardize_job, &a, team_for(4 * a.n * a.c))
    return out


def batch_statistics(x):
    """Mean and population variance of every column.

    Parameters
    ----------
    x : ndarray, shape (n, c), float32 or float64
        At least one row.

    Returns
    -------
    mean, var : ndarray, shape (c,), dtype of `x`
        Accumulated in float64.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shape, or no rows.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> fo.functional.batch_statistics(np.array([[1.0, 5.0], [3.0, 5.0]]))
    (array([2., 5.]), array([1., 0.]))
    """
    cdef StandardizeCall a
    a.typenum = float_type("x", x)
    x = as_input("x", x, a.typenum, (None, None))
    a.n, a.c = x.shape[0], x.shape[1]
    if a.n == 0:
        raise ValueError("x: expected at least one row, got none")
    mean, var = np.empty(a.c), np.empty(a.c)
    a.x, a.mean, a.y = data(x), data(mean), data(var)
    with nogil:
        team_run(statistics_job, &a, team_for(4 * a.n * a.c))
    return mean.astype(x.dtype, copy=False), var.astype(x.dtype, copy=False)
