# Columns of a layer's output that this process has computed, as some of all the columns: y[:, first : first + c] = x. Other
# ranks compute the rest, and what they have computed is put there by the exchange after this entry.

cdef struct GatherColumns:
    Py_ssize_t first


cdef void move_columns(Run* r, Entry* e, void** values, bint back, bint accumulate, floating* dtype, Py_ssize_t thread,
                       Py_ssize_t n_threads) noexcept nogil:
    # x (n, c) -> columns of y, or back: x (+)= these columns
    cdef Py_ssize_t first = (<GatherColumns*>e.own).first, i, j
    cdef Rows x = source_rows(r, e, values, dtype), y = dst_rows(r, e, values, dtype)
    cdef floating* own
    cdef floating* wide
    for i in range(chunk_start(rows_in(r, e), 1, thread, n_threads), chunk_start(rows_in(r, e), 1, thread + 1, n_threads)):
        own, wide = row(&x, i, dtype), row(&y, i, dtype) + first
        if not back:
            memcpy(wide, own, e.n_in * <Py_ssize_t>sizeof(floating))
        else:
            for j in range(e.n_in):
                own[j] = (own[j] if accumulate else <floating>0) + wide[j]


cdef void forward_gather_columns(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    move_columns(r, e, r.values, False, False, dtype, thread, n_threads)


cdef void backward_gather_columns(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    if e.sources[0].wanted:
        move_columns(r, e, r.dvalues, True, e.sources[0].accumulate, dtype, thread, n_threads)


cdef void tangent_gather_columns(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    if e.sources[0].wanted:
        move_columns(r, e, r.tangents, False, False, dtype, thread, n_threads)


cdef bint gather_columns_fits(const Entry* e, const Shape* shapes) noexcept:
    return same_positions(&shapes[e.sources[0].value], &shapes[e.dst])


cdef int place_gather_columns(Entry* e, dict own, list weights, Arrays arrays) except -1:
    # own: first, the column of dst that the first one of the source is
    cdef GatherColumns* g = <GatherColumns*>arrays.block(sizeof(GatherColumns))
    e.own, g.first = <void*>g, _numbers.whole_number("first", own.pop("first"), 0)
    if g.first + e.n_in > e.n_out:
        raise ValueError(f"{arrays.entry} first: expected at most {e.n_out - e.n_in}, got {g.first}")
    return 0


cdef Kind gather_columns_kind
gather_columns_kind.forward = Pass(forward_gather_columns[float], forward_gather_columns[double])
gather_columns_kind.backward = Pass(backward_gather_columns[float], backward_gather_columns[double])
gather_columns_kind.tangent = Pass(tangent_gather_columns[float], tangent_gather_columns[double])
gather_columns_kind.tangent_backward = Pass(backward_twice[float], backward_twice[double])
gather_columns_kind.place, gather_columns_kind.fits = place_gather_columns, gather_columns_fits
gather_columns_kind.least_rows = 1
register_kind(&gather_columns_kind, "gather_columns")
