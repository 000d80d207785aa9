# Standardization by statistics in the dtype of x; that of the layer, whose statistics are float64, is layers/standardize.pxi.

cdef struct StandardizeCall:
    int typenum
    Py_ssize_t n, c
    void *x
    void *mean
    void *scale
    void *y


cdef void standardize_job(void* args, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # x (n, c), mean (c,), scale (c,) -> y (n, c)
    cdef StandardizeCall* a = <StandardizeCall*>args
    cdef floating* x = <floating*>a.x
    cdef floating* y = <floating*>a.y
    cdef floating* mean = <floating*>a.mean
    cdef floating* scale = <floating*>a.scale
    cdef Py_ssize_t i, j
    for i in range(chunk_start(a.n, 1, thread, n_threads), chunk_start(a.n, 1, thread + 1, n_threads)):
        for j in range(a.c):
            y[i * a.c + j] = (x[i * a.c + j] - mean[j]) * scale[j]


def standardize(x, mean, scale, out=None):
    """Center and scale columns, ``(x - mean) * scale``.

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
    >>> mean, inv_std = np.array([1.0, 4.0]), np.array([1.0, 0.5])
    >>> fo.functional.standardize(np.array([[1.0, 8.0]]), mean, inv_std)
    array([[0., 2.]])
    """
    cdef StandardizeCall a
    a.typenum = float_type("x", x)
    x = as_input("x", x, a.typenum, (None, None))
    a.n, a.c = x.shape[0], x.shape[1]
    mean, scale = as_input("mean", mean, a.typenum, (a.c,)), as_input("scale", scale, a.typenum, (a.c,))
    out = as_output("out", out, a.typenum, (a.n, a.c))
    check_no_overlap(("out",), (out,), ("x", "mean", "scale"), (None if data(out) == data(x) else x, mean, scale))
    if a.c == 0:        # any number of rows of nothing
        return out
    a.x, a.mean, a.scale, a.y = data(x), data(mean), data(scale), data(out)
    with nogil:
        run_typed(a.typenum, standardize_job[float], standardize_job[double], &a, threads_for(4 * a.n * a.c))
    return out
