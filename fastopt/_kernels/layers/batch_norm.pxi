# Batch normalization: y = phi(gamma (x - mean) / sqrt(var + eps) + beta) by the statistics of the batch, and its backward.
#
# - Forward computes z = (x - m) scale + shift, where m is the mean in the dtype and shift makes up for its rounding.
# - For sums a thread owns columns; blocks of rows are cut at fixed borders and added in order. For maps it owns rows: cores
#   that write parts of the same rows prefetch each other's lines (1024x512 on two threads: 77 to 250 us, by rows 55). Sums
#   and maps meet in the coefficients, after a barrier; so do those of tangents.
# - Backward reads dy and x twice: for the two sums of each column, then for dx.
# - The second pass over rows goes from the last to the first, for the last are still in cache.
# - Columns whose variance is beyond the dtype have y and dx all the same, computed from the deviation.

cdef struct BatchNorm:
    double eps, momentum
    void *gamma                 # (c,), or NULL: 1 and 0
    void *beta
    void *running_mean          # (c,)
    void *running_var

cdef enum:                      # rows of what forward saves for backward, (5, c); tangents of mean and variance lie alike
    MEAN, VARIANCE, WEIGHT, SCALE, SHIFT        # the last three, the coefficients of a map, are scratch of a pass


cdef inline floating* statistic(const Entry* e, void** saved, int which, floating* dtype) noexcept nogil:
    return <floating*>saved[e.number] + which * e.n_in


cdef inline void saved_map(ColumnMap* m, const Entry* e, void** centers, void** coefficients, Py_ssize_t c0, bint accumulate,
                           floating* dtype) noexcept nogil:
    # a map of the columns from c0 on, about the mean in `centers`
    point_map(m, statistic(e, centers, MEAN, dtype) + c0, statistic(e, coefficients, WEIGHT, dtype) + c0,
              statistic(e, coefficients, SCALE, dtype) + c0, statistic(e, coefficients, SHIFT, dtype) + c0)
    m.accumulate = accumulate


cdef inline void affine(const BatchNorm* p, const floating* var, floating* scale, floating* shift, Py_ssize_t c0,
                        Py_ssize_t cols) noexcept nogil:
    # scale = gamma / sqrt(var + eps), shift = beta, (cols,) each, of the columns from c0 on
    cdef const floating* gamma = <floating*>p.gamma
    cdef const floating* beta = <floating*>p.beta
    cdef Py_ssize_t j
    cdef floating small = <floating>p.eps, sigma
    for j in range(cols):
        sigma = root(var[c0 + j] + small)
        scale[j] = (gamma[c0 + j] if gamma != NULL else <floating>1) / sigma
        shift[j] = beta[c0 + j] if beta != NULL else <floating>0
    if floating is float and p.eps < <double>FLT_MIN:       # float32 does not hold eps
        for j in range(cols):
            scale[j] = scale_of(gamma, c0 + j, sqrt(<double>var[c0 + j] + p.eps))


cdef inline floating scale_of(const floating* gamma, Py_ssize_t j, double sigma) noexcept nogil:
    # gamma / sigma, clamped to the range of the dtype: infinity times 0 would be NaN
    cdef double scale = (<double>gamma[j] if gamma != NULL else 1) / sigma, largest = <double>FLT_MAX if floating is float else DBL_MAX
    return <floating>max(-largest, min(largest, scale))


cdef inline Py_ssize_t columns_until(Py_ssize_t first, const Sizes* s, Py_ssize_t n_threads, floating* dtype) noexcept nogil:
    # where the columns end that are summed before they are mapped: one thread alone takes so few that they stay in cache, where
    # that leaves them wide enough
    cdef bint fits = s.n * COLUMN_BLOCK * <Py_ssize_t>sizeof(floating) <= tuning.l2_bytes
    return min(s.n_in, first + COLUMN_BLOCK) if fits and n_threads == 1 else s.n_in


# --- forward and backward

cdef void normalize_by_batch(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # x (n, c) -> mean, var (c,) of the batch, z (n, c) = (x - mean) / sigma gamma + beta, y (n, c) = phi(z)
    cdef BatchNorm* p = <BatchNorm*>e.own
    cdef Sizes s = sizes_of(r, e)
    cdef Rows x = source_rows(r, e, r.values, dtype), y = dst_rows(r, e, r.values, dtype)
    cdef Rows z = preactivations(r, e, r.z, r.values, dtype)
    cdef double mean64[COLUMN_BLOCK]
    cdef double m2[COLUMN_BLOCK]
    cdef int power[COLUMN_BLOCK]
    cdef double smallest = min_relevant_variance(p.eps, dtype)
    cdef floating* gamma = <floating*>p.gamma
    cdef floating* mean = statistic(e, r.saved, MEAN, dtype)
    cdef floating* var = statistic(e, r.saved, VARIANCE, dtype)
    cdef floating* scale = statistic(e, r.saved, SCALE, dtype)
    cdef floating* shift = statistic(e, r.saved, SHIFT, dtype)
    cdef Py_ssize_t first = 0, last, c0, c1, cols, j, r0 = chunk_start(s.n, 1, thread, n_threads)
    cdef Py_ssize_t r1 = chunk_start(s.n, 1, thread + 1, n_threads)
    cdef ColumnMap m
    cdef bint outside
    while first < e.n_in:
        last = columns_until(first, &s, n_threads, dtype)
        c0 = first + chunk_start(last - first, COLUMN_GRAIN, thread, n_threads)
        c1 = first + chunk_start(last - first, COLUMN_GRAIN, thread + 1, n_threads)
        while c0 < c1:          # the thread's columns: statistics, then coefficients
            cols = min(<Py_ssize_t>COLUMN_BLOCK, c1 - c0)
            outside = column_statistics(&x, c0, cols, s.n, smallest, mean64, m2, power, dtype)
            for j in range(cols):
                mean[c0 + j] = <floating>mean64[j]
                var[c0 + j] = <floating>(m2[j] / <double>s.n)
            affine(p, var, scale + c0, shift + c0, c0, cols)
            if outside:         # columns whose squares leave the range of the dtype
                for j in range(cols):
                    if power[j] != 0:
                        var[c0 + j] = <floating>variance(m2[j], <double>s.n, power[j])
                        scale[c0 + j] = scale_of(gamma, c0 + j, deviation(m2[j], <double>s.n, power[j], p.eps))
            for j in range(cols):       # shift makes up for the rounding of the mean
                shift[c0 + j] += <floating>(<double>mean[c0 + j] - mean64[j]) * scale[c0 + j]
            c0 += cols
        team_barrier(n_threads)  # from here on the thread's rows: z and y
        saved_map(&m, e, r.saved, r.saved, first, False, dtype)
        scale_rows(&m, &x, &z, &y, e.activation, Block(r0, r1, first, last), leaves_cache(&z, s.n, dtype), dtype)
        first = last
    if e.activation == SOFTMAX:
        epilogue(e.activation, &z, &y, &s, Block(0, 0, 0, 0), dtype, thread, n_threads)


cdef void normalize_by_averages(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # x (n, c) -> y (n, c) by the running averages, the thread's rows
    cdef BatchNorm* p = <BatchNorm*>e.own
    cdef Sizes s = sizes_of(r, e)
    cdef Rows x = source_rows(r, e, r.values, dtype), y = dst_rows(r, e, r.values, dtype)
    cdef floating scale[COLUMN_BLOCK]
    cdef floating shift[COLUMN_BLOCK]
    cdef Py_ssize_t r0 = chunk_start(s.n, 1, thread, n_threads), r1 = chunk_start(s.n, 1, thread + 1, n_threads), c0 = 0, cols
    cdef ColumnMap m
    while c0 < e.n_in and r0 < r1:
        cols = min(<Py_ssize_t>COLUMN_BLOCK, e.n_in - c0)
        affine(p, <floating*>p.running_var, <floating*>scale, <floating*>shift, c0, cols)
        point_map(&m, <floating*>p.running_mean + c0, <floating*>NULL, <floating*>scale, <floating*>shift)
        scale_rows(&m, &x, &y, &y, e.activation, Block(r0, r1, c0, c0 + cols), False, dtype)
        c0 += cols
    if e.activation == SOFTMAX:
        epilogue(e.activation, &y, &y, &s, Block(0, 0, 0, 0), dtype, thread, n_threads)


cdef void forward_batch_norm(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    if r.training:
        normalize_by_batch(r, e, dtype, thread, n_threads)
    else:
        normalize_by_averages(r, e, dtype, thread, n_threads)


cdef void backward_batch_norm(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dz (n, c) = dy phi'; dx (n, c) (+)= gamma / sigma (dz - mean(dz) - x^ mean(dz x^)), x^ = (x - mean) / sigma,
    # sigma = sqrt(var + eps); dgamma = sum dz x^, dbeta = sum dz
    cdef BatchNorm* p = <BatchNorm*>e.own
    cdef Sizes s = sizes_of(r, e)
    cdef Rows x = source_rows(r, e, r.values, dtype), dz = dst_rows(r, e, r.dvalues, dtype), dx, dy = dz
    cdef Rows v = preactivations(r, e, r.z, r.values, dtype)
    cdef double total[COLUMN_BLOCK]
    cdef double product[COLUMN_BLOCK]
    cdef double inverse[COLUMN_BLOCK]           # 1 / sigma
    cdef floating* gamma = <floating*>p.gamma
    cdef floating* mean = statistic(e, r.saved, MEAN, dtype)
    cdef floating* var = statistic(e, r.saved, VARIANCE, dtype)
    cdef floating* weight = statistic(e, r.saved, WEIGHT, dtype)
    cdef floating* scale = statistic(e, r.saved, SCALE, dtype)
    cdef floating* shift = statistic(e, r.saved, SHIFT, dtype)
    cdef floating* dgamma = gradient(r, e, 0, dtype)
    cdef floating* dbeta = gradient(r, e, 1, dtype)
    cdef Py_ssize_t first = 0, last, c0, c1, cols, j, r0 = chunk_start(s.n, 1, thread, n_threads)
    cdef Py_ssize_t r1 = chunk_start(s.n, 1, thread + 1, n_threads)
    cdef int activation = e.activation
    cdef ColumnMap m
    cdef bint extreme
    if not e.sources[0].wanted and dgamma == NULL:
        return
    if r.dy != NULL:
        dy = matrix(r.dy, e.n_out)
    if activation == SOFTMAX or (n_threads > 1 and activation != IDENTITY):  # dz = dy phi' by rows; else with the sums
        activation_gradient(r, e, &s, &dz, dtype, thread, n_threads)
        team_barrier(n_threads)
        dy, activation = dz, IDENTITY
    if e.sources[0].wanted:
        dx = source_rows(r, e, r.dvalues, dtype)
    while first < e.n_in:
        last = columns_until(first, &s, n_threads, dtype)
        c0 = first + chunk_start(last - first, COLUMN_GRAIN, thread, n_threads)
        c1 = first + chunk_start(last - first, COLUMN_GRAIN, thread + 1, n_threads)
        while c0 < c1:          # the thread's columns: both sums, dgamma and dbeta, coefficients of dx
            cols = min(<Py_ssize_t>COLUMN_BLOCK, c1 - c0)
            derive_columns(activation, &v, &dy, &dz, &x, Block(0, s.n, c0, c0 + cols), mean, total, product)
            extreme = inverse_deviations(&x, var, inverse, s.n, c0, cols, p.eps)
            if extreme:
                for j in range(cols):
                    if is_extreme(var[c0 + j], p.eps):
                        product[j] = extreme_product(&dz, &x, c0 + j, mean[c0 + j], inverse[j], s.n)
            if dgamma != NULL:
                for j in range(cols):
                    dgamma[c0 + j], dbeta[c0 + j] = <floating>(product[j] * inverse[j]), <floating>total[j]
            input_coefficients(gamma + c0 if gamma != NULL else <floating*>NULL, inverse, total, product,
                               weight + c0, scale + c0, shift + c0, s.n, cols)
            if extreme:
                for j in range(cols):
                    if is_extreme(var[c0 + j], p.eps):  # the coefficient of x^, not of x - mean
                        scale[c0 + j] = <floating>(-<double>weight[c0 + j] * product[j] * inverse[j] / <double>s.n)
            c0 += cols
        team_barrier(n_threads)  # from here on the thread's rows of dx
        if e.sources[0].wanted and not any_extreme(var + first, last - first, p.eps):
            saved_map(&m, e, r.saved, r.saved, first, e.sources[0].accumulate, dtype)
            input_gradient_rows(&m, &dz, &x, &dx, Block(r0, r1, first, last), leaves_cache(&dx, s.n, dtype), dtype)
        elif e.sources[0].wanted:       # column by column, for some are extreme
            for j in range(first, last):
                saved_map(&m, e, r.saved, r.saved, j, e.sources[0].accumulate, dtype)
                if is_extreme(var[j], p.eps):
                    extreme_input_gradient(&m, &dz, &x, &dx, Block(r0, r1, j, j + 1), <double>gamma[j] if gamma != NULL else 1, dtype)
                else:
                    input_gradient_rows(&m, &dz, &x, &dx, Block(r0, r1, j, j + 1), False, dtype)
        first = last


cdef inline void derive_columns(int activation, const Rows* v, const Rows* dy, const Rows* dz, const Rows* x, Block b,
                                const floating* mean, double* total, double* product) noexcept nogil:
    # in columns c0 to c1 of all rows: dz = dy phi', then total = sum dz and product = sum dz (x - mean), (cols,) each
    cdef floating sum_w[COLUMN_BLOCK]
    cdef floating products[COLUMN_BLOCK]
    cdef Py_ssize_t i = 0, j, k, rows, cols = b.c1 - b.c0
    for j in range(cols):
        total[j] = product[j] = 0
        sum_w[j] = products[j] = <floating>0
    while i < b.r1:
        rows = min(<Py_ssize_t>STATISTICS_ROWS, b.r1 - i)
        if activation != IDENTITY or dz.start != dy.start:
            for k in range(i, i + rows):
                activate_backward(activation, <const floating*>row(v, k, <floating*>NULL) + b.c0,
                                  <const floating*>row(dy, k, <floating*>NULL) + b.c0, row(dz, k, <floating*>NULL) + b.c0, cols)
        sum_columns(dz, x, Block(i, i + rows, b.c0, b.c1), mean + b.c0, sum_w, products)
        for j in range(cols):
            total[j] += <double>sum_w[j]
            product[j] += <double>products[j]
            sum_w[j] = products[j] = <floating>0
        i += rows


cdef inline void input_coefficients(const floating* gamma, const double* inverse, const double* total, const double* product,
                                    floating* weight, floating* scale, floating* shift, Py_ssize_t n, Py_ssize_t cols) noexcept nogil:
    # the coefficients in dx = dz weight + (x - mean) scale + shift, from the sums of backward_batch_norm
    cdef Py_ssize_t j
    cdef double inverse_n = 1 / <double>n, factor
    for j in range(cols):
        factor = inverse[j] * (<double>gamma[j] if gamma != NULL else 1)
        weight[j] = <floating>factor
        scale[j] = <floating>(-factor * inverse_n * product[j] * inverse[j] * inverse[j])
        shift[j] = <floating>(-factor * inverse_n * total[j])


# --- directional derivatives: a leading t names the tangent of what follows it

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
    cdef Py_ssize_t n = rows_in(r, e), j
    cdef floating decay = <floating>(1 - p.momentum), new_weight = <floating>p.momentum
    cdef floating new_var_weight = <floating>(p.momentum * <double>n / <double>(n - 1))
    cdef floating* running_mean = <floating*>p.running_mean
    cdef floating* running_var = <floating*>p.running_var
    for j in range(e.n_in):
        running_mean[j] = decay * running_mean[j] + new_weight * statistic(e, r.saved, MEAN, dtype)[j]
        running_var[j] = decay * running_var[j] + new_var_weight * statistic(e, r.saved, VARIANCE, dtype)[j]


cdef Py_ssize_t batch_norm_saved(const Entry* e, Py_ssize_t rows) noexcept nogil:
    return 5 * e.n_in


cdef int place_batch_norm(Entry* e, dict own, list weights, Arrays arrays) except -1:
    # weights: gamma and beta (c,), or none; own: eps, momentum, and the running averages mean and var (c,)
    cdef BatchNorm* p = <BatchNorm*>arrays.block(sizeof(BatchNorm))
    e.own, p.eps, p.momentum = <void*>p, own.pop("eps"), own.pop("momentum")
    if len(weights) not in (0, 2):
        raise ValueError(f"{arrays.entry}: expected gamma and beta or neither, got {len(weights)} weights")
    if weights:
        p.gamma = arrays.hold_weight(e, "gamma", weights, (e.n_in,))
        p.beta = arrays.hold_weight(e, "beta", weights, (e.n_in,))
    p.running_mean = arrays.hold_written("running_mean", own.pop("mean"), (e.n_in,))
    p.running_var = arrays.hold_written("running_var", own.pop("var"), (e.n_in,))
    return 0


cdef Kind batch_norm_kind
batch_norm_kind.forward = Pass(forward_batch_norm[float], forward_batch_norm[double])
batch_norm_kind.backward = Pass(backward_batch_norm[float], backward_batch_norm[double])
batch_norm_kind.tangent = Pass(tangent_batch_norm[float], tangent_batch_norm[double])
batch_norm_kind.tangent_backward = Pass(tangent_backward_batch_norm[float], tangent_backward_batch_norm[double])
batch_norm_kind.after_batch = Pass(after_batch_norm[float], after_batch_norm[double])
batch_norm_kind.place, batch_norm_kind.fits, batch_norm_kind.saved = place_batch_norm, same_shape, batch_norm_saved
batch_norm_kind.reads_own_columns, batch_norm_kind.activates, batch_norm_kind.least_rows = True, True, 2
register_kind(&batch_norm_kind, "batch_norm")
