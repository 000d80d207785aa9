# Dropout: y = x / (1 - rate) where an element is kept, 0 where it is dropped.
#
# - No mask is stored: whether element i is kept is a function of (seed, step, i). So backward is forward on the gradient,
#   and neither the team nor the dtype changes a decision. Elements are counted without gaps, whatever border an image has.
# - Every KEY_BLOCK elements get a key of 64 bits from splitmix64 (Steele et al. 2014). Within them a Weyl sequence, which
#   the compiler advances by one addition for a whole vector, is hashed by the two multiplications of lowbias32 (Wellons
#   2018); half of the key starts the sequence, the other enters between the multiplications: two keys never give shifted
#   copies.
# - All integers have 32 bits, which every level multiplies in vectors. 1 000 000 float32, µs, v2 / v3 / v4: 390 / 340 /
#   330, where copying them takes 290; a third multiplication: 480 at v2.

cdef enum:
    KEY_BLOCK = 65536


cdef inline uint64_t splitmix64(uint64_t z) noexcept nogil:
    # splitmix64
    z += 0x9e3779b97f4a7c15ULL
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL
    return z ^ (z >> 31)


cdef inline uint32_t keyed_lowbias32(uint32_t counter, uint32_t key) noexcept nogil:
    # a uniform number of 32 bits; its high bits are the best
    counter = (counter ^ (counter >> 16)) * <uint32_t>0x7feb352d ^ key
    return (counter ^ (counter >> 15)) * <uint32_t>0x846ca68b


cdef struct Dropout:
    double rate                 # the share to drop
    uint64_t *seed              # where its layer keeps it


cdef void drop(const Dropout* d, const Rows* x, const Rows* y, uint64_t step, Py_ssize_t c, Py_ssize_t n, bint accumulate,
               floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # y (+)= x / (1 - rate) or 0, n elements of rows of c; y may be x
    cdef Py_ssize_t i = chunk_start(n, GRAIN, thread, n_threads), stop = chunk_start(n, GRAIN, thread + 1, n_threads), end
    cdef uint64_t stream = splitmix64(splitmix64(d.seed[0]) + step), key
    cdef floating scale = <floating>(1.0 / (1.0 - d.rate))
    cdef uint32_t limit = <uint32_t>(d.rate * 4294967296.0)    # a draw below it drops
    while i < stop:             # of one block of keys, what lies side by side in x and y
        end = min(stop, (i // KEY_BLOCK + 1) * KEY_BLOCK)
        end = i + run_elements(x, i, i + run_elements(y, i, end, c), c)
        key = splitmix64(stream + i // KEY_BLOCK)
        if accumulate:
            dropout_values(element(x, i, c, dtype), element(y, i, c, dtype), end - i, scale, limit, key, i % KEY_BLOCK, True)
        else:
            dropout_values(element(x, i, c, dtype), element(y, i, c, dtype), end - i, scale, limit, key, i % KEY_BLOCK, False)
        i = end


cdef inline void dropout_values(const floating* x, floating* y, Py_ssize_t n, floating scale, uint32_t limit,
                                uint64_t key, uint32_t first, bint accumulate) noexcept nogil:
    # elements first to first + n of a block with one key
    cdef uint32_t weyl = <uint32_t>0x9e3779b9, counter = <uint32_t>key + first * weyl, inner = <uint32_t>(key >> 32)
    cdef Py_ssize_t i
    cdef floating kept
    for i in range(n):
        kept = x[i] * scale
        kept = <floating>0 if keyed_lowbias32(counter, inner) < limit else kept
        y[i] = y[i] + kept if accumulate else kept
        counter += weyl


cdef void forward_dropout(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef Rows x = source_rows(r, e, r.values, dtype), y = dst_rows(r, e, r.values, dtype)
    drop(<Dropout*>e.own, &x, &y, r.step, e.n_in, rows_in(r, e) * e.n_in, False, dtype, thread, n_threads)


cdef void backward_dropout(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef Rows dy = dst_rows(r, e, r.dvalues, dtype), dx = source_rows(r, e, r.dvalues, dtype)
    if e.sources[0].wanted:
        drop(<Dropout*>e.own, &dy, &dx, r.step, e.n_in, rows_in(r, e) * e.n_in, e.sources[0].accumulate, dtype, thread, n_threads)


cdef void tangent_dropout(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef Rows tx = source_rows(r, e, r.tangents, dtype), ty = dst_rows(r, e, r.tangents, dtype)
    if e.sources[0].wanted:
        drop(<Dropout*>e.own, &tx, &ty, r.step, e.n_in, rows_in(r, e) * e.n_in, False, dtype, thread, n_threads)


cdef int place_dropout(Entry* e, dict own, list weights, Arrays arrays) except -1:
    # own: rate, and seed () in uint64, which its layer may set
    cdef Dropout* d = <Dropout*>arrays.block(sizeof(Dropout))
    e.own, d.rate = <void*>d, own.pop("rate")
    d.seed = <uint64_t*>arrays.hold("seed", own.pop("seed"), cnp.NPY_UINT64, ())
    return 0


cdef Kind dropout_kind
dropout_kind.forward = Pass(forward_dropout[float], forward_dropout[double])
dropout_kind.backward = Pass(backward_dropout[float], backward_dropout[double])
dropout_kind.tangent = Pass(tangent_dropout[float], tangent_dropout[double])
dropout_kind.tangent_backward = Pass(backward_twice[float], backward_twice[double])
dropout_kind.place, dropout_kind.fits, dropout_kind.least_rows = place_dropout, same_shape, 1
register_kind(&dropout_kind, "dropout")
