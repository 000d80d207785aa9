# Walks over the entries of a program, and what regularizes their weights. All threads of the team walk in step, so a call is
# one region, a whole slice of an epoch included.

cdef void forward(Run* r, Py_ssize_t first, Py_ssize_t stop, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # of entries first to stop
    cdef Py_ssize_t i, owner
    for i in range(first, stop):
        do_pass(&r.entries[i].kind.forward, r, &r.entries[i], dtype, thread, n_threads)
        if r.entries[i].clears and not r.training:
            owner = r.shapes[r.entries[i].dst].owner
            clear_border(&r.shapes[owner], r.values[owner], r.samples, dtype, thread, n_threads)
        if not keeps_columns(r, i):
            team_barrier(n_threads)


cdef inline bint keeps_columns(Run* r, Py_ssize_t i) noexcept nogil:
    # whether no barrier follows entry i: the next one starts with the very columns that the thread has just written, still in
    # cache, and has a barrier itself before it reads others
    cdef Entry* e = &r.entries[i]
    return (e.kind.by_columns != NULL and i + 1 < r.n_entries and e[1].kind.reads_own_columns and e[1].sources[0].value == e.dst
            and e.kind.by_columns(r, e))


cdef void backward(Run* r, Py_ssize_t first, Py_ssize_t stop, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # of entries first to stop, from the last of them on
    cdef Py_ssize_t i
    cdef Entry* e
    for i in range(stop - 1, first - 1, -1):
        e = &r.entries[i]
        if not e.backs:
            continue
        if e.fuses and r.update == UPDATE_FUSED:
            do_pass(&e.kind.fused_update, r, e, dtype, thread, n_threads)
        else:
            do_pass(&e.kind.backward, r, e, dtype, thread, n_threads)
        team_barrier(n_threads)


cdef void tangent_forward(Run* r, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(r.n_entries):
        if r.entries[i].backs:
            do_pass(&r.entries[i].kind.tangent, r, &r.entries[i], dtype, thread, n_threads)
            team_barrier(n_threads)


cdef void tangent_backward(Run* r, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(r.n_entries - 1, -1, -1):
        if r.entries[i].backs:
            do_pass(&r.entries[i].kind.tangent_backward, r, &r.entries[i], dtype, thread, n_threads)
            team_barrier(n_threads)


# --- regularization

cdef void sum_penalties(Run* r, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # row_penalty of all weights, the thread's chunk
    cdef Py_ssize_t i, k
    cdef Weight* w
    for i in range(r.n_entries):
        for k in range(r.entries[i].n_weights):
            w = &r.entries[i].weights[k]
            if penalizes(&w.penalty):
                penalty_rows(&w.penalty, <floating*>w.at, r.row_penalty + w.first_penalty, w.rows, w.columns, thread, n_threads)


cdef void add_penalties(Run* r, void** directions, Py_ssize_t first, Py_ssize_t last, floating* dtype,
                        Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # adds the gradients of penalties to those of the weights of entries first to last, which is not among them; a fused update
    # has added them itself. Where directions are given, by number of the gradient, adds the derivatives of the penalties'
    # gradients along them
    cdef Py_ssize_t i, k, n, start, stop
    cdef Weight* w
    cdef Penalty penalty
    cdef floating* of
    for i in range(first, last):
        if r.entries[i].fuses and r.update == UPDATE_FUSED:
            continue
        for k in range(r.entries[i].n_weights):
            w = &r.entries[i].weights[k]
            if penalizes(&w.penalty):
                penalty, of = w.penalty, <floating*>w.at
                if directions != NULL:  # the gradient of l2 is linear in the weight, that of l1 constant
                    penalty.l1, of = 0, <floating*>directions[w.grad]
                n = w.rows * w.columns
                start, stop = chunk_start(n, GRAIN, thread, n_threads), chunk_start(n, GRAIN, thread + 1, n_threads)
                add_penalty_gradient(&penalty, of + start, <floating*>r.dparams[w.grad] + start, stop - start)


cdef void apply_max_norm(Run* r, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # after an update: scales back the rows of weights that are longer than their layer allows, and their moving averages
    cdef Py_ssize_t i, k
    cdef Weight* w
    cdef floating* ema
    cdef double rest
    team_barrier(n_threads)
    for i in range(r.n_entries):
        for k in range(r.entries[i].n_weights):
            w = &r.entries[i].weights[k]
            if w.penalty.max_norm > 0:
                ema, rest = NULL, 0
                if r.plan != NULL and r.plan.tensors[w.grad].ema != NULL:
                    ema, rest = <floating*>r.plan.tensors[w.grad].ema, ema_alpha(r.plan, &r.plan.tensors[w.grad])
                apply_max_norm_rows(&w.penalty, <floating*>w.at, ema, rest, w.rows, w.columns, thread, n_threads)


cdef void after_batch(Run* r, floating* dtype) noexcept nogil:
    # on one thread, after a batch that counted
    cdef Py_ssize_t i
    for i in range(r.n_entries):
        if r.entries[i].kind.after_batch.f != NULL:
            do_pass(&r.entries[i].kind.after_batch, r, &r.entries[i], dtype, 0, 1)


cdef void after_batch_job(void* args, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    after_batch(<Run*>args, dtype)


cdef void max_norm_job(void* args, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    apply_max_norm(<Run*>args, dtype, thread, n_threads)
