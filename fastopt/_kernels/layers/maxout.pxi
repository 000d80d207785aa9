# Maxout: an output is the largest of its pieces, which lie side by side.
#
# - A dense entry of out * pieces outputs writes the pieces; maxout itself has no weights.
# - Of equal pieces the first wins, and the first NaN wins against all: the winner is the one that np.argmax names.
#   Backward finds it again and hands the gradient to it alone.
# - Where rows end does not matter: x (n, out * pieces) is read as (m, pieces), m = n * out.
# - Selects instead of branches, and two to four pieces as constants, let the compiler vectorize the loops; those of five it
#   does not. 32x256 outputs, µs, before and after: of 2 pieces forward 48 / 4.7, backward 86 / 7.3; of 4 pieces 160 / 5.6
#   and 198 / 12.

cdef inline floating maximum(floating best, floating piece) noexcept nogil:
    # NaN is larger than every number
    best = piece if piece > best else best
    return piece if piece != piece else best


cdef void forward_maxout(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # x (n, out * pieces) -> y (n, out) = max over the pieces
    cdef Rows x = source_rows(r, e, r.values, dtype), y = dst_rows(r, e, r.values, dtype)
    cdef Py_ssize_t pieces = e.n_in // e.n_out, m = rows_in(r, e) * e.n_out, n
    cdef Py_ssize_t i = chunk_start(m, GRAIN, thread, n_threads), stop = chunk_start(m, GRAIN, thread + 1, n_threads)
    cdef floating* at
    cdef floating* to
    while i < stop:             # outputs whose pieces, and which themselves, lie side by side
        n = run_elements(&y, i, i + run_elements(&x, i * pieces, stop * pieces, e.n_in) // pieces, e.n_out)
        at, to = element(&x, i * pieces, e.n_in, dtype), element(&y, i, e.n_out, dtype)
        if pieces == 2:
            maxout_values(at, to, n, 2)
        elif pieces == 3:
            maxout_values(at, to, n, 3)
        elif pieces == 4:
            maxout_values(at, to, n, 4)
        else:
            maxout_values(at, to, n, pieces)
        i += n


cdef inline void maxout_values(const floating* x, floating* y, Py_ssize_t m, Py_ssize_t pieces) noexcept nogil:
    cdef Py_ssize_t i, p
    cdef floating best
    for i in range(m):
        best = x[i * pieces]
        for p in range(1, pieces):
            best = maximum(best, x[i * pieces + p])
        y[i] = best


cdef void backward_maxout(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dy (n, out), x (n, out * pieces) -> dx (n, out * pieces) (+)= dy at the piece that won, 0 elsewhere
    cdef Rows x = source_rows(r, e, r.values, dtype), dx = source_rows(r, e, r.dvalues, dtype), dy = dst_rows(r, e, r.dvalues, dtype)
    cdef Py_ssize_t pieces = e.n_in // e.n_out, m = rows_in(r, e) * e.n_out, n
    cdef Py_ssize_t i = chunk_start(m, GRAIN, thread, n_threads), stop = chunk_start(m, GRAIN, thread + 1, n_threads)
    cdef bint accumulate = e.sources[0].accumulate
    cdef floating* of
    cdef floating* at
    cdef floating* to
    while i < stop and e.sources[0].wanted:
        n = run_elements(&x, i * pieces, stop * pieces, e.n_in) // pieces
        n = run_elements(&dy, i, i + min(n, run_elements(&dx, i * pieces, stop * pieces, e.n_in) // pieces), e.n_out)
        of, at, to = element(&dy, i, e.n_out, dtype), element(&x, i * pieces, e.n_in, dtype), element(&dx, i * pieces, e.n_in, dtype)
        if pieces == 2 and not accumulate:
            maxout_gradients(of, at, to, n, 2, False)
        elif pieces == 3 and not accumulate:
            maxout_gradients(of, at, to, n, 3, False)
        elif pieces == 4 and not accumulate:
            maxout_gradients(of, at, to, n, 4, False)
        else:
            maxout_gradients(of, at, to, n, pieces, accumulate)
        i += n


cdef inline void maxout_gradients(const floating* dy, const floating* x, floating* dx, Py_ssize_t m, Py_ssize_t pieces,
                                  bint accumulate_dx) noexcept nogil:
    cdef Py_ssize_t i, p
    cdef floating piece, best, winner, grad     # winner, an index, has the dtype of what it is selected beside
    for i in range(m):
        best = x[i * pieces]
        for p in range(1, pieces):
            best = maximum(best, x[i * pieces + p])
        winner = 0
        for p in range(pieces - 1, -1, -1):     # from the last piece to the first, so that the first winner stays
            piece = x[i * pieces + p]
            winner = <floating>p if piece == best else winner
            winner = <floating>p if piece != piece else winner
        grad = dy[i]
        for p in range(pieces):
            if accumulate_dx:
                dx[i * pieces + p] += grad if winner == <floating>p else <floating>0
            else:
                dx[i * pieces + p] = grad if winner == <floating>p else <floating>0


cdef void tangent_maxout(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # ty (n, out) = tx of the piece that won. Backward is linear in dy, and so its own tangent
    cdef Rows x = source_rows(r, e, r.values, dtype), tx = source_rows(r, e, r.tangents, dtype), ty = dst_rows(r, e, r.tangents, dtype)
    cdef Py_ssize_t pieces = e.n_in // e.n_out, m = rows_in(r, e) * e.n_out, i, p
    cdef floating best, piece, change
    cdef floating* at
    cdef floating* moves
    if not e.sources[0].wanted:
        return
    for i in range(chunk_start(m, GRAIN, thread, n_threads), chunk_start(m, GRAIN, thread + 1, n_threads)):
        at, moves = element(&x, i * pieces, e.n_in, dtype), element(&tx, i * pieces, e.n_in, dtype)
        best, change = at[0], moves[0]
        for p in range(1, pieces):
            piece = at[p]
            change = moves[p] if piece > best or (piece != piece and best == best) else change
            best = maximum(best, piece)
        element(&ty, i, e.n_out, dtype)[0] = change


cdef bint maxout_fits(const Entry* e, const Shape* shapes) noexcept:
    return e.n_in % e.n_out == 0 and same_positions(&shapes[e.sources[0].value], &shapes[e.dst])


cdef Kind maxout_kind
maxout_kind.forward = Pass(forward_maxout[float], forward_maxout[double])
maxout_kind.backward = Pass(backward_maxout[float], backward_maxout[double])
maxout_kind.tangent = Pass(tangent_maxout[float], tangent_maxout[double])
maxout_kind.tangent_backward = Pass(backward_twice[float], backward_twice[double])
maxout_kind.fits, maxout_kind.least_rows = maxout_fits, 1
register_kind(&maxout_kind, "maxout")
