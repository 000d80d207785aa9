# Batch normalisation: column statistics, y = phi(gamma (x - mean) / sqrt(var + eps) + beta), and its backward.
#
# - Statistics take one pass. A block of STATISTICS_ROWS rows is summed in the dtype, about the mean
#   of the rows before it, and joined to them in float64 (Chan et al. 1983). A block far from that
#   mean is what most of the variance then comes from: no digits are lost, wherever the data lie.
#   The first block is summed about the mean of a few of its rows.
# - A column whose squares leave the range of the dtype is summed once more in float64, over a power of two
#   (careful_statistics). Its variance may be beyond the dtype; y and dx are not, and come from the deviation.
# - y = (x - m) scale + shift, m the mean in the dtype; shift makes up for its rounding.
# - For sums a member owns columns, and blocks of rows are cut at fixed borders and added in order. For maps it
#   owns rows: cores that write parts of the same rows take each other's next lines by prefetch (1024x512 on two
#   threads: 77 to 250 us, by rows 55). What belongs to a column passes from the one to the other in `coefficients`.
# - Backward reads dy and x twice: for the two sums of each column, then for dx.
# - The second pass over rows goes from the last to the first, which are still in cache.

cdef extern from "simd.h" nogil:
    void column_moments_f(const float* w, const float* x, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t cols,
                          const float* centre, float* plain, float* sum)
    void column_moments_d(const double* w, const double* x, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t cols,
                          const double* centre, double* plain, double* sum)
    void column_scale_f(const float* x, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t cols, const float* centre,
                        const float* scale, const float* shift, float* y, int relu)
    void column_scale_d(const double* x, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t cols, const double* centre,
                        const double* scale, const double* shift, double* y, int relu)
    void column_slope_f(const float* w, const float* x, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t cols, const float* centre,
                        const float* weight, const float* scale, const float* shift, float* dx, int accumulate)
    void column_slope_d(const double* w, const double* x, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t cols, const double* centre,
                        const double* weight, const double* scale, const double* shift, double* dx, int accumulate)


# --- floating over the tiles -------------------------------------------------------

cdef inline void column_moments(const floating* w, const floating* x, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t cols,
                                const floating* centre, floating* plain, floating* total) noexcept nogil:
    # plain += sum of w's rows, total += sum of the rows of w (x - centre); w is x - centre where it is NULL
    if floating is float:
        column_moments_f(w, x, ld, rows, cols, centre, plain, total)
    else:
        column_moments_d(w, x, ld, rows, cols, centre, plain, total)


cdef inline void column_scale(const floating* x, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t cols, const floating* centre,
                              const floating* scale, const floating* shift, floating* y, bint relu) noexcept nogil:
    # y = (x - centre) scale + shift
    if floating is float:
        column_scale_f(x, ld, rows, cols, centre, scale, shift, y, relu)
    else:
        column_scale_d(x, ld, rows, cols, centre, scale, shift, y, relu)


cdef inline void column_slope(const floating* w, const floating* x, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t cols,
                              const floating* centre, const floating* weight, const floating* scale, const floating* shift,
                              floating* dx, bint accumulate) noexcept nogil:
    # dx (+)= w weight + (x - centre) scale + shift
    if floating is float:
        column_slope_f(w, x, ld, rows, cols, centre, weight, scale, shift, dx, accumulate)
    else:
        column_slope_d(w, x, ld, rows, cols, centre, weight, scale, shift, dx, accumulate)


# --- statistics --------------------------------------------------------------------

cdef inline void join(double* mean, double* m2, floating* centre, floating* plain, floating* squares, Py_ssize_t cols,
                      double before, double rows) noexcept nogil:
    # mean and m2 = sum (x - mean)^2 of `before` rows, and the sums over `rows` more of x - centre and its
    # square -> of all of them; centre becomes their mean, the sums 0
    cdef Py_ssize_t j
    cdef double inverse = 1 / rows, weight = rows / (before + rows), offset, delta
    for j in range(cols):
        offset = <double>plain[j] * inverse
        delta = <double>centre[j] + offset - mean[j]
        m2[j] += <double>squares[j] - <double>plain[j] * offset + delta * delta * (before * weight)
        mean[j] += delta * weight
        centre[j] = <floating>mean[j]
        plain[j] = squares[j] = <floating>0


cdef inline double least_variance(floating* dtype) noexcept nogil:
    # below, squares lose digits to the smallest number of the dtype, or vanish
    return 1e-30 if floating is float else 1e-290


cdef inline double most_variance(floating* dtype) noexcept nogil:
    # above, what backward multiplies x by may vanish
    return 1e30 if floating is float else 1e250


cdef inline double relevant_variance(double eps, floating* dtype) noexcept nogil:
    # from where digits of a variance matter beside eps: a column of zeros, usual after relu, costs nothing more
    return least_variance(dtype) if eps < 1e17 * least_variance(dtype) else -HUGE_VAL


cdef void careful_statistics(const floating* x, Py_ssize_t n, Py_ssize_t step, Py_ssize_t size, double* mean, double* m2,
                             int* power) noexcept nogil:
    # x: n runs of `size` elements, `step` apart, whose squares may have left the range of the dtype -> mean, and m2 of the
    # elements over 2^power; of NaN or infinity mean and m2 stay as they are
    cdef double first = <double>x[0], far = 0, total = 0, squares = 0, rest = 0, count = <double>(n * size), d, scale, origin
    cdef Py_ssize_t i, k
    cdef bint known = True
    for i in range(n):
        for k in range(size):
            d = fabs(<double>x[i * step + k] - first)
            far = d if d > far else far
            known &= x[i * step + k] - x[i * step + k] == <floating>0
    if not known:
        return
    mean[0], m2[0], power[0] = first, 0, 0
    if far == 0:
        return
    frexp(min(far, DBL_MAX), power)
    power[0] = max(-1000, min(1000, power[0]))          # the scale has to be a number, too
    scale = ldexp(1, -power[0])
    origin = first * scale
    for i in range(n):
        for k in range(size):
            total += <double>x[i * step + k] * scale - origin
    total /= count
    for i in range(n):
        for k in range(size):
            d = (<double>x[i * step + k] * scale - origin) - total
            squares += d * d
            rest += d
    mean[0], m2[0] = ldexp(origin + total, power[0]), squares - rest * rest / count


cdef inline double variance(double m2, double n, int power) noexcept nogil:
    return m2 / n if power == 0 else ldexp(m2 / n, 2 * power)


cdef inline double deviation(double m2, double n, int power, double eps) noexcept nogil:
    # sqrt(variance + eps), which float64 holds also where it cannot hold the variance
    return hypot(ldexp(sqrt(m2 / n), power), sqrt(eps))


cdef bint column_statistics(const floating* x, Py_ssize_t ld, Py_ssize_t n, Py_ssize_t cols, double least, double* mean, double* m2,
                            int* power) noexcept nogil:
    # x (n, cols) -> mean, m2, power (cols,) as in careful_statistics, power 0 for ordinary columns; whether there are others.
    # Digits of variances below `least` do not matter; n >= 1, cols <= COLUMN_BLOCK
    cdef floating centre[COLUMN_BLOCK]
    cdef floating plain[COLUMN_BLOCK]
    cdef floating squares[COLUMN_BLOCK]
    cdef Py_ssize_t i = 0, j, rows = min(<Py_ssize_t>CENTRE_ROWS, n)
    cdef double floor = <double>n * least
    cdef int outside = 0
    for j in range(cols):
        centre[j] = x[j]
        plain[j] = squares[j] = <floating>0
    column_moments(<const floating*>NULL, x, ld, rows, cols, centre, plain, squares)
    for j in range(cols):
        centre[j] += plain[j] / <floating>rows
        mean[j] = <double>centre[j]
        m2[j] = 0
        plain[j] = squares[j] = <floating>0
    while i < n:
        rows = min(<Py_ssize_t>STATISTICS_ROWS, n - i)
        column_moments(<const floating*>NULL, x + i * ld, ld, rows, cols, centre, plain, squares)
        join(mean, m2, centre, plain, squares, cols, <double>i, <double>rows)
        i += rows
    memset(power, 0, cols * sizeof(int))
    for j in range(cols):
        outside |= (m2[j] < floor) | (m2[j] >= HUGE_VAL) | (m2[j] != m2[j])
    if outside:
        for j in range(cols):
            if not (m2[j] >= floor and m2[j] < HUGE_VAL):
                careful_statistics(x + j, n, ld, 1, &mean[j], &m2[j], &power[j])
    return outside != 0


cdef one_body_void piece_moments(const floating* x, floating centre, floating* plain, floating* squares,
                                 Py_ssize_t blocks) noexcept nogil:
    # plain and squares (LANES,) grow by x - centre and its square
    cdef floating first[LANES]
    cdef floating second[LANES]
    cdef floating d
    cdef Py_ssize_t i, j
    for j in range(LANES):
        first[j] = plain[j]
        second[j] = squares[j]
    for i in range(blocks):
        for j in range(LANES):
            d = x[j] - centre
            first[j] += d
            second[j] += d * d
        x += LANES
    for j in range(LANES):
        plain[j] = first[j]
        squares[j] = second[j]


cdef void channel_statistics(const floating* x, Py_ssize_t n, Py_ssize_t step, Py_ssize_t size, double* mean, double* m2,
                             int* power) noexcept nogil:
    # x: n runs of `size` elements, `step` apart -> mean, m2, power of them all, as in careful_statistics
    cdef const floating* start = x
    cdef floating plain[LANES]
    cdef floating squares[LANES]
    cdef floating block[LANES]
    cdef floating centre = x[0]
    cdef Py_ssize_t i, k, length = min(<Py_ssize_t>LANES, size), whole
    cdef double before = 0
    fill(plain, x, 0, <floating>0)
    fill(squares, x, 0, <floating>0)
    fill(block, x, length, centre)
    piece_moments(<const floating*>block, centre, plain, squares, 1)
    centre += lane_sum(plain) / <floating>length
    mean[0], m2[0] = <double>centre, 0
    for i in range(n):
        k = 0
        while k < size:
            length = min(<Py_ssize_t>STATISTICS_PIECE, size - k)
            whole = length // LANES
            fill(plain, x, 0, <floating>0)
            fill(squares, x, 0, <floating>0)
            piece_moments(x + k, centre, plain, squares, whole)
            if whole * LANES < length:
                fill(block, x + k + whole * LANES, length - whole * LANES, centre)    # x - centre of the padding adds 0
                piece_moments(<const floating*>block, centre, plain, squares, 1)
            plain[0], squares[0] = lane_sum(plain), lane_sum(squares)
            join(mean, m2, &centre, plain, squares, 1, before, <double>length)
            before += <double>length
            k += length
        x += step
    power[0] = 0
    if not (m2[0] >= before * least_variance(<floating*>NULL) and m2[0] < HUGE_VAL):
        careful_statistics(start, n, step, size, mean, m2, power)


# --- forward and backward ----------------------------------------------------------

cdef inline void affine(const floating* gamma, const floating* beta, const floating* var, floating* scale, floating* shift,
                        Py_ssize_t cols, double eps) noexcept nogil:
    # scale = gamma / sqrt(var + eps), shift = beta; gamma or beta NULL: 1, 0
    cdef Py_ssize_t j
    cdef floating small = <floating>eps, sigma
    for j in range(cols):
        sigma = root(var[j] + small)
        scale[j] = (gamma[j] if gamma != NULL else <floating>1) / sigma
        shift[j] = beta[j] if beta != NULL else <floating>0
    if floating is float and eps < <double>FLT_MIN:     # float32 does not hold eps
        for j in range(cols):
            scale[j] = scale_of(gamma, j, sqrt(<double>var[j] + eps))


cdef inline floating scale_of(const floating* gamma, Py_ssize_t j, double sigma) noexcept nogil:
    # gamma / sigma, within the range of the dtype: 0 times it is 0
    cdef double scale = (<double>gamma[j] if gamma != NULL else 1) / sigma, most = <double>FLT_MAX if floating is float else DBL_MAX
    return <floating>max(-most, min(most, scale))


cdef void scale_rows(const floating* x, Py_ssize_t ld, Py_ssize_t n, Py_ssize_t cols, const floating* centre,
                     const floating* scale, const floating* shift, floating* pre, floating* y, int activation) noexcept nogil:
    # pre = (x - centre) scale + shift, y = phi(pre), the last rows first; softmax, which needs whole rows, is left to `finish`
    cdef Py_ssize_t start = n, stop, i
    cdef bint rectified = activation == RELU and pre == y
    while start > 0:
        stop, start = start, (start - 1) // SCALE_ROWS * SCALE_ROWS
        column_scale(x + start * ld, ld, stop - start, cols, centre, scale, shift, pre + start * ld, rectified)
        if not rectified and activation != SOFTMAX and (activation != IDENTITY or pre != y):
            for i in range(start, stop):
                activate(activation, pre + i * ld, y + i * ld, cols)


cdef void forward_batch_norm(const floating* x, const floating* gamma, const floating* beta, floating* z, floating* y,
                             floating* mean, floating* var, floating* coefficients, Py_ssize_t n, Py_ssize_t c, double eps,
                             int activation, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # x (n, c), gamma, beta (c,) or NULL -> y (n, c), mean, var (c,) of the batch; z (n, c), if not NULL,
    # receives what the activation is taken of; coefficients (3, c): scratch
    cdef double middle[COLUMN_BLOCK]
    cdef double m2[COLUMN_BLOCK]
    cdef int power[COLUMN_BLOCK]
    cdef double least = relevant_variance(eps, <floating*>NULL)
    cdef bint outside
    cdef floating* scale = coefficients
    cdef floating* shift = coefficients + c
    cdef floating* pre = y if z == NULL else z
    cdef Py_ssize_t first = 0, last, c0, c1, cols, j, r0 = share(n, 1, member, team), r1 = share(n, 1, member + 1, team)
    while first < c:
        last = columns_until(first, c, team)
        c0, c1 = first + share(last - first, COLUMN_GRAIN, member, team), first + share(last - first, COLUMN_GRAIN, member + 1, team)
        while c0 < c1:
            cols = min(<Py_ssize_t>COLUMN_BLOCK, c1 - c0)
            outside = column_statistics(x + c0, c, n, cols, least, middle, m2, power)
            for j in range(cols):
                mean[c0 + j] = <floating>middle[j]
                var[c0 + j] = <floating>(m2[j] / <double>n)
            affine(gamma + c0 if gamma != NULL else NULL, beta + c0 if beta != NULL else NULL, var + c0, scale + c0, shift + c0,
                   cols, eps)
            if outside:
                for j in range(cols):
                    if power[j] != 0:
                        var[c0 + j] = <floating>variance(m2[j], <double>n, power[j])
                        scale[c0 + j] = scale_of(gamma, c0 + j, deviation(m2[j], <double>n, power[j], eps))
            for j in range(cols):
                shift[c0 + j] += <floating>(<double>mean[c0 + j] - middle[j]) * scale[c0 + j]
            c0 += cols
        team_barrier(team)
        scale_rows(x + r0 * c + first, c, r1 - r0, last - first, mean + first, scale + first, shift + first,
                   pre + r0 * c + first, y + r0 * c + first, activation)
        first = last
    if activation == SOFTMAX:
        finish(activation, pre, y, n, c, 0, 0, 0, 0, member, team)


cdef inline Py_ssize_t columns_until(Py_ssize_t first, Py_ssize_t c, Py_ssize_t team) noexcept nogil:
    # where the columns end that are summed before they are mapped: one member alone finds the last of few in its cache
    return c if team > 1 else min(c, first + COLUMN_BLOCK)


cdef void inference_batch_norm(const floating* x, const floating* gamma, const floating* beta, const floating* mean,
                               const floating* var, floating* y, Py_ssize_t n, Py_ssize_t c, double eps, int activation,
                               Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # x (n, c), the others (c,), gamma and beta or NULL -> y (n, c)
    cdef floating scale[COLUMN_BLOCK]
    cdef floating shift[COLUMN_BLOCK]
    cdef Py_ssize_t r0 = share(n, 1, member, team), r1 = share(n, 1, member + 1, team), c0 = 0, cols
    while c0 < c and r0 < r1:
        cols = min(<Py_ssize_t>COLUMN_BLOCK, c - c0)
        affine(gamma + c0 if gamma != NULL else NULL, beta + c0 if beta != NULL else NULL, var + c0, scale, shift,
               cols, eps)
        scale_rows(x + r0 * c + c0, c, r1 - r0, cols, mean + c0, scale, shift, y + r0 * c + c0, y + r0 * c + c0, activation)
        c0 += cols
    if activation == SOFTMAX:
        finish(activation, y, y, n, c, 0, 0, 0, 0, member, team)


cdef void backward_batch_norm(const floating* dy, const floating* x, const floating* gamma, const floating* mean,
                              const floating* var, floating* coefficients, const floating* v, floating* dz, floating* dx,
                              floating* dgamma, floating* dbeta, Py_ssize_t n, Py_ssize_t c, double eps, int activation,
                              bint accumulate_dx, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # dy, x (n, c), gamma (c,) or NULL, mean, var (c,), v (n, c) as activation_slope takes it
    # dz (n, c) = dy phi'; dx (n, c) (+)= gamma / sigma (dz - mean(dz) - x^ mean(dz x^)), x^ = (x - mean) / sigma,
    # sigma = sqrt(var + eps); dgamma = sum dz x^, dbeta = sum dz. dz may be dy; dx, dgamma, dbeta may be NULL;
    # coefficients (3, c): scratch
    cdef double total[COLUMN_BLOCK]
    cdef double product[COLUMN_BLOCK]
    cdef double inverse[COLUMN_BLOCK]           # 1 / sigma
    cdef floating* weight = coefficients
    cdef floating* scale = coefficients + c
    cdef floating* shift = coefficients + 2 * c
    cdef Py_ssize_t first = 0, last, c0, c1, cols, j, r0 = share(n, 1, member, team), r1 = share(n, 1, member + 1, team)
    cdef bint far
    if activation == SOFTMAX or (team > 1 and activation != IDENTITY):
        activation_gradient(dy, v, dz, n, c, activation, member, team)
        team_barrier(team)
        dy, activation = dz, IDENTITY
    while first < c:
        last = columns_until(first, c, team)
        c0, c1 = first + share(last - first, COLUMN_GRAIN, member, team), first + share(last - first, COLUMN_GRAIN, member + 1, team)
        while c0 < c1:
            cols = min(<Py_ssize_t>COLUMN_BLOCK, c1 - c0)
            gradient_sums(dy + c0, x + c0, mean + c0, v + c0, dz + c0, total, product, n, c, cols, activation)
            far = inverse_deviations(x + c0, var + c0, inverse, n, c, cols, eps)
            if far:
                for j in range(cols):
                    if is_far(var[c0 + j], eps):
                        product[j] = far_product(dz + c0 + j, x + c0 + j, mean[c0 + j], inverse[j], n, c)
            if dgamma != NULL:
                for j in range(cols):
                    dgamma[c0 + j] = <floating>(product[j] * inverse[j])
            if dbeta != NULL:
                for j in range(cols):
                    dbeta[c0 + j] = <floating>total[j]
            input_coefficients(gamma + c0 if gamma != NULL else NULL, inverse, total, product,
                               weight + c0, scale + c0, shift + c0, n, cols)
            if far:
                for j in range(cols):
                    if is_far(var[c0 + j], eps):        # of x^
                        scale[c0 + j] = <floating>(-<double>weight[c0 + j] * product[j] * inverse[j] / <double>n)
            c0 += cols
        team_barrier(team)
        if dx != NULL and not any_far(var + first, last - first, eps):
            slope_rows(dz + r0 * c + first, x + r0 * c + first, c, r1 - r0, last - first, mean + first, weight + first,
                       scale + first, shift + first, dx + r0 * c + first, accumulate_dx)
        elif dx != NULL:
            for j in range(first, last):
                if is_far(var[j], eps):
                    far_slope(dz + r0 * c + j, x + r0 * c + j, c, r1 - r0, mean[j], <double>gamma[j] if gamma != NULL else 1,
                              weight[j], scale[j], shift[j], dx + r0 * c + j, accumulate_dx)
                else:
                    slope_rows(dz + r0 * c + j, x + r0 * c + j, c, r1 - r0, 1, mean + j, weight + j, scale + j, shift + j,
                               dx + r0 * c + j, accumulate_dx)
        first = last


# --- columns so far from the middle of the dtype's range that what is of the order of 1 / var leaves it

cdef inline bint is_far(floating var, double eps) noexcept nogil:
    return (var > <floating>most_variance(<floating*>NULL)) | (var < least_far(eps, <floating*>NULL))


cdef inline floating least_far(double eps, floating* dtype) noexcept nogil:
    # beside an ordinary eps no variance is too small
    return <floating>(least_variance(dtype) if eps < least_variance(dtype) else -1)


cdef inline bint any_far(const floating* var, Py_ssize_t cols, double eps) noexcept nogil:
    cdef floating most = <floating>most_variance(<floating*>NULL), least = least_far(eps, <floating*>NULL)
    cdef Py_ssize_t j
    cdef int far = 0
    for j in range(cols):
        far |= (var[j] > most) | (var[j] < least)
    return far != 0


cdef inline bint inverse_deviations(const floating* x, const floating* var, double* inverse, Py_ssize_t n, Py_ssize_t ld,
                                    Py_ssize_t cols, double eps) noexcept nogil:
    # inverse (cols,) = 1 / sqrt(var + eps), and whether columns are far; the variance of those is taken once more, of the batch x
    cdef Py_ssize_t j
    cdef double mean, m2
    cdef int power
    cdef bint far = any_far(var, cols, eps)
    for j in range(cols):
        inverse[j] = 1 / sqrt(<double>var[j] + eps)
    if far:
        for j in range(cols):
            if is_far(var[j], eps):
                m2, power = <double>var[j] * <double>n, 0
                careful_statistics(x + j, n, ld, 1, &mean, &m2, &power)
                inverse[j] = 1 / deviation(m2, <double>n, power, eps)
    return far


cdef inline double far_product(const floating* dz, const floating* x, floating mean, double inverse, Py_ssize_t n,
                               Py_ssize_t ld) noexcept nogil:
    # sum dz (x - mean) of a column
    cdef Py_ssize_t i
    cdef double total = 0
    for i in range(n):
        total += <double>dz[i * ld] * ((<double>x[i * ld] - <double>mean) * inverse)
    return total / inverse


cdef inline void far_slope(const floating* dz, const floating* x, Py_ssize_t ld, Py_ssize_t n, floating mean, double gamma,
                           floating weight, floating scale, floating shift, floating* dx, bint accumulate) noexcept nogil:
    # dx (+)= dz weight + x^ scale + shift, x^ = (x - mean) weight / gamma, a column
    cdef Py_ssize_t i
    cdef double inverse = <double>weight / gamma if gamma != 0 else 0, out
    for i in range(n):
        out = <double>dz[i * ld] * <double>weight + (<double>x[i * ld] - <double>mean) * inverse * <double>scale + <double>shift
        dx[i * ld] = <floating>(<double>dx[i * ld] + out if accumulate else out)


cdef inline void gradient_sums(const floating* dy, const floating* x, const floating* mean, const floating* v, floating* dz,
                               double* total, double* product, Py_ssize_t n, Py_ssize_t ld, Py_ssize_t cols,
                               int activation) noexcept nogil:
    # dz = dy phi'; total = sum dz, product = sum dz (x - mean), both (cols,)
    cdef floating plain[COLUMN_BLOCK]
    cdef floating products[COLUMN_BLOCK]
    cdef Py_ssize_t i = 0, j, r, rows
    for j in range(cols):
        total[j] = product[j] = 0
        plain[j] = products[j] = <floating>0
    while i < n:
        rows = min(<Py_ssize_t>STATISTICS_ROWS, n - i)
        if activation != IDENTITY or dz != dy:
            for r in range(i, i + rows):
                activate_backward(activation, v + r * ld, dy + r * ld, dz + r * ld, cols)
        column_moments(<const floating*>dz + i * ld, x + i * ld, ld, rows, cols, mean, plain, products)
        for j in range(cols):
            total[j] += <double>plain[j]
            product[j] += <double>products[j]
            plain[j] = products[j] = <floating>0
        i += rows


cdef inline void input_coefficients(const floating* gamma, const double* inverse, const double* total, const double* product,
                                    floating* weight, floating* scale, floating* shift, Py_ssize_t n, Py_ssize_t cols) noexcept nogil:
    # dx = dz weight + (x - mean) scale + shift, in the terms of backward_batch_norm
    cdef Py_ssize_t j
    cdef double share_of_row = 1 / <double>n, factor
    for j in range(cols):
        factor = inverse[j] * (<double>gamma[j] if gamma != NULL else 1)
        weight[j] = <floating>factor
        scale[j] = <floating>(-factor * share_of_row * product[j] * inverse[j] * inverse[j])
        shift[j] = <floating>(-factor * share_of_row * total[j])


cdef void slope_rows(const floating* dz, const floating* x, Py_ssize_t ld, Py_ssize_t n, Py_ssize_t cols, const floating* centre,
                     const floating* weight, const floating* scale, const floating* shift, floating* dx, bint accumulate) noexcept nogil:
    # dx (+)= dz weight + (x - centre) scale + shift, the last rows first
    cdef Py_ssize_t start = n, stop
    while start > 0:
        stop, start = start, (start - 1) // SCALE_ROWS * SCALE_ROWS
        column_slope(dz + start * ld, x + start * ld, ld, stop - start, cols, centre, weight, scale, shift,
                     dx + start * ld, accumulate)


# --- directional derivatives: t before a name is the tangent of what it stands for

cdef void tangent_batch_norm(const floating* x, const floating* tx, const floating* gamma, const floating* tgamma,
                             const floating* tbeta, const floating* mean, const floating* var, const floating* v,
                             floating* tz, floating* ty, floating* tmean, floating* pull, Py_ssize_t n, Py_ssize_t c,
                             double eps, int activation, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # x, tx (n, c) or tx NULL, no tangent; gamma, tgamma, tbeta (c,) or NULL, mean, var (c,), v (n, c) as activation_slope takes it
    # tmean = mean(tx), pull = mean(x^ tx), both (c,): kept for backward; tx^ = (tx - tmean - x^ pull) / sigma
    # tz (n, c) = gamma tx^ + tgamma x^ + tbeta, ty (n, c) = phi' tz, which tz may be
    cdef double total[COLUMN_BLOCK]
    cdef double product[COLUMN_BLOCK]
    cdef floating weight[COLUMN_BLOCK]
    cdef floating scale[COLUMN_BLOCK]
    cdef floating shift[COLUMN_BLOCK]
    cdef double inverses[COLUMN_BLOCK]
    cdef Py_ssize_t first = share(c, COLUMN_GRAIN, member, team), c1 = share(c, COLUMN_GRAIN, member + 1, team), c0 = first, cols, j
    cdef double inverse, factor
    while c0 < c1:
        cols = min(<Py_ssize_t>COLUMN_BLOCK, c1 - c0)
        sum_products(tx + c0 if tx != NULL else NULL, x + c0, mean + c0, total, product, n, c, cols)
        inverse_deviations(x + c0, var + c0, inverses, n, c, cols, eps)
        for j in range(cols):
            inverse = inverses[j]
            factor = inverse * (<double>gamma[c0 + j] if gamma != NULL else 1)
            tmean[c0 + j] = <floating>(total[j] / <double>n)
            pull[c0 + j] = <floating>(product[j] / <double>n * inverse)
            weight[j] = <floating>factor
            scale[j] = <floating>(inverse * ((<double>tgamma[c0 + j] if gamma != NULL else 0) - factor * <double>pull[c0 + j]))
            shift[j] = <floating>((<double>tbeta[c0 + j] if gamma != NULL else 0) - factor * <double>tmean[c0 + j])
        if tx != NULL:
            column_slope(tx + c0, x + c0, c, n, cols, mean + c0, weight, scale, shift, tz + c0, False)
        else:
            column_scale(x + c0, c, n, cols, mean + c0, scale, shift, tz + c0, False)
        c0 += cols
    finish_tangent(activation, v, tz, ty, n, c, 0, n, first, c1, member, team)


cdef void tangent_backward_batch_norm(floating* dy, floating* tdy, const floating* x, const floating* tx, const floating* gamma,
                                      const floating* tgamma, const floating* mean, const floating* var, const floating* tmean,
                                      const floating* pull, const floating* v, const floating* tv, floating* dx, floating* tdx,
                                      floating* tdgamma, floating* tdbeta, Py_ssize_t n, Py_ssize_t c, double eps,
                                      int activation, bint accumulate_dx, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # dy, tdy (n, c) become dz and tdz. With a = mean(dz), b = mean(dz x^), ta and tb their tangents:
    # dx (n, c) (+)= gamma / sigma (dz - a - x^ b)
    # tdx (n, c) (+)= gamma / sigma (tdz - ta - tx^ b - x^ tb) + (tgamma - gamma pull / sigma) / sigma (dz - a - x^ b)
    # tdgamma = n tb, tdbeta = n ta, both (c,) or NULL. tx NULL: x has no tangent, and dx and tdx are not wanted
    cdef double total[COLUMN_BLOCK]
    cdef double product[COLUMN_BLOCK]
    cdef double ttotal[COLUMN_BLOCK]
    cdef double tproduct[COLUMN_BLOCK]
    cdef double again[COLUMN_BLOCK]
    cdef double moved[COLUMN_BLOCK]             # sum dz (tx - tmean)
    cdef double inverse[COLUMN_BLOCK]           # 1 / sigma
    cdef floating weight[COLUMN_BLOCK]
    cdef floating scale[COLUMN_BLOCK]
    cdef floating shift[COLUMN_BLOCK]
    cdef Py_ssize_t c0 = share(c, COLUMN_GRAIN, member, team), c1 = share(c, COLUMN_GRAIN, member + 1, team), cols, j
    activation_tangent_gradient(v, tv, dy, tdy, n, c, activation, member, team)
    team_barrier(team)
    while c0 < c1:
        cols = min(<Py_ssize_t>COLUMN_BLOCK, c1 - c0)
        sum_products(tdy + c0, x + c0, mean + c0, ttotal, tproduct, n, c, cols)
        inverse_deviations(x + c0, var + c0, inverse, n, c, cols, eps)
        if tx != NULL:
            sum_products(dy + c0, x + c0, mean + c0, total, product, n, c, cols)
            sum_products(dy + c0, tx + c0, tmean + c0, again, moved, n, c, cols)
            for j in range(cols):               # sum dz (tx - tmean - x^ pull): what tx^ adds to tb
                tproduct[j] += moved[j] - product[j] * inverse[j] * <double>pull[c0 + j]
            input_coefficients(gamma + c0 if gamma != NULL else NULL, inverse, total, product, weight, scale, shift, n, cols)
            slope_rows(dy + c0, x + c0, c, n, cols, mean + c0, weight, scale, shift, dx + c0, accumulate_dx)
            input_tangent_gradient(dy + c0, tdy + c0, x + c0, tx + c0, gamma + c0 if gamma != NULL else NULL,
                                   tgamma + c0 if gamma != NULL else NULL, mean + c0, tmean + c0, pull + c0, inverse,
                                   total, product, ttotal, tproduct, tdx + c0, n, c, cols, accumulate_dx)
        if tdgamma != NULL:
            for j in range(cols):
                tdgamma[c0 + j], tdbeta[c0 + j] = <floating>(tproduct[j] * inverse[j]), <floating>ttotal[j]
        c0 += cols


cdef inline void sum_products(const floating* w, const floating* x, const floating* centre, double* total, double* product,
                              Py_ssize_t n, Py_ssize_t ld, Py_ssize_t cols) noexcept nogil:
    # total = sum w, product = sum w (x - centre), both (cols,); w NULL is all zeros
    if w == NULL:
        memset(total, 0, cols * sizeof(double))
        memset(product, 0, cols * sizeof(double))
    else:                                       # dz is dy, and left alone
        gradient_sums(w, x, centre, w, <floating*>w, total, product, n, ld, cols, IDENTITY)


cdef inline void input_tangent_gradient(const floating* dz, const floating* tdz, const floating* x, const floating* tx,
                                        const floating* gamma, const floating* tgamma, const floating* mean, const floating* tmean,
                                        const floating* pull, const double* inverse, const double* total, const double* product,
                                        const double* ttotal, const double* tproduct, floating* tdx, Py_ssize_t n, Py_ssize_t ld,
                                        Py_ssize_t cols, bint accumulate) noexcept nogil:
    # tdx (+)= dz weight + (x - mean) scale + shift + tdz tweight + (tx - tmean) tscale, in the terms of
    # tangent_backward_batch_norm; tproduct is n tb sigma
    cdef floating weight[COLUMN_BLOCK]
    cdef floating scale[COLUMN_BLOCK]
    cdef floating shift[COLUMN_BLOCK]
    cdef floating tweight[COLUMN_BLOCK]
    cdef floating tscale[COLUMN_BLOCK]
    cdef floating none[COLUMN_BLOCK]
    cdef Py_ssize_t j
    cdef double share_of_row = 1 / <double>n, factor, tfactor, b, tb
    for j in range(cols):
        factor = inverse[j] * (<double>gamma[j] if gamma != NULL else 1)
        tfactor = inverse[j] * (<double>tgamma[j] if gamma != NULL else 0) - factor * inverse[j] * <double>pull[j]
        b, tb = product[j] * inverse[j] * share_of_row, tproduct[j] * inverse[j] * share_of_row
        weight[j], tweight[j], none[j] = <floating>tfactor, <floating>factor, <floating>0
        tscale[j] = <floating>(-factor * inverse[j] * b)
        scale[j] = <floating>(inverse[j] * (factor * (b * inverse[j] * <double>pull[j] - tb) - tfactor * b))
        shift[j] = <floating>(-share_of_row * (factor * ttotal[j] + tfactor * total[j]))
    column_slope(dz, x, ld, n, cols, mean, weight, scale, shift, tdx, accumulate)
    column_slope(tdz, tx, ld, n, cols, tmean, tweight, tscale, none, tdx, True)


cdef void update_running(floating* running_mean, floating* running_var, const floating* mean, const floating* var,
                         Py_ssize_t n, Py_ssize_t c, double momentum) noexcept nogil:
    # running <- (1 - momentum) running + momentum batch, the batch's variance unbiased; all (c,)
    cdef Py_ssize_t j
    cdef floating keep = <floating>(1 - momentum), take = <floating>momentum
    cdef floating take_var = <floating>(momentum * <double>n / <double>(n - 1))
    for j in range(c):
        running_mean[j] = keep * running_mean[j] + take * mean[j]
        running_var[j] = keep * running_var[j] + take_var * var[j]


# ---------------------------------------------------------------- entry points

cdef struct BatchNormCall:
    int typenum, activation
    Py_ssize_t n, c, size       # size: elements of a channel in one image; 1 in rows
    Py_ssize_t correction
    double eps
    void *x
    void *gamma
    void *beta
    void *mean
    void *var
    void *y
    void *v
    void *dy
    void *dz
    void *dx
    void *dgamma
    void *dbeta
    void *coefficients


cdef void statistics_of(BatchNormCall* a, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # x (n, c) or (n, c, size) -> mean, var (c,)
    cdef double middle[COLUMN_BLOCK]
    cdef double m2[COLUMN_BLOCK]
    cdef int power[COLUMN_BLOCK]
    cdef Py_ssize_t j, cols, c0 = share(a.c, COLUMN_GRAIN, member, team), c1 = share(a.c, COLUMN_GRAIN, member + 1, team)
    cdef double divisor = <double>(a.n * a.size - a.correction)
    while c0 < c1:
        cols = min(<Py_ssize_t>COLUMN_BLOCK, c1 - c0)
        if a.size == 1:
            column_statistics(<floating*>a.x + c0, a.c, a.n, cols, least_variance(dtype), middle, m2, power)
        else:
            for j in range(cols):
                channel_statistics(<floating*>a.x + (c0 + j) * a.size, a.n, a.c * a.size, a.size, &middle[j], &m2[j], &power[j])
        for j in range(cols):
            (<floating*>a.mean)[c0 + j] = <floating>middle[j]
            (<floating*>a.var)[c0 + j] = <floating>variance(m2[j], divisor, power[j])
        c0 += cols


cdef void batch_statistics_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef BatchNormCall* a = <BatchNormCall*>args
    if a.typenum == cnp.NPY_FLOAT32:
        statistics_of(a, <float*>NULL, member, team)
    else:
        statistics_of(a, <double*>NULL, member, team)


cdef void batch_norm_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef BatchNormCall* a = <BatchNormCall*>args
    if a.typenum == cnp.NPY_FLOAT32:
        forward_batch_norm[float](<float*>a.x, <float*>a.gamma, <float*>a.beta, <float*>a.v, <float*>a.y, <float*>a.mean,
                                  <float*>a.var, <float*>a.coefficients, a.n, a.c, a.eps, a.activation, member, team)
    else:
        forward_batch_norm[double](<double*>a.x, <double*>a.gamma, <double*>a.beta, <double*>a.v, <double*>a.y, <double*>a.mean,
                                   <double*>a.var, <double*>a.coefficients, a.n, a.c, a.eps, a.activation, member, team)


cdef void batch_norm_inference_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef BatchNormCall* a = <BatchNormCall*>args
    if a.typenum == cnp.NPY_FLOAT32:
        inference_batch_norm[float](<float*>a.x, <float*>a.gamma, <float*>a.beta, <float*>a.mean, <float*>a.var, <float*>a.y,
                                    a.n, a.c, a.eps, a.activation, member, team)
    else:
        inference_batch_norm[double](<double*>a.x, <double*>a.gamma, <double*>a.beta, <double*>a.mean, <double*>a.var,
                                     <double*>a.y, a.n, a.c, a.eps, a.activation, member, team)


cdef void batch_norm_backward_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef BatchNormCall* a = <BatchNormCall*>args
    if a.typenum == cnp.NPY_FLOAT32:
        backward_batch_norm[float](<float*>a.dy, <float*>a.x, <float*>a.gamma, <float*>a.mean, <float*>a.var,
                                   <float*>a.coefficients, <float*>a.v, <float*>a.dz, <float*>a.dx, <float*>a.dgamma,
                                   <float*>a.dbeta, a.n, a.c, a.eps, a.activation, False, member, team)
    else:
        backward_batch_norm[double](<double*>a.dy, <double*>a.x, <double*>a.gamma, <double*>a.mean, <double*>a.var,
                                    <double*>a.coefficients, <double*>a.v, <double*>a.dz, <double*>a.dx, <double*>a.dgamma,
                                    <double*>a.dbeta, a.n, a.c, a.eps, a.activation, False, member, team)


cdef inline object new_row(int typenum, Py_ssize_t n):
    cdef cnp.npy_intp length = n
    return cnp.PyArray_EMPTY(1, &length, typenum, 0)


cdef double positive_eps(object eps) except -1:
    if not isinstance(eps, (int, float, np.number)) or not 0 < eps < HUGE_VAL:
        raise ValueError(f"eps: expected a finite number above 0, got {eps!r}")
    return eps


def batch_statistics(x, correction=0):
    """Mean and variance of every column, or of every channel of images, in one pass.

    Parameters
    ----------
    x : ndarray, shape (n, c) or (n, c, h, w), float32 or float64
        Rows, or images whose channels are taken over all images, rows and columns.
    correction : int
        Subtracted from the number of elements that the sum of squares is divided by: 0 for the
        variance of a population, 1 for the unbiased one of a sample.

    Returns
    -------
    mean, var : ndarray, shape (c,), dtype of `x`
        Of float32 to six digits, however far the mean is from zero, and wherever the dtype holds them. A variance it
        does not hold is infinite or 0.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shape, or no more elements than `correction`.

    References
    ----------
    Chan, Golub & LeVeque 1983, Algorithms for computing the sample variance.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> x = np.array([[1.0, 5.0], [3.0, 5.0]])
    >>> fo.functional.batch_statistics(x)
    (array([2., 5.]), array([1., 0.]))
    >>> fo.functional.batch_statistics(x, correction=1)
    (array([2., 5.]), array([2., 0.]))
    """
    cdef BatchNormCall a
    a.typenum = float_type("x", x)
    if x.ndim == 4:
        x = as_input("x", x, a.typenum, (None, None, None, None))
        a.size = cnp.PyArray_DIM(<cnp.ndarray>x, 2) * cnp.PyArray_DIM(<cnp.ndarray>x, 3)
    else:
        x = as_input("x", x, a.typenum, (None, None))
        a.size = 1
    a.n, a.c = cnp.PyArray_DIM(<cnp.ndarray>x, 0), cnp.PyArray_DIM(<cnp.ndarray>x, 1)
    if isinstance(correction, bool) or not hasattr(correction, "__index__") or correction < 0:
        raise ValueError(f"correction: expected a whole number of at least 0, got {correction!r}")
    a.correction = correction
    if a.n == 0:
        raise ValueError("x: expected at least one row, got none")
    if a.n * a.size <= a.correction:
        raise ValueError(f"x: expected more than {correction} elements a column for this correction, got {a.n * a.size}")
    mean, var = new_row(a.typenum, a.c), new_row(a.typenum, a.c)
    a.x, a.mean, a.var = data(x), data(mean), data(var)
    with nogil:
        team_run(batch_statistics_job, &a, team_for(4 * a.n * a.c * a.size))
    return mean, var


cdef object row_argument(str name, object row, int typenum, Py_ssize_t c):
    return None if row is None else as_input(name, row, typenum, (c,))


def batch_norm(x, gamma=None, beta=None, eps=1e-5, out=None, *, activation="identity", z=None):
    """Batch normalisation by the statistics of the batch, as in training.

    ``activation(gamma * (x - mean) / sqrt(var + eps) + beta)``

    Parameters
    ----------
    x : ndarray, shape (n, c), float32 or float64
        At least two rows.
    gamma, beta : ndarray, shape (c,), dtype of `x`, optional
        Scale and shift; ones and zeros if not given.
    eps : float
        Added to the variance, inside the root.
    out : ndarray, shape (n, c), optional
        Overwritten with the result.
    activation : str
        One of identity, relu, leaky_relu (slope 0.01), tanh, sigmoid, gelu (erf form), silu, softmax.
    z : ndarray, shape (n, c), optional
        Overwritten with what the activation is taken of.

    Returns
    -------
    y : ndarray, shape (n, c)
        `out` if given, else a new array.
    mean, var : ndarray, shape (c,)
        Of the batch; the population variance. It may be infinite in the dtype where y is not: columns of float32
        that deviate by more than 1e19.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap, or fewer than two rows; nothing has been written then.

    References
    ----------
    Ioffe & Szegedy 2015, Batch normalization.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> y, mean, var = fo.functional.batch_norm(np.array([[1.0, 8.0], [3.0, 2.0]]))
    >>> y.round(2)
    array([[-1.,  1.],
           [ 1., -1.]])
    >>> mean, var
    (array([2., 5.]), array([1., 9.]))
    """
    cdef BatchNormCall a
    a.typenum = float_type("x", x)
    x = as_input("x", x, a.typenum, (None, None))
    a.n, a.c = cnp.PyArray_DIM(<cnp.ndarray>x, 0), cnp.PyArray_DIM(<cnp.ndarray>x, 1)
    gamma, beta = row_argument("gamma", gamma, a.typenum, a.c), row_argument("beta", beta, a.typenum, a.c)
    a.eps, a.activation = positive_eps(eps), activation_code(activation)
    check_two_rows(a.n)
    out = as_output("out", out, a.typenum, (a.n, a.c))
    if z is not None:
        z = as_output("z", z, a.typenum, (a.n, a.c))
    check_apart(("out", "z"), (out, z), ("x", "gamma", "beta"), (x, gamma, beta))
    mean, var = new_row(a.typenum, a.c), new_row(a.typenum, a.c)
    a.x, a.y, a.mean, a.var = data(x), data(out), data(mean), data(var)
    a.gamma, a.beta = NULL if gamma is None else data(gamma), NULL if beta is None else data(beta)
    a.v = NULL if z is None else data(z)
    coefficients = new_row(a.typenum, 3 * a.c)
    a.coefficients = data(coefficients)
    with nogil:
        team_run(batch_norm_job, &a, team_for(8 * a.n * a.c))
    return out, mean, var


cdef inline int check_two_rows(Py_ssize_t n) except -1:
    if n < 2:
        raise ValueError(f"x: expected at least two rows to take batch statistics of, got {n}; "
                         "normalise by given statistics with batch_norm_inference")
    return 0


def batch_norm_inference(x, gamma, beta, mean, var, eps=1e-5, out=None, *, activation="identity"):
    """Batch normalisation by given statistics.

    ``activation(gamma * (x - mean) / sqrt(var + eps) + beta)``

    Parameters
    ----------
    x : ndarray, shape (n, c), float32 or float64
    gamma, beta : ndarray, shape (c,), dtype of `x`, or None
        Scale and shift; ones and zeros if None.
    mean, var : ndarray, shape (c,), dtype of `x`
    eps : float
        Added to the variance, inside the root.
    out : ndarray, shape (n, c), optional
        Overwritten with the result; may be `x` itself.
    activation : str
        As in `batch_norm`.

    Returns
    -------
    ndarray, shape (n, c)
        `out` if given, else a new array.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> x, mean, var = np.array([[1.0, 8.0]]), np.array([0.0, 5.0]), np.array([1.0, 9.0])
    >>> fo.functional.batch_norm_inference(x, None, None, mean, var).round(2)
    array([[1., 1.]])
    """
    cdef BatchNormCall a
    a.typenum = float_type("x", x)
    x = as_input("x", x, a.typenum, (None, None))
    a.n, a.c = cnp.PyArray_DIM(<cnp.ndarray>x, 0), cnp.PyArray_DIM(<cnp.ndarray>x, 1)
    gamma, beta = row_argument("gamma", gamma, a.typenum, a.c), row_argument("beta", beta, a.typenum, a.c)
    mean, var = as_input("mean", mean, a.typenum, (a.c,)), as_input("var", var, a.typenum, (a.c,))
    a.eps, a.activation = positive_eps(eps), activation_code(activation)
    out = as_output("out", out, a.typenum, (a.n, a.c))
    check_apart(("out",), (out,), ("x", "gamma", "beta", "mean", "var"),
                (None if data(out) == data(x) else x, gamma, beta, mean, var))
    a.x, a.y, a.mean, a.var = data(x), data(out), data(mean), data(var)
    a.gamma, a.beta = NULL if gamma is None else data(gamma), NULL if beta is None else data(beta)
    with nogil:
        team_run(batch_norm_inference_job, &a, team_for(4 * a.n * a.c))
    return out


def batch_norm_backward(dy, x, gamma, mean, var, eps=1e-5, dx=None, dgamma=None, dbeta=None, *,
                        activation="identity", z=None, y=None):
    """Gradients of `batch_norm`, given the gradient of its output.

    Parameters
    ----------
    dy : ndarray, shape (n, c), float32 or float64
        Gradient with respect to the output; not changed.
    x : ndarray, shape (n, c), dtype of `dy`
        As given to `batch_norm`.
    gamma : ndarray, shape (c,), dtype of `dy`, or None
        As given to `batch_norm`.
    mean, var : ndarray, shape (c,), dtype of `dy`
        As returned by `batch_norm`.
    eps : float
        As given to `batch_norm`.
    dx, dgamma, dbeta : ndarray, optional
        Overwritten with the gradients of `x` (n, c), `gamma` (c,) and `beta` (c,); made if not given.
    activation : str
        As given to `batch_norm`.
    z : ndarray, shape (n, c), optional
        What `batch_norm` stored as `z`.
    y : ndarray, shape (n, c), optional
        The output, which may be given instead of `z` (and saves recomputing it) for every
        activation except gelu and silu.

    Returns
    -------
    dx : ndarray, shape (n, c)
    dgamma, dbeta : ndarray, shape (c,)

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap, or fewer than two rows; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> x, gamma = np.array([[0.0], [0.0], [3.0]]), np.array([2.0])
    >>> y, mean, var = fo.functional.batch_norm(x, gamma)
    >>> dy = np.array([[1.0], [0.0], [0.0]])
    >>> dx, dgamma, dbeta = fo.functional.batch_norm_backward(dy, x, gamma, mean, var)
    >>> (dx[:2] / dx[0]).round(2).ravel(), dgamma.round(2), dbeta
    (array([ 1., -1.]), array([-0.71]), array([1.]))
    """
    cdef BatchNormCall a
    a.typenum = float_type("dy", dy)
    dy = as_input("dy", dy, a.typenum, (None, None))
    a.n, a.c = cnp.PyArray_DIM(<cnp.ndarray>dy, 0), cnp.PyArray_DIM(<cnp.ndarray>dy, 1)
    x = as_input("x", x, a.typenum, (a.n, a.c))
    gamma = row_argument("gamma", gamma, a.typenum, a.c)
    mean, var = as_input("mean", mean, a.typenum, (a.c,)), as_input("var", var, a.typenum, (a.c,))
    a.eps, a.activation = positive_eps(eps), activation_code(activation)
    check_two_rows(a.n)
    v = slope_argument(a.activation, a.typenum, z, y, (a.n, a.c))
    dx = as_output("dx", dx, a.typenum, (a.n, a.c))
    dgamma = new_row(a.typenum, a.c) if dgamma is None else as_output("dgamma", dgamma, a.typenum, (a.c,))
    dbeta = new_row(a.typenum, a.c) if dbeta is None else as_output("dbeta", dbeta, a.typenum, (a.c,))
    check_apart(("dx", "dgamma", "dbeta"), (dx, dgamma, dbeta),
                ("dy", "x", "gamma", "mean", "var", "z"), (dy, x, gamma, mean, var, v))
    dz = dy if a.activation == IDENTITY else np.empty_like(dy)
    a.dy, a.x, a.mean, a.var, a.dz = data(dy), data(x), data(mean), data(var), data(dz)
    a.dx, a.dgamma, a.dbeta = data(dx), data(dgamma), data(dbeta)
    a.gamma = NULL if gamma is None else data(gamma)
    a.v = data(dy) if v is None else data(v)
    coefficients = new_row(a.typenum, 3 * a.c)
    a.coefficients = data(coefficients)
    with nogil:
        team_run(batch_norm_backward_job, &a, team_for(12 * a.n * a.c))
    return dx, dgamma, dbeta
