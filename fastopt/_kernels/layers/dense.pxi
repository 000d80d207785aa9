# The dense layer, y = phi(x W^T + b), whole or in groups. With groups, outputs and inputs are cut into as many parts and an
# output reads the inputs of its own part: W is block-diagonal, and only its blocks are kept and multiplied.
#
# - The products are those of products.pxi; which one forward takes depends on the rows of the whole call, never on the
#   team. A group's product has the bits of a layer of its own.
# - Forward: a thread owns a block of y. Bias and relu are applied while outputs are in registers, other activations while
#   rows are in cache. Softmax needs whole rows and follows a barrier. Many groups are handed out whole, few are cut like
#   one product.
# - Scratch holds x or the weight in strips, or tables of where rows begin; all threads fill it, and wait at a barrier before they read it.
# - Fused update: a few rows of dW are computed, taken by the optimizer's rule while they are in cache, and gone. dx reads the
#   same rows of W just before they change, while they are in cache. A thread owns columns: it updates what it reads of W
#   for dx, so nobody waits. Where no dx is wanted it owns rows, the ones that it had in forward.

cdef struct Dense:
    Py_ssize_t groups, depth, width     # inputs and outputs of a group
    void *weight                # (out, in / groups)
    void *bias                  # (out,) or NULL
    void *packed                # the weight in strips, in place of `weight`, where a network keeps it so; else NULL


cdef inline Py_ssize_t group_grain(Py_ssize_t groups, Py_ssize_t width, Py_ssize_t grain, Py_ssize_t n_threads) noexcept nogil:
    # the grain of columns: whole groups where four or more a thread make the chunks even, else as given
    if groups < 4 * n_threads or width == 0:
        return grain
    return (grain + width - 1) // width * width


cdef inline Sizes sizes_of(const Run* r, const Entry* e) noexcept nogil:
    return Sizes(rows_in(r, e), e.n_in, e.n_out)


cdef inline bint packs_weight(const Entry* e, Py_ssize_t rows) noexcept nogil:
    # whether forward packs the weight rather than transposes rows in and out: where that moves less, by more than the lanes
    # that outputs leave empty cost. Either way gives the same bits, and what pays for some rows pays for more
    cdef Dense* d = <Dense*>e.own
    cdef Py_ssize_t moved = rows * (e.n_in + e.n_out) - d.depth * e.n_out
    return TRANSPOSE_WORK * moved > rows * d.depth * (d.groups * round_up(d.width, LANES_f) - e.n_out)


cdef inline Py_ssize_t packed_elements(const Dense* d) noexcept nogil:
    # that the weight takes in strips
    return d.groups * round_up(d.width, LANES_f) * d.depth


cdef void forward_dense(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # x (n, in) -> z (n, out) = x W^T + b, y (n, out) = phi(z). In training a thread keeps to its outputs, for the weights
    # that it has updated are in its cache
    cdef Dense* d = <Dense*>e.own
    cdef Sizes s = sizes_of(r, e)
    cdef Py_ssize_t depth = d.depth, width = d.width, rows = r.n * e.positions, i, g, m, c0, c1
    cdef Rows x = source_rows(r, e, r.values, dtype), y = dst_rows(r, e, r.values, dtype)
    cdef Rows z = preactivations(r, e, r.z, r.values, dtype)
    cdef bint fused_relu = e.activation == RELU and z.start == y.start
    cdef bint in_strips = rows >= TRANSPOSE_ROWS
    cdef Block own
    cdef TransposedProduct strips
    cdef Product p
    if d.packed != NULL or (in_strips and packs_weight(e, s.n)):
        forward_packed(r, e, dtype, thread, n_threads)
        return
    if in_strips:               # the thread's block of z, of either product
        own = pack_chunk(&x, <floating*>r.scratch, &s, group_grain(d.groups, width, COLUMN_GRAIN, n_threads),
                         not (r.training and e.n_weights > 0), thread, n_threads)
        strips.strips, strips.more_strips, strips.weight = <floating*>r.scratch + own.r0 * s.n_in, NULL, d.weight
        strips.bias, strips.n_in, strips.depth, strips.relu = d.bias, s.n_in, depth, fused_relu
    else:
        own = grid_chunk(s.n, s.n_out, DOT_ROWS, group_grain(d.groups, width, COLUMN_GRAIN, n_threads), thread, n_threads)
    p.a_row, p.ldb, p.ldc, p.depth, p.accumulate, p.relu = x.ld, depth, z.ld, depth, False, fused_relu
    g = (0 if own.c0 == 0 else own.c0 // width) if own.r0 < own.r1 and own.c0 < own.c1 else d.groups
    while g * width < own.c1:   # group by group, z = x W^T + b
        c0, c1 = max(own.c0, g * width), min(own.c1, (g + 1) * width)
        if in_strips:
            strips.k = g * depth
            transposed_product(&strips, &z, Block(own.r0, own.r1, c0, c1), dtype)
        i = own.r1 if in_strips else own.r0
        while i < own.r1:       # run by run
            m = common_rows(&x, &z, i, own.r1)
            p.a, p.rows = row(&x, i, dtype) + g * depth, m
            p.b, p.c, p.cols = <floating*>d.weight + c0 * depth, row(&z, i, dtype) + c0, c1 - c0
            p.bias = <floating*>d.bias + c0 if d.bias != NULL else <floating*>NULL
            dot_product(&p, dtype)
            i += m
        g += 1
    if not fused_relu and (e.activation != IDENTITY or z.start != y.start):     # y = phi(z)
        epilogue(e.activation, &z, &y, &s, own, dtype, thread, n_threads)


cdef void forward_packed(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # likewise of a weight in strips: kept so, whatever the rows, or packed in scratch
    cdef Dense* d = <Dense*>e.own
    cdef Sizes s = sizes_of(r, e)
    cdef Rows x = source_rows(r, e, r.values, dtype), y = dst_rows(r, e, r.values, dtype)
    cdef Rows z = preactivations(r, e, r.z, r.values, dtype)
    cdef bint fused_relu = e.activation == RELU and z.start == y.start
    cdef Block own = rows_or_units(s.n, d.groups * n_strips(d.width, dtype), d.depth * s.n_out > s.n * s.n_in, thread, n_threads)
    cdef const void* packed = d.packed
    if packed == NULL:
        pack_groups(<floating*>d.weight, d.groups, d.width, d.depth, <floating*>r.scratch, thread, n_threads)
        packed = r.scratch
    packed_product(d, packed, &x, &z, own, fused_relu, dtype)
    if not fused_relu and (e.activation != IDENTITY or z.start != y.start):     # y = phi(z)
        own.c0, own.c1 = unit_column(own.c0, d.width, dtype), unit_column(own.c1, d.width, dtype)
        epilogue(e.activation, &z, &y, &s, own, dtype, thread, n_threads)


cdef inline Py_ssize_t unit_column(Py_ssize_t unit, Py_ssize_t width, floating* dtype) noexcept nogil:
    # the first output of a strip, of the strips of all groups
    cdef Py_ssize_t strips = n_strips(width, dtype)
    return unit // strips * width + strip_start(width, unit % strips, dtype)


cdef void packed_product(const Dense* d, const void* packed, const Rows* x, const Rows* z,
                         Block own, bint relu, floating* dtype) noexcept nogil:
    # z = x W^T + b, rows r0 to r1, strips c0 to c1 of all groups
    cdef Py_ssize_t a[OFFSET_BLOCK]
    cdef Py_ssize_t c[OFFSET_BLOCK]
    cdef Py_ssize_t strips = n_strips(d.width, dtype), i = own.r0, n, unit, group, first, column, width, k
    cdef const floating* strip
    cdef Indirect p
    p.a_cols, p.b_rows, p.resume = IN_ORDER, NULL, False
    while i < own.r1:
        n = min(<Py_ssize_t>OFFSET_BLOCK, own.r1 - i)
        row_offsets(x, i, n, a, dtype)
        row_offsets(z, i, n, c, dtype)
        for unit in range(own.c0, own.c1):
            group, first = unit // strips, strip_start(d.width, unit % strips, dtype)
            column, width = group * d.width + first, strip_start(d.width, unit % strips + 1, dtype) - first
            strip = <floating*>packed + (group * round_up(d.width, lanes_of(dtype)) + first) * d.depth
            k = 0
            while k < d.depth or k == 0:        # a longer sum is cut; of nothing it is the bias
                p.depth, p.accumulate, p.relu = min(<Py_ssize_t>SUM_DEPTH, d.depth - k), k > 0, relu and k + SUM_DEPTH >= d.depth
                strip_product(&p, min(width, d.width - first), <floating*>x.start + group * d.depth + k, a, strip + k * width,
                              <floating*>d.bias + column if d.bias != NULL and k == 0 else <floating*>NULL,
                              <floating*>z.start + column, c, n)
                k += SUM_DEPTH
        i += n


cdef void epilogue(int activation, const Rows* z, const Rows* y, const Sizes* s, Block own, floating* dtype,
                   Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # y (n, n_out) = phi(z) in the thread's block; softmax takes whole rows
    if activation == SOFTMAX:
        team_barrier(n_threads)
        own = Block(chunk_start(s.n, 1, thread, n_threads), chunk_start(s.n, 1, thread + 1, n_threads), 0, s.n_out)
    activate_rows(activation, z, y, s.n_out, own, dtype)


cdef inline Block own_rows(const Sizes* s, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # the thread's rows of dz
    return Block(chunk_start(s.n, ROW_GRAIN, thread, n_threads), chunk_start(s.n, ROW_GRAIN, thread + 1, n_threads), 0, s.n_out)


cdef void activation_gradient(Run* r, Entry* e, const Sizes* s, Rows* dz, floating* dtype, Py_ssize_t thread,
                              Py_ssize_t n_threads) noexcept nogil:
    # dz (n, n_out) = dy phi', the thread's rows; in place, unless r.dy holds dy
    cdef Rows v = preactivations(r, e, r.z, r.values, dtype), dy = dz[0]
    if r.dy != NULL:
        dy = matrix(r.dy, s.n_out)
    if e.activation != IDENTITY or dz.start != dy.start:
        derive_rows(e.activation, &v, &dy, dz, s.n_out, own_rows(s, thread, n_threads), dtype)


cdef inline RowOffsets dense_rows(void* scratch, Py_ssize_t n) noexcept nogil:
    # the tables in scratch, of n rows
    cdef Py_ssize_t* tables = <Py_ssize_t*>scratch
    return RowOffsets(tables, tables + n, tables + 2 * n)


cdef void find_rows(const Run* r, const Entry* e, const RowOffsets* at, floating* dtype, Py_ssize_t thread,
                    Py_ssize_t n_threads) noexcept nogil:
    # the thread's chunk of where rows begin. Gradients and tangents lie as their values do
    cdef Dense* d = <Dense*>e.own
    cdef Py_ssize_t n = rows_in(r, e), weight_rows = min(<Py_ssize_t>SUM_DEPTH, d.width), i
    cdef Py_ssize_t r0 = chunk_start(n, 1, thread, n_threads), r1 = chunk_start(n, 1, thread + 1, n_threads)
    cdef Rows x = source_rows(r, e, r.values, dtype), dz = dst_rows(r, e, r.dvalues, dtype)
    row_offsets(&x, r0, r1 - r0, at.x + r0, dtype)
    row_offsets(&dz, r0, r1 - r0, at.dz + r0, dtype)
    for i in range(chunk_start(weight_rows, 1, thread, n_threads), chunk_start(weight_rows, 1, thread + 1, n_threads)):
        at.weight[i] = i * d.depth


cdef void backward_dense(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dz (n, out) = dy phi', in place; in each group dx (n, in) (+)= dz W, dW (out, in / groups) = dz^T x; db = sum of dz's rows
    cdef Sizes s = sizes_of(r, e)
    cdef Rows x = source_rows(r, e, r.values, dtype), dz = dst_rows(r, e, r.dvalues, dtype)
    cdef floating* dw = gradient(r, e, 0, dtype)
    cdef floating* db = gradient(r, e, 1, dtype)
    cdef RowOffsets at = dense_rows(r.scratch, s.n)
    activation_gradient(r, e, &s, &dz, dtype, thread, n_threads)
    find_rows(r, e, &at, dtype, thread, n_threads)
    team_barrier(n_threads)
    if e.sources[0].wanted:     # dx
        input_gradient(r, e, &at, (<Dense*>e.own).weight, &dz, r.dvalues, e.sources[0].accumulate, dtype, thread, n_threads)
    if dw != NULL:              # dW
        group_gradients(e, &at, &dz, &x, &s, dw, False, thread, n_threads)
    if db != NULL:              # db
        bias_gradient(&dz, &s, db, thread, n_threads)


cdef void input_gradient(const Run* r, const Entry* e, const RowOffsets* at, const void* weight, const Rows* dz, void** dvalues,
                         bint accumulate, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dx (n, in) (+)= dz W, group by group, the thread's block; dx lies in dvalues, which may be tangents
    cdef Dense* d = <Dense*>e.own
    cdef Py_ssize_t depth = d.depth, width = d.width, p, g, c0, c1
    cdef Rows dx = source_rows(r, e, dvalues, dtype)
    cdef Py_ssize_t grain = group_grain(d.groups, depth, strip_width(dtype), n_threads)
    cdef Block own = grid_chunk(rows_in(r, e), e.n_in, ROW_GRAIN, grain, thread, n_threads)
    g = own.c0 // depth if own.r0 < own.r1 and own.c0 < own.c1 else d.groups
    while g * depth < own.c1:
        c0, c1, p = max(own.c0, g * depth), min(own.c1, (g + 1) * depth), 0
        while p < width or p == 0:
            input_gradient_block(at, <floating*>dz.start + g * width + p, <floating*>weight + (g * width + p) * depth,
                                 <floating*>dx.start + g * depth, Block(own.r0, own.r1, c0 - g * depth, c1 - g * depth),
                                 min(<Py_ssize_t>SUM_DEPTH, width - p), accumulate or p > 0)
            p += SUM_DEPTH
        g += 1


cdef void group_gradients(const Entry* e, const RowOffsets* at, const Rows* dz, const Rows* x, const Sizes* s, floating* dw,
                          bint accumulate, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dW (out, in / groups) (+)= dz^T x of each group, the thread's block
    cdef Dense* d = <Dense*>e.own
    cdef Py_ssize_t depth = d.depth, width = d.width, g
    cdef Block own = grid_chunk(s.n_out, depth, ROW_GRAIN, strip_width(dw), thread, n_threads), part = own
    g = own.r0 // width if own.r0 < own.r1 and own.c0 < own.c1 else d.groups
    while g * width < own.r1:
        part.r0, part.r1 = max(own.r0, g * width), min(own.r1, (g + 1) * width)
        weight_gradient(at, <floating*>dz.start, <floating*>x.start + g * depth, dw + part.r0 * depth + own.c0, depth, part, s.n,
                        accumulate)
        g += 1


cdef inline void bias_gradient(const Rows* dz, const Sizes* s, floating* db, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    sum_rows(dz, chunk_start(s.n_out, 16, thread, n_threads), chunk_start(s.n_out, 16, thread + 1, n_threads), s.n, db)


# --- the fused update

cdef void fused_update_dense(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # as backward_dense, but the weight takes its step, penalty included, and no dW is written. Where the norm of all
    # gradients is clipped, backward has computed dz and dx before
    cdef Dense* d = <Dense*>e.own
    cdef Sizes s = sizes_of(r, e)
    cdef Py_ssize_t p = 0, high = FUSED_FEW if s.n < FUSED_FEW else SUM_DEPTH, c0, c1
    cdef Rows x = source_rows(r, e, r.values, dtype), dz = dst_rows(r, e, r.dvalues, dtype), dx
    cdef RowOffsets at = dense_rows(r.scratch, s.n)
    cdef FusedRows rows
    if r.update != UPDATE_CLIPPED:
        activation_gradient(r, e, &s, &dz, dtype, thread, n_threads)
    find_rows(r, e, &at, dtype, thread, n_threads)
    team_barrier(n_threads)
    if e.n_weights > 1:
        bias_gradient(&dz, &s, <floating*>r.dparams[e.weights[1].grad], thread, n_threads)
    rows.at, rows.dz, rows.x, rows.weight, rows.plan, rows.n = &at, dz.start, x.start, &e.weights[0], r.plan, s.n
    rows.room = r.thread_scratch + thread * r.thread_bytes
    if not e.sources[0].wanted or r.update == UPDATE_CLIPPED:       # no dx: the thread owns rows of the weight
        update_rows(&rows, Block(chunk_start(s.n_out, 16, thread, n_threads), chunk_start(s.n_out, 16, thread + 1, n_threads), 0, s.n_in),
                    dtype)
        return
    dx = source_rows(r, e, r.dvalues, dtype)
    c0 = chunk_start(s.n_in, strip_width(dtype), thread, n_threads)
    c1 = chunk_start(s.n_in, strip_width(dtype), thread + 1, n_threads)
    while p < s.n_out and c0 < c1:      # columns c0 to c1 of dx (+)= dz W for rows p to p + high of W, which then take their step
        input_gradient_block(&at, <floating*>dz.start + p, <floating*>d.weight + p * s.n_in, <floating*>dx.start,
                             Block(0, s.n, c0, c1), min(high, s.n_out - p), e.sources[0].accumulate or p > 0)
        update_rows(&rows, Block(p, min(p + high, s.n_out), c0, c1), dtype)
        p += high


cdef Py_ssize_t fused_room(const Entry* e) noexcept nogil:
    return FUSED_ROWS * FUSED_COLUMNS if e.fuses else 0


cdef bint dense_row_norm_pays(const Run* r, const Entry* e) noexcept nogil:
    # whether ||dW|| costs less from the rows of x and dz than from a dW that is written and read twice
    cdef Sizes s = sizes_of(r, e)
    return e.positions == 1 and s.n * s.n * (s.n_in + s.n_out) < GRAM_WORK * s.n_in * s.n_out


cdef double dense_row_norm(const Run* r, const Entry* e, Py_ssize_t i) noexcept nogil:
    # what the pairs (i, j <= i) add to ||dW||^2 = sum_ij (X X^T)_ij (dZ dZ^T)_ij and, with bias, ||db||^2 = sum_ij (dZ dZ^T)_ij
    return gram_row(r, e, i, <float*>NULL) if r.typenum == cnp.NPY_FLOAT32 else gram_row(r, e, i, <double*>NULL)


cdef double gram_row(const Run* r, const Entry* e, Py_ssize_t i, floating* dtype) noexcept nogil:
    cdef Rows x = source_rows(r, e, r.values, dtype), dz = dst_rows(r, e, r.dvalues, dtype)
    cdef Py_ssize_t j
    cdef double total = 0, more = 1 if e.n_weights > 1 else 0
    for j in range(i + 1):
        total += (1 if j == i else 2) * (dot_wide(row(&x, i, dtype), row(&x, j, dtype), e.n_in) + more) * dot_wide(
            row(&dz, i, dtype), row(&dz, j, dtype), e.n_out)
    return total


# --- directional derivatives: a leading t names the tangent of what follows it

cdef void tangent_dense(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # tz (n, out) = x tW^T + tx W^T + tb, ty = phi' tz; products as forward_dense chooses them
    cdef Dense* d = <Dense*>e.own
    cdef Sizes s = sizes_of(r, e)
    cdef Py_ssize_t depth = d.depth, width = d.width, i, m, g, c0, c1
    cdef Py_ssize_t grain = group_grain(d.groups, width, COLUMN_GRAIN, n_threads)
    cdef Rows x = source_rows(r, e, r.values, dtype), tx = source_rows(r, e, r.tangents, dtype)
    cdef Rows v = preactivations(r, e, r.z, r.values, dtype), tz = preactivations(r, e, r.tz, r.tangents, dtype)
    cdef Rows ty = dst_rows(r, e, r.tangents, dtype)
    cdef floating* tweight = direction(r, e, 0, dtype)
    cdef floating* tbias = direction(r, e, 1, dtype)
    cdef bint moves = e.sources[0].wanted, in_strips = r.n * e.positions >= TRANSPOSE_ROWS
    cdef Block own
    cdef TransposedProduct strips
    cdef Product p
    if tweight == NULL:         # a constant matrix: tz = tx W^T
        if not moves:
            return
        x, tweight, moves = tx, <floating*>d.weight, False
    if in_strips:
        if moves:
            pack_transposed(&tx, Block(0, s.n, chunk_start(s.n_in, lanes_of(dtype), thread, n_threads),
                                       chunk_start(s.n_in, lanes_of(dtype), thread + 1, n_threads)), s.n_in, <floating*>r.tscratch)
        own = pack_chunk(&x, <floating*>r.scratch, &s, grain, False, thread, n_threads)
    else:
        own = grid_chunk(s.n, s.n_out, DOT_ROWS, grain, thread, n_threads)
    strips.strips, strips.more_strips = r.scratch, r.tscratch if moves else NULL
    strips.weight, strips.more_weight, strips.bias = tweight, d.weight, tbias
    strips.n_in, strips.depth, strips.relu = s.n_in, depth, False
    p.ldb, p.ldc, p.depth, p.relu = depth, tz.ld, depth, False
    g = (0 if own.c0 == 0 else own.c0 // width) if own.r0 < own.r1 and own.c0 < own.c1 else d.groups
    while g * width < own.c1:   # group by group, tz
        c0, c1 = max(own.c0, g * width), min(own.c1, (g + 1) * width)
        if in_strips:           # both products at once
            strips.k = g * depth
            transposed_product(&strips, &tz, Block(own.r0, own.r1, c0, c1), dtype)
        i = own.r1 if in_strips else own.r0
        while i < own.r1:       # run by run, x tW^T + tb and then += tx W^T
            m = common_rows(&x, &tz, i, common_rows(&tx, &tz, i, own.r1) + i) if moves else common_rows(&x, &tz, i, own.r1)
            p.a, p.a_row, p.b = row(&x, i, dtype) + g * depth, x.ld, tweight + c0 * depth
            p.c, p.rows, p.cols, p.accumulate = row(&tz, i, dtype) + c0, m, c1 - c0, False
            p.bias = tbias + c0 if tbias != NULL else <floating*>NULL
            dot_product(&p, dtype)
            if moves:
                p.a, p.a_row, p.b = row(&tx, i, dtype) + g * depth, tx.ld, <floating*>d.weight + c0 * depth
                p.accumulate, p.bias = True, NULL
                dot_product(&p, dtype)
            i += m
        g += 1
    tangent_epilogue(e.activation, &v, &tz, &ty, &s, own, dtype, thread, n_threads)


cdef void tangent_epilogue(int activation, const Rows* v, const Rows* tz, const Rows* ty, const Sizes* s, Block own, floating* dtype,
                           Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # ty (n, n_out) = phi' tz in the thread's block; softmax, whose Jacobian is symmetric, takes whole rows
    if activation == SOFTMAX:
        team_barrier(n_threads)
        own = own_rows(s, thread, n_threads)
    elif activation == IDENTITY and tz.start == ty.start:
        return
    derive_rows(activation, v, tz, ty, s.n_out, own, dtype)


cdef void activation_tangent_gradient(Run* r, Entry* e, const Sizes* s, const Rows* dy, const Rows* tdy, floating* dtype,
                                      Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dy (n, n_out) becomes dz = dy phi', tdy its tangent: the thread's rows
    cdef Rows v = preactivations(r, e, r.z, r.values, dtype), tv = preactivations(r, e, r.tz, r.tangents, dtype)
    derive_tangent_rows(e.activation, &v, &tv, dy, tdy, s.n_out, own_rows(s, thread, n_threads), dtype)


cdef void tangent_backward_dense(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dy, tdy (n, out) become dz and tdz; dx (n, in) (+)= dz W; tdx (+)= tdz W + dz tW; tdW = tdz^T x + dz^T tx; tdb = sum of
    # tdz's rows
    cdef Dense* d = <Dense*>e.own
    cdef Sizes s = sizes_of(r, e)
    cdef Rows x = source_rows(r, e, r.values, dtype), tx = source_rows(r, e, r.tangents, dtype)
    cdef Rows dz = dst_rows(r, e, r.dvalues, dtype), tdz = dst_rows(r, e, r.dtangents, dtype)
    cdef bint moves = e.sources[0].wanted, accumulate = e.sources[0].accumulate
    cdef RowOffsets at = dense_rows(r.scratch, s.n)
    activation_tangent_gradient(r, e, &s, &dz, &tdz, dtype, thread, n_threads)
    find_rows(r, e, &at, dtype, thread, n_threads)
    team_barrier(n_threads)
    if moves:                   # dx, and the first term of tdx
        input_gradient(r, e, &at, d.weight, &dz, r.dvalues, accumulate, dtype, thread, n_threads)
        input_gradient(r, e, &at, d.weight, &tdz, r.dtangents, accumulate, dtype, thread, n_threads)
    if e.n_weights > 0:         # tdW
        group_gradients(e, &at, &tdz, &x, &s, gradient(r, e, 0, dtype), False, thread, n_threads)
    if moves and e.n_weights > 0:       # the second terms
        input_gradient(r, e, &at, direction(r, e, 0, dtype), &dz, r.dtangents, True, dtype, thread, n_threads)
        group_gradients(e, &at, &dz, &tx, &s, gradient(r, e, 0, dtype), True, thread, n_threads)
    if e.n_weights > 1:
        bias_gradient(&tdz, &s, gradient(r, e, 1, dtype), thread, n_threads)


# --- the kind

cdef Py_ssize_t dense_work(const Entry* e) noexcept nogil:
    return e.n_in * e.n_out // (<Dense*>e.own).groups


cdef inline Py_ssize_t offsets_of(const Entry* e, Py_ssize_t rows) noexcept nogil:
    # entries of the tables of where rows begin
    return 2 * rows + min(<Py_ssize_t>SUM_DEPTH, (<Dense*>e.own).width)


cdef Py_ssize_t dense_scratch(const Entry* e, Py_ssize_t rows, bint training) noexcept nogil:
    # x or the weight in strips; in training, or tables of where rows begin, whose entries are as large as two floats
    cdef Py_ssize_t strips = round_up(rows, LANES_f) * e.n_in
    if packs_weight(e, rows):
        strips = max(strips, packed_elements(<Dense*>e.own))
    return max(strips, 2 * offsets_of(e, rows)) if training else strips


cdef bint dense_by_columns(const Run* r, const Entry* e) noexcept nogil:
    # in training the threads of forward own columns, and apply all of the activation to them
    return (r.training and e.n_weights > 0 and (<Dense*>e.own).groups == 1 and r.n * e.positions >= TRANSPOSE_ROWS
            and not packs_weight(e, rows_in(r, e)) and e.activation != SOFTMAX)


cdef bint dense_fits(const Entry* e, const Shape* shapes) noexcept:
    return same_positions(&shapes[e.sources[0].value], &shapes[e.dst])


cdef int place_dense(Entry* e, dict own, list weights, Arrays arrays) except -1:
    # weights: weight (out, in / groups), packed or not, and, or not, bias (out,). Or none, and `constant`, a weight that is
    # not trained
    cdef Dense* d = <Dense*>arrays.block(sizeof(Dense))
    e.own, d.groups = <void*>d, _numbers.whole_number("groups", own.pop("groups", 1))
    if e.n_in % d.groups or e.n_out % d.groups:
        raise ValueError(f"{arrays.entry}: expected groups that divide {e.n_in} inputs and {e.n_out} outputs, got {d.groups}")
    d.depth, d.width = e.n_in // d.groups, e.n_out // d.groups
    shape = (e.n_out, d.depth)
    if "constant" in own:
        d.weight = arrays.hold("constant", own.pop("constant"), arrays.typenum, shape)
        return 0
    if weights and isinstance(weights[0], PackedWeight):
        d.packed = arrays.hold_packed(e, weights, shape, d.groups)
    else:
        d.weight = arrays.hold_weight(e, "weight", weights, shape)
    if len(weights) > 1:
        d.bias = arrays.hold_weight(e, "bias", weights, (e.n_out,))
    e.fuses = d.groups == 1
    return 0


cdef Kind dense_kind
dense_kind.forward = Pass(forward_dense[float], forward_dense[double])
dense_kind.backward = Pass(backward_dense[float], backward_dense[double])
dense_kind.fused_update = Pass(fused_update_dense[float], fused_update_dense[double])
dense_kind.tangent = Pass(tangent_dense[float], tangent_dense[double])
dense_kind.tangent_backward = Pass(tangent_backward_dense[float], tangent_backward_dense[double])
dense_kind.place, dense_kind.fits = place_dense, dense_fits
dense_kind.work, dense_kind.scratch, dense_kind.thread_scratch = dense_work, dense_scratch, fused_room
dense_kind.row_norm, dense_kind.row_norm_pays, dense_kind.by_columns = dense_row_norm, dense_row_norm_pays, dense_by_columns
dense_kind.least_rows, dense_kind.activates = 1, True
register_kind(&dense_kind, "dense")
