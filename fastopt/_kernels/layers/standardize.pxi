# Standardization: y = (x - mean) * scale per column. The column statistics it needs are those of
# batch_norm.pxi.
#
# In a network mean and scale are float64 whatever the network's dtype, and the first entry reads x in the dtype that
# came, float32 or float64: a column far from zero beside its deviation keeps its digits.
# - float32 into float32 stays in float32, with the mean in two parts, (x - high) - low: where x is near
#   the mean, x - high is exact. Its layer keeps high, low and scale in float32 beside mean and scale.
# - Everything else, and a mean or scale outside the range of float32, is computed in float64 and rounded once.
# - Statistics of files written before were taken of data rounded to the network's dtype. With them x is rounded
#   to it first, and low is 0: such a network keeps its bits.

ctypedef fused given:           # the dtype of x, where that of y is `floating`
    float
    double

cdef enum:                      # how a network of float32 reads x
    READ_IN_FLOAT64
    READ_AS_IT_COMES            # float32 in float32, float64 in float64
    READ_ROUNDED


cdef void forward_standardize(const given* x, const double* mean, const double* scale, const float* split, int reading,
                              floating* y, Py_ssize_t n, Py_ssize_t c, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # x (n, c), mean, scale (c,), split (3, c): high, low and scale -> y (n, c)
    cdef bint in_float32 = reading == READ_ROUNDED or (reading == READ_AS_IT_COMES and sizeof(given) == sizeof(float))
    cdef Py_ssize_t i
    for i in range(share(n, 1, member, team), share(n, 1, member + 1, team)):
        if floating is float and in_float32:
            standardize_split_row(x + i * c, split, split + c, split + 2 * c, <float*>y + i * c, c)
        else:
            standardize_wide_row(x + i * c, mean, scale, y + i * c, c)


cdef inline void standardize_split_row(const given* x, const float* high, const float* low, const float* scale, float* y,
                                       Py_ssize_t c) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(c):
        y[j] = ((<float>x[j] - high[j]) - low[j]) * scale[j]


cdef inline void standardize_wide_row(const given* x, const double* mean, const double* scale, floating* y,
                                      Py_ssize_t c) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(c):
        y[j] = <floating>((<double>x[j] - mean[j]) * scale[j])


cdef inline void standardize_row(const floating* x, const floating* mean, const floating* scale, floating* y,
                                 Py_ssize_t c) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(c):
        y[j] = (x[j] - mean[j]) * scale[j]


cdef void backward_standardize(const floating* dy, const double* scale, floating* dx, Py_ssize_t n, Py_ssize_t c,
                               bint accumulate_dx, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # dy (n, c), scale (c,) -> dx (n, c) (+)= dy * scale
    cdef Py_ssize_t i, j
    for i in range(share(n, 1, member, team), share(n, 1, member + 1, team)):
        for j in range(c):
            dx[i * c + j] = (dx[i * c + j] if accumulate_dx else <floating>0) + dy[i * c + j] * <floating>scale[j]


# ---------------------------------------------------------------- entry points

cdef struct StandardizeCall:
    int typenum
    Py_ssize_t n, c
    void *x
    void *mean
    void *scale
    void *y


cdef void standardize_rows(StandardizeCall* a, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # x (n, c), mean (c,), scale (c,) -> y (n, c)
    cdef Py_ssize_t i
    for i in range(share(a.n, 1, member, team), share(a.n, 1, member + 1, team)):
        standardize_row(<floating*>a.x + i * a.c, <floating*>a.mean, <floating*>a.scale, <floating*>a.y + i * a.c, a.c)


cdef void standardize_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef StandardizeCall* a = <StandardizeCall*>args
    if a.typenum == cnp.NPY_FLOAT32:
        standardize_rows(a, <float*>NULL, member, team)
    else:
        standardize_rows(a, <double*>NULL, member, team)


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
    if a.c == 0:        # any number of rows of nothing
        return out
    a.x, a.mean, a.scale, a.y = data(x), data(mean), data(scale), data(out)
    with nogil:
        team_run(standardize_job, &a, team_for(4 * a.n * a.c))
    return out
