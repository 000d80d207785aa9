# Backward and update of a layer in one: a gradient of weights that nobody asked to see.
#
# - A few rows of dW are computed, taken by the optimizer's rule while they are in L1, and gone.
#   dx takes its part of the same rows of W just before they change, while they are in cache.
# - A member owns columns: what it reads of W for dx is what it updates, so nobody waits. Where no dx
#   is wanted it owns rows, which forward gave it too: they are in its cache.
# - Only a step that cannot be refused any more can go this way (`can_descend`). Where the norm
#   of all gradients is limited, it is taken from rows of x and dz before the first update.

cdef inline bint can_descend(const Plan* plan) noexcept nogil:
    return plan != NULL and plan.check_finite == FINITE_ANY and plan.accumulate == 1 and not plan.interim


cdef inline bint gram_pays(Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil:
    # whether ||dW|| from rows of x and dz is cheaper than from a dW that is written and read twice
    return n * n * (n_in + n_out) < GRAM_SHARE * n_in * n_out


cdef double gram_row(const floating* x, const floating* dz, Py_ssize_t i, Py_ssize_t n_in, Py_ssize_t n_out, bint bias) noexcept nogil:
    # what rows up to i of x (n, in) and dz (n, out) bring to ||dW||^2 = sum_ij (X X^T)_ij (dZ dZ^T)_ij and,
    # with bias, to ||db||^2 = sum_ij (dZ dZ^T)_ij
    cdef Py_ssize_t j
    cdef double total = 0, more = 1 if bias else 0
    for j in range(i + 1):
        total += (1 if j == i else 2) * (dot_wide(x + i * n_in, x + j * n_in, n_in) + more) * dot_wide(
            dz + i * n_out, dz + j * n_out, n_out)
    return total


cdef void descend_dense(const floating* dy, const floating* x, const floating* weight, const floating* v,
                        floating* dz, floating* dx, floating* db, floating* scratch, Plan* plan, Tensor* t,
                        const Penalty* penalty, Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, int activation, bint accumulate_dx,
                        Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # as backward_dense, with the penalty's gradient, but t, the tensor of weight, takes its step instead of dw being written
    cdef Py_ssize_t c0, c1, p = 0, high = DESCENT_FEW if n < DESCENT_FEW else SPREAD_PANEL
    cdef Operands operands
    dense_dz(dy, x, v, dz, scratch, &operands, n, n_in, n_out, activation, member, team)
    if db != NULL:
        bias_gradient(dz, db, n, n_out, member, team)
    if dx == NULL:
        descend_rows(&operands, weight, plan, t, penalty, share(n_out, 16, member, team), share(n_out, 16, member + 1, team),
                     0, n_in, n, n_in)
        return
    c0, c1 = share(n_in, strip_of(dz), member, team), share(n_in, strip_of(dz), member + 1, team)
    while p < n_out and c0 < c1:
        spread_product(dz + p, n_out, 1, weight + p * n_in + c0, n_in, dx + c0, n_in, n, c1 - c0,
                       min(high, n_out - p), accumulate_dx or p > 0, NULL, False)
        descend_rows(&operands, weight, plan, t, penalty, p, min(p + high, n_out), c0, c1, n, n_in)
        p += high


cdef void descend_rows(const Operands* a, const floating* weight, Plan* plan, Tensor* t, const Penalty* penalty,
                       Py_ssize_t r0, Py_ssize_t r1, Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t n, Py_ssize_t n_in) noexcept nogil:
    # rows r0 to r1, columns c0 (which starts a strip) to c1 of the weights take their step
    cdef floating rows[8 * DESCENT_COLUMNS]             # SPREAD_ROWS is at most 8
    cdef Py_ssize_t i, j, high, wide
    cdef unsigned long mode
    while r0 < r1:
        high = min(<Py_ssize_t>SPREAD_ROWS, r1 - r0)
        j = c0
        while j < c1:
            wide = min(<Py_ssize_t>DESCENT_COLUMNS, c1 - j)
            weight_gradient(a, rows, wide, r0, r0 + high, j, j + wide, n, False)
            if penalizes(penalty):
                for i in range(high):
                    add_penalty_gradient(penalty, weight + (r0 + i) * n_in + j, rows + i * wide, wide)
            mode = enter_update(plan)
            if wide == n_in:
                update_piece(plan, t, r0 * n_in, (r0 + high) * n_in, rows)
            else:
                for i in range(high):
                    update_piece(plan, t, (r0 + i) * n_in + j, (r0 + i) * n_in + j + wide, rows + i * wide)
            restore_denormals(mode)
            j += wide
        r0 += high
