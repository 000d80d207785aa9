# dense and grouped_dense, forward and backward.

cdef void dense_job(void* args, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # forward; rows that are transposed are taken DENSE_ROWS at a time, so that scratch stays small
    cdef OneEntry own = (<OneEntry*>args)[0]
    cdef Py_ssize_t start = 0, n = own.run.n, step = n if packs_weight(&own.entry, n) else DENSE_ROWS
    own.run.entries, own.run.shapes, own.run.values, own.run.z = &own.entry, own.shapes, own.values, &own.z
    own.entry.sources = &own.source
    while start < n:
        own.run.samples = min(step, n - start)
        if start > 0:
            team_barrier(n_threads)  # until no thread reads these strips any more
        one_entry_pass(&own, dtype, thread, n_threads)
        start += step
        own.values[0] = <floating*>own.values[0] + step * own.entry.n_in
        own.values[1] = <floating*>own.values[1] + step * own.entry.n_out
        if own.z != NULL:
            own.z = <floating*>own.z + step * own.entry.n_out


cdef object scratch_for(OneEntry* c, Py_ssize_t elements):
    # what holds c.run.scratch
    cdef Scratch scratch = Scratch(elements * (4 if c.run.typenum == cnp.NPY_FLOAT32 else 8))
    c.run.scratch = scratch.start
    return scratch


cdef object call_dense(object x, object weight, object bias, Py_ssize_t groups, object activation, object out, object z):
    # checks and runs dense and grouped_dense
    cdef OneEntry c
    cdef Dense own
    cdef Py_ssize_t n, n_in, n_out
    cdef int typenum = float_type("x", x), code
    x = as_input("x", x, typenum, (None, None))
    n, n_in = cnp.PyArray_DIM(<cnp.ndarray>x, 0), cnp.PyArray_DIM(<cnp.ndarray>x, 1)
    check_groups(groups, "columns of x", n_in)
    weight = as_input("weight", weight, typenum, (None, n_in // groups))
    n_out = cnp.PyArray_DIM(<cnp.ndarray>weight, 0)
    check_groups(groups, "rows of weight", n_out)
    bias = optional_input("bias", bias, typenum, (n_out,))
    code = activation_code(activation)
    out = as_output("out", out, typenum, (n, n_out))
    z = optional_output("z", z, typenum, (n, n_out))
    check_no_overlap(("out", "z"), (out, z), ("x", "weight", "bias"), (x, weight, bias))
    if cnp.PyArray_SIZE(<cnp.ndarray>out) == 0:     # however many rows of nothing there are
        return out
    own = Dense(groups, n_in // groups, n_out // groups, data(weight), data_or_null(bias), NULL)
    one_entry(&c, &dense_kind, &own, typenum, n, n_in, n_out)
    c.values[0], c.values[1], c.z, c.entry.activation = data(x), data(out), data_or_null(z), code
    if n >= TRANSPOSE_ROWS:
        scratch = scratch_for(&c, packed_elements(&own) if packs_weight(&c.entry, n) else
                              dense_scratch(&c.entry, min(n, <Py_ssize_t>DENSE_ROWS), False))
    with nogil:
        if n <= DENSE_ROWS:
            run_one(&c, n * n_in // groups * n_out)
        else:
            run_typed(typenum, dense_job[float], dense_job[double], &c, threads_for(n * n_in // groups * n_out))
    return out


cdef object call_dense_backward(object dy, object x, object weight, object z, object y, Py_ssize_t groups, object activation,
                                tuple gradients):
    # checks and runs dense_backward and grouped_dense_backward; gradients: dx, dw and db as the caller gives them
    cdef OneEntry c
    cdef Dense own
    cdef Py_ssize_t offsets[OFFSET_BLOCK]
    cdef Py_ssize_t n, n_in, n_out
    cdef int typenum = float_type("dy", dy), code
    dx, dw, db = gradients
    dy = as_input("dy", dy, typenum, (None, None))
    n, n_out = cnp.PyArray_DIM(<cnp.ndarray>dy, 0), cnp.PyArray_DIM(<cnp.ndarray>dy, 1)
    check_groups(groups, "columns of dy", n_out)
    x = as_input("x", x, typenum, (n, None))
    n_in = cnp.PyArray_DIM(<cnp.ndarray>x, 1)
    check_groups(groups, "columns of x", n_in)
    weight = as_input("weight", weight, typenum, (n_out, n_in // groups))
    code = activation_code(activation)
    v = derivative_argument(code, typenum, z, y, (n, n_out))
    dx = as_output("dx", dx, typenum, (n, n_in))
    dw = optional_output("dw", dw, typenum, (n_out, n_in // groups))
    db = optional_output("db", db, typenum, (n_out,))
    check_no_overlap(("dx", "dw", "db"), (dx, dw, db), ("dy", "x", "weight", "z"), (dy, x, weight, v))
    if all(a is None or cnp.PyArray_SIZE(<cnp.ndarray>a) == 0 for a in (dx, dw, db)):
        return dx
    dz = dy if code == IDENTITY else np.empty_like(dy)
    own = Dense(groups, n_in // groups, n_out // groups, data(weight), NULL, NULL)
    one_entry(&c, &dense_kind, &own, typenum, n, n_in, n_out)
    c.entry.activation, c.entry.n_weights, c.backward = code, MAX_WEIGHTS, True
    c.entry.weights[1].grad = 1
    c.values[0], c.values[1], c.dvalues[0], c.dvalues[1], c.run.dy = data(x), data(dy if v is None else v), data(dx), data(dz), data(dy)
    c.dparams[0], c.dparams[1] = data_or_null(dw), data_or_null(db)
    if offsets_of(&c.entry, n) <= OFFSET_BLOCK:
        c.run.scratch = <void*>offsets
    else:
        scratch = scratch_for(&c, 2 * offsets_of(&c.entry, n))
    with nogil:
        run_one(&c, 2 * n * n_in // groups * n_out)
    return dx


cdef int check_groups(Py_ssize_t groups, str name, Py_ssize_t width) except -1:
    if width % groups != 0:
        raise ValueError(f"groups: expected a divisor of the {width} {name}, got {groups}")
    return 0


cdef object derivative_argument(int activation, int typenum, object z, object y, tuple shape):
    # what activation_derivative is computed from: z or y, as given, or y computed from z once more
    if activation == IDENTITY:
        return None
    if y is not None:
        if activation in (GELU, SILU):
            raise ValueError(f"y: cannot stand for z with {ACTIVATIONS[activation]}; pass the z that dense stored")
        return as_input("y", y, typenum, shape)
    if z is None:
        raise ValueError(f"z: expected the preactivation for {ACTIVATIONS[activation]}, got None; pass z= as stored by dense(..., z=z)")
    z = as_input("z", z, typenum, shape)
    if activation in (TANH, SIGMOID, SOFTMAX):
        return activated(activation, typenum, z, None)
    return z


def dense(x, weight, bias=None, activation="identity", out=None, z=None):
    """Dense layer, ``activation(x @ weight.T + bias)``.

    Parameters
    ----------
    x : ndarray, shape (n, in), float32 or float64
        Input rows.
    weight : ndarray, shape (out, in), dtype of `x`
        One row of weights per output.
    bias : ndarray, shape (out,), dtype of `x`, optional
        Added to every row.
    activation : str
        One of identity, relu, leaky_relu (slope 0.01), tanh, sigmoid, gelu (erf form), silu, softmax.
    out : ndarray, shape (n, out), optional
        Overwritten with the result.
    z : ndarray, shape (n, out), optional
        Overwritten with the preactivation ``x @ weight.T + bias``.

    Returns
    -------
    ndarray, shape (n, out)
        `out` if given, else a new array.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> x, weight = np.ones((1, 3), np.float32), np.eye(2, 3, dtype=np.float32)
    >>> fo.functional.dense(x, weight, np.array([0, -2], np.float32), activation="relu")
    array([[1., 0.]], dtype=float32)
    """
    return call_dense(x, weight, bias, 1, activation, out, z)


def dense_backward(dy, x, weight, z=None, activation="identity", dx=None, dw=None, db=None, *, y=None):
    """Gradients of `dense`, given the gradient of its output.

    Parameters
    ----------
    dy : ndarray, shape (n, out), float32 or float64
        Gradient with respect to the layer's output; not changed.
    x, weight : ndarray
        As given to `dense`.
    z : ndarray, shape (n, out), optional
        The preactivation that `dense` stored.
    activation : str
        As given to `dense`.
    dx, dw, db : ndarray, optional
        Overwritten with the gradients of `x` (n, in), `weight` (out, in) and the bias (out,).
        `dx` is made if not given; `dw` and `db` are computed only if given.
    y : ndarray, shape (n, out), optional
        The layer's output, which may be given instead of `z` (and saves recomputing it) for
        every activation except gelu and silu.

    Returns
    -------
    ndarray, shape (n, in)
        `dx`.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> x, weight, dw = np.ones((1, 3)), np.eye(2, 3), np.empty((2, 3))
    >>> fo.functional.dense_backward(np.array([[1.0, 2.0]]), x, weight, dw=dw)
    array([[1., 2., 0.]])
    >>> dw
    array([[1., 1., 1.],
           [2., 2., 2.]])
    """
    return call_dense_backward(dy, x, weight, z, y, 1, activation, (dx, dw, db))


def grouped_dense(x, weight, bias=None, groups=1, activation="identity", out=None, z=None):
    """Dense layer in groups: an output reads the inputs of its own group only.

    With inputs and outputs cut into `groups` equal parts, the part g of the result is
    ``activation(x_g @ weight_g.T + bias_g)``: a dense layer whose weight is block-diagonal, at
    1/groups of its work. It is a grouped convolution whose kernel is 1 wide.

    Parameters
    ----------
    x, bias, activation, out, z
        As for `dense`; softmax is that of whole rows.
    weight : ndarray, shape (out, in / groups), dtype of `x`
        One row of weights per output, for the inputs of its group.
    groups : int
        A divisor of in and of out.

    Returns
    -------
    ndarray, shape (n, out)
        `out` if given, else a new array.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap, or groups that do not divide; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> x, weight = np.array([[1.0, 2.0, 3.0, 4.0]]), np.ones((2, 2))
    >>> fo.functional.grouped_dense(x, weight, groups=2)
    array([[3., 7.]])
    """
    return call_dense(x, weight, bias, whole_number("groups", groups), activation, out, z)


def grouped_dense_backward(dy, x, weight, z=None, groups=1, activation="identity", dx=None, dw=None, db=None, *, y=None):
    """Gradients of `grouped_dense`, given the gradient of its output.

    Parameters
    ----------
    dy, z, dx, dw, db, y
        As for `dense_backward`; `dw` has the shape of `weight`.
    x, weight, groups, activation
        As given to `grouped_dense`.

    Returns
    -------
    ndarray, shape (n, in)
        `dx`.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap, or groups that do not divide; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> x, weight, dw = np.array([[1.0, 2.0, 3.0, 4.0]]), np.ones((2, 2)), np.empty((2, 2))
    >>> fo.functional.grouped_dense_backward(np.array([[1.0, 10.0]]), x, weight, groups=2, dw=dw)
    array([[ 1.,  1., 10., 10.]])
    >>> dw
    array([[ 1.,  2.],
           [30., 40.]])
    """
    return call_dense_backward(dy, x, weight, z, y, whole_number("groups", groups), activation, (dx, dw, db))
