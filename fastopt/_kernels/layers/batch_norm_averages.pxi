# Batch normalization by running averages, which stay as they are: in inference, and where the layer is frozen. A map of every
# column by itself, y = phi(gamma (x - mean) / sigma + beta), sigma = sqrt(var + eps): dx = dz gamma / sigma.

cdef struct Averages:
    BatchNorm rule              # the first part, so that `affine` and e.own serve both kinds
    void *zeros                 # (c,), the center and shift of maps that have none


cdef void forward_batch_norm_averages(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # x (n, c) -> z (n, c) by the averages, y (n, c) = phi(z), the thread's rows
    cdef BatchNorm* p = <BatchNorm*>e.own
    cdef Sizes s = sizes_of(r, e)
    cdef Rows x = source_rows(r, e, r.values, dtype), y = dst_rows(r, e, r.values, dtype)
    cdef Rows z = preactivations(r, e, r.z, r.values, dtype)
    cdef floating scale[COLUMN_BLOCK]
    cdef floating shift[COLUMN_BLOCK]
    cdef Py_ssize_t r0 = chunk_start(s.n, 1, thread, n_threads), r1 = chunk_start(s.n, 1, thread + 1, n_threads), c0 = 0, cols
    cdef ColumnMap m
    while c0 < e.n_in and r0 < r1:
        cols = min(<Py_ssize_t>COLUMN_BLOCK, e.n_in - c0)
        affine(p, <floating*>p.running_var, <floating*>scale, <floating*>shift, c0, cols)
        point_map(&m, <floating*>p.running_mean + c0, <floating*>NULL, <floating*>scale, <floating*>shift)
        scale_rows(&m, &x, &z, &y, e.activation, Block(r0, r1, c0, c0 + cols), False, dtype)
        c0 += cols
    if e.activation == SOFTMAX:
        epilogue(e.activation, &z, &y, &s, Block(0, 0, 0, 0), dtype, thread, n_threads)


cdef void backward_batch_norm_averages(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dz (n, c) = dy phi', in place; dx (n, c) (+)= dz gamma / sigma; dgamma = sum dz (x - mean) / sigma, dbeta = sum dz
    cdef Averages* p = <Averages*>e.own
    cdef Sizes s = sizes_of(r, e)
    cdef Rows x = source_rows(r, e, r.values, dtype), dz = dst_rows(r, e, r.dvalues, dtype)
    activation_gradient(r, e, &s, &dz, dtype, thread, n_threads)
    if e.sources[0].wanted:     # dx, of the rows whose dz the thread has just found
        add_scaled_rows(r, e, &dz, r.dvalues, dtype, thread, n_threads)
    if gradient(r, e, 0, dtype) != NULL:
        team_barrier(n_threads)
        sums_by_averages(r, e, &dz, &x, <floating*>p.rule.running_mean, True, False, dtype, thread, n_threads)


cdef void add_scaled_rows(Run* r, Entry* e, const Rows* dz, void** dvalues, floating* dtype, Py_ssize_t thread,
                          Py_ssize_t n_threads) noexcept nogil:
    # dx (n, c) (+)= dz gamma / sigma, the thread's rows; dx lies in dvalues, which may be tangents
    cdef Averages* p = <Averages*>e.own
    cdef Sizes s = sizes_of(r, e)
    cdef Block own = own_rows(&s, thread, n_threads)
    cdef Rows dx = source_rows(r, e, dvalues, dtype)
    cdef floating scale[COLUMN_BLOCK]
    cdef floating shift[COLUMN_BLOCK]
    cdef const floating* zeros = <floating*>p.zeros
    cdef ColumnMap m
    own.c1 = 0
    while own.c1 < e.n_in and own.r0 < own.r1:
        own.c0, own.c1 = own.c1, min(own.c1 + COLUMN_BLOCK, e.n_in)
        affine(&p.rule, <floating*>p.rule.running_var, <floating*>scale, <floating*>shift, own.c0, own.c1 - own.c0)
        point_map(&m, zeros, <floating*>scale, zeros, zeros)
        m.accumulate = e.sources[0].accumulate
        input_gradient_rows(&m, dz, dz, &dx, own, False, dtype)


cdef void sums_by_averages(Run* r, Entry* e, const Rows* w, const Rows* x, const floating* center, bint bias, bint accumulate,
                           floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # the gradients of gamma, (+)= sum w (x - center) / sigma, and with `bias` of beta, = sum w, the thread's columns
    cdef BatchNorm* p = <BatchNorm*>e.own
    cdef const floating* var = <floating*>p.running_var
    cdef floating* dgamma = gradient(r, e, 0, dtype)
    cdef floating* dbeta = gradient(r, e, 1, dtype)
    cdef double total[COLUMN_BLOCK]
    cdef double product[COLUMN_BLOCK]
    cdef Py_ssize_t c0 = chunk_start(e.n_in, COLUMN_GRAIN, thread, n_threads), cols, j
    cdef Py_ssize_t c1 = chunk_start(e.n_in, COLUMN_GRAIN, thread + 1, n_threads)
    cdef double more
    while c0 < c1:
        cols = min(<Py_ssize_t>COLUMN_BLOCK, c1 - c0)
        sum_products(w, x, Block(0, rows_in(r, e), c0, c0 + cols), center, total, product)
        for j in range(cols):
            more = product[j] / sqrt(<double>var[c0 + j] + p.eps)
            dgamma[c0 + j] = <floating>((<double>dgamma[c0 + j] if accumulate else 0) + more)
            if bias:
                dbeta[c0 + j] = <floating>total[j]
        c0 += cols


cdef void map_along(Run* r, Entry* e, const Rows* w, const Rows* x, const floating* center, const Rows* y, bint moves,
                    const floating* tgamma, const floating* tbeta, bint accumulate, Block own, floating* dtype) noexcept nogil:
    # y (n, c) (+)= w gamma / sigma + (x - center) tgamma / sigma + tbeta, the rows of a block; without the first term unless
    # it `moves`, and without what is NULL
    cdef Averages* p = <Averages*>e.own
    cdef floating scale[COLUMN_BLOCK]
    cdef floating shift[COLUMN_BLOCK]
    cdef floating turn[COLUMN_BLOCK]
    cdef const floating* var = <floating*>p.rule.running_var
    cdef const floating* zeros = <floating*>p.zeros
    cdef Py_ssize_t j, cols
    cdef ColumnMap m
    own.c1 = 0
    while own.c1 < e.n_in and own.r0 < own.r1:
        own.c0, own.c1 = own.c1, min(own.c1 + COLUMN_BLOCK, e.n_in)
        cols = own.c1 - own.c0
        affine(&p.rule, var, <floating*>scale, <floating*>shift, own.c0, cols)
        for j in range(cols):
            turn[j] = <floating>((<double>tgamma[own.c0 + j] if tgamma != NULL else 0) / sqrt(<double>var[own.c0 + j] + p.rule.eps))
            shift[j] = tbeta[own.c0 + j] if tbeta != NULL else <floating>0
        point_map(&m, center + own.c0, <floating*>scale if moves else zeros, <floating*>turn, <floating*>shift)
        m.accumulate = accumulate
        input_gradient_rows(&m, w, x, y, own, False, dtype)


cdef void tangent_batch_norm_averages(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # tz (n, c) = tx gamma / sigma + (x - mean) / sigma tgamma + tbeta; ty (n, c) = phi' tz
    cdef Averages* p = <Averages*>e.own
    cdef Sizes s = sizes_of(r, e)
    cdef bint moves = e.sources[0].wanted
    cdef Rows x = source_rows(r, e, r.values, dtype), tx = source_rows(r, e, r.tangents, dtype) if moves else x
    cdef Rows v = preactivations(r, e, r.z, r.values, dtype)
    cdef Rows tz = preactivations(r, e, r.tz, r.tangents, dtype), ty = dst_rows(r, e, r.tangents, dtype)
    cdef Block own = own_rows(&s, thread, n_threads)
    map_along(r, e, &tx, &x, <floating*>p.rule.running_mean, &tz, moves, direction(r, e, 0, dtype), direction(r, e, 1, dtype), False,
              own, dtype)
    tangent_epilogue(e.activation, &v, &tz, &ty, &s, own, dtype, thread, n_threads)


cdef void tangent_backward_batch_norm_averages(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dy, tdy (n, c) become dz and tdz; dx (n, c) (+)= dz gamma / sigma; tdx (n, c) (+)= tdz gamma / sigma + dz tgamma / sigma;
    # tdgamma = sum (tdz (x - mean) + dz tx) / sigma, tdbeta = sum tdz
    cdef Averages* p = <Averages*>e.own
    cdef Sizes s = sizes_of(r, e)
    cdef bint moves = e.sources[0].wanted
    cdef Rows x = source_rows(r, e, r.values, dtype), tx, tdx
    cdef Rows dz = dst_rows(r, e, r.dvalues, dtype), tdz = dst_rows(r, e, r.dtangents, dtype)
    activation_tangent_gradient(r, e, &s, &dz, &tdz, dtype, thread, n_threads)
    if moves:
        tdx = source_rows(r, e, r.dtangents, dtype)
        add_scaled_rows(r, e, &dz, r.dvalues, dtype, thread, n_threads)
        map_along(r, e, &tdz, &dz, <floating*>p.zeros, &tdx, True, direction(r, e, 0, dtype), NULL, e.sources[0].accumulate,
                  own_rows(&s, thread, n_threads), dtype)
    if e.n_weights > 0:
        team_barrier(n_threads)
        sums_by_averages(r, e, &tdz, &x, <floating*>p.rule.running_mean, True, False, dtype, thread, n_threads)
        if moves:
            tx = source_rows(r, e, r.tangents, dtype)
            sums_by_averages(r, e, &dz, &tx, <floating*>p.zeros, False, True, dtype, thread, n_threads)


# --- the kind

cdef int place_batch_norm_averages(Entry* e, dict own, list weights, Arrays arrays) except -1:
    # weights: gamma and beta (c,), or none; own: eps, and the averages mean and var (c,)
    cdef Averages* p = <Averages*>arrays.block(sizeof(Averages))
    e.own, p.rule.eps = <void*>p, own.pop("eps")
    place_gamma_beta(e, &p.rule, weights, arrays)
    p.rule.running_mean = arrays.hold("running_mean", own.pop("mean"), arrays.typenum, (e.n_in,))
    p.rule.running_var = arrays.hold("running_var", own.pop("var"), arrays.typenum, (e.n_in,))
    p.zeros = arrays.block(e.n_in * sizeof(double))
    return 0


cdef Kind batch_norm_averages_kind
batch_norm_averages_kind.forward = Pass(forward_batch_norm_averages[float], forward_batch_norm_averages[double])
batch_norm_averages_kind.backward = Pass(backward_batch_norm_averages[float], backward_batch_norm_averages[double])
batch_norm_averages_kind.tangent = Pass(tangent_batch_norm_averages[float], tangent_batch_norm_averages[double])
batch_norm_averages_kind.tangent_backward = Pass(tangent_backward_batch_norm_averages[float], tangent_backward_batch_norm_averages[double])
batch_norm_averages_kind.place, batch_norm_averages_kind.fits = place_batch_norm_averages, same_shape
batch_norm_averages_kind.activates, batch_norm_averages_kind.least_rows = True, 1
register_kind(&batch_norm_averages_kind, "batch_norm_averages")
