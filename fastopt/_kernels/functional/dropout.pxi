# Dropout of any array: a program of one row, whose elements are those of the array in C order.

cdef uint64_t key_number(str name, object a) except? 0:
    if isinstance(a, bool) or not hasattr(a, "__index__") or not 0 <= a < 2**64:
        raise ValueError(f"{name}: expected a whole number from 0 to 2**64 - 1, got {a!r}")
    return a.__index__()


def drop_rate(rate):
    """A rate of dropout as a float; ValueError unless it is in [0, 1)."""
    if isinstance(rate, bool) or not hasattr(rate, "__float__") or not 0 <= rate < 1:
        raise ValueError(f"rate: expected a number in [0, 1), the share to drop, got {rate!r}")
    return float(rate)


cdef object call_dropout(str name, object x, object rate, object seed, object step, str out_name, object out):
    # checks and runs dropout and dropout_backward: backward is forward on the gradient
    cdef OneEntry c
    cdef int typenum = float_type(name, x)
    cdef uint64_t key = key_number("seed", seed)
    cdef Dropout own = Dropout(drop_rate(rate), &key)
    cdef uint64_t number = key_number("step", step)
    x = as_input(name, x, typenum, x.shape)
    out = as_output(out_name, out, typenum, x.shape)
    check_no_overlap((out_name,), (out,), (name,), (None if data(out) == data(x) else x,))
    if x.size == 0:
        return out
    one_entry(&c, &dropout_kind, &own, typenum, 1, x.size, x.size)
    c.values[0], c.values[1], c.run.step = data(x), data(out), number
    with nogil:
        run_one(&c, 8 * c.entry.n_in)
    return out


def dropout(x, rate, seed, step=0, out=None):
    """Drop a random share of the elements and scale up the others (Srivastava et al. 2014).

    Parameters
    ----------
    x : ndarray, float32 or float64
    rate : float
        The probability of dropping an element, in [0, 1). Those kept are multiplied by
        ``1 / (1 - rate)``, so that the mean stays.
    seed, step : int
        From 0 to ``2**64 - 1``. They and an element's place, in C order, decide whether it is
        kept: the same ones drop the same elements, at any thread count and in either dtype.
    out : ndarray, shape of `x`, optional
        Overwritten with the result; may be `x` itself.

    Returns
    -------
    ndarray, shape of `x`
        `out` if given, else a new array. A dropped NaN or infinity is 0 as well.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap, or a rate outside [0, 1); nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> fo.functional.dropout(np.ones(8), rate=0.5, seed=0)
    array([2., 0., 0., 0., 2., 2., 2., 2.])
    """
    return call_dropout("x", x, rate, seed, step, "out", out)


def dropout_backward(dy, rate, seed, step=0, dx=None):
    """Gradient of `dropout`, given the gradient of its output: the same elements are dropped again.

    Parameters
    ----------
    dy : ndarray, float32 or float64
        Gradient with respect to the output.
    rate, seed, step
        As given to `dropout`.
    dx : ndarray, shape of `dy`, optional
        Overwritten with the gradient of `x`; may be `dy` itself.

    Returns
    -------
    ndarray, shape of `dy`
        `dx` if given, else a new array.

    Raises
    ------
    TypeError, ValueError
        As for `dropout`; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> fo.functional.dropout_backward(np.arange(8.0), rate=0.5, seed=0)
    array([ 0.,  0.,  0.,  0.,  8., 10., 12., 14.])
    """
    return call_dropout("dy", dy, rate, seed, step, "dx", dx)
