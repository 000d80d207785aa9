# Directional derivatives of batch normalization, and its kind: a leading t names the tangent of what follows it.

cdef void tangent_batch_norm(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # tmean = mean(tx), cov = mean(x^ tx), (c,) each, saved for backward; tx^ = (tx - tmean - x^ cov) / sigma;
    # tz (n, c) = gamma tx^ + tgamma x^ + tbeta; ty (n, c) = phi' tz
    cdef BatchNorm* p = <BatchNorm*>e.own
    cdef Sizes s = sizes_of(r, e)
    cdef bint moves = e.sources[0].wanted
    cdef Rows x = source_rows(r, e, r.values, dtype), tx, v = preactivations(r, e, r.z, r.values, dtype)
    cdef Rows tz = preactivations(r, e, r.tz, r.tangents, dtype), ty = dst_rows(r, e, r.tangents, dtype)
    cdef double total[COLUMN_BLOCK]
    cdef double product[COLUMN_BLOCK]
    cdef double inverses[COLUMN_BLOCK]
    cdef floating* gamma = <floating*>p.gamma
    cdef floating* tgamma = direction(r, e, 0, dtype)
    cdef floating* tbeta = direction(r, e, 1, dtype)
    cdef floating* mean = statistic(e, r.saved, MEAN, dtype)
    cdef floating* tmean = statistic(e, r.tsaved, MEAN, dtype)
    cdef floating* cov = statistic(e, r.tsaved, VARIANCE, dtype)
    cdef floating* weight = statistic(e, r.tsaved, WEIGHT, dtype)
    cdef floating* scale = statistic(e, r.tsaved, SCALE, dtype)
    cdef floating* shift = statistic(e, r.tsaved, SHIFT, dtype)
    cdef Py_ssize_t first = 0, last, c0, c1, cols, j, r0 = chunk_start(s.n, 1, thread, n_threads)
    cdef Py_ssize_t r1 = chunk_start(s.n, 1, thread + 1, n_threads)
    cdef double inverse, factor
    cdef ColumnMap m
    if not moves and e.n_weights == 0:
        return                  # nothing before it is trained
    tx = source_rows(r, e, r.tangents, dtype)
    while first < e.n_in:
        last = columns_until(first, &s, n_threads, dtype)
        c0 = first + chunk_start(last - first, COLUMN_GRAIN, thread, n_threads)
        c1 = first + chunk_start(last - first, COLUMN_GRAIN, thread + 1, n_threads)
        while c0 < c1:          # the thread's columns: tmean and cov, coefficients in tz = tx weight + (x - mean) scale + shift
            cols = min(<Py_ssize_t>COLUMN_BLOCK, c1 - c0)
            sum_products(&tx if moves else <const Rows*>NULL, &x, Block(0, s.n, c0, c0 + cols), mean, total, product)
            inverse_deviations(&x, statistic(e, r.saved, VARIANCE, dtype), inverses, s.n, c0, cols, p.eps)
            for j in range(cols):
                inverse = inverses[j]
                factor = inverse * (<double>gamma[c0 + j] if gamma != NULL else 1)
                tmean[c0 + j] = <floating>(total[j] / <double>s.n)
                cov[c0 + j] = <floating>(product[j] / <double>s.n * inverse)
                weight[c0 + j] = <floating>factor
                scale[c0 + j] = <floating>(inverse * ((<double>tgamma[c0 + j] if gamma != NULL else 0) - factor * <double>cov[c0 + j]))
                shift[c0 + j] = <floating>((<double>tbeta[c0 + j] if gamma != NULL else 0) - factor * <double>tmean[c0 + j])
            c0 += cols
        team_barrier(n_threads)  # from here on the thread's rows of tz and ty
        saved_map(&m, e, r.saved, r.tsaved, first, False, dtype)
        if moves:
            input_gradient_rows(&m, &tx, &x, &tz, Block(r0, r1, first, last), False, dtype)
        else:
            scale_rows(&m, &x, &tz, &tz, IDENTITY, Block(r0, r1, first, last), False, dtype)
        first = last
    tangent_epilogue(e.activation, &v, &tz, &ty, &s, Block(r0, r1, 0, e.n_in), dtype, thread, n_threads)


cdef void tangent_backward_batch_norm(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dy, tdy (n, c) become dz and tdz. With a = mean(dz), b = mean(dz x^), ta and tb their tangents:
    # dx (n, c) (+)= gamma / sigma (dz - a - x^ b)
    # tdx (n, c) (+)= gamma / sigma (tdz - ta - tx^ b - x^ tb) + (tgamma - gamma cov / sigma) / sigma (dz - a - x^ b)
    # tdgamma = n tb, tdbeta = n ta
    cdef BatchNorm* p = <BatchNorm*>e.own
    cdef Sizes s = sizes_of(r, e)
    cdef bint moves = e.sources[0].wanted
    cdef Rows x = source_rows(r, e, r.values, dtype), tx = source_rows(r, e, r.tangents, dtype)
    cdef Rows dz = dst_rows(r, e, r.dvalues, dtype), tdz = dst_rows(r, e, r.dtangents, dtype)
    cdef TangentSums sums
    cdef double again[COLUMN_BLOCK]
    cdef double moved[COLUMN_BLOCK]             # sum dz (tx - tmean)
    cdef floating* gamma = <floating*>p.gamma
    cdef floating* mean = statistic(e, r.saved, MEAN, dtype)
    cdef floating* tmean = statistic(e, r.tsaved, MEAN, dtype)
    cdef floating* cov = statistic(e, r.tsaved, VARIANCE, dtype)
    cdef floating* tdgamma = gradient(r, e, 0, dtype)
    cdef floating* tdbeta = gradient(r, e, 1, dtype)
    cdef Py_ssize_t first = 0, last, c0, c1, cols, j, r0 = chunk_start(s.n, 1, thread, n_threads)
    cdef Py_ssize_t r1 = chunk_start(s.n, 1, thread + 1, n_threads)
    cdef Block b
    if not moves and e.n_weights == 0:
        return
    activation_tangent_gradient(r, e, &s, &dz, &tdz, dtype, thread, n_threads)
    team_barrier(n_threads)
    while first < e.n_in:
        last = columns_until(first, &s, n_threads, dtype)
        c0 = first + chunk_start(last - first, COLUMN_GRAIN, thread, n_threads)
        c1 = first + chunk_start(last - first, COLUMN_GRAIN, thread + 1, n_threads)
        while c0 < c1:          # the thread's columns: sums, tdgamma and tdbeta, coefficients of dx and tdx
            cols = min(<Py_ssize_t>COLUMN_BLOCK, c1 - c0)
            b = Block(0, s.n, c0, c0 + cols)
            sum_products(&tdz, &x, b, mean, sums.ttotal, sums.tproduct)
            inverse_deviations(&x, statistic(e, r.saved, VARIANCE, dtype), sums.inverse, s.n, c0, cols, p.eps)
            if moves:
                sum_products(&dz, &x, b, mean, sums.total, sums.product)
                sum_products(&dz, &tx, b, tmean, again, moved)
                for j in range(cols):           # + sum dz (tx - tmean - x^ cov): what tx^ adds to n tb sigma
                    sums.tproduct[j] += moved[j] - sums.product[j] * sums.inverse[j] * <double>cov[c0 + j]
                input_coefficients(gamma + c0 if gamma != NULL else <floating*>NULL, sums.inverse, sums.total, sums.product,
                                   statistic(e, r.saved, WEIGHT, dtype) + c0, statistic(e, r.saved, SCALE, dtype) + c0,
                                   statistic(e, r.saved, SHIFT, dtype) + c0, s.n, cols)
                input_tangent_coefficients(r, e, &sums, b, dtype)
            if tdgamma != NULL:
                for j in range(cols):
                    tdgamma[c0 + j], tdbeta[c0 + j] = <floating>(sums.tproduct[j] * sums.inverse[j]), <floating>sums.ttotal[j]
            c0 += cols
        team_barrier(n_threads)  # from here on the thread's rows of dx and tdx
        if moves:
            input_tangent_gradients(r, e, &dz, &tdz, Block(r0, r1, first, last), dtype)
        first = last


cdef inline void sum_products(const Rows* w, const Rows* x, Block b, const floating* center, double* total, double* product) noexcept nogil:
    # total = sum w, product = sum w (x - center), over all rows in a block of columns; w NULL stands for zeros
    if w == NULL:
        memset(total, 0, (b.c1 - b.c0) * sizeof(double))
        memset(product, 0, (b.c1 - b.c0) * sizeof(double))
    else:                                       # with w for dy and dz, derive_columns writes nothing but sums
        derive_columns(IDENTITY, w, w, w, x, b, center, total, product)


cdef struct TangentSums:        # over all rows, of a block of columns
    double total[COLUMN_BLOCK]  # sum dz
    double product[COLUMN_BLOCK]        # sum dz (x - mean)
    double ttotal[COLUMN_BLOCK]
    double tproduct[COLUMN_BLOCK]       # n tb sigma
    double inverse[COLUMN_BLOCK]        # 1 / sigma


cdef inline void input_tangent_coefficients(Run* r, Entry* e, const TangentSums* s, Block b, floating* dtype) noexcept nogil:
    # tweight, tscale and tshift of columns c0 to c1, over all rows, in what tangent_backward_batch_norm says of tdx, ordered by
    # what is read: tdx (+)= dz tweight + (x - mean) tscale + tshift + tdz weight + (tx - tmean) scale, where weight and scale
    # are those of dx
    cdef floating* gamma = <floating*>(<BatchNorm*>e.own).gamma
    cdef floating* tgamma = direction(r, e, 0, dtype)
    cdef floating* cov = statistic(e, r.tsaved, VARIANCE, dtype)
    cdef floating* tweight = statistic(e, r.tsaved, WEIGHT, dtype)
    cdef floating* tscale = statistic(e, r.tsaved, SCALE, dtype)
    cdef floating* tshift = statistic(e, r.tsaved, SHIFT, dtype)
    cdef Py_ssize_t j, c
    cdef double inverse_n = 1 / <double>b.r1, factor, tfactor, mean_product, tmean_product, held
    for j in range(b.c1 - b.c0):
        c = b.c0 + j
        factor, held = s.inverse[j] * (<double>gamma[c] if gamma != NULL else 1), <double>cov[c]
        tfactor = s.inverse[j] * (<double>tgamma[c] if gamma != NULL else 0) - factor * s.inverse[j] * held
        mean_product, tmean_product = s.product[j] * s.inverse[j] * inverse_n, s.tproduct[j] * s.inverse[j] * inverse_n
        tweight[c] = <floating>tfactor
        tscale[c] = <floating>(s.inverse[j] * (factor * (mean_product * s.inverse[j] * held - tmean_product) - tfactor * mean_product))
        tshift[c] = <floating>(-inverse_n * (factor * s.ttotal[j] + tfactor * s.total[j]))


cdef void input_tangent_gradients(Run* r, Entry* e, const Rows* dz, const Rows* tdz, Block own, floating* dtype) noexcept nogil:
    # dx and tdx in a block: both read dz and x, so they take turns every few rows, which stay in cache
    cdef Rows x = source_rows(r, e, r.values, dtype), dx = source_rows(r, e, r.dvalues, dtype)
    cdef Rows tx = source_rows(r, e, r.tangents, dtype), tdx = source_rows(r, e, r.dtangents, dtype)
    cdef floating zeros[COLUMN_BLOCK]
    cdef Py_ssize_t c0
    cdef Block b = own
    cdef ColumnMap m
    memset(zeros, 0, sizeof(zeros))
    while b.r0 < own.r1:
        b.r1 = min(b.r0 + SCALE_ROWS, own.r1)
        for c0 in range(own.c0, own.c1, 512):   # COLUMN_BLOCK, as a literal: Cython makes a C loop of it
            b.c0, b.c1 = c0, min(c0 + COLUMN_BLOCK, own.c1)
            saved_map(&m, e, r.saved, r.saved, c0, e.sources[0].accumulate, dtype)
            input_gradient_rows(&m, dz, &x, &dx, b, False, dtype)
            saved_map(&m, e, r.saved, r.tsaved, c0, e.sources[0].accumulate, dtype)
            input_gradient_rows(&m, dz, &x, &tdx, b, False, dtype)
            saved_map(&m, e, r.tsaved, r.saved, c0, True, dtype)
            m.shift = <floating*>zeros
            input_gradient_rows(&m, tdz, &tx, &tdx, b, False, dtype)
        b.r0 = b.r1


# --- the kind

cdef void after_batch_norm(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # running <- (1 - momentum) running + momentum batch, where the variance of the batch is the unbiased one
    cdef BatchNorm* p = <BatchNorm*>e.own
    cdef Py_ssize_t n = rows_of_all(r, e), j
    cdef floating decay = <floating>(1 - p.momentum), new_weight = <floating>p.momentum
    cdef floating new_var_weight = <floating>(p.momentum * <double>n / <double>(n - 1))
    cdef floating* running_mean = <floating*>p.running_mean
    cdef floating* running_var = <floating*>p.running_var
    cdef floating mean, var
    for j in range(e.n_in):
        mean, var = statistic(e, r.saved, MEAN, dtype)[j], statistic(e, r.saved, VARIANCE, dtype)[j]
        if r.sums != NULL:      # a rank without rows has nothing saved
            mean = <floating>shared_sum(r, e, SHARED_MEAN)[j]
            var = <floating>variance(shared_sum(r, e, SHARED_M2)[j], <double>n, <int>shared_sum(r, e, SHARED_POWER)[j])
        running_mean[j] = decay * running_mean[j] + new_weight * mean
        running_var[j] = decay * running_var[j] + new_var_weight * var


cdef Py_ssize_t batch_norm_saved(const Entry* e, Py_ssize_t rows) noexcept nogil:
    return 5 * e.n_in


cdef int place_gamma_beta(Entry* e, BatchNorm* p, list weights, Arrays arrays) except -1:
    if len(weights) not in (0, 2):
        raise ValueError(f"{arrays.entry}: expected gamma and beta or neither, got {len(weights)} weights")
    if weights:
        p.gamma = arrays.hold_weight(e, "gamma", weights, (e.n_in,))
        p.beta = arrays.hold_weight(e, "beta", weights, (e.n_in,))
    return 0


cdef int place_batch_norm(Entry* e, dict own, list weights, Arrays arrays) except -1:
    # weights: gamma and beta (c,), or none; own: eps, momentum, and the running averages mean and var (c,)
    cdef BatchNorm* p = <BatchNorm*>arrays.block(sizeof(BatchNorm))
    e.own, p.eps, p.momentum = <void*>p, own.pop("eps"), own.pop("momentum")
    place_gamma_beta(e, p, weights, arrays)
    p.running_mean = arrays.hold_written("running_mean", own.pop("mean"), (e.n_in,))
    p.running_var = arrays.hold_written("running_var", own.pop("var"), (e.n_in,))
    return 0


cdef Kind batch_norm_kind
batch_norm_kind.forward = Pass(forward_batch_norm[float], forward_batch_norm[double])
batch_norm_kind.backward = Pass(backward_batch_norm[float], backward_batch_norm[double])
batch_norm_kind.tangent = Pass(tangent_batch_norm[float], tangent_batch_norm[double])
batch_norm_kind.tangent_backward = Pass(tangent_backward_batch_norm[float], tangent_backward_batch_norm[double])
batch_norm_kind.forward_sums = Pass(moments_of_rows[float], moments_of_rows[double])
batch_norm_kind.backward_sums = Pass(gradient_sums_of_rows[float], gradient_sums_of_rows[double])
batch_norm_kind.after_batch = Pass(after_batch_norm[float], after_batch_norm[double])
batch_norm_kind.place, batch_norm_kind.fits, batch_norm_kind.saved = place_batch_norm, same_shape, batch_norm_saved
batch_norm_kind.reads_own_columns, batch_norm_kind.activates, batch_norm_kind.least_rows = True, True, 2
register_kind(&batch_norm_kind, "batch_norm")
