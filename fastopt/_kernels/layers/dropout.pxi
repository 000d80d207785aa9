# Dropout: y = x / (1 - rate) where an element is kept, 0 where it is dropped.
#
# - No mask is stored: whether element i is kept is a function of (seed, step, i), so backward
#   is forward on the gradient, and neither the team nor the dtype changes a decision.
# - Every KEY_BLOCK elements get a key of 64 bits from splitmix64 (Steele et al. 2014). Within
#   them a Weyl sequence, which the compiler advances by one addition for a whole vector, is
#   hashed by the two multiplications of lowbias32 (Wellons 2018); half of the key starts the
#   sequence, the other enters between the multiplications: two keys never give shifted copies.
# - 32-bit integers only, which every level multiplies in vectors. 1 000 000 float32, µs, v2 /
#   v3 / v4: 390 / 340 / 330, where copying them takes 290; a third multiplication: 480 at v2.

cdef enum:
    KEY_BLOCK = 65536


cdef inline uint64_t scramble(uint64_t z) noexcept nogil:
    # splitmix64
    z += 0x9e3779b97f4a7c15ULL
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL
    return z ^ (z >> 31)


cdef inline uint32_t draw(uint32_t counter, uint32_t key) noexcept nogil:
    # a uniform number of 32 bits; its high bits are the best
    counter = (counter ^ (counter >> 16)) * <uint32_t>0x7feb352d ^ key
    return (counter ^ (counter >> 15)) * <uint32_t>0x846ca68b


cdef void forward_dropout(const floating* x, floating* y, Py_ssize_t n, double rate, uint64_t seed, uint64_t step,
                          bint accumulate, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # x (n,) -> y (n,) (+)= x / (1 - rate) or 0; y may be x
    cdef Py_ssize_t start = share(n, GRAIN, member, team), stop = share(n, GRAIN, member + 1, team), end
    cdef uint64_t stream = scramble(scramble(seed) + step)
    cdef floating scale = <floating>(1.0 / (1.0 - rate))
    cdef uint32_t limit = <uint32_t>(rate * 4294967296.0)      # a draw below it drops
    while start < stop:
        end = min(stop, (start // KEY_BLOCK + 1) * KEY_BLOCK)
        if accumulate:
            dropout_values(x + start, y + start, end - start, scale, limit, scramble(stream + start // KEY_BLOCK), start % KEY_BLOCK, True)
        else:
            dropout_values(x + start, y + start, end - start, scale, limit, scramble(stream + start // KEY_BLOCK), start % KEY_BLOCK, False)
        start = end


cdef inline void dropout_values(const floating* x, floating* y, Py_ssize_t n, floating scale, uint32_t limit,
                                uint64_t key, uint32_t first, bint accumulate) noexcept nogil:
    # elements first to first + n of a block
    cdef uint32_t weyl = <uint32_t>0x9e3779b9, counter = <uint32_t>key + first * weyl, inner = <uint32_t>(key >> 32)
    cdef Py_ssize_t i
    cdef floating kept
    for i in range(n):
        kept = x[i] * scale
        kept = <floating>0 if draw(counter, inner) < limit else kept
        y[i] = y[i] + kept if accumulate else kept
        counter += weyl


# ---------------------------------------------------------------- entry points

cdef struct DropoutCall:
    int typenum
    Py_ssize_t n
    double rate
    uint64_t seed, step
    void *x
    void *y


cdef void dropout_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef DropoutCall* c = <DropoutCall*>args
    if c.typenum == cnp.NPY_FLOAT32:
        forward_dropout(<float*>c.x, <float*>c.y, c.n, c.rate, c.seed, c.step, False, member, team)
    else:
        forward_dropout(<double*>c.x, <double*>c.y, c.n, c.rate, c.seed, c.step, False, member, team)


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
    # what dropout and dropout_backward have in common
    cdef DropoutCall c
    c.typenum, c.rate = float_type(name, x), drop_rate(rate)
    c.seed, c.step = key_number("seed", seed), key_number("step", step)
    x = as_input(name, x, c.typenum, x.shape)
    out = as_output(out_name, out, c.typenum, x.shape)
    check_apart((out_name,), (out,), (name,), (None if data(out) == data(x) else x,))
    c.n, c.x, c.y = x.size, data(x), data(out)
    with nogil:
        team_run(dropout_job, &c, team_for(8 * c.n))
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
        Wrong dtype, shape, layout or overlap, or a rate outside [0, 1); nothing has been
        written then.

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
