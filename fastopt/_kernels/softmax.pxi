# Softmax along rows, its backward and tangent, and what cross-entropy shares with it: a row's maximum, and the
# sum of its exponentials.
#
# Sums are added lane by lane: lane j takes the elements j, j + LANES, ..., and a halving tree adds the lanes.

cdef inline floating lane_sum(floating* lane) noexcept nogil:
    # A halving tree over the LANES partial sums, which it overwrites.
    cdef Py_ssize_t j
    for j in range(8):
        lane[j] += lane[j + 8]
    for j in range(4):
        lane[j] += lane[j + 4]
    return (lane[0] + lane[2]) + (lane[1] + lane[3])


cdef inline floating lane_max(floating* lane) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(8):
        lane[j] = clamp_min(lane[j], lane[j + 8])
    for j in range(4):
        lane[j] = clamp_min(lane[j], lane[j + 4])
    return clamp_min(clamp_min(lane[0], lane[2]), clamp_min(lane[1], lane[3]))


cdef floating row_max(const floating* x, Py_ssize_t n) noexcept nogil:
    # Four blocks of lanes side by side: a maximum does not depend on the order. NaN is passed over:
    # exp_sum_row will meet it.
    cdef floating wide[4 * LANES]
    cdef floating lane[LANES]
    cdef floating block[LANES]
    cdef Py_ssize_t j
    for j in range(LANES):
        lane[j] = <floating>-INFINITY
    if n >= 4 * LANES:
        for j in range(4 * LANES):
            wide[j] = <floating>-INFINITY
        while n >= 4 * LANES:
            for j in range(4 * LANES):
                wide[j] = clamp_min(wide[j], x[j])
            x += 4 * LANES
            n -= 4 * LANES
        for j in range(LANES):
            lane[j] = clamp_min(clamp_min(wide[j], wide[j + LANES]),
                                clamp_min(wide[j + 2 * LANES], wide[j + 3 * LANES]))
    while n >= LANES:
        for j in range(LANES):
            lane[j] = clamp_min(lane[j], x[j])
        x += LANES
        n -= LANES
    if n > 0:
        load_padded(block, x, n, <floating>-INFINITY)
        for j in range(LANES):
            lane[j] = clamp_min(lane[j], block[j])
    return lane_max(lane)


cdef noinline_void exp_sum_blocks(const floating* x, floating shift, floating* e,
                                  floating* lane, Py_ssize_t blocks) noexcept nogil:
    # e = exp(x - shift), x <= shift; lane[j] grows by the elements j, j + LANES, j + 2 LANES, ...
    cdef floating out[LANES]
    cdef floating partial[LANES]
    cdef Py_ssize_t i, j
    for j in range(LANES):
        partial[j] = lane[j]
    for i in range(blocks):
        prefetch(x + blocks * LANES)        # the next row: it arrives while this one keeps the core busy
        for j in range(LANES):
            out[j] = exp_below(x[j] - shift)
        for j in range(LANES):
            partial[j] += out[j]
        for j in range(LANES):
            e[j] = out[j]
        x += LANES
        e += LANES
    for j in range(LANES):
        lane[j] = partial[j]


cdef floating exp_sum_row(const floating* x, floating shift, floating* e,
                          Py_ssize_t n) noexcept nogil:
    # e (n,) = exp(x - shift), in place if e == x; returns the sum of e
    cdef floating lane[LANES]
    cdef floating block[LANES]
    cdef Py_ssize_t blocks = n // LANES, main = blocks * LANES, j
    for j in range(LANES):
        lane[j] = <floating>0
    if blocks > 0:
        exp_sum_blocks(x, shift, e, lane, blocks)
    if main < n:
        load_padded(block, x + main, n - main, <floating>-INFINITY)  # exp of it adds 0
        exp_sum_blocks(<const floating*>block, shift, block, lane, 1)
        store_partial(e + main, block, n - main)
    return lane_sum(lane)


cdef void softmax_rows(const floating* x, floating* y, Py_ssize_t rows,
                       Py_ssize_t cols) noexcept nogil:
    # x (rows, cols) -> y (rows, cols), in place if x == y
    # y = exp(x - max) / sum(exp(x - max)); NaN or +inf in a row make all of it NaN
    cdef floating inverse
    cdef Py_ssize_t i, j
    for i in range(rows):
        inverse = <floating>1 / exp_sum_row(x, row_max(x, cols), y, cols)
        for j in range(cols):
            y[j] *= inverse
        x += cols
        y += cols


cdef void softmax_rows_backward(const floating* y, const floating* dy, floating* dz,
                                Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    # y, dy (rows, cols) -> dz = y * (dy - sum(dy * y)), in place if dz is dy or y
    cdef floating mean
    cdef Py_ssize_t i, j
    for i in range(rows):
        mean = product_sum(y, dy, cols)
        for j in range(cols):
            dz[j] = y[j] * (dy[j] - mean)
        y += cols
        dy += cols
        dz += cols


cdef void softmax_rows_tangent_backward(const floating* y, const floating* ty, floating* dy, floating* tdy,
                                        Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    # all (rows, cols): dy becomes dz = y (dy - s), s = sum(dy y), and tdy its derivative
    # ty (dy - s) + y (tdy - ts), ts = sum(tdy y + dy ty)
    cdef floating mean, tmean, centered
    cdef Py_ssize_t i, j
    for i in range(rows):
        mean, tmean = product_sum(y, dy, cols), product_sum(y, tdy, cols) + product_sum(ty, dy, cols)
        for j in range(cols):
            centered = dy[j] - mean
            dy[j] = y[j] * centered
            tdy[j] = ty[j] * centered + y[j] * (tdy[j] - tmean)
        y += cols
        ty += cols
        dy += cols
        tdy += cols


cdef noinline_void product_blocks(const floating* a, const floating* b, floating* lane,
                                  Py_ssize_t blocks) noexcept nogil:
    cdef floating partial[LANES]
    cdef Py_ssize_t i, j
    for j in range(LANES):
        partial[j] = lane[j]
    for i in range(blocks):
        for j in range(LANES):
            partial[j] += a[j] * b[j]
        a += LANES
        b += LANES
    for j in range(LANES):
        lane[j] = partial[j]


cdef floating product_sum(const floating* a, const floating* b,
                          Py_ssize_t n) noexcept nogil:
    # sum(a * b) in the lane order of exp_sum_row
    cdef floating lane[LANES]
    cdef floating a_block[LANES]
    cdef floating b_block[LANES]
    cdef Py_ssize_t blocks = n // LANES, main = blocks * LANES, j
    for j in range(LANES):
        lane[j] = <floating>0
    product_blocks(a, b, lane, blocks)
    if main < n:
        load_padded(a_block, a + main, n - main, <floating>0)
        load_padded(b_block, b + main, n - main, <floating>0)
        product_blocks(<const floating*>a_block, <const floating*>b_block, lane, 1)
    return lane_sum(lane)
