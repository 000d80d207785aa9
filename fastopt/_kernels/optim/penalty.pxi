# Regularization of a weight matrix: penalties l1 sum |w| + l2 / 2 sum w^2, and a bound on the norm of its rows.
#
# - The penalty's gradient is added where that of the loss is finished: to rows of dW that an update takes
#   from L1 (fused_update_rows), or to the whole dW between backward and update.
# - Values are summed row by row in float64 and added in row order, so they do not depend on the team.
# - A row is what one output weighs its inputs with; rows too long are shortened after the update.

cdef struct Penalty:
    double l1, l2
    double max_norm             # 0: no bound


cdef inline bint penalizes(const Penalty* p) noexcept nogil:
    return p.l1 != 0 or p.l2 != 0


cdef inline void add_penalty_gradient(const Penalty* p, const floating* w, floating* dw, Py_ssize_t n) noexcept nogil:
    # dw += l1 sign(w) + l2 w, both (n,); sign(0) = 0
    cdef floating l1 = <floating>p.l1, l2 = <floating>p.l2, l1_grad
    cdef Py_ssize_t j
    for j in range(n):
        l1_grad = l1 if w[j] > <floating>0 else (-l1 if w[j] < <floating>0 else <floating>0)
        dw[j] = dw[j] + (l1_grad + l2 * w[j])


cdef double l1_norm(const floating* w, Py_ssize_t n) noexcept nogil:
    # sum |w|, w (n,)
    cdef double lane[LANES]
    cdef double total = 0
    cdef Py_ssize_t j, main = n // LANES * LANES
    for j in range(LANES):
        lane[j] = 0
    while main > 0:
        for j in range(LANES):
            lane[j] += <double>absolute(w[j])
        w += LANES
        main -= LANES
    for j in range(n % LANES):
        total += <double>absolute(w[j])
    for j in range(LANES):
        total += lane[j]
    return total


cdef void penalty_rows(const Penalty* p, const floating* weight, double* row_penalty, Py_ssize_t rows, Py_ssize_t width,
                       Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # weight (rows, width) -> row_penalty (rows,), a thread's chunk
    cdef Py_ssize_t i
    for i in range(chunk_start(rows, 1, thread, n_threads), chunk_start(rows, 1, thread + 1, n_threads)):
        row_penalty[i] = 0
        if p.l1 != 0:
            row_penalty[i] += p.l1 * l1_norm(weight + i * width, width)
        if p.l2 != 0:
            row_penalty[i] += 0.5 * p.l2 * dot_wide(weight + i * width, weight + i * width, width)


cdef void apply_max_norm_rows(const Penalty* p, floating* weight, floating* ema, double alpha, Py_ssize_t rows, Py_ssize_t width,
                              Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # every row w of weight (rows, width) with ||w|| > max_norm becomes w max_norm / ||w||; its average ema, if not
    # NULL, follows by alpha, the weight of w in it. Rows whose squares overflow stay
    cdef Py_ssize_t i, j
    cdef double norm
    cdef floating factor, removed
    for i in range(chunk_start(rows, 1, thread, n_threads), chunk_start(rows, 1, thread + 1, n_threads)):
        norm = sqrt(dot_wide(weight + i * width, weight + i * width, width))
        if norm > p.max_norm and norm < HUGE_VAL:
            factor = <floating>(p.max_norm / norm)
            if ema != NULL:
                removed = <floating>(alpha * (1 - p.max_norm / norm))
                for j in range(width):
                    ema[i * width + j] -= removed * weight[i * width + j]
            for j in range(width):
                weight[i * width + j] *= factor
