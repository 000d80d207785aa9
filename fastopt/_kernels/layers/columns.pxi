# Sums of columns and maps along them: mean and variance in one pass; y = (x - center) scale + shift.
#
# - A block of STATISTICS_ROWS rows is summed in the dtype, about the mean of the rows before it, and merged with them in
#   float64 (Chan et al. 1983). Where a block lies far from that mean, most of the variance comes from this distance: no
#   digits are lost, wherever the data lie. The first block is summed about the mean of a few of its rows.
# - A column whose squares leave the range of the dtype is summed once more in float64, divided by a power of two
#   (scaled_statistics). Its variance may be beyond the dtype.

cdef extern from "simd.h" nogil:
    ctypedef struct ColumnSums:
        const void *w
        const void *x
        const void *center
        void *sum_w
        void *sum_wd
        Py_ssize_t ldw, ldx, rows, cols
    ctypedef struct ColumnMap:
        const void *w
        const void *x
        const void *center
        const void *weight
        const void *scale
        const void *shift
        void *y
        Py_ssize_t ldw, ldx, ldy, rows, cols
        bint relu, accumulate, streamed
    # Macros over both types, which `like` points to.
    void column_scale "fastopt_column_scale"(const void* like, const ColumnMap* m)          # y = (x - center) scale + shift
    void column_scale_add "fastopt_column_scale_add"(const void* like, const ColumnMap* m)  # y (+)= w weight + (x - center) scale + shift
    void column_moments "fastopt_column_moments"(const void* like, const ColumnSums* s)


cdef inline void merge_moments(double* mean, double* m2, floating* center, floating* sum_w, floating* squares, Py_ssize_t cols,
                               double before, double rows) noexcept nogil:
    # mean and m2 = sum (x - mean)^2 of `before` rows take in `rows` more, given by the sums of x - center and of its square;
    # center becomes the mean of all, the sums become 0
    cdef Py_ssize_t j
    cdef double inverse = 1 / rows, weight = rows / (before + rows), offset, delta
    for j in range(cols):
        offset = <double>sum_w[j] * inverse
        delta = <double>center[j] + offset - mean[j]
        m2[j] += <double>squares[j] - <double>sum_w[j] * offset + delta * delta * (before * weight)
        mean[j] += delta * weight
        center[j] = <floating>mean[j]
        sum_w[j] = squares[j] = <floating>0


cdef inline double min_variance(floating* dtype) noexcept nogil:
    # below it, squares lose digits to the smallest number of the dtype, or vanish
    return 1e-30 if floating is float else 1e-290


cdef inline double max_variance(floating* dtype) noexcept nogil:
    # above it, the coefficients of x in backward may vanish
    return 1e30 if floating is float else 1e250


cdef inline double min_relevant_variance(double eps, floating* dtype) noexcept nogil:
    # below it, digits of a variance do not matter beside eps: a column of zeros, usual after relu, is summed only once
    return min_variance(dtype) if eps < 1e17 * min_variance(dtype) else -HUGE_VAL


cdef void scaled_statistics(const Rows* x, Py_ssize_t column, Py_ssize_t n, double* mean, double* m2, int* power,
                            floating* dtype) noexcept nogil:
    # a column of n rows, whose squares may have left the range of the dtype -> mean, and m2 of the elements divided by
    # 2^power; where there is NaN or infinity, mean and m2 stay as they are
    cdef double first = <double>row(x, 0, dtype)[column], extreme = 0, total = 0, squares = 0, drift = 0, count = <double>n, d, scale
    cdef double origin
    cdef floating v
    cdef Py_ssize_t i
    cdef bint known = True
    for i in range(n):          # the farthest element from the first one, and whether all are finite
        v = row(x, i, dtype)[column]
        d = fabs(<double>v - first)
        extreme = d if d > extreme else extreme
        known &= v - v == <floating>0
    if not known:
        return
    mean[0], m2[0], power[0] = first, 0, 0
    if extreme == 0:
        return
    frexp(min(extreme, DBL_MAX), power)
    power[0] = max(-1000, min(1000, power[0]))          # the scale has to be a number, too
    scale = ldexp(1, -power[0])
    origin = first * scale
    for i in range(n):          # the mean
        total += <double>row(x, i, dtype)[column] * scale - origin
    total /= count
    for i in range(n):          # the squares about it, and what rounding has left of the sum
        d = (<double>row(x, i, dtype)[column] * scale - origin) - total
        squares += d * d
        drift += d
    mean[0], m2[0] = ldexp(origin + total, power[0]), squares - drift * drift / count


cdef inline double variance(double m2, double n, int power) noexcept nogil:
    return m2 / n if power == 0 else ldexp(m2 / n, 2 * power)


cdef inline double deviation(double m2, double n, int power, double eps) noexcept nogil:
    # sqrt(variance + eps), which float64 holds also where it cannot hold the variance
    return hypot(ldexp(sqrt(m2 / n), power), sqrt(eps))


cdef bint column_statistics(const Rows* x, Py_ssize_t first, Py_ssize_t cols, Py_ssize_t n, double smallest, double* mean,
                            double* m2, int* power, floating* dtype) noexcept nogil:
    # columns first to first + cols of x, n >= 1 rows -> mean, m2, power (cols,) as in scaled_statistics, power 0 of ordinary
    # columns. Returns whether some are not. Digits of variances below `least` do not matter; cols <= COLUMN_BLOCK
    cdef floating center[COLUMN_BLOCK]
    cdef floating sum_w[COLUMN_BLOCK]
    cdef floating squares[COLUMN_BLOCK]
    cdef Py_ssize_t i = 0, j, rows = min(<Py_ssize_t>CENTER_ROWS, n)
    cdef double floor = <double>n * smallest
    cdef int outside = 0
    for j in range(cols):
        center[j] = row(x, 0, dtype)[first + j]
        sum_w[j] = squares[j] = <floating>0
    sum_columns(<const Rows*>NULL, x, Block(0, rows, first, first + cols), center, sum_w, squares)
    for j in range(cols):       # the center of the first block: the mean of a few rows
        center[j] += sum_w[j] / <floating>rows
        mean[j] = <double>center[j]
        m2[j] = 0
        sum_w[j] = squares[j] = <floating>0
    while i < n:                # block by block
        rows = min(<Py_ssize_t>STATISTICS_ROWS, n - i)
        sum_columns(<const Rows*>NULL, x, Block(i, i + rows, first, first + cols), center, sum_w, squares)
        merge_moments(mean, m2, center, sum_w, squares, cols, <double>i, <double>rows)
        i += rows
    memset(power, 0, cols * sizeof(int))
    for j in range(cols):
        outside |= (m2[j] < floor) | (m2[j] >= HUGE_VAL) | (m2[j] != m2[j])
    if outside:                 # these columns once more
        for j in range(cols):
            if not (m2[j] >= floor and m2[j] < HUGE_VAL):
                scaled_statistics(x, first + j, n, &mean[j], &m2[j], &power[j], dtype)
    return outside != 0


cdef inline void sum_columns(const Rows* w, const Rows* x, Block b, const floating* center, floating* sum_w,
                             floating* total) noexcept nogil:
    # sum_w += sum of w, total += sum of w (x - center), over the rows of a block; x - center stands for w where that is NULL
    cdef ColumnSums s
    cdef Py_ssize_t i = b.r0
    s.center, s.sum_w, s.sum_wd, s.cols, s.ldx, s.w, s.ldw = center, sum_w, total, b.c1 - b.c0, x.ld, NULL, 0
    while i < b.r1:
        s.rows = run_rows(x, i, b.r1) if w == NULL else common_rows(x, w, i, b.r1)
        s.x = row(x, i, sum_w) + b.c0
        if w != NULL:
            s.w, s.ldw = row(w, i, sum_w) + b.c0, w.ld
        column_moments(sum_w, &s)
        i += s.rows


cdef noinline_void block_moments(const floating* x, floating center, floating* sum_w, floating* squares,
                                 Py_ssize_t blocks) noexcept nogil:
    # plain, squares (LANES,) += x - center and its square, of so many blocks of LANES elements
    cdef floating first[LANES]
    cdef floating second[LANES]
    cdef floating d
    cdef Py_ssize_t i, j
    for j in range(LANES):
        first[j] = sum_w[j]
        second[j] = squares[j]
    for i in range(blocks):
        for j in range(LANES):
            d = x[j] - center
            first[j] += d
            second[j] += d * d
        x += LANES
    for j in range(LANES):
        sum_w[j] = first[j]
        squares[j] = second[j]


cdef void channel_statistics(const floating* x, Py_ssize_t n, Py_ssize_t step, Py_ssize_t size, double* mean, double* m2,
                             int* power) noexcept nogil:
    # x, n stretches of `size` elements that are `step` apart -> mean, m2, power of all of them, as in scaled_statistics
    cdef Rows elements = Rows(<void*>x, 1, size, 1, 0, step)
    cdef floating sum_w[LANES]
    cdef floating squares[LANES]
    cdef floating block[LANES]
    cdef floating center = x[0]
    cdef Py_ssize_t i, k, length = min(<Py_ssize_t>LANES, size), whole
    cdef double before = 0
    load_padded(sum_w, x, 0, <floating>0)
    load_padded(squares, x, 0, <floating>0)
    load_padded(block, x, length, center)
    block_moments(<const floating*>block, center, sum_w, squares, 1)
    center += lane_sum(sum_w) / <floating>length
    mean[0], m2[0] = <double>center, 0
    for i in range(n):
        k = 0
        while k < size:
            length = min(<Py_ssize_t>STATISTICS_BLOCK, size - k)
            whole = length // LANES
            load_padded(sum_w, x, 0, <floating>0)
            load_padded(squares, x, 0, <floating>0)
            block_moments(x + k, center, sum_w, squares, whole)
            if whole * LANES < length:
                load_padded(block, x + k + whole * LANES, length - whole * LANES, center)  # x - center of the padding adds 0
                block_moments(<const floating*>block, center, sum_w, squares, 1)
            sum_w[0], squares[0] = lane_sum(sum_w), lane_sum(squares)
            merge_moments(mean, m2, &center, sum_w, squares, 1, before, <double>length)
            before += <double>length
            k += length
        x += step
    power[0] = 0
    if not (m2[0] >= before * min_variance(<floating*>NULL) and m2[0] < HUGE_VAL):
        scaled_statistics(&elements, 0, n * size, mean, m2, power, <floating*>NULL)


# --- maps

cdef inline void point_map(ColumnMap* m, const floating* center, const floating* weight, const floating* scale,
                           const floating* shift) noexcept nogil:
    m.center, m.weight, m.scale, m.shift, m.accumulate, m.relu = center, weight, scale, shift, False, False


cdef inline bint leaves_cache(const Rows* y, Py_ssize_t n, floating* dtype) noexcept nogil:
    # whether n rows of y are so many that those written first are gone from cache by the time somebody reads them
    return n * y.ld * <Py_ssize_t>sizeof(floating) >= STREAM_BYTES


cdef void scale_rows(ColumnMap* m, const Rows* x, const Rows* z, const Rows* y, int activation, Block b, bint leaves,
                     floating* dtype) noexcept nogil:
    # z = (x - center) scale + shift, y = phi(z), in a block, its last rows first; softmax, which needs whole rows, is left to
    # `epilogue`. The arrays of m start with column c0; leaves: see leaves_cache
    cdef Py_ssize_t i = b.r0, n, start, stop, k
    cdef bint mapped = activation == SOFTMAX or (activation == IDENTITY and z.start == y.start)
    m.relu = activation == RELU and z.start == y.start
    m.streamed = leaves and (m.relu or (mapped and activation == IDENTITY))
    m.ldx, m.ldy, m.cols = x.ld, z.ld, b.c1 - b.c0
    while i < b.r1:
        n = common_rows(x, z, i, run_rows(y, i, b.r1) + i)
        start = n
        while start > 0:
            stop, start = start, (start - 1) // SCALE_ROWS * SCALE_ROWS
            m.x, m.y, m.rows = row(x, i + start, dtype) + b.c0, row(z, i + start, dtype) + b.c0, stop - start
            column_scale(dtype, m)
            if not mapped and not m.relu:
                for k in range(i + start, i + stop):
                    activate(activation, row(z, k, dtype) + b.c0, row(y, k, dtype) + b.c0, m.cols)
        i += n


cdef void input_gradient_rows(ColumnMap* m, const Rows* dz, const Rows* x, const Rows* dx, Block b, bint leaves,
                              floating* dtype) noexcept nogil:
    # dx (+)= dz weight + (x - center) scale + shift, in a block, its last rows first; m and leaves as for scale_rows
    cdef Py_ssize_t i = b.r0, n, start, stop
    m.streamed = leaves
    m.ldw, m.ldx, m.ldy, m.cols = dz.ld, x.ld, dx.ld, b.c1 - b.c0
    while i < b.r1:
        n = common_rows(dz, x, i, run_rows(dx, i, b.r1) + i)
        start = n
        while start > 0:
            stop, start = start, (start - 1) // SCALE_ROWS * SCALE_ROWS
            m.w, m.x, m.y = row(dz, i + start, dtype) + b.c0, row(x, i + start, dtype) + b.c0, row(dx, i + start, dtype) + b.c0
            m.rows = stop - start
            column_scale_add(dtype, m)
        i += n


# --- columns whose variance is so near the ends of the dtype's range that terms of the order of 1 / var leave it

cdef inline bint is_extreme(floating var, double eps) noexcept nogil:
    return (var > <floating>max_variance(<floating*>NULL)) | (var < min_ordinary_variance(eps, <floating*>NULL))


cdef inline floating min_ordinary_variance(double eps, floating* dtype) noexcept nogil:
    # beside an ordinary eps no variance is too small: -1 is below all
    return <floating>(min_variance(dtype) if eps < min_variance(dtype) else -1)


cdef inline bint any_extreme(const floating* var, Py_ssize_t cols, double eps) noexcept nogil:
    cdef floating largest = <floating>max_variance(<floating*>NULL), smallest = min_ordinary_variance(eps, <floating*>NULL)
    cdef Py_ssize_t j
    cdef int extreme = 0
    for j in range(cols):
        extreme |= (var[j] > largest) | (var[j] < smallest)
    return extreme != 0


cdef inline bint inverse_deviations(const Rows* x, const floating* var, double* inverse, Py_ssize_t n, Py_ssize_t first,
                                    Py_ssize_t cols, double eps) noexcept nogil:
    # inverse (cols,) = 1 / sqrt(var + eps) of the columns from `first` on. Returns whether some are extreme: their variance, which
    # var may not hold, is taken once more, of the batch x
    cdef Py_ssize_t j
    cdef double mean, m2
    cdef int power
    cdef bint extreme = any_extreme(var + first, cols, eps)
    for j in range(cols):
        inverse[j] = 1 / sqrt(<double>var[first + j] + eps)
    if extreme:
        for j in range(cols):
            if is_extreme(var[first + j], eps):
                m2, power = <double>var[first + j] * <double>n, 0
                scaled_statistics(x, first + j, n, &mean, &m2, &power, <floating*>NULL)
                inverse[j] = 1 / deviation(m2, <double>n, power, eps)
    return extreme


cdef inline double extreme_product(const Rows* dz, const Rows* x, Py_ssize_t column, floating mean, double inverse,
                                   Py_ssize_t n) noexcept nogil:
    # sum dz (x - mean) of a column, in float64
    cdef Py_ssize_t i
    cdef double total = 0
    for i in range(n):
        total += <double>row(dz, i, <floating*>NULL)[column] * ((<double>row(x, i, <floating*>NULL)[column] - <double>mean) * inverse)
    return total / inverse


cdef inline void extreme_input_gradient(const ColumnMap* m, const Rows* dz, const Rows* x, const Rows* dx, Block b, double gamma,
                                        floating* dtype) noexcept nogil:
    # dx (+)= dz weight + x^ scale + shift, x^ = (x - center) weight / gamma, of column c0 in a block of rows
    cdef Py_ssize_t i
    cdef double weight = <double>(<const floating*>m.weight)[0], scale = <double>(<const floating*>m.scale)[0]
    cdef double shift = <double>(<const floating*>m.shift)[0], mean = <double>(<const floating*>m.center)[0]
    cdef double inverse = weight / gamma if gamma != 0 else 0, out
    cdef floating* to
    for i in range(b.r0, b.r1):
        to = row(dx, i, dtype) + b.c0
        out = <double>row(dz, i, dtype)[b.c0] * weight + (<double>row(x, i, dtype)[b.c0] - mean) * inverse * scale + shift
        to[0] = <floating>(<double>to[0] + out if m.accumulate else out)
