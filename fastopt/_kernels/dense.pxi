# The dense layer: y = phi(x W^T + b), and its backward.
#
# - Two product tiles (tile.h): forward runs along the contiguous summed
#   dimension, so nothing is packed; both backward products spread one operand
#   over the lanes of the other. So does forward where a network that is not
#   trained any more keeps its weights packed: panels of one strip of outputs,
#   the summed dimension along them.
# - The summed dimension is cut into panels of fixed length, added in order, so
#   an element has the same bits in any block, batch size and team.
# - Forward: a member owns a rectangle of y; bias and activation are applied to a
#   block of outputs while it is in cache. Softmax needs whole rows and follows
#   after a barrier.

cdef extern from "simd.h" nogil:
    const int DOT_ROWS, DOT_COLS, SPREAD_ROWS, SPREAD_VECS, LANES_f, LANES_d
    void dot_tile_f(int rows, int cols, const float* a, Py_ssize_t lda, const float* b, Py_ssize_t ldb,
                    Py_ssize_t depth, float* c, Py_ssize_t ldc, int accumulate)
    void dot_tile_d(int rows, int cols, const double* a, Py_ssize_t lda, const double* b, Py_ssize_t ldb,
                    Py_ssize_t depth, double* c, Py_ssize_t ldc, int accumulate)
    void spread_tile_f(int rows, Py_ssize_t cols, const float* a, Py_ssize_t a_row, Py_ssize_t a_col,
                       const float* b, Py_ssize_t ldb, Py_ssize_t depth, float* c, Py_ssize_t ldc, int accumulate)
    void spread_tile_d(int rows, Py_ssize_t cols, const double* a, Py_ssize_t a_row, Py_ssize_t a_col,
                       const double* b, Py_ssize_t ldb, Py_ssize_t depth, double* c, Py_ssize_t ldc, int accumulate)
    void spread_finish_f(int rows, Py_ssize_t cols, const float* a, Py_ssize_t a_row, Py_ssize_t a_col,
                         const float* b, Py_ssize_t ldb, Py_ssize_t depth, float* c, Py_ssize_t ldc, int accumulate,
                         const float* bias, int relu)
    void spread_finish_d(int rows, Py_ssize_t cols, const double* a, Py_ssize_t a_row, Py_ssize_t a_col,
                         const double* b, Py_ssize_t ldb, Py_ssize_t depth, double* c, Py_ssize_t ldc, int accumulate,
                         const double* bias, int relu)

# Tuning table: a panel of DOT_COLS rows of W, 24 KiB, stays in L1 while the rows of x pass.
cdef enum:
    DOT_PANEL_BYTES = 4096      # of the summed dimension; part of the definition of the result's bits
    SPREAD_PANEL = 256          # rows of the summed dimension; likewise
    # Packed weights beyond 1 MiB are read from L3 or DRAM, and few rows do not pay for the strips' detours:
    # 1024x1024, µs packed / not: batch 1 170/148, 8 235/193, 32 517/489, 256 3300/3423.
    PACKED_BYTES = 1 << 20
    PACKED_ROWS = 64


cdef inline void dot_tile(int rows, int cols, const floating* a, Py_ssize_t lda, const floating* b, Py_ssize_t ldb,
                          Py_ssize_t depth, floating* c, Py_ssize_t ldc, bint accumulate) noexcept nogil:
    if floating is float:
        dot_tile_f(rows, cols, a, lda, b, ldb, depth, c, ldc, accumulate)
    else:
        dot_tile_d(rows, cols, a, lda, b, ldb, depth, c, ldc, accumulate)


cdef inline void spread_tile(int rows, Py_ssize_t cols, const floating* a, Py_ssize_t a_row, Py_ssize_t a_col,
                             const floating* b, Py_ssize_t ldb, Py_ssize_t depth,
                             floating* c, Py_ssize_t ldc, bint accumulate, const floating* bias, bint relu) noexcept nogil:
    if bias == NULL and not relu:
        if floating is float:
            spread_tile_f(rows, cols, a, a_row, a_col, b, ldb, depth, c, ldc, accumulate)
        else:
            spread_tile_d(rows, cols, a, a_row, a_col, b, ldb, depth, c, ldc, accumulate)
    elif floating is float:
        spread_finish_f(rows, cols, a, a_row, a_col, b, ldb, depth, c, ldc, accumulate, bias, relu)
    else:
        spread_finish_d(rows, cols, a, a_row, a_col, b, ldb, depth, c, ldc, accumulate, bias, relu)


cdef void dot_product(const floating* a, Py_ssize_t lda, const floating* b, Py_ssize_t ldb, floating* c, Py_ssize_t ldc,
                      Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t depth) noexcept nogil:
    # c (rows, cols) = a (rows, depth) b (cols, depth)^T
    cdef Py_ssize_t panel = DOT_PANEL_BYTES // <Py_ssize_t>sizeof(floating)
    cdef Py_ssize_t i, j, k = 0, length
    cdef int high, wide
    while k < depth or k == 0:                  # depth 0 still writes zeros
        length = min(panel, depth - k)
        j = 0
        while j < cols:
            wide = <int>min(DOT_COLS, cols - j)
            i = 0
            while i < rows:
                high = <int>min(DOT_ROWS, rows - i)
                dot_tile(high, wide, a + i * lda + k, lda, b + j * ldb + k, ldb, length, c + i * ldc + j, ldc, k > 0)
                i += high
            j += wide
        k += panel


cdef inline Py_ssize_t strip_of(floating* dtype) noexcept nogil:
    # outputs that one spread tile takes
    return SPREAD_VECS * (LANES_f if floating is float else LANES_d)


cdef void spread_product(const floating* a, Py_ssize_t a_row, Py_ssize_t a_col, const floating* b, Py_ssize_t ldb,
                         floating* c, Py_ssize_t ldc, Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t depth,
                         bint accumulate, const floating* bias, bint relu) noexcept nogil:
    # c (rows, cols) (+)= a (rows, depth) b (depth, cols), a[i, k] at a[i * a_row + k * a_col];
    # then bias (cols,), unless NULL, is added, and relu applied
    cdef bint last
    cdef Py_ssize_t strip = strip_of(c), i, j, k = 0, length, wide
    cdef int high
    while k < depth or k == 0:
        length = min(SPREAD_PANEL, depth - k)
        last = k + SPREAD_PANEL >= depth
        j = 0
        while j < cols:
            wide = min(strip, cols - j)
            i = 0
            while i < rows:
                high = <int>min(SPREAD_ROWS, rows - i)
                spread_tile(high, wide, a + i * a_row + k * a_col, a_row, a_col, b + k * ldb + j, ldb, length,
                            c + i * ldc + j, ldc, accumulate or k > 0, bias + j if last and bias != NULL else NULL, last and relu)
                i += high
            j += wide
        k += SPREAD_PANEL


cdef void packed_product(const floating* a, Py_ssize_t lda, const floating* packed, floating* c, Py_ssize_t ldc,
                         Py_ssize_t rows, Py_ssize_t first, Py_ssize_t last, Py_ssize_t depth,
                         const floating* bias, bint relu) noexcept nogil:
    # columns first to last of c (rows, cols) = a (rows, depth) b^T; packed (strips, depth, strip) holds b;
    # `first` starts a strip; bias and relu as spread_product has them
    cdef Py_ssize_t strip = strip_of(c), j
    for j in range(first // strip, (last + strip - 1) // strip):
        spread_product(a, lda, 1, packed + j * strip * depth, strip, c + j * strip, ldc, rows,
                       min(strip, last - j * strip), depth, False, bias + j * strip if bias != NULL else NULL, relu)


cdef inline void grid_share(Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t row_grain, Py_ssize_t col_grain,
                            Py_ssize_t member, Py_ssize_t team, Py_ssize_t* r0, Py_ssize_t* r1,
                            Py_ssize_t* c0, Py_ssize_t* c1) noexcept nogil:
    # member's rectangle of (rows, cols): columns are cut while they leave every member two
    # tiles, for then each reads its own weights only; else rows
    if cols >= 2 * col_grain * team:
        r0[0], r1[0] = 0, rows
        c0[0], c1[0] = share(cols, col_grain, member, team), share(cols, col_grain, member + 1, team)
    else:
        r0[0], r1[0] = share(rows, row_grain, member, team), share(rows, row_grain, member + 1, team)
        c0[0], c1[0] = 0, cols


cdef void forward_dense(const floating* x, const floating* weight, const floating* packed, const floating* bias,
                        floating* z, floating* y, Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, int activation,
                        Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # x (n, in), weight (out, in), bias (out,) or NULL -> y (n, out); z (n, out), if not NULL,
    # receives the pre-activation; packed, if not NULL, stands in for weight, and its product leaves
    # the bias added and relu, where z does not want what comes before it, applied
    cdef Py_ssize_t r0, r1, c0, c1, wide
    cdef floating* pre = y if z == NULL else z
    cdef bint done = False
    if packed == NULL:
        grid_share(n, n_out, DOT_ROWS, DOT_COLS, member, team, &r0, &r1, &c0, &c1)
    else:
        grid_share(n, n_out, SPREAD_ROWS, strip_of(y), member, team, &r0, &r1, &c0, &c1)
    wide = c1 - c0
    if r1 > r0 and wide > 0:
        if packed == NULL:
            dot_product(x + r0 * n_in, n_in, weight + c0 * n_in, n_in, pre + r0 * n_out + c0, n_out, r1 - r0, wide, n_in)
        else:
            done = activation == RELU and pre == y
            packed_product(x + r0 * n_in, n_in, packed, pre + r0 * n_out, n_out, r1 - r0, c0, c1, n_in, bias, done)
        if not done:
            finish_block(pre, bias if packed == NULL else NULL, y, n_out, r0, r1, c0, c1, activation)
    if activation == SOFTMAX:
        finish_softmax(pre, y, n, n_out, member, team)


cdef void finish_block(floating* pre, const floating* bias, floating* y, Py_ssize_t n_out, Py_ssize_t r0, Py_ssize_t r1,
                       Py_ssize_t c0, Py_ssize_t c1, int activation) noexcept nogil:
    # rows r0 to r1, columns c0 to c1: pre (n, out) += bias (out,), unless NULL; y (n, out) = phi(pre), softmax apart
    cdef Py_ssize_t i, wide = c1 - c0
    if bias != NULL:
        for i in range(r0, r1):
            add_row(pre + i * n_out + c0, bias + c0, wide)
    if activation != SOFTMAX and (activation != IDENTITY or pre != y):
        if wide == n_out:
            activate(activation, pre + r0 * n_out, y + r0 * n_out, (r1 - r0) * n_out)
        else:
            for i in range(r0, r1):
                activate(activation, pre + i * n_out + c0, y + i * n_out + c0, wide)


cdef void finish_softmax(const floating* pre, floating* y, Py_ssize_t n, Py_ssize_t n_out,
                         Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # y (n, out) = softmax of pre's rows, which other members may have computed
    cdef Py_ssize_t r0 = share(n, 1, member, team), r1 = share(n, 1, member + 1, team)
    team_barrier(team)
    softmax_rows(pre + r0 * n_out, y + r0 * n_out, r1 - r0, n_out)


cdef inline void add_row(floating* y, const floating* bias, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        y[j] += bias[j]


cdef void backward_dense(const floating* dy, const floating* x, const floating* weight, const floating* v,
                         floating* dz, floating* dx, floating* dw, floating* db,
                         Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, int activation, bint accumulate_dx,
                         Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # dy (n, out), x (n, in), weight (out, in), v (n, out) as activation_slope takes it
    # dz (n, out) = dy * phi'; dx (n, in) (+)= dz W; dw (out, in) = dz^T x; db (out,) = sum of dz's rows
    # dz may be dy; dx, dw, db may be NULL. On return dz is whole, dx, dw and db each member's share.
    cdef Py_ssize_t r0, r1, c0, c1
    activation_gradient(dy, v, dz, n, n_out, activation, member, team)
    team_barrier(team)
    if dx != NULL:
        grid_share(n, n_in, SPREAD_ROWS, 4 * SPREAD_VECS * LANES_f, member, team, &r0, &r1, &c0, &c1)
        if r1 > r0 and c1 > c0:
            spread_product(dz + r0 * n_out, n_out, 1, weight + c0, n_in, dx + r0 * n_in + c0, n_in,
                           r1 - r0, c1 - c0, n_out, accumulate_dx, NULL, False)
    if dw != NULL:
        grid_share(n_out, n_in, SPREAD_ROWS, 4 * SPREAD_VECS * LANES_f, member, team, &r0, &r1, &c0, &c1)
        if r1 > r0 and c1 > c0:
            spread_product(dz + r0, 1, n_out, x + c0, n_in, dw + r0 * n_in + c0, n_in, r1 - r0, c1 - c0, n, False,
                           NULL, False)
    if db != NULL:
        c0, c1 = share(n_out, 16, member, team), share(n_out, 16, member + 1, team)
        sum_rows(dz + c0, n_out, db + c0, n, c1 - c0)


cdef void activation_gradient(const floating* dy, const floating* v, floating* dz, Py_ssize_t n, Py_ssize_t n_out,
                              int activation, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # dz (n, out) = dy * phi', a member's rows
    cdef Py_ssize_t r0 = share(n, 1, member, team), r1 = share(n, 1, member + 1, team)
    if activation == SOFTMAX:
        softmax_rows_backward(v + r0 * n_out, dy + r0 * n_out, dz + r0 * n_out, r1 - r0, n_out)
    elif activation != IDENTITY or dz != dy:
        activate_backward(activation, v + r0 * n_out, dy + r0 * n_out, dz + r0 * n_out, (r1 - r0) * n_out)


cdef void sum_rows(const floating* a, Py_ssize_t lda, floating* total, Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    cdef Py_ssize_t i, j
    for j in range(cols):
        total[j] = 0
    for i in range(rows):
        add_row(total, a + i * lda, cols)


# ---------------------------------------------------------------- entry points

def pack_weight(weight):
    """Weight (out, in) as `packed_product` reads it: (strips, in, strip), the last strip filled with zeros."""
    strip = SPREAD_VECS * (LANES_f if weight.dtype == np.float32 else LANES_d)
    n_out, n_in = weight.shape
    strips = (n_out + strip - 1) // strip
    block = np.zeros(strips * n_in * strip + 64 // weight.itemsize, weight.dtype)
    start = -block.ctypes.data % 64 // weight.itemsize
    packed = block[start:start + strips * n_in * strip].reshape(strips, n_in, strip)
    for j in range(strips):
        rows = weight[j * strip:(j + 1) * strip]
        packed[j, :, :len(rows)] = rows.T
    return packed


cdef struct DenseCall:
    int typenum, activation
    Py_ssize_t n, n_in, n_out, groups
    void *x
    void *weight
    void *bias
    void *v
    void *y
    void *dy
    void *dz
    void *dx
    void *dw
    void *db


cdef void dense_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef DenseCall* c = <DenseCall*>args
    if c.typenum == cnp.NPY_FLOAT32:
        forward_dense[float](<float*>c.x, <float*>c.weight, NULL, <float*>c.bias, <float*>c.v, <float*>c.y,
                             c.n, c.n_in, c.n_out, c.activation, member, team)
    else:
        forward_dense[double](<double*>c.x, <double*>c.weight, NULL, <double*>c.bias, <double*>c.v, <double*>c.y,
                              c.n, c.n_in, c.n_out, c.activation, member, team)


cdef void dense_backward_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef DenseCall* c = <DenseCall*>args
    if c.typenum == cnp.NPY_FLOAT32:
        backward_dense[float](<float*>c.dy, <float*>c.x, <float*>c.weight, <float*>c.v, <float*>c.dz, <float*>c.dx,
                              <float*>c.dw, <float*>c.db, c.n, c.n_in, c.n_out, c.activation, False, member, team)
    else:
        backward_dense[double](<double*>c.dy, <double*>c.x, <double*>c.weight, <double*>c.v, <double*>c.dz, <double*>c.dx,
                               <double*>c.dw, <double*>c.db, c.n, c.n_in, c.n_out, c.activation, False, member, team)


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
        Overwritten with the pre-activation ``x @ weight.T + bias``.

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
    cdef DenseCall c
    c.typenum = float_type("x", x)
    x = as_input("x", x, c.typenum, (None, None))
    weight = as_input("weight", weight, c.typenum, (None, x.shape[1]))
    c.n, c.n_in, c.n_out = x.shape[0], x.shape[1], weight.shape[0]
    if bias is not None:
        bias = as_input("bias", bias, c.typenum, (c.n_out,))
    c.activation = activation_code(activation)
    out = as_output("out", out, c.typenum, (c.n, c.n_out))
    if z is not None:
        z = as_output("z", z, c.typenum, (c.n, c.n_out))
    check_apart((("out", out), ("z", z)), (("x", x), ("weight", weight), ("bias", bias)))
    c.x, c.weight, c.y = data(x), data(weight), data(out)
    c.bias = NULL if bias is None else data(bias)
    c.v = NULL if z is None else data(z)
    with nogil:
        team_run(dense_job, &c, team_for(c.n * c.n_in * c.n_out))
    return out


def dense_backward(dy, x, weight, z=None, activation="identity", dx=None, dw=None, db=None, *, y=None):
    """Gradients of `dense`, given the gradient of its output.

    Parameters
    ----------
    dy : ndarray, shape (n, out), float32 or float64
        Gradient with respect to the layer's output; not changed.
    x, weight : ndarray
        As given to `dense`.
    z : ndarray, shape (n, out), optional
        The pre-activation that `dense` stored.
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
    cdef DenseCall c
    c.typenum = float_type("dy", dy)
    dy = as_input("dy", dy, c.typenum, (None, None))
    c.n, c.n_out = dy.shape[0], dy.shape[1]
    x = as_input("x", x, c.typenum, (c.n, None))
    c.n_in = x.shape[1]
    weight = as_input("weight", weight, c.typenum, (c.n_out, c.n_in))
    c.activation = activation_code(activation)
    v = slope_argument(c.activation, c.typenum, z, y, (c.n, c.n_out))
    dx = as_output("dx", dx, c.typenum, (c.n, c.n_in))
    if dw is not None:
        dw = as_output("dw", dw, c.typenum, (c.n_out, c.n_in))
    if db is not None:
        db = as_output("db", db, c.typenum, (c.n_out,))
    check_apart((("dx", dx), ("dw", dw), ("db", db)), (("dy", dy), ("x", x), ("weight", weight), ("z", v)))
    dz = dy if c.activation == IDENTITY else np.empty_like(dy)
    c.dy, c.x, c.weight, c.dz, c.dx = data(dy), data(x), data(weight), data(dz), data(dx)
    c.v = data(dy) if v is None else data(v)
    c.dw = NULL if dw is None else data(dw)
    c.db = NULL if db is None else data(db)
    with nogil:
        team_run(dense_backward_job, &c, team_for(2 * c.n * c.n_in * c.n_out))
    return dx


cdef object slope_argument(int activation, int typenum, object z, object y, tuple shape):
    # what activation_slope needs: y itself, or z, or y recomputed from z
    if activation == IDENTITY:
        return None
    if y is not None:
        if activation in (GELU, SILU):
            raise ValueError(f"y: cannot stand for z with {ACTIVATIONS[activation]}; pass the z that dense stored")
        return as_input("y", y, typenum, shape)
    if z is None:
        raise ValueError(f"z: expected the pre-activation for {ACTIVATIONS[activation]}, got None; pass z= as stored by dense(..., z=z)")
    z = as_input("z", z, typenum, shape)
    if activation in (TANH, SIGMOID, SOFTMAX):
        return elementwise(activation_job, activation, typenum, z, None)
    return z
