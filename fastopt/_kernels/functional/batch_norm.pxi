# Column statistics, and batch normalization forward, in inference and backward.

cdef struct StatisticsCall:
    int typenum
    Py_ssize_t n, c, size       # size: elements of a channel in one image, 1 of rows
    Py_ssize_t correction
    void *x
    void *mean
    void *var


cdef void statistics_job(void* args, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # x (n, c) or (n, c, size) -> mean, var (c,); a thread owns columns
    cdef StatisticsCall* a = <StatisticsCall*>args
    cdef double middle[COLUMN_BLOCK]
    cdef double m2[COLUMN_BLOCK]
    cdef int power[COLUMN_BLOCK]
    cdef Py_ssize_t j, cols, c0 = chunk_start(a.c, COLUMN_GRAIN, thread, n_threads)
    cdef Py_ssize_t c1 = chunk_start(a.c, COLUMN_GRAIN, thread + 1, n_threads)
    cdef double divisor = <double>(a.n * a.size - a.correction)
    cdef Rows x = matrix(a.x, a.c)
    while c0 < c1:
        cols = min(<Py_ssize_t>COLUMN_BLOCK, c1 - c0)
        if a.size == 1:
            column_statistics(&x, c0, cols, a.n, min_variance(dtype), middle, m2, power, dtype)
        else:
            for j in range(cols):
                channel_statistics(<floating*>a.x + (c0 + j) * a.size, a.n, a.c * a.size, a.size, &middle[j], &m2[j], &power[j])
        for j in range(cols):
            (<floating*>a.mean)[c0 + j] = <floating>middle[j]
            (<floating*>a.var)[c0 + j] = <floating>variance(m2[j], divisor, power[j])
        c0 += cols


def batch_statistics(x, correction=0):
    """Mean and variance of every column, or of every channel of images, in one pass.

    Parameters
    ----------
    x : ndarray, shape (n, c) or (n, c, h, w), float32 or float64
        Rows, or images whose channels are taken over all images, rows and columns.
    correction : int
        Subtracted from the number of elements that the sum of squares is divided by: 0 for the
        variance of a population, 1 for the unbiased one of a sample.

    Returns
    -------
    mean, var : ndarray, shape (c,), dtype of `x`
        Of float32 to six digits, however far the mean is from zero, and wherever the dtype holds them. A variance it
        does not hold is infinite or 0.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shape, or no more elements than `correction`.

    References
    ----------
    Chan, Golub & LeVeque 1983, Algorithms for computing the sample variance.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> x = np.array([[1.0, 5.0], [3.0, 5.0]])
    >>> fo.functional.batch_statistics(x)
    (array([2., 5.]), array([1., 0.]))
    >>> fo.functional.batch_statistics(x, correction=1)
    (array([2., 5.]), array([2., 0.]))
    """
    cdef StatisticsCall a
    a.typenum = float_type("x", x)
    if x.ndim == 4:
        x = as_input("x", x, a.typenum, (None, None, None, None))
        a.size = cnp.PyArray_DIM(<cnp.ndarray>x, 2) * cnp.PyArray_DIM(<cnp.ndarray>x, 3)
    else:
        x = as_input("x", x, a.typenum, (None, None))
        a.size = 1
    a.n, a.c = cnp.PyArray_DIM(<cnp.ndarray>x, 0), cnp.PyArray_DIM(<cnp.ndarray>x, 1)
    a.correction = correction if type(correction) is int and correction >= 0 else _numbers.whole_number("correction", correction, 0)
    if a.n == 0:
        raise ValueError("x: expected at least one row, got none")
    if a.n * a.size <= a.correction:
        raise ValueError(f"x: expected more than {correction} elements a column for this correction, got {a.n * a.size}")
    mean, var = new_array(a.typenum, a.c), new_array(a.typenum, a.c)
    a.x, a.mean, a.var = data(x), data(mean), data(var)
    with nogil:
        run_typed(a.typenum, statistics_job[float], statistics_job[double], &a, threads_for(4 * a.n * a.c * a.size))
    return mean, var


cdef inline int check_two_rows(Py_ssize_t n) except -1:
    if n < 2:
        raise ValueError(f"x: expected at least two rows to take batch statistics of, got {n}; "
                         "normalize by given statistics with batch_norm_inference")
    return 0


cdef tuple call_batch_norm(object x, object gamma, object beta, tuple given, object eps, object out, object activation, object z):
    # checks and runs batch_norm and batch_norm_inference; given: the mean and variance of the latter, None for the batch's
    cdef OneEntry one
    cdef BatchNorm own
    cdef int typenum = float_type("x", x), code
    cdef Py_ssize_t n, c
    x = as_input("x", x, typenum, (None, None))
    n, c = cnp.PyArray_DIM(<cnp.ndarray>x, 0), cnp.PyArray_DIM(<cnp.ndarray>x, 1)
    gamma, beta = optional_input("gamma", gamma, typenum, (c,)), optional_input("beta", beta, typenum, (c,))
    mean = var = None
    if given is not None:
        mean, var = as_input("mean", given[0], typenum, (c,)), as_input("var", given[1], typenum, (c,))
    own = BatchNorm(positive_number("eps", eps), 0, data_or_null(gamma), data_or_null(beta), data_or_null(mean), data_or_null(var))
    code = activation_code(activation)
    if given is None:
        check_two_rows(n)
    out, z = as_output("out", out, typenum, (n, c)), optional_output("z", z, typenum, (n, c))
    check_no_overlap(("out", "z"), (out, z), ("x", "gamma", "beta", "mean", "var"),
                     (None if given is not None and data(out) == data(x) else x, gamma, beta, mean, var))
    one_entry(&one, &batch_norm_kind, &own, typenum, n, c, c)
    one.entry.activation, one.values[0], one.values[1], one.z = code, data(x), data(out), data_or_null(z)
    if given is None:
        statistics = new_array(typenum, 5 * c)        # as forward saves them
        one.run.training, one.saved = True, data(statistics)
    with nogil:
        run_one(&one, (8 if one.run.training else 4) * n * c)
    if given is None:
        mean, var = new_array(typenum, c), new_array(typenum, c)
        memcpy(data(mean), one.saved, cnp.PyArray_NBYTES(<cnp.ndarray>mean))
        memcpy(data(var), <char*>one.saved + cnp.PyArray_NBYTES(<cnp.ndarray>mean), cnp.PyArray_NBYTES(<cnp.ndarray>var))
    return out, mean, var


def batch_norm(x, gamma=None, beta=None, eps=1e-5, out=None, *, activation="identity", z=None):
    """Batch normalization by the statistics of the batch, as in training.

    ``activation(gamma * (x - mean) / sqrt(var + eps) + beta)``

    Parameters
    ----------
    x : ndarray, shape (n, c), float32 or float64
        At least two rows.
    gamma, beta : ndarray, shape (c,), dtype of `x`, optional
        Scale and shift; ones and zeros if not given.
    eps : float
        Added to the variance, inside the root.
    out : ndarray, shape (n, c), optional
        Overwritten with the result.
    activation : str
        One of identity, relu, leaky_relu (slope 0.01), tanh, sigmoid, gelu (erf form), silu, softmax.
    z : ndarray, shape (n, c), optional
        Overwritten with the preactivation, what the activation is taken of.

    Returns
    -------
    y : ndarray, shape (n, c)
        `out` if given, else a new array.
    mean, var : ndarray, shape (c,)
        Of the batch; the population variance. It may be infinite in the dtype where y is not, as for columns of float32
        that deviate by more than 1e19.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap, or fewer than two rows; nothing has been written then.

    References
    ----------
    Ioffe & Szegedy 2015, Batch normalization.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> y, mean, var = fo.functional.batch_norm(np.array([[1.0, 8.0], [3.0, 2.0]]))
    >>> y.round(2)
    array([[-1.,  1.],
           [ 1., -1.]])
    >>> mean, var
    (array([2., 5.]), array([1., 9.]))
    """
    return call_batch_norm(x, gamma, beta, None, eps, out, activation, z)


def batch_norm_inference(x, gamma, beta, mean, var, eps=1e-5, out=None, *, activation="identity"):
    """Batch normalization by given statistics.

    ``activation(gamma * (x - mean) / sqrt(var + eps) + beta)``

    Parameters
    ----------
    x : ndarray, shape (n, c), float32 or float64
    gamma, beta, eps, activation
        As for `batch_norm`.
    mean, var : ndarray, shape (c,), dtype of `x`
    out : ndarray, shape (n, c), optional
        Overwritten with the result; may be `x` itself.

    Returns
    -------
    ndarray, shape (n, c)
        `out` if given, else a new array.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> x, mean, var = np.array([[1.0, 8.0]]), np.array([0.0, 5.0]), np.array([1.0, 9.0])
    >>> fo.functional.batch_norm_inference(x, None, None, mean, var).round(2)
    array([[1., 1.]])
    """
    return call_batch_norm(x, gamma, beta, (mean, var), eps, out, activation, None)[0]


def batch_norm_backward(dy, x, gamma, mean, var, eps=1e-5, dx=None, dgamma=None, dbeta=None, *,
                        activation="identity", z=None, y=None):
    """Gradients of `batch_norm`, given the gradient of its output.

    Parameters
    ----------
    dy : ndarray, shape (n, c), float32 or float64
        Gradient with respect to the output; not changed.
    x, gamma, eps, activation
        As given to `batch_norm`.
    mean, var : ndarray, shape (c,), dtype of `dy`
        As returned by `batch_norm`.
    dx, dgamma, dbeta : ndarray, optional
        Overwritten with the gradients of `x` (n, c), `gamma` (c,) and `beta` (c,); made if not given.
    z : ndarray, shape (n, c), optional
        What `batch_norm` stored as `z`.
    y : ndarray, shape (n, c), optional
        The output, which may be given instead of `z` (and saves recomputing it) for every
        activation except gelu and silu.

    Returns
    -------
    dx : ndarray, shape (n, c)
    dgamma, dbeta : ndarray, shape (c,)

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap, or fewer than two rows; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> x, gamma = np.array([[0.0], [0.0], [3.0]]), np.array([2.0])
    >>> y, mean, var = fo.functional.batch_norm(x, gamma)
    >>> dy = np.array([[1.0], [0.0], [0.0]])
    >>> dx, dgamma, dbeta = fo.functional.batch_norm_backward(dy, x, gamma, mean, var)
    >>> (dx[:2] / dx[0]).round(2).ravel(), dgamma.round(2), dbeta
    (array([ 1., -1.]), array([-0.71]), array([1.]))
    """
    cdef OneEntry one
    cdef BatchNorm own
    cdef int typenum = float_type("dy", dy), code
    cdef Py_ssize_t n, c
    dy = as_input("dy", dy, typenum, (None, None))
    n, c = cnp.PyArray_DIM(<cnp.ndarray>dy, 0), cnp.PyArray_DIM(<cnp.ndarray>dy, 1)
    x = as_input("x", x, typenum, (n, c))
    gamma = optional_input("gamma", gamma, typenum, (c,))
    mean, var = as_input("mean", mean, typenum, (c,)), as_input("var", var, typenum, (c,))
    own = BatchNorm(positive_number("eps", eps), 0, data_or_null(gamma), NULL, NULL, NULL)
    code = activation_code(activation)
    check_two_rows(n)
    v = derivative_argument(code, typenum, z, y, (n, c))
    dx = as_output("dx", dx, typenum, (n, c))
    dgamma = new_array(typenum, c) if dgamma is None else as_output("dgamma", dgamma, typenum, (c,))
    dbeta = new_array(typenum, c) if dbeta is None else as_output("dbeta", dbeta, typenum, (c,))
    check_no_overlap(("dx", "dgamma", "dbeta"), (dx, dgamma, dbeta),
                     ("dy", "x", "gamma", "mean", "var", "z"), (dy, x, gamma, mean, var, v))
    dz = dy if code == IDENTITY else np.empty_like(dy)
    statistics = new_array(typenum, 5 * c)        # as forward saves them
    memcpy(data(statistics), data(mean), cnp.PyArray_NBYTES(<cnp.ndarray>mean))
    memcpy(<char*>data(statistics) + cnp.PyArray_NBYTES(<cnp.ndarray>mean), data(var), cnp.PyArray_NBYTES(<cnp.ndarray>var))
    one_entry(&one, &batch_norm_kind, &own, typenum, n, c, c)
    one.entry.activation, one.entry.n_weights, one.backward = code, MAX_WEIGHTS, True
    one.entry.weights[1].grad = 1
    one.values[0], one.values[1], one.saved = data(x), data(dy if v is None else v), data(statistics)
    one.dvalues[0], one.dvalues[1], one.run.dy = data(dx), data(dz), data(dy)
    one.dparams[0], one.dparams[1] = data(dgamma), data(dbeta)
    with nogil:
        run_one(&one, 12 * n * c)
    return dx, dgamma, dbeta
