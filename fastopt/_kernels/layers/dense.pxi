# The dense layer: y = phi(x W^T + b), and its backward.
#
# - The products are those of products.pxi; which one forward takes depends on the rows of the
#   whole call, never on the team.
# - Forward: a member owns a rectangle of y; bias and relu are applied while a block of outputs
#   is in registers, other activations while its rows are in cache. Softmax needs whole rows and
#   follows after a barrier.
# - Scratch holds an operand in strips; all members fill it, and meet before they read it.

cdef Py_ssize_t dense_scratch(Py_ssize_t rows, Py_ssize_t n_in, Py_ssize_t n_out, bint training, floating* dtype) noexcept nogil:
    # elements of scratch that forward_dense, and in training dense_dz, take for so many rows
    cdef Py_ssize_t wide = round_up(n_in, strip_of(dtype))
    rows = round_up(rows, lanes_of(dtype))
    return rows * (wide + n_out) if training else rows * n_in


cdef void forward_dense(const floating* x, const floating* weight, const floating* packed, const floating* bias,
                        floating* z, floating* y, floating* scratch, Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out,
                        int activation, bint alone, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # x (n, in), weight (out, in), bias (out,) or NULL -> y (n, out); z (n, out), if not NULL,
    # receives the pre-activation. One of three products: of packed, unless NULL, standing in for
    # weight; of x in strips, with scratch; of x and weight as they lie. alone: members need not keep to
    # their outputs; in training they do, for the weights they have updated are in their cache
    cdef Py_ssize_t r0, r1, c0, c1
    cdef StripShare own
    cdef floating* pre = y if z == NULL else z
    cdef bint rectified = activation == RELU and pre == y
    if packed != NULL:
        grid_share(n, n_out, SPREAD_ROWS, strip_of(y), member, team, &r0, &r1, &c0, &c1)
        packed_product(x + r0 * n_in, n_in, packed, pre + r0 * n_out, n_out, r1 - r0, c0, c1, n_in, bias, rectified)
    elif scratch != NULL:
        own = share_strips(x, scratch, n, n_in, n_out, COLUMN_GRAIN, alone, member, team)
        r0, r1, c0, c1 = own.r0, own.r1, own.c0, own.c1
        transposed_product(scratch + r0 * n_in, <floating*>NULL, n_in, 0, weight + c0 * n_in, <floating*>NULL, pre + r0 * n_out,
                           r1 - r0, n_out, n_in, c0, c1, bias + c0 if bias != NULL else NULL, rectified)
    else:
        grid_share(n, n_out, DOT_ROWS, 16, member, team, &r0, &r1, &c0, &c1)
        dot_product(x + r0 * n_in, n_in, weight + c0 * n_in, n_in, pre + r0 * n_out + c0, n_out, r1 - r0, c1 - c0, n_in, False,
                    bias + c0 if bias != NULL else NULL, rectified)
    if not rectified:
        finish(activation, pre, y, n, n_out, r0, r1, c0, c1, member, team)


cdef void finish(int activation, const floating* pre, floating* y, Py_ssize_t n, Py_ssize_t n_out, Py_ssize_t r0, Py_ssize_t r1,
                 Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # y (n, out) = phi(pre), a member's rows r0 to r1 and columns c0 to c1; of softmax whole rows
    cdef Py_ssize_t i
    if activation == SOFTMAX:
        team_barrier(team)
        r0, r1 = share(n, 1, member, team), share(n, 1, member + 1, team)
        softmax_rows(pre + r0 * n_out, y + r0 * n_out, r1 - r0, n_out)
    elif activation == IDENTITY and pre == y:
        return
    elif c1 - c0 == n_out:
        activate(activation, pre + r0 * n_out, y + r0 * n_out, (r1 - r0) * n_out)
    else:
        for i in range(r0, r1):
            activate(activation, pre + i * n_out + c0, y + i * n_out + c0, c1 - c0)


cdef inline void add_row(floating* y, const floating* bias, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        y[j] += bias[j]


cdef void activation_gradient(const floating* dy, const floating* v, floating* dz, Py_ssize_t n, Py_ssize_t n_out,
                              int activation, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # dz (n, out) = dy * phi', a member's rows
    cdef Py_ssize_t r0 = share(n, ROW_GRAIN, member, team), r1 = share(n, ROW_GRAIN, member + 1, team)
    if activation == SOFTMAX:
        softmax_rows_backward(v + r0 * n_out, dy + r0 * n_out, dz + r0 * n_out, r1 - r0, n_out)
    elif activation != IDENTITY or dz != dy:
        activate_backward(activation, v + r0 * n_out, dy + r0 * n_out, dz + r0 * n_out, (r1 - r0) * n_out)


cdef struct Operands:           # of dW = dz^T x, as spread_rows takes them: dz along the outputs, x along the inputs
    Py_ssize_t row, col         # dz[i, j] at dz + j * row + i * col
    Py_ssize_t ldb, step        # x[i, c] at x + c // strip * step + i * ldb + c % strip
    void *dz
    void *x


cdef void dense_dz(const floating* dy, const floating* x, const floating* v, floating* dz, floating* scratch, Operands* to,
                   Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, int activation, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # dz (n, out) = dy * phi', and the operands of dW; whole for every member on return
    activation_gradient(dy, v, dz, n, n_out, activation, member, team)
    lay_operands(x, dz, scratch, to, n, n_in, n_out, member, team)
    team_barrier(team)


cdef void lay_operands(const floating* x, const floating* dz, floating* scratch, Operands* to, Py_ssize_t n, Py_ssize_t n_in,
                       Py_ssize_t n_out, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # the operands of dW: where it pays x in strips and dz transposed, in scratch; a member has its rows of dz, and lays
    # its share
    cdef Py_ssize_t r0 = share(n, ROW_GRAIN, member, team), r1 = share(n, ROW_GRAIN, member + 1, team), width = round_up(n, lanes_of(dz))
    if scratch != NULL and pays_packing(n, n_in, n_out):
        to.x, to.dz = scratch, scratch + n * round_up(n_in, strip_of(x))
        to.row, to.col, to.ldb, to.step = width, 1, strip_of(x), n * strip_of(x)
        copy_strips(x, <floating*>to.x, n, n_in, member, team)
        transpose_rows(dz, <floating*>to.dz, width, r0, r1, n_out)
    else:
        to.x, to.dz = <void*>x, <void*>dz
        to.row, to.col, to.ldb, to.step = 1, n_out, n_in, strip_of(x)


cdef inline void weight_gradient(const Operands* a, floating* dw, Py_ssize_t ldw, Py_ssize_t r0, Py_ssize_t r1,
                                 Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t n, bint accumulate) noexcept nogil:
    # rows r0 to r1, columns c0 (which starts a strip) to c1 of dW (+)= dz^T x; dw points to the first of them
    spread_rows(<floating*>a.dz + r0 * a.row, a.row, a.col, <floating*>a.x + c0 // strip_of(dw) * a.step, a.ldb, a.step,
                dw, ldw, r1 - r0, c1 - c0, n, accumulate)


cdef void backward_dense(const floating* dy, const floating* x, const floating* weight, const floating* v,
                         floating* dz, floating* dx, floating* dw, floating* db, floating* scratch,
                         Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, int activation, bint accumulate_dx,
                         Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # dy (n, out), x (n, in), weight (out, in), v (n, out) as activation_slope takes it
    # dz (n, out) = dy * phi'; dx (n, in) (+)= dz W; dw (out, in) = dz^T x; db (out,) = sum of dz's rows
    # dz may be dy; dx, dw, db may be NULL. On return dz is whole, dx, dw and db each member's share.
    cdef Py_ssize_t r0, r1, c0, c1
    cdef Operands operands
    dense_dz(dy, x, v, dz, scratch if dw != NULL else NULL, &operands, n, n_in, n_out, activation, member, team)
    if dx != NULL:
        grid_share(n, n_in, SPREAD_ROWS, 4 * SPREAD_VECS * LANES_f, member, team, &r0, &r1, &c0, &c1)
        spread_product(dz + r0 * n_out, n_out, 1, weight + c0, n_in, dx + r0 * n_in + c0, n_in,
                       r1 - r0, c1 - c0, n_out, accumulate_dx, NULL, False)
    if dw != NULL:
        grid_share(n_out, n_in, SPREAD_ROWS, 4 * SPREAD_VECS * LANES_f, member, team, &r0, &r1, &c0, &c1)
        weight_gradient(&operands, dw + r0 * n_in + c0, n_in, r0, r1, c0, c1, n, False)
    if db != NULL:
        bias_gradient(dz, db, n, n_out, member, team)


cdef inline void bias_gradient(const floating* dz, floating* db, Py_ssize_t n, Py_ssize_t n_out,
                               Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef Py_ssize_t c0 = share(n_out, 16, member, team), c1 = share(n_out, 16, member + 1, team)
    sum_rows(dz + c0, n_out, db + c0, n, c1 - c0)


cdef void sum_rows(const floating* a, Py_ssize_t lda, floating* total, Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    cdef Py_ssize_t i, j
    for j in range(cols):
        total[j] = 0
    for i in range(rows):
        add_row(total, a + i * lda, cols)


# --- directional derivatives: t before a name is the tangent of what it stands for

cdef void tangent_dense(const floating* x, const floating* tx, const floating* weight, const floating* tweight,
                        const floating* tbias, const floating* v, floating* tz, floating* ty, floating* scratch,
                        floating* tscratch, Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, int activation,
                        Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # tx (n, in) or NULL, no tangent; tweight (out, in), tbias (out,) or NULL, v (n, out) as activation_slope takes it
    # tz (n, out) = tx W^T + x tW^T + tb, ty (n, out) = phi' tz, which tz may be; products as forward_dense chooses them
    cdef Py_ssize_t r0, r1, c0, c1
    cdef StripShare own
    if scratch != NULL:
        if tx != NULL:
            transpose_strips(tx, tscratch, n, n_in, member, team)
        own = share_strips(x, scratch, n, n_in, n_out, COLUMN_GRAIN, False, member, team)
        r0, r1, c0, c1 = own.r0, own.r1, own.c0, own.c1
        transposed_product(scratch, tscratch if tx != NULL else NULL, n_in, 0, tweight + c0 * n_in, weight + c0 * n_in, tz,
                           r1 - r0, n_out, n_in, c0, c1, tbias + c0 if tbias != NULL else NULL, False)
    else:
        grid_share(n, n_out, DOT_ROWS, 16, member, team, &r0, &r1, &c0, &c1)
        dot_product(x + r0 * n_in, n_in, tweight + c0 * n_in, n_in, tz + r0 * n_out + c0, n_out, r1 - r0, c1 - c0, n_in,
                    False, tbias + c0 if tbias != NULL else NULL, False)
        if tx != NULL:
            dot_product(tx + r0 * n_in, n_in, weight + c0 * n_in, n_in, tz + r0 * n_out + c0, n_out, r1 - r0, c1 - c0, n_in,
                        True, NULL, False)
    finish_tangent(activation, v, tz, ty, n, n_out, r0, r1, c0, c1, member, team)


cdef void finish_tangent(int activation, const floating* v, const floating* tz, floating* ty, Py_ssize_t n, Py_ssize_t n_out,
                         Py_ssize_t r0, Py_ssize_t r1, Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # ty (n, out) = phi' tz on a member's rows r0 to r1 and columns c0 to c1; softmax, whose Jacobian is symmetric, by rows
    cdef Py_ssize_t i
    if activation == SOFTMAX:
        team_barrier(team)
        activation_gradient(tz, v, ty, n, n_out, activation, member, team)
    elif activation == IDENTITY and tz == ty:
        return
    else:
        for i in range(r0, r1):
            activate_backward(activation, v + i * n_out + c0, tz + i * n_out + c0, ty + i * n_out + c0, c1 - c0)


cdef void activation_tangent_gradient(const floating* v, const floating* tv, floating* dy, floating* tdy, Py_ssize_t n,
                                      Py_ssize_t n_out, int activation, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # dy (n, out) becomes dz = dy phi', tdy its tangent: a member's rows
    cdef Py_ssize_t r0 = share(n, ROW_GRAIN, member, team), r1 = share(n, ROW_GRAIN, member + 1, team), start = r0 * n_out
    if activation == SOFTMAX:
        softmax_rows_tangent_backward(v + start, tv + start, dy + start, tdy + start, r1 - r0, n_out)
    else:
        activate_tangent_backward(activation, v + start, tv + start, dy + start, tdy + start, (r1 - r0) * n_out)


cdef void tangent_backward_dense(floating* dy, floating* tdy, const floating* x, const floating* tx, const floating* weight,
                                 const floating* tweight, const floating* v, const floating* tv, floating* dx, floating* tdx,
                                 floating* tdw, floating* tdb, floating* scratch, floating* tscratch, Py_ssize_t n,
                                 Py_ssize_t n_in, Py_ssize_t n_out, int activation, bint accumulate_dx,
                                 Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # dy, tdy (n, out) become dz and tdz; dx (n, in) (+)= dz W; tdx (n, in) (+)= tdz W + dz tW;
    # tdw (out, in) = tdz^T x + dz^T tx; tdb (out,) or NULL = sum of tdz's rows
    # tx NULL: x has no tangent, and dx and tdx are not wanted. Shares as of backward_dense
    cdef Py_ssize_t r0, r1, c0, c1, grain = 4 * SPREAD_VECS * LANES_f
    cdef Operands operands, toperands
    activation_tangent_gradient(v, tv, dy, tdy, n, n_out, activation, member, team)
    lay_operands(x, tdy, scratch, &operands, n, n_in, n_out, member, team)
    if tx != NULL:
        lay_operands(tx, dy, tscratch, &toperands, n, n_in, n_out, member, team)
    team_barrier(team)
    if tx != NULL:
        grid_share(n, n_in, SPREAD_ROWS, grain, member, team, &r0, &r1, &c0, &c1)
        spread_product(dy + r0 * n_out, n_out, 1, weight + c0, n_in, dx + r0 * n_in + c0, n_in, r1 - r0, c1 - c0, n_out,
                       accumulate_dx, NULL, False)
        spread_product(tdy + r0 * n_out, n_out, 1, weight + c0, n_in, tdx + r0 * n_in + c0, n_in, r1 - r0, c1 - c0, n_out,
                       accumulate_dx, NULL, False)
        spread_product(dy + r0 * n_out, n_out, 1, tweight + c0, n_in, tdx + r0 * n_in + c0, n_in, r1 - r0, c1 - c0, n_out,
                       True, NULL, False)
    grid_share(n_out, n_in, SPREAD_ROWS, grain, member, team, &r0, &r1, &c0, &c1)
    weight_gradient(&operands, tdw + r0 * n_in + c0, n_in, r0, r1, c0, c1, n, False)
    if tx != NULL:
        weight_gradient(&toperands, tdw + r0 * n_in + c0, n_in, r0, r1, c0, c1, n, True)
    if tdb != NULL:
        bias_gradient(tdy, tdb, n, n_out, member, team)


# ---------------------------------------------------------------- entry points

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
    void *scratch


cdef void dense_rows(DenseCall* c, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef floating* weight = <floating*>c.weight
    cdef floating* bias = <floating*>c.bias
    cdef floating* scratch = <floating*>c.scratch
    cdef floating* x = <floating*>c.x
    cdef floating* y = <floating*>c.y
    cdef floating* z = <floating*>c.v
    cdef Py_ssize_t start = 0, n = c.n if scratch == NULL else DENSE_ROWS
    while start < c.n:
        n = min(n, c.n - start)
        if start > 0:
            team_barrier(team)  # nobody reads the strips any more
        if c.groups == 1:
            forward_dense(x, weight, <floating*>NULL, bias, z, y, scratch, n, c.n_in, c.n_out, c.activation, True, member, team)
        else:
            forward_grouped_dense(x, weight, bias, z, y, scratch, n, c.n_in, c.n_out, c.groups, c.activation, True, member, team)
        start += n
        x += n * c.n_in
        y += n * c.n_out
        if z != NULL:
            z += n * c.n_out


cdef void dense_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef DenseCall* c = <DenseCall*>args
    if c.typenum == cnp.NPY_FLOAT32:
        dense_rows(c, <float*>NULL, member, team)
    else:
        dense_rows(c, <double*>NULL, member, team)


cdef void dense_backward_rows(DenseCall* c, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    if c.groups == 1:
        backward_dense(<floating*>c.dy, <floating*>c.x, <floating*>c.weight, <floating*>c.v, <floating*>c.dz,
                       <floating*>c.dx, <floating*>c.dw, <floating*>c.db, <floating*>c.scratch,
                       c.n, c.n_in, c.n_out, c.activation, False, member, team)
    else:
        backward_grouped_dense(<floating*>c.dy, <floating*>c.x, <floating*>c.weight, <floating*>c.v, <floating*>c.dz,
                               <floating*>c.dx, <floating*>c.dw, <floating*>c.db,
                               c.n, c.n_in, c.n_out, c.groups, c.activation, False, member, team)


cdef void dense_backward_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef DenseCall* c = <DenseCall*>args
    if c.typenum == cnp.NPY_FLOAT32:
        dense_backward_rows(c, <float*>NULL, member, team)
    else:
        dense_backward_rows(c, <double*>NULL, member, team)


cdef object scratch_for(DenseCall* c, Py_ssize_t rows, bint training):
    # an array that holds c.scratch
    cdef Py_ssize_t size
    if c.typenum == cnp.NPY_FLOAT32:
        size = dense_scratch(rows, c.n_in, c.n_out, training, <float*>NULL)
    else:
        size = dense_scratch(rows, c.n_in, c.n_out, training, <double*>NULL)
    block = np.empty(size + 16, dtype_of(c.typenum))
    c.scratch = <void*>((<size_t>data(block) + 63) // 64 * 64)
    return block


cdef object call_dense(object x, object weight, object bias, Py_ssize_t groups, object activation, object out, object z):
    # what dense and grouped_dense have in common
    cdef DenseCall c
    c.typenum = float_type("x", x)
    x = as_input("x", x, c.typenum, (None, None))
    c.n, c.n_in, c.groups = cnp.PyArray_DIM(<cnp.ndarray>x, 0), cnp.PyArray_DIM(<cnp.ndarray>x, 1), groups
    check_groups(groups, "columns of x", c.n_in)
    weight = as_input("weight", weight, c.typenum, (None, c.n_in // groups))
    c.n_out = cnp.PyArray_DIM(<cnp.ndarray>weight, 0)
    check_groups(groups, "rows of weight", c.n_out)
    if bias is not None:
        bias = as_input("bias", bias, c.typenum, (c.n_out,))
    c.activation = activation_code(activation)
    out = as_output("out", out, c.typenum, (c.n, c.n_out))
    if z is not None:
        z = as_output("z", z, c.typenum, (c.n, c.n_out))
    check_apart(("out", "z"), (out, z), ("x", "weight", "bias"), (x, weight, bias))
    if cnp.PyArray_SIZE(<cnp.ndarray>out) == 0:     # however many rows of nothing there are
        return out
    c.x, c.weight, c.y = data(x), data(weight), data(out)
    c.bias = NULL if bias is None else data(bias)
    c.v = NULL if z is None else data(z)
    c.scratch = NULL
    scratch = scratch_for(&c, min(c.n, <Py_ssize_t>DENSE_ROWS), False) if c.n >= TRANSPOSE_ROWS else None
    with nogil:
        team_run(dense_job, &c, team_for(c.n * c.n_in // groups * c.n_out))
    return out


cdef object call_dense_backward(object dy, object x, object weight, object z, Py_ssize_t groups, object activation,
                                object dx, object dw, object db, object y):
    cdef DenseCall c
    c.typenum = float_type("dy", dy)
    dy = as_input("dy", dy, c.typenum, (None, None))
    c.n, c.n_out, c.groups = cnp.PyArray_DIM(<cnp.ndarray>dy, 0), cnp.PyArray_DIM(<cnp.ndarray>dy, 1), groups
    check_groups(groups, "columns of dy", c.n_out)
    x = as_input("x", x, c.typenum, (c.n, None))
    c.n_in = cnp.PyArray_DIM(<cnp.ndarray>x, 1)
    check_groups(groups, "columns of x", c.n_in)
    weight = as_input("weight", weight, c.typenum, (c.n_out, c.n_in // groups))
    c.activation = activation_code(activation)
    v = slope_argument(c.activation, c.typenum, z, y, (c.n, c.n_out))
    dx = as_output("dx", dx, c.typenum, (c.n, c.n_in))
    if dw is not None:
        dw = as_output("dw", dw, c.typenum, (c.n_out, c.n_in // groups))
    if db is not None:
        db = as_output("db", db, c.typenum, (c.n_out,))
    check_apart(("dx", "dw", "db"), (dx, dw, db), ("dy", "x", "weight", "z"), (dy, x, weight, v))
    if all(a is None or cnp.PyArray_SIZE(<cnp.ndarray>a) == 0 for a in (dx, dw, db)):
        return dx
    dz = dy if c.activation == IDENTITY else np.empty_like(dy)
    c.dy, c.x, c.weight, c.dz, c.dx = data(dy), data(x), data(weight), data(dz), data(dx)
    c.v = data(dy) if v is None else data(v)
    c.dw = NULL if dw is None else data(dw)
    c.db = NULL if db is None else data(db)
    scratch = scratch_for(&c, c.n, True) if dw is not None and groups == 1 and pays_packing(c.n, c.n_in, c.n_out) else None
    with nogil:
        team_run(dense_backward_job, &c, team_for(2 * c.n * c.n_in // groups * c.n_out))
    return dx


cdef int check_groups(Py_ssize_t groups, str name, Py_ssize_t width) except -1:
    if width % groups != 0:
        raise ValueError(f"groups: expected a divisor of the {width} {name}, got {groups}")
    return 0


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
    return call_dense_backward(dy, x, weight, z, 1, activation, dx, dw, db, y)


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
        return activated(activation, typenum, z, None)
    return z
