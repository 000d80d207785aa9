# Standardisation: y = (x - mean) * scale per column. The column statistics it needs are those of
# batch_norm.pxi.

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
