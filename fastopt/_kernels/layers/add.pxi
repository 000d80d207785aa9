# Sums of values, y = a + b + ...: where a shortcut or branches end. The sum of one source is a copy.

cdef void add_rows(const Rows* a, const Rows* b, const Rows* y, Py_ssize_t c, Py_ssize_t start, Py_ssize_t stop,
                   floating* dtype) noexcept nogil:
    # y = a + b, or a where b is NULL, of elements start to stop of rows of c; y may be a or b
    cdef Py_ssize_t n, i
    cdef floating* p
    cdef floating* q
    cdef floating* to
    while start < stop:
        n = run_elements(a, start, start + run_elements(y, start, stop, c), c)
        if b != NULL:
            n = run_elements(b, start, start + n, c)
        p, q, to = element(a, start, c, dtype), element(b, start, c, dtype) if b != NULL else <floating*>NULL, element(y, start, c, dtype)
        if b != NULL:
            for i in range(n):
                to[i] = p[i] + q[i]
        else:
            for i in range(n):
                to[i] = p[i]
        start += n


cdef void add_sources(Run* r, Entry* e, void** values, bint wanted, floating* dtype, Py_ssize_t thread,
                      Py_ssize_t n_threads) noexcept nogil:
    # dst = the sum of the sources; if wanted, of those only that have a tangent
    cdef Py_ssize_t m = rows_in(r, e) * e.n_in, start = chunk_start(m, GRAIN, thread, n_threads)
    cdef Py_ssize_t stop = chunk_start(m, GRAIN, thread + 1, n_threads), k
    cdef Rows y = dst_rows(r, e, values, dtype), x, before
    cdef Py_ssize_t found = 0
    for k in range(e.n_sources):
        if wanted and not e.sources[k].wanted:
            continue
        x = value_rows(r, e.sources[k].value, values, dtype)
        if found == 1:          # two at once: no value is written twice
            add_rows(&before, &x, &y, e.n_in, start, stop, dtype)
        elif found > 1:
            add_rows(&y, &x, &y, e.n_in, start, stop, dtype)
        before = x
        found += 1
    if found == 1:
        add_rows(&before, <const Rows*>NULL, &y, e.n_in, start, stop, dtype)


cdef void forward_add(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    add_sources(r, e, r.values, False, dtype, thread, n_threads)


cdef void tangent_add(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    add_sources(r, e, r.tangents, True, dtype, thread, n_threads)


cdef void backward_add(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # the gradient of every source (+)= dy
    cdef Py_ssize_t m = rows_in(r, e) * e.n_in, start = chunk_start(m, GRAIN, thread, n_threads)
    cdef Py_ssize_t stop = chunk_start(m, GRAIN, thread + 1, n_threads), k
    cdef Rows dy = dst_rows(r, e, r.dvalues, dtype), dx
    for k in range(e.n_sources):
        if e.sources[k].wanted:
            dx = value_rows(r, e.sources[k].value, r.dvalues, dtype)
            add_rows(&dx if e.sources[k].accumulate else &dy, &dy if e.sources[k].accumulate else <const Rows*>NULL, &dx, e.n_in,
                     start, stop, dtype)


cdef Kind add_kind
add_kind.forward = Pass(forward_add[float], forward_add[double])
add_kind.backward = Pass(backward_add[float], backward_add[double])
add_kind.tangent = Pass(tangent_add[float], tangent_add[double])
add_kind.tangent_backward = Pass(backward_twice[float], backward_twice[double])
add_kind.fits, add_kind.adds_sources, add_kind.least_rows = same_shape, True, 1
register_kind(&add_kind, "add")
