# The grouped dense layer: outputs and inputs are cut into as many groups, and an output
# reads the inputs of its group only: W is block-diagonal, and only its blocks are kept
# and multiplied, 1/groups of the work.
#
# - Products, bias, activation and their bits are those of dense.pxi, a group at a time.
# - A member owns a rectangle of the whole result, as in dense.pxi, and walks the groups
#   that it meets. Many groups are handed out whole; few are cut like one product.

cdef inline Py_ssize_t group_grain(Py_ssize_t groups, Py_ssize_t width, Py_ssize_t grain, Py_ssize_t team) noexcept nogil:
    # columns that go to one member: whole groups if four or more a member even the shares out
    if groups < 4 * team or width == 0:
        return grain
    return (grain + width - 1) // width * width


cdef void forward_grouped_dense(const floating* x, const floating* weight, const floating* bias, floating* z, floating* y,
                                floating* scratch, Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, Py_ssize_t groups,
                                int activation, bint alone, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # x (n, in), weight (out, in / groups), bias (out,) or NULL -> y (n, out);
    # z (n, out), if not NULL, receives the pre-activation; with scratch of x in strips
    cdef Py_ssize_t depth = n_in // groups, width = n_out // groups, r0, r1, c0, c1, g, first, last
    cdef floating* pre = y if z == NULL else z
    cdef const floating* more = NULL
    cdef StripShare own
    cdef bint rectified = activation == RELU and pre == y
    if scratch != NULL:
        own = share_strips(x, scratch, n, n_in, n_out, group_grain(groups, width, 16, team), alone, member, team)
        r0, r1, c0, c1 = own.r0, own.r1, own.c0, own.c1
    else:
        grid_share(n, n_out, DOT_ROWS, group_grain(groups, width, 16, team), member, team, &r0, &r1, &c0, &c1)
    if r1 > r0 and c1 > c0:
        for g in range(c0 // width, (c1 - 1) // width + 1):
            first, last = max(c0, g * width), min(c1, (g + 1) * width)
            if bias != NULL:
                more = bias + first
            if scratch != NULL:
                transposed_product(scratch + r0 * n_in, <floating*>NULL, n_in, g * depth, weight + first * depth, <floating*>NULL,
                                   pre + r0 * n_out, r1 - r0, n_out, depth, first, last, more, rectified)
            else:
                dot_product(x + r0 * n_in + g * depth, n_in, weight + first * depth, depth, pre + r0 * n_out + first, n_out,
                            r1 - r0, last - first, depth, False, more, rectified)
    if not rectified:
        finish(activation, pre, y, n, n_out, r0, r1, c0, c1, member, team)


cdef void backward_grouped_dense(const floating* dy, const floating* x, const floating* weight, const floating* v,
                                 floating* dz, floating* dx, floating* dw, floating* db,
                                 Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, Py_ssize_t groups, int activation,
                                 bint accumulate_dx, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # dy (n, out), x (n, in), weight (out, in / groups), v (n, out) as activation_slope takes it
    # dz (n, out) = dy * phi'; of each group: dx (n, in) (+)= dz W; dw (out, in / groups) = dz^T x;
    # db (out,) = sum of dz's rows. dz may be dy; dx, dw, db may be NULL.
    cdef Py_ssize_t depth = n_in // groups, width = n_out // groups, r0, r1, c0, c1, g, first, last
    cdef Py_ssize_t grain = 4 * SPREAD_VECS * LANES_f
    activation_gradient(dy, v, dz, n, n_out, activation, member, team)
    team_barrier(team)
    if dx != NULL:
        grid_share(n, n_in, SPREAD_ROWS, group_grain(groups, depth, grain, team), member, team, &r0, &r1, &c0, &c1)
        if r1 > r0 and c1 > c0:
            for g in range(c0 // depth, (c1 - 1) // depth + 1):
                first, last = max(c0, g * depth), min(c1, (g + 1) * depth)
                spread_product(dz + r0 * n_out + g * width, n_out, 1, weight + g * width * depth + first - g * depth, depth,
                               dx + r0 * n_in + first, n_in, r1 - r0, last - first, width, accumulate_dx, NULL, False)
    if dw != NULL:
        grid_share(n_out, depth, SPREAD_ROWS, grain, member, team, &r0, &r1, &c0, &c1)
        if r1 > r0 and c1 > c0:
            for g in range(r0 // width, (r1 - 1) // width + 1):
                first, last = max(r0, g * width), min(r1, (g + 1) * width)
                spread_rows(dz + first, 1, n_out, x + g * depth + c0, n_in, strip_of(dz), dw + first * depth + c0, depth,
                            last - first, c1 - c0, n, False)
    if db != NULL:
        bias_gradient(dz, db, n, n_out, member, team)


# --- directional derivatives: t before a name is the tangent of what it stands for

cdef void tangent_grouped_dense(const floating* x, const floating* tx, const floating* weight, const floating* tweight,
                                const floating* tbias, const floating* v, floating* tz, floating* ty, floating* scratch,
                                floating* tscratch, Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, Py_ssize_t groups,
                                int activation, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # as tangent_dense, each group; weight and tweight (out, in / groups)
    cdef Py_ssize_t depth = n_in // groups, width = n_out // groups, r0, r1, c0, c1, g, first, last
    cdef const floating* more = NULL
    cdef StripShare own
    if scratch != NULL:
        if tx != NULL:
            transpose_strips(tx, tscratch, n, n_in, member, team)
        own = share_strips(x, scratch, n, n_in, n_out, group_grain(groups, width, 16, team), False, member, team)
        r0, r1, c0, c1 = own.r0, own.r1, own.c0, own.c1
    else:
        grid_share(n, n_out, DOT_ROWS, group_grain(groups, width, 16, team), member, team, &r0, &r1, &c0, &c1)
    if r1 > r0 and c1 > c0:
        for g in range(c0 // width, (c1 - 1) // width + 1):
            first, last = max(c0, g * width), min(c1, (g + 1) * width)
            if tbias != NULL:
                more = tbias + first
            if scratch != NULL:
                transposed_product(scratch, tscratch if tx != NULL else NULL, n_in, g * depth, tweight + first * depth,
                                   weight + first * depth, tz, r1 - r0, n_out, depth, first, last, more, False)
            else:
                dot_product(x + r0 * n_in + g * depth, n_in, tweight + first * depth, depth, tz + r0 * n_out + first, n_out,
                            r1 - r0, last - first, depth, False, more, False)
                if tx != NULL:
                    dot_product(tx + r0 * n_in + g * depth, n_in, weight + first * depth, depth, tz + r0 * n_out + first, n_out,
                                r1 - r0, last - first, depth, True, NULL, False)
    finish_tangent(activation, v, tz, ty, n, n_out, r0, r1, c0, c1, member, team)


cdef void tangent_backward_grouped_dense(floating* dy, floating* tdy, const floating* x, const floating* tx,
                                         const floating* weight, const floating* tweight, const floating* v, const floating* tv,
                                         floating* dx, floating* tdx, floating* tdw, floating* tdb, Py_ssize_t n,
                                         Py_ssize_t n_in, Py_ssize_t n_out, Py_ssize_t groups, int activation,
                                         bint accumulate_dx, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # as tangent_backward_dense, each group; weight, tweight and tdw (out, in / groups)
    cdef Py_ssize_t depth = n_in // groups, width = n_out // groups, r0, r1, c0, c1, g, first, last
    cdef Py_ssize_t grain = 4 * SPREAD_VECS * LANES_f
    cdef floating* from_dz
    cdef const floating* block
    activation_tangent_gradient(v, tv, dy, tdy, n, n_out, activation, member, team)
    team_barrier(team)
    grid_share(n, n_in, SPREAD_ROWS, group_grain(groups, depth, grain, team), member, team, &r0, &r1, &c0, &c1)
    if tx != NULL and r1 > r0 and c1 > c0:
        for g in range(c0 // depth, (c1 - 1) // depth + 1):
            first, last = max(c0, g * depth), min(c1, (g + 1) * depth)
            from_dz, block = dy + r0 * n_out + g * width, weight + g * width * depth + first - g * depth
            spread_product(from_dz, n_out, 1, block, depth, dx + r0 * n_in + first, n_in, r1 - r0, last - first, width,
                           accumulate_dx, NULL, False)
            spread_product(tdy + r0 * n_out + g * width, n_out, 1, block, depth, tdx + r0 * n_in + first, n_in, r1 - r0,
                           last - first, width, accumulate_dx, NULL, False)
            spread_product(from_dz, n_out, 1, tweight + (block - weight), depth, tdx + r0 * n_in + first, n_in, r1 - r0,
                           last - first, width, True, NULL, False)
    grid_share(n_out, depth, SPREAD_ROWS, grain, member, team, &r0, &r1, &c0, &c1)
    if r1 > r0 and c1 > c0:
        for g in range(r0 // width, (r1 - 1) // width + 1):
            first, last = max(r0, g * width), min(r1, (g + 1) * width)
            spread_rows(tdy + first, 1, n_out, x + g * depth + c0, n_in, strip_of(dy), tdw + first * depth + c0, depth,
                        last - first, c1 - c0, n, False)
            if tx != NULL:
                spread_rows(dy + first, 1, n_out, tx + g * depth + c0, n_in, strip_of(dy), tdw + first * depth + c0, depth,
                            last - first, c1 - c0, n, True)
    if tdb != NULL:
        bias_gradient(tdy, tdb, n, n_out, member, team)


# ---------------------------------------------------------------- entry points

def grouped_dense(x, weight, bias=None, groups=1, activation="identity", out=None, z=None):
    """Dense layer in groups: an output reads the inputs of its own group only.

    With inputs and outputs cut into `groups` equal parts, the part g of the result is
    ``activation(x_g @ weight_g.T + bias_g)``: a dense layer whose weight is block-diagonal, at
    1/groups of its work. It is a grouped convolution whose kernel is 1 wide.

    Parameters
    ----------
    x : ndarray, shape (n, in), float32 or float64
        Input rows.
    weight : ndarray, shape (out, in / groups), dtype of `x`
        One row of weights per output, for the inputs of its group.
    bias : ndarray, shape (out,), dtype of `x`, optional
        Added to every row.
    groups : int
        A divisor of in and of out.
    activation : str
        One of identity, relu, leaky_relu (slope 0.01), tanh, sigmoid, gelu (erf form), silu,
        softmax (of whole rows).
    out : ndarray, shape (n, out), optional
        Overwritten with the result.
    z : ndarray, shape (n, out), optional
        Overwritten with the pre-activation.

    Returns
    -------
    ndarray, shape (n, out)
        `out` if given, else a new array.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap, or groups that do not divide; nothing has been
        written then.

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
    dy : ndarray, shape (n, out), float32 or float64
        Gradient with respect to the layer's output; not changed.
    x, weight : ndarray
        As given to `grouped_dense`.
    z : ndarray, shape (n, out), optional
        The pre-activation that `grouped_dense` stored.
    groups, activation
        As given to `grouped_dense`.
    dx, dw, db : ndarray, optional
        Overwritten with the gradients of `x` (n, in), `weight` (out, in / groups) and the bias
        (out,). `dx` is made if not given; `dw` and `db` are computed only if given.
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
        Wrong dtype, shape, layout or overlap, or groups that do not divide; nothing has been
        written then.

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
    return call_dense_backward(dy, x, weight, z, whole_number("groups", groups), activation, dx, dw, db, y)
