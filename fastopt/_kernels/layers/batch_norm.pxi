# Batch normalization: y = phi(gamma (x - mean) / sqrt(var + eps) + beta) by the statistics of the batch, and its backward. Its
# tangents and its kind are in batch_norm_tangents.pxi; the kind that goes by running averages is in batch_norm_averages.pxi.
#
# - Forward computes z = (x - m) scale + shift, where m is the mean in the dtype and shift makes up for its rounding.
# - For sums a thread owns columns; blocks of rows are cut at fixed borders and added in order. For maps it owns rows: cores
#   that write parts of the same rows prefetch each other's lines (1024x512 on two threads: 77 to 250 us, by rows 55). Sums
#   and maps meet in the coefficients, after a barrier; so do those of tangents.
# - Backward reads dy and x twice: for the two sums of each column, then for dx.
# - The second pass over rows goes from the last to the first, for the last are still in cache.
# - Columns whose variance is beyond the dtype have y and dx all the same, computed from the deviation.
# - Where ranks share the sums over rows, forward and backward find no sums, but go on from those of all ranks.

cdef struct BatchNorm:
    double eps, momentum
    void *gamma                 # (c,), or NULL: 1 and 0
    void *beta
    void *running_mean          # (c,)
    void *running_var

cdef enum:                      # rows of what forward saves for backward, (5, c); tangents of mean and variance lie alike
    MEAN, VARIANCE, WEIGHT, SCALE, SHIFT        # the last three, the coefficients of a map, are scratch of a pass

cdef enum:                      # rows of what ranks share, (N_SUMS, c): moments as in scaled_statistics, then what backward sums
    SHARED_ROWS, SHARED_MEAN, SHARED_M2, SHARED_POWER, SHARED_DZ, SHARED_PRODUCT


cdef inline double* shared_sum(const Run* r, const Entry* e, int which) noexcept nogil:
    # a row of them; NULL where the rows of this run are all there are
    return r.sums[e.number] + which * e.n_in if r.sums != NULL else NULL


cdef inline Py_ssize_t rows_of_all(const Run* r, const Entry* e) noexcept nogil:
    return rows_in(r, e) if r.sums == NULL else <Py_ssize_t>shared_sum(r, e, SHARED_ROWS)[0]


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

cdef void moments_of_rows(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # x (n, c) -> what ranks share of their moments, the thread's columns
    cdef Rows x = source_rows(r, e, r.values, dtype)
    cdef double* mean = shared_sum(r, e, SHARED_MEAN)
    cdef double* m2 = shared_sum(r, e, SHARED_M2)
    cdef int power[COLUMN_BLOCK]
    cdef double smallest = min_relevant_variance((<BatchNorm*>e.own).eps, dtype)
    cdef Py_ssize_t n = rows_in(r, e), c0 = chunk_start(e.n_in, COLUMN_GRAIN, thread, n_threads), cols, j
    cdef Py_ssize_t c1 = chunk_start(e.n_in, COLUMN_GRAIN, thread + 1, n_threads)
    while c0 < c1:
        cols = min(<Py_ssize_t>COLUMN_BLOCK, c1 - c0)
        column_statistics(&x, c0, cols, n, smallest, mean + c0, m2 + c0, power, dtype)
        for j in range(cols):
            shared_sum(r, e, SHARED_ROWS)[c0 + j], shared_sum(r, e, SHARED_POWER)[c0 + j] = <double>n, <double>power[j]
        c0 += cols


cdef inline bint moments_of_all(const Run* r, const Entry* e, Py_ssize_t c0, Py_ssize_t cols, double* mean, double* m2,
                                int* power) noexcept nogil:
    # what column_statistics returns, of the rows of all ranks
    cdef Py_ssize_t j
    cdef int outside = 0
    for j in range(cols):
        mean[j], m2[j] = shared_sum(r, e, SHARED_MEAN)[c0 + j], shared_sum(r, e, SHARED_M2)[c0 + j]
        power[j] = <int>shared_sum(r, e, SHARED_POWER)[c0 + j]
        outside |= power[j]
    return outside != 0


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
    cdef double n = <double>rows_of_all(r, e)
    cdef ColumnMap m
    cdef bint outside
    while first < e.n_in:
        last = columns_until(first, &s, n_threads, dtype)
        c0 = first + chunk_start(last - first, COLUMN_GRAIN, thread, n_threads)
        c1 = first + chunk_start(last - first, COLUMN_GRAIN, thread + 1, n_threads)
        while c0 < c1:          # the thread's columns: statistics, then coefficients
            cols = min(<Py_ssize_t>COLUMN_BLOCK, c1 - c0)
            if r.sums == NULL:
                outside = column_statistics(&x, c0, cols, s.n, smallest, mean64, m2, power, dtype)
            else:
                outside = moments_of_all(r, e, c0, cols, mean64, m2, power)
            for j in range(cols):
                mean[c0 + j] = <floating>mean64[j]
                var[c0 + j] = <floating>(m2[j] / n)
            affine(p, var, scale + c0, shift + c0, c0, cols)
            if outside:         # columns whose squares leave the range of the dtype
                for j in range(cols):
                    if power[j] != 0:
                        var[c0 + j] = <floating>variance(m2[j], n, power[j])
                        scale[c0 + j] = scale_of(gamma, c0 + j, deviation(m2[j], n, power[j], p.eps))
            for j in range(cols):       # shift makes up for the rounding of the mean
                shift[c0 + j] += <floating>(<double>mean[c0 + j] - mean64[j]) * scale[c0 + j]
            c0 += cols
        team_barrier(n_threads)  # from here on the thread's rows: z and y
        saved_map(&m, e, r.saved, r.saved, first, False, dtype)
        scale_rows(&m, &x, &z, &y, e.activation, Block(r0, r1, first, last), leaves_cache(&z, s.n, dtype), dtype)
        first = last
    if e.activation == SOFTMAX:
        epilogue(e.activation, &z, &y, &s, Block(0, 0, 0, 0), dtype, thread, n_threads)


cdef void forward_batch_norm(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    if r.training:
        normalize_by_batch(r, e, dtype, thread, n_threads)
    else:                       # a program of training that predicts
        forward_batch_norm_averages(r, e, dtype, thread, n_threads)


cdef struct GradientRows:       # of a backward
    Rows x, v, dy, dz
    int activation              # what is left to derive: dz = dy phi'


cdef inline void gradient_rows(Run* r, Entry* e, GradientRows* g, floating* dtype) noexcept nogil:
    # from where backward has its sums: dz is known, and stands for dy
    g.x, g.dz, g.v = source_rows(r, e, r.values, dtype), dst_rows(r, e, r.dvalues, dtype), preactivations(r, e, r.z, r.values, dtype)
    g.dy, g.activation = g.dz, IDENTITY


cdef inline void underived_rows(Run* r, Entry* e, GradientRows* g, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # from where backward starts: dz = dy phi' by rows, or else with the sums
    cdef Sizes s = sizes_of(r, e)
    gradient_rows(r, e, g, dtype)
    if r.dy != NULL:
        g.dy = matrix(r.dy, e.n_out)
    if e.activation == SOFTMAX or (n_threads > 1 and e.activation != IDENTITY):
        activation_gradient(r, e, &s, &g.dz, dtype, thread, n_threads)
        team_barrier(n_threads)
        g.dy = g.dz
    else:
        g.activation = e.activation


cdef inline bint sums_of_rows(Run* r, Entry* e, const GradientRows* g, Py_ssize_t c0, Py_ssize_t cols, double* total,
                              double* product, double* inverse, floating* dtype) noexcept nogil:
    # in columns from c0 on: dz, total = sum dz, product = sum dz (x - mean), inverse = 1 / sigma, dgamma and dbeta of the rows
    # at hand. Returns whether some are extreme
    cdef double eps = (<BatchNorm*>e.own).eps
    cdef floating* mean = statistic(e, r.saved, MEAN, dtype)
    cdef floating* var = statistic(e, r.saved, VARIANCE, dtype)
    cdef floating* dgamma = gradient(r, e, 0, dtype)
    cdef floating* dbeta = gradient(r, e, 1, dtype)
    cdef Py_ssize_t n = rows_in(r, e), j
    cdef bint extreme
    derive_columns(g.activation, &g.v, &g.dy, &g.dz, &g.x, Block(0, n, c0, c0 + cols), mean, total, product)
    extreme = inverse_deviations_of_all(r, e, &g.x, inverse, c0, cols, dtype)
    if extreme:
        for j in range(cols):
            if is_extreme(var[c0 + j], eps):
                product[j] = extreme_product(&g.dz, &g.x, c0 + j, mean[c0 + j], inverse[j], n)
    if dgamma != NULL:
        for j in range(cols):
            dgamma[c0 + j], dbeta[c0 + j] = <floating>(product[j] * inverse[j]), <floating>total[j]
    return extreme


cdef inline bint inverse_deviations_of_all(const Run* r, const Entry* e, const Rows* x, double* inverse, Py_ssize_t c0,
                                           Py_ssize_t cols, floating* dtype) noexcept nogil:
    # as inverse_deviations, where x may be the part of the batch that this rank has
    cdef double eps = (<BatchNorm*>e.own).eps
    cdef const floating* var = statistic(e, r.saved, VARIANCE, dtype)
    cdef Py_ssize_t j
    cdef bint extreme
    if r.sums == NULL:
        return inverse_deviations(x, var, inverse, rows_in(r, e), c0, cols, eps)
    extreme = any_extreme(var + c0, cols, eps)
    for j in range(cols):
        inverse[j] = 1 / sqrt(<double>var[c0 + j] + eps)
        if extreme and is_extreme(var[c0 + j], eps):
            inverse[j] = 1 / deviation(shared_sum(r, e, SHARED_M2)[c0 + j], shared_sum(r, e, SHARED_ROWS)[c0 + j],
                                       <int>shared_sum(r, e, SHARED_POWER)[c0 + j], eps)
    return extreme


cdef void gradient_sums_of_rows(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dy (n, c) becomes dz; what ranks share of its sums, the thread's columns, and this rank's part of dgamma and dbeta
    cdef double inverse[COLUMN_BLOCK]
    cdef Py_ssize_t c0 = chunk_start(e.n_in, COLUMN_GRAIN, thread, n_threads), cols
    cdef Py_ssize_t c1 = chunk_start(e.n_in, COLUMN_GRAIN, thread + 1, n_threads)
    cdef GradientRows g
    if not e.sources[0].wanted and gradient(r, e, 0, dtype) == NULL:
        return
    underived_rows(r, e, &g, dtype, thread, n_threads)
    while c0 < c1:
        cols = min(<Py_ssize_t>COLUMN_BLOCK, c1 - c0)
        sums_of_rows(r, e, &g, c0, cols, shared_sum(r, e, SHARED_DZ) + c0, shared_sum(r, e, SHARED_PRODUCT) + c0, inverse, dtype)
        c0 += cols


cdef void backward_batch_norm(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dz (n, c) = dy phi'; dx (n, c) (+)= gamma / sigma (dz - mean(dz) - x^ mean(dz x^)), x^ = (x - mean) / sigma,
    # sigma = sqrt(var + eps); dgamma = sum dz x^, dbeta = sum dz
    cdef BatchNorm* p = <BatchNorm*>e.own
    cdef Sizes s = sizes_of(r, e)
    cdef GradientRows g
    cdef Rows dx
    cdef double total[COLUMN_BLOCK]
    cdef double product[COLUMN_BLOCK]
    cdef double inverse[COLUMN_BLOCK]           # 1 / sigma
    cdef floating* gamma = <floating*>p.gamma
    cdef floating* var = statistic(e, r.saved, VARIANCE, dtype)
    cdef floating* weight = statistic(e, r.saved, WEIGHT, dtype)
    cdef floating* scale = statistic(e, r.saved, SCALE, dtype)
    cdef floating* shift = statistic(e, r.saved, SHIFT, dtype)
    cdef Py_ssize_t first = 0, last, c0, c1, cols, j, r0 = chunk_start(s.n, 1, thread, n_threads)
    cdef Py_ssize_t r1 = chunk_start(s.n, 1, thread + 1, n_threads), n = rows_of_all(r, e)
    cdef ColumnMap m
    cdef bint extreme
    if not e.sources[0].wanted and (gradient(r, e, 0, dtype) == NULL or r.sums != NULL):
        return
    if r.sums == NULL:
        underived_rows(r, e, &g, dtype, thread, n_threads)
    else:
        gradient_rows(r, e, &g, dtype)
    if e.sources[0].wanted:
        dx = source_rows(r, e, r.dvalues, dtype)
    while first < e.n_in:
        last = columns_until(first, &s, n_threads, dtype)
        c0 = first + chunk_start(last - first, COLUMN_GRAIN, thread, n_threads)
        c1 = first + chunk_start(last - first, COLUMN_GRAIN, thread + 1, n_threads)
        while c0 < c1:          # the thread's columns: both sums, dgamma and dbeta, coefficients of dx
            cols = min(<Py_ssize_t>COLUMN_BLOCK, c1 - c0)
            if r.sums == NULL:
                extreme = sums_of_rows(r, e, &g, c0, cols, total, product, inverse, dtype)
            else:
                extreme = inverse_deviations_of_all(r, e, &g.x, inverse, c0, cols, dtype)
                memcpy(total, shared_sum(r, e, SHARED_DZ) + c0, cols * sizeof(double))
                memcpy(product, shared_sum(r, e, SHARED_PRODUCT) + c0, cols * sizeof(double))
            input_coefficients(gamma + c0 if gamma != NULL else <floating*>NULL, inverse, total, product,
                               weight + c0, scale + c0, shift + c0, n, cols)
            if extreme:
                for j in range(cols):
                    if is_extreme(var[c0 + j], p.eps):  # the coefficient of x^, not of x - mean
                        scale[c0 + j] = <floating>(-<double>weight[c0 + j] * product[j] * inverse[j] / <double>n)
            c0 += cols
        team_barrier(n_threads)  # from here on the thread's rows of dx
        if e.sources[0].wanted and not any_extreme(var + first, last - first, p.eps):
            saved_map(&m, e, r.saved, r.saved, first, e.sources[0].accumulate, dtype)
            input_gradient_rows(&m, &g.dz, &g.x, &dx, Block(r0, r1, first, last), leaves_cache(&dx, s.n, dtype), dtype)
        elif e.sources[0].wanted:       # column by column, for some are extreme
            for j in range(first, last):
                saved_map(&m, e, r.saved, r.saved, j, e.sources[0].accumulate, dtype)
                if is_extreme(var[j], p.eps):
                    extreme_input_gradient(&m, &g.dz, &g.x, &dx, Block(r0, r1, j, j + 1), <double>gamma[j] if gamma != NULL else 1, dtype)
                else:
                    input_gradient_rows(&m, &g.dz, &g.x, &dx, Block(r0, r1, j, j + 1), False, dtype)
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
