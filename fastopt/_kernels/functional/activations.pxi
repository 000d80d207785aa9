# activation and exp: a function of every element.

cdef struct ActivationCall:
    int activation
    Py_ssize_t n, cols          # cols: of a row, for softmax
    void *x
    void *y


cdef void activation_job(void* args, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef ActivationCall* c = <ActivationCall*>args
    cdef floating* x = <floating*>c.x
    cdef floating* y = <floating*>c.y
    cdef Py_ssize_t grain = c.cols if c.activation == SOFTMAX else GRAIN
    cdef Py_ssize_t start = chunk_start(c.n, grain, thread, n_threads), stop = chunk_start(c.n, grain, thread + 1, n_threads)
    if start >= stop:
        return
    if c.activation == SOFTMAX:
        softmax_rows(x + start, y + start, (stop - start) // c.cols, c.cols)
    else:
        activate(c.activation, x + start, y + start, stop - start)


cdef object activated(int activation, int typenum, object x, object out):
    # an activation of a checked array
    cdef ActivationCall c
    out = as_output("out", out, typenum, x.shape)
    check_no_overlap(("out",), (out,), ("x",), (None if data(out) == data(x) else x,))
    c.activation, c.n, c.cols = activation, x.size, max(1, x.shape[x.ndim - 1] if x.ndim else 1)
    c.x, c.y = data(x), data(out)
    with nogil:
        run_typed(typenum, activation_job[float], activation_job[double], &c, threads_for(16 * c.n))
    return out


def activation(x, name, out=None):
    """An activation function of every element; softmax runs along the last axis.

    Parameters
    ----------
    x : ndarray, float32 or float64
        At least one dimension.
    name : str
        One of identity, relu, leaky_relu (slope 0.01), tanh, sigmoid, gelu (erf form), silu, softmax.
    out : ndarray, shape of `x`, optional
        Overwritten with the result; may be `x` itself.

    Returns
    -------
    ndarray, shape of `x`

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> fo.functional.activation(np.array([-1.0, 2.0]), "relu")
    array([0., 2.])
    """
    cdef int typenum = float_type("x", x)
    if x.ndim == 0:
        raise ValueError("x: expected at least one dimension, got none; pass x.reshape(1)")
    return activated(activation_code(name), typenum, as_input("x", x, typenum, x.shape), out)


def exp(x, out=None):
    """The exponential of every element, to 2 ULP.

    Parameters
    ----------
    x : ndarray, float32 or float64
    out : ndarray, shape of `x`, optional
        Overwritten with the result; may be `x` itself.

    Returns
    -------
    ndarray, shape of `x`

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> fo.functional.exp(np.array([0.0, -np.inf]))
    array([1., 0.])
    """
    cdef int typenum = float_type("x", x)
    return activated(EXP, typenum, as_input("x", x, typenum, x.shape), out)
